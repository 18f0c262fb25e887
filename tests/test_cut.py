import json
import re
import sys

import numpy as np
import polars as pl
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import sadstream
from sadstream import utf8
from sadstream.formats import react_chat
from sadstream.formats.dialects import EXAMPLES_END, LABELS, dialect_of
from sadstream.formats.line_pattern import LinePattern
from sadstream.frames import LOG_SCHEMA, SPAN_FIELDS, log_frame
from sadstream.labels import in_sequence
from tests.strategies import chats, texts, transcripts

FEW = settings(max_examples=settings().max_examples // 4)
_LABELS = ["Thought", "Action", "Observation", "ActionPath", "Final Answer", " 1", " 23", ":", "> ", ">", "think:"]
_OTHERS = ["\n", " reset", " think[", "\r\n", " ", "\t", "é", "(END OF EXAMPLES)", "99999999999999999999", " " * 30]
HEAPS = st.lists(st.sampled_from([*_LABELS, *_OTHERS]), max_size=20).map("".join)


@FEW
@given(st.lists(transcripts(), max_size=2), st.lists(chats(), max_size=2), st.booleans())
def test_flat_spans_are_those_in_the_lists(runs, conversations, cut_before):
    drafts = [d for c in conversations for d in react_chat.read(c.messages, json.dumps(c.messages).encode())]
    plain = pl.DataFrame(
        {"id": [str(i) for i in range(len(runs))], "text": [r.text for r in runs]}, schema_overrides={"id": pl.String}
    )
    plain = plain.with_columns(pl.lit(None, t).alias(n) for n, t in LOG_SCHEMA.items() if n not in plain.columns)
    frame = pl.concat([log_frame(drafts), plain.select(*LOG_SCHEMA)]).with_columns(pl.col("text").cast(pl.String))
    lists = sadstream.segment(frame.lazy()).collect()
    if cut_before:
        frame = pl.concat([lists.select(n for n in frame.columns if n in lists.columns)[:1], frame[1:]], how="diagonal")
    flat = sadstream.cut_spans(frame.select("id", "text", "pieces", "dialect", "spans").lazy()).collect()
    assert_frame_equal(flat, lists.select("id", "spans").explode("spans", empty_as_null=False).unnest("spans"))


def test_columns_are_repeated_and_those_of_spans_give_way():
    frame = pl.LazyFrame({"mine": [7, 8], "step": ["a", "b"], "text": ["> go\nOK\n", None]})
    spans = sadstream.cut_spans(frame)
    assert spans.collect_schema() == spans.collect().schema
    assert spans.select("mine", "kind", "step").collect().rows() == [(7, "act", 0), (7, "observation", 0)]


@given(st.sets(st.sampled_from(["id", *SPAN_FIELDS])), st.sampled_from(["id", "kind", "author"]), st.booleans())
def test_columns_that_are_asked_for_are_those_of_all(names, filtered, cut_before):
    frame = pl.LazyFrame({"id": ["a", "b", "c"], "text": ["> go\nOK\n", "", "q\nThought: é\nAction: b\n"]})
    if cut_before:
        cut = sadstream.segment(frame).collect()
        frame = pl.concat([cut[:1], frame.collect()[1:]], how="diagonal").lazy()
    every = sadstream.cut_spans(frame).collect()
    spans = sadstream.cut_spans(frame).filter(pl.col(filtered).is_in(["a", "act", "agent"]))
    chosen = every.filter(pl.col(filtered).is_in(["a", "act", "agent"]))
    assert_frame_equal(spans.select(sorted(names)).collect(), chosen.select(sorted(names)))
    assert sadstream.cut_spans(frame).select(pl.len()).collect().item() == every.height == 5


def test_blocks_of_any_size_give_the_same_spans(monkeypatch):
    frame = pl.LazyFrame({"text": ["> go\nOK\n", "", "Thought: é\nAction: b\n"] * 50})
    whole = sadstream.cut_spans(frame).collect()
    monkeypatch.setattr(sys.modules["sadstream.segment"], "_BLOCK_BYTES", 1)
    assert_frame_equal(sadstream.cut_spans(frame).collect(), whole)


@given(HEAPS)
@example("Action: reset\nObservation: x\nAction: a")
@example("Thou\nght: a")
@example("Observati\nActionPath: x")
def test_a_dialect_told_is_the_dialect_recognised(text):
    told = pl.DataFrame({"text": [text], "dialect": [dialect_of(text)]}, schema_overrides={"dialect": pl.String})
    assert_frame_equal(
        sadstream.cut_spans(told.lazy()).collect(), sadstream.cut_spans(told.select("text").lazy()).collect()
    )


@given(HEAPS)
@example("Thought: a\nAction 1: b\nActionPath: c")
def test_a_text_that_is_told_to_be_react_is_cut_where_its_pattern_matches(text):
    text = text.replace(EXAMPLES_END, "")
    spans = sadstream.cut_spans(pl.LazyFrame({"text": [text], "dialect": ["react"]})).select("start").collect()
    starts = {m.start() for m in re.finditer(LABELS["react"], text, re.MULTILINE)}
    assert set(spans["start"].to_list()) == starts | ({0} if text else set())


def test_numbers_of_several_digits_count_by_tens():
    text = "".join(f"Action {n}: x\n" for n in range(1, 9)) + "Thought 10: a quotation\n"
    assert sadstream.cut_spans(pl.LazyFrame({"text": [text]})).collect().height == 8


NUMBERS = st.one_of(
    st.integers(0, 12), st.sampled_from([98, 99, 100, 101, 10**17, 10**17 + 1, 10**18, 10**18 + 1, 2**63 - 1, 2**63])
)


@given(st.lists(st.tuples(NUMBERS, st.sampled_from(["", "0", "0" * 25]), st.booleans()), min_size=1, max_size=12))
@example([(n, "", False) for n in (8, 9, 10, 11, 10, 99, 12)])
@example([(2**63 - 1, "", False), (2**63, "", False)])
def test_numbers_of_any_length_are_followed_as_their_values_are(labels):
    lines = [f"Action {zeros}{n}: x{' 1' * quotes}\n" for n, zeros, quotes in labels]
    starts = np.cumsum([0, *map(len, lines)])[:-1]
    # A number that no column can hold is none that another follows.
    kept = in_sequence([n if n < 2**63 else -1 for n, _, _ in labels])
    expected = {0} | {int(start) for start, is_kept in zip(starts, kept, strict=True) if is_kept}
    spans = sadstream.cut_spans(pl.LazyFrame({"text": ["".join(lines)], "dialect": ["react-numbered"]})).collect()
    assert set(spans["start"].to_list()) == expected


@FEW
@given(st.lists(st.tuples(st.sampled_from(["", "\n", " \n\n"]), st.booleans()), min_size=1, max_size=4))
def test_blanks_before_a_messages_first_label_are_part_of_its_span(turns):
    messages = [{"role": "user", "content": "Do it."}]
    for blanks, labelled in turns:
        messages += [{"role": "assistant", "content": blanks + "Thought: a\nAction: b" if labelled else "c"}]
        messages += [{"role": "user", "content": "Observation: d"}]
    frame = log_frame(list(react_chat.read(messages, json.dumps(messages).encode())))
    spans = sadstream.cut_spans(frame.lazy()).filter(pl.col("author") == "agent").collect()
    of_turn = [["reason", "act"] if labelled else ["act"] for _, labelled in turns]
    assert spans["kind"].to_list() == [kind for kinds in of_turn for kind in kinds]
    assert (spans["stop"][:-1] <= spans["start"][1:]).all()
    text = sadstream.segment(frame.lazy()).collect()["text"][0]
    firsts = [
        text[start:stop] for kind, start, stop in spans.select("kind", "start", "stop").rows() if kind == "reason"
    ]
    assert [t.removesuffix("\n") for t in firsts] == [blanks + "Thought: a" for blanks, labelled in turns if labelled]


@FEW
@given(chats())
def test_messages_are_cut_alike_without_a_dialect_column_and_one_field_at_a_time(chat):
    frame = log_frame(list(react_chat.read(chat.messages, json.dumps(chat.messages).encode())))
    spans = sadstream.cut_spans(frame.select("id", "pieces", "dialect").lazy()).collect()
    bare = sadstream.cut_spans(frame.with_columns(dialect=None).select("id", "pieces", "dialect").lazy()).collect()
    assert_frame_equal(sadstream.cut_spans(frame.select("id", "pieces").lazy()).collect(), bare)
    for name in ("id", "author", "message"):
        one = sadstream.cut_spans(frame.select("id", "pieces", "dialect").lazy()).select(name).collect()
        assert_frame_equal(one, spans.select(name))


@given(HEAPS, HEAPS)
def test_a_label_does_not_run_on_into_the_next_text(first, second):
    def starts(*texts):
        frame = pl.DataFrame({"row": range(len(texts)), "text": texts, "dialect": ["react"] * len(texts)})
        return sadstream.cut_spans(frame.lazy()).select("start", "body_start").collect().rows()

    assert starts(first, second) == starts(first) + starts(second)


@given(HEAPS, st.sampled_from(["> ", r"(?:Thought|Action)(?: [0-9]+)?:", r"Action: (?:reset[ \t]*\r?$|think\[)"]))
def test_a_line_pattern_finds_what_a_multiline_one_does(text, pattern):
    slow, fast = re.search(f"(?m)^(?:{pattern})", text), LinePattern(pattern).search(text)
    assert (slow and slow.end()) == (fast and fast.end())


@given(st.lists(texts(), min_size=1, max_size=3), st.integers(0, 600))
def test_continuation_bytes_are_found_in_ascii_and_in_mixed_text(parts, n_ascii):
    column = pl.Series([("a" * n_ascii).join(parts), *parts])
    at = utf8.texts_of(column)
    data = at.data[: at.stop[-1]]
    assert utf8.continuation_bytes(at).tolist() == np.flatnonzero(data & 0xC0 == 0x80).tolist()


@given(st.lists(st.text("a \t\n", max_size=60), min_size=1, max_size=4))
def test_skipping_is_stripping(strings):
    at = utf8.texts_of(pl.Series(strings))
    ends = utf8.skip(at.data, at.start, at.stop, b" \n")
    begins = utf8.skip_back(at.data, at.stop, at.start, b" \n")
    assert (ends - at.start).tolist() == [len(s) - len(s.lstrip(" \n")) for s in strings]
    assert (begins - at.start).tolist() == [len(s.rstrip(" \n")) for s in strings]
