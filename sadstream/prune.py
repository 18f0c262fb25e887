"""A student out of a teacher: the stage around `models.prune_layers`. Imports no torch until there is work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sadstream.manifest import MANIFEST, StageFolder
from sadstream.model_files import model_fingerprint, resolve_model


def prune_student(model: str, out: str, *, layers: int, on_note: Callable[[str], None]) -> dict[str, Any]:
    """Make a student of a teacher by keeping evenly spaced layers, first and last among them.

    A finished folder is left as it is.

    Args:
        model: as `model_files.resolve_model` takes it.
        out: folder for the student; what transformers loads, tokenizer included.
        layers: how many to keep.
        on_note: told what takes long.
    Returns:
        `layers_kept` (their indices in the teacher), `n_parameters`, `out`.
    Raises:
        ModelError: no such model, or its layers are not found. ConfigError: more layers than it has.
    """
    path = resolve_model(model, on_note)
    folder = StageFolder(Path(out), "prune-student", {"model": model_fingerprint(path), "layers": layers}, [])
    if folder.done is not None:
        return {**folder.done.totals, "out": out, "already_done": True}
    on_note("loading torch and the model")
    from sadstream.models import prune_layers

    totals = prune_layers(path, layers, folder.path)
    folder.finish(
        totals, sorted(p.name for p in folder.path.iterdir() if p.name != MANIFEST and not p.name.startswith("."))
    )
    return {**totals, "out": out}
