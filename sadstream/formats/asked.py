"""What a format asks of a JSON object before it says no: objects without any of that need not be shown to it."""

import functools
from collections.abc import Callable, Iterator, Set
from typing import Any


class _Everything(Exception):
    """A format looked at more than names that it asked for."""


class _Names(Set[str]):
    """Names of an object that has none; each one that is asked for is noted."""

    def __init__(self, asked: set[str]) -> None:
        self._asked = asked

    def __contains__(self, name: object) -> bool:
        self._asked.add(str(name))
        return False

    def __iter__(self) -> Iterator[str]:
        raise _Everything

    def __len__(self) -> int:
        raise _Everything

    def __le__(self, other: Any) -> bool:
        raise _Everything

    def __ge__(self, other: Any) -> bool:
        return all(name in self for name in other)

    def isdisjoint(self, other: Any) -> bool:
        return not any(name in self for name in other)


class _Blank(dict[str, Any]):
    """An object that has nothing, to see what is asked of it."""

    def __init__(self, asked: set[str]) -> None:
        super().__init__()
        self._names = _Names(asked)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def get(self, name: str, default: Any = None) -> Any:
        self._names.__contains__(name)
        return default

    def __getitem__(self, name: str) -> Any:
        raise _Everything

    def keys(self) -> Any:
        return self._names

    def _everything(self, *_: Any) -> Any:
        raise _Everything

    __iter__ = __len__ = __bool__ = __eq__ = items = values = copy = _everything


@functools.lru_cache(maxsize=256)
def names_asked(recognise: Callable[[Any], bool]) -> frozenset[str] | None:
    """Names of which an object must have one to be recognised; None where others can be too.

    A function of an object that got no answer to what it asked says the same of any other object that has none either.

    >>> sorted(names_asked(lambda record: "a" in record and record.get("b") == 1) or ())
    ['a']
    >>> names_asked(lambda record: any(isinstance(value, str) for value in record.values())) is None
    True
    """
    asked: set[str] = set()
    try:
        recognised = recognise(_Blank(asked))
    except _Everything:
        return None
    return None if recognised else frozenset(asked)
