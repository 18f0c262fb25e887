"""The stage that makes logs: an agent plays an environment's tasks, and what it did is written down."""

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from sadstream.environments.chosen import load_environment
from sadstream.episode_log import EPISODES, EpisodeLine, EpisodeLog
from sadstream.errors import ConfigError
from sadstream.intervals import wilson
from sadstream.manifest import Input, StageFolder, describe_inputs
from sadstream.paths import TRAJECTORIES
from sadstream.players import PromptChoice, is_model, label_of, load_player, player_facts, player_input, with_guide
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
from sadstream.progress import Progress

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
    timeout: float = 300.0
    prompt: PromptChoice = "auto"
    constrain: bool = False
    temperature: float = 0.0
    max_new_tokens: int = 128
    context: int = 0
    seats: int = 16
    device: str = "auto"
    dtype: str = "auto"


def collect(config: CollectConfig, progress: Progress) -> dict[str, Any]:
    """Play tasks and write trajectories; continue an interrupted run; leave a finished one as it is.

    Returns:
        The summary: keys as `sadstream collect --json` prints them.
    Raises:
        SadstreamError: environment, agent, tasks, options or the output folder are not as they should be.
    """
    begin = time.monotonic()
    check_play_options(config)
    if config.keep not in ("won", "all"):
        raise ConfigError(f"--keep {config.keep}: unknown", hint="one of: won, all")
    out = Path(config.out)
    asked = model_options(config)
    decisive = {
        key: value
        for key, value in msgspec.to_builtins(config).items()
        if key not in ("out", "tasks", "seats", "timeout")
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
