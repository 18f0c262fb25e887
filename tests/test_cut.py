import json
import re
import sys
from typing import NamedTuple

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
from sadstream.labels import (
    ACT,
    DIALECT_NAMES,
    NO_DIALECT,
    NO_KIND,
    OBSERVATION,
    REASON,
    UNDECIDED,
    in_sequence,
    openings,
)
from tests.strategies import chats, transcripts

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


# ---- labels: a plain loop of regular expressions finds the same

_REASONS, _RESET = (b"Thought", b"ActionPath"), re.compile(rb"Action: reset[ \t]*\r?$", re.MULTILINE)
_EXAMPLES_END = re.compile(rb"^[ \t\r]*\(END OF EXAMPLES\)[ \t\r]*$", re.MULTILINE)
_LABELLED = ["Thought:", "Action:", "Observation:", "ActionPath:", "Final Answer:", "Action: think[b", "Action: reset"]
_NUMBERED = ["Thought 1:", "Action 1:", "Observation 2:", "ActionPath 0:", "Action 23:", "Thought 3:", "Action 9:"]
_MARKED = ["> go", ">", "> think:", ">Think: b", "> ActionPath:", ">> a", "(END OF EXAMPLES)", "<think>", "<answer> A"]
_LINES = st.lists(
    st.one_of(
        st.builds(
            "".join,
            st.tuples(
                st.sampled_from([*_LABELLED, *_NUMBERED, *_MARKED]),
                st.sampled_from(["", " ", "\r", "é", " \t\r", "x", ":", " 1:"]),
            ),
        ),
        st.sampled_from(
            ["", " ", "\t \r", " > a", "a Thought: b", " (END OF EXAMPLES)", "a(END OF EXAMPLES)", "Action"]
        ),
        HEAPS,
    ),
    max_size=8,
).map("\n".join)


class Opening(NamedTuple):
    at: int
    body: int
    kind: int


def opened(text: bytes, dialect: str | None, whole: bool) -> list[Opening]:
    """What opens a span, but for the order of numbers."""
    if dialect == "prompt":
        found = commands(text)
    elif dialect == "tags":
        found = [Opening(0, m.end(), NO_KIND) for m in [re.match(LABELS["tags"].encode(), text)] if m]
    else:
        pattern = LABELS[dialect].encode() if dialect else b"(?!)"
        found = [Opening(m.start(), m.end(), kind_of(m, dialect)) for m in re.finditer(pattern, text, re.MULTILINE)]
    ends = [m.start() for m in _EXAMPLES_END.finditer(text)]
    found = [o for o in found if o.at > max(ends, default=-1) and (o.at == 0 or not whole)]
    if dialect != "webshop":
        return found
    resets = [bool(_RESET.match(text, o.at)) for o in found]
    answers = [after and o.kind == OBSERVATION for after, o in zip([False, *resets], found, strict=False)]
    return [o for o, reset, answer in zip(found, resets, answers, strict=True) if not reset and not answer]


def kind_of(label: re.Match[bytes], dialect: str | None) -> int:
    thinks = dialect == "webshop" and label.string.startswith(b"Action: think[", label.start())
    if thinks or (label[0].startswith(_REASONS) and dialect != "webshop"):
        return REASON
    return OBSERVATION if label[0].startswith(b"Observation") else ACT


def commands(text: bytes) -> list[Opening]:
    found, at, after_command = [], 0, False
    for line in text.split(b"\n"):
        label = re.match(LABELS["prompt"].encode(), line)
        if label:
            found.append(Opening(at, at + label.end(), REASON if label[0].endswith(b":") else ACT))
        elif line.strip(b" \t\r") and after_command:
            found.append(Opening(at, at, OBSERVATION))
        after_command = bool(label) or (after_command and not line.strip(b" \t\r"))
        at += len(line) + 1
    return found


def followed(numbers: list[int]) -> list[bool]:
    """Which numbers repeat the current one or go on to the next, from the first 0 or 1."""
    begin = next((i for i, n in enumerate(numbers) if n in (0, 1)), 0)
    kept, current = [], numbers[begin] if numbers else 0
    for index, number in enumerate(numbers):
        kept.append(index >= begin and current <= number <= current + 1)
        current = number if kept[-1] else current
    return kept


def number_of(label: bytes) -> int:
    number = int(label.split()[1].rstrip(b":"))
    return number if number < 2**63 else -1


PIECES = st.lists(
    st.tuples(
        _LINES, st.booleans(), st.sampled_from([None, None, *DIALECT_NAMES, ""]), st.sampled_from([False] * 3 + [True])
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=settings().max_examples * 5)
@given(PIECES)
@example([("> ", True, None, False), ("go", True, None, False)])
@example([(">", True, None, False), (" go", True, None, False)])
@example([("Action: reset \t\r\nObservation: a\nObservation: b", True, None, False)])
@example([("Action: reset\r", True, None, False), ("\nObservation: a", True, "webshop", False)])
@example([("Action:", True, "webshop", False), (" think[a", True, "webshop", False), (" reset", True, None, False)])
@example([("Thought 1: a", True, "react-numbered", False), ("Thought 3: a", False, "react-numbered", False)])
@example([("Thought 1: a", True, "react-numbered", False), ("Thought 7: a", False, "react-numbered", True)])
@example([("> a\n", True, "prompt", False), ("b\n", False, "prompt", False), ("> c\n\n", False, "prompt", False)])
@example([("> a\n> b\nc\nd\n \t\r\n>Think: e", True, "prompt", False)])
def test_labels_are_those_that_a_loop_of_regular_expressions_finds(drawn):
    strings, together, told, whole = (list(column) for column in zip(*drawn, strict=True))
    dialects = [dialect_of(text) if name is None else name or None for text, name in zip(strings, told, strict=True)]
    row = np.cumsum([not joined for joined in together])
    expected = [(i, *o) for i, text in enumerate(strings) for o in opened(text.encode(), dialects[i], whole[i])]
    quoted = set()
    for which in set(row.tolist()):
        mine = [(p, *o) for p, *o in expected if row[p] == which and dialects[p] == "react-numbered" and not whole[p]]
        numbers = [number_of(strings[p].encode()[at:body]) for p, at, body, _ in mine]
        quoted |= {label for label, kept in zip(mine, followed(numbers), strict=True) if not kept}

    at = utf8.texts_of(pl.Series(strings))
    codes = [UNDECIDED if name is None else DIALECT_NAMES.index(name) if name else NO_DIALECT for name in told]
    found = openings(at, row=row, dialect=np.array(codes, np.int8), whole=np.array(whole))
    starts = at.start[found.piece]
    columns = found.piece, found.at - starts, found.body - starts, found.kind
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == [o for o in expected if o not in quoted]


# ---- utf8: Python's own strings say the same

_WIDE = st.text(st.sampled_from("a \n\x7f\x80é\u07ff\u0800€\uffff\U00010000😀"), max_size=40)
_STRETCHES = st.tuples(_WIDE, st.sampled_from([0, 0, 1, 15, 16, 440, 447, 448, 449, 511, 512, 513, 1500]))
LONG_TEXTS = st.lists(_STRETCHES, max_size=4).map(lambda parts: "".join("a" * n + wide for wide, n in parts))


def among_others(strings):
    """A column whose memory begins and ends with other strings, in chunks."""
    return pl.concat(
        [pl.Series(["é", *strings[:1]])[1:], pl.Series([*strings[1:], "é"], dtype=pl.String)[:-1]], rechunk=False
    )


@given(st.lists(st.one_of(st.none(), LONG_TEXTS), max_size=5))
def test_a_columns_strings_stand_one_after_another_with_room_around(strings):
    at = utf8.texts_of(among_others(strings))
    expected = ["" if text is None else text for text in strings]
    assert at.strings.to_list() == expected
    assert [bytes(at.data[a:b]).decode() for a, b in zip(at.start, at.stop, strict=True)] == expected
    assert len(at.start) == len(strings) and (at.stop[:-1] == at.start[1:]).all()
    assert not strings or (at.start[0] >= 64 and len(at.data) >= at.stop[-1] + 64)


@given(st.lists(LONG_TEXTS, min_size=1, max_size=5))
@example(["é" + "a" * 1000 + "é"])
@example(["a" * 3000 + "é", "a" * 447 + "é" + "a" * 60])
@example(["é" * 2000])
def test_bytes_less_those_that_continue_are_characters(strings):
    at = utf8.texts_of(pl.Series(strings))
    more = utf8.continuation_bytes(at)
    for text, start in zip(strings, at.start.tolist(), strict=True):
        data, before = text.encode(), int(np.searchsorted(more, start))
        ends = np.cumsum([0, *(len(c.encode()) for c in text)]).tolist()
        for k in {*ends[:40], *ends[-40:], *ends[::97]}:
            assert k - (np.searchsorted(more, start + k) - before) == len(data[:k].decode())
    assert more.tolist() == [i for i, byte in enumerate(at.data.tolist()) if 0x80 <= byte < 0xC0]


@given(
    st.lists(st.text("abé>\n", max_size=12), max_size=6),
    st.lists(st.sampled_from(["a", "\n>", "éb", "bb", ">>"]), min_size=1, unique=True),
)
def test_places_of_patterns_are_those_of_a_regular_expression(strings, patterns):
    pattern = re.compile(b"|".join(re.escape(p.encode()) for p in patterns))
    piece, place = utf8.places_of(pl.Series(strings, dtype=pl.String), utf8.finder(patterns))
    expected = [(i, m.start()) for i, text in enumerate(strings) for m in pattern.finditer(text.encode())]
    assert list(zip(piece.tolist(), place.tolist(), strict=True)) == expected
    assert place.dtype == np.int64


_BLANK_TEXTS = st.lists(
    st.one_of(st.sampled_from([" ", "\n", "\t", "a", "é"]), st.integers(20, 60).map(" ".__mul__)), max_size=6
).map("".join)


@given(st.lists(_BLANK_TEXTS, min_size=1, max_size=5), st.data())
def test_skipping_is_stripping_from_any_place_as_far_as_the_text_goes(strings, data):
    at = utf8.texts_of(pl.Series(strings))
    which = np.array(data.draw(st.lists(st.integers(0, len(strings) - 1), max_size=12)), np.int64)
    places = [data.draw(st.integers(0, len(strings[i].encode()))) for i in which]
    here, start, stop = at.start[which] + np.array(places, np.int64), at.start[which], at.stop[which]
    rest = [strings[i].encode()[place:] for i, place in zip(which, places, strict=True)]
    before = [strings[i].encode()[:place] for i, place in zip(which, places, strict=True)]
    kept = here.copy()
    assert (utf8.skip(at.data, here, stop, b" \n") - start).tolist() == [
        place + len(r) - len(r.lstrip(b" \n")) for place, r in zip(places, rest, strict=True)
    ]
    assert (utf8.skip_back(at.data, here, start, b" \n") - start).tolist() == [len(b.rstrip(b" \n")) for b in before]
    assert here.tolist() == kept.tolist()
    for word in (b"", b" ", b" \n", b"a "):
        follows = [(r + b"\0").startswith(word) for r in rest]
        inside = here + len(word) <= stop
        assert (utf8.begins_with(at.data, here, word) & inside).tolist() == (np.array(follows, bool) & inside).tolist()
    assert np.flatnonzero(utf8.among(b" \n\xff")).tolist() == [10, 32, 255]
