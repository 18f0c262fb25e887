"""Asking a teacher: full distributions at supervised tokens, and what is kept of them."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sadstream.codec import TeacherArrays
from sadstream.errors import ModelError
from sadstream.models import apply_head, hidden_states
from sadstream.packing import fill_rows, pack_rows, packed_hidden_states
from sadstream.windows import Job

_HEAD_ROWS = 256
# Ids that are looked at together when the largest are sought.
_BLOCK = 64
# Masses below this lose digits as float32 numbers.
_TINY = 1e-30


class Kept(NamedTuple):
    """What is kept of a teacher's distributions.

    Attributes:
        top_k: ids a token; those of each token that are needed for `top_p` of the mass.
        n_named: ids from here on are padding of the teacher's head that no tokenizer knows: their mass is outside.
        n_draws: if not 0, ids are drawn that many times a token and not picked.
    """

    top_k: int
    n_named: int
    top_p: float = 1.0
    n_draws: int = 0


@torch.inference_mode()
def ask(model: Any, jobs: Sequence[Job], kept: Kept, *, row_tokens: int = 0) -> list[TeacherArrays]:
    """The teacher's distributions at the supervised tokens; the head is run for these only, in chunks of rows.

    Args:
        row_tokens: windows share rows of so many tokens, in a model that takes packed rows; 0: a row each, padded.
    """
    sequences = [job.token_ids for job in jobs]
    rows = pack_rows(sequences, fill_rows([len(s) for s in sequences], row_tokens))
    input_ids_BT, position_ids_BT = (torch.from_numpy(array).to(model.device) for array in rows[:2])
    if row_tokens:
        hidden_BTH = packed_hidden_states(model, input_ids_BT, position_ids_BT)
    else:
        hidden_BTH = hidden_states(model, input_ids_BT)
    answers = []
    for job, row, start in zip(jobs, rows.row_N, rows.start_N, strict=True):
        positions = np.flatnonzero(job.window.supervised)
        # What stands at position i is foretold by the hidden state before it.
        hidden_SH = hidden_BTH[row, torch.from_numpy(start + positions - 1).to(model.device)]
        logged_S = torch.from_numpy(job.token_ids[positions]).to(model.device)
        parts = [
            distribution(apply_head(model, hidden), logged, **kept._asdict(), seed=_seed(job, chunk))
            for chunk, (hidden, logged) in enumerate(
                zip(hidden_SH.split(_HEAD_ROWS), logged_S.split(_HEAD_ROWS), strict=True)
            )
        ]
        ids, logprobs, log_tail, entropy, token_logprobs = (
            torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)
        )
        if not np.isfinite(entropy).all():
            raise ModelError(
                f"{job.trajectory.id}, window {job.number}: what the teacher says is not a number",
                hint="float16 overflows in some models: --dtype bfloat16 or float32",
            )
        answers.append(
            TeacherArrays(
                job.token_ids, job.kinds, job.steps, positions, ids, logprobs, log_tail, entropy, token_logprobs
            )
        )
    return answers


def _seed(job: Job, chunk: int) -> int:
    """A window's own seed: what is drawn for it does not depend on what is asked beside it."""
    text = f"{job.trajectory.id}\0{job.number}\0{chunk}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")


def distribution(
    logits_NV: Tensor,
    logged_N: Tensor,
    top_k: int,
    *,
    n_named: int | None = None,
    top_p: float = 1.0,
    n_draws: int = 0,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What is kept of full distributions.

    Args:
        logits_NV: any float dtype; computed in float32. logged_N: int64, the tokens that were logged.
        top_k, n_named, top_p, n_draws: as `Kept` has them; n_named None is V. seed: of the draws.
    Returns:
        ids int64 [N, K] by falling probability; logprobs float32 [N, K], nats over the full vocabulary, -inf from where
        `top_p` is reached (there the row's first id fills it up); log tail mass float32 [N], summed over all that is
        not kept and not taken from the rest, -inf if nothing is; entropy float32 [N], nats; logprob of the logged
        token float32 [N]. Of draws: the ids drawn, the logs of their shares of the draws, no tail; K is `n_draws`.
    Source: of draws, Sparse Logit Sampling, arXiv 2503.16870: shares of draws are unbiased for the probabilities.
    """
    logits_NV = logits_NV.float()
    best_N1 = logits_NV.amax(-1, keepdim=True)
    # Each pass over [N, V] shows in the time that caching takes: these are few.
    logits_NV = logits_NV - best_N1
    masses_NV = logits_NV.exp()
    mass_N = masses_NV.sum(-1)
    total_N1 = mass_N.log()[:, None]
    logged = (logits_NV.gather(-1, logged_N[:, None]) - total_N1).squeeze(-1)
    weighted_N = torch.linalg.vecdot(masses_NV, logits_NV)
    if not weighted_N.isfinite().all():  # 0 * -inf, of ids that a model rules out
        weighted_N = torch.where(masses_NV > 0, masses_NV * logits_NV, 0).sum(-1)
    entropy = total_N1.squeeze(-1) - weighted_N / mass_N
    if n_draws:
        ids_NK, shares_NK = _draw(masses_NV[:, :n_named], n_draws, seed)
        return ids_NK, shares_NK.log(), torch.full_like(entropy, float("-inf")), entropy, logged
    values_NK, ids_NK = _largest(logits_NV[:, :n_named], top_k)
    logprobs_NK = values_NK - total_N1
    rest_N = masses_NV.scatter_(-1, ids_NK, 0.0).sum(-1)
    tail = rest_N.log() - total_N1[:, 0]
    is_tiny_N = rest_N < _TINY
    if is_tiny_N.any():
        others = logits_NV[is_tiny_N].scatter(-1, ids_NK[is_tiny_N], float("-inf"))
        tail[is_tiny_N] = others.logsumexp(-1) - total_N1[is_tiny_N, 0]
    if top_p < 1:
        before_NK = logprobs_NK.exp().cumsum(-1) - logprobs_NK.exp()
        is_dropped_NK = before_NK >= top_p
        is_dropped_NK[:, 0] = False
        dropped = logprobs_NK.masked_fill(~is_dropped_NK, float("-inf")).logsumexp(-1)
        tail = torch.logaddexp(tail, dropped)
        logprobs_NK = logprobs_NK.masked_fill(is_dropped_NK, float("-inf"))
        ids_NK = torch.where(is_dropped_NK, ids_NK[:, :1], ids_NK)
    return ids_NK, logprobs_NK, tail, entropy, logged


def _largest(values_NV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row and where they stand, falling: `topk` of the blocks whose maxima are the k largest."""
    n_rows, n_blocks = values_NV.shape[0], values_NV.shape[1] // _BLOCK
    if n_blocks <= 4 * k:
        return values_NV.topk(k, dim=-1)
    blocks_NBW = values_NV[:, : n_blocks * _BLOCK].unflatten(-1, (n_blocks, _BLOCK))
    block_NK = blocks_NBW.amax(-1).topk(k, dim=-1).indices
    ids = (block_NK[:, :, None] * _BLOCK + torch.arange(_BLOCK, device=values_NV.device)).flatten(1)
    rest = torch.arange(n_blocks * _BLOCK, values_NV.shape[1], device=values_NV.device).expand(n_rows, -1)
    ids = torch.cat([ids, rest], -1)
    values_NK, place_NK = values_NV.gather(-1, ids).topk(k, dim=-1)
    return values_NK, ids.gather(-1, place_NK)


def _draw(probs_NV: Tensor, n_draws: int, seed: int) -> tuple[Tensor, Tensor]:
    """Ids drawn with replacement, and the share of draws that fell on each, float32 [N, n_draws]; 0 fills up."""
    generator = torch.Generator(device=probs_NV.device).manual_seed(seed)
    drawn = torch.multinomial(probs_NV, n_draws, replacement=True, generator=generator).sort(-1).values
    number_of = torch.cat([torch.zeros_like(drawn[:, :1]), (drawn.diff(dim=-1) > 0).long()], -1).cumsum(-1)
    counts = torch.zeros_like(drawn).scatter_add(-1, number_of, torch.ones_like(drawn))
    ids = torch.zeros_like(drawn).scatter(-1, number_of, drawn)
    counts, order = counts.sort(dim=-1, descending=True, stable=True)
    ids = ids.gather(-1, order)
    return torch.where(counts > 0, ids, ids[:, :1]), counts.float() / n_draws
