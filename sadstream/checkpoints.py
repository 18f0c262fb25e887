"""Training state on disk: whole or absent, safetensors only."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from safetensors.torch import load_file, save_file

from sadstream.errors import ManifestError
from sadstream.manifest import folder_written_atomically
from sadstream.models import writing_tensors


class State(NamedTuple):
    """How far a run is.

    Attributes:
        update: updates done. n_tokens, n_padded: real and padded tokens they took.
        n_metrics_bytes: of metrics.jsonl, that tell of them.
        eval_before: the held-out split before the first update.
        stream: where the stream of samples stands.
        best_update, best_kl: where the held-out KL was least so far, among the measures during the run;
            0 before the first.
    """

    update: int
    n_tokens: int
    n_padded: int
    n_metrics_bytes: int
    eval_before: dict[str, float | None] | None
    stream: dict[str, Any]
    best_update: int = 0
    best_kl: float = 0.0


def save(folder: Path, model: Any, optimizer: torch.optim.Optimizer, state: State, *, keep: int = 2) -> None:
    """Write a checkpoint of what learns, then drop all but the last `keep` and the best."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    moments = {
        f"{key}/{names[parameter]}": tensor
        for parameter, values in optimizer.state.items()
        for key, tensor in values.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / _name(state.update)
    with folder_written_atomically(place) as target, writing_tensors(place):
        learning = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
        save_file(learning, target / "model.safetensors")
        save_file({name: tensor.contiguous() for name, tensor in moments.items()}, target / "optimizer.safetensors")
        (target / "state.json").write_bytes(msgspec.json.encode(state._asdict()))
    for old in _checkpoints(folder)[:-keep]:
        if old.name != _name(state.best_update):
            shutil.rmtree(old)


def _name(update: int) -> str:
    return f"update-{update:08d}"


def load_last(folder: Path, model: Any, optimizer: torch.optim.Optimizer) -> State | None:
    """Put the last checkpoint into model and optimizer; None where there is none.

    Raises:
        ManifestError: the checkpoint is damaged.
    """
    found = _checkpoints(folder)
    if not found:
        return None
    last = found[-1]
    try:
        state = State(**msgspec.json.decode((last / "state.json").read_bytes()))
        weights = load_file(last / "model.safetensors")
        moments = load_file(last / "optimizer.safetensors")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not parameter.requires_grad:
                    continue
                parameter.copy_(weights[name])
                device, is_fused = parameter.device, optimizer.defaults["fused"]
                # A parameter that no gradient ever reached has no moments.
                if f"step/{name}" in moments:
                    optimizer.state[parameter] = {
                        # Only a fused optimiser counts steps on the device.
                        key: moments[f"{key}/{name}"].to(device if key != "step" or is_fused else "cpu")
                        for key in ("step", "exp_avg", "exp_avg_sq")
                    }
    except Exception as error:  # safetensors, msgspec and torch each raise their own for a damaged file
        raise ManifestError(
            f"{last}: a damaged checkpoint: {str(error).splitlines()[0]}", hint="delete it; the one before it is used"
        ) from error
    return state


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("update-*")) if folder.is_dir() else []
