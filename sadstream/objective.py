"""What an update's loss is, and its gradient: the same however the update is cut into micro-batches and ranks."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sadstream.losses import TokenLoss, hard_loss, soft_loss, span_weights, weighted_loss
from sadstream.models import head_of, hidden_states
from sadstream.stream import Batch
from sadstream.train_config import TrainConfig


class Counts(NamedTuple):
    """Supervised tokens of a whole update by kind, each counted by its sample's weight.

    Counts of parts (micro-batches, ranks) add up to those of the whole.
    """

    reason: float
    act: float
    other: float

    def plus(self, more: "Counts") -> "Counts":
        """Counts of both together."""
        return Counts(*(a + b for a, b in zip(self, more, strict=True)))


class Sums(NamedTuple):
    """The loss of a part of an update, and each kind's share of its mean divergence; parts' sums add up."""

    loss: float
    reason: float
    act: float


def token_loss(config: TrainConfig) -> TokenLoss:
    """What one token costs: cross-entropy for hard labels, else a divergence from the teacher."""
    if config.objective == "imitation":
        return hard_loss
    return soft_loss(
        config.divergence, temperature=config.temperature, jsd_beta=config.jsd_beta, ce_weight=config.ce_weight
    )


def count(batches: Sequence[Batch]) -> Counts:
    """Counts of some batches."""
    reason = sum(float(batch.weight_N[batch.is_reason_N].double().sum()) for batch in batches)
    act = sum(float(batch.weight_N[batch.is_act_N].double().sum()) for batch in batches)
    return Counts(reason, act, sum(float(batch.weight_N.double().sum()) for batch in batches) - reason - act)


def token_weights(config: TrainConfig, batch: Batch, counts: Counts) -> Tensor:
    """What each token counts for, float32 [N]: where the objectives differ, beside the token's loss itself.

    Args:
        counts: of the whole update.
    """
    if config.objective == "token-kd":
        return batch.weight_N / (sum(counts) or 1.0)
    return batch.weight_N * span_weights(
        batch.is_reason_N,
        batch.is_act_N,
        n_reason=counts.reason,
        n_act=counts.act,
        reduction=config.reduction,
        lambda_reason=config.lambda_reason,
        lambda_act=config.lambda_act,
    )


def add_gradients(
    model: Any, batches: Sequence[Batch], counts: Counts, config: TrainConfig, loss: TokenLoss, dtype: torch.dtype
) -> Sums:
    """Add a part's gradient of the update's loss to the model's, a micro-batch at a time.

    Args:
        batches: the part, on the model's device. counts: of the whole update, other parts included.
        dtype: of the forward; float32 is without autocast.
    """
    sums: list[Tensor] = []
    for batch in batches:
        with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
            states_BTH = hidden_states(model, batch.input_ids_BT, position_ids_BT=batch.position_ids_BT)
            hidden_NH = states_BTH[batch.window_N, batch.position_N]
            value, loss_N = weighted_loss(
                hidden_NH,
                token_weights(config, batch, counts),
                batch.targets,
                head=head_of(model),
                loss=loss,
            )
        value.backward()
        weighted_N = loss_N.double() * batch.weight_N
        reason, act = (weighted_N.where(mask_N, 0).sum() for mask_N in (batch.is_reason_N, batch.is_act_N))
        sums.append(torch.stack([value.detach().double(), reason, act]))
    # One look at numbers on a GPU, which waits for it, and not one a batch.
    total, reason, act = torch.stack(sums).sum(0).tolist() if sums else (0.0, 0.0, 0.0)
    return Sums(total, reason / (counts.reason or 1.0), act / (counts.act or 1.0))
