"""A teacher asked again about what a cache holds of it."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sadstream.models import apply_head, hidden_states

_HEAD_ROWS = 256


@torch.inference_mode()
def bucket_logprobs(
    model: Any, arrays: dict[str, NDArray[Any]], *, n_padding: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The model's own log-probabilities of a sample's ids, the rest beside them, and of its logged tokens.

    Args:
        arrays: as `sadstream.decode_teacher_sample` gives them.
        n_padding: tokens to the right of the window, and windows beside it: another shape of the same forward.
    Returns:
        float64 [S, K+1], -inf where an id only fills up its row; float64 [S].
    """
    token_ids, positions = torch.from_numpy(arrays["token_ids"]), arrays["positions"]
    input_ids_BT = torch.zeros(2 if n_padding else 1, len(token_ids) + n_padding, dtype=torch.int64)
    input_ids_BT[:, : len(token_ids)] = token_ids
    hidden_SH = hidden_states(model, input_ids_BT.to(model.device))[0, torch.from_numpy(positions - 1)]
    ids_SK = torch.from_numpy(arrays["topk_ids"])
    fills = torch.from_numpy(np.isneginf(arrays["topk_logprobs"]))
    logged_S = token_ids[torch.from_numpy(positions)]
    buckets, logged = [], []
    for rows in torch.arange(len(positions)).split(_HEAD_ROWS):
        dense = apply_head(model, hidden_SH[rows]).double().cpu().log_softmax(-1)
        top = dense.gather(-1, ids_SK[rows]).masked_fill(fills[rows], float("-inf"))
        rest = dense.scatter(-1, ids_SK[rows], float("-inf")).logsumexp(-1, keepdim=True)
        buckets.append(torch.cat([top, rest], -1).numpy())
        logged.append(dense.gather(-1, logged_S[rows, None])[:, 0].numpy())
    return np.concatenate(buckets), np.concatenate(logged)
