import re
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from sadstream import pieces
from sadstream.frames import Draft, log_frame
from sadstream.score import KINDS, REJECTIONS, SCORES, score, with_teacher_entropy
from sadstream.segment import segment
from tests.strategies import transcripts


def scored(texts, **options):
    return score(segment(pl.LazyFrame({"text": texts}, schema={"text": pl.String})), **options).collect(
        engine="in-memory"
    )


def scored_pieces(*run, **fields):
    return score(segment(log_frame([Draft(pieces=list(run), **fields)]).lazy())).collect().row(0, named=True)


@given(st.lists(transcripts(), min_size=1, max_size=3))
def test_scores_count_what_the_spans_hold(runs):
    for run, row in zip(runs, scored([run.text for run in runs]).iter_rows(named=True), strict=True):
        for kind in KINDS:
            of_kind = [span for span in run.spans if span.kind == kind]
            assert row[f"n_spans_{kind}"] == len(of_kind)
            assert row[f"n_chars_{kind}"] == sum(span.stop - span.start for span in of_kind)
        assert sum(row[f"n_chars_{kind}"] for kind in KINDS) == len(run.text)
        assert row["n_steps"] == max((span.step + 1 for span in run.spans if span.step is not None), default=0)
        acts = [run.text[span.body_start : span.body_stop] for span in run.spans if span.kind == "act"]
        assert row["repeated_action_share"] == (1 - len(set(acts)) / len(acts) if acts else 0)
        assert row["n_chars_reason_per_step"] == (row["n_chars_reason"] / row["n_steps"] if row["n_steps"] else 0)
        assert row["complexity"] == row["n_chars_reason"] + row["n_chars_act"]
        thoughtful = {s.step for s in run.spans if s.kind == "reason" and s.body_stop > s.body_start}
        assert row["n_steps_without_reason"] == row["n_steps"] - len(thoughtful)
        assert row["is_truncated"] == (bool(run.spans) and run.spans[-1].kind == "reason")
        assert row["n_calls"] == 0


def test_nothing_scores_nothing():
    row = scored([""]).select(list(SCORES)).row(0)
    assert row == (0,) * len(SCORES)
    assert scored([]).height == 0
    assert scored(["Question: who?\n"])["n_steps_loop"].item() == 0


def test_weights_and_entropy_make_the_complexity():
    frame = segment(pl.LazyFrame({"text": ["> think: ab\n> go\n"] * 2, "entropy": [0.5, None]}))
    assert score(frame, alpha=2, beta=3, gamma=10).collect()["complexity"].to_list() == [2 * 12 + 3 * 5 + 5.0, 39.0]
    assert score(frame, gamma=0).collect()["complexity"].to_list() == [17.0, 17.0]
    assert score(frame).collect()["complexity"].to_list() == [17.0, 17.0]
    without = frame.drop("entropy")
    assert score(without, gamma=10).collect()["complexity"].to_list() == [17.0, 17.0]
    assert score(without, alpha=0, beta=0).collect_schema()["complexity"] == pl.Float64


def test_scoring_again_changes_nothing_and_other_columns_stay():
    once = score(segment(pl.LazyFrame({"text": ["> go\nOK\n> go\nOK\n"], "mine": [1]}))).collect()
    assert_frame_equal(score(once.lazy()).collect(), once)
    assert once["mine"].to_list() == [1]
    assert score(once.lazy()).collect_schema() == once.schema
    assert list(once.columns) == ["mine", "text", "spans", *SCORES]


def test_a_row_without_a_span_leaves_the_rows_beside_it_alone():
    run = "> go\nNothing happens.\n> go\nNothing happens.\n"
    assert_frame_equal(scored(["", run, ""])[1:2], scored([run]))


def test_repeats_are_judged_by_the_body_and_not_by_the_label():
    assert scored(["Thought 1: t\nAction 1: x\nThought 2: t\nAction 2: x\n"])["repeated_action_share"].item() == 0.5
    # An observation that reads like an act, and a thought, are no repeats.
    assert scored(["Thought: x\nAction: x\nObservation: x\n"])["repeated_action_share"].item() == 0


# ---- loops


def longest_loop(told: list[object]) -> int:
    """By the definition: every stretch, every period."""
    longest = 0
    for start in range(len(told)):
        for stop in range(start + 1, len(told) + 1):
            stretch = told[start:stop]
            for period in range(1, 5):
                circles = all(a == b for a, b in zip(stretch, stretch[period:], strict=False))
                if circles and len(stretch) >= 2 * period:
                    longest = max(longest, len(stretch))
    return longest


STEPS = st.lists(
    st.tuples(st.lists(st.sampled_from("ab"), min_size=1, max_size=2), st.sampled_from(["", "x", "y"])), max_size=14
)


@given(st.lists(STEPS, min_size=1, max_size=3))
@example([[(["a"], "x"), (["b"], "x")] * 4 + [(["a"], "x")]])
@example([[(["a"], "x"), (["b"], "x"), (["c"], "x"), (["d"], "x"), (["e"], "x")] * 3])
@example([[(["a"], "x")] * 3, [(["a"], "x")] * 2])
@example([[(["a", "b"], "x"), (["b", "a"], "x")]])
@example([[([f"{i % 4}"], "x") for i in range(8)]])
@example([[([f"{i % 4}"], "x") for i in range(7)]])
def test_a_loop_is_the_longest_stretch_of_steps_that_goes_in_a_circle(runs):
    texts, wanted = [], []
    for run in runs:
        lines = []
        for number, (acts, reply) in enumerate(run):
            # Thoughts may differ: what goes in a circle is what is done and seen.
            lines += [f"Thought: {number}\n", *(f"Action: {act}\n" for act in acts)]
            lines += [f"Observation: {reply}\n"] if reply else []
        texts.append("Question: q\n" + "".join(lines))
        wanted.append(longest_loop([(tuple(acts), reply) for acts, reply in run]))
    assert scored(texts)["n_steps_loop"].to_list() == wanted


def test_what_is_seen_tells_a_retry_from_a_loop():
    assert scored(["> look\nA door.\n> look\nAn open door.\n"])["n_steps_loop"].item() == 0
    assert scored(["> look\nA door.\n> look\nA door.\n"])["n_steps_loop"].item() == 2
    # The same words done are not the same words seen.
    assert scored(["Action: a\nAction: b\nThought: t\nAction: a\nObservation: b\n"])["n_steps_loop"].item() == 0


def test_a_reply_that_comes_late_belongs_to_the_step_of_its_call():
    def step(number, reply):
        return pieces.call("look", "{}", message=2 * number, call_id=f"c{number}"), pieces.observation(
            reply, message=2 * number + 1, call_id=f"c{number}"
        )

    (first, seen), (second, seen_too) = step(0, "x"), step(1, "x")
    context = pieces.context("go on", message=9)
    assert scored_pieces(first, context, second, seen, seen_too)["n_steps_loop"] == 2


# ---- actions that were not carried out

ENVIRONMENTS = {
    "ALFWorld": ("> go\n{}\n> look\nA room.\n", "Nothing happens."),
    "HotpotQA": ("Action 1: find it\nObservation 1: {}\n", "Invalid Action. Valid Actions are Lookup[<topic>] and"),
    "WebShop": ("Action: reset\nObservation: a page\nAction: click[x]\nObservation: {}\n", "Invalid action!"),
    "InterCode": ("Action: x\nObservation: {}\n", "Error executing query: Your last `execute` action did not contain"),
    "mini-swe-agent": ("Action: x\nObservation: {}\n", "Please always provide EXACTLY ONE action in triple backticks"),
}


@pytest.mark.parametrize("name", REJECTIONS)
def test_the_words_of_each_environment_reject_a_step(name):
    run, words = ENVIRONMENTS[name]
    assert scored([run.format(words)])["n_steps_rejected"].item() == 1
    for other in (f"It said: {words}", f"x\n{words}", words[:12], words.upper()):
        assert scored([run.format(other)])["n_steps_rejected"].item() == 0, other


@pytest.mark.parametrize("words", ["Nothing happens.", "Invalid action!"])
def test_words_that_say_it_all_are_no_rejection_with_more_behind_them(words):
    assert scored([f"Action: x\nObservation: {words}\nThen a door opens.\n"])["n_steps_rejected"].item() == 0
    assert scored([f"Thought: {words}\nAction: {words}\nObservation: ok\n"])["n_steps_rejected"].item() == 0


def test_an_action_of_intercode_may_be_in_error_too():
    text = "Action: x\nObservation: Error executing action: invalid syntax\n"
    assert scored([text])["n_steps_rejected"].item() == 1


def test_errors_of_tools_and_flags_reject_a_step_once():
    def call(number, **about):
        return pieces.call("run", "{}", message=number, **about)

    def reply(number, text="x", **about):
        return pieces.observation(text, message=number, **about)

    assert scored_pieces(call(0), reply(1, error=True))["n_steps_rejected"] == 1
    assert scored_pieces(call(0), reply(1, error=False))["n_steps_rejected"] == 0
    assert scored_pieces(call(0, flags=["rejected"]), reply(1))["n_steps_rejected"] == 1
    assert scored_pieces(call(0, flags=["made-id"]), reply(1))["n_steps_rejected"] == 0
    both = (call(0, flags=["rejected"]), reply(1, "Nothing happens.", error=True))
    assert scored_pieces(*both)["n_steps_rejected"] == 1
    twice = (*both, call(2), reply(3), call(4), reply(5, error=True))
    assert scored_pieces(*twice)["n_steps_rejected"] == 2
    # Before any action there is no step to reject.
    assert scored_pieces(reply(0, error=True), call(1))["n_steps_rejected"] == 0
    assert scored_pieces(call(0, error=True), reply(1))["n_steps_rejected"] == 0


# ---- calls, thoughts, truncation


def test_calls_are_acts_with_a_name_and_their_step_may_lack_a_thought():
    row = scored_pieces(
        pieces.thought("look first", message=0),
        pieces.call("look", "{}", message=0),
        pieces.call("look", "{}", message=0),
        pieces.observation("x", message=1, name="look"),
        pieces.say("done", message=2),
    )
    assert (row["n_calls"], row["n_spans_act"], row["n_steps"], row["n_steps_without_reason"]) == (2, 3, 2, 1)


def test_a_thought_that_cannot_be_read_is_none():
    hidden = pieces.unreadable("reason", ['"c2VjcmV0"'], message=0, author="agent")
    row = scored_pieces(hidden, pieces.call("look", "{}", message=0))
    assert (row["n_steps_without_reason"], row["n_spans_reason"], row["n_spans_act"]) == (1, 0, 1)
    assert scored(["Thought 1:\nAction 1: x\n"])["n_steps_without_reason"].item() == 1
    assert scored(["Thought 1: a\nThought 1: b\nAction 1: x\n"])["n_steps_without_reason"].item() == 0


def test_a_run_is_truncated_by_its_outcome_its_end_or_what_is_not_closed():
    act, thought = pieces.call("look", "{}", message=1), pieces.thought("so", message=0)
    assert not scored_pieces(thought, act)["is_truncated"]
    assert not scored_pieces(thought, act, ending="halted")["is_truncated"]
    assert scored_pieces(thought, act, ending="truncated")["is_truncated"]
    assert scored_pieces(act, thought)["is_truncated"]
    assert scored_pieces(act, thought, ending="halted")["is_truncated"]
    unclosed = pieces.call("look", "{", message=0, flags=["made-id", "unclosed"])
    assert scored_pieces(unclosed, pieces.observation("x", message=1))["is_truncated"]
    hidden = pieces.unreadable("reason", ['"c2VjcmV0"'], message=2, author="agent")
    assert scored_pieces(thought, act, hidden, ending="halted")["is_truncated"]


# ---- entropy of a teacher


@st.composite
def windows(draw):
    """Windows of a teacher's index: ids with repeats, and counts of which at least one is not 0."""
    ids = draw(st.lists(st.sampled_from("abcd"), max_size=8))
    counts = st.integers(0, 50)
    return [
        {
            "id": name,
            "entropy": draw(st.floats(0, 12)),
            "n_supervised_reason": draw(st.integers(1, 50)),
            "n_supervised_act": draw(counts),
            "n_supervised_other": draw(counts),
        }
        for name in ids
    ]


INDEX = {
    "id": pl.String,
    "entropy": pl.Float64,
    "n_supervised_reason": pl.Int64,
    "n_supervised_act": pl.Int64,
    "n_supervised_other": pl.Int64,
}


@given(windows(), st.permutations("abcde"), st.booleans())
def test_the_entropy_of_a_trajectory_is_the_mean_over_its_supervised_tokens(rows, ids, was_there):
    spans = pl.LazyFrame({"id": ids, "mine": range(5)})
    spans = spans.with_columns(entropy=pl.lit("old")) if was_there else spans
    joined = with_teacher_entropy(spans, pl.LazyFrame(rows, schema=INDEX))
    assert joined.collect_schema()["entropy"] == pl.Float64
    found = joined.collect()
    assert found["id"].to_list() == ids and found["mine"].to_list() == list(range(5))
    for name, entropy in zip(ids, found["entropy"], strict=True):
        nats = [[r["entropy"]] * sum(v for k, v in r.items() if k.startswith("n_")) for r in rows if r["id"] == name]
        tokens = [nat for window in nats for nat in window]
        assert entropy == (pytest.approx(sum(tokens) / len(tokens)) if tokens else None)


# ---- what the documentation says


def test_the_page_on_scores_has_every_column_and_every_rule():
    page = (Path(__file__).parent.parent / "docs" / "scores.md").read_text(encoding="utf-8")
    columns = {name.replace("KIND", kind) for name in re.findall(r"^\| `(\w+)` \|", page, re.M) for kind in KINDS}
    assert columns == set(SCORES)
    for name in REJECTIONS:
        assert name in page
    for pattern in REJECTIONS.values():
        words = pattern.strip("^$").replace("\\", "").split("(")[0]
        assert f"`{words}" in page


# ---- real logs


def test_real_runs_are_rejected_as_often_as_their_environment_says_so(shared_data):
    from sadstream.logs import scan_logs

    words = {
        "alfworld/knowagent_llama13b_D0.jsonl": "Nothing happens.",
        "webshop/react_webshop.ipynb": "Invalid action!",
    }
    for name, said in words.items():
        frame = score(segment(scan_logs(str(shared_data / "raw" / name)))).collect()
        for row in frame.iter_rows(named=True):
            steps = {
                span["step"]
                for span in row["spans"]
                if span["kind"] == "observation" and row["text"][span["body_start"] : span["body_stop"]] == said
            }
            assert row["n_steps_rejected"] == len(steps)
        assert frame["n_steps_rejected"].sum() > 200
