"""A student out of a teacher: the stage around `models.prune_layers`. Imports no torch until there is work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sadstream.errors import ConfigError
from sadstream.manifest import MANIFEST, StageFolder
from sadstream.model_files import model_fingerprint, resolve_model


def prune_student(
    model: str, out: str, *, layers: int, keep: str = "even", on_note: Callable[[str], None]
) -> dict[str, Any]:
    """Make a student of a teacher by keeping some of its layers, first and last among them.

    A finished folder is left as it is.

    Args:
        model: as `model_files.resolve_model` takes it.
        out: folder for the student; what transformers loads, tokenizer included.
        layers: how many to keep.
        keep: which: `even`, evenly spaced, or `ends`, half of them the first ones and half the last.
        on_note: told what takes long.
    Returns:
        `layers_kept` (their indices in the teacher), `n_parameters`, `out`.
    Raises:
        ModelError: no such model, or its layers are not found. ConfigError: more layers than it has; unknown `keep`.
    """
    if keep not in _CHOICES:
        raise ConfigError(f"--keep {keep}: unknown", hint=f"one of: {', '.join(_CHOICES)}")
    path = resolve_model(model, on_note)
    options = {"model": model_fingerprint(path), "layers": layers, **({} if keep == "even" else {"keep": keep})}
    folder = StageFolder(Path(out), "prune-student", options, [])
    if folder.done is not None:
        return {**folder.done.totals, "out": out, "already_done": True}
    on_note("loading torch and the model")
    from sadstream.models import prune_layers

    totals = prune_layers(path, layers, folder.path, _CHOICES[keep])
    folder.finish(
        totals, sorted(p.name for p in folder.path.iterdir() if p.name != MANIFEST and not p.name.startswith("."))
    )
    return {**totals, "out": out}


def layers_at_the_ends(n_kept: int, n_layers: int) -> list[int]:
    """Indices of `n_kept` layers, half of them the first ones and half the last; of an odd number, one more first.

    All but one then read what they were trained to read. What changes least lies between (arXiv 2403.03853).

    >>> layers_at_the_ends(5, 10)
    [0, 1, 2, 8, 9]
    """
    n_last = n_kept // 2
    return [*range(n_kept - n_last), *range(n_layers - n_last, n_layers)]


def evenly_spaced(n_kept: int, n_layers: int) -> list[int]:
    """Indices of `n_kept` of `n_layers` layers, first and last included.

    >>> evenly_spaced(4, 10)
    [0, 3, 6, 9]
    """
    if n_kept == 1:
        return [0]
    return [round(i * (n_layers - 1) / (n_kept - 1)) for i in range(n_kept)]


_CHOICES = {"even": evenly_spaced, "ends": layers_at_the_ends}
