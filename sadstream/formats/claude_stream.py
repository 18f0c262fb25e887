"""What `claude --output-format stream-json` and the Claude Agent SDK write: a message an event, a result at the end."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from sadstream.formats.anthropic import first_request, has_acted, is_call, message_pieces
from sadstream.formats.kinds import SessionFormat, SessionRecord
from sadstream.formats.pieces import Piece
from sadstream.formats.verbatim import (
    Fields,
    Json,
    fields_of,
    items_of,
    json_array,
    json_object,
    object_of,
    rest,
    string_of,
    text_of,
)
from sadstream.frames import Draft

_ENDINGS = {"success": "finished", "error_max_turns": "halted", "error_max_budget_usd": "halted"}


def recognise(record: Any) -> bool:
    """An event with `session_id`: a message, what opens and closes the session, or a part of a message."""
    if not isinstance(record, dict) or not isinstance(record.get("session_id"), str):
        return False
    kind = record.get("type")
    if kind in ("assistant", "user"):
        message = record.get("message")
        return isinstance(message, dict) and isinstance(message.get("content"), str | list)
    return (kind in ("system", "result") and isinstance(record.get("subtype"), str)) or (
        kind == "stream_event" and "event" in record
    )


def read(records: list[SessionRecord]) -> Iterator[Draft]:
    """One trajectory a session, and one a sub-agent, told by the call that began it.

    Parts of messages (`stream_event`) repeat what the messages say: they are counted in `extra`.
    """
    runs: dict[tuple[str, str], list[Fields]] = {}
    for record in records:
        fields = fields_of(record.raw)
        session = string_of(fields.get("session_id")) or ""
        runs.setdefault((session, string_of(fields.get("parent_tool_use_id")) or ""), []).append(fields)
    for (session, agent), events in runs.items():
        yield _draft(session, agent, events)


def _draft(session: str, agent: str, events: Sequence[Fields]) -> Draft:
    pieces: list[Piece] = []
    for index, members in enumerate(_messages(events)):
        calls = any(is_call(object_of(b)) for e in members for b in items_of(object_of(e["message"]).get("content")))
        acted = has_acted(pieces)
        for event in members:
            about = rest(event, ("type", "message", "session_id", "parent_tool_use_id"))
            note = {"event": msgspec.Raw(json_object(about).encode())} if about else {}
            pieces += message_pieces(fields_of(event["message"]), message=index, acted=acted, calls=calls, notes=note)
    notes: dict[str, Json | str] = {}
    parts = [event for event in events if text_of(event.get("type")) == "stream_event"]
    if parts:
        notes["n_stream_events"] = str(len(parts))
    others = [e for e in events if text_of(e.get("type")) in ("system", "result")]
    if others:
        notes["events"] = json_array(json_object(rest(e, ("session_id", "result"))) for e in others)
    closing = next((e for e in reversed(others) if text_of(e.get("type")) == "result"), {})
    ending = _ENDINGS.get(text_of(closing.get("subtype")), "error" if closing else "unknown")
    failed = bytes(closing.get("is_error", b"")) == b"true"
    name = f"{session}/{agent}" if agent else session
    return Draft(
        record=name,
        id=name,
        parent_id=session if agent else None,
        pieces=pieces,
        task=first_request(p for p in pieces if p["kind"] == "context"),
        answer=string_of(closing.get("result")),
        ending="error" if failed and ending == "finished" else ending,
        extra=json_object(notes),
    )


def _messages(events: Sequence[Fields]) -> list[list[Fields]]:
    """Events of one message together, where the first of them stands; an event holds one of its blocks."""
    messages: dict[str, list[Fields]] = {}
    for index, event in enumerate(events):
        if text_of(event.get("type")) in ("assistant", "user"):
            native = string_of(object_of(event.get("message")).get("id"))
            messages.setdefault(native or f" {index}", []).append(event)
    return list(messages.values())


FORMATS = (
    SessionFormat(
        "claude-stream", "events of `claude --output-format stream-json` and the Claude Agent SDK", recognise, read
    ),
)
