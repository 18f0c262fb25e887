"""Format versions, and decoding that reads the version first."""

from typing import Any, TypeVar

import msgspec

from sadstream_schemas.manifest import Manifest
from sadstream_schemas.teacher_sample import TeacherSample, TeacherSample1
from sadstream_schemas.trajectory import Span, Trajectory

TRAJECTORY_VERSION = 1
TEACHER_SAMPLE_VERSION = 2
MANIFEST_VERSION = 1

RECORDS: dict[str, type[msgspec.Struct]] = {
    "trajectory": Trajectory,
    "span": Span,
    "teacher-sample": TeacherSample,
    "manifest": Manifest,
}
_VERSIONS: dict[type, int] = {
    Trajectory: TRAJECTORY_VERSION,
    TeacherSample: TEACHER_SAMPLE_VERSION,
    Manifest: MANIFEST_VERSION,
}

T = TypeVar("T", Trajectory, TeacherSample, Manifest)


class _Version(msgspec.Struct):
    format_version: int = 1


def _check(version: int, record: type) -> None:
    if version > _VERSIONS[record]:
        raise msgspec.ValidationError(
            f"written by format {version} of {record.__name__}, this reads up to {_VERSIONS[record]}"
        )


def _decode(data: bytes, record: type[T], decode: Any) -> T:
    try:
        value: T = decode(data, type=record)
    except msgspec.ValidationError:
        # A newer file should say so, and not name a field that this version has never heard of.
        _check(decode(data, type=_Version).format_version, record)
        raise
    _check(value.format_version, record)
    return value


def decode_json(data: bytes, record: type[T]) -> T:
    """A versioned record from its JSON.

    Raises:
        msgspec.DecodeError: not JSON, not such a record, or written by a newer version (the message says which).
    """
    return _decode(data, record, msgspec.json.decode)


def decode_msgpack(data: bytes, record: type[T]) -> T:
    """A versioned record from its msgpack.

    Raises:
        msgspec.DecodeError: not msgpack, not such a record, or written by a newer version (the message says which).
    """
    return _decode(data, record, msgspec.msgpack.decode)


def read_teacher_sample(data: bytes) -> TeacherSample | TeacherSample1:
    """A teacher sample of any format that is read, from its msgpack.

    Raises:
        msgspec.DecodeError: as `decode_msgpack`.
    """
    try:
        return decode_msgpack(data, TeacherSample)
    except msgspec.ValidationError:
        if msgspec.msgpack.decode(data, type=_Version).format_version == 1:
            return msgspec.msgpack.decode(data, type=TeacherSample1)
        raise


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema of a record.

    Args:
        name: a key of `RECORDS`.
    Raises:
        KeyError: no such record.
    """
    return msgspec.json.schema(RECORDS[name])
