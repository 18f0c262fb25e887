"""What episodes come to: measures of trajectories, alone, against a reference, and of models against each other."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from sadstream.episode_log import EpisodeLine
from sadstream.intervals import wilson
from sadstream_schemas import Span, Trajectory

N_RESAMPLES = 10_000
_LOOP = 3
_WORD = re.compile(r"\w+|[^\w\s]")

RULES = {
    "success_rate": "ended by the environment with reward 1; [share, low, high], 95 % Wilson interval",
    "reward": "mean over episodes, an unfinished one with what it had come to; [mean, low, high], 95 % bootstrap",
    "steps": "turns: a thought that is answered by itself is one, a thought and the action after it are one",
    "reason_tokens": "tokens of what thoughts say, labels left out, by the model's tokenizer; else words and marks",
    "cot_match": "same task and same step number in both; a step counts where both think in it; words without case; "
    "f1 is the mean token F1 of these, exact the share whose words are the same",
    "loops": f"share of episodes in which one action got one answer {_LOOP} times",
    "seconds_per_step": "wall seconds of all episodes, side by side as they were played, by their steps",
}


class Episode(NamedTuple):
    """A trajectory's measures, and the line that tells how it was played.

    Attributes:
        thoughts: what was thought, by step. n_reason_tokens: of all thoughts.
        loops: whether one action got one answer three times.
    """

    line: EpisodeLine
    thoughts: dict[int, str]
    n_reason_tokens: int
    loops: bool


def measured(trajectory: Trajectory, line: EpisodeLine, count: Callable[[str], int]) -> Episode:
    """A trajectory's measures.

    Args:
        count: tokens of a text.
    """
    thoughts = thoughts_of(trajectory)
    return Episode(line, thoughts, sum(count(text) for text in thoughts.values()), loops(trajectory))


def thoughts_of(trajectory: Trajectory) -> dict[int, str]:
    """What is thought in each step, several thoughts joined by a blank; a step without any is not there."""
    thoughts: dict[int, str] = {}
    for span in trajectory.spans:
        if span.kind == "reason" and span.step is not None and (body := _body(trajectory, span)):
            thoughts[span.step] = f"{thoughts[span.step]} {body}" if span.step in thoughts else body
    return thoughts


def loops(trajectory: Trajectory) -> bool:
    """Whether the same action got the same answer three times."""
    seen: Counter[tuple[str, str]] = Counter()
    action: str | None = None
    for span in trajectory.spans:
        if span.kind == "act":
            action = _body(trajectory, span)
        elif span.kind == "observation" and action is not None:
            seen[action, _body(trajectory, span)] += 1
            action = None
    return max(seen.values(), default=0) >= _LOOP


def _body(trajectory: Trajectory, span: Span) -> str:
    return trajectory.text[span.body_start : span.body_stop]


def count_words(text: str) -> int:
    """Words and marks.

    >>> count_words("I go, then look.")
    6
    """
    return len(_WORD.findall(text))


def token_f1(said: str, wanted: str) -> float:
    """Harmonic mean of precision and recall of words, without case; 1 for two texts without any.

    >>> token_f1("I take a mug", "i take the mug")
    0.75
    """
    a, b = Counter(_WORD.findall(said.lower())), Counter(_WORD.findall(wanted.lower()))
    if not a or not b:
        return float(a == b)
    same = (a & b).total()
    return 2 * same / (a.total() + b.total())


def cot_match(episodes: Sequence[Episode], reference: Mapping[str, Mapping[int, str]]) -> dict[str, float | int | None]:
    """How near thoughts are to those of reference trajectories; see `RULES`.

    Args:
        reference: thoughts by step, by task.
    Returns:
        `f1`, `exact` (None where no step matches), `n_tasks` and `n_steps` that matched, and `n_reference_steps` of
        these tasks.
    """
    scores, exact, tasks, n_reference = [], 0, set(), 0
    for episode in episodes:
        wanted = reference.get(episode.line.task_id)
        if wanted is None:
            continue
        tasks.add(episode.line.task_id)
        n_reference += len(wanted)
        for step in episode.thoughts.keys() & wanted.keys():
            said = episode.thoughts[step]
            scores.append(token_f1(said, wanted[step]))
            exact += _WORD.findall(said.lower()) == _WORD.findall(wanted[step].lower())
    return {
        "f1": round(float(np.mean(scores)), 4) if scores else None,
        "exact": round(exact / len(scores), 4) if scores else None,
        "n_tasks": len(tasks),
        "n_steps": len(scores),
        "n_reference_steps": n_reference,
    }


def summary(episodes: Sequence[Episode], *, seed: int) -> dict[str, Any]:
    """What episodes came to; see `RULES` for what each number is.

    Args:
        episodes: at least one. seed: of the bootstrap.
    """
    lines = [episode.line for episode in episodes]
    n, n_steps = len(lines), sum(line.n_turns for line in lines)
    n_won, n_actions = sum(line.success for line in lines), sum(line.n_actions for line in lines)
    won = [line.n_turns for line in lines if line.success]
    n_reason = sum(episode.n_reason_tokens for episode in episodes)
    seconds = sum(line.costs.get("seconds", 0.0) for line in lines)
    written = sum(line.costs.get("tokens_written", 0.0) for line in lines)
    metrics = sorted({name for line in lines for name in line.metrics})
    return {
        "n_episodes": n,
        "success_rate": _rounded(n_won / n, *wilson(n_won, n)),
        "reward": _rounded(*mean_interval([line.reward for line in lines], seed=seed)),
        "reason_tokens_per_step": round(n_reason / n_steps, 2) if n_steps else 0.0,
        "reason_tokens_per_episode": round(n_reason / n, 2),
        "steps_per_episode": round(n_steps / n, 2),
        "steps_per_success": round(sum(won) / len(won), 2) if won else None,
        "invalid_actions": round(sum(line.n_invalid for line in lines) / n_actions, 4) if n_actions else 0.0,
        "never_acted": sum(line.n_actions == 0 for line in lines),
        "loops": round(sum(episode.loops for episode in episodes) / n, 4),
        "seconds_per_step": round(seconds / n_steps, 4) if n_steps else 0.0,
        "tokens_per_step": round(written / n_steps, 2) if n_steps else 0.0,
        "tokens_per_second": round(written / seconds, 2) if seconds else 0.0,
        "endings": dict(sorted(Counter(line.ending for line in lines).items())),
        "costs": {
            name: int(sum(line.costs.get(name, 0) for line in lines))
            for name in sorted({key for line in lines for key in line.costs} - {"seconds"})
        },
        "metrics": {
            name: round(float(np.mean([line.metrics.get(name, 0.0) for line in lines])), 4) for name in metrics
        },
    }


def by_type(episodes: Sequence[Episode], *, seed: int) -> dict[str, dict[str, Any]]:
    """The summary of each type of task; empty where there are no types."""
    types = sorted({episode.line.task_type for episode in episodes})
    if types == [""]:
        return {}
    return {
        name: summary([episode for episode in episodes if episode.line.task_type == name], seed=seed) for name in types
    }


def mean_interval(values: Sequence[float], *, seed: int) -> tuple[float, float, float]:
    """A mean and its 95 % interval, by drawing as many values again and again (percentile bootstrap).

    >>> mean_interval([1.0, 1.0], seed=0)
    (1.0, 1.0, 1.0)
    """
    data = np.array(values, np.float64)
    chance = np.random.default_rng(seed)
    # In blocks: all draws at once would take 8 bytes times draws times episodes.
    means = np.concatenate(
        [data[chance.integers(0, len(data), (block, len(data)))].mean(1) for block in [500] * (N_RESAMPLES // 500)]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return float(data.mean()), float(low), float(high)


def paired_differences(models: Mapping[str, Sequence[Episode]], *, seed: int) -> list[dict[str, Any]]:
    """Each two models on the tasks that both played: difference of success and reward, second minus first.

    The interval is a percentile bootstrap that draws tasks, both models' episodes of a task together.
    """
    names = list(models)
    rows = []
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            a, b = _by_task(models[first]), _by_task(models[second])
            tasks = [task for task in a if task in b]
            if not tasks:
                continue
            row: dict[str, Any] = {"first": first, "second": second, "n_tasks": len(tasks)}
            for which, name in enumerate(("success", "reward")):
                values = [b[task][which] - a[task][which] for task in tasks]
                row[name] = _rounded(*mean_interval(values, seed=seed))
            rows.append(row)
    return rows


def _by_task(episodes: Sequence[Episode]) -> dict[str, tuple[float, float]]:
    tasks: dict[str, list[EpisodeLine]] = {}
    for episode in episodes:
        tasks.setdefault(episode.line.task_id, []).append(episode.line)
    return {
        task: (float(np.mean([line.success for line in lines])), float(np.mean([line.reward for line in lines])))
        for task, lines in tasks.items()
    }


def _rounded(*numbers: float) -> list[float]:
    return [round(number, 4) for number in numbers]


def episode_key(trajectory: Trajectory) -> tuple[str, int]:
    """Which episode a trajectory is of: its task, and the number of the play."""
    return trajectory.task_id or "", int(msgspec.json.decode(trajectory.extra["episode"]))
