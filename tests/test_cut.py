import json
import re
import sys

import numpy as np
import polars as pl
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import sadstream
from sadstream.formats import react_chat
from sadstream.formats.dialects import EXAMPLES_END, LABELS, dialect_of
from sadstream.formats.line_pattern import LinePattern
from sadstream.frames import LOG_SCHEMA, OUTCOME, SPAN_FIELDS, Draft, log_frame
from sadstream.labels import KINDS, in_sequence
from sadstream.testing import check_spans
from tests.strategies import HEAPS, chats, transcripts

FEW = settings(max_examples=settings().max_examples // 4)


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


@given(st.sets(st.sampled_from(["id", "row", *SPAN_FIELDS])), st.sampled_from(["id", "kind", "author"]), st.booleans())
def test_columns_that_are_asked_for_are_those_of_all(names, filtered, cut_before):
    texts = ["> go\nOK\n", "", "q\nThought: é\nAction: b\n"]
    frame = pl.LazyFrame({"id": ["a", "b", "c"], "row": [7, 8, 9], "text": texts})
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


def test_a_dialect_that_is_told_counts_whatever_the_text_shows():
    text = "Thought: a\n> b\nAction: think[c"
    told = [*LABELS, None]
    frame = pl.LazyFrame({"dialect": told, "row": told, "text": [text] * len(told)})
    spans = sadstream.cut_spans(frame).group_by("row", maintain_order=True).agg("kind").collect()
    assert dict(spans.rows()) == {
        "react-numbered": ["context"],
        "webshop": ["context", "reason"],
        "react": ["reason", "act"],
        "prompt": ["context", "act", "observation"],
        "tags": ["context"],
        None: ["context", "reason"],
    }


def test_numbers_of_several_digits_count_by_tens():
    text = "".join(f"Action {n}: x\n" for n in range(1, 9)) + "Thought 10: a quotation\n"
    assert sadstream.cut_spans(pl.LazyFrame({"text": [text]})).collect().height == 8


NUMBERS = st.one_of(
    st.integers(0, 12), st.sampled_from([98, 99, 100, 101, 10**17, 10**17 + 1, 10**18 - 1, 10**18, 2**63])
)


@given(
    st.lists(st.tuples(NUMBERS, st.sampled_from(["", "0", "0" * 16, "0" * 25]), st.booleans()), min_size=1, max_size=12)
)
@example([(n, "", False) for n in (8, 9, 10, 11, 10, 99, 12)])
@example([(98, "", False), (99, "0", False), (100, "", False), (10**18 - 1, "", False)])
@example([(10**18 - 2, "", False), (10**18 - 1, "", False), (10**18, "", False), (10**18, "", False)])
def test_numbers_of_any_length_are_followed_as_their_values_are(labels):
    lines = [f"Action {zeros}{n}: x{' 1' * quotes}\n" for n, zeros, quotes in labels]
    starts = np.cumsum([0, *map(len, lines)])[:-1]
    # A number of more than 18 digits is none that another follows.
    kept = in_sequence([n if len(f"{zeros}{n}") <= 18 else -1 for n, zeros, _ in labels])
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


_SAID = st.sampled_from(
    [
        *("Thought: a\nAction: b\n", "Action: b", "c", "Observation: d\ne", "\n \nThought: a", "\n", ""),
        *("Well.\nAction: b", "é\nFinal Answer: \n", "Thought:\nObservation: g", "> h", " \t\nObservation: \n\n"),
    ]
)
_SPEAKERS = ["system", "user", "environment", "agent", None]
SPEECHES = st.lists(
    st.tuples(st.sampled_from([*_SPEAKERS, "agent"]), st.sampled_from([None, None, None, *KINDS]), _SAID),
    min_size=1,
    max_size=8,
)
_REACT = re.compile(LABELS["react"], re.MULTILINE)


def spans_of(speeches):
    """Kind, text, body, author and flags of each span of pieces in ReAct, by the words of docs/formats.md."""
    spans, acted = [], False
    for author, told, text in speeches:
        labels = [m for m in _REACT.finditer(text) if m.start() == 0 or author in ("agent", None)]
        if told is not None or author in ("system", "user", "environment"):
            labels = [m for m in labels[:1] if m.start() == 0]
        edges = [m.start() for m in labels]
        lead = text[: edges[0]] if edges else text
        if author == "agent" and labels and told is None and not lead.strip():
            edges[0], lead = 0, ""
        parts = [("", lead, 0)] if lead else []
        for label, begin, end in zip(labels, edges, [*edges, len(text)][1:], strict=True):
            parts.append((label[0], text[begin:end], label.end() - begin))
        for number, (label, part, n_label) in enumerate(parts):
            kind = told or kind_of(label, author, follows=number + 1 < len(parts), acted=acted)
            acted = acted or kind == "act"
            invented = author == "agent" and kind == "observation" and not told
            by_kind = {"context": "user", "observation": "environment"}.get(kind, "agent")
            body = part[n_label:].strip(" \t\r\n")
            spans.append((kind, part, body, author or by_kind, ["invented"] if invented else []))
    return spans


def kind_of(label, author, *, follows, acted):
    """Of a label, where it counts; else of the role."""
    if author in ("system", "user", "environment") and not label.startswith("Observation"):
        label = ""
    if label:
        return {"T": "reason", "O": "observation"}.get(label[0], "act")
    if author == "agent":
        return "reason" if follows else "act"
    if author in ("system", None):
        return "context"
    return "observation" if acted or author == "environment" else "context"


@given(st.lists(SPEECHES, min_size=1, max_size=3))
@example(
    [[("user", None, "c"), ("agent", None, "c"), ("system", None, "c"), ("user", None, "c")], [("user", None, "c")]]
)
@example([[("agent", None, "\n"), ("agent", None, "Thought: a\nAction: b\n")], [("agent", None, "\n \nThought: a")]])
@example([[("agent", None, "\n \nThought: a")]])
def test_what_has_no_label_is_of_the_kind_that_its_role_says(conversations):
    drafts = [
        Draft(
            dialect="react",
            pieces=[{"kind": k, "author": a, "message": i, "text": t} for i, (a, k, t) in enumerate(speeches)],
        )
        for speeches in conversations
    ]
    # A text beside pieces says nothing more; a row that is a text stands among those of pieces.
    frame = log_frame([*drafts, Draft(text="> a"), *drafts, Draft(text="")])
    frame = frame.with_columns(pl.col("text").fill_null("beside"))
    rows = sadstream.segment(frame.lazy()).collect().rows(named=True)
    assert rows[: len(drafts)] == sadstream.segment(log_frame(drafts).lazy()).collect().rows(named=True)
    alone = [row["spans"] for row in sadstream.segment(pl.LazyFrame({"text": ["> a"]})).collect().rows(named=True)]
    assert [row["spans"] for row in rows[len(drafts) :: len(drafts) + 1]] == [*alone, []]
    assert rows[: len(drafts)] == rows[len(drafts) + 1 : -1]
    for row, speeches in zip(rows, conversations, strict=False):
        text = row["text"]
        assert text == "".join(t for _, _, t in speeches)
        assert [
            (s["kind"], text[s["start"] : s["stop"]], text[s["body_start"] : s["body_stop"]], s["author"], s["flags"])
            for s in row["spans"]
        ] == spans_of(speeches)
        check_spans(text, row["spans"])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["<think>", "<function=é😀>", "<function=a\nb>", "Act:", "Thinking:", "a<answer>", ""]),
            st.sampled_from(["", "b", " é \n", "\n<think>", "\r\n€\t", "c\nAct: d"]),
            st.sampled_from(KINDS),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_the_body_of_a_tagged_piece_is_what_stands_behind_its_tag(tagged):
    pieces = [
        {"kind": kind, "author": "agent", "message": 0, "text": tag + rest, "arguments_start": len(tag)}
        | {"arguments_stop": len(tag + rest)}
        for tag, rest, kind in tagged
    ]
    row = sadstream.segment(log_frame([Draft(dialect="tags", pieces=pieces)]).lazy()).collect().row(0, named=True)
    expected = []
    for tag, rest, kind in tagged:
        label = tag if tag in ("<think>", "<function=é😀>", "Act:") else ""
        if tag + rest:
            expected.append((kind, tag + rest, (tag + rest).removeprefix(label).strip(" \t\r\n"), rest))
    text, edges = row["text"], (("start", "stop"), ("body_start", "body_stop"), ("arguments_start", "arguments_stop"))
    assert [(s["kind"], *(text[s[start] : s[stop]] for start, stop in edges)) for s in row["spans"]] == expected
    assert all(s["logged_start"] is None and s["logged_stop"] is None for s in row["spans"])
    check_spans(text, row["spans"])


def test_a_text_that_is_told_to_be_in_tags_is_one_span():
    frame = pl.LazyFrame({"text": ["<think>a</think>\n<answer>b</answer>"], "dialect": ["tags"]})
    assert sadstream.cut_spans(frame).select("kind", "start", "stop").collect().rows() == [("context", 0, 35)]


def test_a_row_without_text_has_an_empty_one_and_ends_in_no_thought():
    ending = {"success": None, "reward": None, "ending": "unknown", "answer": None, "gold": None}
    for texts in ([None, "", "Thought: a"], ["Thought: a"], [None]):
        frame = pl.DataFrame(
            {"text": texts, "outcome": [ending] * len(texts)}, schema={"text": pl.String, "outcome": OUTCOME}
        )
        cut = sadstream.segment(frame.lazy()).collect()
        assert cut["text"].to_list() == [text or "" for text in texts]
        assert cut["spans"].list.len().to_list() == [bool(text) for text in texts]
        endings = cut["outcome"].struct.field("ending").to_list()
        assert endings == ["truncated" if text else "unknown" for text in texts]
