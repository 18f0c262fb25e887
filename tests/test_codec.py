import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sadstream.codec import decode_teacher_sample, encode_teacher_sample, unpack
from sadstream.errors import ShapeError, ShardError
from sadstream_schemas import TeacherSample
from tests import golden
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


def is_kept(teacher: Teacher) -> np.ndarray:
    """Entries that name an id: an id that is impossible is not kept."""
    return ~np.isneginf(teacher.arrays.topk_logprobs)


def levels_of(data: bytes) -> int:
    return msgspec.msgpack.decode(data, type=TeacherSample).levels


@given(topk())
def test_ids_and_tokens_come_back_exactly_and_in_their_order(teacher):
    decoded = decode_teacher_sample(encode(teacher))
    kept = is_kept(teacher)
    for name in ("token_ids", "kinds", "steps", "positions", "topk_ids"):
        given_array = getattr(teacher.arrays, name)
        if name == "topk_ids":
            given_array = np.where(kept, given_array, given_array[:, :1])
        assert np.array_equal(decoded[name], given_array), name
        assert decoded[name].shape == given_array.shape
        assert decoded[name].flags.writeable, "torch.from_numpy warns of others"
    assert np.array_equal(np.isneginf(decoded["topk_logprobs"]), ~kept)


@given(topk())
def test_top_k_and_tail_sum_to_one(teacher):
    decoded = decode_teacher_sample(encode(teacher))
    mass = np.exp(decoded["topk_logprobs"].astype(np.float64)).sum(1) + decoded["tail_mass"]
    assert np.allclose(mass, 1, atol=5e-6)
    assert (decoded["tail_mass"] >= 0).all()
    assert not np.isnan(decoded["topk_logprobs"]).any() and np.isfinite(decoded["topk_logprobs"][:, :1]).all()


@given(topk())
def test_probabilities_fall_and_the_error_is_within_what_is_stated(teacher):
    data = encode(teacher)
    decoded = decode_teacher_sample(data)
    falling = np.where(is_kept(teacher), decoded["topk_logprobs"], -99)
    assert (np.diff(falling, axis=1) <= 0).all()
    n_ids = teacher.arrays.topk_ids.shape[1]
    assert (bucket_kl(teacher, decoded) <= 1.3 * n_ids ** (2 / 3) / levels_of(data) ** 2 + 3e-6).all()
    p = np.exp(teacher.arrays.topk_logprobs)
    assert np.allclose(np.exp(decoded["topk_logprobs"]), p, atol=0.01)
    assert np.allclose(decoded["entropy"], teacher.arrays.entropy, atol=1 / 256 + 1e-6)
    assert np.allclose(decoded["token_logprobs"], np.maximum(teacher.arrays.token_logprobs, -60), atol=1 / 256 + 1e-5)


@given(topk())
def test_the_tail_keeps_its_share_to_a_256th(teacher):
    decoded = decode_teacher_sample(encode(teacher))
    exact = np.exp(teacher.arrays.log_tail.astype(np.float64))
    assert np.allclose(decoded["tail_mass"], exact, rtol=1 / 250, atol=1e-25)
    rest = np.exp(decoded["topk_logprobs"].astype(np.float64)).sum(1)
    assert np.allclose(
        rest, -np.expm1(np.minimum(teacher.arrays.log_tail.astype(np.float64), 0)), rtol=1 / 100, atol=1e-6
    )


@given(topk())
def test_nothing_outside_the_top_k_is_nothing(teacher):
    decoded = decode_teacher_sample(encode(teacher))
    assert (decoded["tail_mass"][np.isneginf(teacher.arrays.log_tail)] == 0).all()


def language_like(n_tokens: int, vocab_size: int, seed: int = 0) -> np.ndarray:
    """Zipf-like logits, sharper and flatter by token, as a language model's are: entropies from 0 to some 6 nats."""
    random = np.random.default_rng(seed)
    sharpness = random.uniform(0.6, 2.5, (n_tokens, 1))
    logits = sharpness * (-np.log(np.arange(1, vocab_size + 1)) + random.normal(0, 1, (n_tokens, vocab_size)))
    return random.permuted(logits, axis=1)


@pytest.mark.parametrize("top_k", [8, 32, 128])
def test_the_codec_costs_a_real_distribution_next_to_nothing(top_k):
    teacher = teacher_of(language_like(400, 8000), top_k)
    kl = bucket_kl(teacher, decode_teacher_sample(encode(teacher)))
    assert kl.mean() <= 2e-5
    assert np.quantile(kl, 0.99) <= 1e-4


@pytest.mark.parametrize(("vocab_size", "n_bytes"), [(65_536, 2), (65_537, 4), (300_000, 4)])
def test_ids_take_two_bytes_while_they_fit(vocab_size, n_bytes):
    logits = np.full((1, vocab_size), -20.0)
    logits[0, -1] = 1
    data = encode(teacher_of(logits, 4))
    record = msgspec.msgpack.decode(data, type=TeacherSample)
    assert len(unpack(record.ids, 4 * n_bytes, "u1")) == 4 * n_bytes
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
    assert not np.isnan(decoded["topk_logprobs"]).any() and np.isfinite(decoded["topk_logprobs"][:, :1]).all()
    assert np.isfinite(decoded["tail_mass"]).all() and (decoded["topk_ids"] >= 0).all()


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
    column = bytearray(getattr(RECORD, name) or b"\0")
    column[data.draw(st.integers(0, len(column) - 1))] ^= data.draw(st.integers(1, 255))
    decode_damaged(msgspec.msgpack.encode(msgspec.structs.replace(RECORD, **{name: bytes(column)})))


def cut_by_mass(teacher: Teacher, mass: float) -> Teacher:
    """The same teacher with only those ids a row that are needed for a mass."""
    logprobs = teacher.arrays.topk_logprobs.astype(np.float64)
    dropped = np.cumsum(np.exp(logprobs), axis=1) - np.exp(logprobs) >= mass
    tail = np.logaddexp(teacher.arrays.log_tail, np.logaddexp.reduce(np.where(dropped, logprobs, -np.inf), axis=1))
    cut = teacher.arrays._replace(topk_logprobs=np.where(dropped, -np.inf, logprobs), log_tail=tail)
    return teacher._replace(arrays=cut)


@pytest.mark.parametrize("mass", [1e-9, 0.5, 0.95])
def test_rows_of_fewer_ids_cost_less_and_come_back_padded(mass):
    whole = teacher_of(language_like(200, 3000), 32)
    cut = cut_by_mass(whole, mass)
    data, n_bytes = encode_teacher_sample(cut.arrays, trajectory_id="run", window=0, vocab_size=3000)
    decoded = decode_teacher_sample(data)
    kept = is_kept(cut)
    assert (kept.sum(1) >= 1).all() and kept.mean() < 0.9
    assert decoded["topk_ids"].shape == (200, 32)
    assert np.array_equal(np.isneginf(decoded["topk_logprobs"]), ~kept)
    assert np.array_equal(decoded["topk_ids"], np.where(kept, cut.arrays.topk_ids, cut.arrays.topk_ids[:, :1]))
    assert bucket_kl(cut, decoded).mean() < 2e-5
    assert n_bytes < 0.9 * encode_teacher_sample(whole.arrays, trajectory_id="run", window=0, vocab_size=3000)[1]


def test_drawn_ids_come_back_with_their_shares_exactly_and_no_tail():
    random = np.random.default_rng(0)
    draws = -np.sort(-random.multinomial(50, np.full(12, 1 / 12), 40), axis=1)
    arrays = teacher_of(random.normal(0, 1, (40, 90)), 12).arrays
    with np.errstate(divide="ignore"):
        logprobs = np.log(draws / 50).astype(np.float32)
    arrays = arrays._replace(topk_logprobs=logprobs, log_tail=np.full(40, -np.inf, np.float32))
    data, _ = encode_teacher_sample(arrays, trajectory_id="run", window=0, vocab_size=90, n_draws=50)
    decoded = decode_teacher_sample(data)
    np.testing.assert_allclose(np.exp(decoded["topk_logprobs"]), draws / 50, atol=1e-6)
    assert (decoded["tail_mass"] == 0).all()


def test_more_ids_than_there_are_symbols_come_back():
    random = np.random.default_rng(0)
    # 20,000 different ids in one window: more than symbols with a byte beside them can name.
    ids = random.permutation(70_000)[:20_000].reshape(625, 32)
    arrays = teacher_of(random.normal(0, 1, (625, 40)), 32).arrays._replace(topk_ids=ids)
    data, _ = encode_teacher_sample(arrays, trajectory_id="run", window=0, vocab_size=70_000)
    assert np.array_equal(decode_teacher_sample(data)["topk_ids"], ids)


def test_the_decoder_in_the_docs_says_the_same():
    pytest.importorskip("zstandard", reason="the decoder printed in the docs uses zstandard")
    page = (golden.FOLDER.parent.parent / "docs" / "teacher-shards.md").read_text(encoding="utf-8")
    namespace: dict = {}
    exec(page.split("```python\n")[1].split("```")[0], namespace)
    cut = cut_by_mass(teacher_of(language_like(60, 70_000), 32), 0.9)
    for teacher in (cut, teacher_of(language_like(300, 3000), 32), teacher_of(np.array([[40.0, 0.0, 0.0]]), 2)):
        data = encode(teacher)
        ours, theirs = decode_teacher_sample(data), namespace["decode"](data)
        np.testing.assert_allclose(np.exp(ours["topk_logprobs"]), theirs["topk_probs"], atol=1e-6)
        for name in ("tail_mass", "entropy", "token_logprobs"):
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6)
        assert np.array_equal(ours["topk_ids"][theirs["topk_probs"] > 0], theirs["topk_ids"][theirs["topk_probs"] > 0])
        assert np.array_equal(ours["token_ids"], theirs["token_ids"])
        assert np.array_equal(ours["positions"], theirs["positions"])


def test_format_1_is_read():
    arrays = decode_teacher_sample((golden.FOLDER / "examples" / "teacher-sample-1.msgpack").read_bytes())
    now = decode_teacher_sample((golden.FOLDER / "examples" / "teacher-sample.msgpack").read_bytes())
    for name, tolerance in (
        ("topk_logprobs", 0.02),
        ("tail_mass", 0.002),
        ("entropy", 0.004),
        ("token_logprobs", 0.004),
    ):
        np.testing.assert_allclose(arrays[name], now[name], atol=tolerance)
    for name in ("token_ids", "kinds", "steps", "positions", "topk_ids"):
        assert np.array_equal(arrays[name], now[name]) and arrays[name].dtype == now[name].dtype


def test_a_damaged_sample_of_format_1_raises_shard_error_and_nothing_else():
    whole = (golden.FOLDER / "examples" / "teacher-sample-1.msgpack").read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        decode_damaged(bytes(damaged))


def test_a_newer_version_says_so():
    newer = msgspec.msgpack.encode({**msgspec.structs.asdict(RECORD), "format_version": 7, "new": 1})
    with pytest.raises(ShardError, match="written by format 7 of TeacherSample, this reads up to 2"):
        decode_teacher_sample(newer)
