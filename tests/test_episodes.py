import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadstream.environments import Decision, Reply
from sadstream.environments.random_agent import RandomAgent
from sadstream.episodes import Play, Task, one_line, play, play_side_by_side
from sadstream.errors import TaskError
from tests import worlds
from tests.strategies import texts

styles = st.sampled_from(["labels", "numbered", "prompt", "webshop"])
decisions = st.builds(
    Decision, st.none() | texts(), st.none() | texts() | st.sampled_from(["say", "win", "no", "think: x", "think[x]"])
)


def play_script(script, *, style="labels", max_steps=9, **options):
    return play(worlds.Echo(style, **options), worlds.Script(script), "word-0", seed=0, max_steps=max_steps)


# ---- one line


@given(texts(max_size=12))
def test_what_is_said_is_one_printable_line(text):
    line = one_line(text)
    assert line.splitlines() in ([line], [])
    assert all(char.isprintable() or ord(char) > 0x9F for char in line)
    assert line == line.strip(" ") and one_line(line) == line
    line.encode()


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])))
def test_a_line_is_left_as_it_is_but_for_outer_blanks(text):
    assert one_line(text) == text.strip(" ")


def test_a_lone_surrogate_does_not_get_through():
    assert one_line("a\ud800b") == "a b"


# ---- turns and limits


@given(st.lists(decisions, max_size=12), styles, st.integers(1, 8), st.booleans())
def test_an_episode_ends_within_its_limits_whatever_the_agent_says(script, style, max_steps, thoughts_count):
    environment = worlds.Echo(style)
    environment.thoughts_count = thoughts_count
    episode = play(environment, worlds.Script(script), "word-0", seed=0, max_steps=max_steps)
    thoughts = [turn for turn in episode.turns if turn.action is None]
    counted = len(episode.turns) - (0 if thoughts_count else len(thoughts))
    assert len(episode.turns) >= 1
    assert counted <= max_steps and len(thoughts) <= max_steps
    if episode.ending == "halted":
        assert counted == max_steps or len(thoughts) == max_steps
    assert episode.success == (episode.ending == "finished") == (episode.reward == 1.0)
    won = [number for number, turn in enumerate(episode.turns) if turn.action in ("win", "finish[it]")]
    assert won == ([len(episode.turns) - 1] if episode.success else [])


def test_an_agent_that_never_acts_ends_by_the_limit_also_where_thoughts_are_free():
    for thoughts_count in (True, False):
        environment = worlds.Echo("prompt")
        environment.thoughts_count = thoughts_count
        episode = play(environment, worlds.Thinker(), "word-1", seed=0, max_steps=5)
        assert (len(episode.turns), episode.ending, episode.reward) == (5, "halted", 0.0)
        assert not episode.success


@pytest.mark.parametrize("style", ["prompt", "webshop"])
def test_where_thoughts_are_answered_one_is_a_turn_of_its_own(style):
    episode = play_script([Decision("look around", "say"), Decision(None, "win")], style=style)
    assert [(t.thought, t.action, t.observation) for t in episode.turns] == [
        ("look around", None, "OK."),
        (None, "say", "You said: say"),
        (None, "win", "You said: win"),
    ]
    cut = play_script([Decision("look around", "win")], style=style, max_steps=1)
    assert [(t.thought, t.action) for t in cut.turns] == [("look around", None)]
    assert cut.ending == "halted"


@pytest.mark.parametrize("style", ["labels", "numbered"])
def test_elsewhere_thought_and_action_are_one_turn(style):
    episode = play_script([Decision("look", "say"), Decision("alone", None), Decision("now", "win")], style=style)
    assert [(t.thought, t.action, t.observation) for t in episode.turns] == [
        ("look", "say", "You said: say"),
        ("alone", None, None),
        ("now", "win", "You said: win"),
    ]


def test_success_is_a_full_reward_at_the_worlds_own_end(monkeypatch):
    for reward, done, success in ((1.0, True, True), (0.5, True, False), (1.0, False, False)):
        reply = Reply("so", reward, done, True)
        monkeypatch.setattr(worlds.Echo, "step", lambda self, action, reply=reply: reply)
        episode = play_script([Decision(None, "say")], max_steps=1)
        assert (episode.success, episode.reward, episode.ending == "finished") == (success, reward, done)


def test_an_invalid_action_is_told_from_a_valid_one():
    episode = play_script([Decision(None, "no"), Decision(None, "say"), Decision(None, "win")])
    assert [turn.valid for turn in episode.turns] == [False, True, True]


def test_who_says_nothing_gives_an_empty_action():
    episode = play_script([Decision(None, None)], max_steps=1)
    assert [(t.thought, t.action, t.valid) for t in episode.turns] == [(None, "", False)]


@pytest.mark.parametrize(
    ("style", "action", "thought"),
    [
        ("prompt", "think: hm", "hm"),
        ("prompt", "Think:hm", "hm"),
        ("prompt", "ActionPath: a->b", "a->b"),
        ("webshop", "think[hm]", "hm"),
        ("webshop", "think[cut off", "cut off"),
        ("labels", "think[[a] b]", "[a] b"),
    ],
)
def test_an_action_that_a_style_takes_for_a_thought_is_one(style, action, thought):
    turn = play_script([Decision(None, action)], style=style).turns[0]
    assert (turn.thought, turn.action) == (thought, None)


@pytest.mark.parametrize(
    ("style", "action"),
    [("prompt", "think"), ("numbered", "think[hm]"), ("webshop", "think hm"), ("prompt", "thinking:")],
)
def test_and_no_other_is(style, action):
    turn = play_script([Decision(None, action)], style=style).turns[0]
    assert (turn.thought, turn.action, turn.valid) == (None, action, False)


def test_the_environment_gets_what_is_written_and_the_agent_what_answered_its_last_action():
    under_way = Play(
        worlds.Echo(), worlds.Script([Decision(None, "go\nto"), Decision("hm", None)]), Task("word-0", 0), max_steps=3
    )
    while not under_way.over:
        under_way.take(under_way.decide())
    opening = "Question: what is word-0?"
    assert under_way.agent.heard == [opening, opening, "You said: go to", "You said: go to"]


def test_ten_thousand_characters_and_control_characters_are_one_invalid_action_each():
    episode = play(worlds.Echo("prompt"), worlds.Shouter(), "word-0", seed=0, max_steps=4)
    assert [turn.action is None for turn in episode.turns] == [True, False] * 2
    said = episode.turns[1]
    assert said.action == "x" * 10_000 + " Action: win" and not said.valid
    assert episode.turns[0].thought == "oh > no [31m" + "y" * 10_000


# ---- side by side


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2**64 - 1)), max_size=9), st.integers(1, 6), styles)
def test_side_by_side_each_episode_is_the_one_that_it_is_alone(tasks, n_seats, style):
    environment, agent = worlds.Echo(style), worlds.Winner()
    tasks = [Task(f"word-{number}", seed) for number, seed in tasks]
    alone = [play(environment, agent, task_id, seed=seed, max_steps=7) for task_id, seed in tasks]
    together = dict(play_side_by_side(environment, agent, tasks, max_steps=7, n_seats=n_seats))
    assert [together[number] for number in range(len(tasks))] == alone


def test_an_agent_that_can_is_asked_once_a_round_for_all_seats():
    tasks = [Task(f"word-{number}", 10 + number) for number in range(6)]
    worlds.Together.asked.clear()
    played = dict(play_side_by_side(worlds.Echo(), worlds.Together(), tasks, max_steps=6, n_seats=4))
    assert worlds.Together.asked[0] == 4 and max(worlds.Together.asked) == 4
    assert sum(worlds.Together.asked) == sum(len(episode.turns) for episode in played.values())
    assert played == dict(play_side_by_side(worlds.Echo(), worlds.Winner(), tasks, max_steps=6, n_seats=1))


def test_tasks_are_taken_only_when_a_seat_is_free():
    taken = []

    def tasks():
        for number in range(6):
            taken.append(number)
            yield Task(f"word-{number}", 3 * number + 1)

    playing = play_side_by_side(worlds.Echo(), worlds.Winner(), tasks(), max_steps=9, n_seats=2)
    next(playing)
    assert len(taken) == 2
    assert len(list(playing)) == 5


def test_what_was_passed_in_is_not_played_with():
    environment, agent = worlds.Echo(), worlds.Winner()
    before = pickle.dumps((environment, agent))
    play(environment, agent, "word-0", seed=1, max_steps=9)
    assert pickle.dumps((environment, agent)) == before


# ---- what goes wrong


def test_an_error_names_task_and_turn():
    with pytest.raises(TaskError, match=r"^task word-0, turn 2: Breaker: KeyError: 'lost'$") as raised:
        play(worlds.Echo(), worlds.Breaker(), "word-0", seed=0, max_steps=9)
    assert "worlds.py:" in raised.value.hint
    with pytest.raises(TaskError, match="task nope, turn 1: echo: no task 'nope'") as raised:
        play(worlds.Echo(), worlds.Winner(), "nope", seed=0, max_steps=9)
    assert raised.value.hint == "word-0"
    with pytest.raises(TaskError, match="task word-0, turn 1: echo-labels: its actions cannot be listed"):
        play(worlds.Mute(), RandomAgent(), "word-0", seed=0, max_steps=9)


@pytest.mark.parametrize("said", ["say", None, ("a", "b", "c"), (1, None)])
def test_what_is_no_decision_is_refused(said):
    with pytest.raises(TaskError, match="task word-0, turn 1: decide gave"):
        play_script([said])


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ("words", "step gave str, not a reply"),
        (None, "step gave NoneType"),
        (("text", "much", True, True), "step gave tuple"),
        (Reply("", 1.5, True, True), "a reward of 1.5"),
        (Reply("", float("nan"), True, True), "a reward of nan"),
        (Reply(b"", 0.0, True, True), "an observation is bytes"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_reply_is_refused(reply, named, monkeypatch):
    monkeypatch.setattr(worlds.Echo, "step", lambda self, action: reply)
    with pytest.raises(TaskError, match=f"task word-0, turn 1: {named}"):
        play_script([Decision(None, "say")])


def test_a_plain_tuple_will_do_for_a_reply_and_for_a_decision(monkeypatch):
    monkeypatch.setattr(worlds.Echo, "step", lambda self, action: ("so", 1, True, True))
    assert play_script([(None, "say")]).success


def test_a_bug_of_our_own_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(RandomAgent, "decide", lambda self, observation: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        play(worlds.Echo(), RandomAgent(), "word-0", seed=0, max_steps=9)


# ---- the random policy


@given(st.integers(0, 2**64 - 1))
def test_the_random_policy_takes_valid_actions_only_and_the_seed_decides(seed):
    episode = play(worlds.Echo(), RandomAgent(), "word-0", seed=seed, max_steps=9)
    assert all(turn.valid and turn.thought is None for turn in episode.turns)
    assert episode == play(worlds.Echo(), RandomAgent(), "word-0", seed=seed, max_steps=9)


def test_other_seeds_play_otherwise_and_unlisted_actions_are_drawn():
    played = {play(worlds.Unlisted(), RandomAgent(), "word-0", seed=s, max_steps=4).turns for s in range(5)}
    assert len(played) == 5
    assert all(turn.action.startswith("number ") for turns in played for turn in turns)
