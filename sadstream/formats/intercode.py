"""InterCode results: a run as parallel arrays of thoughts, actions, observations, rewards."""

from collections.abc import Iterable
from typing import Any

import msgspec

from sadstream.formats.kinds import RecordFormat
from sadstream.formats.outcomes import as_float, as_text
from sadstream.formats.pieces import Piece, context, labelled, unreadable
from sadstream.formats.verbatim import Fields, fields_of, items_of, json_object, noted, rest, text_of
from sadstream.frames import Draft

# Arrays that hold what the agent thinks: of a plan it wrote, `steps` has the line that each action carries out.
_THOUGHTS = ("steps", "thoughts")
_ROLES = (*_THOUGHTS, "actions", "observations")


def is_run(record: Any) -> bool:
    """A record with a `turn_history` of arrays."""
    if not isinstance(record, dict) or not isinstance(record.get("turn_history"), dict):
        return False
    return isinstance(record["turn_history"].get("actions"), list)


def recognise(record: Any) -> bool:
    """A run, or `logs` of runs keyed by index."""
    if is_run(record):
        return True
    logs = record.get("logs") if isinstance(record, dict) else None
    return isinstance(logs, dict) and bool(logs) and all(is_run(run) for run in logs.values())


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """A trajectory a run; what stands beside `logs` is kept with each."""
    if is_run(record):
        yield _read_run(record, fields_of(raw), {})
        return
    fields = fields_of(raw)
    beside = rest(fields, ("logs",))
    for key, run in fields_of(fields["logs"]).items():
        draft = _read_run(record["logs"][key], fields_of(run), beside)
        draft.record = key
        yield draft


def _read_run(run: dict[str, Any], fields: Fields, beside: Fields) -> Draft:
    history = fields_of(fields["turn_history"])
    arrays = {name: items_of(raw) for name, raw in history.items() if isinstance(run["turn_history"][name], list)}
    query = as_text(run.get("query"))
    pieces = [] if query is None else [context(query, message=0)]
    syntax = {"ic_bash": "shell", "ic_python": "code"}.get(text_of(fields.get("environment")), "text")
    for turn in range(max((len(items) for items in arrays.values()), default=0)):
        pieces += _turn_pieces({name: items[turn] for name, items in arrays.items() if turn < len(items)}, turn, syntax)
    summary = run["summary"] if isinstance(run.get("summary"), dict) else {}
    reward = as_float(summary.get("max_reward"))
    solved = None if reward is None else reward >= 1
    taken, limit = as_float(summary.get("turns_taken")), as_float(summary.get("turns_max"))
    ran_out = taken is not None and limit is not None and taken >= limit
    left = rest(fields, ("turn_history", "query", "task_id"))
    if rest(history, arrays):
        left["turn_history"] = msgspec.Raw(json_object(rest(history, arrays)).encode())
    return Draft(
        pieces=pieces,
        task=query,
        task_id=as_text(run.get("task_id")),
        reward=reward,
        success=solved,
        ending="finished" if solved else "halted" if ran_out else "unknown",
        extra=json_object({**beside, **left}),
    )


def _turn_pieces(items: Fields, turn: int, syntax: str) -> list[Piece]:
    """Pieces of one turn; its reward and the like go with what came back, else with what was done."""
    agent, world = 2 * turn + 1, 2 * turn + 2
    pieces = [_piece("reason", "Thought: ", items[name], agent) for name in _THOUGHTS if name in items]
    if "actions" in items:
        action = _piece("act", "Action: ", items["actions"], agent)
        pieces.append({**action, "syntax": "text" if action["text"].startswith("execute[") else syntax})
    if "observations" in items:
        pieces.append(_piece("observation", "Observation: ", items["observations"], world))
    notes = rest(items, _ROLES)
    if not pieces:
        return [unreadable("context", [json_object(notes)], message=world, author="environment")]
    pieces[-1] = noted(pieces[-1], notes)
    return pieces


def _piece(kind: str, label: str, raw: msgspec.Raw, message: int) -> Piece:
    """A value that is no string stands as the log wrote it, and is flagged."""
    author = "environment" if kind == "observation" else "agent"
    flags = [] if bytes(raw).startswith(b'"') else ["json"]
    return labelled(kind, label, text_of(raw), message=message, author=author, flags=flags)


FORMATS = (RecordFormat("intercode", "InterCode results: `turn_history` of parallel arrays", recognise, read),)
