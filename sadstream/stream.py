"""Teacher samples as tensors: batches of an update, a data set for loops of one's own, a split to measure."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from sadstream.codec import alike_in_width, decode_teacher_sample
from sadstream.errors import ModelError, ShardError
from sadstream.order import EVERY_STEP, Order, Rows, micro_batches, take
from sadstream.packing import fill_rows, pack_rows
from sadstream.sample_stream import Draft, SampleStream, Update
from sadstream.samples import SampleFolder, places_of
from sadstream.tokens import ACT, REASON

# What the teacher said of each supervised token.
_TEACHER = ("topk_ids", "topk_logprobs", "tail_mass")


class Batch(NamedTuple):
    """Some windows side by side: B rows of T tokens, right-padded, N of all their tokens supervised.

    Attributes:
        keys: of the samples. n_tokens: real ones.
        input_ids_BT: int64.
        position_ids_BT: int64, from 0 in each window, where rows hold several (`packing`); None where each holds one.
        window_N, position_N: int64; row and column where the hidden state stands that foretells each supervised token.
        is_reason_N, is_act_N: bool.
        weight_N: float32; what each token's sample counts for.
        targets: `tokens` [N], `topk_ids` [N, K], `topk_logprobs` [N, K], `tail_mass` [N].
    """

    keys: list[str]
    n_tokens: int
    input_ids_BT: Tensor
    window_N: Tensor
    position_N: Tensor
    is_reason_N: Tensor
    is_act_N: Tensor
    weight_N: Tensor
    targets: dict[str, Tensor]
    position_ids_BT: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """The batch in memory that a GPU copies from by itself."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        changed = {name: change(value) for name, value in self._asdict().items() if isinstance(value, Tensor)}
        return self._replace(**changed, targets={name: change(value) for name, value in self.targets.items()})


def collate(
    samples: Sequence[tuple[str, dict[str, NDArray[Any]]]],
    *,
    everything: bool,
    limit: int = EVERY_STEP,
    weights: Sequence[float] = (),
    rows: Sequence[Sequence[int]] = (),
) -> Batch:
    """Samples side by side.

    Args:
        everything: keep all supervised tokens; else only what the agent wrote.
        limit: the first step whose tokens are left out. weights: of the samples; none is 1 for each.
        rows: the places of the samples in each row; none is a row for each.
    """
    each = [arrays for _, arrays in samples]
    lengths = [len(arrays["token_ids"]) for arrays in each]
    packed = pack_rows([arrays["token_ids"] for arrays in each], rows or [[i] for i in range(len(each))])
    sample = np.repeat(np.arange(len(each)), [len(arrays["positions"]) for arrays in each])
    window = packed.row_N[sample]
    position = np.concatenate([arrays["positions"] for arrays in each]) + packed.start_N[sample]
    kind = np.concatenate([arrays["kinds"][arrays["positions"]] for arrays in each])
    columns = {
        "window": window,
        "position": position - 1,
        "kind": kind,
        "weight": np.array(weights or [1] * len(samples), np.float32)[sample],
        "tokens": packed.input_ids_BT[window, position],
        **{name: np.concatenate(alike_in_width(name, each)) for name in _TEACHER},
    }
    kept = np.full(len(kind), True) if everything else (kind == REASON) | (kind == ACT)
    if limit != EVERY_STEP:
        kept &= np.concatenate([arrays["steps"][arrays["positions"]] for arrays in each]) < limit
    if not kept.all():
        columns = take(columns, kept)
    joined = {name: torch.from_numpy(values) for name, values in columns.items()}
    return Batch(
        keys=[key for key, _ in samples],
        n_tokens=sum(lengths),
        input_ids_BT=torch.from_numpy(packed.input_ids_BT),
        window_N=joined["window"],
        position_N=joined["position"],
        is_reason_N=joined["kind"] == REASON,
        is_act_N=joined["kind"] == ACT,
        weight_N=joined["weight"],
        targets={name: joined[name] for name in ("tokens", *_TEACHER)},
        position_ids_BT=torch.from_numpy(packed.position_ids_BT) if rows else None,
    )


class Collate:
    """Turns what a stream read into batches of at most so many padded tokens (or one sample).

    Args:
        micro_tokens: padded tokens side by side. packed: lay windows one behind the other in rows as long as the
            longest, for models that take them (`packing.takes_packed_rows`).
        everything: keep all supervised tokens; else what the agent wrote.
        vocab_size: outputs of the student's head; 0 doesn't ask.
        pin: put the batches into memory that a GPU copies from by itself.
    """

    def __init__(
        self,
        *,
        micro_tokens: int,
        packed: bool = False,
        everything: bool = False,
        vocab_size: int = 0,
        pin: bool = False,
    ) -> None:
        self._micro_tokens, self._packed, self._everything = micro_tokens, packed, everything
        self._vocab_size, self._pin = vocab_size, pin

    def __call__(self, draft: Draft) -> list[Batch]:
        """Batches of a draft.

        Raises:
            ShardError: a sample is damaged. ModelError: the teacher's ids go beyond the student's.
        """
        n_tokens = np.array(draft.n_tokens, np.int64)
        batches = []
        for rows in self._rows_of_batches(n_tokens):
            places = [place for row in rows for place in row]
            samples = [(key, _decoded(key, data)) for key, data in (draft.samples[i] for i in places)]
            weights = [draft.weights[i] for i in places] if draft.weights else []
            at = {place: number for number, place in enumerate(places)}
            packed = [[at[place] for place in row] for row in rows] if self._packed else []
            batch = collate(samples, everything=self._everything, limit=draft.limit, weights=weights, rows=packed)
            self._refuse_foreign_ids(batch)
            batches.append(batch.pinned() if self._pin else batch)
        return batches

    def _rows_of_batches(self, n_tokens: NDArray[np.int64]) -> Iterator[list[list[int]]]:
        if not self._packed:
            for places in micro_batches(range(len(n_tokens)), n_tokens, self._micro_tokens):
                yield [[place] for place in places]
            return
        longest = int(n_tokens.max(initial=1))
        rows = fill_rows(n_tokens.tolist(), longest)
        n_rows = max(1, self._micro_tokens // longest)
        for begin in range(0, len(rows), n_rows):
            yield rows[begin : begin + n_rows]

    def _refuse_foreign_ids(self, batch: Batch) -> None:
        ids = batch.targets["topk_ids"]
        # Two heads over one tokenizer may be padded to different sizes.
        if self._vocab_size and ids.numel() and int(ids.max()) >= self._vocab_size:
            raise ModelError(
                f"{', '.join(batch.keys[:3])}: the teacher's ids reach {int(ids.max())}, "
                f"and the student's head has {self._vocab_size}",
                hint="a student with as many outputs as the teacher is wanted",
            )


def _decoded(key: str, data: memoryview) -> dict[str, NDArray[Any]]:
    try:
        return decode_teacher_sample(data)  # type: ignore[arg-type]
    except ShardError as error:
        raise ShardError(f"sample {key}: {error}", hint=error.hint) from error


class TeacherDataset(IterableDataset[Update[list[Batch]]]):
    """Teacher shards for a loop of one's own: each item is an update, its batches and the state to continue from.

    The order is the same with any number of loader workers: `DataLoader(dataset, batch_size=None, num_workers=N)`.
    Each worker reads whole updates in turn, and the loader takes them in turn.

    Args:
        shards: folder of teacher shards, or its URL. order: which samples each update takes.
        micro_tokens: padded tokens side by side; 0 is all of an update. everything: keep all supervised tokens.
        rank, world_size: which part of each update is given here. epochs: to give; 0 is without end.
        cache, cache_bytes: of the local copies of a URL's shards; see `SampleFolder`.
    """

    def __init__(
        self,
        shards: str | Path,
        order: Order,
        *,
        micro_tokens: int = 0,
        everything: bool = False,
        rank: int = 0,
        world_size: int = 1,
        epochs: int = 1,
        cache: Path | None = None,
        cache_bytes: int = 0,
    ) -> None:
        super().__init__()
        folder = SampleFolder(shards, cache=cache, cache_bytes=cache_bytes)
        make = Collate(micro_tokens=micro_tokens or 1 << 62, everything=everything)
        self._stream = SampleStream(folder, order, make, rank=rank, world_size=world_size, epochs=epochs)

    def state_dict(self) -> dict[str, Any]:
        """Where the dataset stands. With loader workers it doesn't know: take `after` of the last update used."""
        return self._stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the next iteration behind the update that gave this state as its `after`."""
        self._stream.load_state_dict(state)

    def __iter__(self) -> Iterator[Update[list[Batch]]]:
        worker = get_worker_info()
        return self._stream.share(worker.id, worker.num_workers) if worker else iter(self._stream)


class Split:
    """The samples of one split of a folder of teacher shards, in the index's order: to measure, not to train.

    Attributes:
        n_tokens: of all its samples.
    """

    def __init__(self, folder: SampleFolder, split: str, make: Collate) -> None:
        self._folder, self._split, self._make = folder, split, make
        self._n_samples = self.n_tokens = 0
        for shard in range(len(folder)):
            n_tokens = self._rows(shard)["n_tokens"]
            self._n_samples += len(n_tokens)
            self.n_tokens += int(n_tokens.sum())

    def __len__(self) -> int:
        return self._n_samples

    def _rows(self, shard: int) -> Rows:
        rows = self._folder.rows(shard, ["split", "n_tokens"])
        return take(rows, rows["split"] == self._split)

    def batches(self, device: torch.device) -> Iterator[Batch]:
        """All samples.

        Raises:
            ShardError: a sample is damaged. ModelError: the teacher's ids go beyond the student's.
        """
        for shard in range(len(self._folder)):
            rows = self._rows(shard)
            samples = self._folder.read_many(places_of(rows))
            for batch in self._make(Draft(samples, rows["n_tokens"].tolist(), EVERY_STEP)):
                yield batch.to(device)
            self._folder.close()
