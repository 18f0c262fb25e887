import json
import random
import re
import subprocess
import sys
from collections.abc import Callable

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadstream import Draft, pieces, segment, testing
from sadstream.testing import check_format, check_spans, check_trajectory, damaged, json_values, spans, texts
from sadstream.testing.checks import step_numbers
from sadstream.testing.strategies import damage
from sadstream_schemas import Source, Span, Trajectory


def rows_of(cut: list[Span]) -> list[dict]:
    return [msgspec.structs.asdict(span) for span in cut]


@st.composite
def cut_texts(draw):
    text = draw(texts(max_size=8)) + "x"
    return text, draw(spans(text))


@given(cut_texts())
def test_spans_that_are_drawn_are_as_they_must_be(case):
    text, cut = case
    check_spans(text, cut)
    check_spans(text, rows_of(cut))
    check_trajectory(
        Trajectory(format_version=1, id="a", source=Source(file="", record="", format=""), text=text, spans=cut)
    )


def test_a_text_of_nothing_has_no_spans():
    check_spans("", [])
    with pytest.raises(AssertionError, match="stops at 0, and the text has 1"):
        check_spans("x", [])


def put(**changes) -> Callable[[list[dict]], None]:
    def change(rows: list[dict]) -> None:
        rows[-1].update({name: value(rows[-1]) if callable(value) else value for name, value in changes.items()})

    return change


BROKEN = {
    "gap": (put(start=lambda r: r["start"] + 1), "the span before it stops at"),
    "overlap": (lambda rows: rows.insert(0, dict(rows[0])), "the span before it stops at"),
    "end": (lambda rows: rows.pop(), "the last span stops at"),
    "beyond": (put(stop=lambda r: r["stop"] + 1), "the last span stops at"),
    "order": (lambda rows: rows.reverse(), "the span before it stops at"),
    "body before": (put(body_start=lambda r: r["start"] - 1), "does not lie inside"),
    "body after": (put(body_stop=lambda r: r["stop"] + 1), "does not lie inside"),
    "body backwards": (put(body_start=lambda r: r["stop"], body_stop=lambda r: r["start"]), "does not lie inside"),
    "kind": (put(kind="thought"), "the kind is none of"),
    "author": (put(author="bot"), "author 'bot' is none of"),
    "step": (put(step=lambda r: 7 if r["step"] is None else None), "is right"),
    "next step": (put(step=lambda r: (r["step"] or 0) + 1), "is right"),
    "arguments": (put(arguments_start=lambda r: r["start"]), "one is missing"),
    "arguments after": (put(arguments_start=lambda r: r["start"], arguments_stop=lambda r: r["stop"] + 1), "arguments"),
    "logged before": (put(logged_start=lambda r: r["start"] - 1, logged_stop=lambda r: r["stop"]), "logged"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_with_spans_is_noticed_and_named(name):
    text = "Question: q\nThought: t\nAction: a\nObservation: o\n"
    rows = segment(pl.LazyFrame({"text": [text]})).collect()["spans"][0].to_list()
    check_spans(text, rows)
    change, message = BROKEN[name]
    change(rows)
    with pytest.raises(AssertionError, match=message):
        check_spans(text, rows)


def test_blanks_around_a_body_and_empty_spans_are_noticed():
    row = {"kind": "context", "start": 0, "stop": 3, "body_start": 0, "body_stop": 3, "author": "user", "step": None}
    with pytest.raises(AssertionError, match="begins or ends with blanks"):
        check_spans("a \n", [row])
    check_spans("a\u2028\u00a0"[:3], [row])  # what is no blank of ours
    empty = {**row, "start": 3, "body_start": 3}
    with pytest.raises(AssertionError, match="without text"):
        check_spans("a-b", [row, empty])
    check_spans("a-b", [row, {**empty, "opaque": ['"x"']}])


@pytest.mark.parametrize(
    ("kinds", "calls", "wanted"),
    [
        ("caoao", [None, "x", "x", "y", "y"], [None, 0, 0, 1, 1]),
        ("aooo", ["x", None, "x", "z"], [0, 0, 0, 0]),
        ("aoaoo", ["x", "x", "y", "y", "x"], [0, 0, 1, 1, 0]),
        ("aoaoo", ["x", "x", "x", "x", "x"], [0, 0, 1, 1, 1]),
        ("aoro", [None, "y", None, "y"], [0, 0, 1, 1]),
        ("oa", ["y", "y"], [0, 0]),
    ],
)
def test_a_reply_has_the_step_of_the_call_that_it_answers(kinds, calls, wanted):
    names = {"c": "context", "r": "reason", "a": "act", "o": "observation"}
    assert step_numbers([names[kind] for kind in kinds], calls) == wanted


# ---- a format of one's own


def read_run(record):
    yield Draft(pieces=[pieces.context(record["goal"], message=0), pieces.say(record["said"], message=1)])


@given(st.lists(st.fixed_dictionaries({"goal": texts(), "said": texts()}), max_size=3))
def test_a_format_that_is_right_passes_and_gives_its_trajectories(records):
    found = check_format(read_run, records)
    assert len(found) == len(records)
    for trajectory, record in zip(found, records, strict=True):
        assert record["said"] in trajectory.text


def test_what_is_wrong_with_a_format_is_noticed_and_named():
    counter = iter(range(99))

    def changes(record):
        record["said"] = "y"
        return read_run(record)

    def other(record):
        yield Draft(pieces=[pieces.say(str(next(counter)), message=0)])

    def backwards(record):
        piece = pieces.say("ab", message=0)
        row = {"kind": "act", "start": 0, "stop": 2, "body_start": 0, "body_stop": 2, "author": "agent", "step": 0}
        yield Draft(text="abc", spans=[{**row, "flags": [], "opaque": [], "hidden": False}])
        yield Draft(pieces=[piece])

    record = {"goal": "q", "said": "x"}
    for function, message in (
        (changes, "record 0: the function changed it"),
        (other, "record 0: read a second time"),
        (lambda record: ["x"], "record 0: gave str"),
        (backwards, "record 0.0: the last span stops at 2"),
    ):
        with pytest.raises(AssertionError, match=message):
            check_format(function, [record])


# ---- damage, names, hypothesis


@given(st.data())
def test_damage_is_json_the_same_for_a_seed_and_leaves_the_value_alone(data):
    value = {"a": [1, {"b": data.draw(json_values())}], "c": "text"}
    before = json.dumps(value)
    json.dumps(data.draw(damaged(value)))
    seed = data.draw(st.integers(0, 99))
    once, again = (damage(value, random.Random(seed)) for _ in range(2))
    assert json.dumps(value) == before and once == again


def test_damage_deletes_replaces_cuts_and_swaps():
    value = {"text": "a long word", "items": [{"a": 1}, {"b": 2}]}
    found = [damage(value, random.Random(seed), n_places=1) for seed in range(1000)]
    cut = [v["text"] for v in found if isinstance(v.get("text"), str) and v["text"] != "a long word"]
    assert any("text" not in v for v in found)
    assert any(0 < len(text) < 11 and "a long word".startswith(text) for text in cut)
    assert any(v.get("items") == "a long word" for v in found)
    assert any(v.get("text", "") is None for v in found)
    assert sum(v != value for v in found) > 750


def test_every_name_is_there():
    for name in testing.__all__:
        assert callable(getattr(testing, name))
    with pytest.raises(AttributeError, match="no_such"):
        testing.no_such  # noqa: B018


def test_only_the_strategies_need_hypothesis_and_say_how_to_get_it():
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from sadstream.testing import check_spans, check_format\n"
        "check_spans('', [])\n"
        "from sadstream.errors import ConfigError\n"
        "try:\n    from sadstream.testing import texts\n"
        "except ConfigError as error:\n    print(error, '|', error.hint)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.search(r"need hypothesis \| pip install hypothesis$", done.stdout.strip())
