"""How sure a measured share is."""

import math

_Z = 1.959963984540054  # 97.5 % of a standard normal lie below


def wilson(n_success: int, n: int) -> tuple[float, float]:
    """95 % confidence interval of a share: within it lies the truth in 95 of 100 such measurements.

    Good for few trials and for shares near 0 or 1, where the textbook's `p ± 1.96 s` is not.

    Args:
        n_success: how many of `n` came out well.
    Returns:
        low, high; (0, 1) where nothing was tried.
    Source: E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 22 (1927); for why
        this one: Brown, Cai and DasGupta, Interval Estimation for a Binomial Proportion, Statistical Science 16 (2001).

    >>> [round(edge, 3) for edge in wilson(19, 20)]
    [0.764, 0.991]
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = n_success / n, _Z * _Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At 0 and n of n one edge is the share itself, but for rounding.
    low = 0.0 if n_success == 0 else middle - half
    high = 1.0 if n_success == n else middle + half
    return low, high
