import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sadstream.codec import decode_teacher_sample, encode_teacher_sample
from sadstream.errors import ShapeError, ShardError
from sadstream_schemas import TeacherSample
from tests.strategies import Teacher, teacher_of, topk


def encode(teacher: Teacher) -> bytes:
    return encode_teacher_sample(teacher.arrays, trajectory_id="run", window=0, vocab_size=teacher.vocab_size)[0]


def bucket_kl(teacher: Teacher, decoded: dict) -> np.ndarray:
    """KL between what was encoded and what came back, over the top k and one bucket for the rest, float64."""
    tail = np.exp(teacher.arrays.log_tail.astype(np.float64))
    p = np.concatenate([np.exp(teacher.arrays.topk_logprobs.astype(np.float64)), tail[:, None]], 1)
    q = np.concatenate([np.exp(decoded["topk_logprobs"].astype(np.float64)), decoded["tail_mass"][:, None]], 1)
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    big = p > 1e-20
    return np.where(big, p * np.log(np.where(big, p, 1) / np.maximum(np.where(big, q, 1), 1e-300)), 0).sum(1)


@given(topk())
def test_ids_and_tokens_come_back_exactly(teacher):
    decoded = decode_teacher_sample(encode(teacher))
    for name in ("token_ids", "kinds", "steps", "positions", "topk_ids"):
        given_array = getattr(teacher.arrays, name)
        assert np.array_equal(decoded[name], given_array), name
        assert decoded[name].shape == given_array.shape
        assert decoded[name].flags.writeable, "torch.from_numpy warns of others"


@given(topk())
def test_top_k_and_tail_sum_to_one(teacher):
    decoded = decode_teacher_sample(encode(teacher))
    mass = np.exp(decoded["topk_logprobs"].astype(np.float64)).sum(1) + decoded["tail_mass"]
    assert np.allclose(mass, 1, atol=2e-6)
    assert (decoded["tail_mass"] >= 0).all()
    assert np.isfinite(decoded["topk_logprobs"]).all()


@given(topk())
def test_probabilities_fall_and_stay_near(teacher):
    decoded = decode_teacher_sample(encode(teacher))
    assert (np.diff(decoded["topk_logprobs"], axis=1) <= 0).all()
    assert (bucket_kl(teacher, decoded) < 3e-3).all()
    p = np.exp(teacher.arrays.topk_logprobs)
    assert np.allclose(np.exp(decoded["topk_logprobs"]), p, atol=0.03)
    assert np.allclose(decoded["entropy"], teacher.arrays.entropy, rtol=1e-3, atol=1e-5)
    assert np.allclose(decoded["token_logprobs"], np.maximum(teacher.arrays.token_logprobs, -60), rtol=1e-3, atol=1e-5)


@given(topk())
def test_nothing_outside_the_top_k_is_nothing(teacher):
    decoded = decode_teacher_sample(encode(teacher))
    assert (decoded["tail_mass"][np.isneginf(teacher.arrays.log_tail)] == 0).all()


@pytest.mark.parametrize("top_k", [8, 32, 128])
def test_the_codec_costs_a_real_distribution_next_to_nothing(top_k):
    random = np.random.default_rng(0)
    # Zipf-like, sharper and flatter by token, as a language model's are: entropies from near 0 to some 6 nats.
    sharpness = random.uniform(0.6, 2.5, (400, 1))
    logits = sharpness * (-np.log(np.arange(1, 8001)) + random.normal(0, 1, (400, 8000)))
    teacher = teacher_of(random.permuted(logits, axis=1), top_k)
    kl = bucket_kl(teacher, decode_teacher_sample(encode(teacher)))
    assert kl.mean() <= 2e-5
    assert np.quantile(kl, 0.99) <= 1e-4


@pytest.mark.parametrize(("vocab_size", "n_bytes"), [(65_536, 2), (65_537, 4), (300_000, 4)])
def test_ids_take_two_bytes_while_they_fit(vocab_size, n_bytes):
    logits = np.full((1, vocab_size), -20.0)
    logits[0, -1] = 1
    data = encode(teacher_of(logits, 4))
    record = msgspec.msgpack.decode(data, type=TeacherSample)
    raw = pa.Codec("zstd").decompress(record.topk_ids, 4 * n_bytes, asbytes=True)
    assert len(raw) == 4 * n_bytes
    assert decode_teacher_sample(data)["topk_ids"][0, 0] == vocab_size - 1


def test_a_window_with_nothing_supervised_is_kept():
    decoded = decode_teacher_sample(encode(teacher_of(np.zeros((0, 50)), 8)))
    assert decoded["topk_ids"].shape == decoded["topk_logprobs"].shape == (0, 8)
    assert decoded["positions"].shape == (0,)


def test_the_count_of_teacher_bytes_is_of_the_teachers_columns():
    teacher = teacher_of(np.random.default_rng(0).normal(0, 3, (50, 1000)), 32)
    data, n_bytes = encode_teacher_sample(teacher.arrays, trajectory_id="run", window=0, vocab_size=1000)
    assert 0.5 * len(data) < n_bytes < len(data)


def test_a_certain_token_whose_rounded_probability_is_above_one_is_read():
    arrays = teacher_of(np.array([[40.0, 0.0, 0.0]]), 2).arrays
    arrays.topk_logprobs[:, 0] = 2e-7
    data, _ = encode_teacher_sample(arrays, trajectory_id="run", window=0, vocab_size=3)
    assert np.allclose(decode_teacher_sample(data)["topk_logprobs"][:, 0], 0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kinds", np.zeros(3, np.uint8)),
        ("log_tail", np.zeros(9, np.float32)),
        ("topk_logprobs", np.zeros((4, 7), np.float32)),
    ],
)
def test_arrays_that_do_not_fit_are_named(name, value):
    arrays = teacher_of(np.zeros((4, 50)), 8).arrays._replace(**{name: value})
    with pytest.raises(ShapeError, match=name):
        encode_teacher_sample(arrays, trajectory_id="run", window=0, vocab_size=50)


WHOLE = encode(teacher_of(np.random.default_rng(1).normal(0, 3, (6, 60)), 8))
RECORD = msgspec.msgpack.decode(WHOLE, type=TeacherSample)


def decode_damaged(data: bytes) -> None:
    """A damaged member is refused, or, where the damage cannot be told, gives arrays that fit each other."""
    try:
        decoded = decode_teacher_sample(data)
    except ShardError:
        return
    n_tokens, (n_supervised, top_k) = len(decoded["token_ids"]), decoded["topk_ids"].shape
    assert decoded["kinds"].shape == decoded["steps"].shape == (n_tokens,)
    assert decoded["positions"].shape == decoded["tail_mass"].shape == decoded["entropy"].shape == (n_supervised,)
    assert decoded["topk_logprobs"].shape == (n_supervised, top_k)
    assert (decoded["positions"] > 0).all() and (decoded["positions"] < n_tokens).all()
    assert np.isfinite(decoded["topk_logprobs"]).all() and np.isfinite(decoded["tail_mass"]).all()


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_raise_shard_error_and_nothing_else(flips):
    damaged = bytearray(WHOLE)
    for place, mask in flips:
        damaged[place] ^= mask
    decode_damaged(bytes(damaged))


def test_each_single_flipped_bit_raises_shard_error_and_nothing_else():
    for place in range(len(WHOLE)):
        damaged = bytearray(WHOLE)
        damaged[place] ^= 1 << (place % 8)
        decode_damaged(bytes(damaged))


@given(st.integers(0, len(WHOLE) - 1))
def test_a_cut_off_sample_raises_shard_error(length):
    with pytest.raises(ShardError):
        decode_teacher_sample(WHOLE[:length])


@given(st.binary(max_size=60))
@example(b"")
@example(b"\x80")
@example(b"\xc0")
def test_bytes_of_anything_else_raise_shard_error(data):
    with pytest.raises(ShardError):
        decode_teacher_sample(data)


@given(
    st.sampled_from(["n_tokens", "n_supervised", "top_k", "vocab_size"]),
    st.one_of(st.integers(1, 100), st.integers(1, 2**63 - 1), st.sampled_from([2**31, 2**32, 2**61, 2**62])),
)
@example("n_supervised", 2**62)
@example("top_k", 2**63 - 1)
@example("n_supervised", 0)
@example("vocab_size", 3)
def test_wrong_counts_raise_shard_error_and_nothing_else(name, value):
    decode_damaged(msgspec.msgpack.encode(msgspec.structs.replace(RECORD, **{name: value})))


@given(
    st.sampled_from([n for n in TeacherSample.__struct_fields__ if isinstance(getattr(RECORD, n), bytes)]), st.data()
)
def test_a_damaged_column_raises_shard_error_and_nothing_else(name, data):
    column = bytearray(getattr(RECORD, name))
    column[data.draw(st.integers(0, len(column) - 1))] ^= data.draw(st.integers(1, 255))
    decode_damaged(msgspec.msgpack.encode(msgspec.structs.replace(RECORD, **{name: bytes(column)})))


def test_a_newer_version_says_so():
    newer = msgspec.msgpack.encode({**msgspec.structs.asdict(RECORD), "format_version": 7, "new": 1})
    with pytest.raises(ShardError, match="written by format 7 of TeacherSample, this reads up to 1"):
        decode_teacher_sample(newer)
