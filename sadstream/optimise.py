"""The optimiser, and how fast it goes when."""

import math

import torch

from sadstream.train_config import Schedule, TrainConfig


def make_optimizer(model: torch.nn.Module, config: TrainConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW over what learns; fused where the device can.

    On a CPU too: one pass over a parameter and its moments, where the plain loop makes ten.
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    is_fused = device.type in ("cuda", "cpu")
    return torch.optim.AdamW(learning, config.lr, (0.9, 0.95), weight_decay=config.weight_decay, fused=is_fused)


def schedule(update: int, n_updates: int, warmup: float, kind: Schedule = "cosine", decay: float = 0.2) -> float:
    """Share of the peak rate: a linear rise, then what `kind` says, down to nothing behind the last update.

    Args:
        update: from 0. warmup: share of the updates in which the rate rises.
        kind: `cosine`, `linear`, or `wsd` (warm-up, stable, decay): at the peak until the last updates.
        decay: share of the updates in which `wsd` falls, linearly.
    """
    rise = max(1, round(n_updates * warmup))
    if update < rise:
        return (update + 1) / rise
    gone = (update - rise) / max(1, n_updates - rise)
    if kind == "linear":
        return 1 - gone
    if kind == "wsd":
        return min(1.0, (n_updates - update) / max(1, round(n_updates * decay)))
    return 0.5 * (1 + math.cos(math.pi * gone))
