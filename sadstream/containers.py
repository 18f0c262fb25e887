"""Records out of what holds them: JSON lines, arrays, keyed objects, values one after another, tables, zips."""

import contextlib
import io
import itertools
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from sadstream.loose_json import standard_json
from sadstream.streams import Stream, ignore

BOM = b"\xef\xbb\xbf"
ZIP, PARQUET, ARROW = b"PK\x03\x04", b"PAR1", b"ARROW1"
_JSON_BLANKS = re.compile(r"[ \t\r\n]*")
_CHILDREN_LOOKED_AT = 100
# Containers in containers: splits of a data set, results beside a configuration.
_DEPTH = 2
# How a list of messages, or of lists of them, begins as JSON text.
_LIST_TEXTS = ("[{", "[[")
# Decoded, cut and written, a record takes some twenty times its size in memory.
MAX_RECORD_BYTES = 256 * 2**20


class Malformed(Exception):
    """A place in a file that cannot be read; the message says where and why."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


class JsonValue(NamedTuple):
    """A JSON value of a file.

    Attributes:
        line: where it begins, from 1. key: unique in the file. raw: its bytes. value: decoded.
        problem: why it could not be decoded; empty if it could.
        cut_off: the problem is that the file ends in the middle of it.
    """

    line: int
    key: str
    raw: bytes
    value: Any
    problem: str = ""
    cut_off: bool = False


def json_records(
    stream: Stream, is_record: Callable[[Any], bool], is_line: Callable[[Any], bool]
) -> Iterator[JsonValue]:
    """Records of JSON lines, of an array, of an object keyed by name, or of values one after another.

    Args:
        is_record: whether a value is a record itself; if not, and its children are, it is a container of them.
        is_line: whether a value is one where it stands in the file itself, as a message a line does.
    Raises:
        Malformed: something that is not JSON lines is broken; no later record can be told from it.
    """
    lines = stream.lines()
    first_lines: list[bytes] = []
    # One record a line if the first line that is not blank is a whole value, or is broken and the next is one.
    for line in lines:
        first_lines.append(line)
        if len([li for li in first_lines if li.strip()]) == 2 or _decodes(first_lines[-1]):
            break
    if any(_decodes(line) for line in first_lines if line.strip()):
        values = _json_lines(stream, _chain(first_lines, lines))
    else:
        values = _values(b"".join(_chain(first_lines, lines)).removeprefix(BOM))
    yield from _unpacked(values, is_record, is_line)


def _chain(first: list[bytes], rest: Iterator[bytes]) -> Iterator[bytes]:
    yield from first
    yield from rest


def _decodes(line: bytes) -> bool:
    try:
        return isinstance(_read(line.removeprefix(BOM))[1], dict | list)
    except ValueError:
        return False


# What the decoder says where a value is followed by another.
_FURTHER = "trailing characters"


def _read(data: bytes) -> tuple[bytes, Any]:
    """JSON and its value; where it is not standard, as `standard_json` makes it so.

    Raises:
        ValueError: says why it is none, in words for a user.
    """
    try:
        return data, _decode(data)
    except ValueError as error:
        if _FURTHER in str(error):
            raise
        made = standard_json(data)
        if made == data:
            raise
    return made, _decode(made)


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
        raise ValueError(str(error).split("\n")[0]) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} (byte {_first_bad_byte(data)})") from error


def _first_bad_byte(data: bytes) -> int:
    # The decoder counts from the string that holds it, and who looks for it counts from the file's begin.
    try:
        return len(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return error.start


def _json_lines(stream: Stream, lines: Iterator[bytes]) -> Iterator[JsonValue]:
    pending: tuple[int, bytes, str] | None = None
    for number, line in enumerate(lines, 1):
        if pending is not None:
            yield _broken_line(*pending)
            pending = None
        line = line.removeprefix(BOM) if number == 1 else line
        if not line.strip():
            continue
        try:
            if len(line) > MAX_RECORD_BYTES:
                raise ValueError(f"a record of {len(line):,} bytes, and {MAX_RECORD_BYTES:,} is the limit")
            yield JsonValue(number, "", *_read(line))
        except ValueError as error:
            pending = (number, line, str(error))
    if pending is not None:
        number, line, reason = pending
        # A writer that crashed leaves an unterminated last line; what stands before it is whole.
        yield _broken_line(number, line, reason)._replace(cut_off=not (line.endswith(b"\n") or stream.packed))


def _broken_line(number: int, line: bytes, reason: str) -> JsonValue:
    return JsonValue(number, "", line, None, reason)


def _opened(value: JsonValue, is_record: Callable[[Any], bool]) -> JsonValue:
    """A record whose list of messages is JSON text, as data sets often have it, with the list itself in its place."""
    if not isinstance(value.value, dict) or is_record(value.value):
        return value
    texts = {name: cell for name, cell in value.value.items() if isinstance(cell, str) and cell[:2] in _LIST_TEXTS}
    lists = {name: held for name, cell in texts.items() if (held := _from_column(cell)) is not cell}
    opened = {**value.value, **lists}
    if not lists or not is_record(opened):
        return value
    raws: dict[str, msgspec.Raw] = msgspec.json.decode(value.raw, type=dict[str, msgspec.Raw])
    raws |= {name: msgspec.Raw(texts[name].encode()) for name in lists}
    return value._replace(raw=msgspec.json.encode(raws), value=opened)


def _is_container(value: Any, is_record: Callable[[Any], bool], depth: int = _DEPTH) -> bool:
    """An array of records, or an object that holds them under keys, or arrays of them; and is itself no record."""
    if not isinstance(value, dict | list) or is_record(value):
        return False
    children = list(itertools.islice(value.values() if isinstance(value, dict) else value, _CHILDREN_LOOKED_AT))
    if depth < _DEPTH:
        # Deep in a value a string with labels is a prompt or a stop word more often than a run.
        children = [child for child in children if isinstance(child, dict | list)]
    if any(is_record(child) for child in children):
        return True
    return depth > 1 and any(_is_container(child, is_record, depth - 1) for child in children)


def _unpacked(
    values: Iterator[JsonValue], is_record: Callable[[Any], bool], is_line: Callable[[Any], bool]
) -> Iterator[JsonValue]:
    """The records in JSON values that stand one after another.

    A record's key is unique in the file: its value's number from 0; in a container its key there, after that number
    and a dot unless the container is the only value.
    """
    head = list(itertools.islice(values, 2))
    number = 0
    for value in itertools.chain(head, values):
        if value.problem:
            yield value
            continue
        value = _opened(value, is_record)
        if not is_line(value.value) and _is_container(value.value, is_record):
            yield from _children(value, f"{number}." if len(head) > 1 else "", is_record, _DEPTH)
        else:
            yield value._replace(key=str(number))
        number += 1


def _children(container: JsonValue, prefix: str, is_record: Callable[[Any], bool], depth: int) -> Iterator[JsonValue]:
    """What a container holds; of its children that are containers, what these hold.

    Numbers and the like that stand under names beside records are about the container.
    """
    keyed = isinstance(container.value, dict)
    text, line, at = container.raw, container.line, 0
    raws: Any = msgspec.json.decode(text, type=dict[str, msgspec.Raw] if keyed else list[msgspec.Raw])
    items = raws.items() if keyed else enumerate(raws)
    children = container.value.values() if keyed else container.value
    for (key, view), child in zip(items, children, strict=True):
        raw = bytes(view)
        begin = max(at, text.find(raw, at))
        line += text.count(b"\n", at, begin)
        value = _opened(JsonValue(line, f"{prefix}{key}", raw, child), is_record)
        if depth > 1 and _is_container(value.value, is_record, depth - 1):
            yield from _children(value, f"{prefix}{key}.", is_record, depth - 1)
        elif not keyed or isinstance(child, dict | list | str):
            yield value
        at = begin + len(raw)
        line += raw.count(b"\n")


def _values(data: bytes) -> Iterator[JsonValue]:
    """The JSON values of a text, which may hold one or several, on any number of lines.

    Raises:
        Malformed: at the first that is broken; no later one can be told from it.
    """
    try:
        data, value = _read(data)
    except ValueError as error:
        if _FURTHER not in str(error):
            counted = standard_json(data)  # what the error counts in
            raise Malformed(1 + counted.count(b"\n", 0, _offset_in(str(error))), str(error)) from error
    else:
        yield JsonValue(1, "", data, value)
        return
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(1 + data.count(b"\n", 0, error.start), f"not UTF-8: {error.reason}") from error
    decoder = json.JSONDecoder()
    line, at = 1, 0
    while (begin := _end_of_blanks(text, at)) < len(text):
        line += text.count("\n", at, begin)
        try:
            _, at = decoder.raw_decode(text, begin)
        except json.JSONDecodeError as error:
            raise Malformed(error.lineno, f"JSON is malformed: {error.msg}") from error
        except RecursionError as error:
            raise Malformed(line, "JSON nested too deep") from error
        raw = text[begin:at].encode()
        try:
            yield JsonValue(line, "", *_read(raw))
        except ValueError as error:
            raise Malformed(line + raw.count(b"\n", 0, _offset_in(str(error))), str(error)) from error
        line += raw.count(b"\n")


def _offset_in(message: str) -> int:
    found = re.search(r"\(byte ([0-9]+)\)", message)
    return int(found[1]) if found else 0


def _end_of_blanks(text: str, at: int) -> int:
    blanks = _JSON_BLANKS.match(text, at)
    return blanks.end() if blanks else at


def table_records(source: str | bytes, *, is_parquet: bool) -> Iterator[JsonValue]:
    """Rows of a Parquet or Arrow file as records, streamed in row groups.

    Args:
        source: path of a file, or its content where it had to be unpacked or fetched.
    """
    opened = pa.memory_map(source) if isinstance(source, str) else pa.BufferReader(source)
    if is_parquet:
        import pyarrow.parquet as pq

        batches: Iterator[Any] = pq.ParquetFile(opened).iter_batches(batch_size=256)
    else:
        reader = pa.ipc.open_file(opened)
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            value = {name: _from_column(cell) for name, cell in row.items() if cell is not None}
            yield JsonValue(number + 1, str(number), msgspec.json.encode(value), value)
            number += 1


def _from_column(cell: Any) -> Any:
    """A cell as JSON would hold it; lists of messages are often stored as JSON text."""
    if isinstance(cell, str) and cell[:1] == "[":
        with contextlib.suppress(msgspec.DecodeError):
            return msgspec.json.decode(cell)
    return msgspec.to_builtins(cell)


def archive_members(data: bytes) -> Iterator[tuple[str, Stream]]:
    """Names and contents of the JSON files in a zip, by name.

    Raises:
        OSError: a damaged or encrypted zip.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        for name in sorted(name for name in archive.namelist() if name.endswith((".json", ".jsonl"))):
            stream = Stream(io.BytesIO(archive.read(name)), ignore)
            stream.packed = True
            yield name, stream
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise OSError(str(error)) from error
