"""The records that sadstream's files hold. Imports msgspec and nothing else, so a log producer can use them alone."""

from sadstream_schemas.manifest import InputFile, Manifest, Shard
from sadstream_schemas.teacher_sample import TeacherSample, TeacherSample1
from sadstream_schemas.trajectory import (
    Author,
    Ending,
    Kind,
    Outcome,
    Source,
    Span,
    Syntax,
    Trajectory,
)
from sadstream_schemas.versions import (
    MANIFEST_VERSION,
    RECORDS,
    TEACHER_SAMPLE_VERSION,
    TRAJECTORY_VERSION,
    decode_json,
    decode_msgpack,
    json_schema,
    read_teacher_sample,
)

__all__ = [
    "MANIFEST_VERSION",
    "RECORDS",
    "TEACHER_SAMPLE_VERSION",
    "TRAJECTORY_VERSION",
    "Author",
    "Ending",
    "InputFile",
    "Kind",
    "Manifest",
    "Outcome",
    "Shard",
    "Source",
    "Span",
    "Syntax",
    "TeacherSample",
    "TeacherSample1",
    "Trajectory",
    "decode_json",
    "decode_msgpack",
    "json_schema",
    "read_teacher_sample",
]
