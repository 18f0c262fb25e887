"""Which samples each update takes, as a pure function of index, seed, epoch and curriculum. NumPy only.

docs/stream.md has it as formulas. Nothing here reads a file: the rows of a shard's index come from a function that the
caller gives. At any time one block of rows is held, and of all other samples a histogram.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from sadstream.errors import ConfigError
from sadstream.train_config import Curriculum

BUCKETS = 10
# Samples whose lengths are sorted together: the more, the less padding, and the more alike an update's samples are.
_POOL_UPDATES = 32
_POOL_SAMPLES = 1024
# Leading bits of a float32: neighbours differ by one part in 256.
_BITS = 17
_MOST_STEPS = 4096
EVERY_STEP = 2**31 - 1
_SHARDS, _BLOCK, _MIX = range(3)

Ints = NDArray[np.int64]
# Columns of equal length by name, a row a sample. Not Polars: a loader's forked workers would wait for its threads.
Rows = dict[str, NDArray[Any]]
ReadRows = Callable[[int], Rows]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What decides the order, beside the index itself.

    Attributes:
        split: of the index; "" is all.
        seed: of every shuffle.
        batch_tokens: real tokens an update (or one sample, if that is longer).
        curriculum: `none`; `complexity`: tenths of rising complexity one after the other, each shuffled; `depth`: the
            order of `none`, and later steps carry no loss until they are unlocked.
        alpha, beta, gamma: complexity = alpha * reason tokens + beta * act tokens + gamma * teacher's entropy (nats).
        unlock_epochs: of `depth`: after so many epochs every step is unlocked; fractions too.
        mix: how many times an epoch takes a sample, by its value in the column `mix_by`; a fraction is the chance of
            one more. Values that are not named count 1.
        mix_by: column of the index.
        weight_by: column of the index that says what each sample's tokens count for; "" is 1 for all.
        block_rows, block_bytes: a block of shards ends once it has so many samples or bytes; shuffling is within it.
    """

    split: str = "train"
    seed: int = 0
    batch_tokens: int = 8192
    curriculum: Curriculum = "none"
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    unlock_epochs: float = 0.5
    mix: dict[str, float] = {}
    mix_by: str = "format"
    weight_by: str = ""
    block_rows: int = 65_536
    block_bytes: int = 1 << 30


class Position(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a stream stands: the next update.

    Attributes:
        epoch, bucket: from 0. shard: how many of the bucket's shuffled shards lie before the block.
        n_before: samples of the epoch that the blocks before hold. update: within the block.
    """

    epoch: int = 0
    bucket: int = 0
    shard: int = 0
    n_before: int = 0
    update: int = 0


class Summary(NamedTuple):
    """What is known of all samples together.

    Attributes:
        n_samples: in the split. n_tokens: their tokens.
        edges: int64 [BUCKETS - 1], rising ordinals of complexity at which the next bucket begins.
        bucket_sizes: samples in each bucket.
        n_steps: int64 [steps + 1], how many samples come from a trajectory of so many steps.
        values: of the column `mix_by`.
    """

    n_samples: int
    n_tokens: int
    edges: Ints
    bucket_sizes: Ints
    n_steps: Ints
    values: frozenset[str]


class Block(NamedTuple):
    """Some shards' samples, cut into updates.

    Attributes:
        at: of its first update. after: of the first update of the block behind it.
        rows: of the index. updates: row numbers, an update each. limits: for each update, the first step that is
            still locked.
    """

    at: Position
    after: Position
    rows: Rows
    updates: list[Ints]
    limits: list[int]


def columns(order: Order) -> list[str]:
    """The columns of the index that an order looks at."""
    wanted = ["n_tokens"]
    if order.split:
        wanted.append("split")
    if order.curriculum == "complexity":
        wanted += ["n_supervised_reason", "n_supervised_act", "entropy"]
    if order.curriculum == "depth":
        wanted.append("n_steps")
    if order.mix:
        wanted.append(order.mix_by)
    if order.weight_by and order.weight_by not in wanted:
        wanted.append(order.weight_by)
    return wanted


def select(order: Order, index: Rows) -> Rows:
    """Rows of the split, with what the order asks of them.

    Needs: `columns`. Adds: `complexity`, `weight` (float64) or `mix` (str) where the order looks at them.

    Raises:
        ConfigError: a weight is no number, or below 0.
    """
    if order.split:
        index = take(index, index["split"] == order.split)
    rows = {name: values for name, values in index.items() if name != "split"}
    if order.weight_by:
        rows["weight"] = _weights(index[order.weight_by], order.weight_by)
    if order.curriculum == "complexity":
        reason, act, entropy = (rows.pop(name) for name in ("n_supervised_reason", "n_supervised_act", "entropy"))
        rows["complexity"] = order.alpha * reason + order.beta * act + order.gamma * np.nan_to_num(entropy)
    if order.mix:
        rows["mix"] = np.array(["" if value is None else str(value) for value in rows.pop(order.mix_by)], object)
    return rows


def _weights(values: NDArray[Any], column: str) -> NDArray[np.float64]:
    try:
        weights = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"weight_by {column}: not a column of numbers", hint="for example reward") from error
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ConfigError(
            f"weight_by {column}: a sample has none, or one below 0", hint="every sample needs a weight of 0 or more"
        )
    return weights


def take(rows: Rows, chosen: NDArray[Any]) -> Rows:
    """Some of the rows, by number or by mask."""
    return {name: values[chosen] for name, values in rows.items()}


def check(order: Order) -> None:
    """Refuse what no order can be made of.

    Raises:
        ConfigError: names it.
    """
    for name, weight in order.mix.items():
        if not 0 <= weight < 1000:
            raise ConfigError(f"mix {name}={weight}: out of range", hint="how often an epoch takes a sample: 0 to 1000")
    if order.batch_tokens < 1:
        raise ConfigError(f"batch_tokens {order.batch_tokens}: at least 1", hint="8192 is the default")
    if not order.unlock_epochs >= 0:
        raise ConfigError(f"unlock_epochs {order.unlock_epochs}: at least 0", hint="0 unlocks every step at once")


def needs_summary(order: Order) -> bool:
    """Whether the index has to be gone through once before the first update."""
    return order.curriculum != "none" or bool(order.mix)


def summarise(order: Order, n_shards: int, read_rows: ReadRows) -> Summary:
    """Go through all shards' rows once, a shard at a time.

    Raises:
        ConfigError: the mix names a value that no sample has.
    """
    histogram = np.zeros(1 << _BITS if order.curriculum == "complexity" else 1, np.int64)
    n_steps = np.zeros(_MOST_STEPS + 1, np.int64)
    values: set[str] = set()
    n_samples = n_tokens = 0
    for shard in range(n_shards):
        rows = read_rows(shard)
        n_samples += len(rows["n_tokens"])
        n_tokens += int(rows["n_tokens"].sum())
        if order.curriculum == "complexity":
            np.add.at(histogram, _ordinals(rows["complexity"]), 1)
        if order.curriculum == "depth":
            n_steps += np.bincount(rows["n_steps"].clip(0, _MOST_STEPS), minlength=_MOST_STEPS + 1)
        if order.mix:
            values.update(rows["mix"].tolist())
    for name in order.mix:
        if name not in values:
            raise ConfigError(
                f"mix {name}={order.mix[name]}: no sample has {order.mix_by} {name!r}",
                hint=f"there are: {', '.join(sorted(values)[:20])}",
            )
    summed = np.cumsum(histogram)
    edges = np.searchsorted(summed, n_samples * np.arange(1, BUCKETS) / BUCKETS) + 1
    sizes = np.diff(np.concatenate([[0], summed[np.minimum(edges, len(summed)) - 1], [n_samples]]))
    return Summary(n_samples, n_tokens, edges, sizes, n_steps, frozenset(values))


def _ordinals(values: NDArray[np.float64]) -> Ints:
    """Integers in the order of the values; the sign bit turned so that negative ones come first."""
    bits = (values + 0.0).astype(np.float32).view(np.uint32)
    turned = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (turned >> np.uint32(32 - _BITS)).astype(np.int64)


def buckets_of(complexity: NDArray[np.float64], edges: Ints) -> Ints:
    """Which bucket each sample falls into; never falling where complexity rises."""
    return np.searchsorted(edges, _ordinals(complexity), side="right")


def unlocked_steps(n_steps: Ints, progress: float) -> int:
    """How many steps carry loss at some progress from 0 to 1.

    So many that a share `progress` of the samples is of trajectories no longer than that, and at least one.
    """
    if progress >= 1:
        return EVERY_STEP
    return max(1, int(np.searchsorted(np.cumsum(n_steps), progress * n_steps.sum())))


def blocks(
    order: Order, sizes: Sequence[int], read_rows: ReadRows, summary: Summary | None, start: Position
) -> Iterator[Block]:
    """The blocks of updates from a position on, epoch after epoch; none if no sample is left to take.

    Args:
        sizes: bytes of each shard.
        read_rows: of a shard's index, those in the split; as `select` gives them.
        summary: of `summarise`; None unless `needs_summary`.
    """
    n_buckets = BUCKETS if order.curriculum == "complexity" else 1
    at = start
    is_whole = start == Position(epoch=start.epoch)
    while True:
        n_updates = 0
        for bucket in range(at.bucket, n_buckets):
            if bucket != at.bucket:
                at = Position(epoch=at.epoch, bucket=bucket, n_before=at.n_before)
            if summary is not None and n_buckets > 1 and not summary.bucket_sizes[bucket]:
                continue
            shards = np.random.default_rng([order.seed, at.epoch, _SHARDS, bucket]).permutation(len(sizes))
            while at.shard < len(shards):
                block = _block(order, shards, sizes, read_rows, summary, at)
                n_updates += len(block.updates)
                yield block
                at = block.after
        if is_whole and not n_updates:
            return
        at = Position(epoch=at.epoch + 1)
        is_whole = True


def _block(
    order: Order,
    shards: Ints,
    sizes: Sequence[int],
    read_rows: ReadRows,
    summary: Summary | None,
    at: Position,
) -> Block:
    parts: list[Rows] = []
    copies: list[Ints] = []
    n_rows = n_bytes = 0
    stop = at.shard
    while stop < len(shards) and n_rows < order.block_rows and n_bytes < order.block_bytes:
        shard = int(shards[stop])
        rows = read_rows(shard)
        taken = _copies(order, rows, at.epoch, shard)
        if order.curriculum == "complexity" and summary is not None:
            inside = buckets_of(rows["complexity"], summary.edges) == at.bucket
            rows, taken = take(rows, inside), taken[inside]
        parts.append(rows)
        copies.append(taken)
        n_rows, n_bytes, stop = n_rows + len(taken), n_bytes + sizes[shard], stop + 1
    block = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    random = np.random.default_rng([order.seed, at.epoch, _BLOCK, at.bucket, at.shard])
    samples = np.repeat(np.arange(n_rows), np.concatenate(copies))
    updates = cut_updates(samples, block["n_tokens"], order.batch_tokens, random)
    return Block(
        at=msgspec.structs.replace(at, update=0),
        after=Position(epoch=at.epoch, bucket=at.bucket, shard=stop, n_before=at.n_before + n_rows),
        rows=block,
        updates=updates,
        limits=[_limit(order, summary, at, n_rows * i / len(updates)) for i in range(len(updates))],
    )


def _copies(order: Order, rows: Rows, epoch: int, shard: int) -> Ints:
    """How many times the epoch takes each of a shard's samples."""
    if not order.mix:
        return np.ones(len(rows["n_tokens"]), np.int64)
    weights = np.array([order.mix.get(value, 1.0) for value in rows["mix"]], np.float64)
    chance = np.random.default_rng([order.seed, epoch, _MIX, shard]).random(len(weights))
    return (np.floor(weights) + (chance < weights % 1)).astype(np.int64)


def _limit(order: Order, summary: Summary | None, at: Position, n_done: float) -> int:
    if order.curriculum != "depth" or summary is None or not order.unlock_epochs:
        return EVERY_STEP
    done = at.epoch + (at.n_before + n_done) / max(1, summary.n_samples)
    return unlocked_steps(summary.n_steps, done / order.unlock_epochs)


def cut_updates(samples: Ints, n_tokens: Ints, budget: int, random: np.random.Generator) -> list[Ints]:
    """Shuffle samples and cut them into updates of at most `budget` tokens (or one sample), like lengths together.

    Args:
        samples: numbers that `n_tokens` is asked by; a number may stand there more than once.
    """
    shuffled = random.permutation(samples)
    ends = np.cumsum(n_tokens[shuffled])
    total = int(ends[-1]) if len(ends) else 0
    n_pools = max(1, min(total // (budget * _POOL_UPDATES), len(samples) // _POOL_SAMPLES))
    edges = np.searchsorted(ends, total * np.arange(1, n_pools) / n_pools)
    updates: list[Ints] = []
    for pool in np.split(shuffled, edges):
        by_length = pool[np.argsort(n_tokens[pool], kind="stable")]
        summed = np.cumsum(n_tokens[by_length])
        begin = 0
        while begin < len(by_length):
            before = int(summed[begin - 1]) if begin else 0
            stop = max(begin + 1, int(np.searchsorted(summed, before + budget, side="right")))
            updates.append(by_length[begin:stop])
            begin = stop
    return [updates[i] for i in random.permutation(len(updates))]


def deal(update: Ints, n_tokens: Ints, world_size: int) -> list[Ints]:
    """A part of an update for each rank: all of it together, about as many tokens each.

    A rank gets nothing where there are fewer samples than ranks.
    """
    if world_size == 1:
        return [update]
    parts: list[list[int]] = [[] for _ in range(world_size)]
    loads = [0] * world_size
    for place in np.argsort(-n_tokens[update], kind="stable").tolist():
        rank = loads.index(min(loads))
        parts[rank].append(place)
        loads[rank] += int(n_tokens[update[place]])
    return [update[np.array(sorted(part), np.int64)] for part in parts]


def micro_batches(samples: Sequence[int] | Ints, n_tokens: Ints, budget: int) -> list[list[int]]:
    """Cut samples into batches of at most `budget` padded tokens (or one sample), like lengths together."""
    batches: list[list[int]] = []
    for sample in sorted(map(int, samples), key=lambda i: (int(n_tokens[i]), i)):
        if batches and (len(batches[-1]) + 1) * int(n_tokens[sample]) <= budget:
            batches[-1].append(sample)
        else:
            batches.append([sample])
    return batches


def fingerprint(order: Order, checksums: Sequence[str]) -> str:
    """A hash of what decides the order: a position means nothing in another.

    Args:
        checksums: of the shards' indexes, in order.
    """
    facts = msgspec.json.encode([order, list(checksums)], order="deterministic")
    return hashlib.sha256(facts).hexdigest()[:16]
