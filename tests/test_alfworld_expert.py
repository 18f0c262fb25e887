import copy
import pickle
import re

import msgspec
import pytest

from sadstream.environments.alfworld import ALFWorld
from sadstream.environments.alfworld_expert import ALFWorldExpert, read_goal
from sadstream.errors import ConfigError, TaskError

WORLD = ALFWorld()
TASKS = [task for split in ("train", "valid_unseen") for task in WORLD.task_ids(split)]


def play(world, agent, task, *, seed=0, limit=200):
    """Decisions of an episode, its replies, and whether it was won."""
    observation = world.reset(task)
    agent.begin(world, task, observation, seed=seed)
    decisions, replies = [], []
    while len(decisions) < limit and not (replies and replies[-1].done):
        decisions.append(agent.decide(observation))
        if decisions[-1].action is None:
            observation = "OK."
        else:
            replies.append(world.step(decisions[-1].action))
            observation = replies[-1].observation
    return decisions, replies, replies[-1].done


def test_the_expert_wins_every_game_and_all_but_one_within_fifty_turns():
    agent = ALFWorldExpert()
    n_turns, n_actions = [], []
    for task in TASKS:
        decisions, replies, won = play(WORLD, agent, task)
        assert won, task
        assert all(reply.valid for reply in replies), task
        n_turns.append(len(decisions))
        n_actions.append(len(replies))
    # In one training room the newspaper lies in the second last of 21 closed drawers.
    assert sum(n > WORLD.max_steps for n in n_turns) == sum(n > WORLD.max_steps for n in n_actions) == 1
    assert max(n_turns[395:]) <= WORLD.max_steps
    assert 13 < sum(n_turns) / len(TASKS) < 15
    assert 8 < sum(n_actions) / len(TASKS) < 10


def test_the_expert_sees_only_what_it_reads():
    class Blind:
        def admissible(self):
            return None

    for task in TASKS[::50]:
        seen, blind = ALFWorldExpert(), ALFWorldExpert()
        expected, replies, _ = play(WORLD, seen, task)
        blind.begin(Blind(), task, WORLD.reset(task), seed=0)
        observations = iter(reply.observation for reply in replies)
        observation = ""
        for decision in expected:
            assert blind.decide(observation) == decision
            observation = "OK." if decision.action is None else next(observations)


def test_either_wording_is_read():
    react = ALFWorld(wording="react")
    for task in TASKS[::25]:
        assert play(react, ALFWorldExpert(), task)[0] == play(WORLD, ALFWorldExpert(), task)[0]


def test_thoughts_are_react_s():
    decisions, _, _ = play(
        WORLD, ALFWorldExpert(), "pick_heat_then_place_in_recep-Apple-None-Fridge-12/trial_T20190909_151749_236238"
    )
    thoughts = [decision.thought for decision in decisions if decision.thought]
    patterns = [
        r"To solve the task, I need to find and take an apple, then heat it with microwave, then put it in fridge\.",
        r"First I need to find an apple\. An apple is more likely to appear in \w+ \([\d-]+\), .*\. I can check one by"
        r" one, starting with \w+ \d+\.",
        r"Now I find an apple \(\d\)\. Next, I need to take it\.",
        r"Now I take an apple \(\d\)\. Next, I need to go to microwave 1 and heat it\.",
        r"Now I heat an apple \(\d\)\. Next, I need to put it in/on fridge 1\.",
    ]
    assert len(thoughts) == len(patterns)
    for thought, pattern in zip(thoughts, patterns, strict=True):
        assert re.fullmatch(pattern, thought), thought


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_mistakes_are_noticed_mended_and_seeded(rate):
    n_wrong = 0
    thoughts = ""
    for task in TASKS[::10]:
        decisions, replies, won = play(WORLD, ALFWorldExpert(rate), task)
        thoughts += "\n".join(decision.thought or "" for decision in decisions)
        assert won, task
        assert play(WORLD, ALFWorldExpert(rate), task)[0] == decisions
        clean, _, _ = play(WORLD, ALFWorldExpert(), task)
        n_wrong += len(decisions) > len(clean)
        # After a mistake comes a thought, never another action.
        for number, decision in enumerate(decisions):
            if decision.thought and re.search("mistake|wrong way|Nothing happens", decision.thought):
                assert decisions[number - 1].action is not None
        wrong = [n for n, reply in enumerate(replies) if not reply.valid]
        acts = [n for n, decision in enumerate(decisions) if decision.action is not None]
        assert all(decisions[acts[n] + 1].thought for n in wrong)
    for words in ("wrong way", "by mistake", "Nothing happens"):
        assert words in thoughts
    assert (0.3 if rate == 0.1 else 0.9) < n_wrong / 50 <= 1


def test_seeds_and_rates_make_a_difference():
    played = {
        (rate, seed): [play(WORLD, ALFWorldExpert(rate), task, seed=seed)[0] for task in TASKS[::40]]
        for rate in (0.0, 0.2)
        for seed in (0, 1)
    }
    assert played[0.0, 0] == played[0.0, 1]
    assert played[0.2, 0] != played[0.2, 1]


def test_new_games_are_won_too():
    world = ALFWorld(shuffle=1)
    tasks = [*world.task_ids("train")[::8], *world.task_ids("valid_unseen")[::8]]
    assert all(play(world, ALFWorldExpert(), task)[2] for task in tasks)


def test_receptacles_that_share_a_place_are_examined(tmp_path):
    n_examined = 0
    for number, task in enumerate(TASKS[::60]):
        game = WORLD.game(task)
        # All stand at one place: no way leads from one to another.
        place = re.search(r"\(receptacleAtLocation \S+ (\S+)\)", game.pddl_problem)[1]
        shared = re.sub(r"\(receptacleAtLocation (\S+) \S+\)", rf"(receptacleAtLocation \1 {place})", game.pddl_problem)
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(game, pddl_problem=shared)))
        decisions, _, won = play(ALFWorld(path), ALFWorldExpert(), task)
        assert won, task
        n_examined += sum((decision.action or "").startswith("examine ") for decision in decisions)
    assert n_examined > 10


def test_copies_play_side_by_side_and_pickles_begin_anew():
    first = ALFWorldExpert(0.2)
    second = copy.copy(first)
    alone = [play(WORLD, ALFWorldExpert(0.2), task)[0] for task in TASKS[:2]]
    worlds = [ALFWorld(), ALFWorld()]
    agents = [first, second]
    observations = [world.reset(task) for world, task in zip(worlds, TASKS, strict=False)]
    for agent, world, task, observation in zip(agents, worlds, TASKS, observations, strict=False):
        agent.begin(world, task, observation, seed=0)
    side_by_side = [[], []]
    for _ in range(100):
        for number in (0, 1):
            if worlds[number]._done:
                continue
            decision = agents[number].decide(observations[number])
            side_by_side[number].append(decision)
            reply = worlds[number].step(decision.action).observation if decision.action else "OK."
            observations[number] = reply
    assert side_by_side == alone
    assert play(WORLD, pickle.loads(pickle.dumps(first)), TASKS[0])[0] == alone[0]


def test_what_the_expert_cannot_play_is_said():
    with pytest.raises(TaskError, match="cannot read the goal `dance`"):
        read_goal("dance")
    with pytest.raises(TaskError, match="no `Your task is to:`"):
        ALFWorldExpert().begin(WORLD, "t", "Question: who?", seed=0)
    with pytest.raises(TaskError, match="no episode is under way"):
        ALFWorldExpert().decide("")
    for rate in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigError):
            ALFWorldExpert(rate)
