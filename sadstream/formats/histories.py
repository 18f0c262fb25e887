"""Logs of model calls repeat the history in every call: find the longest path of each conversation, once."""

from collections.abc import Hashable, Sequence


def longest_paths(histories: Sequence[Sequence[Hashable]]) -> list[int]:
    """Which histories are no beginning of another; of equal ones the first.

    Args:
        histories: each a sequence of comparable messages (their bytes, say), in the order they were logged.
    Returns:
        Indices, rising.

    >>> longest_paths(["a", "ab", "abc", "abd", "x", "x"])
    [2, 3, 4]
    """
    beginnings: set[tuple[Hashable, ...]] = set()
    for history in histories:
        beginnings.update(tuple(history[:n]) for n in range(len(history)))
    seen: set[tuple[Hashable, ...]] = set()
    kept = []
    for index, history in enumerate(histories):
        path = tuple(history)
        if path and path not in beginnings and path not in seen:
            kept.append(index)
            seen.add(path)
    return kept
