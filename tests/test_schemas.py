import importlib.util

import msgspec
import numpy as np
import pytest

from sadstream.codec import decode_teacher_sample
from sadstream.formats import FORMATS
from sadstream_schemas import RECORDS, Manifest, Span, TeacherSample, Trajectory, decode_json, decode_msgpack
from tests import golden


def test_published_schemas_are_what_the_types_give():
    for name, content in golden.schemas().items():
        assert (golden.FOLDER / name).read_bytes() == content, f"{name} is stale: python -m tests.golden"


def test_golden_examples_are_what_the_code_writes():
    for name, content in golden.examples().items():
        written = (golden.FOLDER / name).read_bytes()
        if name.endswith(".msgpack"):  # another zstd may pack the same columns otherwise
            old, new = decode_teacher_sample(written), decode_teacher_sample(content)
            assert all(np.array_equal(old[column], new[column]) for column in new)
        else:
            assert written == content, f"{name} differs: is the format still version 1?"


def test_golden_examples_are_read():
    folder = golden.FOLDER / "examples"
    trajectory = decode_json((folder / "trajectory.json").read_bytes(), Trajectory)
    assert "".join(trajectory.text[s.start : s.stop] for s in trajectory.spans) == trajectory.text
    assert msgspec.json.decode((folder / "span.json").read_bytes(), type=Span) == trajectory.spans[1]
    assert decode_json((folder / "manifest.json").read_bytes(), Manifest).complete
    assert decode_msgpack((folder / "teacher-sample.msgpack").read_bytes(), TeacherSample).top_k == 3
    assert decode_teacher_sample((folder / "teacher-sample.msgpack").read_bytes())["topk_ids"].shape == (2, 3)


@pytest.mark.parametrize("record", [Trajectory, Manifest])
def test_a_record_of_a_newer_version_says_so_and_names_no_unknown_field(record):
    newer = b'{"format_version": 3, "a_field_of_the_future": 1}'
    with pytest.raises(msgspec.ValidationError, match=r"written by format 3 of \w+, this reads up to 1"):
        decode_json(newer, record)


def test_a_newer_version_with_the_same_fields_is_refused_too():
    whole = (golden.FOLDER / "examples" / "trajectory.json").read_bytes()
    with pytest.raises(msgspec.ValidationError, match="written by format 2"):
        decode_json(whole.replace(b'"format_version": 1', b'"format_version": 2'), Trajectory)


def test_what_we_write_is_strict():
    whole = (golden.FOLDER / "examples" / "trajectory.json").read_bytes()
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        decode_json(whole.replace(b'"text"', b'"words": 1, "text"', 1), Trajectory)


def test_every_field_of_every_record_is_described():
    for name in RECORDS:
        assert golden.schemas()[f"{name}.schema.json"].count(b'"description"') > 2


def test_the_formats_that_help_prints_are_those_read():
    spec = importlib.util.spec_from_file_location("format_table", golden.FORMAT_TABLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert tuple((f.name, f.about) for f in FORMATS) == module.TABLE, "stale: python -m tests.golden"
