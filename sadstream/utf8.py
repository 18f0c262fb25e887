"""Strings of a column as one run of UTF-8 bytes, looked at with NumPy; positions are bytes until they are counted."""

from typing import Any, NamedTuple

import numpy as np
import polars as pl

Ints = np.ndarray[Any, np.dtype[np.int64]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

_PADDING = pl.Series(["\0" * 64])  # so that a look at the bytes around a position needs no check
_ONE_RUN = pl.CompatLevel.oldest()  # strings as Arrow first had them: bytes one after another, and offsets
_ASCII_BLOCK = 512
# A position is moved byte by byte with all others; one that has far to go is moved alone.
_ROUNDS = 24


class Texts(NamedTuple):
    """Strings one after another, nothing between them.

    Attributes:
        strings: none of them null.
        data: UTF-8 bytes; at least 64 further ones stand before the first string and after the last.
        start, stop: [n_texts] where each string begins and ends.
    """

    strings: pl.Series
    data: Bytes
    start: Ints
    stop: Ints


def texts_of(column: pl.Series) -> Texts:
    """The strings of a column, a null as an empty one."""
    strings = column.fill_null("") if column.null_count() else column
    _, offsets, data = pl.concat([_PADDING, strings, _PADDING]).to_arrow(compat_level=_ONE_RUN).buffers()
    ends = np.frombuffer(offsets, np.int64)[1 : len(strings) + 2]
    return Texts(strings, np.frombuffer(data, np.uint8), ends[:-1], ends[1:])


def finder(patterns: list[str]) -> pl.Expr:
    """Looks for patterns in a column without a name."""
    # The leftmost search is the one that Rust's crate has vector instructions for. Its offsets have 32 bits, and so
    # has the length of a string in Polars.
    return pl.col("").str.find_many(patterns, leftmost=True)


def places_of(strings: pl.Series, patterns: pl.Expr) -> tuple[Ints, Ints]:
    """Where patterns of a `finder` stand, in order: index of the string, and byte of it; no two overlap."""
    found = strings.to_frame("").select_seq(patterns).to_series().to_arrow()
    n_found = np.diff(found.offsets.to_numpy())
    return np.repeat(np.arange(len(n_found)), n_found), found.values.to_numpy().astype(np.int64)


def continuation_bytes(texts: Texts) -> Ints:
    """Where the bytes stand that begin no code point: what lies before a position, less these, is its characters."""
    # Most text is ASCII, and what is not stands close together: look at blocks before bytes.
    signed = texts.data.view(np.int8)
    n_whole = len(signed) // _ASCII_BLOCK * _ASCII_BLOCK
    blocks = signed[:n_whole].reshape(-1, _ASCII_BLOCK)
    mixed = np.flatnonzero(blocks.min(axis=1) < 0)
    tail = np.flatnonzero(signed[n_whole:] < -64) + n_whole
    if not len(mixed):
        return tail
    if 2 * len(mixed) > len(blocks):
        return np.flatnonzero(signed < -64)
    within = np.flatnonzero(blocks[mixed].ravel() < -64)
    return np.append(mixed[within // _ASCII_BLOCK] * _ASCII_BLOCK + within % _ASCII_BLOCK, tail)


def begins_with(data: Bytes, at: Ints, word: bytes) -> Bools:
    """At which positions a word stands."""
    found = np.ones(len(at), bool)
    for place, byte in enumerate(word):
        found &= data.take(at + place) == byte
    return found


def among(characters: bytes) -> Bools:
    """[256] which bytes are among the characters."""
    table = np.zeros(256, bool)
    table[list(characters)] = True
    return table


def skip(data: Bytes, at: Ints, stop: Ints, characters: bytes) -> Ints:
    """Each position moved on past the characters, as far as its stop."""
    table = among(characters)
    # Most positions stand or move by one: all are looked at twice before those that go on are picked.
    moves = (at < stop) & table.take(data.take(at))
    at = at + moves
    moves &= at < stop
    moves &= table.take(data.take(at))
    moving = np.flatnonzero(moves)
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
    moves = (at > begin) & table.take(data.take(at - 1))
    at = at - moves
    moves &= at > begin
    moves &= table.take(data.take(at - 1))
    moving = np.flatnonzero(moves)
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
