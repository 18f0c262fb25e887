"""Divergences between teacher and student over the K+1 buckets that a cache holds, and their sum over spans.

Shape suffixes: N tokens, K the teacher's top ids, B buckets (K, and one for all other ids), V vocabulary, H hidden.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from sadstream.errors import ConfigError, ShapeError
from sadstream.models import Head
from sadstream.train_config import Reduction

# A bucket to which the teacher gives less than e**-60 counts as given that much: reverse KL stays finite.
_FLOOR = -60.0
# What a student holds impossible (a logit of -inf) stays a number, so that nothing times it is nothing.
_IMPOSSIBLE = -1e9
_CHUNK_ROWS = 256

TokenLoss: TypeAlias = Callable[[Tensor, dict[str, Tensor]], Tensor]


def teacher_buckets(topk_logprobs_NK: Tensor, tail_mass_N: Tensor, vocab_size: int, temperature: float = 1.0) -> Tensor:
    """The teacher's log-probabilities of its top K ids and of all others together.

    Args:
        temperature: acts on the buckets: each probability to the power of 1 / temperature, normalised again.
    Returns:
        float32 [N, K+1]; [N, K] where K is the whole vocabulary, and nothing is outside it.
    """
    buckets_NB = topk_logprobs_NK.float()
    if not _names_all(topk_logprobs_NK, vocab_size):
        buckets_NB = torch.cat([buckets_NB, tail_mass_N.float().log()[:, None]], -1)
    return _tempered(buckets_NB, temperature).clamp_min(_FLOOR)


def student_buckets(
    logits_NV: Tensor, topk_ids_NK: Tensor, topk_logprobs_NK: Tensor, temperature: float = 1.0
) -> Tensor:
    """The student's log-probabilities of the teacher's top K ids and of all others together.

    The others' mass is summed by itself and not taken from one: it stays right when it is tiny. An id at which the
    teacher's logprob is -inf only fills up its row, and is none of the row's buckets.

    Args:
        temperature: as in `teacher_buckets`.
    Returns:
        float32 [N, K+1]; [N, V] where K is V.
    """
    logits_NV = logits_NV.float()
    if _names_all(topk_logprobs_NK, logits_NV.shape[-1]):
        top_NK = logits_NV.gather(-1, topk_ids_NK)
        return _tempered(top_NK.log_softmax(-1), temperature).clamp_min(_IMPOSSIBLE)
    fills_NK = topk_logprobs_NK.isneginf()
    named_NK = torch.where(fills_NK, topk_ids_NK[:, :1], topk_ids_NK)
    top_NK, rest_N1 = _Apart.apply(logits_NV, named_NK)
    buckets_NB = torch.cat([top_NK.masked_fill(fills_NK, _IMPOSSIBLE), rest_N1], -1)
    log_q_NB = (buckets_NB - buckets_NB.logsumexp(-1, keepdim=True)).clamp_min(_IMPOSSIBLE)
    return _tempered(log_q_NB, temperature).clamp_min(_IMPOSSIBLE)


class _Apart(torch.autograd.Function):
    """Logits of named ids, and the log-sum-exp of all others: [N, V] and [N, K] to [N, K] and [N, 1].

    The gradient is made in place of what was kept for it, so there is one copy of the logits and no more.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, ids_NK: Tensor) -> tuple[Tensor, Tensor]:
        top_NK = logits_NV.gather(-1, ids_NK)
        others_NV = logits_NV.scatter(-1, ids_NK, _IMPOSSIBLE)
        largest_N1 = others_NV.amax(-1, keepdim=True)
        sizes_NV = others_NV.sub_(largest_N1).exp_()
        sum_N1 = sizes_NV.sum(-1, keepdim=True)
        ctx.kept = (ids_NK, sizes_NV, sum_N1)
        return top_NK, largest_N1 + sum_N1.log()

    @staticmethod
    def backward(ctx: Any, d_top_NK: Tensor, d_rest_N1: Tensor) -> tuple[Tensor, None]:
        ids_NK, sizes_NV, sum_N1 = _taken(ctx)
        d_logits_NV = sizes_NV.mul_(d_rest_N1 / sum_N1)
        return d_logits_NV.scatter_(-1, ids_NK, 0.0).scatter_add_(-1, ids_NK, d_top_NK), None


def _taken(ctx: Any) -> Any:
    """What a forward kept, given away: the gradient is written over it."""
    kept, ctx.kept = ctx.kept, None
    if kept is None:
        raise RuntimeError("this loss gives its gradient once: call it again for another one")
    return kept


def _tempered(logprobs_NB: Tensor, temperature: float) -> Tensor:
    return logprobs_NB if temperature == 1 else (logprobs_NB / temperature).log_softmax(-1)


def _names_all(topk_logprobs_NK: Tensor, vocab_size: int) -> bool:
    """Whether every row names the whole vocabulary."""
    return topk_logprobs_NK.shape[-1] == vocab_size and not bool(topk_logprobs_NK.isneginf().any())


def forward_kl(log_p_NB: Tensor, log_q_NB: Tensor) -> Tensor:
    """KL(teacher || student) of each token, float32 [N], nats; at least 0, and 0 for equal buckets.

    Args:
        log_p_NB, log_q_NB: log-probabilities of teacher and student, summing to 1 over B.
    Source: Structured Agent Distillation, arXiv 2505.13820, both span losses; the bucket for the rest as in
        Sparse Logit Sampling, arXiv 2503.16870.
    """
    return (log_p_NB.exp() * (log_p_NB - log_q_NB)).sum(-1)


def reverse_kl(log_p_NB: Tensor, log_q_NB: Tensor) -> Tensor:
    """KL(student || teacher) of each token, float32 [N], nats."""
    return (log_q_NB.exp() * (log_q_NB - log_p_NB)).sum(-1)


def jsd(log_p_NB: Tensor, log_q_NB: Tensor, beta: float = 0.5) -> Tensor:
    """Jensen-Shannon divergence of each token, float32 [N], nats: beta KL(p || m) + (1 - beta) KL(q || m).

    m is beta p + (1 - beta) q. At most log 2, which it reaches at beta 0.5.

    Args:
        beta: between 0 and 1, both excluded.
    Source: Generalized Knowledge Distillation, arXiv 2306.13649.
    """
    log_m_NB = torch.logaddexp(log_p_NB + math.log(beta), log_q_NB + math.log(1 - beta))
    return beta * forward_kl(log_p_NB, log_m_NB) + (1 - beta) * forward_kl(log_q_NB, log_m_NB)


_DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "forward-kl": forward_kl,
    "reverse-kl": reverse_kl,
    "jsd": jsd,
}


def soft_loss(divergence: str, *, temperature: float = 1.0, jsd_beta: float = 0.5, ce_weight: float = 0.0) -> TokenLoss:
    """A token loss against the cached teacher: (logits_NV, targets) -> float32 [N].

    It is (1 - ce_weight) * temperature^2 * D + ce_weight * cross-entropy of the logged token. The square keeps the
    gradient's size about the same whatever the temperature (Hinton et al., arXiv 1503.02531).

    Args:
        temperature: of both sides' K+1 buckets in D. jsd_beta: of `jsd`. ce_weight: from 0 to 1.
    Raises:
        ConfigError: no such divergence.
    """
    if divergence not in _DIVERGENCES:
        raise ConfigError(f"--divergence {divergence}: unknown", hint=f"one of: {', '.join(_DIVERGENCES)}")
    measure = partial(jsd, beta=jsd_beta) if divergence == "jsd" else _DIVERGENCES[divergence]

    def loss(logits_NV: Tensor, targets: dict[str, Tensor]) -> Tensor:
        logprobs_NK = targets["topk_logprobs"]
        log_p_NB = teacher_buckets(logprobs_NK, targets["tail_mass"], logits_NV.shape[-1], temperature)
        log_q_NB = student_buckets(logits_NV, targets["topk_ids"], logprobs_NK, temperature)
        soft_N = measure(log_p_NB, log_q_NB) * temperature**2
        return torch.lerp(soft_N, hard_loss(logits_NV, targets), ce_weight) if ce_weight else soft_N

    return loss


def hard_loss(logits_NV: Tensor, targets: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of the logged tokens, float32 [N], nats."""
    token_N1, rest_N1 = _Apart.apply(logits_NV.float(), targets["tokens"][:, None])
    return torch.nn.functional.softplus(rest_N1 - token_N1)[:, 0]


def span_weights(
    is_reason_N: Tensor,
    is_act_N: Tensor,
    *,
    n_reason: float,
    n_act: float,
    reduction: Reduction,
    lambda_reason: float,
    lambda_act: float,
) -> Tensor:
    """What each token's divergence counts for in an update's loss, float32 [N].

    sum: lambda_kind / (n_reason + n_act); mean: lambda_kind / n_kind. Counts are of the whole update, so that
    weights don't depend on how it is cut into micro-batches.

    Source: Structured Agent Distillation, arXiv 2505.13820 (sums, lambdas 1), over the update's number of tokens.
    """
    both = n_reason + n_act
    per_reason = lambda_reason / ((both if reduction == "sum" else n_reason) or 1)
    per_act = lambda_act / ((both if reduction == "sum" else n_act) or 1)
    return is_reason_N.float() * per_reason + is_act_N.float() * per_act


class _ChunkedLoss(torch.autograd.Function):
    """sum(weights * loss(head(hidden))) in chunks of rows; each chunk's gradient is made in forward.

    So logits live for one chunk only, and nothing is computed twice. Sound because the sum is only scaled after.
    Through the linear layer the gradient is written out: it is added to what there is, and needs no second one.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        weights_N: Tensor,
        targets: dict[str, Tensor],
        shape: Callable[[Tensor], Tensor],
        loss: TokenLoss,
    ) -> tuple[Tensor, Tensor]:
        kind = hidden_NH.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_NH.dtype
        layer_VH, shift_V = weight_VH.to(dtype), None if bias_V is None else bias_V.to(dtype)
        d_hidden_NH = torch.zeros_like(hidden_NH)
        d_weight_VH = torch.zeros_like(weight_VH) if ctx.needs_input_grad[1] else None
        d_bias_V = torch.zeros_like(bias_V) if bias_V is not None and ctx.needs_input_grad[2] else None
        losses = []
        for rows in _chunks(len(hidden_NH)):
            part_NH = hidden_NH[rows].to(dtype)
            linear_NV = torch.nn.functional.linear(part_NH, layer_VH, shift_V)
            with torch.enable_grad():
                chunk = {name: tensor[rows] for name, tensor in targets.items()}
                loss_N = loss(shape(linear_NV.requires_grad_()), chunk)
                total = (weights_N[rows] * loss_N).sum()
            (d_linear_NV,) = torch.autograd.grad(total, linear_NV)
            d_hidden_NH[rows] = d_linear_NV @ layer_VH
            if d_weight_VH is not None:
                _add_product(d_weight_VH, d_linear_NV.T, part_NH)
            if d_bias_V is not None:
                d_bias_V += d_linear_NV.sum(0)
            losses.append(loss_N.detach())
        loss_N = torch.cat(losses) if losses else weights_N.new_zeros(0)
        ctx.kept = (d_hidden_NH, d_weight_VH, d_bias_V)
        ctx.mark_non_differentiable(loss_N)
        return (weights_N * loss_N).sum(), loss_N

    @staticmethod
    def backward(ctx: Any, d_total: Tensor, d_losses: Tensor) -> tuple[Any, ...]:
        scaled = [None if made is None else made.mul_(d_total) for made in _taken(ctx)]
        return (*scaled, None, None, None, None)


def _add_product(total_VH: Tensor, a_VN: Tensor, b_NH: Tensor) -> None:
    if total_VH.dtype == b_NH.dtype:
        total_VH.addmm_(a_VN, b_NH)
    else:
        total_VH += a_VN @ b_NH


def _chunks(n_rows: int) -> list[slice]:
    return [slice(start, start + _CHUNK_ROWS) for start in range(0, n_rows, _CHUNK_ROWS)]


def weighted_loss(
    hidden_NH: Tensor,
    weights_N: Tensor,
    targets: dict[str, Tensor],
    *,
    head: Head,
    loss: TokenLoss,
) -> tuple[Tensor, Tensor]:
    """sum over tokens of weight times loss, with memory that does not grow with the number of tokens.

    Args:
        hidden_NH: the hidden states that foretell the tokens, picked before the head.
        weights_N: float32. targets: tensors [N, ...] that `loss` needs.
        head: from hidden [N, H] to logits [N, V].
        loss: (logits, targets) -> float32 [N].
    Returns:
        The sum (differentiable), and the tokens' losses [N] (not differentiable).
    Raises:
        ShapeError: hidden, weights and targets differ in N.
    """
    lengths = {"weights": len(weights_N), **{name: len(tensor) for name, tensor in targets.items()}}
    for name, length in lengths.items():
        if length != len(hidden_NH):
            raise ShapeError(f"{name} has {length} tokens, hidden states {len(hidden_NH)}")
    total, loss_N = _ChunkedLoss.apply(hidden_NH, head.weight_VH, head.bias_V, weights_N, targets, head.shape, loss)
    return total, loss_N


@torch.no_grad()
def token_losses(
    hidden_NH: Tensor,
    targets: dict[str, Tensor],
    *,
    head: Callable[[Tensor], Tensor],
    losses: dict[str, TokenLoss],
) -> dict[str, Tensor]:
    """Several losses of the same tokens, float32 [N] each, without gradient, in chunks."""
    parts: dict[str, list[Tensor]] = {name: [hidden_NH.new_zeros(0, dtype=torch.float32)] for name in losses}
    for rows in _chunks(len(hidden_NH)):
        logits = head(hidden_NH[rows])
        chunk = {name: tensor[rows] for name, tensor in targets.items()}
        for name, loss in losses.items():
            parts[name].append(loss(logits, chunk))
    return {name: torch.cat(part) for name, part in parts.items()}
