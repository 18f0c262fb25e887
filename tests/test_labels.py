"""Labels against a plain loop of regular expressions."""

import random
import re
from typing import NamedTuple

import numpy as np
import polars as pl
from hypothesis import example, given
from hypothesis import strategies as st

from sadstream.formats.dialects import LABELS, dialect_of
from sadstream.labels import ACT, DIALECT_NAMES, NO_DIALECT, NO_KIND, OBSERVATION, REASON, UNDECIDED, openings
from sadstream.utf8 import texts_of
from tests.strategies import HEAPS

_REASONS, _RESET = (b"Thought", b"ActionPath"), re.compile(rb"Action: reset[ \t]*\r?$", re.MULTILINE)
_EXAMPLES_END = re.compile(rb"^[ \t\r]*\(END OF EXAMPLES\)[ \t\r]*$", re.MULTILINE)
_LABELLED = ["Thought:", "Action:", "Observation:", "ActionPath:", "Final Answer:", "Action: think[b", "Action: reset"]
_NUMBERED = ["Thought 1:", "Action 1:", "Observation 2:", "ActionPath 0:", "Action 23:", "Thought 3:", "Action 9:"]
_MARKED = ["> go", ">", "> think:", ">Think: b", "> ActionPath:", ">> a", "(END OF EXAMPLES)", "<think>"]
_ALMOST = [
    *(
        "ThoughtPath:",
        "Action :",
        "Action ::",
        "Thought 1a:",
        "Action 12",
        "Observation  1:",
        "Final Answer 1:",
        "Action",
    ),
    *("Observation: think[b", "Observation: reset", "Action 1: think[b", "Thought: reset", "Action: think", "think: b"),
    *("", " ", "\t \r", " > a", "a Thought: b", " (END OF EXAMPLES)", "a(END OF EXAMPLES)", "(END OF EXAMPLES"),
]
_BEGINS, _ENDS = [*_LABELLED, *_NUMBERED, *_MARKED, *_ALMOST], ["", "", " ", "\r", "é", " \t\r", "x", ":", " 1:"]
_LINES = st.lists(
    st.one_of(st.builds("".join, st.tuples(st.sampled_from(_BEGINS), st.sampled_from(_ENDS))), HEAPS), max_size=8
).map("\n".join)


class Opening(NamedTuple):
    at: int
    body: int
    kind: int


def opened(text: bytes, dialect: str | None, whole: bool) -> list[Opening]:
    """What opens a span, but for the order of numbers."""
    if dialect == "prompt":
        found = commands(text)
    elif dialect == "tags":
        found = [Opening(0, m.end(), NO_KIND) for m in [re.match(LABELS["tags"].encode(), text)] if m]
    else:
        pattern = LABELS[dialect].encode() if dialect else b"(?!)"
        found = [Opening(m.start(), m.end(), kind_of(m, dialect)) for m in re.finditer(pattern, text, re.MULTILINE)]
    ends = [m.start() for m in _EXAMPLES_END.finditer(text)]
    found = [o for o in found if o.at > max(ends, default=-1) and (o.at == 0 or not whole)]
    if dialect != "webshop":
        return found
    resets = [bool(_RESET.match(text, o.at)) for o in found]
    answers = [after and o.kind == OBSERVATION for after, o in zip([False, *resets], found, strict=False)]
    return [o for o, reset, answer in zip(found, resets, answers, strict=True) if not reset and not answer]


def kind_of(label: re.Match[bytes], dialect: str | None) -> int:
    thinks = dialect == "webshop" and label.string.startswith(b"Action: think[", label.start())
    if thinks or (label[0].startswith(_REASONS) and dialect != "webshop"):
        return REASON
    return OBSERVATION if label[0].startswith(b"Observation") else ACT


def commands(text: bytes) -> list[Opening]:
    found, at, after_command = [], 0, False
    for line in text.split(b"\n"):
        label = re.match(LABELS["prompt"].encode(), line)
        if label:
            found.append(Opening(at, at + label.end(), REASON if label[0].endswith(b":") else ACT))
        elif line.strip(b" \t\r") and after_command:
            found.append(Opening(at, at, OBSERVATION))
        after_command = bool(label) or (after_command and not line.strip(b" \t\r"))
        at += len(line) + 1
    return found


def followed(numbers: list[int]) -> list[bool]:
    """Which numbers repeat the current one or go on to the next, from the first 0 or 1."""
    begin = next((i for i, n in enumerate(numbers) if n in (0, 1)), 0)
    kept, current = [], numbers[begin] if numbers else 0
    for index, number in enumerate(numbers):
        kept.append(index >= begin and current <= number <= current + 1)
        current = number if kept[-1] else current
    return kept


def number_of(label: bytes) -> int:
    digits = label.split()[1].rstrip(b":")
    return int(digits) if len(digits) <= 18 else -1


PIECES = st.lists(
    st.tuples(
        _LINES, st.booleans(), st.sampled_from([None, None, *DIALECT_NAMES, ""]), st.sampled_from([False] * 3 + [True])
    ),
    min_size=1,
    max_size=5,
)
_STEPS = st.lists(st.sampled_from([0, 0, 0, 1, 1, 1, 1, 2, -1]), max_size=5)
_NUMBERS = st.builds(lambda first, steps: np.cumsum([first, *steps]).clip(0).tolist(), st.integers(0, 3), _STEPS)
NUMBERED_PIECES = st.lists(
    st.tuples(
        _NUMBERS.map(lambda numbers: "\n".join(f"Thought {n}: a" for n in numbers)),
        st.booleans(),
        st.just("react-numbered"),
        st.sampled_from([False] * 5 + [True]),
    ),
    min_size=1,
    max_size=5,
)


def assert_found(drawn: list[tuple[str, bool, str | None, bool]]) -> None:
    strings, together, told, whole = (list(column) for column in zip(*drawn, strict=True))
    dialects = [dialect_of(text) if name is None else name or None for text, name in zip(strings, told, strict=True)]
    row = np.cumsum([not joined for joined in together])
    expected = [(i, *o) for i, text in enumerate(strings) for o in opened(text.encode(), dialects[i], whole[i])]
    quoted = set()
    for which in set(row.tolist()):
        mine = [(p, *o) for p, *o in expected if row[p] == which and dialects[p] == "react-numbered" and not whole[p]]
        numbers = [number_of(strings[p].encode()[at:body]) for p, at, body, _ in mine]
        quoted |= {label for label, kept in zip(mine, followed(numbers), strict=True) if not kept}

    at = texts_of(pl.Series(strings))
    codes = [UNDECIDED if name is None else DIALECT_NAMES.index(name) if name else NO_DIALECT for name in told]
    found = openings(at, row=row, dialect=np.array(codes, np.int8), whole=np.array(whole))
    starts = at.start[found.piece]
    columns = found.piece, found.at - starts, found.body - starts, found.kind
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == [o for o in expected if o not in quoted]


@given(st.one_of(PIECES, PIECES, NUMBERED_PIECES))
@example([("> ", True, None, False), ("go", True, None, False)])
@example([(">", True, None, False), (" go", True, None, False)])
@example([("Action: reset \t\r\nObservation: a\nObservation: b", True, None, False)])
@example([("> a\nthink: b\n> thi", True, "prompt", False), ("nk: c", True, "prompt", False)])
@example([("ActionPath: a", True, None, False)])
@example([("Action: resetx\nObservation: a\nAction: reset \nObservation: b\nAction: think[", True, None, False)])
@example([("Action: reset", True, None, False), ("\r", True, "webshop", False), ("Action: think[", True, None, False)])
@example([("Observation: think[a\nThought: reset\nAction 1: reset", True, "webshop", False)])
@example([("Thought: think[a", True, None, False), ("Action 1: reset", True, None, False)])
@example([("Action: reset\r", True, None, False), ("\nObservation: a", True, "webshop", False)])
@example([("Action:", True, "webshop", False), (" think[a", True, "webshop", False), (" reset", True, None, False)])
@example([("Thought 1: a", True, "react-numbered", False), ("Thought 3: a", False, "react-numbered", False)])
@example([("Thought 1: a", True, "react-numbered", False), ("Thought 7: a", False, "react-numbered", True)])
@example([("> a\n", True, "prompt", False), ("b\n", False, "prompt", False), ("> c\n\n", False, "prompt", False)])
@example([("> a\n(END OF EXAMPLES)\n> b", True, "prompt", False), ("ObservationPath 1: a", True, None, False)])
@example([("Action", True, "react", False), (": a\nThought", True, None, False), (" 1: a", True, None, False)])
@example([("Thought 1", True, None, False), (":", True, "react-numbered", False), ("Thought", True, None, False)])
@example([("Thought 98: a\nAction 98: b\nThought 99: c\nAction 100: d", True, None, False)])
@example([("> a\n \t", True, "prompt", False), ("b", True, None, False), ("> a\n\t\r", True, "prompt", False)])
@example([("> a\n> b\nc\nd\n \t\r\n>Think: e", True, "prompt", False)])
def test_labels_are_those_that_a_loop_of_regular_expressions_finds(drawn):
    assert_found(drawn)


@given(st.integers(0, 2**32 - 1))
def test_labels_of_many_texts_are_those_that_the_loop_finds(seed):
    randomly = random.Random(seed)

    def text():
        if randomly.random() < 0.2:
            return "\n".join(f"Thought {number}: a" for number in randomly.choices(range(4), k=5))
        return "\n".join(randomly.choice(_BEGINS) + randomly.choice(_ENDS) for _ in range(randomly.randrange(8)))

    told = [None, *DIALECT_NAMES, ""]
    assert_found([(text(), randomly.random() < 0.5, randomly.choice(told), randomly.random() < 0.2) for _ in range(30)])
