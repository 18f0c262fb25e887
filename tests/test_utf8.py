"""Texts as bytes against Python's own strings."""

import re

import numpy as np
import polars as pl
from hypothesis import example, given
from hypothesis import strategies as st

from sadstream import utf8

_WIDE = st.text(st.sampled_from("a \n\x7f\x80é\u07ff\u0800€\uffff\U00010000😀"), max_size=40)
_STRETCHES = st.tuples(_WIDE, st.sampled_from([0, 0, 1, 15, 16, 440, 447, 448, 449, 511, 512, 513, 1500]))
LONG_TEXTS = st.lists(_STRETCHES, max_size=4).map(lambda parts: "".join("a" * n + wide for wide, n in parts))


def among_others(strings):
    """A column whose memory begins and ends with other strings, in chunks."""
    return pl.concat(
        [pl.Series(["é", *strings[:1]])[1:], pl.Series([*strings[1:], "é"], dtype=pl.String)[:-1]], rechunk=False
    )


@given(st.lists(st.one_of(st.none(), LONG_TEXTS), max_size=5))
def test_a_columns_strings_stand_one_after_another_with_room_around(strings):
    at = utf8.texts_of(among_others(strings))
    expected = ["" if text is None else text for text in strings]
    assert at.strings.to_list() == expected
    assert [bytes(at.data[a:b]).decode() for a, b in zip(at.start, at.stop, strict=True)] == expected
    assert len(at.start) == len(strings) and (at.stop[:-1] == at.start[1:]).all()
    assert not strings or (at.start[0] >= 64 and len(at.data) >= at.stop[-1] + 64)


@given(st.lists(LONG_TEXTS, min_size=1, max_size=5))
@example(["é" + "a" * 1000 + "é"])
@example(["a" * 3000 + "é", "a" * 447 + "é" + "a" * 60])
@example(["é" * 2000])
@example(["a" * 20_000 + "€" + "a" * 3000])
def test_bytes_less_those_that_continue_are_characters(strings):
    at = utf8.texts_of(pl.Series(strings))
    more = utf8.continuation_bytes(at)
    for text, start in zip(strings, at.start.tolist(), strict=True):
        data, before = text.encode(), int(np.searchsorted(more, start))
        ends = np.cumsum([0, *(len(c.encode()) for c in text)]).tolist()
        for k in {*ends[:40], *ends[-40:], *ends[::97]}:
            assert k - (np.searchsorted(more, start + k) - before) == len(data[:k].decode())
    assert more.tolist() == [i for i, byte in enumerate(at.data.tolist()) if 0x80 <= byte < 0xC0]


@given(
    st.lists(st.text("abé>\n", max_size=12), max_size=6),
    st.lists(st.sampled_from(["a", "\n>", "éb", "bab", ">>"]), min_size=1, unique=True),
)
def test_places_of_patterns_are_those_of_a_regular_expression(strings, patterns):
    pattern = re.compile(b"|".join(re.escape(p.encode()) for p in patterns))
    piece, place = utf8.places_of(pl.Series(strings, dtype=pl.String), utf8.finder(patterns))
    expected = [(i, m.start()) for i, text in enumerate(strings) for m in pattern.finditer(text.encode())]
    assert list(zip(piece.tolist(), place.tolist(), strict=True)) == expected
    assert place.dtype == np.int64


_BLANK_TEXTS = st.lists(
    st.one_of(st.sampled_from([" ", "\n", "\t", "a", "é"]), st.integers(20, 60).map(" ".__mul__)), max_size=6
).map("".join)


@given(st.lists(_BLANK_TEXTS, min_size=1, max_size=4))
def test_skipping_is_stripping_from_any_place_as_far_as_the_text_goes(strings):
    at = utf8.texts_of(pl.Series(strings))
    which = np.repeat(np.arange(len(strings)), at.stop - at.start + 1)
    places = [place for text in strings for place in range(len(text.encode()) + 1)]
    here, start, stop = at.start[which] + places, at.start[which], at.stop[which]
    rest = [strings[i].encode()[place:] for i, place in zip(which, places, strict=True)]
    before = [strings[i].encode()[:place] for i, place in zip(which, places, strict=True)]
    kept = here.copy()
    assert (utf8.skip(at.data, here, stop, b" \n") - start).tolist() == [
        place + len(r) - len(r.lstrip(b" \n")) for place, r in zip(places, rest, strict=True)
    ]
    assert (utf8.skip_back(at.data, here, start, b" \n") - start).tolist() == [len(b.rstrip(b" \n")) for b in before]
    assert here.tolist() == kept.tolist()
    for word in (b"", b" ", b" \n", b"a "):
        inside = here + len(word) <= stop
        assert (utf8.begins_with(at.data, here, word) & inside).tolist() == [r.startswith(word) for r in rest]
    assert np.flatnonzero(utf8.among(b" \n\xff")).tolist() == [10, 32, 255]
