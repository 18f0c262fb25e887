import math

from hypothesis import given
from hypothesis import strategies as st

from sadstream.intervals import wilson

counts = st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts)
def test_the_edges_are_the_shares_at_which_the_count_is_just_not_surprising(count):
    n_success, n = count
    for edge in wilson(n_success, n):
        deviation = abs(n_success / n - edge)
        assert math.isclose(deviation, 1.959964 * math.sqrt(edge * (1 - edge) / n), rel_tol=1e-5, abs_tol=1e-9)


@given(counts)
def test_it_lies_in_0_to_1_around_the_share_and_mirrors(count):
    n_success, n = count
    low, high = wilson(n_success, n)
    assert 0 <= low <= n_success / n <= high <= 1
    assert low < high
    mirrored = wilson(n - n_success, n)
    assert math.isclose(low, 1 - mirrored[1], abs_tol=1e-12) and math.isclose(high, 1 - mirrored[0], abs_tol=1e-12)


@given(counts)
def test_more_of_the_same_makes_it_narrower(count):
    n_success, n = count
    narrow, wide = wilson(4 * n_success, 4 * n), wilson(n_success, n)
    assert narrow[1] - narrow[0] < wide[1] - wide[0]


def test_of_nothing_nothing_is_known():
    assert wilson(0, 0) == (0.0, 1.0)


def test_all_of_few_is_no_proof():
    low, high = wilson(105, 105)
    assert (round(low, 4), high) == (0.9647, 1.0)
