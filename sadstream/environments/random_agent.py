"""A player that picks any valid action: what no skill at all achieves."""

import random
from typing import Any

from sadstream.environments.protocol import Decision
from sadstream.errors import TaskError


class RandomAgent:
    """Picks among the admissible actions with equal chance, without a word.

    Where an environment's actions cannot be listed (`admissible()` is None), it asks the environment's own
    `random_action(random: random.Random) -> str`, which need not stand in the protocol.
    """

    name = "random"
    privileged = False

    def begin(self, environment: Any, task_id: str, observation: str, *, seed: int) -> None:
        """Begin an episode; the same seed plays it the same way."""
        self._environment = environment
        self._random = random.Random(seed)

    def decide(self, observation: str) -> Decision:
        """Any valid action; an empty one where there is none.

        Raises:
            TaskError: actions can neither be listed nor drawn.
        """
        actions = self._environment.admissible()
        if actions is not None:
            return Decision(None, self._random.choice(actions) if actions else "")
        draw = getattr(self._environment, "random_action", None)
        if draw is None:
            raise TaskError(
                f"{self._environment.name}: its actions cannot be listed, so none can be picked at random",
                hint="give the environment a method `random_action(random) -> str`",
            )
        return Decision(None, draw(self._random))
