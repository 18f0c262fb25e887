"""Span shards to windows of tokens, ready to ask a teacher about. Imports no torch."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sadstream.manifest import read_manifest
from sadstream.shards import decode_trajectory, iter_shard, read_index
from sadstream.tokens import Window, cut_windows, supervised_tokens, token_kinds
from sadstream_schemas import Trajectory

Positions = Literal["supervised", "all"]


class Job(NamedTuple):
    """A window to ask the teacher about."""

    trajectory: Trajectory
    row: dict[str, Any]
    number: int
    window: Window
    token_ids: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    steps: NDArray[np.int32]


def _trajectories(spans: Path) -> Iterator[tuple[Trajectory, dict[str, Any]]]:
    for shard in read_manifest(spans, "segment").shards:
        for (key, data), row in zip(iter_shard(spans, shard), read_index(spans, shard), strict=True):
            yield decode_trajectory(data, f"{spans / shard.name}: sample {key}"), row


def plan_windows(spans: Path, tokenizer: Any, *, max_length: int, positions: Positions, limit: int) -> Iterator[Job]:
    """The windows of a folder of span shards, in their order.

    Args:
        tokenizer: a fast one of transformers. limit: windows at most; 0 is all.
    """
    jobs = (
        job
        for trajectory, row in _trajectories(spans)
        for job in _windows(trajectory, row, tokenizer, max_length, positions)
    )
    return islice(jobs, limit) if limit else jobs


def _windows(
    trajectory: Trajectory, row: dict[str, Any], tokenizer: Any, max_length: int, positions: Positions
) -> Iterator[Job]:
    encoded = tokenizer(trajectory.text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    token_ids = np.array(encoded["input_ids"], np.int64)
    kinds, steps = token_kinds(encoded["offset_mapping"], encoded["special_tokens_mask"], trajectory.spans)
    supervised = supervised_tokens(kinds, everything=positions == "all")
    # The first token is never supervised, so it counts as prompt even where the agent wrote it.
    written = np.flatnonzero(supervised_tokens(kinds))
    prompt_stop = int(written[0]) if len(written) else len(kinds)
    for number, window in enumerate(cut_windows(supervised, steps, max_length, prompt_stop=prompt_stop)):
        at = window.tokens
        yield Job(trajectory, row, number, window, token_ids[at], kinds[at], steps[at])
