"""Sessions that are a tree: each line names the line before it, and edits fork it."""

from collections.abc import Sequence


def longest_branch(parents: Sequence[int | None], weights: Sequence[int]) -> list[int]:
    """The way from a root to the leaf that has most behind it; of equal ones the last.

    Args:
        parents: of each line the index of the one before it, smaller than its own; None for a root.
        weights: what each line counts.
    Returns:
        Indices, rising.

    >>> longest_branch([None, 0, 1, 0, 3, 4], [1] * 6)
    [0, 3, 4, 5]
    """
    depth: list[int] = []
    for parent, weight in zip(parents, weights, strict=True):
        depth.append(weight + (depth[parent] if parent is not None else 0))
    at: int | None = max(range(len(depth)), key=lambda index: (depth[index], index), default=None)
    branch = []
    while at is not None:
        branch.append(at)
        at = parents[at]
    return branch[::-1]
