"""Codex CLI rollouts: a line an event, the conversation in Responses items."""

from collections.abc import Iterator
from typing import Any

import msgspec

from sadstream.formats.kinds import SessionFormat, SessionRecord
from sadstream.formats.pieces import Piece, context, unreadable
from sadstream.formats.responses import instructions, is_item, item_pieces
from sadstream.formats.verbatim import Fields, fields_of, is_object, items_of, json_object, noted, rest, string_of
from sadstream.frames import Draft

_EVENTS = (
    "session_meta",
    "turn_context",
    "response_item",
    "event_msg",
    "compacted",
    "world_state",
    "inter_agent_communication_metadata",
)
_INJECTED = (
    "<environment_context>",
    "<user_instructions>",
    "<permissions instructions>",
    "<turn_aborted>",
    "<subagent_notification>",
    "<skill>",
    "# AGENTS.md instructions",
)
_ENDINGS = {"task_complete": "finished", "turn_complete": "finished", "turn_aborted": "aborted", "error": "error"}


def recognise(record: Any) -> bool:
    """A line with one of the rollouts' types and a payload; of old files the head, a bare item or a state."""
    if not isinstance(record, dict):
        return False
    if "payload" in record:
        return record.get("type") in _EVENTS and isinstance(record["payload"], dict)
    return record.get("record_type") == "state" or _is_old_head(record) or is_item(record)


def _is_old_head(record: dict[str, Any]) -> bool:
    return {"id", "timestamp", "instructions"} <= record.keys() <= {"id", "timestamp", "instructions", "git"}


def read(records: list[SessionRecord]) -> Iterator[Draft]:
    """One trajectory a file. Events for the screen repeat items and are left out.

    The first head is the session's own; those of the sessions it was forked from may follow.
    """
    lines = [fields_of(record.raw) for record in records]
    events = [_event(record.value, line) for record, line in zip(records, lines, strict=True)]
    head = next((payload for kind, payload in events if kind == "session_meta"), {})
    turns: list[msgspec.Raw] = []
    pieces: list[Piece] = instructions(_prompt(head))
    ending = "unknown"
    message = len(pieces)
    for line, (kind, payload) in zip(lines, events, strict=True):
        if kind == "turn_context":
            turns.append(line["payload"])
        elif kind == "event_msg":
            ending = _ENDINGS.get(string_of(payload.get("type")) or "", ending)
        elif kind in ("response_item", "compacted"):
            acted = any(piece["kind"] == "act" for piece in pieces)
            made = (
                [_compacted(payload, message=message)]
                if kind == "compacted"
                else [_unless_injected(p) for p in item_pieces(payload, message=message, acted=acted)]
            )
            pieces += [_dated(made[0], line), *made[1:]]
            message += 1
    asked = (p["text"] for p in pieces if p["author"] == "user" and p["text"] and not _is_injected(p["text"]))
    notes = rest(head, ("id", "base_instructions", "instructions"))
    if turns:
        notes["turn_context"] = msgspec.Raw(msgspec.json.encode(turns))
    native = string_of(head.get("id"))
    yield Draft(
        record=native or "session",
        id=native or None,
        parent_id=string_of(head.get("forked_from_id")) or string_of(head.get("parent_thread_id")),
        format_version=string_of(head.get("cli_version")),
        pieces=pieces,
        task=next(asked, None),
        ending=ending,
        extra=json_object(notes),
    )


def _event(value: dict[str, Any], line: Fields) -> tuple[str, Fields]:
    """An event's type and payload; lines of old files are their own payload."""
    if "payload" in value:
        return value["type"], fields_of(line["payload"])
    if _is_old_head(value):
        return "session_meta", line
    return ("response_item" if "record_type" not in value else "state"), line


def _prompt(head: Fields) -> msgspec.Raw | None:
    base = head.get("base_instructions")
    if is_object(base):
        return fields_of(base).get("text")
    return base if string_of(base) is not None else head.get("instructions")


def _dated(piece: Piece, line: Fields) -> Piece:
    """A piece that notes what the line says beside the item: when it was written."""
    beside = rest(line, ("type", "payload")) if "payload" in line else {}
    return noted(piece, {"line": json_object(beside)}) if beside else piece


def _compacted(payload: Fields, *, message: int) -> Piece:
    """The history was replaced: its summary is new context, what replaced it is kept aside."""
    text = string_of(payload.get("message")) or ""
    aside = [bytes(raw).decode() for raw in items_of(payload.get("replacement_history"))]
    extra = json_object({"type": '"compacted"', **rest(payload, ("message", "replacement_history"))})
    if not text:
        return unreadable("context", aside or ["[]"], message=message, author="user", extra=extra)
    return context(text, message=message, opaque=aside, extra=extra)


def _unless_injected(piece: Piece) -> Piece:
    if piece["kind"] == "observation" and piece["author"] == "user" and _is_injected(piece["text"]):
        return {**piece, "kind": "context", "prefix": ""}
    return piece


def _is_injected(text: str) -> bool:
    return text.lstrip().startswith(_INJECTED)


FORMATS = (SessionFormat("codex", "Codex CLI rollouts (JSON lines)", recognise, read),)
