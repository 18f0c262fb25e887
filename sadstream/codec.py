"""Teacher samples to bytes and back. docs/teacher-shards.md gives the layout byte by byte."""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sadstream.codec_format1 import unpack_format1
from sadstream.errors import ShapeError, ShardError
from sadstream_schemas import TEACHER_SAMPLE_VERSION, TeacherSample, TeacherSample1, read_teacher_sample

Mode = Literal["top-k", "sample"]

# Codes are levels of the cube root of a probability: KL grows with the square of p's relative error times p, so rare
# ids may be coarser, and less so than by a square root, which would spoil a later temperature.
_LEVELS = 330
_MOST_LEVELS = 600
MOST_DRAWS = 500
# What is less than half of the first level counts as a quarter of one.
_LEAST = 0.25
_ESCAPE = 255
# Added to the kind of a token that is supervised.
_SUPERVISED = 4
# The ids of most rows have a symbol each; the others share symbols, and stand by their low bits beside.
_N_FREQUENT = 192
# Between the likeliest ranks codes rise otherwise than between the others: a column each.
_N_TOP_RANKS = 8
# Numbers beside the codes are kept in steps of 1/128.
_STEP = 128
_NO_TAIL = -60 * _STEP
_SHORT = 1 << 16
_ZSTD = pa.Codec("zstd", 15)
# What msgspec, Arrow and NumPy raise for columns and counts that are not what was written.
_DAMAGE = (
    msgspec.DecodeError,
    pa.ArrowException,
    ValueError,
    IndexError,
    OSError,
    MemoryError,
    OverflowError,
    SystemError,
)


class TeacherArrays(NamedTuple):
    """What a teacher said about one window: T tokens, S supervised, at most K ids each.

    Attributes:
        token_ids: int64 [T]. kinds: uint8 [T]. steps: int32 [T], -1 where none. positions: int64 [S], rising.
        topk_ids: int64 [S, K], distinct along K. topk_logprobs: float32 [S, K] nats over the full vocabulary, falling.
            A row of fewer ids ends with logprobs of -inf, whose ids say nothing. Where ids were drawn and not picked:
            log of the share of draws that fell on each.
        log_tail: float32 [S], log of the mass outside the row's ids; -inf where there is none.
        entropy: float32 [S], nats. token_logprobs: float32 [S], of the logged token.
        sources: uint8 [S], where each row comes from, of teachers that have several; counted in the index, not stored.
    """

    token_ids: NDArray[Any]
    kinds: NDArray[Any]
    steps: NDArray[Any]
    positions: NDArray[Any]
    topk_ids: NDArray[Any]
    topk_logprobs: NDArray[Any]
    log_tail: NDArray[Any]
    entropy: NDArray[Any]
    token_logprobs: NDArray[Any]
    sources: NDArray[Any] | None = None


def encode_teacher_sample(
    arrays: TeacherArrays, *, trajectory_id: str, window: int, vocab_size: int, n_draws: int = 0
) -> tuple[bytes, int]:
    """A teacher shard's member, and how many of its bytes are the teacher's values (compressed).

    Args:
        n_draws: how many were drawn at each token, where ids were drawn; then logprobs are logs of n / n_draws.
    Raises:
        ShapeError: arrays don't fit each other.
    """
    n_tokens, (n_supervised, top_k) = len(arrays.token_ids), arrays.topk_ids.shape
    _check_shapes(arrays)
    kinds = arrays.kinds.astype(np.uint8)
    kinds[arrays.positions] |= _SUPERVISED
    levels = n_draws or _levels(top_k)
    is_kept_SK = _is_kept(arrays.topk_logprobs)
    per_row = is_kept_SK.sum(1)
    ids, places = _vocabulary(arrays.topk_ids[is_kept_SK])
    id_type = _id_type(vocab_size)
    is_rare = places >= _N_FREQUENT
    shift = _rare_bits(len(ids))
    rare = places[is_rare] - _N_FREQUENT
    symbols = places.copy()
    symbols[is_rare] = _N_FREQUENT + (rare >> shift)
    codes_SK = _codes(arrays.topk_logprobs.astype(np.float64), is_kept_SK, levels, is_drawn=n_draws > 0)
    # From the least likely rank to the likeliest: the first row as it is, then how far each lies above the one before.
    rises_KS = np.diff(codes_SK[:, ::-1].T, axis=0, prepend=0)
    low_KS = np.minimum(rises_KS, _ESCAPE).astype("u1")
    numbers = np.stack([_tail_code(arrays.log_tail), arrays.entropy * _STEP, arrays.token_logprobs * -_STEP])
    numbers = np.rint(np.clip(numbers, _NO_TAIL, -_NO_TAIL)).astype("<i2")
    n_deep = max(0, top_k - _N_TOP_RANKS)
    teacher = {
        "per_row": b"" if is_kept_SK.all() else pack(per_row.astype("<u4")),
        # Differences in unsigned numbers: where the second group begins, they wrap around.
        "ids": pack(_planes(np.diff(ids, prepend=0).astype(id_type))),
        "symbols": pack(symbols.astype("u1")),
        "symbols_low": (rare & ((1 << shift) - 1)).astype(f"<u{shift // 8}").tobytes(),
        "codes_deep": pack(low_KS[:n_deep]),
        "codes_top": pack(low_KS[n_deep:]),
        "codes_beyond": (rises_KS[rises_KS >= _ESCAPE] - _ESCAPE).astype("<u2").tobytes(),
        "numbers_low": pack((numbers & 255).astype("u1")),
        "numbers_high": pack((numbers >> 8).astype("i1")),
    }
    record = TeacherSample(
        format_version=TEACHER_SAMPLE_VERSION,
        trajectory_id=trajectory_id,
        window=window,
        n_tokens=n_tokens,
        n_supervised=n_supervised,
        top_k=top_k,
        vocab_size=vocab_size,
        mode="sample" if n_draws else "top-k",
        levels=levels,
        n_ids=len(ids),
        token_ids=pack(arrays.token_ids.astype(id_type)),
        kinds=pack(kinds),
        steps=pack(arrays.steps.astype("<i4")),
        **teacher,
    )
    return msgspec.msgpack.encode(record), sum(map(len, teacher.values()))


def _check_shapes(arrays: TeacherArrays) -> None:
    n_tokens, (n_supervised, top_k) = len(arrays.token_ids), arrays.topk_ids.shape
    for name, shape in {
        "kinds": (n_tokens,),
        "steps": (n_tokens,),
        "positions": (n_supervised,),
        "topk_logprobs": (n_supervised, top_k),
        "log_tail": (n_supervised,),
        "entropy": (n_supervised,),
        "token_logprobs": (n_supervised,),
    }.items():
        if getattr(arrays, name).shape != shape:
            raise ShapeError(f"{name} has shape {getattr(arrays, name).shape}, and {shape} is wanted")


def _levels(top_k: int) -> int:
    """More ids, more levels: else the error would grow with their number."""
    return min(_MOST_LEVELS, round(_LEVELS * max(1.0, top_k / 32) ** 0.3))


def _is_kept(logprobs_SK: NDArray[Any]) -> NDArray[np.bool_]:
    """Which entries name an id: all but those of -inf, and each row's first in any case."""
    is_kept_SK: NDArray[np.bool_] = ~np.isneginf(logprobs_SK)
    is_kept_SK[:, 0] = True
    return is_kept_SK


def _vocabulary(entries: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The ids that occur, first the frequent then the others, each by id; and each entry's place among them."""
    ids, number_of, counts = np.unique(entries, return_inverse=True, return_counts=True)
    is_other = np.ones(len(ids), bool)
    is_other[np.argsort(-counts, kind="stable")[:_N_FREQUENT]] = False
    order = np.argsort(is_other, kind="stable")
    place = np.empty(len(ids), np.int64)
    place[order] = np.arange(len(ids))
    return ids[order], place[number_of.ravel()]


def _rare_bits(n_ids: int) -> int:
    """How many low bits of a rare id's place stand apart, so that the rest of it fits a symbol."""
    return 8 if n_ids <= _N_FREQUENT + (256 - _N_FREQUENT << 8) else 16


def _codes(
    logprobs_SK: NDArray[Any], is_kept_SK: NDArray[np.bool_], levels: int, *, is_drawn: bool
) -> NDArray[np.int64]:
    """Levels of the cube roots of probabilities, or numbers of draws, falling; what is no id repeats the last one."""
    probs_SK = np.exp(np.minimum(logprobs_SK, 0))
    codes_SK = np.rint(levels * (probs_SK if is_drawn else np.cbrt(probs_SK))).astype(np.int64)
    last_S = np.take_along_axis(codes_SK, is_kept_SK.sum(1, keepdims=True) - 1, 1)
    return np.minimum.accumulate(np.where(is_kept_SK, codes_SK, last_S), axis=1)


def _tail_code(log_tail_S: NDArray[Any]) -> NDArray[Any]:
    """log(tail / rest), in steps: as exact for a tail that is nearly all as for one that is nearly nothing."""
    log_tail = np.minimum(log_tail_S.astype(np.float64), -1e-12)
    code: NDArray[Any] = _STEP * (log_tail - np.log(-np.expm1(log_tail)))
    return code


def decode_teacher_sample(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a teacher shard's member.

    Returns:
        token_ids int64 [T]; kinds uint8 [T] (0 context, 1 reason, 2 act, 3 observation); steps int32 [T] (-1 where
        none); positions int64 [S]; topk_ids int64 [S, K]; topk_logprobs float32 [S, K] (nats over the full
        vocabulary, falling); tail_mass float32 [S]; entropy float32 [S] (nats); token_logprobs float32 [S]. Row i is
        the teacher's distribution of `token_ids[positions[i]]` given all tokens before it. Top-k and tail sum to 1.
        A row of fewer than K ids is filled up with its first id at a logprob of -inf. Where ids were drawn, their
        probabilities are shares of the draws, and the tail is 0.
    Raises:
        ShardError: not such a member, of a newer version, or damaged.
    """
    try:
        record = read_teacher_sample(data)
        return unpack_format1(record) if isinstance(record, TeacherSample1) else _unpack_record(record)
    except _DAMAGE as error:
        raise ShardError(
            f"not a teacher sample: {error}", hint="`sadstream inspect --verify` names damaged files"
        ) from error


def _unpack_record(record: TeacherSample) -> dict[str, NDArray[Any]]:
    n_tokens, n_rows, top_k, vocab_size = record.n_tokens, record.n_supervised, record.top_k, record.vocab_size
    id_type = _id_type(vocab_size)
    token_ids = unpack(record.token_ids, n_tokens, id_type)
    kinds = unpack(record.kinds, n_tokens, "u1")
    positions = (kinds & _SUPERVISED).nonzero()[0]
    if len(positions) != n_rows or token_ids.max() >= vocab_size or top_k > vocab_size or record.levels >= 1000:
        raise ValueError("its columns contradict its counts")
    is_kept_SK, n_entries = None, n_rows * top_k
    if record.per_row:
        per_row = unpack(record.per_row, n_rows, "<u4")
        is_kept_SK = np.arange(top_k) < per_row[:, None]
        n_entries = int(per_row.sum())
        if not (per_row.min() > 0 and per_row.max() <= top_k):
            raise ValueError("its columns contradict its counts")
    ids = _ids(record, n_entries)
    codes_KS = _codes_by_rank(record)
    # The likeliest rank has the largest code, but where they ran over: then others are beyond the tables.
    if codes_KS[0].max(initial=0) > record.levels:
        raise ValueError("a probability in it is none")
    log_of_code, code_probs = _tables(record.levels, record.mode)
    logprobs_KS, probs_KS = log_of_code.take(codes_KS), code_probs.take(codes_KS)
    if is_kept_SK is None:
        topk_ids = ids.reshape(n_rows, top_k)
    else:
        logprobs_KS[~is_kept_SK.T], probs_KS[~is_kept_SK.T] = -np.inf, 0
        topk_ids = np.empty((n_rows, top_k), np.int64)
        topk_ids[:] = ids[np.cumsum(per_row) - per_row, None]
        topk_ids[is_kept_SK] = ids

    numbers = np.empty((3 * n_rows, 2), np.uint8)
    numbers[:, 0] = unpack(record.numbers_low, 3 * n_rows, "u1")
    numbers[:, 1] = unpack(record.numbers_high, 3 * n_rows, "u1")
    numbers_3S = numbers.view("<i2").reshape(3, n_rows)
    if numbers_3S[0].max(initial=0) > -_NO_TAIL:
        raise ValueError("a probability in it is none")
    tail_code, entropy, token_logprobs = numbers_3S.astype(np.float32) / _STEP
    odds = np.exp(tail_code)
    odds[numbers_3S[0] <= _NO_TAIL] = 0
    if record.mode == "sample":
        odds[:] = 0
    rest = 1 / (1 + odds)
    # What rounding took from the sum is given back to the top k: the tail was stored, and is not what they leave.
    logprobs_KS += np.log(rest / probs_KS.sum(axis=0))
    return {
        "token_ids": token_ids.astype(np.int64),
        "kinds": kinds & (_SUPERVISED - 1),
        "steps": unpack(record.steps, n_tokens, "<i4").astype(np.int32),
        "positions": positions,
        "topk_ids": topk_ids,
        "topk_logprobs": np.ascontiguousarray(logprobs_KS.T),
        "tail_mass": odds * rest,
        "entropy": entropy,
        "token_logprobs": -token_logprobs,
    }


def _ids(record: TeacherSample, n_entries: int) -> NDArray[np.int64]:
    """The ids of all rows, one after the other, by their symbols."""
    id_type = _id_type(record.vocab_size)
    n_ids, n_planes = record.n_ids, np.dtype(id_type).itemsize
    differences = np.empty((n_ids, n_planes), np.uint8)
    differences[:] = unpack(record.ids, n_ids * n_planes, "u1").reshape(n_planes, n_ids).T
    vocabulary = np.add.accumulate(differences.view(id_type)[:, 0], dtype=id_type).astype(np.int64)
    if vocabulary.max(initial=0) >= record.vocab_size:
        raise ValueError("its columns contradict its counts")
    symbols = unpack(record.symbols, n_entries, "u1")
    ids = vocabulary.take(symbols, mode="clip")
    is_rare = (symbols >= _N_FREQUENT).nonzero()[0]
    shift = _rare_bits(n_ids)
    rare = symbols.take(is_rare).astype(np.int64)
    rare -= _N_FREQUENT
    rare <<= shift
    rare += np.frombuffer(record.symbols_low, f"<u{shift // 8}")
    rare += _N_FREQUENT
    ids[is_rare] = vocabulary.take(rare)
    return ids


def _codes_by_rank(record: TeacherSample) -> NDArray[np.intp]:
    """The codes of all rows, uint16 as indices, [K, S], the likeliest rank first."""
    n_rows, top_k = record.n_supervised, record.top_k
    n_deep = max(0, top_k - _N_TOP_RANKS)
    rises_KS = np.empty((top_k, n_rows), np.uint8)
    rises_KS[:n_deep] = unpack(record.codes_deep, n_deep * n_rows, "u1").reshape(n_deep, n_rows)
    rises_KS[n_deep:] = unpack(record.codes_top, (top_k - n_deep) * n_rows, "u1").reshape(top_k - n_deep, n_rows)
    codes_KS = rises_KS.astype(np.uint16)
    escaped = (rises_KS.ravel() == _ESCAPE).nonzero()[0]
    codes_KS.ravel()[escaped] += np.frombuffer(record.codes_beyond, "<u2")
    # `cumsum` along the first axis goes down each column by itself, which takes twice the time.
    for lower, higher in pairwise(codes_KS):
        higher += lower
    return codes_KS[::-1].astype(np.intp)


@cache
def _tables(levels: int, mode: Mode) -> tuple[NDArray[Any], NDArray[Any]]:
    """Log-probability and probability of each code: a number of draws, or a level of a cube root."""
    fractions = np.arange(levels + 1) / levels
    fractions[0] = _LEAST / levels
    probs = fractions if mode == "sample" else fractions**3
    return np.log(probs).astype(np.float32), probs.astype(np.float32)


def _planes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The lowest bytes of all numbers, then the next: they have different statistics."""
    return np.ascontiguousarray(array.view(np.uint8).reshape(len(array), array.itemsize).T)


def _id_type(vocab_size: int) -> str:
    return "<u2" if vocab_size <= _SHORT else "<u4"


def pack(array: NDArray[Any]) -> bytes:
    """A column's bytes: a zstd frame, or as they are where that is not longer."""
    data = np.ascontiguousarray(array).tobytes()
    packed: bytes = _ZSTD.compress(data, asbytes=True) if data else b""
    return packed if len(packed) < len(data) else data


def unpack(column: bytes, size: int, dtype: str) -> NDArray[Any]:
    """A column of so many numbers as an array, not writeable."""
    n_bytes = size * int(dtype[-1])
    return np.frombuffer(column if len(column) == n_bytes else _ZSTD.decompress(column, n_bytes, asbytes=True), dtype)


def alike_in_width(name: str, each: Sequence[Mapping[str, NDArray[Any]]]) -> list[NDArray[Any]]:
    """A column of several samples, those of K filled up to the largest K among them, as rows of fewer ids are."""
    columns = [arrays[name] for arrays in each]
    if name not in ("topk_ids", "topk_logprobs") or len({column.shape[1] for column in columns}) < 2:
        return columns
    widest = max(column.shape[1] for column in columns)
    return [_filled(column, widest - column.shape[1], name == "topk_ids") for column in columns]


def _filled(column_SK: NDArray[Any], n_more: int, is_ids: bool) -> NDArray[Any]:
    fill = column_SK[:, :1] if is_ids else np.full((len(column_SK), 1), -np.inf, column_SK.dtype)
    return np.concatenate([column_SK, np.repeat(fill, n_more, axis=1)], axis=1)
