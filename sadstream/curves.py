"""A run's curves as a picture."""

import io
from pathlib import Path
from typing import Any, TypeAlias

from sadstream.manifest import write_atomically

Measures: TypeAlias = dict[str, float | None] | None

# Colours that stay apart for colour-blind eyes (Okabe and Ito).
_COLOURS = {"reason": "#0072B2", "act": "#D55E00"}


def draw_curves(
    rows: list[dict[str, Any]],
    before: Measures,
    after: Measures,
    unigram: Measures,
    path: Path,
) -> None:
    """Loss per kind by update, and held-out KL; beside it held-out KL before, after, and the best unigram's.

    Args:
        rows: of metrics.jsonl: those of updates, and those with `eval`, the measures during the run.
        before, after, unigram: held-out measures; None where nothing is held out.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, bars = figure.subplots(1, 2, width_ratios=[2, 1])
    measured = [row for row in rows if "eval" in row]
    rows = [row for row in rows if "eval" not in row]
    updates = [row["update"] for row in rows]
    for kind, colour in _COLOURS.items():
        values = [row[f"{kind}_loss"] for row in rows]
        losses.plot(updates, values, color=colour, alpha=0.3)
        losses.plot(updates, _smooth(values), color=colour, label=kind)
        known = [
            (row["update"], row["eval"][f"{kind}_kl"]) for row in measured if row["eval"][f"{kind}_kl"] is not None
        ]
        if known:
            losses.plot(*zip(*known, strict=True), "o--", color=colour, markersize=4, label=f"{kind}, held-out KL")
    losses.set(xlabel="update", ylabel="training loss, nats per token", ylim=(0, None))
    losses.legend(frameon=False)
    _draw_bars(bars, {"before": before, "unigram": unigram, "after": after})
    for axes in (losses, bars):
        axes.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    write_atomically(path, picture.getvalue())


def _draw_bars(axes: Any, measures: dict[str, Measures]) -> None:
    known = {name: values for name, values in measures.items() if values}
    for shift, (kind, colour) in enumerate(_COLOURS.items()):
        of_kind = [(place, values[f"{kind}_kl"]) for place, values in enumerate(known.values())]
        places = [place + 0.4 * shift - 0.2 for place, height in of_kind if height is not None]
        heights = [height for _, height in of_kind if height is not None]
        bars = axes.bar(places, heights, 0.38, color=colour)
        axes.bar_label(bars, [f"{height:.1f}" for height in heights], padding=2, fontsize=8)
    axes.set_xticks(range(len(known)), list(known))
    axes.set(ylabel="held-out KL to the teacher, nats per token")


def _smooth(values: list[float]) -> list[float]:
    smooth, weight = [], 0.7
    mean = 0.0
    for number, value in enumerate(values, 1):
        mean = weight * mean + (1 - weight) * value
        smooth.append(mean / (1 - weight**number))
    return smooth
