"""Held-out measures: how far a student is from its teacher, and how far the best unigram is."""

import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sadstream.codec import alike_in_width
from sadstream.losses import TokenLoss, hard_loss, soft_loss, token_losses
from sadstream.models import head_of, hidden_states
from sadstream.ranks import ALONE, Ranks
from sadstream.stream import Batch, Split
from sadstream.unigram import fit_unigram, unigram_kl

_UNIGRAM_TOKENS = 2_000_000
_KINDS = ("reason", "act")
_MEASURES = ("kl", "ce", "top1")


@torch.no_grad()
def measure(
    model: Any, split: Split, *, device: torch.device, dtype: torch.dtype, ranks: Ranks = ALONE
) -> dict[str, float | None] | None:
    """Means over a split's tokens of each kind; None where the split is empty.

    Args:
        ranks: that share the work; each gets the means.
    Returns:
        `kl` of both kinds together. For `reason` and `act`, None where the split has no such token: `KIND_kl`
        (forward, nats), `KIND_ce` (of the logged tokens, nats), `KIND_top1` (share of tokens whose likeliest id is
        the teacher's).
    """
    if not len(split):
        return None
    # Named beforehand: a rank may have no batch, and all ranks must add up the same.
    sums = {f"{kind}_{name}": 0.0 for kind in _KINDS for name in _MEASURES}
    counts = dict.fromkeys(_KINDS, 0.0)
    was_training = model.training
    model.eval()
    for batch in itertools.islice(split.batches(device), ranks.rank, None, ranks.size):
        values = token_measures(model, batch, dtype)
        for kind, mask in (("reason", batch.is_reason_N), ("act", batch.is_act_N)):
            counts[kind] += int(mask.sum())
            for name, value_N in values.items():
                sums[f"{kind}_{name}"] += float(value_N[mask].double().sum())
    model.train(was_training)
    counts = dict(zip(counts, ranks.add_up(list(counts.values())), strict=True))
    sums = dict(zip(sums, ranks.add_up(list(sums.values())), strict=True))
    n_tokens = sum(counts.values())
    means: dict[str, float | None] = {
        "kl": (sums["reason_kl"] + sums["act_kl"]) / n_tokens if n_tokens else None,
    }
    for name, value in sums.items():
        n_of_kind = counts[name.split("_")[0]]
        means[name] = value / n_of_kind if n_of_kind else None
    return means


@torch.no_grad()
def token_measures(model: Any, batch: Batch, dtype: torch.dtype) -> dict[str, Tensor]:
    """What `measure` averages, of each supervised token of a batch on the model's device: float32 [N] each.

    Returns:
        `kl`: forward, nats; `ce`: of the logged token, nats; `top1`: 1 where the likeliest id is the teacher's.
    """
    losses: dict[str, TokenLoss] = {"kl": soft_loss("forward-kl"), "ce": hard_loss, "top1": _top1}
    with torch.autocast(batch.input_ids_BT.device.type, dtype, enabled=dtype != torch.float32):
        states_BTH = hidden_states(model, batch.input_ids_BT, position_ids_BT=batch.position_ids_BT)
        hidden_NH = states_BTH[batch.window_N, batch.position_N]
        return token_losses(hidden_NH, batch.targets, head=head_of(model).logits, losses=losses)


def _top1(logits_NV: Tensor, targets: dict[str, Tensor]) -> Tensor:
    return (logits_NV.argmax(-1) == targets["topk_ids"][:, 0]).float()


def measure_unigram(training: Split, held_out: Split, vocab_size: int) -> dict[str, float | None] | None:
    """KL of the teacher to the best unigram of each kind, fitted on one split and measured on the other.

    Returns:
        `reason_kl` and `act_kl`, nats a token, None where a split has no such token; None where nothing is held out.
    """
    if not len(held_out):
        return None
    fitted, measured = (_tokens_by_kind(split) for split in (training, held_out))
    result: dict[str, float | None] = {}
    for kind in ("reason", "act"):
        ids, probs, tail = fitted[kind]
        is_known = len(ids) > 0 and len(measured[kind][0]) > 0
        unigram = fit_unigram(ids, probs, tail, vocab_size) if is_known else None
        result[f"{kind}_kl"] = None if unigram is None else float(unigram_kl(unigram, *measured[kind]).mean())
    return result


def _tokens_by_kind(split: Split) -> dict[str, list[NDArray[Any]]]:
    """topk_ids, probabilities and tail mass of a split's tokens, of the first two million at most."""
    names = ("topk_ids", "topk_logprobs", "tail_mass")
    parts: dict[str, list[dict[str, NDArray[Any]]]] = {"reason": [], "act": []}
    n_tokens = 0
    for batch in split.batches(torch.device("cpu")):
        for kind, mask in (("reason", batch.is_reason_N), ("act", batch.is_act_N)):
            parts[kind].append({name: batch.targets[name][mask].numpy() for name in names})
        n_tokens += len(batch.is_act_N)
        if n_tokens > _UNIGRAM_TOKENS:
            break
    joined = {
        kind: [np.concatenate(alike_in_width(name, each)) for name in names] for kind, each in parts.items() if each
    }
    return {kind: [ids, np.exp(logprobs), tail] for kind, (ids, logprobs, tail) in joined.items()}
