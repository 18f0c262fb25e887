"""Teacher shards to batches: which samples an update takes, read by offset, as tensors."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from sadstream.codec import decode_teacher_sample
from sadstream.errors import ModelError, ShardError
from sadstream.shards import read_member
from sadstream.tokens import ACT, REASON
from sadstream.train_config import Curriculum

_POOL_UPDATES = 32
_CURRICULUM_BUCKETS = 10


class Batch(NamedTuple):
    """Some windows side by side, right-padded: B windows, T tokens, N of all their tokens supervised.

    Attributes:
        keys: of the samples. n_tokens: real ones.
        input_ids_BT: int64.
        window_N, position_N: int64; where the hidden state stands that foretells each supervised token.
        is_reason_N, is_act_N: bool.
        targets: `tokens` [N], `topk_ids` [N, K], `topk_logprobs` [N, K], `tail_mass` [N].
    """

    keys: list[str]
    n_tokens: int
    input_ids_BT: Tensor
    window_N: Tensor
    position_N: Tensor
    is_reason_N: Tensor
    is_act_N: Tensor
    targets: dict[str, Tensor]

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        moved = {name: value.to(device) for name, value in self._asdict().items() if isinstance(value, Tensor)}
        return self._replace(**moved, targets={name: value.to(device) for name, value in self.targets.items()})


def plan_updates(
    n_tokens: NDArray[np.int64],
    complexity: NDArray[np.float64],
    *,
    seed: int,
    epoch: int,
    batch_tokens: int,
    curriculum: Curriculum,
) -> list[list[int]]:
    """Which samples each update of an epoch takes: a pure function of its arguments.

    Samples are shuffled (within tenths of rising complexity, where the curriculum asks for it), then grouped with
    others of like length so that padding is small, then cut into updates of about `batch_tokens` real tokens.

    Returns:
        Indices of samples, an update each; every sample once.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(n_tokens))
    if curriculum == "complexity":
        rank = np.argsort(np.argsort(complexity, kind="stable"), kind="stable")
        bucket = rank * _CURRICULUM_BUCKETS // max(1, len(rank))
        pools = [order[bucket[order] == b] for b in range(_CURRICULUM_BUCKETS)]
    else:
        edges = np.searchsorted(
            np.cumsum(n_tokens[order]),
            np.arange(1, n_tokens.sum() // (batch_tokens * _POOL_UPDATES) + 1) * batch_tokens * _POOL_UPDATES,
        )
        pools = np.split(order, edges)
    updates: list[list[int]] = []
    for pool in pools:
        by_length = pool[np.argsort(n_tokens[pool], kind="stable")]
        cut = list(_by_budget(by_length, n_tokens, batch_tokens))
        updates += [cut[i] for i in random.permutation(len(cut))]
    return updates


def _by_budget(order: NDArray[np.int64], n_tokens: NDArray[np.int64], budget: int) -> Iterator[list[int]]:
    group: list[int] = []
    total = 0
    for index in order.tolist():
        if group and total + n_tokens[index] > budget:
            yield group
            group, total = [], 0
        group.append(index)
        total += int(n_tokens[index])
    if group:
        yield group


def micro_batches(update: Sequence[int], n_tokens: NDArray[np.int64], budget: int) -> list[list[int]]:
    """Cut an update into batches of at most `budget` padded tokens (or one sample), like lengths together."""
    batches: list[list[int]] = []
    for index in sorted(update, key=lambda i: (int(n_tokens[i]), i)):
        if batches and (len(batches[-1]) + 1) * int(n_tokens[index]) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


class SampleReader:
    """Reads teacher samples by offset; holds the shards open.

    Args:
        folder: of teacher shards. index: rows of `scan_index`, which say where each sample stands.
    """

    def __init__(self, folder: Path, index: pl.DataFrame) -> None:
        self._folder = folder
        self._places = index.select("shard", "offset", "n_bytes", "key").rows()
        self._open: dict[str, int] = {}

    def read(self, number: int) -> tuple[str, dict[str, NDArray[Any]]]:
        """Key and arrays of the sample in one row of the index.

        Raises:
            ShardError: something else stands there, or it is damaged.
        """
        shard, offset, n_bytes, key = self._places[number]
        path = self._folder / shard
        if shard not in self._open:
            try:
                self._open[shard] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise ShardError(f"{path}: {error.strerror}", hint="make the folder again, or copy it whole") from error
        where = f"{path} at byte {offset}"
        found, data = read_member(os.pread(self._open[shard], n_bytes, offset), where)
        if found != key:
            raise ShardError(
                f"{where}: sample {found} stands where the index has {key}",
                hint="tar and index are of different runs: make the folder again, or copy it whole",
            )
        try:
            return key, decode_teacher_sample(data)
        except ShardError as error:
            raise ShardError(f"{where}: {error}", hint=error.hint) from error

    def close(self) -> None:
        """Close the shards."""
        for handle in self._open.values():
            os.close(handle)
        self._open.clear()


def collate(samples: Sequence[tuple[str, dict[str, NDArray[Any]]]], *, everything: bool) -> Batch:
    """Samples side by side.

    Args:
        everything: keep all supervised tokens; else only what the agent wrote.
    """
    longest = max(len(arrays["token_ids"]) for _, arrays in samples)
    input_ids_BT = torch.zeros(len(samples), longest, dtype=torch.int64)
    columns: dict[str, list[NDArray[Any]]] = {
        name: [] for name in ("window", "position", "kind", "tokens", "topk_ids", "topk_logprobs", "tail_mass")
    }
    for row, (_, arrays) in enumerate(samples):
        token_ids, positions = arrays["token_ids"], arrays["positions"]
        input_ids_BT[row, : len(token_ids)] = torch.from_numpy(token_ids)
        kinds = arrays["kinds"][positions]
        kept = np.full(len(kinds), True) if everything else (kinds == REASON) | (kinds == ACT)
        columns["window"].append(np.full(int(kept.sum()), row))
        columns["position"].append(positions[kept] - 1)
        columns["kind"].append(kinds[kept])
        columns["tokens"].append(token_ids[positions[kept]])
        for name in ("topk_ids", "topk_logprobs", "tail_mass"):
            columns[name].append(arrays[name][kept])
    joined = {name: torch.from_numpy(np.concatenate(parts)) for name, parts in columns.items()}
    return Batch(
        keys=[key for key, _ in samples],
        n_tokens=sum(len(arrays["token_ids"]) for _, arrays in samples),
        input_ids_BT=input_ids_BT,
        window_N=joined["window"],
        position_N=joined["position"],
        is_reason_N=joined["kind"] == REASON,
        is_act_N=joined["kind"] == ACT,
        targets={name: joined[name] for name in ("tokens", "topk_ids", "topk_logprobs", "tail_mass")},
    )


class Split:
    """The samples of one split of a folder of teacher shards.

    Attributes:
        rows: of the index. n_tokens: int64, of each sample.
    """

    def __init__(self, folder: Path, index: pl.DataFrame, split: str, *, everything: bool, vocab_size: int) -> None:
        self.rows = index.filter(pl.col("split") == split)
        self.n_tokens: NDArray[np.int64] = self.rows["n_tokens"].to_numpy().astype(np.int64)
        self._reader = SampleReader(folder, self.rows)
        self._everything = everything
        self._vocab_size = vocab_size

    def __len__(self) -> int:
        return len(self.n_tokens)

    def batches(self, samples: Sequence[int], budget: int, device: torch.device) -> Iterator[Batch]:
        """Some samples as batches of at most `budget` padded tokens (or one sample).

        Raises:
            ShardError: a sample is damaged. ModelError: the teacher's ids go beyond the student's.
        """
        for numbers in micro_batches(samples, self.n_tokens, budget):
            batch = collate([self._reader.read(i) for i in numbers], everything=self._everything)
            ids = batch.targets["topk_ids"]
            # Two heads over one tokenizer may be padded to different sizes.
            if ids.numel() and int(ids.max()) >= self._vocab_size:
                raise ModelError(
                    f"{', '.join(batch.keys[:3])}: the teacher's ids reach {int(ids.max())}, "
                    f"and the student's head has {self._vocab_size}",
                    hint="a student with as many outputs as the teacher is wanted",
                )
            yield batch.to(device)
