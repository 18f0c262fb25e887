import re

import msgspec
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sadstream.environments import Decision
from sadstream.episodes import Episode, Turn, one_line, play
from sadstream.formats.dialects import DIALECTS, EXAMPLES_END, LABELS
from sadstream.formats.native import check_partition
from sadstream.logs import scan_logs
from sadstream.segment import segment
from sadstream.transcripts import opening, parts_of, spans_of, text_of, trajectory_of, written
from sadstream_schemas import Source
from tests import worlds
from tests.strategies import texts

DIALECT = {"labels": "react", "numbered": "react-numbered", "prompt": "prompt", "webshop": "webshop"}
SOURCE = Source(file="trajectories.jsonl", record="0", format="collect")


def looks_like_a_label(text, dialect):
    """Whether a line of an observation would be taken for the dialect's own, or the whole text for another's."""
    patterns = [pattern.removeprefix("(?m)") for pattern in DIALECTS.values()]
    mine = [LABELS[dialect], *patterns[: list(DIALECTS).index(dialect)]]
    lines = text.split("\n")
    return EXAMPLES_END in text or any(re.match(pattern, line) for pattern in mine for line in lines)


@st.composite
def turns(draw, style):
    """A turn as the runner makes them: any thought, any action; an observation without lines like labels."""
    dialect = DIALECT[style]
    said = texts().map(one_line)
    quiet = texts().filter(lambda text: not looks_like_a_label(text, dialect))
    thought, action = draw(st.none() | said), draw(st.none() | said)
    assume(not (style in ("webshop", "labels") and action == "reset"))
    assume(not (action or "").startswith(("think", "Think", "ActionPath:")))
    if style in ("prompt", "webshop"):
        if thought is not None and draw(st.booleans()):
            return Turn(thought, None, "OK.", True)
        return Turn(None, action or "", draw(quiet), draw(st.booleans()))
    if action is None:
        return Turn(thought or "", None, None, True)
    return Turn(thought, action, draw(quiet), draw(st.booleans()))


@st.composite
def episodes(draw):
    style = draw(st.sampled_from(list(DIALECT)))
    return Episode(
        task_id="t",
        task_type="",
        seed=0,
        style=style,
        opening=draw(texts().filter(lambda text: not looks_like_a_label(text, DIALECT[style]))),
        turns=tuple(draw(st.lists(turns(style), min_size=1, max_size=5))),
        reward=0.0,
        ending="halted",
        metrics={},
    )


def recut(text, *dialects):
    """Spans of a text, as each dialect cuts it; None is recognised from the text."""
    frame = pl.LazyFrame(
        {"text": [text] * len(dialects), "dialect": dialects}, {"text": pl.String, "dialect": pl.String}
    )
    return [
        [(s["kind"], s["start"], s["stop"], s["body_start"], s["body_stop"], s["author"], s["step"]) for s in spans]
        for spans in segment(frame).collect()["spans"].to_list()
    ]


def cuts(spans):
    return [(s.kind, s.start, s.stop, s.body_start, s.body_stop, s.author, s.step) for s in spans]


@given(episodes())
def test_cutting_the_text_again_gives_the_spans_of_the_record(episode):
    parts = parts_of(episode)
    expected = cuts(spans_of(parts))
    assert recut(text_of(parts), DIALECT[episode.style], None) == [expected, expected]


@given(
    st.sampled_from(list(DIALECT)),
    st.lists(st.builds(Decision, st.none() | texts(), st.none() | texts()), max_size=6),
    texts(),
)
def test_whatever_is_said_or_seen_the_record_s_spans_partition_its_text(style, script, observation):
    environment = worlds.Echo(style, observation=observation.replace("{", "").replace("}", ""))
    episode = play(environment, worlds.Script(script), "word-0", seed=0, max_steps=5)
    record = trajectory_of(episode, id="i", source=SOURCE, facts={})
    check_partition(record)
    spoken = [turn.thought for turn in episode.turns if turn.thought is not None]
    acted = [turn.action for turn in episode.turns if turn.action is not None]
    bodies = {
        kind: [record.text[s.body_start : s.body_stop] for s in record.spans if s.kind == kind]
        for kind in ("reason", "act")
    }
    blanks = " \t\r\n"
    assert bodies["act"] == [action.strip(blanks) for action in acted]
    shown = [f"think[{thought}]" for thought in spoken] if style == "webshop" else spoken
    assert bodies["reason"] == [thought.strip(blanks) for thought in shown]


@pytest.mark.parametrize("style", list(DIALECT))
def test_segment_keeps_the_record_s_spans_where_an_observation_looks_like_labels(style, tmp_path):
    page = "Thought: no\nAction: reset\nObservation 2: quoted\n> go\nAction: search[x]\n(END OF EXAMPLES)"
    environment = worlds.Echo(style, observation=page)
    episode = play(
        environment, worlds.Script([Decision("a", "say"), Decision(None, "win")]), "word-0", seed=0, max_steps=9
    )
    record = trajectory_of(episode, id="i", source=SOURCE, facts={})
    assert recut(record.text, DIALECT[style]) != [cuts(record.spans)]
    (tmp_path / "t.jsonl").write_bytes(msgspec.json.encode(record) + b"\n")
    read = segment(scan_logs(str(tmp_path / "t.jsonl"))).collect().row(0, named=True)
    assert [(s["kind"], s["start"], s["stop"], s["step"]) for s in read["spans"]] == [
        (s.kind, s.start, s.stop, s.step) for s in record.spans
    ]
    assert (read["id"], read["text"], read["outcome"]["success"]) == ("i", record.text, True)


# ---- how each style looks, as in the public logs


def test_prompt_looks_as_alfworld_s():
    turn = [
        Turn("find a mug.", None, "OK.", True),
        Turn(None, "go to desk 1", "\n\nOn the desk 1, you see a mug 2.", True),
    ]
    lines = "".join(text_of(list(written("prompt", t, 1))) for t in turn)
    assert lines == "> think: find a mug.\nOK.\n> go to desk 1\nOn the desk 1, you see a mug 2.\n"
    assert text_of([opening("prompt", "You are.\nYour task is to: x.")]) == "You are.\nYour task is to: x.\n"


def test_webshop_looks_as_react_s_notebook():
    first = opening("webshop", "\nWebshop \nInstruction:  \ni want soap \n[Search] ")
    assert first.rest == "Action: reset\nObservation: \nWebshop \nInstruction:  \ni want soap \n[Search] \n\n"
    thought = text_of(list(written("webshop", Turn("It fits.", None, "OK.", True), 1)))
    assert thought == "Action: think[It fits.]\nObservation: OK.\n\n"
    act = text_of(list(written("webshop", Turn(None, "click[Buy Now]", "Your score (min 0.0, max 1.0): 1.0", True), 2)))
    assert act == "Action: click[Buy Now]\nObservation: Your score (min 0.0, max 1.0): 1.0\n\n"


def test_numbered_looks_as_reflexion_s():
    text = text_of(list(written("numbered", Turn("Look.", "Search[x]", "y\n", True), 3)))
    assert text == "Thought 3: Look.\nAction 3: Search[x]\nObservation 3: y\n"


def test_labels_look_as_fireact_s():
    text = text_of(list(written("labels", Turn("Look.", "search[x]", "y", True), 3)))
    assert text == "Thought: Look.\nAction: search[x]\nObservation: y\n"


# ---- the record


def test_the_record_tells_task_outcome_and_facts():
    script = [Decision("hm", "no"), Decision("so", "finish[it]")]
    episode = play(worlds.Echo("numbered"), worlds.Script(script), "word-3", seed=7, max_steps=9)
    record = trajectory_of(episode, id="i", source=SOURCE, facts={"agent": "script", "n": 2})
    assert (record.task_id, record.task) == ("word-3", "what is word-3?")
    outcome = record.outcome
    assert (outcome.success, outcome.reward, outcome.ending, outcome.answer) == (True, 1.0, "finished", "it")
    assert [span.flags for span in record.spans if span.kind == "act"] == [["rejected"], []]
    assert record.extra == {"agent": msgspec.Raw(b'"script"'), "n": msgspec.Raw(b"2")}
    halted = play(worlds.Echo(), worlds.Script([Decision(None, "no")]), "word-3", seed=7, max_steps=1)
    outcome = trajectory_of(halted, id="i", source=SOURCE, facts={}).outcome
    assert (outcome.success, outcome.reward, outcome.ending, outcome.answer) == (False, 0.0, "halted", None)


def test_where_nothing_answered_acts_share_a_step_and_a_thought_opens_one():
    turns = (Turn(None, "a", "", True), Turn(None, "b", " \n\t", True), Turn("hm", None, "OK.", True))
    episode = Episode("t", "", 0, "prompt", "A room.", turns, 0.0, "halted", {})
    parts = parts_of(episode)
    assert text_of(parts) == "A room.\n> a\n> b\n> think: hm\nOK.\n"
    assert [(span.kind, span.step) for span in spans_of(parts)] == [
        ("context", None),
        ("act", 0),
        ("act", 0),
        ("reason", 1),
        ("observation", 1),
    ]
    assert recut(text_of(parts), "prompt") == [cuts(spans_of(parts))]
