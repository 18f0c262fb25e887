"""Teacher samples to bytes and back. docs/teacher-shards.md gives the layout byte by byte."""

import math
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sadstream.errors import ShapeError, ShardError
from sadstream_schemas import TEACHER_SAMPLE_VERSION, TeacherSample, decode_msgpack

# No probability below e**-60 is told from zero: float32 sums of them vanish beside anything else.
_FLOOR = -60.0
_SHORT = 1 << 16
_LEVEL = 3
# What msgspec, Arrow and NumPy raise for columns and counts that are not what was written.
_DAMAGE = (msgspec.DecodeError, pa.ArrowException, ValueError, OSError, MemoryError, OverflowError, SystemError)


class TeacherArrays(NamedTuple):
    """What a teacher said about one window: T tokens, S supervised, K ids each.

    Attributes:
        token_ids: int64 [T]. kinds: uint8 [T]. steps: int32 [T], -1 where none. positions: int64 [S], rising.
        topk_ids: int64 [S, K], distinct along K. topk_logprobs: float32 [S, K] nats over the full vocabulary, falling.
        log_tail: float32 [S], log of the mass outside the top k; -inf where there is none.
        entropy: float32 [S], nats. token_logprobs: float32 [S], of the logged token.
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


def encode_teacher_sample(
    arrays: TeacherArrays, *, trajectory_id: str, window: int, vocab_size: int
) -> tuple[bytes, int]:
    """A teacher shard's member, and how many of its bytes are the teacher's values (compressed).

    Raises:
        ShapeError: arrays don't fit each other.
    """
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
    supervised = np.zeros(n_tokens, np.uint8)
    supervised[arrays.positions] = 1
    logprobs = np.maximum(arrays.topk_logprobs.astype(np.float32), _FLOOR)
    scales = np.empty((2, n_supervised), np.float16)
    scales[0] = logprobs[:, 0]
    top = scales[0].astype(np.float32)
    span = np.maximum(top - logprobs[:, -1], 0)
    # Rounded up: a code of 255 must reach the last value.
    scales[1] = np.nextafter(span.astype(np.float16), np.float16(np.inf))
    fraction = np.clip((top[:, None] - logprobs) / scales[1].astype(np.float32)[:, None], 0, 1)
    codes = np.rint(255 * np.sqrt(fraction)).astype(np.uint8)
    teacher = {
        "topk_ids": _pack(arrays.topk_ids.astype(_id_type(vocab_size))),
        "topk_codes": _pack(codes),
        "topk_scales": _pack(scales),
        "tail": _pack(np.maximum(arrays.log_tail, _FLOOR).astype(np.float16)),
        "entropy": _pack(arrays.entropy.astype(np.float16)),
        "token_logprobs": _pack(np.maximum(arrays.token_logprobs, _FLOOR).astype(np.float16)),
    }
    record = TeacherSample(
        format_version=TEACHER_SAMPLE_VERSION,
        trajectory_id=trajectory_id,
        window=window,
        n_tokens=n_tokens,
        n_supervised=n_supervised,
        top_k=top_k,
        vocab_size=vocab_size,
        token_ids=_pack(arrays.token_ids.astype(_id_type(vocab_size))),
        kinds=_pack(arrays.kinds.astype(np.uint8)),
        steps=_pack(arrays.steps.astype("<i4")),
        supervised=_pack(supervised),
        **teacher,
    )
    return msgspec.msgpack.encode(record), sum(map(len, teacher.values()))


def decode_teacher_sample(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a teacher shard's member.

    Returns:
        token_ids int64 [T]; kinds uint8 [T] (0 context, 1 reason, 2 act, 3 observation); steps int32 [T] (-1 where
        none); positions int64 [S]; topk_ids int64 [S, K]; topk_logprobs float32 [S, K] (nats over the full
        vocabulary); tail_mass float32 [S]; entropy float32 [S] (nats); token_logprobs float32 [S]. Row i is the
        teacher's distribution of `token_ids[positions[i]]` given all tokens before it. Top-k and tail sum to 1.
    Raises:
        ShardError: not such a member, of a newer version, or damaged.
    """
    try:
        return _unpack_record(decode_msgpack(data, TeacherSample))
    except _DAMAGE as error:
        raise ShardError(
            f"not a teacher sample: {error}", hint="`sadstream inspect --verify` names damaged files"
        ) from error


def _unpack_record(record: TeacherSample) -> dict[str, NDArray[Any]]:
    n_tokens, n_supervised, top_k = record.n_tokens, record.n_supervised, record.top_k
    id_type = _id_type(record.vocab_size)
    if n_supervised > n_tokens or top_k > record.vocab_size:
        raise ValueError("its counts contradict each other")
    token_ids = _unpack(record.token_ids, id_type, (n_tokens,))
    positions = np.flatnonzero(_unpack(record.supervised, "u1", (n_tokens,)))
    topk_ids = _unpack(record.topk_ids, id_type, (n_supervised, top_k))
    codes = _unpack(record.topk_codes, "u1", (n_supervised, top_k))
    top, span = _unpack(record.topk_scales, "<f2", (2, n_supervised)).astype(np.float32)
    log_tail = _unpack(record.tail, "<f2", (n_supervised,)).astype(np.float32)
    if len(positions) != n_supervised or max(token_ids.max(), topk_ids.max(initial=0)) >= record.vocab_size:
        raise ValueError("its columns contradict its counts")
    # A rounded log of nearly 1 may be above 0. Written so that what is not a number fails too.
    sane = (log_tail < 0.01) & (top < 0.01) & (span >= 0) & (top - span > _FLOOR - 1)
    if not sane.all():
        raise ValueError("a probability in it is none")
    tail = np.exp(log_tail)
    tail[tail <= np.exp(np.float32(_FLOOR))] = 0
    fraction = codes.astype(np.float32) / 255
    logprobs = top[:, None] - span[:, None] * fraction * fraction
    # What rounding took from the sum is given back to the top k: the tail was stored exactly, they were not.
    mass = np.exp(logprobs).sum(axis=1)
    logprobs += np.log(np.maximum(1 - tail, np.exp(_FLOOR)) / mass)[:, None]
    return {
        "token_ids": token_ids.astype(np.int64),
        "kinds": _unpack(record.kinds, "u1", (n_tokens,)).astype(np.uint8),
        "steps": _unpack(record.steps, "<i4", (n_tokens,)).astype(np.int32),
        "positions": positions,
        "topk_ids": topk_ids.astype(np.int64),
        "topk_logprobs": logprobs.astype(np.float32),
        "tail_mass": tail,
        "entropy": _unpack(record.entropy, "<f2", (n_supervised,)).astype(np.float32),
        "token_logprobs": _unpack(record.token_logprobs, "<f2", (n_supervised,)).astype(np.float32),
    }


def _id_type(vocab_size: int) -> str:
    return "<u2" if vocab_size <= _SHORT else "<u4"


def _pack(array: NDArray[Any]) -> bytes:
    data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    packed: bytes = pa.Codec("zstd", _LEVEL).compress(data, asbytes=True) if data else b""
    return packed


def _unpack(column: bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    data = pa.Codec("zstd").decompress(column, n_bytes, asbytes=True) if n_bytes else b""
    return np.frombuffer(data, dtype).reshape(shape)
