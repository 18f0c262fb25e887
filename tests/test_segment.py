import itertools
import json
import random

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from sadstream.formats import pieces, react_chat
from sadstream.frames import Draft, log_frame
from sadstream.logs import scan_logs
from sadstream.score import score
from sadstream.segment import in_sequence, segment
from sadstream.testing import check_spans
from tests.strategies import Chat, Cut, Run, Transcript, chats, runs, steps, texts, transcripts

# Frames of several rows are slow to draw.
FEW = settings(max_examples=settings().max_examples // 4)
STRINGS = {"text": pl.String, "dialect": pl.String}
AUTHORS = {"context": "user", "reason": "agent", "act": "agent", "observation": "environment"}
DIALECTS = ["react-numbered", "react", "prompt", "webshop"]


def cut_text(text, dialect=None):
    frame = pl.DataFrame({"text": [text], "dialect": [dialect]}, schema_overrides=STRINGS)
    return segment(frame.lazy()).collect().row(0, named=True)


def cut_messages(messages):
    drafts = list(react_chat.read(messages, json.dumps(messages).encode()))
    return segment(log_frame(drafts).lazy()).collect().row(0, named=True)


def as_cuts(row):
    return [Cut(*(span[name] for name in Cut._fields)) for span in row["spans"]]


def assert_partition(row):
    text, spans = row["text"], row["spans"]
    assert "".join(text[s["start"] : s["stop"]] for s in spans) == text
    assert [s["start"] for s in spans] == [0, *(s["stop"] for s in spans)][: len(spans)]
    for span in spans:
        assert span["start"] <= span["body_start"] <= span["body_stop"] <= span["stop"]
        assert span["start"] < span["stop"]


def marked(row):
    """Text with the kinds of its spans, as formats.md writes its examples."""
    kinds = {"context": "c", "reason": "r", "act": "a", "observation": "o"}
    return "".join(f"[{kinds[s['kind']]} {row['text'][s['start'] : s['stop']]}]" for s in row["spans"]).replace(
        "\n", "⏎"
    )


# ---- properties: what holds of any text


@given(texts(max_size=12), st.sampled_from([None, *DIALECTS]))
@example("", None)
@example("\n", "prompt")
@example("Thought 99999999999999999999:", None)
@example("> \n> \n\n", None)
@example("\u2028Thought: a\u0085Action: b", None)
def test_spans_cover_any_text_in_any_dialect(text, dialect):
    row = cut_text(text, dialect)
    assert row["text"] == text
    assert_partition(row)


@given(st.lists(st.sampled_from(["Thought 1:", "Action 2:", "> ", "Action: reset", "\n", "\r\n", " x", "(END OF EXAMPLES)", "Observation:", "é"]), max_size=25))  # fmt: skip  # noqa: E501
def test_spans_cover_any_heap_of_labels(fragments):
    row = cut_text("".join(fragments))
    assert row["text"] == "".join(fragments)
    assert_partition(row)
    assert [s["step"] for s in row["spans"]] == steps([s["kind"] for s in row["spans"]])


@settings(max_examples=settings().max_examples // 2)
@given(st.tuples(*(transcripts(dialect=dialect) for dialect in [*DIALECTS, "prompt"])), st.booleans())
def test_spans_are_those_the_text_was_built_from(runs: tuple[Transcript, ...], told):
    dialects = [run.dialect if told else None for run in runs]
    frame = pl.DataFrame({"text": [run.text for run in runs], "dialect": dialects}, schema_overrides=STRINGS)
    # In memory all rows are one block; streamed, each may be its own, and none could spoil the next.
    rows = segment(frame.lazy()).collect(engine="in-memory").iter_rows(named=True)
    for run, row in zip(runs, rows, strict=True):
        assert row["text"] == run.text
        assert as_cuts(row) == run.spans
        assert [span["author"] for span in row["spans"]] == [AUTHORS[span.kind] for span in run.spans]


@given(chats())
def test_chat_spans_are_those_the_messages_were_built_from(chat: Chat):
    row = cut_messages(chat.messages)
    assert row["text"] == chat.text
    assert as_cuts(row) == chat.spans
    assert [span["message"] for span in row["spans"]] == chat.owners
    assert_partition(row)


@given(chats())
def test_logged_offsets_give_the_messages_back(chat):
    row = cut_messages(chat.messages)
    for index, message in enumerate(chat.messages):
        held = [
            row["text"][
                s["start"] if s["logged_start"] is None else s["logged_start"] : s["stop"]
                if s["logged_stop"] is None
                else s["logged_stop"]
            ]
            for s in row["spans"]
            if s["message"] == index
        ]
        assert "".join(held) == message["content"]


@given(chats())
def test_only_the_agent_is_cut_and_only_its_own_observations_are_invented(chat):
    roles = {"assistant": "agent", "user": "user", "system": "system"}
    for span in cut_messages(chat.messages)["spans"]:
        author = roles[chat.messages[span["message"]]["role"]]
        assert span["author"] == author
        assert author == "agent" or span["kind"] in ("context", "observation")
        assert span["flags"] == (["invented"] if author == "agent" and span["kind"] == "observation" else [])


def cut_pieces(*drafts):
    return segment(log_frame([Draft(pieces=pieces) for pieces in drafts]).lazy()).collect().rows(named=True)


@given(runs())
def test_spans_of_pieces_are_those_they_were_built_from(run: Run):
    (row,) = cut_pieces(run.pieces)
    assert row["text"] == run.text
    assert as_cuts(row) == run.spans
    assert [span["call_id"] for span in row["spans"]] == run.call_ids
    check_spans(row["text"], row["spans"])


@given(runs())
def test_pieces_give_themselves_back(run):
    (row,) = cut_pieces(run.pieces)
    kept = [piece for piece in run.pieces if piece["text"] or piece.get("suffix") or piece.get("opaque")]
    for piece, span in zip(kept, row["spans"], strict=True):
        logged = row["text"][span["start"] : span["stop"]]
        if span["logged_start"] is not None:
            logged = row["text"][span["logged_start"] : span["logged_stop"]]
        assert logged == piece["text"]
        if "arguments_start" in piece:
            assert row["text"][span["arguments_start"] : span["arguments_stop"]] == piece["text"]
        else:
            assert span["arguments_start"] is None and span["arguments_stop"] is None
        for name in ("kind", "author", "message", "name", "syntax"):
            assert span[name] == piece.get(name)
        assert span["opaque"] == piece.get("opaque", [])
        assert (span["hidden"], span["flags"], span["error"], span["extra"]) == (False, [], None, None)


@given(runs())
def test_rendered_pieces_read_as_text_are_cut_in_the_same_places(run):
    if run.reads_as_text:
        row = cut_text(run.text, "react")
        assert row["text"] == run.text
        assert as_cuts(row) == run.spans


@FEW
@given(st.lists(runs(), min_size=2, max_size=3))
def test_pieces_are_cut_alike_whatever_stands_beside_them(drawn):
    together = cut_pieces(*(run.pieces for run in drawn))
    assert [row["spans"] for row in together] == [cut_pieces(run.pieces)[0]["spans"] for run in drawn]


def test_what_a_piece_knows_of_itself_is_kept():
    about = {"hidden": True, "error": True, "flags": ["rejected", "made-id"], "opaque": ['"x"'], "extra": '{"a":1}'}
    (row,) = cut_pieces([{**pieces.call("f", "{}", message=3, call_id="c"), **about}])
    (span,) = row["spans"]
    assert {name: span[name] for name in about} == about
    assert (span["call_id"], span["name"], span["syntax"], span["message"]) == ("c", "f", "json", 3)


def test_a_label_or_a_line_break_of_one_character_is_rendering_too():
    def logged(**around):
        piece = {"kind": "act", "author": "agent", "message": 0, "text": "go", "prefix": "", "suffix": "", **around}
        (span,) = cut_pieces([piece])[0]["spans"]
        return span["logged_start"], span["logged_stop"]

    assert [logged(), logged(prefix=">"), logged(suffix="\n")] == [(None, None), (1, 3), (0, 2)]


def mixed_frame(runs, conversations):
    drafts = [react_chat.read(c.messages, json.dumps(c.messages).encode()) for c in conversations]
    logs = log_frame([draft for read in drafts for draft in read])
    plain = pl.DataFrame({"id": [str(i) for i in range(len(runs))], "text": [t.text for t in runs]})
    columns = [pl.lit(None, dtype).alias(name) for name, dtype in logs.schema.items() if name not in plain.columns]
    return pl.concat([logs, plain.with_columns(columns).select(logs.columns)])


@FEW
@given(st.lists(transcripts(), max_size=2), st.lists(chats(), min_size=1, max_size=1), st.data())
def test_cutting_the_input_into_chunks_changes_nothing(runs, conversations, data):
    frame = mixed_frame(runs, conversations).sample(fraction=1, shuffle=True, seed=data.draw(st.integers(0, 99)))
    at = data.draw(st.integers(0, frame.height))
    whole = score(segment(frame.lazy())).collect(engine="in-memory")
    parts = [score(segment(part.lazy())).collect() for part in (frame[:at], frame[at:])]
    assert_frame_equal(whole, pl.concat(parts))


@FEW
@given(st.lists(transcripts(), max_size=2), st.lists(chats(), min_size=1, max_size=1))
def test_streaming_and_in_memory_engines_agree(runs, conversations):
    cut = score(segment(mixed_frame(runs, conversations).lazy()))
    assert_frame_equal(cut.collect(engine="streaming"), cut.collect(engine="in-memory"))


@FEW
@given(st.lists(transcripts(), max_size=1), st.lists(chats(), min_size=1, max_size=1))
def test_rows_already_cut_are_kept(runs, conversations):
    once = segment(mixed_frame(runs, conversations).lazy()).collect()
    assert_frame_equal(segment(once.lazy()).collect(), once)


def test_an_unknown_column_passes_through_and_no_row_gives_no_row():
    frame = pl.LazyFrame({"text": ["Thought: a\n"], "mine": [7]})
    assert segment(frame).collect()["mine"].to_list() == [7]
    assert segment(frame.head(0)).collect().height == 0
    assert segment(frame).collect_schema() == segment(frame).collect().schema


@given(transcripts(), st.integers(0, 2**32 - 1))
def test_mutated_logs_never_crash(transcript, seed):
    randomly = random.Random(seed)
    characters = list(transcript.text)
    for _ in range(randomly.randint(1, 6)):
        at, other = (randomly.randrange(len(characters) + 1) for _ in range(2))
        which = randomly.randrange(4)
        if which == 0:
            del characters[at : at + randomly.randint(1, 9)]
        elif which == 1:
            characters[at:at] = characters[other : other + 30]
        elif which == 2:
            characters[at:at] = randomly.choice(["\n", ":", "\r", "Thought 2:", "> ", "\u2028"])
        else:
            characters = characters[:at] or ["\n"]
    row = cut_text("".join(characters))
    assert row["text"] == "".join(characters)
    assert_partition(row)


# ---- formats.md, section 1 and 3.1 to 3.4, word by word


def test_offsets_are_those_of_the_format_description():
    text = "Question: Who made Gromit?\nThought 1: Look him up.\nAction 1: Search[Gromit]\nObservation 1: A clay dog.\n"
    assert as_cuts(cut_text(text)) == [
        Cut("context", 0, 27, 0, 26, None),
        Cut("reason", 27, 51, 38, 50, 0),
        Cut("act", 51, 76, 61, 75, 0),
        Cut("observation", 76, 103, 91, 102, 0),
    ]


@pytest.mark.parametrize(
    "expected",
    [
        "[c Question: …⏎][r Thought 1: ⏎][a Action 1: ⏎][o Observation 1: Invalid Action…⏎][a Action 2: x⏎]",
        "[c …(END OF EXAMPLES)⏎Question: Who?⏎][r ActionPath 1: Start⏎][r Thought 1: Look.⏎][a Action 1: Search[x]⏎]"
        "[o Observation 1: y⏎]",
        "[c You are in… Your task is to: …⏎][r > think: find a mug.⏎][o OK.⏎][a > go to desk 1⏎]"
        "[o On the desk 1, you see a mug 2.⏎][r > Think: next.⏎][a > think⏎][o Nothing happens.⏎][a > ⏎]"
        "[o Nothing happens.⏎][r > Think: I'll look in the safe.]",
        "[c -----------------⏎0⏎Action: reset⏎Observation: ⏎Webshop…[Search] ⏎⏎][a Action: search[red mug]⏎]"
        "[o Observation: ⏎[Back to Search]…⏎⏎][r Action: think[B01 fits, options 'a', 'b',⏎][o Observation: OK.⏎⏎]"
        "[a Action: click[Buy Now]⏎][o Observation: Your score (min 0.0, max 1.0): 0.5⏎]",
    ],
)
def test_examples_of_the_format_description_are_cut_as_it_says(expected):
    text = expected
    for mark in ("[c ", "[r ", "[a ", "[o "):
        text = text.replace(mark, "\x01")
    text = text.replace("]\x01", "").replace("\x01", "").removesuffix("]").replace("⏎", "\n")
    assert marked(cut_text(text)) == expected


def test_the_react_chat_example_of_the_format_description_is_cut_as_it_says():
    messages = [
        {"role": "user", "content": "Question: …"},
        {"role": "assistant", "content": "Thought: A.\nAction: search[b]"},
        {"role": "user", "content": "Observation: c"},
    ]
    row = cut_messages(messages)
    assert marked(row) == "[c Question: …⏎][r Thought: A.⏎][a Action: search[b]⏎][o Observation: c⏎]"
    assert [span["logged_stop"] for span in row["spans"]] == [11, None, 41, 56]


def test_a_run_that_ends_in_a_thought_is_truncated_unless_the_log_says_otherwise():
    lines = [{"text": "> go\nOK\n> think: so"}, {"text": "> go\nOK\n> look"}]
    frame = segment(log_frame([d for line in lines for d in _read(line)]).lazy()).collect()
    assert frame["outcome"].struct.field("ending").to_list() == ["truncated", "unknown"]
    halted = {"run": "> go\nOK\n> think: so", "halted": True}
    assert segment(log_frame(list(_read(halted))).lazy()).collect()["outcome"][0]["ending"] == "halted"


def _read(record):
    from sadstream.formats import transcript

    return transcript.read(record, json.dumps(record).encode())


# ---- contract.md, section 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Thought: a\nAction: b\nObservation: c\nThought: d\n", [0, 0, 0, 1]),
        ("Action: a\nAction: b\nObservation: c\nObservation: d\n", [0, 0, 0, 0]),
        ("Action: a\nThought: b\nAction: c\n", [0, 1, 1]),
        ("Thought: a\nThought: b\nAction: c\nObservation: d\n", [0, 0, 0, 0]),
        ("Observation: a\nThought: b\n", [None, 0]),
        ("Question: q\nThought: a\nObservation: b\nAction: c\n", [None, 0, 0, 1]),
    ],
)
def test_steps_open_where_the_contract_says(text, expected):
    assert [span["step"] for span in cut_text(text)["spans"]] == expected


def test_a_result_has_the_step_of_its_call_however_late_or_early():
    def seen(text, call_id=None):
        return pieces.observation(text, message=0, call_id=call_id)

    def asks(call_id):
        return pieces.call("look", "{}", message=0, call_id=call_id)

    late = [asks("a"), seen("?"), asks("b"), seen("y", "b"), seen("x", "a"), seen("z", "nobody's")]
    early = [asks("a"), seen("?"), seen("early", "b"), asks("b"), seen("late", "a")]
    thought = [asks("a"), seen("x", "a"), pieces.thought("of that call", message=0, call_id="a"), asks("b")]
    found = [[span["step"] for span in row["spans"]] for row in cut_pieces(late, early, thought)]
    assert found == [[0, 0, 1, 1, 0, 1], [0, 0, 1, 1, 0], [0, 0, 1, 1]]


def test_a_users_labelled_reply_is_an_observation_before_anyone_acted():
    messages = [("user", "q"), ("assistant", "Thought: a"), ("user", "Observation: b"), ("user", "Well?")]
    row = cut_messages([{"role": role, "content": content} for role, content in messages])
    assert [span["kind"] for span in row["spans"]] == ["context", "reason", "observation", "context"]


def test_steps_begin_at_0_in_every_row():
    rows = segment(pl.LazyFrame({"text": ["Thought: a\nAction: b\nObservation: c\nAction: d\n"] * 3})).collect()
    assert [[s["step"] for s in row] for row in rows["spans"]] == [[0, 0, 0, 1]] * 3


def test_a_label_whose_number_is_neither_the_current_nor_the_next_is_a_quotation():
    text = "Question: q\nThought 1: a\nAction 1: b\nObservation 1: page\nThought 7: quoted\nThought 2: c\nAction 1: d\n"
    kinds = [span["kind"] for span in cut_text(text)["spans"]]
    assert kinds == ["context", "reason", "act", "observation", "reason"]


def test_numbers_may_begin_at_0_or_in_the_middle():
    assert [s["kind"] for s in cut_text("Thought 0: a\nAction 0: b\nThought 1: c\n")["spans"]] == [
        "reason",
        "act",
        "reason",
    ]
    assert [s["kind"] for s in cut_text("Thought 4: a\nAction 4: b\nThought 5: c\n")["spans"]] == [
        "reason",
        "act",
        "reason",
    ]


@given(st.lists(st.integers(-1, 4), min_size=1))
def test_the_numbers_of_real_labels_never_jump(numbers):
    kept = [n for n, keep in zip(numbers, in_sequence(numbers), strict=True) if keep]
    assert kept
    assert all(b in (a, a + 1) for a, b in itertools.pairwise(kept))


def test_the_number_runs_on_through_a_chat():
    row = cut_messages(
        [
            {"role": "user", "content": "Question: q"},
            {"role": "assistant", "content": "Thought 1: a\nAction 1: b"},
            {"role": "user", "content": "Observation 1: page\nThought 2: quoted\nAction 9: quoted"},
            {"role": "assistant", "content": "Thought 2: it says\nThought 1: quoted\nAction 2: c"},
        ]
    )
    assert marked(row) == (
        "[c Question: q⏎][r Thought 1: a⏎][a Action 1: b⏎][o Observation 1: page⏎Thought 2: quoted⏎Action 9: quoted⏎]"
        "[r Thought 2: it says⏎Thought 1: quoted⏎][a Action 2: c⏎]"
    )


def test_an_observation_that_the_agent_wrote_is_invented_and_an_observation():
    row = cut_messages(
        [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "Thought: a\nAction: b\nObservation: dreamt\nAction: finish[c]"},
        ]
    )
    assert [(s["kind"], s["author"], s["flags"]) for s in row["spans"][1:]] == [
        ("reason", "agent", []),
        ("act", "agent", []),
        ("observation", "agent", ["invented"]),
        ("act", "agent", []),
    ]


def test_a_quotation_mark_in_a_chat_is_no_dialect():
    row = cut_messages(
        [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "> you said\nIndeed."},
            {"role": "user", "content": "Go on."},
            {"role": "assistant", "content": "Thought: a\nAction: b"},
        ]
    )
    assert [s["kind"] for s in row["spans"]] == ["context", "act", "observation", "reason", "act"]


# ---- real logs


def test_real_logs_are_partitioned_and_numbered(shared_data):
    logs = scan_logs([str(p) for p in sorted((shared_data / "raw").rglob("*.json*"))])
    frame = segment(logs.filter(pl.col("refused").is_null())).select("text", "spans").collect()
    assert frame.height > 4000
    for row in frame.iter_rows(named=True):
        assert_partition(row)
        assert [s["step"] for s in row["spans"]] == steps([s["kind"] for s in row["spans"]])


def test_real_logs_cut_in_chunks_by_either_engine_come_out_the_same(shared_data):
    logs = scan_logs(str(shared_data / "raw" / "hotpotqa")).filter(pl.col("refused").is_null()).collect()
    whole = segment(logs.lazy()).collect(engine="in-memory")
    parts = [segment(logs[at : at + 700].lazy()).collect(engine="streaming") for at in range(0, logs.height, 700)]
    assert_frame_equal(whole, pl.concat(parts))
