"""The shapes a format can have: what it recognises by content, and how it reads that into drafts."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from sadstream.frames import Draft


class RecordFormat(NamedTuple):
    """A format whose trajectory (or several) is one JSON record.

    Attributes:
        recognise: whether a decoded record is of this format.
        read: drafts of a record, from its value and its bytes. Raises RecordError or msgspec.DecodeError where it is
            malformed.
    """

    name: str
    about: str
    recognise: Callable[[Any], bool]
    read: Callable[[Any, bytes], Iterable[Draft]]


class SessionRecord(NamedTuple):
    """A record that is part of a session: its key in the file, its value, its bytes."""

    key: str
    value: Any
    raw: bytes


class SessionFormat(NamedTuple):
    """A format whose trajectory is spread over the records of a file: an event a line, a growing history a call.

    Attributes:
        recognise: whether a decoded record can be part of such a session.
        read: drafts of all of a file's records that were recognised, in order. Each sets `record`, unique in the file.
        in_containers: whether such records are also looked for in arrays and objects; a message, as there are in every
            run, is one only as a value of the file itself.
    """

    name: str
    about: str
    recognise: Callable[[Any], bool]
    read: Callable[[list[SessionRecord]], Iterable[Draft]]
    in_containers: bool = True


class TextFormat(NamedTuple):
    """A format whose trajectories stand one after another in a plain text.

    Attributes:
        recognise: whether a sample (the first megabyte) is of this format.
        read: drafts, from the lines with their breaks. Each sets `record`.
    """

    name: str
    about: str
    recognise: Callable[[str], bool]
    read: Callable[[Iterator[str]], Iterator[Draft]]


Format = RecordFormat | SessionFormat | TextFormat
