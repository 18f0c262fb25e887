"""ALFWorld: household tasks in text, played by an engine of our own that answers as the original does."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import msgspec

from sadstream.environments.alfworld_games import PACKAGED, TASK_TYPES, Game, find_game, furnish_game, task_names
from sadstream.environments.alfworld_rules import House, State, act, commands, first_text
from sadstream.environments.alfworld_shuffle import shuffled_game
from sadstream.environments.alfworld_text import command_of, react_wording, this_wording
from sadstream.environments.protocol import Reply, Style
from sadstream.errors import ConfigError, TaskError

# ReAct's examples, by the word that its prompts file has for a task type.
_EXAMPLES = dict(zip(TASK_TYPES, ("put", "examine", "clean", "heat", "cool", "puttwo"), strict=True))

Wording = Literal["engine", "react"]


class ALFWorld:
    """ALFWorld's games, or new ones made from their rooms.

    Text, admissible commands and wins are those of the original engine (alfworld 0.4.2); `put A in/on B`, as ReAct's
    prompts have it, is taken as `move A to B`. The original's worlds differ: see `data/alfworld/SOURCES.md`.

    Args:
        data: a JSON lines file of games, a folder of them, or an original `json_2.1.1` folder; None plays those that
            come with sadstream.
        shuffle: this many new games for each room instead of the room's own; their ids end in `#0`, `#1`, ...
        seed: of the new games.
        wording: `react` leaves out the welcome line and `You arrive at ...`, as ReAct's runner does.
        thoughts_count: whether a turn that only thinks uses up one of `max_steps`, as in ReAct.
        max_steps: turns of an episode, as most of the literature has it (ReAct: 49).
    """

    style: Style = "prompt"

    def __init__(
        self,
        data: str | Path | None = None,
        shuffle: int = 0,
        seed: int = 0,
        *,
        wording: Wording = "engine",
        thoughts_count: bool = True,
        max_steps: int = 50,
    ) -> None:
        if shuffle < 0:
            raise ConfigError(f"shuffle={shuffle}", hint="a number of new games for each room; 0 plays the room's own")
        if wording not in ("engine", "react"):
            raise ConfigError(f"wording={wording!r}", hint="engine or react")
        self._data = PACKAGED if data is None else Path(data)
        if not self._data.exists():
            raise TaskError(f"{self._data}: does not exist", hint="a file or folder of ALFWorld games")
        self._shuffle = shuffle
        self._seed = seed
        self._wording = wording
        self.max_steps = max_steps
        self.thoughts_count = thoughts_count
        options = [f"shuffled {shuffle} times by seed {seed}"] if shuffle else []
        options += ["ReAct's wording"] if wording == "react" else []
        options += [f"games of {self._data.name}"] if data is not None else []
        self.name = f"alfworld ({', '.join(options)})" if options else "alfworld"
        self.examples = few_shot_examples(wording)
        self._game: Game | None = None
        self._house: House
        self._state: State

    def task_ids(self, split: str) -> Sequence[str]:
        """Ids of a split's games, `train` or `valid_unseen` where the data is ours.

        Raises:
            TaskError: no such split, or damaged data.
        """
        tasks = task_names(self._data, split)
        if not self._shuffle:
            return tasks
        return [f"{task}#{number}" for task in tasks for number in range(self._shuffle)]

    def task_type(self, task_id: str) -> str:
        """One of ALFWorld's six, as `pick_and_place_simple`.

        Raises:
            TaskError: no such game, or damaged data.
        """
        return self.game(task_id).task_type

    def game(self, task_id: str) -> Game:
        """The game of an id, made on the spot where it is a new one.

        Raises:
            TaskError: no such game, or damaged data.
        """
        task, mark, number = task_id.partition("#")
        if not mark:
            return find_game(self._data, task)
        if not number.isdecimal() or not number.isascii() or int(number) >= self._shuffle:
            raise TaskError(
                f"no task `{task_id[:200]}`", hint=f"new games are made by shuffle=N; here N={self._shuffle}"
            )
        return shuffled_game(find_game(self._data, task), int(number), self._seed)

    def reset(self, task_id: str) -> str:
        """Begin a game: the room, and the task.

        Raises:
            TaskError: no such game, or damaged data.
        """
        game = self.game(task_id)
        self._house, self._state = furnish_game(game)
        self._game = game
        self._done = False
        return self._worded(first_text(self._house, self._state, game.goal))

    def step(self, action: str) -> Reply:
        """Do what an admissible command says; anything else, and anything after the end, is `Nothing happens.`

        Raises:
            TaskError: no game was begun.
        """
        if self._game is None:
            raise TaskError("no game is under way", hint="reset(task_id) begins one")
        chosen = None if self._done else commands(self._house, self._state).get(command_of(action))
        text = "Nothing happens."
        if chosen is not None:
            self._state, text = act(self._house, self._state, chosen)
        self._done = self._state.won
        return Reply(self._worded(text), float(self._state.won), self._done, chosen is not None)

    def admissible(self) -> list[str]:
        """The commands that do something now, sorted; none after the end."""
        if self._game is None or self._done:
            return []
        return sorted(commands(self._house, self._state))

    def _worded(self, text: str) -> str:
        return react_wording(text) if self._wording == "react" else text


@lru_cache(maxsize=2)
def _transcripts() -> dict[str, str]:
    return msgspec.json.decode((PACKAGED / "react_examples.json").read_bytes(), type=dict[str, str])


def few_shot_examples(wording: Wording) -> dict[str, str]:
    """ReAct's two examples for each task type, in its order and with its frame, in this version's words."""
    transcripts = _transcripts()
    examples = {}
    for kind, word in _EXAMPLES.items():
        text = this_wording(
            transcripts[f"react_{word}_1"] + transcripts[f"react_{word}_0"], arriving=wording == "engine"
        )
        examples[kind] = (
            f"Interact with a household to solve a task. Here are two examples.\n{text}\nHere is the task.\n"
        )
    return examples
