import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadstream.unigram import fit_unigram, unigram_kl
from tests.strategies import topk


def kept(teacher):
    arrays = teacher.arrays
    return arrays.topk_ids, np.exp(arrays.topk_logprobs.astype(float)), np.exp(arrays.log_tail.astype(float))


def mean_kl(unigram, values):
    return unigram_kl(unigram, *values).mean()


@given(topk(max_vocab=2000))
def test_a_unigram_is_a_distribution_without_zeros(teacher):
    unigram = fit_unigram(*kept(teacher), teacher.vocab_size)
    assert unigram.shape == (teacher.vocab_size,)
    assert unigram.sum() == pytest.approx(1)
    assert (unigram > 0).all()


@given(topk(max_vocab=2000))
def test_its_divergence_is_a_number_and_not_negative(teacher):
    values = kept(teacher)
    kl = unigram_kl(fit_unigram(*values, teacher.vocab_size), *values)
    assert np.isfinite(kl).all() and (kl > -1e-5).all()


def teachers(seed: int):
    """Distributions around one common Zipf distribution, as a language model's are."""
    random = np.random.default_rng(seed)
    common = -1.1 * np.log(np.arange(1, 501))
    logits = random.permutation(common) + random.normal(0, 2, (300, 500))
    logprobs = logits - np.logaddexp.reduce(logits, axis=1)[:, None]
    ids = np.argsort(-logits, axis=1)[:, :16]
    probs = np.exp(np.take_along_axis(logprobs, ids, 1))
    return ids, probs, 1 - probs.sum(1)


@given(st.integers(0, 2**32 - 1))
def test_it_is_nearer_to_the_teacher_than_counts_or_nothing(seed):
    values = teachers(seed)
    ids, probs, _ = values
    counts = np.bincount(ids.ravel(), probs.ravel(), 500) + 1e-9
    fitted = mean_kl(fit_unigram(*values, 500), values)
    assert fitted < mean_kl(np.full(500, 1 / 500), values)
    assert fitted < mean_kl(counts / counts.sum(), values)


@given(st.integers(0, 2**32 - 1))
def test_no_small_change_of_it_is_nearer(seed):
    values = teachers(seed)
    unigram = fit_unigram(*values, 500)
    best = mean_kl(unigram, values)
    random = np.random.default_rng(seed)
    for _ in range(5):
        other = unigram * np.exp(random.normal(0, 0.1, 500))
        assert mean_kl(other / other.sum(), values) > best


def test_a_teacher_that_always_says_the_same_is_met_exactly():
    probs = np.array([[0.5, 0.3, 0.2]] * 20)
    values = (np.array([[4, 1, 2]] * 20), probs, np.zeros(20))
    unigram = fit_unigram(*values, 6)
    assert unigram[[4, 1, 2]] == pytest.approx([0.5, 0.3, 0.2], abs=1e-6)
    assert unigram_kl(unigram, *values) == pytest.approx(0, abs=1e-6)
