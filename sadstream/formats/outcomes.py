"""Outcomes and tasks, in the many ways that logs write them."""

import math
import re
from typing import Any

import msgspec

from sadstream.formats.line_pattern import LinePattern

_SUCCESS = ("success", "correct", "result", "won", "resolved", "em")
_REWARD = ("reward", "score")
_GOLD = ("gold", "gt", "answer")
_ANSWER = ("pred", "prediction")
_TASK = ("task", "question", "instruction", "goal")
_TASK_ID = ("task_id", "name", "question_id", "instance_id")
_NAMES = frozenset((*_SUCCESS, *_REWARD, *_GOLD, *_ANSWER, *_TASK, *_TASK_ID, "halted", "error"))
_FINISHED = re.compile(r"Episode finished, reward = ([A-Za-z0-9.+-]*[A-Za-z0-9])")


def as_bool(value: Any) -> bool | None:
    """True or False where a log's value means it: a bool, 0 or 1, "True"; None for anything else.

    >>> as_bool("True"), as_bool(0), as_bool(0.5)
    (True, False, None)
    """
    if isinstance(value, str):
        return {"true": True, "false": False, "1": True, "0": False}.get(value.strip().lower())
    return bool(value) if isinstance(value, bool | int | float) and value in (0, 1) else None


def as_float(value: Any) -> float | None:
    """A number where a log's value means one; True is 1. What JSON cannot write, as infinity, is none.

    >>> as_float("True"), as_float("0.5"), as_float(None)
    (1.0, 0.5, None)
    """
    truth = as_bool(value)
    if truth is not None:
        return float(truth)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_text(value: Any) -> str | None:
    """A string as it is; anything else as JSON; None stays None."""
    if value is None or isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()


def outcome_fields(record: dict[str, Any]) -> dict[str, Any]:
    """`Draft` fields of outcome and task that a record gives, and under `mapped` the names they came from."""
    if _NAMES.isdisjoint(record):
        return {"mapped": set()}
    found: dict[str, Any] = {}
    mapped: set[str] = set()

    def take(field: str, names: tuple[str, ...], convert: Any) -> None:
        for name in names:
            value = convert(record[name]) if name in record else None
            if value is not None:
                found[field] = value
                mapped.add(name)
                return

    take("success", _SUCCESS, as_bool)
    take("reward", _REWARD, as_float)
    take("gold", _GOLD, as_text)
    take("answer", _ANSWER, as_text)
    take("task", _TASK, as_text)
    take("task_id", _TASK_ID, as_text)
    if "halted" in record or "error" in record:
        halted, failed = as_bool(record.get("halted")), bool(record.get("error"))
        found["ending"] = "halted" if halted else "error" if failed else "finished"
    return {**found, "mapped": mapped}


def finish_line(text: str) -> dict[str, Any]:
    """Outcome in FireAct's closing line, `Episode finished, reward = True`; empty where there is none.

    >>> finish_line("Observation: Episode finished, reward = 1")
    {'success': True, 'reward': 1.0, 'ending': 'finished'}
    """
    begin = max(0, len(text) - 500)
    found = _FINISHED.search(text, begin) if text.find("Episode finished", begin) >= 0 else None
    if found is None:
        return {}
    return {"success": as_bool(found[1]), "reward": as_float(found[1]), "ending": "finished"}


def task_in(text: str) -> str | None:
    """The task that a transcript opens with: `Question:`, `Your task is to:` or WebShop's `Instruction:`.

    >>> task_in("You are in a room.\\nYour task is to: cool a mug.\\n> go")
    'cool a mug.'
    """
    found = _TASK_LINE.search(text)
    return next((group.strip() for group in found.groups() if group is not None), None) if found else None


_TASK_LINE = LinePattern(
    r"(?:(?:[0-9]+ )?Question: (.*)|[0-9]+ Claim: (.*)|Your task is to: (.*)|Instruction:[ \t\r]*\n(.*))$"
)


def remaining(fields: dict[str, msgspec.Raw], mapped: set[str]) -> str:
    """JSON object of the fields that were not mapped, each value as the log wrote it."""
    rest = {name: raw for name, raw in fields.items() if name not in mapped}
    return msgspec.json.encode(rest).decode() if rest else "{}"
