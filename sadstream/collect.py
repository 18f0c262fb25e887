"""The stage that makes logs: an agent plays an environment's tasks, and what it did is written down."""

import difflib
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from sadstream.environments.chosen import load_environment
from sadstream.environments.protocol import Agent, Environment
from sadstream.episode_log import EPISODES, EpisodeLine, EpisodeLog
from sadstream.episodes import Episode, Task, play_side_by_side
from sadstream.errors import ConfigError, InputError, TaskError
from sadstream.intervals import wilson
from sadstream.manifest import Input, StageFolder, describe_inputs
from sadstream.paths import TRAJECTORIES
from sadstream.players import (
    ModelOptions,
    PromptChoice,
    is_model,
    label_of,
    load_player,
    player_facts,
    player_input,
    with_guide,
)
from sadstream.progress import Progress
from sadstream.transcripts import trajectory_of
from sadstream_schemas import Source, Trajectory

Keep = Literal["won", "all"]


class CollectConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Options of `collect`.

    Attributes:
        env: a name of `sadstream.environments.ENVIRONMENTS`, or `module:Class`.
        agent: `expert`, `random`, `module:Class`, or a model (a path, a hub name, or what `endpoint` calls it).
        out: folder for the trajectories.
        split: which of the environment's tasks. tasks: a file of ids, one a line, to play in that order; "" for all.
        limit: tasks at most, drawn by the seed (20 are among the 40 of the same seed); 0 is all.
        episodes_per_task: how often each is played, each time with another seed.
        max_steps: turns an episode; 0 is what the environment says.
        keep: trajectories of `won` episodes, or of `all`.
        shuffle, data: options `shuffle` and `data` of the environment; 0 and "" leave them out.
        options, agent_options: further options of their classes, by name.
        guide: a model or scripted player whose each turn is with probability `guide_share`; "" for none.
        endpoint ... dtype: how models are asked, as `players.ModelOptions` has it.
    """

    env: str
    agent: str
    out: str
    split: str = "train"
    tasks: str = ""
    limit: int = 0
    episodes_per_task: int = 1
    max_steps: int = 0
    seed: int = 0
    keep: Keep = "won"
    shuffle: int = 0
    data: str = ""
    options: dict[str, str] = {}
    agent_options: dict[str, str] = {}
    guide: str = ""
    guide_share: float = 0.5
    endpoint: str = ""
    prompt: PromptChoice = "auto"
    constrain: bool = False
    temperature: float = 0.0
    max_new_tokens: int = 128
    context: int = 0
    seats: int = 16
    device: str = "auto"
    dtype: str = "auto"


class Planned(NamedTuple):
    """An episode to play: the `number`th of its task, from 0."""

    task_id: str
    number: int


def collect(config: CollectConfig, progress: Progress) -> dict[str, Any]:
    """Play tasks and write trajectories; continue an interrupted run; leave a finished one as it is.

    Returns:
        The summary: keys as `sadstream collect --json` prints them.
    Raises:
        SadstreamError: environment, agent, tasks, options or the output folder are not as they should be.
    """
    begin = time.monotonic()
    check_config(config)
    out = Path(config.out)
    asked = model_options(config)
    decisive = {
        key: value for key, value in msgspec.to_builtins(config).items() if key not in ("out", "tasks", "seats")
    }
    players = []
    for role in ("agent", "guide"):
        name = getattr(config, role)
        if name and is_model(name, asked):
            # Which weights, not where they lie.
            decisive[role] = label_of(name)
            players.append(player_input(name, role, asked, noting(progress)))
    named = read_tasks(Path(config.tasks)) if config.tasks else None
    files = [Input(Path(config.tasks).name, Path(config.tasks))] if config.tasks else []
    folder = StageFolder(out, "collect", decisive, [*describe_inputs(files, out), *players])
    if folder.done is not None:
        return {**folder.done.totals, "out": config.out, "already_done": True}
    environment = load_environment(config.env, environment_options(config), seed=config.seed)
    agent = load_player(config.agent, config.env, config.agent_options, asked, noting(progress))
    about = player_facts(agent, config.agent, asked)
    if config.guide:
        guide = load_player(config.guide, config.env, {}, asked, noting(progress))
        about |= {f"guide_{name}": fact for name, fact in player_facts(guide, config.guide, asked).items()}
        agent = with_guide(agent, guide, config.guide_share)
        about |= {"agent": agent.name, "privileged": agent.privileged}
    tasks = drawn(chosen_tasks(environment, config.split, named, config.tasks), config.limit, config.seed)
    max_steps = config.max_steps or environment.max_steps
    facts = {
        "env": environment.name,
        **about,
        "max_steps": max_steps,
        "thoughts_count": environment.thoughts_count,
        "n_tasks": len(tasks),
        "tasks_sha256": hashlib.sha256("\n".join(tasks).encode()).hexdigest()[:16],
    }
    folder.resolve(facts)
    plan = [Planned(task_id, number) for task_id in tasks for number in range(config.episodes_per_task)]
    log = EpisodeLog(out)
    n_seats = config.seats if is_model(config.agent, asked) else 1
    n_kept = sum(line.kept for line in log.lines)
    for episode, number in episodes_left(plan, log, environment, agent, config.seed, max_steps, n_seats, progress):
        is_kept = config.keep == "all" or episode.success
        trajectory = trajectory_by(agent, environment, episode, number, config.seed, n_kept) if is_kept else None
        log.append(episode, number, trajectory)
        n_kept += is_kept
    log.close()
    lines = log.lines
    totals = {**{k: v for k, v in facts.items() if k != "tasks_sha256"}, "split": config.split, **summary_of(lines)}
    folder.finish(totals, [TRAJECTORIES, EPISODES])
    return {**totals, "seconds": round(time.monotonic() - begin, 3), "out": config.out}


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


def environment_options(config: CollectConfig) -> dict[str, str]:
    """All options of the environment's class.

    Raises:
        ConfigError: one is given in two ways.
    """
    flags = {"shuffle": str(config.shuffle) if config.shuffle else "", "data": config.data}
    given = {name: value for name, value in flags.items() if value}
    if twice := given.keys() & config.options.keys():
        raise ConfigError(f"--{min(twice)} and --option {min(twice)}=...: one of them", hint="they are the same option")
    return {**given, **config.options}


def episode_seed(seed: int, planned: Planned) -> int:
    """The seed of one episode: of the run's seed and which episode it is, not of when it is played."""
    digest = hashlib.blake2b(msgspec.json.encode([seed, *planned]), digest_size=8).digest()
    return int.from_bytes(digest, "big")


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


def summary_of(lines: Sequence[EpisodeLine]) -> dict[str, Any]:
    """What episodes came to, over all and by type of task."""
    types = sorted({line.task_type for line in lines})
    by_type = {name: _measures([line for line in lines if line.task_type == name]) for name in types}
    return {
        **_measures(lines),
        "n_kept": sum(line.kept for line in lines),
        "endings": dict(sorted(Counter(line.ending for line in lines).items())),
        "by_type": by_type if types != [""] else {},
    }


def _measures(lines: Sequence[EpisodeLine]) -> dict[str, Any]:
    n = len(lines)
    n_won = sum(line.success for line in lines)
    n_actions = sum(line.n_actions for line in lines)
    metrics: dict[str, list[float]] = {}
    for line in lines:
        for name, value in line.metrics.items():
            metrics.setdefault(name, []).append(value)
    return {
        "n_episodes": n,
        "success_rate": [round(number, 4) for number in (n_won / n, *wilson(n_won, n))],
        "mean_reward": round(sum(line.reward for line in lines) / n, 4),
        "mean_turns": round(sum(line.n_turns for line in lines) / n, 2),
        "invalid_action_share": round(sum(line.n_invalid for line in lines) / n_actions, 4) if n_actions else 0.0,
        "metrics": {name: round(sum(values) / len(values), 4) for name, values in sorted(metrics.items())},
    }


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


def check_config(config: CollectConfig) -> None:
    """Refuse options out of range.

    Raises:
        ConfigError: names the first.
    """
    if config.keep not in ("won", "all"):
        raise ConfigError(f"--keep {config.keep}: unknown", hint="one of: won, all")
    least = {"limit": 0, "episodes_per_task": 1, "max_steps": 0, "shuffle": 0, "seed": 0}
    for name, value in least.items():
        if getattr(config, name) < value:
            flag = name.replace("_", "-")
            raise ConfigError(
                f"--{flag} {getattr(config, name)}: at least {value}", hint="leave it out for the default"
            )
