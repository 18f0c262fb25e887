"""TextWorld's games (PyPI `textworld`, an optional extra) behind our protocol, and a player of their walkthroughs.

A game is compiled on first use, about a second, into a temporary folder that goes with the process.
"""

import gzip
import re
import tempfile
import warnings
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from sadstream.environments.protocol import Decision, Reply, Style
from sadstream.errors import ConfigError, TaskError

_INSTALL = "pip install 'sadstream[textworld]'"
_LAYOUT = "wanted: a .jsonl(.gz) file, a game a line with game, objective, walkthrough, max_score and world"
_NOTHING = "Nothing happens."
_BANNER_LINE = re.compile(r"^ *[\\|_$/][ _$/\\|<>{}-]*$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n\s*\n")
_QUESTION = re.compile(r"\n\s*Would you like to RESTART, RESTORE a saved game, QUIT or UNDO the last command\?")


class GameRow(msgspec.Struct, frozen=True):
    """A line of the data.

    Attributes:
        game: its id, GENERATOR-NUMBER.
        world: the game as TextWorld serialises it.
        max_score: the score of a game that is won, at least 1.
    """

    game: str
    objective: str
    walkthrough: tuple[str, ...]
    max_score: int
    world: dict[str, Any]

    @property
    def generator(self) -> str:
        """What made it."""
        return self.game.rpartition("-")[0] or self.game


class TextWorld:
    """Games of a file, played by TextWorld's own engine.

    Only admissible commands reach the engine, which takes others too, UNDO and QUIT among them.

    Args:
        data: a .jsonl(.gz) file of `GameRow`s.
        seed: of the compiler.
    Raises:
        ConfigError: no data named.
        TaskError: `textworld` is not installed, or the data cannot be read; names file and line.
    """

    style: Style = "prompt"
    thoughts_count = True
    name = "textworld"

    def __init__(self, data: str | Path | None = None, seed: int = 0, max_steps: int = 50) -> None:
        if not data:
            raise ConfigError("textworld comes with no games of its own", hint=f"--data PATH; {_LAYOUT}")
        try:
            import textworld  # noqa: F401
        except ImportError as error:
            raise TaskError(f"TextWorld cannot be imported: {error}", hint=_INSTALL) from error
        self._data = Path(data)
        self._games = read_games(self._data)
        self._seed = seed
        self._row: GameRow | None = None
        self._played: tuple[str, ...] = ()
        self._engine: _Engine | None = None
        self.max_steps = max_steps
        self.examples: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        # An engine is a C library's memory; its commands bring it back.
        return {**self.__dict__, "_engine": None}

    def task_ids(self, split: str) -> Sequence[str]:
        """Ids of all games (`all`) or of a generator's, in the order of the file.

        Raises:
            TaskError: no such split.
        """
        splits = ["all", *dict.fromkeys(row.generator for row in self._games.values())]
        if split not in splits:
            raise TaskError(f"{self._data}: no split `{split[:200]}`", hint=f"there are {', '.join(splits)}")
        return [task for task, row in self._games.items() if split in ("all", row.generator)]

    def task_type(self, task_id: str) -> str:
        """The generator that made the game."""
        return self.game(task_id).generator

    def game(self, task_id: str) -> GameRow:
        """A game's line.

        Raises:
            TaskError: no such game.
        """
        if task_id not in self._games:
            raise TaskError(f"{self._data}: no task `{task_id[:200]}`", hint="`task_ids(split)` lists them")
        return self._games[task_id]

    def reset(self, task_id: str) -> str:
        """Begin a game: its objective and the first room.

        Raises:
            TaskError: no such game, or one that cannot be compiled.
        """
        self._row, self._played, self._engine = self.game(task_id), (), None
        text = clean_text(str(self._current().state.feedback))
        objective = clean_text(self._row.objective)
        return text if objective in text else f"{objective}\n\n{text}"

    def step(self, action: str) -> Reply:
        """Do an admissible command; anything else, and anything after the end, is `Nothing happens.`

        Raises:
            TaskError: no game was begun.
        """
        engine = self._current()
        action = action.strip()
        if action not in self.admissible():
            return Reply(_NOTHING, self._reward(engine), engine.done, False)
        engine.step(action)
        self._played = engine.played
        return Reply(clean_text(str(engine.state.feedback)), self._reward(engine), engine.done, True)

    def admissible(self) -> list[str]:
        """The commands that the engine lists, sorted; none after the end."""
        if self._row is None:
            return []
        engine = self._current()
        return [] if engine.done else sorted(set(engine.state.admissible_commands))

    def _reward(self, engine: "_Engine") -> float:
        assert self._row is not None
        return 1.0 if engine.state.won else min(max(engine.state.score / self._row.max_score, 0.0), 1.0)

    def _current(self) -> "_Engine":
        """The engine where this episode stands; shallow copies share one until one of them goes on."""
        if self._row is None:
            raise TaskError("no game is under way", hint="reset(task_id) begins one")
        if self._engine is None or self._engine.played != self._played:
            self._engine = _Engine(_compiled(msgspec.json.encode(self._row.world), self._row.game, self._seed))
            for action in self._played:
                self._engine.step(action)
        return self._engine


class TextWorldExpert:
    """Says the walkthrough of a game, which no observation tells."""

    name = "textworld walkthrough"
    privileged = True

    def begin(self, environment: Any, task_id: str, observation: str, *, seed: int) -> None:
        """Take the game's walkthrough."""
        self._left = tuple(environment.game(task_id).walkthrough)

    def decide(self, observation: str) -> Decision:
        """The next command; `look` where none is left."""
        action, *left = self._left or ("look",)
        self._left = tuple(left)
        return Decision(None, action)


def read_games(data: Path) -> dict[str, GameRow]:
    """Games by id, in the order of the file.

    Raises:
        TaskError: no such file, or a damaged line; names file and line.
    """
    games: dict[str, GameRow] = {}
    number = 0
    try:
        with gzip.open(data, "rb") if data.suffix == ".gz" else data.open("rb") as lines:
            for line in lines:
                number += 1
                row = msgspec.json.decode(line, type=GameRow)
                if row.max_score < 1 or row.game in games:
                    raise ValueError(f"max_score {row.max_score}, or a second game {row.game}")
                games[row.game] = row
    except FileNotFoundError as error:
        raise TaskError(f"{data}: no such file", hint=_LAYOUT) from error
    except (msgspec.DecodeError, ValueError) as error:
        raise TaskError(f"{data}, line {number}: {error}", hint=_LAYOUT) from error
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"{data}, after line {number}: {error}", hint=_LAYOUT) from error
    if not games:
        raise TaskError(f"{data}, line 1: no game", hint=_LAYOUT)
    return games


def clean_text(text: str) -> str:
    """What the game tells, without prompt, status line, banner, closing question and runs of blank lines.

    >>> clean_text("\\nYou take the coin.\\n\\n\\n>       -= Study =-0/2")
    'You take the coin.'
    """
    text = _QUESTION.sub("", text.rpartition("\n>")[0] or text)
    return _BLANK_LINES.sub("\n\n", _BANNER_LINE.sub("", text)).strip()


class _Engine:
    """A game under way. played: the commands it was given."""

    def __init__(self, path: str) -> None:
        import textworld

        wanted = textworld.EnvInfos(won=True, score=True, feedback=True, admissible_commands=True)
        with warnings.catch_warnings():
            # Jericho knows no score of a generated game; TextWorld keeps its own.
            warnings.filterwarnings("ignore", message=".*is not fully supported")
            self._game = textworld.start(path, wanted)
            self.state: Any = self._game.reset()
        self.done = False
        self.played: tuple[str, ...] = ()

    def step(self, action: str) -> None:
        self.state, _, done = self._game.step(action)
        self.done = bool(done)
        self.played = (*self.played, action)


@lru_cache(maxsize=1)
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="sadstream-textworld-")


@lru_cache(maxsize=4096)
def _compiled(world: bytes, name: str, seed: int) -> str:
    """The compiled game's file.

    Raises:
        TaskError: it cannot be compiled.
    """
    from textworld import GameOptions
    from textworld.generator import Game, compile_game

    options = GameOptions()
    options.path = str(Path(tempfile.mkdtemp(dir=_folder().name)) / "game.z8")
    options.seeds = seed
    try:
        return str(compile_game(Game.deserialize(msgspec.json.decode(world)), options))
    except Exception as error:  # whatever the compiler makes of a damaged world
        raise TaskError(f"{name}: cannot be compiled: {type(error).__name__}: {error}", hint=_LAYOUT) from error
