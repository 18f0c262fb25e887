"""Raw-log formats, one module per family; all of one shape, listed in one table.

A format recognises a decoded JSON record (or, for plain text, a sample of the file) by its content and reads it into
drafts of trajectories.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from sadstream.formats import native, notebook, plain_text, react_chat, transcript
from sadstream.frames import Draft


class RecordFormat(NamedTuple):
    """A format whose trajectory is a JSON record."""

    name: str
    about: str
    recognise: Callable[[Any], bool]
    read: Callable[[Any, bytes], Iterable[Draft]]


class TextFormat(NamedTuple):
    """A format whose trajectories stand one after another in a plain text."""

    name: str
    about: str
    recognise: Callable[[str], bool]
    read: Callable[[Iterator[str]], Iterator[Draft]]


# Tried in this order.
RECORD_FORMATS: tuple[RecordFormat, ...] = (
    RecordFormat("trajectory", "JSON lines of sadstream's own Trajectory records", native.recognise, native.read),
    RecordFormat(
        "notebook",
        "Jupyter notebooks whose cell outputs hold runs (WebShop, ReAct)",
        notebook.recognise,
        notebook.read,
    ),
    RecordFormat(
        "react-chat",
        "chat messages whose agent turns hold `Thought:` and `Action:` (FireAct)",
        react_chat.recognise,
        react_chat.read,
    ),
    RecordFormat(
        "alpaca", "`instruction` and a run in `output` (FireAct, Alpaca)", transcript.is_alpaca, transcript.read_alpaca
    ),
    RecordFormat(
        "transcript",
        'records with a run as one string: `{"text": ...}`, KnowAgent, ALFWorld prompts',
        transcript.recognise,
        transcript.read,
    ),
)
TEXT_FORMATS: tuple[TextFormat, ...] = (
    TextFormat(
        "plain-text",
        "text files of one or many runs: Reflexion logs, WebShop output, `>` transcripts",
        plain_text.recognise,
        plain_text.read,
    ),
)
NAMES: tuple[str, ...] = (*(f.name for f in RECORD_FORMATS), *(f.name for f in TEXT_FORMATS))
