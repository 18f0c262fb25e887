"""Reading teacher samples of format 1: ids as they are, codes of a byte by a square-root scale of each token's own."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sadstream_schemas import TeacherSample1

_FLOOR = -60.0


def unpack_format1(record: TeacherSample1) -> dict[str, NDArray[Any]]:
    """Arrays as `sadstream.codec.decode_teacher_sample` gives them.

    Raises:
        ValueError, ArrowException and others: damaged.
    """
    n_tokens, n_supervised, top_k = record.n_tokens, record.n_supervised, record.top_k
    id_type = "<u2" if record.vocab_size <= 1 << 16 else "<u4"
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


def _unpack(column: bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    data = pa.Codec("zstd").decompress(column, n_bytes, asbytes=True) if n_bytes else b""
    return np.frombuffer(data, dtype).reshape(shape)
