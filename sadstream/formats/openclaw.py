"""Telemetry of openclaw: events of a chat agent, calls and results by their order."""

from collections.abc import Iterable
from typing import Any

from sadstream.formats.kinds import SessionFormat, SessionRecord
from sadstream.formats.matching import match_by_order
from sadstream.formats.pieces import Piece, call, context, first_words, observation, say, unreadable
from sadstream.formats.verbatim import Fields, fields_of, first_of, json_object, noted, rest, string_of, text_of
from sadstream.frames import Draft


def recognise(record: Any) -> bool:
    """A telemetry event of openclaw: a message, the start of an agent, the start or end of a tool."""
    if not isinstance(record, dict) or not isinstance(record.get("type"), str):
        return False
    match record["type"]:
        case "tool.start" | "tool.end":
            return isinstance(record.get("toolName"), str)
        case "agent.start" | "agent.end":
            return isinstance(record.get("sessionKey"), str)
        case "message.in" | "message.out" | "message.sending":
            return isinstance(record.get("channel"), str)
        case _:
            return False


def read(records: list[SessionRecord]) -> Iterable[Draft]:
    """A trajectory for the main agent, and one for each sub-agent; ends answer starts by name and order."""
    sessions: dict[str, list[SessionRecord]] = {}
    for record in records:
        key = record.value.get("sessionKey")
        sub = isinstance(key, str) and ":subagent:" in key
        sessions.setdefault(key if sub else "", []).append(record)
    main = [e.value["sessionKey"] for e in sessions.get("", ()) if isinstance(e.value.get("sessionKey"), str)]
    for session, events in sessions.items():
        pieces = _event_pieces(events)
        yield Draft(
            record=session or events[0].key,
            pieces=match_by_order(pieces),
            task=first_words(pieces),
            id=session or None,
            parent_id=main[0] if session and main else None,
        )


def _event_pieces(events: list[SessionRecord]) -> list[Piece]:
    pieces: list[Piece] = []
    said: set[tuple[str, str]] = set()
    acted = False
    for number, event in enumerate(events):
        fields = fields_of(event.raw)
        piece = _event_piece(fields, number, acted=acted, said=said)
        acted = acted or piece["kind"] == "act"
        pieces.append(piece)
    return pieces


def _event_piece(fields: Fields, number: int, *, acted: bool, said: set[tuple[str, str]]) -> Piece:
    """An event's piece; a text that the event before gave already renders to nothing."""
    kind = text_of(fields.get("type"))
    if kind == "tool.start":
        piece = call(text_of(fields.get("toolName")), text_of(fields.get("params")), message=number)
        return noted(piece, rest(fields, ("toolName", "params")))
    if kind == "tool.end":
        success = fields.get("success")
        piece = observation(
            text_of(first_of(fields, ("result", "output", "error"))),
            message=number,
            name=text_of(fields.get("toolName")),
            error=None if success is None else bytes(success) == b"false",
        )
        return noted(piece, rest(fields, ("toolName",)))
    name = "prompt" if kind == "agent.start" else "content"
    text = string_of(fields.get(name)) or ""
    author = "agent" if kind in ("message.sending", "message.out") else "user"
    if not text or (author, text) in said:
        # Of the kind that it would have had, so that no step opens after it.
        repeated = "act" if author == "agent" else "observation" if acted else "context"
        return unreadable(repeated, [json_object(fields)], message=number, author=author)
    said.add((author, text))
    if author == "agent":
        piece = say(text, message=number)
    else:
        piece = (observation if acted else context)(text, message=number, author="user")
    return noted(piece, rest(fields, (name,)))


FORMATS = (SessionFormat("openclaw", "telemetry events of openclaw (`tool.start`, `tool.end`)", recognise, read),)
