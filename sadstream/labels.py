"""Which lines of a text open a span: the labels of `formats.dialects`, found in bytes for many texts at once."""

import re
from typing import Any, NamedTuple

import numpy as np

from sadstream.formats.dialects import DIALECTS, EXAMPLES_END, LABELS, NUMBERED_WORDS, WORDS
from sadstream.utf8 import (
    Bools,
    Bytes,
    Ints,
    Texts,
    begins_with,
    finder,
    places_of,
    skip,
    skip_back,
)

Codes = np.ndarray[Any, np.dtype[np.int8]]

KINDS = ("context", "reason", "act", "observation")
CONTEXT, REASON, ACT, OBSERVATION = range(4)
NO_KIND = -1

DIALECT_NAMES = tuple(LABELS)
UNDECIDED, NO_DIALECT = -2, -1
_NUMBERED, _WEBSHOP, _REACT, _PROMPT, TAGS = (
    DIALECT_NAMES.index(name) for name in ("react-numbered", "webshop", "react", "prompt", "tags")
)

BLANK = b" \t\r"
_DIGITS = b"0123456789"
_ZERO = np.uint8(ord("0"))
_MOST_DIGITS = 18  # every number of so many fits in 64 bits
_LINE_BREAK = 10
_COLON, _SPACE, _COMMAND = b": >"

_ALL_WORDS = tuple(dict.fromkeys((*NUMBERED_WORDS, *WORDS["react"])))
_ACTION, _OBSERVATION, _ACTION_PATH = (_ALL_WORDS.index(word) for word in ("Action", "Observation", "ActionPath"))
_WORD_KIND = np.array(
    [{"Thought": REASON, "ActionPath": REASON, "Observation": OBSERVATION}.get(w, ACT) for w in _ALL_WORDS], np.int8
)
# Found as `Action`, which no other word begins with.
_PATH = "ActionPath".removeprefix("Action").encode()
_FOUND_WORDS = [word for word in _ALL_WORDS if word != "ActionPath"]
_MARKS = finder([*_FOUND_WORDS, EXAMPLES_END, "\n>"])
_TAG = re.compile(LABELS["tags"].encode())

_UNNUMBERED = -2

# What the first byte of a mark says: of the words no two begin alike.
_WORD = np.zeros(256, np.int8)
_LENGTH = np.zeros(256, np.int64)
for _word in _FOUND_WORDS:
    _WORD[ord(_word[0])], _LENGTH[ord(_word[0])] = _ALL_WORDS.index(_word), len(_word)


class Openings(NamedTuple):
    """Lines that open a span, in order; all of one length.

    Attributes:
        at: byte where the line begins. body: byte where its label ends.
        piece: which text it stands in. kind: index in `KINDS`.
    """

    at: Ints
    body: Ints
    piece: Ints
    kind: Codes

    def where(self, kept: Bools | Ints) -> "Openings":
        """Those that are kept."""
        return Openings(self.at[kept], self.body[kept], self.piece[kept], self.kind[kept])

    def joined(self, more: "Openings") -> "Openings":
        """These, then those; no longer in order."""
        return Openings(
            np.append(self.at, more.at),
            np.append(self.body, more.body),
            np.append(self.piece, more.piece),
            np.append(self.kind, more.kind),
        )


class _Marks(NamedTuple):
    """Places of `_MARKS`, in order: `at` byte, `piece`, `first` byte."""

    at: Ints
    piece: Ints
    first: Bytes


class _Words(NamedTuple):
    """Lines that begin with a word of a label and what belongs after it.

    Attributes:
        at, body, piece: as in `Openings`. word: index in `_ALL_WORDS`. number: of the label, -1 where it has too many
            digits. numbered: whether a number stands between word and colon.
    """

    at: Ints
    body: Ints
    piece: Ints
    word: Codes
    number: Ints
    numbered: Bools


def openings(texts: Texts, *, row: Ints, dialect: Codes, whole: Bools) -> Openings:
    """Lines that open a span.

    Args:
        texts: pieces, those of a trajectory one after another.
        row: [n_pieces] trajectory of each.
        dialect: [n_pieces] index in `DIALECT_NAMES`, `NO_DIALECT`, or `UNDECIDED`: what the text's own lines say.
        whole: [n_pieces] pieces that are one span, of which only the first line is looked at.
    """
    marks = _marks(texts)
    words = _words(texts, marks)
    thinks, resets = _webshop_actions(texts, words)
    dialect = _decided(texts, dialect, marks, words, thinks | resets)
    has = {code: bool((dialect == code).any()) for code in range(len(DIALECT_NAMES))}

    spoken = dialect.take(words.piece)
    is_react = (spoken == _REACT) & ~words.numbered
    is_numbered = (spoken == _NUMBERED) & words.numbered
    is_webshop = (spoken == _WEBSHOP) & ~words.numbered & ((words.word == _ACTION) | (words.word == _OBSERVATION))
    kind = _WORD_KIND.take(words.word)
    kind[thinks & is_webshop] = REASON
    opens = is_react | is_numbered | is_webshop
    if whole.any():
        opens &= ~whole[words.piece] | (words.at == texts.start[words.piece])
    ends = _examples_end(texts, marks)
    if ends is not None:
        opens &= words.at > ends.take(words.piece)
    if has[_NUMBERED]:
        opens = _follow_numbering(opens, is_numbered & ~whole[words.piece], row[words.piece], words.number)
    if has[_WEBSHOP]:
        opens = _drop_reset(opens, resets & is_webshop, kind, words.piece)
    found = Openings(words.at, words.body, words.piece, kind).where(np.flatnonzero(opens))

    further = []
    if has[_PROMPT]:
        further.append(_commands(texts, np.flatnonzero(dialect == _PROMPT)))
    if has[TAGS]:
        further.append(_tags(texts, np.flatnonzero(dialect == TAGS)))
    for more in further:
        kept = ~whole[more.piece] | (more.at == texts.start[more.piece])
        if ends is not None:
            kept &= more.at > ends[more.piece]
        found = found.joined(more.where(kept))
    return found.where(np.argsort(found.at, kind="stable")) if further else found


def _marks(texts: Texts) -> _Marks:
    piece, at = places_of(texts.strings, _MARKS)
    at += texts.start.take(piece)
    return _Marks(at, piece, texts.data.take(at))


def _words(texts: Texts, marks: _Marks) -> _Words:
    data, (at, piece, first) = texts.data, marks
    word = _WORD.take(first)
    end = at + _LENGTH.take(first)
    after = data.take(end)
    path = np.flatnonzero((after == _PATH[0]) & (word == _ACTION))
    if len(path):
        path = path[begins_with(data, end[path], _PATH)]
        word[path] = _ACTION_PATH
        end[path] += len(_PATH)
        after[path] = data[end[path]]

    body = end + 1
    number = np.full(len(at), _UNNUMBERED)
    spaced = np.flatnonzero((after == _SPACE) & (word < len(NUMBERED_WORDS)))
    if len(spaced):
        digits = body[spaced]
        digit = data.take(digits) - _ZERO
        # Most numbers have one digit.
        one = (digit <= 9) & (data.take(digits + 1) == _COLON)
        stop = digits + one
        number[spaced[one]] = digit[one]
        many = np.flatnonzero((digit <= 9) & ~one)
        if len(many):
            stop[many] = skip(data, digits[many], texts.stop[piece[spaced[many]]], _DIGITS)
            many = many[data[stop[many]] == _COLON]
            number[spaced[many]] = _numbers(data, digits[many], stop[many])
        body[spaced] = stop + 1
    labels = (after == _COLON) | (number != _UNNUMBERED)
    labels &= body <= texts.stop.take(piece)
    labels &= (data.take(at - 1) == _LINE_BREAK) | (at == texts.start.take(piece))
    kept = np.flatnonzero(labels)
    number = number.take(kept)
    return _Words(at.take(kept), body.take(kept), piece.take(kept), word.take(kept), number, number != _UNNUMBERED)


def _numbers(data: Bytes, begin: Ints, stop: Ints) -> Ints:
    """The numbers that digits write; -1 where they are more digits than any column could hold."""
    number = np.zeros(len(begin), np.int64)
    n_digits = stop - begin
    number[n_digits > _MOST_DIGITS] = -1
    n_digits[n_digits > _MOST_DIGITS] = 0
    for place in range(n_digits.max(initial=0)):
        more = place < n_digits
        number[more] = number[more] * 10 + (data[begin[more] + place] - _ZERO)
    return number


def _webshop_actions(texts: Texts, words: _Words) -> tuple[Bools, Bools]:
    """Which words open `Action: think[`, and which are the whole line `Action: reset`."""
    data = texts.data
    thinks, resets = np.zeros(len(words.at), bool), np.zeros(len(words.at), bool)
    actions = np.flatnonzero((words.word == _ACTION) & ~words.numbered)
    if not len(actions):
        return thinks, resets
    initial = data.take(words.body[actions] + 1)
    think, reset = actions[initial == ord("t")], actions[initial == ord("r")]
    end = words.body[think] + len(b" think[")
    thinks[think] = begins_with(data, words.body[think], b" think[") & (end <= texts.stop[words.piece[think]])
    reset = reset[begins_with(data, words.body[reset], b" reset")]
    stop = texts.stop[words.piece[reset]]
    end = skip(data, words.body[reset] + len(b" reset"), stop, b" \t")
    end += (end < stop) & (data[end] == ord("\r"))
    resets[reset] = (end == stop) | (end < stop) & (data[end] == _LINE_BREAK)
    return thinks, resets


def _decided(texts: Texts, dialect: Codes, marks: _Marks, words: _Words, webshop: Bools) -> Codes:
    """Dialects, those decided that were not: the first in `DIALECTS` that a line of the text shows."""
    undecided = dialect == UNDECIDED
    if not undecided.any():
        return dialect
    own = np.full(len(dialect), NO_DIALECT, np.int8)
    later = np.flatnonzero(marks.first == _LINE_BREAK)
    piece = np.append(np.arange(len(dialect)), marks.piece[later])
    command = np.append(texts.start, marks.at[later] + 1)
    spaced = (texts.data.take(command) == _COMMAND) & (texts.data.take(command + 1) == _SPACE)
    spaced &= command + 1 < texts.stop[piece]
    shown = {
        "prompt": piece[spaced],
        "react": words.piece[~words.numbered & (words.word != _ACTION_PATH)],
        "webshop": words.piece[webshop],
        "react-numbered": words.piece[words.numbered],
    }
    for name in reversed(DIALECTS):
        own[shown[name]] = DIALECT_NAMES.index(name)
    return np.where(undecided, own, dialect)


def _examples_end(texts: Texts, marks: _Marks) -> Ints | None:
    """[n_pieces] where the last line stands that reads `EXAMPLES_END`, -1 where there is none; None: nowhere."""
    found = np.flatnonzero(marks.first == ord(EXAMPLES_END[0]))
    if not len(found):
        return None
    data, at, piece = texts.data, marks.at[found], marks.piece[found]
    start, stop = texts.start[piece], texts.stop[piece]
    line = skip_back(data, at, start, BLANK)
    end = skip(data, at + len(EXAMPLES_END), stop, BLANK)
    alone = (line == start) | (data[line - 1] == _LINE_BREAK)
    alone &= (end == stop) | (data[end] == _LINE_BREAK)
    ends = np.full(len(texts.start), -1)
    ends[piece[alone]] = line[alone]
    return ends


def _follow_numbering(opens: Bools, numbered: Bools, row: Ints, number: Ints) -> Bools:
    """Keep labels whose number is the current or the next: others are quoted in what the agent or a page says.

    The number runs on through all messages of a trajectory.
    """
    labels = np.flatnonzero(opens & numbered)
    row, number = row[labels], number[labels]
    begins = np.flatnonzero(row[1:] != row[:-1]) + 1
    jump = np.diff(number, prepend=0)
    jump[begins] = number[begins]  # a text that begins at neither 0 nor 1 needs the slow look
    opens = opens.copy()
    for which in np.unique(row[(jump < 0) | (jump > 1)]).tolist():
        mine = slice(*np.searchsorted(row, [which, which + 1]))
        opens[labels[mine]] = in_sequence(number[mine].tolist())
    return opens


def in_sequence(numbers: list[int]) -> list[bool]:
    """Which labels of a numbered text are real, from their numbers in order of appearance.

    A run begins at its first 0 or 1 (or, if it has none, at its first label), and each label repeats the current
    number or goes on to the next.

    >>> in_sequence([1, 1, 7, 1, 2, 2])
    [True, True, False, True, True, True]
    """
    begin = next((index for index, number in enumerate(numbers) if number in (0, 1)), 0)
    keep = [False] * len(numbers)
    current = numbers[begin]
    for index in range(begin, len(numbers)):
        if numbers[index] in (current, current + 1):
            keep[index] = True
            current = numbers[index]
    return keep


def _drop_reset(opens: Bools, resets: Bools, kind: Codes, piece: Ints) -> Bools:
    """`Action: reset` is the harness's, and the page that answers it is the prompt: neither opens a span."""
    found = np.flatnonzero(opens)
    reset, owner = resets[found], piece[found]
    answer = np.zeros(len(found), bool)
    answer[1:] = reset[:-1] & (owner[1:] == owner[:-1]) & (kind[found[1:]] == OBSERVATION)
    opens = opens.copy()
    opens[found[reset | answer]] = False
    return opens


def _commands(texts: Texts, pieces: Ints) -> Openings:
    """Lines with `>`, and after each the first line with text, which is the answer."""
    data = texts.data
    at, piece = _lines(texts, pieces)
    stop = texts.stop[piece]
    filled = skip(data, at, stop, BLANK)
    filled = (filled < stop) & (data[filled] != _LINE_BREAK)
    at, piece, stop = at[filled], piece[filled], stop[filled]
    is_command = data[at] == _COMMAND
    answers = np.zeros(len(at), bool)
    answers[1:] = ~is_command[1:] & is_command[:-1] & (piece[1:] == piece[:-1])
    opens = np.flatnonzero(is_command | answers)
    is_command, piece, at, stop = is_command[opens], piece[opens], at[opens], stop[opens]

    body = at + is_command
    body += is_command & (body < stop) & (data[body] == _SPACE)
    thinks = np.zeros(len(at), np.int64)
    for word in (b"think:", b"Think:", b"ActionPath:"):
        thinks[is_command & (body + len(word) <= stop) & begins_with(data, body, word)] = len(word)
    kind = np.where(thinks > 0, REASON, np.where(is_command, ACT, OBSERVATION)).astype(np.int8)
    return Openings(at, body + thinks, piece, kind)


def _lines(texts: Texts, pieces: Ints) -> tuple[Ints, Ints]:
    """Where each line of some pieces begins, and its piece; what follows a line break at the end is no line."""
    pieces = pieces[texts.start[pieces] < texts.stop[pieces]]
    breaks = np.flatnonzero(texts.data == _LINE_BREAK)
    first = np.searchsorted(breaks, texts.start[pieces])
    n_lines = np.searchsorted(breaks, texts.stop[pieces] - 1) - first + 1
    opening = np.cumsum(n_lines) - n_lines
    # The line break before each line; before a piece's first line there is none of the piece.
    before = np.arange(n_lines.sum()) + np.repeat(first - 1 - opening, n_lines)
    at = np.append(breaks, 0).take(before) + 1
    at[opening] = texts.start[pieces]
    return at, np.repeat(pieces, n_lines)


def _tags(texts: Texts, pieces: Ints) -> Openings:
    """Labels that pieces in tags begin with: readers have cut these, and have told their kinds."""
    found = []
    for piece in pieces.tolist():
        begin, end = int(texts.start[piece]), int(texts.stop[piece])
        label = _TAG.match(texts.data[begin:end].tobytes())
        if label:
            found.append((begin, begin + label.end(), piece))
    at, body, owner = np.array(found, np.int64).reshape(-1, 3).T
    return Openings(at, body, owner, np.full(len(at), NO_KIND, np.int8))
