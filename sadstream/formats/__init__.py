"""Raw-log formats, one module per family; all of one shape, listed in one table.

A format recognises a decoded JSON record (or, for plain text, a sample of the file) by its content and reads it into
drafts of trajectories.
"""

from sadstream.formats import native, notebook, plain_text, react_chat, transcript
from sadstream.formats.kinds import Format, RecordFormat, SessionFormat, SessionRecord, TextFormat

__all__ = ["FORMATS", "NAMES", "Format", "RecordFormat", "SessionFormat", "SessionRecord", "TextFormat"]

# Tried in this order: what is told by more stands before what is told by less.
FORMATS: tuple[Format, ...] = (
    *native.FORMATS,
    *notebook.FORMATS,
    *react_chat.FORMATS,
    *transcript.FORMATS,
    *plain_text.FORMATS,
)
NAMES: tuple[str, ...] = tuple(f.name for f in FORMATS)
