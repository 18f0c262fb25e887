"""Find raw logs, their containers and formats, and read them as a LazyFrame, block by block."""

import contextlib
import glob
import gzip
import io
import itertools
import json
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import msgspec
import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from sadstream.errors import ConfigError, FormatError, InputError, SadstreamError
from sadstream.formats import FORMATS, NAMES, RecordFormat, SessionFormat, SessionRecord, TextFormat
from sadstream.frames import LOG_SCHEMA, Draft, log_frame

OnError = Literal["stop", "skip"]

_BLOCK_CHARS = 8_000_000
_BLOCK_ROWS = 4_000
_SNIFF_BYTES = 1_000_000
# Records that no format knows are tolerated at a file's head up to here, before the whole file counts as unknown.
_UNKNOWN_RECORDS = 100
_JSON_START = re.compile(rb'\s*(?:\{\s*["}]|\[\s*[\[{"\]])')
_JSON_BLANKS = re.compile(r"[ \t\r\n]*")
_BOM = b"\xef\xbb\xbf"
_ZIP, _PARQUET, _ARROW = b"PK\x03\x04", b"PAR1", b"ARROW1"


class LogFile(NamedTuple):
    """A file to read.

    Attributes:
        path: where it is; `-` is standard input.
        name: how records call it, relative to the argument that named it.
        named: the user named this very file, and did not only point at its folder.
        shown: how errors call it, where that is not its path.
    """

    path: str
    name: str
    named: bool
    shown: str = ""

    def __str__(self) -> str:
        return self.shown or self.path


def find_logs(arguments: Sequence[str]) -> list[LogFile]:
    """The files that arguments mean, in order: files, folders (walked, sorted), globs, fsspec URLs, `-`.

    Raises:
        InputError: a path that does not exist, a glob or folder without files, or a folder that sadstream wrote.
    """
    once: dict[str, LogFile] = {}
    for file in (file for argument in arguments for file in _find(argument)):
        where = os.path.abspath(file.path) if _is_local(file.path) else file.path  # noqa: PTH100 - `..` goes too
        before = once.get(where, file)
        once[where] = before._replace(named=before.named or file.named)
    if len({file.name for file in once.values()}) == len(once):
        return list(once.values())
    # The same name under two arguments: name all from the folder that they share, and URLs in full.
    local = [Path(where).parent for where in once if _is_local(where)]
    root = os.path.commonpath(local) if local else ""
    return [
        file._replace(name=Path(os.path.relpath(where, root)).as_posix() if _is_local(where) else where)
        for where, file in once.items()
    ]


def _is_local(path: str) -> bool:
    return path != "-" and "://" not in path


def _find(argument: str) -> list[LogFile]:
    if argument == "-":
        return [LogFile("-", "-", True)]
    if "://" in argument:
        return _find_remote(argument)
    path = Path(argument)
    if path.is_dir():
        if _is_output(path):
            raise InputError(
                f"{argument}: a folder that sadstream wrote, not raw logs",
                hint="segment reads raw logs; give their folder",
            )
        found = sorted(p for p in path.rglob("*") if p.is_file() and not _is_hidden(p.relative_to(path)))
        if not found:
            raise InputError(f"{argument}: no files in this folder", hint="give the folder that holds the logs")
        return [LogFile(str(p), p.relative_to(path).as_posix(), False) for p in found]
    if path.exists():
        return [LogFile(argument, path.name, True)]
    matches = sorted(m for m in glob.glob(argument, recursive=True) if Path(m).is_file())  # noqa: PTH207
    if matches:
        fixed = Path(re.split(r"[*?\[]", argument)[0])
        root = fixed if argument[len(str(fixed)) :].startswith(os.sep) and fixed.is_dir() else fixed.parent
        return [LogFile(match, Path(os.path.relpath(match, root)).as_posix(), False) for match in matches]
    raise InputError(f"{argument}: no such file or folder", hint="give files, folders, globs in quotes, URLs, or -")


def _is_output(folder: Path) -> bool:
    manifest = folder / "manifest.json"
    return manifest.is_file() and b'"sadstream_version"' in manifest.read_bytes()


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _find_remote(url: str) -> list[LogFile]:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        is_folder = filesystem.isdir(path)
        is_glob = any(c in path for c in "*?[")
        found = sorted(filesystem.glob(path) if is_glob else filesystem.find(path))
    except Exception as error:  # fsspec's filesystems raise whatever their backends do
        raise InputError(
            f"{url}: {_first_line(error)}", hint="fsspec opens URLs; s3:// and others need a package of their own"
        ) from error
    if not found:
        raise InputError(f"{url}: nothing there", hint="check the URL and your access to it")
    root = path.rstrip("/") + "/" if is_folder else path.rsplit("/", 1)[0] + "/"
    return [LogFile(filesystem.unstrip_protocol(p), p.removeprefix(root), not is_glob and not is_folder) for p in found]


def scan_logs(paths: str | Sequence[str], *, format: str = "auto", on_error: OnError = "stop") -> pl.LazyFrame:
    """Raw agent logs as a LazyFrame, one row a trajectory, read block by block when it is collected.

    Args:
        paths: files, folders, globs, fsspec URLs, or `-` for standard input; `.gz` and `.zst` are unpacked.
        format: `auto` recognises the format of each record by its content; or one of `sadstream.formats.NAMES`.
        on_error: what a malformed record does: `stop` raises, `skip` gives a row with `refused` set.
    Returns:
        Frame with the columns of `sadstream.frames.LOG_SCHEMA`. Rows whose `refused` is not null are no trajectories:
        `malformed`, `unrecognised`, `empty`, with a `detail`.
    Raises:
        InputError, FormatError: at once for paths, and while collecting for what they hold.
    """
    arguments = [paths] if isinstance(paths, str) else list(paths)
    check_format(format)
    files = find_logs(arguments)

    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        for block in read_logs(files, format=format, on_error=on_error, on_bytes=_ignore):
            chosen = block if predicate is None else block.filter(predicate)
            if n_rows is not None:
                chosen = chosen.head(n_rows)
                n_rows -= chosen.height
            yield chosen if with_columns is None else chosen.select(with_columns)
            if n_rows == 0:
                return

    return register_io_source(source, schema=LOG_SCHEMA)


def _ignore(n_bytes: int) -> None:
    pass


def check_format(format: str) -> None:
    """Refuse a format name that does not exist.

    Raises:
        ConfigError: names those that do.
    """
    if format != "auto" and format not in NAMES:
        raise ConfigError(f"unknown format {format!r}", hint=f"one of: auto, {', '.join(NAMES)}")


def read_logs(
    files: Iterable[LogFile], *, format: str, on_error: OnError, on_bytes: Callable[[int], None]
) -> Iterator[pl.DataFrame]:
    """Blocks of trajectories with `LOG_SCHEMA`, in the order of files and of records in them.

    Args:
        on_bytes: told how many (unpacked) bytes were read, as they are.
    Raises:
        InputError, FormatError: as `scan_logs`.
    """
    for file in files:
        block: list[Draft] = []
        n_chars = 0
        for draft in _read_file(file, format, on_error, on_bytes):
            block.append(draft)
            n_chars += draft.n_chars
            if n_chars >= _BLOCK_CHARS or len(block) >= _BLOCK_ROWS:
                yield log_frame(block, file.name)
                block, n_chars = [], 0
        if block:
            yield log_frame(block, file.name)


class _Unrecognised(Exception):
    """Nothing in the file is of a known format."""


class _Malformed(Exception):
    """A place in a file that cannot be read; the message says where and why."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def _read_file(file: LogFile, format: str, on_error: OnError, on_bytes: Callable[[int], None]) -> Iterator[Draft]:
    """Drafts of one file; refused ones stand where what they replace would have stood."""
    try:
        with _open(file, on_bytes) as stream:
            head = stream.peek(_SNIFF_BYTES) if isinstance(stream, _Peekable) else b""
            if not head:
                if file.named:
                    raise InputError(f"{file}: an empty file", hint="nothing to read; leave it out")
                yield Draft(refused="empty", detail="an empty file")
                return
            yield from _read_stream(file, stream, head, format, on_error)
    except _Unrecognised as error:
        if file.named:
            raise FormatError(
                f"{file}: not a log that sadstream knows: {error}",
                hint=f"formats read: {', '.join(NAMES)}; see README, Your own logs",
            ) from error
        yield Draft(refused="unrecognised", detail=str(error))
    except _Malformed as error:
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


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).split("\n")[0]


class _Peekable(io.BufferedIOBase):
    """A binary stream whose beginning can be looked at, and which counts what passes."""

    def __init__(self, raw: IO[bytes], on_bytes: Callable[[int], None]) -> None:
        self._raw = raw
        self._head = b""
        self._on_bytes = on_bytes
        self.packed = False

    def peek(self, n_bytes: int) -> bytes:
        while len(self._head) < n_bytes:
            more = self._raw.read(n_bytes - len(self._head))
            if not more:
                break
            self._head += more
        return self._head

    def lines(self) -> Iterator[bytes]:
        """Lines with their breaks; only "\\n" ends one."""
        begun: list[bytes] = []  # joined once: a line may be the whole of a large file
        for chunk in self.chunks():
            first, *others = chunk.split(b"\n")
            begun.append(first)
            for line in others:
                yield b"".join(begun) + b"\n"
                begun = [line]
        if last := b"".join(begun):
            yield last

    def chunks(self) -> Iterator[bytes]:
        chunk, self._head = self._head, b""
        while chunk:
            self._on_bytes(len(chunk))
            yield chunk
            chunk = self._raw.read(1 << 20)

    def read_all(self) -> bytes:
        return b"".join(self.chunks())


@contextlib.contextmanager
def _open(file: LogFile, on_bytes: Callable[[int], None]) -> Iterator[_Peekable]:
    with contextlib.ExitStack() as stack:
        if file.path == "-":
            raw: Any = sys.stdin.buffer
        elif _is_local(file.path):
            raw = stack.enter_context(Path(file.path).open("rb"))
        else:
            import fsspec

            raw = stack.enter_context(fsspec.open(file.path, "rb"))
        magic = _Peekable(raw, _ignore)
        start = magic.peek(4)
        if start[:2] == b"\x1f\x8b":
            raw = stack.enter_context(gzip.open(_Readable(magic)))
        elif start == b"\x28\xb5\x2f\xfd":
            raw = stack.enter_context(pa.CompressedInputStream(pa.PythonFile(_Readable(magic), mode="r"), "zstd"))
        else:
            raw = _Readable(magic)
        stream = _Peekable(raw, on_bytes)
        stream.packed = not isinstance(raw, _Readable)
        yield stream


class _Readable(io.RawIOBase):
    """Gives back what was peeked, then the stream: what the unpackers want to read from."""

    def __init__(self, stream: _Peekable) -> None:
        self._chunks = stream.chunks()
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = next(self._chunks, b"")
        n_bytes = min(len(buffer), len(self._rest))
        buffer[:n_bytes] = self._rest[:n_bytes]
        self._rest = self._rest[n_bytes:]
        return n_bytes


class _JsonRecord(NamedTuple):
    line: int
    key: str
    raw: bytes
    value: Any
    refused: Draft | None = None


def _read_stream(file: LogFile, stream: _Peekable, head: bytes, format: str, on_error: OnError) -> Iterator[Draft]:
    known = [f for f in FORMATS if format in ("auto", f.name)]
    of_text = [f for f in known if isinstance(f, TextFormat)]
    of_records = [f for f in known if not isinstance(f, TextFormat)]
    if head.startswith(_ZIP):
        yield from _read_archive(file, stream.read_all(), of_records, on_error)
    elif head.startswith((_PARQUET, _ARROW)):
        yield from _known_records(_table_records(stream.read_all()), of_records, file, on_error)
    elif _JSON_START.match(head.removeprefix(_BOM)) and of_records:
        yield from _known_records(_json_records(file, stream, on_error), of_records, file, on_error)
    else:
        sample = head.removeprefix(_BOM).decode("utf-8", errors="ignore")
        text_format = next((f for f in of_text if f.recognise(sample)), None)
        if text_format is None:
            raise _Unrecognised(_looks_like(head))
        yield from _read_text(text_format, stream)


def _read_archive(
    file: LogFile, data: bytes, known: Sequence[RecordFormat | SessionFormat], on_error: OnError
) -> Iterator[Draft]:
    """The JSON files in a zip, as Inspect's `.eval` is one; each member as a file of its own would be read."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        members = sorted(name for name in archive.namelist() if name.endswith((".json", ".jsonl")))
        n_read = 0
        for member in members:
            stream = _Peekable(io.BytesIO(archive.read(member)), _ignore)
            stream.packed = True
            with contextlib.suppress(_Unrecognised):
                for draft in _known_records(_json_records(file, stream, on_error), known, file, on_error):
                    draft.record = f"{member}:{draft.record}"
                    n_read += 1
                    yield draft
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise OSError(_first_line(error)) from error
    if not n_read:
        raise _Unrecognised("a zip without runs in its JSON files")


def _table_records(data: bytes) -> Iterator[_JsonRecord]:
    """Rows of a Parquet or Arrow file as records, a row group at a time."""
    source = pa.BufferReader(data)
    if data.startswith(_PARQUET):
        import pyarrow.parquet as pq

        batches: Iterator[Any] = pq.ParquetFile(source).iter_batches(batch_size=256)
    else:
        reader = pa.ipc.open_file(source)
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            value = {name: _from_column(cell) for name, cell in row.items() if cell is not None}
            yield _JsonRecord(number + 1, str(number), msgspec.json.encode(value), value)
            number += 1


def _from_column(cell: Any) -> Any:
    """A cell as JSON would hold it; lists of messages are often stored as JSON text."""
    if isinstance(cell, str) and cell[:1] == "[":
        with contextlib.suppress(msgspec.DecodeError):
            return msgspec.json.decode(cell)
    return msgspec.to_builtins(cell)


def _looks_like(head: bytes) -> str:
    if b"\0" in head[:4096]:
        return "it looks like a binary file"
    first = head.decode("utf-8", errors="replace").strip().split("\n")[0][:40]
    return f"text without labels at line starts, it begins {first!r}"


def _read_text(text_format: TextFormat, stream: _Peekable) -> Iterator[Draft]:
    cut_off: list[Draft] = []

    def lines() -> Iterator[str]:
        for number, line in enumerate(stream.lines(), 1):
            text = line.removeprefix(_BOM) if number == 1 else line
            try:
                yield text.decode("utf-8")
            except UnicodeDecodeError as error:
                reason = f"not UTF-8: {error.reason} at byte {error.start} of the line"
                if stream.packed or line.endswith(b"\n"):
                    raise _Malformed(number, reason) from error
                cut_off.append(_cut_off(number, reason))
                yield text[: error.start].decode("utf-8")

    for draft in text_format.read(lines()):
        draft.format = text_format.name
        yield draft
    yield from cut_off


def _cut_off(line: int, reason: str) -> Draft:
    """A writer that crashed leaves such a last line; what stands before it is whole."""
    return Draft(refused="cut-off", detail=f"line {line}, the last, is cut off: {reason}")


def _known_records(
    records: Iterator[_JsonRecord], known: Sequence[RecordFormat | SessionFormat], file: LogFile, on_error: OnError
) -> Iterator[Draft]:
    """Read each record by the format that recognises it; refuse the file if no record is recognised.

    Records of a session are gathered and read together, after all others.
    """
    unknown: list[Draft] = []
    sessions: dict[SessionFormat, list[_JsonRecord]] = {}
    n_known = 0
    for record in records:
        if record.refused is not None:
            yield record.refused
            continue
        format = next((f for f in known if f.recognise(record.value)), None)
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


def _read_session(
    format: SessionFormat, records: list[_JsonRecord], file: LogFile, on_error: OnError
) -> Iterator[Draft]:
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
    if isinstance(value, dict):
        names = ", ".join(list(value)[:6])
        return f"a JSON object with the keys {names}" if names else "an empty JSON object"
    return f"a JSON {'array' if isinstance(value, list) else type(value).__name__} without a run in it"


def _json_records(file: LogFile, stream: _Peekable, on_error: OnError) -> Iterator[_JsonRecord]:
    """Records of JSON lines, of an array, of an object keyed by name, or of values one after another."""
    lines = stream.lines()
    first_lines: list[bytes] = []
    # One record a line if the first line that is not blank is a whole value, or is broken and the next is one.
    for line in lines:
        first_lines.append(line)
        if len([li for li in first_lines if li.strip()]) == 2 or _decodes(first_lines[-1]):
            break
    if any(_decodes(line) for line in first_lines if line.strip()):
        values = _json_lines(file, stream, _chain(first_lines, lines), on_error)
    else:
        values = _values(b"".join(_chain(first_lines, lines)).removeprefix(_BOM))
    yield from _unpacked(values)


def _chain(first: list[bytes], rest: Iterator[bytes]) -> Iterator[bytes]:
    yield from first
    yield from rest


def _decodes(line: bytes) -> bool:
    try:
        return isinstance(_decode(line.removeprefix(_BOM)), dict | list)
    except ValueError:
        return False


def _decode(data: bytes) -> Any:
    """JSON, as Python values.

    Raises:
        ValueError: says why, in words for a user.
    """
    try:
        return msgspec.json.decode(data)
    except RecursionError as error:
        raise ValueError("JSON nested too deep") from error
    except msgspec.DecodeError as error:
        raise ValueError(_first_line(error)) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} (byte {_first_bad_byte(data)})") from error


def _first_bad_byte(data: bytes) -> int:
    # The decoder counts from the string that holds it, and who looks for it counts from the file's begin.
    try:
        return len(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return error.start


def _json_lines(file: LogFile, stream: _Peekable, lines: Iterator[bytes], on_error: OnError) -> Iterator[_JsonRecord]:
    pending: tuple[int, bytes, str] | None = None
    for number, line in enumerate(lines, 1):
        if pending is not None:
            yield _refused_line(file, *pending, on_error)
            pending = None
        line = line.removeprefix(_BOM) if number == 1 else line
        if not line.strip():
            continue
        try:
            yield _JsonRecord(number, "", line, _decode(line))
        except ValueError as error:
            pending = (number, line, str(error))
    if pending is not None:
        number, line, reason = pending
        if line.endswith(b"\n") or stream.packed:
            yield _refused_line(file, number, line, reason, on_error)
        else:
            yield _JsonRecord(number, "", line, None, _cut_off(number, reason))


def _refused_line(file: LogFile, number: int, line: bytes, reason: str, on_error: OnError) -> _JsonRecord:
    return _JsonRecord(number, "", line, None, _malformed(file, number, reason, on_error))


def _is_known(value: Any) -> bool:
    return any(f.recognise(value) for f in FORMATS if not isinstance(f, TextFormat))


def _is_container(value: Any) -> bool:
    """An array of records, or an object that holds them under keys, and is itself no record."""
    if _is_known(value):
        return False
    children = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return any(_is_known(child) for child in children[:_UNKNOWN_RECORDS])


def _unpacked(values: Iterator[_JsonRecord]) -> Iterator[_JsonRecord]:
    """The records in JSON values that stand one after another.

    A record's key is unique in the file: its value's number from 0; in a container its key there, after that number
    and a dot unless the container is the only value.
    """
    head = list(itertools.islice(values, 2))
    number = 0
    for value in itertools.chain(head, values):
        if value.refused is not None:
            yield value
            continue
        if _is_container(value.value):
            yield from _children(value, f"{number}." if len(head) > 1 else "")
        else:
            yield value._replace(key=str(number))
        number += 1


def _children(container: _JsonRecord, prefix: str) -> Iterator[_JsonRecord]:
    keyed = isinstance(container.value, dict)
    text, line, at = container.raw, container.line, 0
    raws: Any = msgspec.json.decode(text, type=dict[str, msgspec.Raw] if keyed else list[msgspec.Raw])
    items = raws.items() if keyed else enumerate(raws)
    children = container.value.values() if keyed else container.value
    for (key, view), child in zip(items, children, strict=True):
        raw = bytes(view)
        begin = max(at, text.find(raw, at))
        line += text.count(b"\n", at, begin)
        yield _JsonRecord(line, f"{prefix}{key}", raw, child)
        at = begin + len(raw)
        line += raw.count(b"\n")


def _values(data: bytes) -> Iterator[_JsonRecord]:
    """The JSON values of a text, which may hold one or several, on any number of lines.

    Raises:
        _Malformed: at the first that is broken; no later one can be told from it.
    """
    try:
        value = _decode(data)
    except ValueError as error:
        if "trailing characters" not in str(error):
            raise _Malformed(1 + data.count(b"\n", 0, _offset_in(str(error))), str(error)) from error
    else:
        yield _JsonRecord(1, "", data, value)
        return
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Malformed(1 + data.count(b"\n", 0, error.start), f"not UTF-8: {error.reason}") from error
    decoder = json.JSONDecoder()
    line, at = 1, 0
    while (begin := _end_of_blanks(text, at)) < len(text):
        line += text.count("\n", at, begin)
        try:
            _, at = decoder.raw_decode(text, begin)
        except json.JSONDecodeError as error:
            raise _Malformed(error.lineno, f"JSON is malformed: {error.msg}") from error
        except RecursionError as error:
            raise _Malformed(line, "JSON nested too deep") from error
        raw = text[begin:at].encode()
        try:
            yield _JsonRecord(line, "", raw, _decode(raw))
        except ValueError as error:
            raise _Malformed(line + raw.count(b"\n", 0, _offset_in(str(error))), str(error)) from error
        line += raw.count(b"\n")


def _offset_in(message: str) -> int:
    found = re.search(r"\(byte ([0-9]+)\)", message)
    return int(found[1]) if found else 0


def _end_of_blanks(text: str, at: int) -> int:
    blanks = _JSON_BLANKS.match(text, at)
    return blanks.end() if blanks else at
