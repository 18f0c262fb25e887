"""Success of models as a picture."""

import io
from pathlib import Path
from typing import Any

from sadstream.manifest import write_atomically

# Colours that stay apart for colour-blind eyes (Okabe and Ito).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def draw_success(results: dict[str, Any], path: Path) -> None:
    """Share of episodes won, with intervals, over all and by type of task; models beside each other.

    Args:
        results: as `results.json` has them.
    """
    from matplotlib.figure import Figure

    models = results["models"]
    types = sorted({name for measures in models.values() for name in measures["by_type"]})
    rows = ["all", *types]
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(rows) * (len(models) + 1)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(models)
    for place, (label, measures) in enumerate(models.items()):
        known = {"all": measures, **measures["by_type"]}
        for number, row in enumerate(rows):
            if row not in known:
                continue
            rate, low, high = known[row]["success_rate"]
            y = number + (place - (len(models) - 1) / 2) * height
            axes.barh(y, rate, height * 0.9, color=_COLOURS[place % len(_COLOURS)], label=label if not number else None)
            axes.plot([low, high], [y, y], color="black", linewidth=1)
            axes.text(high + 0.01, y, f"{rate:.0%} of {known[row]['n_episodes']}", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.12), xlabel="share of episodes won, 95 % Wilson interval")
    axes.set_title(f"{results['env']}, split {results['split']}, at most {results['max_steps']} turns", fontsize=10)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12 - 0.3 / len(rows)), ncols=3)
    axes.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    write_atomically(path, picture.getvalue())
