"""The stage that tells how well models act: whole episodes of an environment, and a report with intervals."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from sadstream.environments.chosen import load_environment
from sadstream.environments.protocol import Agent, Environment
from sadstream.episode_log import EPISODES, EpisodeLog
from sadstream.errors import ConfigError, ManifestError, RecordError
from sadstream.manifest import MANIFEST, Input, StageFolder, describe_inputs, read_manifest, write_atomically, writing
from sadstream.paths import TRAJECTORIES
from sadstream.players import PromptChoice, is_model, label_of, load_player, player_facts, player_input
from sadstream.playing import (
    Planned,
    check_play_options,
    chosen_tasks,
    drawn,
    environment_options,
    episodes_left,
    model_options,
    noting,
    read_tasks,
    trajectory_by,
)
from sadstream.policies import ModelAgent
from sadstream.progress import Progress
from sadstream.scores import (
    RULES,
    Episode,
    by_type,
    cot_match,
    count_words,
    episode_key,
    measured,
    paired_differences,
    summary,
    thoughts_of,
)
from sadstream.shards import decode_trajectory, iter_shard
from sadstream.success_plot import draw_success
from sadstream_schemas import Trajectory, decode_json

RESULTS, PICTURE = "results.json", "success.png"
# The split that is there to be evaluated on, where an environment calls it otherwise than `test`.
_SPLITS = {"alfworld": "valid_unseen", "hotpotqa": "dev"}


class EvaluateConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Options of `evaluate`.

    Attributes:
        models: each a path, a hub name, `smollm2-135m`, what `endpoint` calls it, `expert`, `random`, `module:Class`.
        env, out, tasks, limit, episodes_per_task, max_steps, seed, shuffle, data, options: as `CollectConfig` has them.
        split: "" is the one that the environment has for this.
        thoughts: whether a turn that only thinks uses up one of `max_steps`; `default` as the environment has it.
        reference: a folder of span shards, whose thoughts on the same tasks those of the models are compared with.
        endpoint ... dtype: how models are asked, as `players.ModelOptions` has it.
    """

    models: list[str]
    env: str
    out: str
    split: str = ""
    tasks: str = ""
    limit: int = 0
    episodes_per_task: int = 1
    max_steps: int = 0
    thoughts: Literal["default", "count", "free"] = "default"
    seed: int = 0
    reference: str = ""
    shuffle: int = 0
    data: str = ""
    options: dict[str, str] = {}
    endpoint: str = ""
    timeout: float = 300.0
    prompt: PromptChoice = "auto"
    constrain: bool = False
    temperature: float = 0.0
    max_new_tokens: int = 128
    context: int = 0
    seats: int = 16
    device: str = "auto"
    dtype: str = "auto"


def evaluate(config: EvaluateConfig, progress: Progress) -> dict[str, Any]:
    """Play tasks with each model and report; continue an interrupted run; leave a finished one as it is.

    A finished one takes further models, and a reference: only what they add is played.

    Returns:
        What `results.json` holds, and `out`: keys as `sadstream evaluate --json` prints them.
    Raises:
        SadstreamError: environment, a model, tasks, reference, options or the output folder are not as they should be.
    """
    begin = time.monotonic()
    check_play_options(config)
    if config.thoughts not in ("default", "count", "free"):
        raise ConfigError(f"--thoughts {config.thoughts}: unknown", hint="default, count or free")
    out = Path(config.out)
    labels = _labels(config.models)
    named = read_tasks(Path(config.tasks)) if config.tasks else None
    options = model_options(config)
    named_files = [Input(Path(config.tasks).name, Path(config.tasks))] if config.tasks else []
    if config.reference:
        read_manifest(Path(config.reference), "segment")
        named_files.append(Input(f"reference/{MANIFEST}", Path(config.reference) / MANIFEST))
    players = [player_input(name, label, options, noting(progress)) for label, name in labels.items()]
    decisive = {
        key: value
        for key, value in msgspec.to_builtins(config).items()
        if key not in ("out", "reference", "seats", "timeout", "models")
    }
    decisive["tasks"] = bool(config.tasks)
    folder = StageFolder(out, "evaluate", decisive, [*describe_inputs(named_files, out), *players], may_grow="by-input")
    if folder.done is not None:
        return {**folder.done.totals, "out": config.out, "already_done": True}
    environment = load_environment(config.env, environment_options(config), seed=config.seed)
    if config.thoughts != "default":
        environment.thoughts_count = config.thoughts == "count"
    split = config.split or _SPLITS.get(config.env, "test")
    tasks = drawn(chosen_tasks(environment, split, named, config.tasks), config.limit, config.seed)
    max_steps = config.max_steps or environment.max_steps
    plan = [Planned(task_id, number) for task_id in tasks for number in range(config.episodes_per_task)]
    reference = _reference(Path(config.reference), set(tasks)) if config.reference else None
    resolved: dict[str, Any] = {}
    played: dict[str, list[Episode]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for label, name in labels.items():
        agent = load_player(name, config.env, {}, options, noting(progress))
        facts[label] = {**player_facts(agent, name, options), "reason_tokens_by": _counter(agent)[0]}
        resolved[label] = facts[label]
        folder.resolve_more(resolved)
        n_seats = config.seats if is_model(name, options) else 1
        _play(out / label, plan, environment, agent, config.seed, max_steps, n_seats, label, progress)
        played[label] = _measured(out / label, _counter(agent)[1])
    results = {
        "env": environment.name,
        "split": split,
        "max_steps": max_steps,
        "thoughts_count": environment.thoughts_count,
        "n_tasks": len(tasks),
        "seed": config.seed,
        "models": {
            label: {
                "env": environment.name,
                **facts[label],
                **summary(episodes, seed=config.seed),
                "cot_match": None if reference is None else cot_match(episodes, reference),
                "by_type": by_type(episodes, seed=config.seed),
            }
            for label, episodes in played.items()
        },
        "differences": paired_differences(played, seed=config.seed),
        "rules": RULES,
    }
    write_atomically(out / RESULTS, msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    draw_success(results, out / PICTURE)
    files = [f"{label}/{name}" for label in labels for name in (TRAJECTORIES, EPISODES)]
    folder.finish(results, [*files, RESULTS, PICTURE])
    return {**results, "seconds": round(time.monotonic() - begin, 3), "out": config.out}


def _labels(models: Sequence[str]) -> dict[str, str]:
    """A short name for each model: its folder's name, numbered where two have the same.

    Raises:
        ConfigError: none, or the same one twice.
    """
    if not models:
        raise ConfigError("no model to evaluate", hint="a path, a hub name, smollm2-135m, expert or random")
    if twice := [name for name, n in Counter(models).items() if n > 1]:
        raise ConfigError(f"{twice[0]}: named twice", hint="each model once")
    short = [label_of(name).replace(":", "-") for name in models]
    return {
        label if short.count(label) == 1 else f"{label}-{short[: place + 1].count(label)}": name
        for place, (label, name) in enumerate(zip(short, models, strict=True))
    }


def _play(
    folder: Path,
    plan: Sequence[Planned],
    environment: Environment,
    agent: Agent,
    seed: int,
    max_steps: int,
    n_seats: int,
    label: str,
    progress: Progress,
) -> None:
    with writing(folder):
        folder.mkdir(exist_ok=True)
    log = EpisodeLog(folder)
    since = time.monotonic()

    def under_label(done: int, total: int | None, unit: str, note: str = "") -> None:
        progress(done, total, unit, f"{label}, {note}")

    for episode, number in episodes_left(plan, log, environment, agent, seed, max_steps, n_seats, under_label):
        # Wall time is shared by the episodes side by side: each has what went by since the one before it ended.
        now = time.monotonic()
        episode = episode._replace(costs={**episode.costs, "seconds": round(now - since, 4)})
        since = now
        log.append(episode, number, trajectory_by(agent, environment, episode, number, seed, len(log.lines)))
    log.close()


def _measured(folder: Path, count: Callable[[str], int]) -> list[Episode]:
    """The measures of all episodes of a folder, by task and number.

    Raises:
        ManifestError: trajectories and lines are not of the same episodes.
    """
    lines = {(line.task_id, line.number): line for line in EpisodeLog(folder).lines}
    measures = {}
    with (folder / TRAJECTORIES).open("rb") as file:
        for number, data in enumerate(file, 1):
            try:
                trajectory = decode_json(data, Trajectory)
                key = episode_key(trajectory)
                measures[key] = measured(trajectory, lines[key], count)
            except (msgspec.DecodeError, RecordError, KeyError) as error:
                raise ManifestError(
                    f"{folder / TRAJECTORIES}:{number}: {error}", hint="delete the folder and run again"
                ) from error
    return [measures[key] for key in sorted(measures)]


def _counter(agent: Agent) -> tuple[str, Callable[[str], int]]:
    """What reasoning tokens are counted by, and how."""
    if isinstance(agent, ModelAgent) and agent.writer.count_tokens("") is not None:
        writer = agent.writer
        return "the model's tokenizer", lambda text: writer.count_tokens(text) or 0
    return "words and marks", count_words


def _reference(spans: Path, tasks: set[str]) -> Mapping[str, Mapping[int, str]]:
    """Thoughts by step of the first trajectory of each task in a folder of span shards.

    Raises:
        ConfigError: none is of a task that is played.
    """
    found: dict[str, dict[int, str]] = {}
    for shard in read_manifest(spans, "segment").shards:
        for key, data in iter_shard(spans, shard):
            trajectory = decode_trajectory(data, f"{spans / shard.name}: sample {key}")
            if trajectory.task_id in tasks and trajectory.task_id not in found:
                found[trajectory.task_id or ""] = thoughts_of(trajectory)
    if not found:
        raise ConfigError(
            f"--reference {spans}: no trajectory of a task that is played",
            hint="collect with the same --env and --split, then segment",
        )
    return found
