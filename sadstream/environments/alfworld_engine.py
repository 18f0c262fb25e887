"""The original ALFWorld engine (PyPI `alfworld`, on TextWorld) behind our protocol, to compare with and to time.

A load takes about a second and it needs GPL-licensed parts, so nothing else here uses it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sadstream.environments.alfworld import ALFWorld
from sadstream.environments.protocol import Reply, Style
from sadstream.errors import TaskError

_INSTALL = "pip install alfworld==0.4.2 (needs a C++ compiler and cmake, some minutes)"


class RealALFWorld:
    """The same games as `ALFWorld`, with the same arguments, played by the original engine.

    Raises:
        TaskError: `alfworld` is not installed; the hint has the line that does.
    """

    style: Style = "prompt"

    def __init__(self, data: str | Path | None = None, shuffle: int = 0, seed: int = 0) -> None:
        try:
            import alfworld
            from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
            from textworld import EnvInfos
            from textworld.envs import PddlEnv
        except ImportError as error:
            raise TaskError(f"the original ALFWorld engine cannot be imported: {error}", hint=_INSTALL) from error
        folder = Path(alfworld.__file__).parent / "data"
        self._domain = (folder / "alfred.pddl").read_text()
        self._grammar = (folder / "alfred.twl2").read_text()
        self._make = lambda: AlfredDemangler(PddlEnv(EnvInfos(won=True, admissible_commands=True)), shuffle=False)
        self._games = ALFWorld(data, shuffle, seed)
        self._engine: Any = None
        self._state: Any = None
        self._done = False
        self.name = self._games.name.replace("alfworld", "original alfworld", 1)
        self.max_steps = self._games.max_steps
        self.thoughts_count = self._games.thoughts_count
        self.examples = self._games.examples

    def task_ids(self, split: str) -> Sequence[str]:
        """Ids of a split's games.

        Raises:
            TaskError: no such split, or damaged data.
        """
        return self._games.task_ids(split)

    def task_type(self, task_id: str) -> str:
        """One of ALFWorld's six."""
        return self._games.task_type(task_id)

    def reset(self, task_id: str) -> str:
        """Begin a game.

        Raises:
            TaskError: no such game.
        """
        game = self._games.game(task_id)
        self._engine = self._make()
        self._engine.load(
            {
                "pddl_domain": self._domain,
                "grammar": self._grammar.replace("UNKNOWN GOAL", game.goal),
                "pddl_problem": game.pddl_problem,
            }
        )
        self._state = self._engine.reset()
        self._done = False
        return str(self._state.feedback)

    def step(self, action: str) -> Reply:
        """Do what an admissible command says; anything else, and anything after the end, is `Nothing happens.`

        Raises:
            TaskError: no game was begun.
        """
        if self._engine is None:
            raise TaskError("no game is under way", hint="reset(task_id) begins one")
        if self._done:
            return Reply("Nothing happens.", float(self._state["won"]), True, False)
        valid = action.strip() in self._state["admissible_commands"]
        self._state, reward, self._done = self._engine.step(action)
        return Reply(str(self._state.feedback), float(reward), bool(self._done), valid)

    def admissible(self) -> list[str]:
        """The commands that do something now, sorted; none after the end."""
        return [] if self._engine is None or self._done else list(self._state["admissible_commands"])
