"""Our ALFWorld against the original engine, which `bash scripts/real_alfworld.sh` installs beside .venv."""

import gzip
import importlib.util
import json
import os
import random

import pytest

from sadstream.environments.alfworld import ALFWorld
from sadstream.environments.alfworld_engine import RealALFWorld
from sadstream.errors import TaskError

# A load of the original takes seconds, so the number of games is the caller's choice.
N_WALKTHROUGHS = int(os.environ.get("SADSTREAM_ALFWORLD_WALKTHROUGHS", "6"))
N_RANDOM_WALKS = int(os.environ.get("SADSTREAM_ALFWORLD_RANDOM_WALKS", "3"))

HERE = importlib.util.find_spec("alfworld") is not None
with_original = pytest.mark.skipif(not HERE, reason="alfworld is not installed: bash scripts/real_alfworld.sh")


def shuffled_tasks(world):
    """All tasks, in an order that any number of first ones samples both splits."""
    tasks = [task for split in ("train", "valid_unseen") for task in world.task_ids(split)]
    random.Random(7).shuffle(tasks)
    return tasks


def compare(own, real, task, choose, n_steps):
    """Play both side by side; text, commands and wins must be equal at each step. Returns the steps taken."""
    assert own.reset(task) == real.reset(task)
    assert own.admissible() == real.admissible()
    spoken = []
    while len(spoken) < n_steps and own.admissible():
        spoken.append(choose(len(spoken), own.admissible()))
        assert own.step(spoken[-1]) == real.step(spoken[-1]), (task, spoken)
        assert own.admissible() == real.admissible(), (task, spoken)
    return len(spoken)


def wander(seed):
    """A seeded choice that does more than walk about, and now and then says what is not admissible."""
    chance = random.Random(seed)

    def choose(number, ways):
        acts = [way for way in ways if not way.startswith(("go to", "examine", "look", "inventory", "help"))]
        if acts and chance.random() < 0.6:
            return chance.choice(acts)
        return chance.choice(ways) if chance.random() < 0.9 else chance.choice(["look", " look ", "Look", "go to x 1"])

    return choose


@with_original
def test_walkthroughs_read_the_same():
    own, real = ALFWorld(), RealALFWorld()
    for task in shuffled_tasks(own)[:N_WALKTHROUGHS]:
        way = own.game(task).walkthrough
        assert compare(own, real, task, lambda number, _, way=way: way[number], 99) == len(way)
        assert real.step("look") == own.step("look")


@with_original
def test_random_walks_read_the_same():
    own, real = ALFWorld(), RealALFWorld()
    for task in reversed(shuffled_tasks(own)[-N_RANDOM_WALKS:]):
        compare(own, real, task, wander(task), 40)


@with_original
def test_new_games_are_won_in_the_original_too():
    own, real = ALFWorld(shuffle=1), RealALFWorld(shuffle=1)
    for task in shuffled_tasks(own)[: max(2, N_RANDOM_WALKS // 4)]:
        way = own.game(task).walkthrough
        assert compare(own, real, task, lambda number, _, way=way: way[number], 99) == len(way)
        assert real.step("look").reward == 1


@with_original
def test_receptacles_that_share_a_place_read_the_same(shared_data, tmp_path):
    with gzip.open(shared_data / "env/alfworld/real_game_FloorPlan14_initial_state.pddl.gz", "rt") as file:
        row = {"task": "t", "task_type": "x", "goal": "put a hot potato in sinkbasin", "pddl_problem": file.read()}
    path = tmp_path / "games.jsonl"
    path.write_text(json.dumps(row))

    def choose(number, ways):
        # Two receptacles stand there: things go from the one to the other, and `look` tells.
        acts = [way for way in ways if way.startswith(("take", "move", "look"))]
        return "go to countertop 2" if number == 0 else chance.choice(acts)

    chance = random.Random(0)
    compare(ALFWorld(path), RealALFWorld(path), "t", choose, 40)


@pytest.mark.skipif(HERE, reason="alfworld is installed")
def test_without_the_original_the_line_that_installs_it_is_named():
    with pytest.raises(TaskError, match="cannot be imported") as error:
        RealALFWorld()
    assert "pip install alfworld==0.4.2" in error.value.hint
