"""Asking a teacher: full distributions at supervised tokens, and what is kept of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sadstream.codec import TeacherArrays
from sadstream.errors import ModelError
from sadstream.models import apply_head, hidden_states
from sadstream.windows import Job

_HEAD_ROWS = 256


@torch.inference_mode()
def ask(model: Any, jobs: Sequence[Job], top_k: int) -> list[TeacherArrays]:
    """The teacher's distributions at the supervised tokens; the head is run for these only, in chunks of rows."""
    longest = max(len(job.token_ids) for job in jobs)
    input_ids_BT = torch.zeros(len(jobs), longest, dtype=torch.int64)
    for row, job in enumerate(jobs):
        input_ids_BT[row, : len(job.token_ids)] = torch.from_numpy(job.token_ids)
    hidden_BTH = hidden_states(model, input_ids_BT.to(model.device))
    answers = []
    for row, job in enumerate(jobs):
        positions = np.flatnonzero(job.window.supervised)
        # What stands at position i is foretold by the hidden state before it.
        hidden_SH = hidden_BTH[row, torch.from_numpy(positions - 1).to(model.device)]
        logged_S = torch.from_numpy(job.token_ids[positions]).to(model.device)
        parts = [
            distribution(apply_head(model, hidden), logged, top_k)
            for hidden, logged in zip(hidden_SH.split(_HEAD_ROWS), logged_S.split(_HEAD_ROWS), strict=True)
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


def distribution(logits_NV: Tensor, logged_N: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What is kept of full distributions.

    Args:
        logits_NV: any float dtype; computed in float32. logged_N: int64, the tokens that were logged.
    Returns:
        ids int64 [N, K] by falling probability; logprobs float32 [N, K], nats over the full vocabulary; log tail mass
        float32 [N], summed over all that is outside the top k and not taken from the rest, -inf if nothing is;
        entropy float32 [N], nats; logprob of the logged token float32 [N].
    """
    logits_NV = logits_NV.float()
    values_NK, ids_NK = logits_NV.topk(top_k, dim=-1)
    total_N1 = logits_NV.logsumexp(-1, keepdim=True)
    logged = logits_NV.gather(-1, logged_N[:, None]) - total_N1
    probs_NV = (logits_NV - total_N1).exp()
    # p * log p, with 0 * -inf = 0.
    entropy = (total_N1.squeeze(-1) * probs_NV.sum(-1)) - torch.where(probs_NV > 0, probs_NV * logits_NV, 0).sum(-1)
    tail = logits_NV.scatter(-1, ids_NK, float("-inf")).logsumexp(-1) - total_N1.squeeze(-1)
    return ids_NK, values_NK - total_N1, tail, entropy, logged.squeeze(-1)
