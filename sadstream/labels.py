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
    among,
    begins_with,
    eight_bytes,
    line_starts,
    skip,
)

Codes = np.ndarray[Any, np.dtype[np.int8]]
_Eights = np.ndarray[Any, np.dtype[np.uint64]]

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
_LINE_BREAK = 10
_COLON, _SPACE, _COMMAND = b": >"

_ALL_WORDS = tuple(dict.fromkeys((*NUMBERED_WORDS, *WORDS["react"])))
_ACTION, _OBSERVATION, _ACTION_PATH = (_ALL_WORDS.index(word) for word in ("Action", "Observation", "ActionPath"))
_WORD_KIND = np.array(
    [{"Thought": REASON, "ActionPath": REASON, "Observation": OBSERVATION}.get(w, ACT) for w in _ALL_WORDS], np.int8
)
_WORD_LENGTH = np.array([len(word) for word in _ALL_WORDS])
_BY_INITIAL = np.zeros(256, np.int64)
for _code, _word in reversed(list(enumerate(_ALL_WORDS))):
    _BY_INITIAL[ord(_word[0])] = _code


def _eight_of_words(begin: int) -> tuple[_Eights, _Eights]:
    """Of each word the eight bytes from `begin` on, and a mask of those it has."""
    parts = [word.encode()[begin : begin + 8] for word in _ALL_WORDS]
    masks = [(1 << 8 * len(part)) - 1 for part in parts]
    return np.array([int.from_bytes(part, "little") for part in parts], np.uint64), np.array(masks, np.uint64)


_HEAD, _HEAD_MASK = _eight_of_words(0)
_TAIL, _TAIL_MASK = _eight_of_words(8)
_TAG = re.compile(LABELS["tags"].encode(), re.MULTILINE)

# What the first byte of a line says about it.
_MAY_BE_WORD, _MAY_BE_COMMAND, _MAY_END_EXAMPLES = 1, 2, 4
_LOOK = np.zeros(256, np.uint8)
_LOOK[[ord(word[0]) for word in _ALL_WORDS]] = _MAY_BE_WORD
_LOOK[_COMMAND] = _MAY_BE_COMMAND
_LOOK[list(BLANK + b"(")] = _MAY_END_EXAMPLES


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


class _Lines(NamedTuple):
    """All lines: `start` byte, `piece`, `first` byte (a line break where the line is empty)."""

    start: Ints
    piece: Ints
    first: Bytes


class _Words(NamedTuple):
    """Lines that begin with a word of a label and what belongs after it.

    Attributes:
        at, body, piece: as in `Openings`. word: index in `_ALL_WORDS`. number: of the label, -1 where it is none that a
            column could hold. numbered: whether a number stands between word and colon.
    """

    at: Ints
    body: Ints
    piece: Ints
    word: Ints
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
    lines = _lines(texts)
    look = _LOOK[lines.first]
    words = _words(texts, lines, np.flatnonzero(look == _MAY_BE_WORD))
    commands = np.flatnonzero(look == _MAY_BE_COMMAND)
    thinks, resets = _webshop_actions(texts, words)
    dialect = _decided(texts, dialect, lines, words, thinks | resets, commands)
    has = {code: bool((dialect == code).any()) for code in range(len(DIALECT_NAMES))}

    spoken = dialect[words.piece]
    is_react = (spoken == _REACT) & ~words.numbered
    is_numbered = (spoken == _NUMBERED) & words.numbered
    is_webshop = (spoken == _WEBSHOP) & ~words.numbered & ((words.word == _ACTION) | (words.word == _OBSERVATION))
    kind = _WORD_KIND[words.word]
    kind[thinks & is_webshop] = REASON
    opens = is_react | is_numbered | is_webshop
    opens &= ~whole[words.piece] | (words.at == texts.start[words.piece])
    ends = _examples_end(texts, lines, np.flatnonzero(look == _MAY_END_EXAMPLES))
    if ends is not None:
        opens &= words.at > ends[words.piece]
    if has[_NUMBERED]:
        opens = _follow_numbering(opens, is_numbered & ~whole[words.piece], row[words.piece], words.number)
    if has[_WEBSHOP]:
        opens = _drop_reset(opens, resets & is_webshop, kind, words.piece)
    found = Openings(words.at, words.body, words.piece, kind).where(np.flatnonzero(opens))

    further = []
    if has[_PROMPT]:
        further.append(_commands(texts, lines, dialect))
    if has[TAGS]:
        further.append(_tags(texts, np.flatnonzero(dialect == TAGS), whole))
    for more in further:
        kept = ~whole[more.piece] | (more.at == texts.start[more.piece])
        if ends is not None:
            kept &= more.at > ends[more.piece]
        found = found.joined(more.where(kept))
    return found.where(np.argsort(found.at, kind="stable")) if further else found


def _lines(texts: Texts) -> _Lines:
    start = line_starts(texts)
    first = np.searchsorted(start, texts.start)
    return _Lines(start, np.repeat(np.arange(len(first)), np.diff(first, append=len(start))), texts.data[start])


def _words(texts: Texts, lines: _Lines, which: Ints) -> _Words:
    data = texts.data
    at = lines.start[which]
    head = eight_bytes(data, at)
    word = _BY_INITIAL[lines.first[which]]
    # One word begins like another: the byte after the shorter one tells them apart.
    word[(word == _ACTION) & (head >> np.uint64(8 * len("Action")) & np.uint64(255) == ord("P"))] = _ACTION_PATH
    known = head & _HEAD_MASK[word] == _HEAD[word]
    long = np.flatnonzero(known & (_WORD_LENGTH[word] > 8))
    known[long] = eight_bytes(data, at[long] + 8) & _TAIL_MASK[word[long]] == _TAIL[word[long]]
    kept = np.flatnonzero(known)
    at, word, piece = at[kept], word[kept], lines.piece[which[kept]]
    end = at + _WORD_LENGTH[word]
    after = data[end]
    body = np.where(after == _COLON, end + 1, 0)
    number = np.full(len(at), -1)
    spaced = np.flatnonzero((after == _SPACE) & (word < len(NUMBERED_WORDS)))
    numbered = np.zeros(len(at), bool)
    if len(spaced):
        digits = end[spaced] + 1
        stop = skip(data, digits, texts.stop[piece[spaced]], _DIGITS)
        closed = (stop > digits) & (data[stop] == _COLON)
        spaced, digits, stop = spaced[closed], digits[closed], stop[closed]
        numbered[spaced] = True
        number[spaced] = _numbers(data, digits, stop)
        body[spaced] = stop + 1
    whole = np.flatnonzero(body)
    return _Words(at[whole], body[whole], piece[whole], word[whole], number[whole], numbered[whole])


def _numbers(data: Bytes, begin: Ints, stop: Ints) -> Ints:
    """The numbers that digits write; -1 where it is too large for a column."""
    number = np.zeros(len(begin), np.int64)
    n_digits = stop - begin
    for place in range(min(18, n_digits.max(initial=0))):
        more = place < n_digits
        number[more] = number[more] * 10 + (data[begin[more] + place] - ord("0"))
    for long in np.flatnonzero(n_digits > 18).tolist():
        digits = data[begin[long] : stop[long]].tobytes().lstrip(b"0")
        value = int(digits or b"0") if len(digits) < 20 else 2**63
        number[long] = value if value < 2**63 else -1
    return number


def _webshop_actions(texts: Texts, words: _Words) -> tuple[Bools, Bools]:
    """Which words open `Action: think[`, and which are the whole line `Action: reset`."""
    thinks, resets = np.zeros(len(words.at), bool), np.zeros(len(words.at), bool)
    actions = np.flatnonzero((words.word == _ACTION) & ~words.numbered)
    initial = texts.data[words.body[actions] + 1]
    actions = actions[(initial == ord("t")) | (initial == ord("r"))]
    thinks[actions] = begins_with(texts.data, words.body[actions], b" think[")
    reset = actions[begins_with(texts.data, words.body[actions], b" reset")]
    stop = texts.stop[words.piece[reset]]
    end = skip(texts.data, words.body[reset] + len(b" reset"), stop, b" \t")
    end += texts.data[end] == ord("\r")
    resets[reset] = texts.data[end] == _LINE_BREAK
    return thinks, resets


def _decided(texts: Texts, dialect: Codes, lines: _Lines, words: _Words, webshop: Bools, commands: Ints) -> Codes:
    """Dialects, those decided that were not: the first in `DIALECTS` that a line of the text shows."""
    undecided = dialect == UNDECIDED
    if not undecided.any():
        return dialect
    own = np.full(len(dialect), NO_DIALECT, np.int8)
    spaced = commands[texts.data[lines.start[commands] + 1] == _SPACE]
    shown = {
        "prompt": lines.piece[spaced],
        "react": words.piece[~words.numbered & (words.word != _ACTION_PATH)],
        "webshop": words.piece[webshop],
        "react-numbered": words.piece[words.numbered],
    }
    for name in reversed(DIALECTS):
        own[shown[name]] = DIALECT_NAMES.index(name)
    return np.where(undecided, own, dialect)


def _examples_end(texts: Texts, lines: _Lines, which: Ints) -> Ints | None:
    """[n_pieces] where the last line stands that reads `EXAMPLES_END`, -1 where there is none; None: nowhere."""
    mark = EXAMPLES_END.encode()
    data, stop = texts.data, texts.stop[lines.piece[which]]
    at = skip(data, lines.start[which], stop, BLANK)
    found = np.flatnonzero(begins_with(data, at, mark))
    if not len(found):
        return None
    end = skip(data, at[found] + len(mark), stop[found], BLANK)
    found = found[data[end] == _LINE_BREAK]
    ends = np.full(len(texts.start), -1)
    ends[lines.piece[which[found]]] = lines.start[which[found]]
    return ends


def _follow_numbering(opens: Bools, numbered: Bools, row: Ints, number: Ints) -> Bools:
    """Keep labels whose number is the current or the next: others are quoted in what the agent or a page says.

    The number runs on through all messages of a trajectory.
    """
    labels = np.flatnonzero(opens & numbered)
    row, number = row[labels], number[labels]
    begins = np.append(True, row[1:] != row[:-1])[: len(row)]
    jump = np.diff(number, prepend=0)
    jump[begins] = np.where(number[begins] == 1, 1, 2)  # a text that does not begin at 1 needs the slow look
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


def _commands(texts: Texts, lines: _Lines, dialect: Codes) -> Openings:
    """Lines with `>`, and after each the first line with text, which is the answer."""
    data = texts.data
    which = np.flatnonzero(dialect[lines.piece] == _PROMPT)
    first = lines.first[which]
    hollow = np.flatnonzero(among(BLANK)[first])
    at = skip(data, lines.start[which[hollow]], texts.stop[lines.piece[which[hollow]]], BLANK)
    filled = first != _LINE_BREAK
    filled[hollow] = data[at] != _LINE_BREAK
    which = which[filled]
    is_command = lines.first[which] == _COMMAND
    piece = lines.piece[which]
    answers = np.zeros(len(which), bool)
    answers[1:] = ~is_command[1:] & is_command[:-1] & (piece[1:] == piece[:-1])
    opens = np.flatnonzero(is_command | answers)
    is_command, piece, at = is_command[opens], piece[opens], lines.start[which[opens]]

    body = at + is_command
    body += is_command & (data[body] == _SPACE)
    thinks = np.zeros(len(at), np.int64)
    for word in (b"think:", b"Think:", b"ActionPath:"):
        thinks[is_command & begins_with(data, body, word)] = len(word)
    kind = np.where(thinks > 0, REASON, np.where(is_command, ACT, OBSERVATION)).astype(np.int8)
    return Openings(at, body + thinks, piece, kind)


def _tags(texts: Texts, pieces: Ints, whole: Bools) -> Openings:
    """Labels of pieces in tags, which readers have cut; so they are few."""
    found = []
    for piece in pieces.tolist():
        begin, end = int(texts.start[piece]), int(texts.stop[piece])
        text = texts.data[begin:end].tobytes()
        labels = filter(None, [_TAG.match(text)]) if whole[piece] else _TAG.finditer(text)
        found += [(begin + m.start(), begin + m.end(), piece, _kind_of_tag(m[0])) for m in labels]
    at, body, owner, kind = np.array(found, np.int64).reshape(-1, 4).T
    return Openings(at, body, owner, kind.astype(np.int8))


def _kind_of_tag(label: bytes) -> int:
    if label.startswith(b"Thought"):
        return REASON
    return OBSERVATION if label.startswith(b"Observation") else ACT
