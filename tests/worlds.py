"""Small environments and players for tests, also run in other processes as `tests.worlds:Class`."""

import random
import time
from collections.abc import Sequence
from typing import Any

from sadstream.environments import Decision, Reply, Style
from sadstream.errors import TaskError
from sadstream.policies import Answer


class Echo:
    """Says back what it is told; the word `win` ends it, the word `no` is invalid."""

    thoughts_count = True
    max_steps = 9

    def __init__(self, style: Style = "labels", n_tasks: int = 6, observation: str = "You said: {}") -> None:
        self.name = f"echo-{style}"
        self.style = style
        self.examples: dict[str, str] = {}
        self._observation = observation
        self._n_tasks = n_tasks
        self._done = False

    def task_ids(self, split: str) -> list[str]:
        if split != "train":
            raise TaskError(f"echo: no split {split!r}", hint="train")
        return [f"word-{number}" for number in range(self._n_tasks)]

    def task_type(self, task_id: str) -> str:
        return "even" if int(task_id.split("-")[1]) % 2 == 0 else "odd"

    def reset(self, task_id: str) -> str:
        if task_id not in self.task_ids("train"):
            raise TaskError(f"echo: no task {task_id!r}", hint="word-0")
        self._done = False
        return f"Question: what is {task_id}?"

    def step(self, action: str) -> Reply:
        valid = not self._done and action in self.admissible()
        self._done = self._done or (valid and action in ("win", "finish[it]"))
        return Reply(self._observation.format(action), float(self._done), self._done, valid)

    def admissible(self) -> list[str]:
        return [] if self._done else ["hum", "say", "win", "finish[it]"]


class Unlisted(Echo):
    """An echo whose actions cannot be listed, but drawn."""

    def admissible(self) -> None:  # type: ignore[override]
        return None

    def step(self, action: str) -> Reply:
        return Reply(action, 0.0, False, True)

    def random_action(self, chance: random.Random) -> str:
        return f"number {chance.randrange(10)}"


class Mute(Unlisted):
    """An echo whose actions can be neither listed nor drawn."""

    random_action = None  # type: ignore[assignment]


class Winner:
    """Thinks, says something, wins; how long that takes depends on the seed. Every third seed never wins."""

    name = "winner"
    privileged = False

    def __init__(self, sleep: float = 0.0) -> None:
        self._sleep = sleep

    def begin(self, environment: Any, task_id: str, observation: str, *, seed: int) -> None:
        self._random = random.Random(seed)
        self._n_left = self._random.randrange(4)
        self._loses = seed % 3 == 0
        self._n_decisions = 0

    def decide(self, observation: str) -> Decision:
        time.sleep(self._sleep)
        self._n_decisions += 1
        if self._n_left == 0 and not self._loses:
            return Decision("now", "win")
        self._n_left -= 1
        return Decision(f"thought {self._n_decisions}", self._random.choice(["say", "hum", "no"]))


class Script:
    """Says given decisions, then nothing."""

    name = "script"
    privileged = False

    def __init__(self, decisions: Sequence[Any] = ()) -> None:
        self._decisions = list(decisions)

    def begin(self, environment: Any, task_id: str, observation: str, *, seed: int) -> None:
        self._next = 0
        self.heard = [observation]

    def decide(self, observation: str) -> Any:
        self.heard.append(observation)
        self._next += 1
        return self._decisions[self._next - 1] if self._next <= len(self._decisions) else Decision("hm", None)


class Thinker(Script):
    """Never acts."""

    name = "thinker"


class Shouter(Script):
    """Says 10,000 characters, line breaks and control characters, again and again."""

    name = "shouter"

    def decide(self, observation: str) -> Decision:
        return Decision("\x00oh\n\n> no\x1b[31m" + "y" * 10_000, "x" * 10_000 + "\nAction: win\r\n\ud800")


class Breaker(Script):
    """Fails in its second turn."""

    def decide(self, observation: str) -> Decision:
        self._next += 1
        if self._next == 2:
            raise KeyError("lost")
        return Decision(None, "say")


class Together(Winner):
    """A winner that is asked for all seats at once."""

    asked: list[int] = []  # noqa: RUF012

    @staticmethod
    def decide_together(players: Sequence[Any], observations: Sequence[str]) -> list[Decision]:
        Together.asked.append(len(players))
        return [player.decide(observation) for player, observation in zip(players, observations, strict=True)]


class NeedsMissing(Echo):
    """An environment whose package is not there."""

    def __init__(self) -> None:
        import no_such_package_anywhere  # noqa: F401

        super().__init__()


class Nothing:
    """No environment at all."""


class Saying:
    """A writer that says given texts, each as the rounds of an episode come; it keeps what it was asked."""

    name = "saying"
    facts: dict[str, Any] = {}  # noqa: RUF012
    can_choose = True

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = list(texts)
        self.asked: list[Any] = []

    def count_tokens(self, text: str) -> int:
        return len(text)

    def write(self, prompts: Sequence[Any]) -> list[Answer]:
        self.asked += prompts
        return [
            Answer(p.choices[0] if p.choices else self._texts[p.seed[1] % len(self._texts)], 1, 1, p.n_dropped, False)
            for p in prompts
        ]
