"""An environment of one's own, and a player that solves it: two jugs, a tap, and an amount to measure out.

sadstream collect --env examples.own_environment:Jugs --agent examples.own_environment:Pourer --out played
"""

import re
from collections import deque
from math import gcd

from sadstream.environments import Decision, Reply
from sadstream.errors import TaskError

ACTIONS = ["fill A", "fill B", "empty A", "empty B", "pour A into B", "pour B into A"]


def poured(litres: tuple[int, int], sizes: tuple[int, int], action: str) -> tuple[int, int]:
    """What the jugs hold after an action."""
    (a, b), (size_a, size_b) = litres, sizes
    into_b, into_a = min(a, size_b - b), min(b, size_a - a)
    after = [(size_a, b), (a, size_b), (0, b), (a, 0), (a - into_b, b + into_b), (a + into_a, b - into_a)]
    return after[ACTIONS.index(action)]


class Jugs:
    """Measure out an amount with two jugs. A task's id says it all: `3-5-4` is jugs of 3 and 5 litres, and 4 wanted."""

    name = "jugs"
    style = "labels"
    max_steps = 20
    thoughts_count = False

    def __init__(self, largest: int = 7) -> None:
        self.examples: dict[str, str] = {}
        sizes = range(2, largest + 1)
        wanted = [(a, b, n) for a in sizes for b in range(a + 1, largest + 1) for n in range(1, b) if n != a]
        self._tasks = [f"{a}-{b}-{n}" for a, b, n in wanted if n % gcd(a, b) == 0]

    def task_ids(self, split: str) -> list[str]:
        tests = {task for number, task in enumerate(self._tasks) if number % 5 == 0}
        splits = {"train": [t for t in self._tasks if t not in tests], "test": [t for t in self._tasks if t in tests]}
        if split not in splits:
            raise TaskError(f"jugs: no split {split!r}", hint="train or test")
        return splits[split]

    def task_type(self, task_id: str) -> str:
        a, _, wanted = map(int, task_id.split("-"))
        return "more than the small jug" if wanted > a else "less than it"

    def reset(self, task_id: str) -> str:
        if task_id not in self._tasks:
            raise TaskError(f"jugs: no task {task_id!r}", hint=f"as {self._tasks[0]}")
        a, b, self._wanted = (int(number) for number in task_id.split("-"))
        self._sizes, self._litres = (a, b), (0, 0)
        return f"Question: How to measure out {self._wanted} litres with jugs of {a} and {b}?\n{self._seen()}"

    def step(self, action: str) -> Reply:
        valid = action in self.admissible()
        if valid:
            self._litres = poured(self._litres, self._sizes, action)
        done = self._wanted in self._litres
        said = self._seen() if valid else f"You can {', '.join(ACTIONS)}."
        return Reply(f"Done. {said}" if done else said, float(done), done, valid)

    def admissible(self) -> list[str]:
        return [] if self._wanted in self._litres else ACTIONS

    def _seen(self) -> str:
        (a, b), (size_a, size_b) = self._litres, self._sizes
        return f"Jug A holds {a} of {size_a} litres, jug B {b} of {size_b}."


class Pourer:
    """Solves it from what it reads alone: the shortest way, found by trying all of them in mind."""

    name = "pourer"
    privileged = False

    def begin(self, environment: object, task_id: str, observation: str, *, seed: int) -> None:
        self._wanted = int(re.findall(r"out (\d+)", observation)[0])

    def decide(self, observation: str) -> Decision:
        a, size_a, b, size_b = (int(number) for number in re.findall(r"\d+", observation.split("Jug A")[1]))
        action, n_left = self._first_step((a, b), (size_a, size_b))
        return Decision(f"{a} and {b} litres, and {self._wanted} are wanted: {n_left} more.", action)

    def _first_step(self, litres: tuple[int, int], sizes: tuple[int, int]) -> tuple[str, int]:
        ways: deque[tuple[tuple[int, int], list[str]]] = deque([(litres, [])])
        seen = {litres}
        while ways:
            now, way = ways.popleft()
            if self._wanted in now:
                return way[0], len(way)
            for action in ACTIONS:
                after = poured(now, sizes, action)
                if after not in seen:
                    seen.add(after)
                    ways.append((after, [*way, action]))
        raise TaskError("no way to measure it out")
