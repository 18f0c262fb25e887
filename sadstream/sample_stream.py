"""Updates of samples in order, read ahead in the background, with a position to continue from. Imports no torch."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from sadstream import order as ordering
from sadstream.errors import ConfigError
from sadstream.order import Block, Order, Position, Rows, Summary
from sadstream.prefetch import prefetched
from sadstream.samples import SampleFolder, places_of

T = TypeVar("T")


class Draft(NamedTuple):
    """What an update is made of.

    Attributes:
        samples: key and bytes of each sample of this rank's part. n_tokens: of each.
        limit: the first step that carries no loss yet. weights: what each sample's tokens count for; empty is 1.
    """

    samples: list[tuple[str, memoryview]]
    n_tokens: list[int]
    limit: int
    weights: list[float] = []  # noqa: RUF012


class Update(NamedTuple, Generic[T]):
    """An update that is ready to be used.

    Attributes:
        data: what `make` gave. epoch: that it is of, from 0.
        after: the state of a stream that continues behind it.
    """

    data: T
    epoch: int
    after: dict[str, Any]


class SampleStream(Generic[T]):
    """The updates of a folder, from a position on.

    The order is that of `sadstream.order`; who reads decides nothing about it. Iterating gives updates until `epochs`
    are over; a second iteration goes on where the last one stopped.

    Args:
        folder: of shards.
        order: which samples each update takes.
        make: turns what was read into what is wanted; it runs in the background thread.
        rank, world_size: which part of each update is read here; all ranks' parts together are the update.
        ahead: updates that are read before they are asked for; 0 is none, and no thread.
        epochs: to give; 0 is without end.
    """

    def __init__(
        self,
        folder: SampleFolder,
        order: Order,
        make: Callable[[Draft], T],
        *,
        rank: int = 0,
        world_size: int = 1,
        ahead: int = 2,
        epochs: int = 0,
    ) -> None:
        ordering.check(order)
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} of {world_size}", hint="ranks count from 0")
        self._folder, self._order, self._make = folder, order, make
        self._rank, self._world_size, self._ahead, self._epochs = rank, world_size, ahead, epochs
        self._position = Position()
        self._summary: Summary | None = None
        shards = folder.manifest.shards
        self._sizes = [shard.n_bytes for shard in shards]
        self._fingerprint = ordering.fingerprint(order, [shard.index_sha256 for shard in shards])
        largest = min(sum(self._sizes), order.block_bytes + max(self._sizes, default=0))
        if folder.cache_bytes is not None and folder.cache_bytes < largest:
            raise ConfigError(
                f"a cache of {folder.cache_bytes} bytes holds no block of shards (up to {largest})",
                hint="allow the cache more bytes, or take a smaller block_bytes",
            )

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, in numbers and strings: behind the last update that was given."""
        return self._state(self._position)

    def _state(self, position: Position) -> dict[str, Any]:
        return {**msgspec.structs.asdict(position), "order": self._fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state. Costs the index of one block.

        Raises:
            ConfigError: it is of another order: other shards, seed, budget, curriculum or mix.
        """
        if state.get("order") != self._fingerprint:
            raise ConfigError(
                "the state is of a stream over other shards, or in another order",
                hint="give the shards and options that it was made with, or begin anew",
            )
        fields = {name: value for name, value in state.items() if name != "order"}
        try:
            self._position = msgspec.convert(fields, Position)
        except msgspec.ValidationError as error:
            raise ConfigError(f"not a stream's state: {error}", hint="give what state_dict gave") from error

    def __iter__(self) -> Iterator[Update[T]]:
        return self.share(0, 1)

    def share(self, number: int, n_shares: int) -> Iterator[Update[T]]:
        """Every `n_shares`-th update from where the stream stands, beginning with `number`: a loader worker's share."""
        for update in prefetched(self._read(number, n_shares), self._ahead):
            self._position = msgspec.convert(
                {name: value for name, value in update.after.items() if name != "order"}, Position
            )
            yield update

    def count_updates(self, epochs: int) -> int:
        """How many updates the first `epochs` have: goes through the index, and reads no sample."""
        n_updates = 0
        for block in self.blocks(Position()):
            if block.at.epoch >= epochs:
                break
            n_updates += len(block.updates)
        return n_updates

    def summary(self) -> Summary:
        """What is known of all samples together. The first call goes through the index."""
        if self._summary is None:
            self._summary = ordering.summarise(self._order, len(self._folder), self._rows)
        return self._summary

    def _rows(self, shard: int) -> Rows:
        return ordering.select(self._order, self._folder.rows(shard, ordering.columns(self._order)))

    def blocks(self, start: Position) -> Iterator[Block]:
        """The plan from a position on: no sample is read."""
        summary = self.summary() if ordering.needs_summary(self._order) else None
        return ordering.blocks(self._order, self._sizes, self._rows, summary, start)

    def _read(self, number: int, n_shares: int) -> Iterator[Update[T]]:
        start = self._position
        folder = copy.copy(self._folder)  # with open shards of its own: this may run in a thread
        turn = 0
        try:
            for block in self.blocks(start):
                if self._epochs and block.at.epoch >= self._epochs:
                    return
                first = start.update if block.at == msgspec.structs.replace(start, update=0) else 0
                where = places_of(block.rows)
                n_tokens = block.rows["n_tokens"]
                folder.close_all_but({place[0] for place in where})
                for place in range(first, len(block.updates)):
                    turn += 1
                    if (turn - 1) % n_shares != number:
                        continue
                    part = ordering.deal(block.updates[place], n_tokens, self._world_size)[self._rank]
                    samples = folder.read_many([where[row] for row in part.tolist()])
                    weights = block.rows["weight"][part].tolist() if self._order.weight_by else []
                    draft = Draft(samples, n_tokens[part].tolist(), block.limits[place], weights)
                    after = msgspec.structs.replace(block.at, update=place + 1)
                    yield Update(self._make(draft), block.at.epoch, self._state(after))
        finally:
            folder.close()
