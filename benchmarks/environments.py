"""Steps and expert episodes a CPU second, on one core, per environment; loads and resets are in the episodes' time.

    python benchmarks/environments.py [NAME ...]

Where the original ALFWorld engine is installed (scripts/real_alfworld.sh), also how many times as long it takes.
"""

import importlib.util
import itertools
import random
import sys
import time
from collections.abc import Callable
from typing import Any

_EPISODES = 200
_STEPS = 4000


def steps(world: Any, tasks: list[str], n_steps: int) -> float:
    """CPU seconds a step of a random walk, resets left out, `admissible` asked at each."""
    chance = random.Random(0)
    seconds, taken = 0.0, 0
    for task in itertools.cycle(tasks):
        world.reset(task)
        begin = time.process_time()
        for _ in range(20):
            taken += 1
            if world.step(chance.choice(world.admissible() or ["look"])).done or taken == n_steps:
                break
        seconds += time.process_time() - begin
        if taken == n_steps:
            return seconds / taken
    raise ValueError("no tasks")


def episodes(world: Any, agent: Any, tasks: list[str]) -> tuple[float, int]:
    """CPU seconds an episode of the expert, and how many ended with reward 1."""
    n_won = 0
    begin = time.process_time()
    for task in tasks:
        observation = world.reset(task)
        agent.begin(world, task, observation, seed=0)
        for _ in range(world.max_steps):
            decision = agent.decide(observation)
            if decision.action is None:
                observation = "OK."
                continue
            reply = world.step(decision.action)
            observation = reply.observation
            if reply.done:
                n_won += reply.reward == 1
                break
    return (time.process_time() - begin) / len(tasks), n_won


def report(name: str, world: Any, agent: Any, split: str) -> float:
    """Print a line; CPU seconds a step."""
    tasks = list(world.task_ids(split))
    tasks = tasks[:: max(1, len(tasks) // _EPISODES)][:_EPISODES]
    world.reset(tasks[0])
    per_step = steps(world, tasks, _STEPS)
    per_episode, n_won = episodes(world, agent, tasks)
    sys.stdout.write(
        f"{name:<20} {1 / per_step:7.0f} steps/s {1 / per_episode:5.0f} expert episodes/s,"
        f" {n_won} of {len(tasks)} won within {world.max_steps} turns\n"
    )
    return per_step


def alfworld() -> None:
    """Ours on both splits and on new games, and the original on a few."""
    from sadstream.environments.alfworld import ALFWorld
    from sadstream.environments.alfworld_engine import RealALFWorld
    from sadstream.environments.alfworld_expert import ALFWorldExpert

    per_step = report("alfworld", ALFWorld(), ALFWorldExpert(), "train")
    report("alfworld, new games", ALFWorld(shuffle=1), ALFWorldExpert(), "train")
    if importlib.util.find_spec("alfworld") is None:
        sys.stdout.write("alfworld, original engine: not installed\n")
        return
    real, own, agent = RealALFWorld(), ALFWorld(), ALFWorldExpert()
    tasks = list(own.task_ids("train"))[::100]
    real_step, own_episode, real_episode = (
        steps(real, tasks, 60),
        episodes(own, agent, tasks),
        episodes(real, agent, tasks),
    )
    sys.stdout.write(
        f"alfworld, original engine: a step takes {real_step / per_step:.0f} times as long,"
        f" an expert episode {real_episode[0] / own_episode[0]:.0f} times\n"
    )


REPORTS: dict[str, Callable[[], None]] = {"alfworld": alfworld}

if __name__ == "__main__":
    for wanted in sys.argv[1:] or REPORTS:
        REPORTS[wanted]()
