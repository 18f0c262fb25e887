"""ALFWorld's games: those that come with sadstream, files of that layout, and an original `json_2.1.1` folder."""

import gzip
import re
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import msgspec

from sadstream.environments.alfworld_rules import House, State, furnish
from sadstream.environments.pddl import Problem, read_problem
from sadstream.errors import TaskError

PACKAGED = Path(__file__).parent / "data" / "alfworld"
TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)

_MEND = "copy the file again from where it came; without data= the games that come with sadstream are played"
_GOAL = re.compile(r"Your task is to: ([^\"\n]*?)\.?\s*\"")
_UNSOLVABLE = re.compile(rb'"solvable"\s*:\s*false')


class Game(msgspec.Struct, frozen=True):
    """A game as its file has it.

    Attributes:
        pddl_problem: PDDL text, goal condition included.
        goal: the same in words.
        walkthrough: commands that win; may be empty.
        origin: file, and line where it holds many.
    """

    task: str
    task_type: str
    goal: str
    pddl_problem: str
    split: str = "train"
    walkthrough: tuple[str, ...] = ()
    origin: str = ""


class _Original(msgspec.Struct):
    """What matters of a `game.tw-pddl`."""

    pddl_problem: str
    grammar: str
    walkthrough: list[str] | None = None


def task_names(data: Path, split: str) -> Sequence[str]:
    """Ids of a split's games, in the order of the file or folder.

    Raises:
        TaskError: no such split, or data that cannot be read.
    """
    splits = split_names(data)
    if split not in splits:
        raise TaskError(f"{data}: no split `{split}`", hint=f"there are {', '.join(splits)}")
    return list(_split(data, split))


def split_names(data: Path) -> list[str]:
    """Splits that a file or folder of games has.

    Raises:
        TaskError: it is neither.
    """
    if data.is_file():
        return list(_rows(data, _stamp(data)))
    named = {match[1]: None for path in sorted(data.glob("games_*")) if (match := _named(path))}
    folders = [folder.name for folder in sorted(data.glob("*")) if next(folder.glob("*/*/game.tw-pddl"), None)]
    if not named and not folders:
        raise TaskError(
            f"{data}: no ALFWorld games here",
            hint="wanted: a .jsonl(.gz) file of games, a folder of games_SPLIT.jsonl(.gz), or an original json_2.1.1"
            " folder, SPLIT/TASK/TRIAL/game.tw-pddl",
        )
    return list(named) or folders


def find_game(data: Path, task: str) -> Game:
    """The game of an id, whichever its split.

    Raises:
        TaskError: no such game, or data that cannot be read.
    """
    for split in split_names(data):
        game = _split(data, split).get(task)
        if game is not None:
            return _original(game, task, split) if isinstance(game, Path) else game
    raise TaskError(f"{data}: no task `{task[:200]}`", hint="`task_ids(split)` lists them")


def problem_of(game: Game) -> Problem:
    """Its problem.

    Raises:
        TaskError: it is damaged; names file and line.
    """
    try:
        return read_problem(game.pddl_problem)
    except ValueError as error:
        raise TaskError(f"{game.origin or game.task}: {error}", hint=_MEND) from error


def furnish_game(game: Game) -> tuple[House, State]:
    """Its house, and how it is at the start.

    Raises:
        TaskError: it is damaged; names file and line.
    """
    problem = problem_of(game)
    try:
        return furnish(problem)
    except ValueError as error:
        raise TaskError(f"{game.origin or game.task}: {error}", hint=_MEND) from error


def _named(path: Path) -> re.Match[str] | None:
    return re.fullmatch(r"games_(.+)\.jsonl(?:\.gz)?", path.name)


def _split(data: Path, split: str) -> Mapping[str, Game | Path]:
    if data.is_file():
        return _rows(data, _stamp(data))[split]
    for path in sorted(data.glob("games_*")):
        match = _named(path)
        if match and match[1] == split:
            return {task: game for rows in _rows(path, _stamp(path)).values() for task, game in rows.items()}
    return _originals(data / split, _stamp(data / split))


def _stamp(path: Path) -> tuple[int, int]:
    """Changes when a file does, so that a cached reading is not of another one."""
    about = path.stat()
    return about.st_mtime_ns, about.st_size


@lru_cache(maxsize=8)
def _rows(path: Path, stamp: tuple[int, int]) -> dict[str, dict[str, Game]]:
    """Games of a JSON lines file, by split and id."""
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"{path}: {error}", hint=_MEND) from error
    decoder = msgspec.json.Decoder(Game)
    found: dict[str, dict[str, Game]] = {}
    for number, line in enumerate(raw.splitlines(), 1):
        if not line.strip():
            continue
        try:
            game = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise TaskError(f"{path}:{number}: {error}", hint=_MEND) from error
        rows = found.setdefault(game.split, {})
        if game.task in rows:
            raise TaskError(f"{path}:{number}: task `{game.task}` stands twice in its split", hint=_MEND)
        rows[game.task] = msgspec.structs.replace(game, origin=f"{path}:{number}")
    if not found:
        raise TaskError(f"{path}: holds no game", hint=_MEND)
    return found


@lru_cache(maxsize=8)
def _originals(folder: Path, stamp: tuple[int, int]) -> dict[str, Path]:
    """Game files of a split's folder, by id; those that ALFWorld itself passes over are left out."""
    found = {}
    for path in sorted(folder.glob("*/*/game.tw-pddl")):
        task = "/".join(path.parts[-3:-1])
        if "movable" in task or "Sliced" in task or _UNSOLVABLE.search(path.read_bytes()):
            continue
        found[task] = path
    return found


def _original(path: Path, task: str, split: str) -> Game:
    """The game of a `game.tw-pddl`: its goal in words stands in its grammar."""
    try:
        game = msgspec.json.decode(path.read_bytes(), type=_Original)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: {error}", hint=_MEND) from error
    goal = _GOAL.search(game.grammar)
    if goal is None:
        raise TaskError(f"{path}: no `Your task is to: ...` in its grammar", hint=_MEND)
    kind = next((kind for kind in TASK_TYPES if task.startswith(kind)), "")
    return Game(task, kind, goal[1], game.pddl_problem, split, tuple(game.walkthrough or ()), str(path))
