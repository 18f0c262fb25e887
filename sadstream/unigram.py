"""The best context-free student: what a distillation must beat to have learnt more than word counts."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 30


def fit_unigram(
    topk_ids: NDArray[Any], topk_probs: NDArray[Any], tail_mass: NDArray[Any], vocab_size: int
) -> NDArray[Any]:
    """The one distribution over the vocabulary that is nearest, in mean KL over K+1 buckets, to a teacher's many.

    The teacher's tail tells no ids, so its mass is spread over all ids outside the top k as the unigram itself has
    them, again and again (expectation maximisation).

    Args:
        topk_ids: int [S, K]. topk_probs: float [S, K], 0 where an id only fills up its row. tail_mass: float [S].
    Returns:
        float64 [V], sums to 1, positive everywhere.
    """
    named = np.bincount(topk_ids.ravel(), topk_probs.ravel(), vocab_size)
    is_named = topk_probs > 0
    unigram = np.full(vocab_size, 1 / vocab_size)
    for _ in range(_ROUNDS):
        outside = np.maximum(1 - (unigram[topk_ids] * is_named).sum(1), 1e-12)
        rate = tail_mass / outside
        inside = np.bincount(topk_ids.ravel(), (rate[:, None] * is_named).ravel(), vocab_size)
        unigram = named + unigram * (rate.sum() - inside) + 1e-9
        unigram /= unigram.sum()
    return unigram


def unigram_kl(
    unigram: NDArray[Any], topk_ids: NDArray[Any], topk_probs: NDArray[Any], tail_mass: NDArray[Any]
) -> NDArray[Any]:
    """KL(teacher || unigram) over K+1 buckets, float64 [S], nats."""
    q = unigram[topk_ids]
    q_tail = np.maximum(1 - (q * (topk_probs > 0)).sum(1), 1e-12)
    named = np.where(topk_probs > 0, topk_probs * np.log(np.maximum(topk_probs, 1e-30) / q), 0).sum(1)
    rest = np.where(tail_mass > 0, tail_mass * np.log(np.maximum(tail_mass, 1e-30) / q_tail), 0)
    total: NDArray[Any] = named + rest
    return total
