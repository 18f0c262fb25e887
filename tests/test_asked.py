import json

from hypothesis import given
from hypothesis import strategies as st

from sadstream.formats import FORMATS, TextFormat
from sadstream.formats.asked import names_asked

OF_RECORDS = [f for f in FORMATS if not isinstance(f, TextFormat)]
NAMES = sorted(set().union(*(names_asked(f.recognise) or () for f in OF_RECORDS)) | {"id", "content", "output", "kind"})
VALUES = st.recursive(
    st.one_of(st.none(), st.integers(0, 1), st.sampled_from(["user", "assistant", "Thought: a", "message", "x"])),
    lambda children: st.lists(children, max_size=2) | st.dictionaries(st.sampled_from(NAMES), children, max_size=3),
    max_leaves=6,
)


def assert_sound(record):
    for format in OF_RECORDS:
        asked = names_asked(format.recognise)
        if asked is not None and asked.isdisjoint(record):
            assert not format.recognise(record), (format.name, list(record))


@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5))
def test_no_format_recognises_an_object_without_what_it_asks_for(record):
    assert_sound(record)


def test_no_format_recognises_a_real_record_without_what_it_asks_for(shared_data):
    n_records = 0
    for path in sorted((shared_data / "formats").rglob("*.json*")):
        try:
            records = [json.loads(path.read_bytes())]
        except ValueError:
            records = [json.loads(line) for line in path.read_bytes().splitlines()[:50] if line[:1] == b"{"]
        for record in records:
            children = record if isinstance(record, list) else list(record.values())
            for value in [record, *children[:50]]:
                if isinstance(value, dict):
                    assert_sound(value)
                    n_records += 1
    assert n_records > 100


def test_formats_that_look_at_values_or_say_yes_to_anything_are_always_tried():
    assert names_asked(lambda record: any(record.values())) is None
    assert names_asked(lambda record: len(record) > 1) is None
    assert names_asked(lambda record: {"a"}.isdisjoint(record) and bool(record)) is None
    assert names_asked(lambda record: isinstance(record, dict)) is None
    assert names_asked(lambda record: isinstance(record, list)) == frozenset()
    assert names_asked(lambda record: {"a"} <= record.keys() <= {"a", "b"}) == {"a"}


def test_most_formats_tell_what_they_ask_for():
    assert [f.name for f in OF_RECORDS if names_asked(f.recognise) is None] == ["transcript"]
