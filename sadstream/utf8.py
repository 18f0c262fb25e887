"""Strings of a column as one run of UTF-8 bytes, looked at with NumPy; positions are bytes until they are counted."""

from typing import Any, NamedTuple

import numpy as np
import polars as pl

Ints = np.ndarray[Any, np.dtype[np.int64]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

_PADDING = "\0" * 64  # so that a look at the bytes after a position needs no check
_LINE_BREAK = ord("\n")
_NEWEST = pl.CompatLevel.newest()  # strings as Polars has them: no copy
_ASCII_BLOCK = 256
# A position is moved byte by byte with all others; one that has far to go is moved alone.
_ROUNDS = 24


class Texts(NamedTuple):
    """Strings one after another, a line break before each and after the last.

    Attributes:
        data: UTF-8 bytes; at least 64 further ones follow the last line break.
        start, stop: [n_texts] where each string begins and ends.
    """

    data: Bytes
    start: Ints
    stop: Ints


def texts_of(column: pl.Series) -> Texts:
    """The strings of a column, a null as an empty one."""
    strings = column.fill_null("") if column.null_count() else column
    ends = pl.Series(["", _PADDING])
    joined = pl.concat([ends[:1], strings, ends[1:]]).str.join("\n").to_arrow(compat_level=_NEWEST)
    data = np.frombuffer(joined.buffers()[2], np.uint8)
    stop = np.cumsum(strings.str.len_bytes().to_numpy().astype(np.int64) + 1)
    return Texts(data, np.append(0, stop[:-1])[: len(stop)] + 1, stop)


def line_starts(texts: Texts) -> Ints:
    """Where each line of each text begins."""
    return np.flatnonzero(texts.data[: texts.stop[-1]] == _LINE_BREAK) + 1


def continuation_bytes(texts: Texts) -> Ints:
    """Where the bytes stand that begin no code point: what lies before a position, less these, is its characters."""
    # Most text is ASCII, and what is not stands close together: look at blocks before bytes.
    signed = texts.data.view(np.int8)
    n_whole = len(signed) // _ASCII_BLOCK * _ASCII_BLOCK
    blocks = signed[:n_whole].reshape(-1, _ASCII_BLOCK)
    mixed = np.flatnonzero(blocks.min(axis=1, initial=0) < 0)
    tail = np.flatnonzero(signed[n_whole:] < -64) + n_whole
    if not len(mixed):
        return tail
    if 2 * len(mixed) > len(blocks):
        return np.flatnonzero(signed < -64)
    within = np.flatnonzero(blocks[mixed].ravel() < -64)
    return np.append(mixed[within // _ASCII_BLOCK] * _ASCII_BLOCK + within % _ASCII_BLOCK, tail)


def eight_bytes(data: Bytes, at: Ints) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The eight bytes from each position on, the first one lowest."""
    windows: np.ndarray[Any, np.dtype[np.uint64]] = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))
    return windows[at]


def begins_with(data: Bytes, at: Ints, word: bytes) -> Bools:
    """At which positions a word stands."""
    found = np.ones(len(at), bool)
    for begin in range(0, len(word), 8):
        part = word[begin : begin + 8]
        mask = np.uint64((1 << 8 * len(part)) - 1)
        found &= eight_bytes(data, at + begin if begin else at) & mask == np.uint64(int.from_bytes(part, "little"))
    return found


def among(characters: bytes) -> Bools:
    """[256] which bytes are among the characters."""
    table = np.zeros(256, bool)
    table[list(characters)] = True
    return table


def skip(data: Bytes, at: Ints, stop: Ints, characters: bytes) -> Ints:
    """Each position moved on past the characters, as far as its stop."""
    table = among(characters)
    at = at.copy()
    moving = np.flatnonzero((at < stop) & table[data[at]])
    for _ in range(_ROUNDS):
        if not len(moving):
            return at
        here = at[moving] + 1
        at[moving] = here
        moving = moving[(here < stop[moving]) & table[data[here]]]
    for index in moving.tolist():
        rest = data[at[index] : stop[index]].tobytes()
        at[index] += len(rest) - len(rest.lstrip(characters))
    return at


def skip_back(data: Bytes, at: Ints, begin: Ints, characters: bytes) -> Ints:
    """Each position moved back past the characters, as far as its begin."""
    table = among(characters)
    at = at.copy()
    moving = np.flatnonzero((at > begin) & table[data[at - 1]])
    for _ in range(_ROUNDS):
        if not len(moving):
            return at
        here = at[moving] - 1
        at[moving] = here
        moving = moving[(here > begin[moving]) & table[data[here - 1]]]
    for index in moving.tolist():
        rest = data[begin[index] : at[index]].tobytes()
        at[index] = begin[index] + len(rest.rstrip(characters))
    return at
