"""What `collect` and `evaluate` have in common: which episodes are to be played, and playing those that are left."""

import difflib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from sadstream.environments.protocol import Agent, Environment
from sadstream.episode_log import EpisodeLog
from sadstream.episodes import Episode, Task, play_side_by_side
from sadstream.errors import ConfigError, InputError, TaskError
from sadstream.paths import TRAJECTORIES
from sadstream.players import ModelOptions
from sadstream.progress import Progress
from sadstream.transcripts import trajectory_of
from sadstream_schemas import Source, Trajectory


class PlayOptions(Protocol):
    """Options that say what is played; `CollectConfig` tells what each is."""

    @property
    def tasks(self) -> str: ...
    @property
    def limit(self) -> int: ...
    @property
    def episodes_per_task(self) -> int: ...
    @property
    def max_steps(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def shuffle(self) -> int: ...
    @property
    def data(self) -> str: ...
    @property
    def options(self) -> dict[str, str]: ...


class Planned(NamedTuple):
    """An episode to play: the `number`th of its task, from 0."""

    task_id: str
    number: int


def check_play_options(config: PlayOptions) -> None:
    """Refuse options out of range.

    Raises:
        ConfigError: names the first.
    """
    least = {"limit": 0, "episodes_per_task": 1, "max_steps": 0, "shuffle": 0, "seed": 0}
    for name, value in least.items():
        if getattr(config, name) < value:
            flag = name.replace("_", "-")
            raise ConfigError(
                f"--{flag} {getattr(config, name)}: at least {value}", hint="leave it out for the default"
            )


def environment_options(config: PlayOptions) -> dict[str, str]:
    """All options of the environment's class.

    Raises:
        ConfigError: one is given in two ways.
    """
    flags = {"shuffle": str(config.shuffle) if config.shuffle else "", "data": config.data}
    given = {name: value for name, value in flags.items() if value}
    if twice := given.keys() & config.options.keys():
        raise ConfigError(f"--{min(twice)} and --option {min(twice)}=...: one of them", hint="they are the same option")
    return {**given, **config.options}


def read_tasks(path: Path) -> list[str]:
    """Task ids, one a line; blank lines are passed over.

    Raises:
        InputError: no such file, no text, no id in it, or one that stands there twice.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n")]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", hint="a file of task ids, one a line") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8: {error.reason}", hint="a file of task ids, one a line") from error
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if line in seen:
            raise InputError(
                f"{path}:{number}: {line} stands on line {seen[line]} already",
                hint="--episodes-per-task plays each task several times",
            )
        if line:
            seen[line] = number
    if not seen:
        raise InputError(f"{path}: no task id in it", hint="a file of task ids, one a line")
    return list(seen)


def chosen_tasks(environment: Environment, split: str, named: Sequence[str] | None, source: str) -> list[str]:
    """Ids of the tasks to play, in order.

    Args:
        named: those that the user named; None for all of the split. source: where, for the error.
    Raises:
        TaskError: no such split, or the split has no such task; none at all.
    """
    there = list(environment.task_ids(split))
    if named is not None:
        known = set(there)
        for task_id in named:
            if task_id not in known:
                near = difflib.get_close_matches(task_id, there[:5000], 2, 0.6)
                raise TaskError(
                    f"{source}: split {split} of {environment.name} has no task {task_id!r}",
                    hint=f"did you mean {' or '.join(near)}?" if near else f"--split; it has {len(there)} tasks",
                )
        there = list(named)
    if not there:
        raise TaskError(f"split {split} of {environment.name}: no task to play", hint="choose another --split")
    return there


def drawn(tasks: Sequence[str], limit: int, seed: int) -> list[str]:
    """At most `limit` of the tasks (0: all), in their order.

    Which ones hangs on each task and the seed alone, so a split sorted by kind gives some of each.
    """
    if not limit or limit >= len(tasks):
        return list(tasks)
    rank = {task: episode_seed(seed, Planned(task, -1)) for task in tasks}
    chosen = set(sorted(tasks, key=rank.__getitem__)[:limit])
    return [task for task in tasks if task in chosen]


def episode_seed(seed: int, planned: Planned) -> int:
    """The seed of one episode: of the run's seed and which episode it is, not of when it is played."""
    digest = hashlib.blake2b(msgspec.json.encode([seed, *planned]), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def episodes_left(
    plan: Sequence[Planned],
    log: EpisodeLog,
    environment: Environment,
    agent: Agent,
    seed: int,
    max_steps: int,
    n_seats: int,
    progress: Progress,
) -> Iterator[tuple[Episode, int]]:
    """Play what a log does not hold yet, and give each episode, and which play of its task it is, as it ends.

    The caller appends each to the log before it asks for the next.
    """
    known = {(line.task_id, line.number) for line in log.lines}
    left = [planned for planned in plan if planned not in known]
    tasks = [Task(planned.task_id, episode_seed(seed, planned)) for planned in left]
    n_won = sum(line.success for line in log.lines)
    progress(len(log.lines), len(plan), "episodes", f"won {n_won}")
    for place, episode in play_side_by_side(environment, agent, tasks, max_steps=max_steps, n_seats=n_seats):
        n_won += episode.success
        yield episode, left[place].number
        progress(len(log.lines), len(plan), "episodes", f"won {n_won}")


def trajectory_by(
    agent: Agent, environment: Environment, episode: Episode, number: int, seed: int, record: int
) -> Trajectory:
    """An episode's record.

    Args:
        number: which play of its task. seed: of the run. record: trajectories before it in the file.
    """
    facts = {
        "environment": environment.name,
        "agent": agent.name,
        "privileged": agent.privileged,
        "task_type": episode.task_type,
        "seed": seed,
        "episode": number,
        "n_turns": len(episode.turns),
        "n_invalid": sum(not turn.valid for turn in episode.turns),
        **episode.notes,
    }
    return trajectory_of(
        episode,
        id=f"{environment.name}/{agent.name}/{episode.task_id}/{seed}.{number}",
        source=Source(file=TRAJECTORIES, record=str(record), format="collect"),
        facts=facts,
    )


def model_options(config: msgspec.Struct) -> ModelOptions:
    """What a stage's options say of how models are asked."""
    names = ModelOptions.__struct_fields__
    return ModelOptions(**{name: getattr(config, name) for name in names if hasattr(config, name)})


def noting(progress: Progress) -> Callable[[str], None]:
    return lambda note: progress(0, None, "", note)
