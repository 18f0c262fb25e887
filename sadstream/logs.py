"""Read raw logs of any format as a LazyFrame, block by block."""

import contextlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import polars as pl
import pyarrow as pa

from sadstream import containers
from sadstream.containers import (
    ARROW,
    BOM,
    PARQUET,
    ZIP,
    JsonValue,
    Malformed,
    archive_members,
    json_records,
    table_records,
)
from sadstream.errors import FormatError, InputError, SadstreamError
from sadstream.formats import Format, RecordFormat, SessionFormat, SessionRecord, TextFormat, beside
from sadstream.formats.asked import names_asked
from sadstream.formats.chosen import UserFormat, chosen_formats, nearest_formats
from sadstream.frames import LOG_SCHEMA, Draft, log_frame, scan_blocks
from sadstream.paths import LogFile, find_logs, is_local
from sadstream.streams import Stream, ignore, open_stream

OnError = Literal["stop", "skip"]

_BLOCK_CHARS = 8_000_000
_BLOCK_ROWS = 4_000
_SNIFF_BYTES = 1_000_000
# Records that no format knows are tolerated at a file's head up to here, before the whole file counts as unknown.
_UNKNOWN_RECORDS = 100
# Log records come in a few shapes; objects keyed by ids come in any number.
_SHAPES_KEPT = 1000
_ESCAPED = re.compile("[\udc80-\udcff]")  # what bytes that are not UTF-8 become
_JSON_START = re.compile(rb'\s*(?:\{\s*["}]|\[\s*[\[{"\]])')


def scan_logs(
    paths: str | Sequence[str], *, format: str | UserFormat = "auto", on_error: OnError = "stop"
) -> pl.LazyFrame:
    """Raw agent logs as a LazyFrame, one row a trajectory, read block by block when it is collected.

    Args:
        paths: files, folders, globs, fsspec URLs, or `-` for standard input; `.gz` and `.zst` are unpacked.
        format: `auto` recognises the format of each record by its content; or one of `sadstream.formats.NAMES`;
            `module:function` or a function of one's own, that takes a record and gives drafts.
        on_error: what a malformed record does: `stop` raises, `skip` gives a row with `refused` set.
    Returns:
        Frame with the columns of `sadstream.frames.LOG_SCHEMA`. Rows whose `refused` is not null are no trajectories:
        `malformed`, `unrecognised`, `empty`, with a `detail`.
    Raises:
        InputError, FormatError: at once for paths, and while collecting for what they hold.
    """
    arguments = [paths] if isinstance(paths, str) else list(paths)
    formats = chosen_formats(format)
    files = find_logs(arguments)

    return scan_blocks(lambda: read_logs(files, formats=formats, on_error=on_error, on_bytes=ignore), LOG_SCHEMA)


def read_logs(
    files: Iterable[LogFile], *, formats: Sequence[Format], on_error: OnError, on_bytes: Callable[[int], None]
) -> Iterator[pl.DataFrame]:
    """Blocks of trajectories with `LOG_SCHEMA`, in the order of files and of records in them.

    Args:
        on_bytes: told how many (unpacked) bytes were read, as they are.
    Raises:
        InputError, FormatError: as `scan_logs`.
    """
    block: list[Draft] = []
    n_chars = 0
    for file in files:
        outcomes: dict[str, Any] = {}
        for draft in _read_file(file, formats, on_error, on_bytes):
            if draft.n_chars > containers.MAX_RECORD_BYTES:
                reason = f"a run of {draft.n_chars:,} characters, and {containers.MAX_RECORD_BYTES:,} is the limit"
                draft = _malformed(file, None, reason, on_error, draft.record)
            draft.file = file.name
            _add_outcome_beside(draft, file, outcomes)
            block.append(draft)
            n_chars += draft.n_chars
            if n_chars >= _BLOCK_CHARS or len(block) >= _BLOCK_ROWS:
                yield log_frame(block)
                block, n_chars = [], 0
    if block:
        yield log_frame(block)


def _add_outcome_beside(draft: Draft, file: LogFile, seen: dict[str, Any]) -> None:
    """Fill in success and reward that the run itself does not give, from a file beside it, if it is on this machine.

    Args:
        seen: contents of such files by path, filled here.
    """
    if draft.refused is not None or not is_local(file.path):
        return
    for path in beside.candidates(file.path, draft):
        if path not in seen:
            seen[path] = _content_beside(path)
        if seen[path] is not None:
            for name, value in beside.outcome_in(path, seen[path], file.path, draft).items():
                setattr(draft, name, value)


def _content_beside(path: str) -> Any:
    """JSON of a file, or its text where it is none; None if there is no such file. It is no log: damage is no error."""
    try:
        content = Path(path).read_bytes()
        return msgspec.json.decode(content) if path.endswith(".json") else content.decode()
    except (OSError, ValueError, RecursionError):
        return None


class _Unrecognised(Exception):
    """Nothing in the file is of a known format."""


def _read_file(
    file: LogFile, formats: Sequence[Format], on_error: OnError, on_bytes: Callable[[int], None]
) -> Iterator[Draft]:
    """Drafts of one file; refused ones stand where what they replace would have stood."""
    if file.problem:
        yield Draft(refused="not-read", detail=file.problem)
        return
    try:
        with open_stream(file.path, on_bytes) as stream:
            head = stream.peek(_SNIFF_BYTES)
            if not head:
                if file.named:
                    raise InputError(f"{file}: an empty file", hint="nothing to read; leave it out")
                yield Draft(refused="empty", detail="an empty file")
                return
            yield from _read_stream(file, stream, head, formats, on_error)
    except _Unrecognised as error:
        if file.named:
            raise FormatError(
                f"{file}: not a log that sadstream knows: {error}",
                hint="`sadstream segment --help` lists the formats read; docs/formats.md shows how to add your own",
            ) from error
        yield Draft(refused="unrecognised", detail=str(error))
    except Malformed as error:
        yield _malformed(file, error.line, str(error), on_error)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        # Damaged gzip and zstd show as these, from whichever read meets the damage.
        if isinstance(error, PermissionError | IsADirectoryError | FileNotFoundError):
            raise InputError(f"{file}: {error.strerror}", hint="check the path and its permissions") from error
        yield _malformed(file, None, f"cannot be unpacked: {_first_line(error)}", on_error)


def _malformed(file: LogFile, line: int | None, reason: str, on_error: OnError, record: str = "") -> Draft:
    """What stands for a malformed record.

    Raises:
        FormatError: with `on_error` stop.
    """
    if on_error == "stop":
        where = str(file) if line is None else f"{file}:{line}"
        raise FormatError(f"{where}: {reason}", hint="mend it, or pass over such records with --on-error skip")
    place = "" if line is None else f"line {line}: "
    return Draft(record=record, refused="malformed", detail=place + reason)


class _Recogniser:
    """Finds a record's format: the first that recognises it, of those that ask for a name it has.

    Remembers the last: what holds records and what reads them ask about the same one.
    """

    def __init__(self, known: Sequence[RecordFormat | SessionFormat]) -> None:
        self._known = [(format, names_asked(format.recognise)) for format in known]
        self._by_names: dict[tuple[str, ...], list[RecordFormat | SessionFormat]] = {}
        self._value: Any = self
        self._format: RecordFormat | SessionFormat | None = None

    def format_of(self, value: Any) -> RecordFormat | SessionFormat | None:
        if value is not self._value:
            self._value, self._format = value, next((f for f in self._possible(value) if f.recognise(value)), None)
        return self._format

    def records(self, stream: Stream) -> Iterator[JsonValue]:
        """The records of a stream of JSON."""
        return json_records(stream, self._is_record, lambda value: self.format_of(value) is not None)

    def _is_record(self, value: Any) -> bool:
        format = self.format_of(value)
        return isinstance(format, RecordFormat) or (format is not None and format.in_containers)

    def _possible(self, value: Any) -> list[RecordFormat | SessionFormat]:
        if not isinstance(value, dict):
            return [format for format, _ in self._known]
        names = tuple(value)
        possible = self._by_names.get(names)
        if possible is None:
            possible = [f for f, asked in self._known if asked is None or not asked.isdisjoint(names)]
            if len(self._by_names) < _SHAPES_KEPT:
                self._by_names[names] = possible
        return possible


def _read_stream(
    file: LogFile, stream: Stream, head: bytes, formats: Sequence[Format], on_error: OnError
) -> Iterator[Draft]:
    of_text = [f for f in formats if isinstance(f, TextFormat)]
    of_records = [f for f in formats if not isinstance(f, TextFormat)]
    recogniser = _Recogniser(of_records)
    if head.startswith(ZIP):
        yield from _read_archive(file, stream.read_all(), recogniser, on_error)
    elif head.startswith((PARQUET, ARROW)):
        is_whole = is_local(file.path) and not stream.packed
        rows = table_records(file.path if is_whole else stream.read_all(), is_parquet=head.startswith(PARQUET))
        yield from _known_records(rows, recogniser, file, on_error)
    elif _JSON_START.match(head.removeprefix(BOM)) and of_records:
        yield from _known_records(recogniser.records(stream), recogniser, file, on_error)
    else:
        sample = head.removeprefix(BOM).decode("utf-8", errors="ignore")
        text_format = next((f for f in of_text if f.recognise(sample)), None)
        if text_format is None:
            raise _Unrecognised(_looks_like(head))
        yield from _read_text(text_format, stream, file, on_error)


def _read_archive(file: LogFile, data: bytes, recogniser: _Recogniser, on_error: OnError) -> Iterator[Draft]:
    """The JSON files in a zip, as Inspect's `.eval` is one; each member as a file of its own would be read."""
    n_read = 0
    for name, stream in archive_members(data):
        with contextlib.suppress(_Unrecognised):
            for draft in _known_records(recogniser.records(stream), recogniser, file, on_error):
                draft.record = f"{name}:{draft.record}"
                n_read += 1
                yield draft
    if not n_read:
        raise _Unrecognised("a zip without runs in its JSON files")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).split("\n")[0]


def _looks_like(head: bytes) -> str:
    if b"\0" in head[:4096]:
        return "it looks like a binary file"
    first = head.decode("utf-8", errors="replace").strip().split("\n")[0][:40]
    return f"text without labels at line starts, it begins {first!r}"


def _read_text(text_format: TextFormat, stream: Stream, file: LogFile, on_error: OnError) -> Iterator[Draft]:
    cut_off: list[Draft] = []
    broken: list[tuple[int, str]] = []

    def lines() -> Iterator[str]:
        for number, line in enumerate(stream.lines(), 1):
            text = line.removeprefix(BOM) if number == 1 else line
            try:
                yield text.decode("utf-8")
            except UnicodeDecodeError as error:
                reason = f"not UTF-8: {error.reason} at byte {error.start} of the line"
                if not stream.packed and not line.endswith(b"\n"):
                    cut_off.append(_cut_off(number, reason))
                    yield text[: error.start].decode("utf-8")
                    continue
                if on_error == "stop":
                    raise Malformed(number, reason) from error
                broken.append((number, reason))
                yield text.decode("utf-8", "surrogateescape")

    for draft in text_format.read(lines()):
        draft.format = text_format.name
        if broken and _ESCAPED.search(draft.text or ""):
            # Only the run that holds the bad line is lost.
            line, reason = broken[0]
            yield _malformed(file, line, reason, on_error, draft.record)
            continue
        yield draft
    yield from cut_off


def _cut_off(line: int, reason: str) -> Draft:
    """A writer that crashed leaves such a last line; what stands before it is whole."""
    return Draft(refused="cut-off", detail=f"line {line}, the last, is cut off: {reason}")


def _known_records(
    records: Iterator[JsonValue], recogniser: _Recogniser, file: LogFile, on_error: OnError
) -> Iterator[Draft]:
    """Read each record by the format that recognises it; refuse the file if no record is recognised.

    Records of a session are gathered and read together, after all others.
    """
    unknown: list[Draft] = []
    sessions: dict[SessionFormat, list[JsonValue]] = {}
    n_known = 0
    for record in records:
        if record.problem:
            if record.cut_off:
                yield _cut_off(record.line, record.problem)
            else:
                yield _malformed(file, record.line, record.problem, on_error)
            continue
        format = recogniser.format_of(record.value)
        if format is None:
            refused = Draft(record=record.key, refused="unrecognised", detail=_describe(record.value))
            if n_known:
                yield refused
                continue
            unknown.append(refused)
            if len(unknown) > _UNKNOWN_RECORDS:
                raise _Unrecognised(unknown[0].detail)
            continue
        n_known += 1
        yield from unknown
        unknown = []
        if isinstance(format, SessionFormat):
            sessions.setdefault(format, []).append(record)
            continue
        try:
            drafts = list(format.read(record.value, record.raw))
        except (SadstreamError, msgspec.DecodeError) as error:
            yield _malformed(file, record.line, str(error), on_error, record.key)
            continue
        if not drafts:
            yield Draft(record=record.key, format=format.name, refused="empty", detail="no run in this record")
        for draft in drafts:
            draft.format = format.name
            draft.record = f"{record.key}.{draft.record}" if draft.record else record.key
            yield draft
    for session, gathered in sessions.items():
        yield from _read_session(session, gathered, file, on_error)
    if unknown:
        raise _Unrecognised(unknown[0].detail)


def _read_session(format: SessionFormat, records: list[JsonValue], file: LogFile, on_error: OnError) -> Iterator[Draft]:
    try:
        drafts = list(format.read([SessionRecord(r.key, r.value, r.raw) for r in records]))
    except (SadstreamError, msgspec.DecodeError) as error:
        yield _malformed(file, records[0].line, str(error), on_error, records[0].key)
        return
    if not drafts:
        yield Draft(format=format.name, refused="empty", detail="no run in this session")
    for draft in drafts:
        draft.format = format.name
        yield draft


def _describe(value: Any) -> str:
    if beside.is_report(value):
        return "an evaluation report, no run: what it says is read with the run that it lies beside"
    if isinstance(value, dict):
        names = ", ".join(list(value)[:6])
        look = f"a JSON object with the keys {names}" if names else "an empty JSON object"
    else:
        look = f"a JSON {'array' if isinstance(value, list) else type(value).__name__} without a run in it"
    near = nearest_formats(value)
    return f"{look}; nearest to it: {', '.join(near)}" if near else look
