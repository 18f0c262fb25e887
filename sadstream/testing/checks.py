"""What must hold of every trajectory that is cut (docs/properties.md), checked one by one and said in words.

Written apart from what cuts, in plain Python, so that one does not repeat the other's mistakes. A check raises
AssertionError, as test runners expect.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from sadstream.formats.chosen import UserFormat
from sadstream.frames import Draft, log_frame, row_trajectory
from sadstream.segment import segment
from sadstream_schemas import Span, Trajectory, decode_json

_KINDS = ("context", "reason", "act", "observation")
_AUTHORS = ("system", "user", "agent", "environment")
_BLANK = " \t\r\n"


def step_numbers(kinds: Sequence[str], calls: Sequence[str | None] | None = None) -> list[int | None]:
    """The step of each span, as contract says it.

    A step opens at the first reason or act after an observation or context, and at a reason after an act; an
    observation that names a call has the step of the last such call before it, else of the first after it.

    Args:
        calls: the `call_id` of each span.

    >>> step_numbers(["context", "reason", "act", "act", "observation", "act"])
    [None, 0, 0, 0, 0, 1]
    """
    numbers: list[int | None] = []
    current, before = -1, "context"
    for kind in kinds:
        if (kind in ("reason", "act") and before in ("context", "observation")) or (kind, before) == ("reason", "act"):
            current += 1
        numbers.append(None if kind == "context" or current < 0 else current)
        before = kind
    if calls is None:
        return numbers
    asked = [(i, call) for i, (kind, call) in enumerate(zip(kinds, calls, strict=True)) if kind == "act" and call]
    answered = list(numbers)
    for index, (kind, call) in enumerate(zip(kinds, calls, strict=True)):
        if kind == "observation" and call:
            same = [i for i, name in asked if name == call]
            earlier, later = [i for i in same if i < index], [i for i in same if i > index]
            if same:
                answered[index] = numbers[earlier[-1] if earlier else later[0]]
    return answered


def check_spans(text: str, spans: Iterable[Span | Mapping[str, Any]]) -> None:
    """Spans that cut a text as they must: in order, without gap or overlap, bodies inside, steps numbered.

    Args:
        spans: records, or rows of the column `spans` of what `segment` gives.
    Raises:
        AssertionError: says which span, and what of it is not so.

    >>> from sadstream import segment
    >>> import polars as pl
    >>> row = segment(pl.LazyFrame({"text": ["Thought: look\\n"]})).collect().row(0, named=True)
    >>> check_spans(row["text"], row["spans"])
    """
    rows = [msgspec.structs.asdict(s) if isinstance(s, Span) else dict(s) for s in spans]
    stop = 0
    for number, row in enumerate(rows):
        where = f"span {number} ({row['kind']} {row['start']}-{row['stop']})"
        _check_one(text, row, where)
        _that(row["start"] == stop, f"{where}: the span before it stops at {stop}")
        stop = row["stop"]
    _that(stop == len(text), f"the last span stops at {stop}, and the text has {len(text)} code points")
    wanted = step_numbers([r["kind"] for r in rows], [r.get("call_id") for r in rows])
    for number, (row, step) in enumerate(zip(rows, wanted, strict=True)):
        _that(row["step"] == step, f"span {number} ({row['kind']}): step {row['step']}, and {step} is right")


def _check_one(text: str, row: dict[str, Any], where: str) -> None:
    start, stop, body_start, body_stop = (row[name] for name in ("start", "stop", "body_start", "body_stop"))
    _that(row["kind"] in _KINDS, f"{where}: the kind is none of {', '.join(_KINDS)}")
    _that(row["author"] in _AUTHORS, f"{where}: author {row['author']!r} is none of {', '.join(_AUTHORS)}")
    _that(start < stop or bool(row.get("opaque")), f"{where}: without text, and nothing unreadable in it either")
    _that(
        start <= body_start <= body_stop <= stop,
        f"{where}: its body, {body_start}-{body_stop}, does not lie inside",
    )
    body = text[body_start:body_stop]
    _that(body == body.strip(_BLANK), f"{where}: its body begins or ends with blanks: {body[:40]!r}")
    for name in ("logged", "arguments"):
        first, last = row.get(f"{name}_start"), row.get(f"{name}_stop")
        if first is None and last is None:
            continue
        if first is None or last is None:
            raise AssertionError(f"{where}: of {name}_start and {name}_stop one is missing")
        _that(start <= first <= last <= stop, f"{where}: {name}, {first}-{last}, does not lie inside")


def check_trajectory(trajectory: Trajectory) -> None:
    """A trajectory whose spans are as they must be, and that comes back from JSON as it is.

    Raises:
        AssertionError: says what is not so.
    """
    check_spans(trajectory.text, trajectory.spans)
    try:
        again = decode_json(msgspec.json.encode(trajectory), Trajectory)
    except msgspec.DecodeError as error:
        raise AssertionError(f"trajectory {trajectory.id}: does not come back from JSON: {error}") from error
    _that(again == trajectory, f"trajectory {trajectory.id}: comes back from JSON as another")


def check_format(function: UserFormat, records: Sequence[Any]) -> list[Trajectory]:
    """A function from a record to drafts that does what `--format module:function` wants of it.

    It gives drafts, the same ones each time, and leaves its record alone; each draft is cut into spans as
    `check_spans` wants them, whatever is cut beside it; and every piece's text stands in the trajectory.

    Args:
        records: JSON values, or whole texts, as your logs hold them.
    Returns:
        The trajectories, for checks of your own.
    Raises:
        AssertionError: says which record, and what of it is not so.
    """
    drafts = [draft for number, record in enumerate(records) for draft in _drafts(function, record, number)]
    found = _cut(drafts)
    for draft, trajectory in zip(drafts, found, strict=True):
        where = f"record {draft.record}"
        try:
            check_trajectory(trajectory)
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from error
        _that(_cut([draft]) == [trajectory], f"{where}: is cut otherwise beside other records")
        position = 0
        for piece in draft.pieces or ():
            position = trajectory.text.find(piece["text"], position)
            _that(position >= 0, f"{where}: the text of a piece is lost: {piece['text'][:40]!r}")
            position += len(piece["text"])
    return found


def _drafts(function: UserFormat, record: Any, number: int) -> list[Draft]:
    before = copy.deepcopy(record)
    drafts = list(function(record))
    for draft in drafts:
        _that(isinstance(draft, Draft), f"record {number}: gave {type(draft).__name__}, and sadstream.Draft is wanted")
    _that(record == before, f"record {number}: the function changed it")
    _that(list(function(record)) == drafts, f"record {number}: read a second time it gives other drafts")
    for place, draft in enumerate(drafts):
        draft.record = f"{number}.{draft.record or place}"
    return drafts


def _cut(drafts: list[Draft]) -> list[Trajectory]:
    return [row_trajectory(row) for row in segment(log_frame(drafts).lazy()).collect().iter_rows(named=True)]


def _that(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
