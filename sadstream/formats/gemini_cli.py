"""Chat recordings of Gemini CLI: a session in one object, or a log of records that is replayed."""

from collections.abc import Iterable
from typing import Any

from sadstream.formats.gemini import Content, content_pieces
from sadstream.formats.kinds import RecordFormat, SessionFormat, SessionRecord
from sadstream.formats.matching import match_by_order
from sadstream.formats.pieces import Piece, call, context, first_words, observation, say, thought, unreadable
from sadstream.formats.verbatim import (
    Fields,
    Json,
    fields_of,
    is_object,
    items_of,
    json_object,
    noted,
    rest,
    string_of,
    text_of,
)
from sadstream.frames import Draft

_AGENT = ("gemini", "model")
_TYPES = (*_AGENT, "user", "info", "error", "warning")
_HEADER = {"sessionId", "projectHash"}


def recognise(record: Any) -> bool:
    """A session's id and `messages` of the types that Gemini CLI writes."""
    if not isinstance(record, dict) or not isinstance(record.get("sessionId"), str):
        return False
    messages = record.get("messages")
    return isinstance(messages, list) and bool(messages) and all(_is_message(message) for message in messages)


def recognise_line(record: Any) -> bool:
    """A recording's header, a message with an id, or a change to what was recorded before."""
    if not isinstance(record, dict):
        return False
    if "$set" in record or isinstance(record.get("$rewindTo"), str):
        return len(record) == 1
    if record.keys() >= _HEADER:
        return "messages" not in record or recognise(record) or record["messages"] == []
    return isinstance(record.get("id"), str) and "timestamp" in record and _is_message(record)


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and message.get("type") in _TYPES
        and isinstance(message.get("content"), str | list | None)
        and message.keys().isdisjoint(("message", "uuid", "role"))
    )


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory; what the tool tells its user (`info`, `error`) the model never saw: it is kept in `extra`."""
    fields = fields_of(raw)
    yield _draft(rest(fields, ("messages",)), items_of(fields["messages"]))


def read_lines(records: list[SessionRecord]) -> Iterable[Draft]:
    """A trajectory a header: a message written again replaces the one before, a rewind takes messages away.

    A compression of the context (`$set` with `messages`) adds what is new in it; what the agent did before stays.
    """
    sessions: list[tuple[str, Fields, dict[str, Json]]] = []
    for record in records:
        fields = fields_of(record.raw)
        is_header = record.value.keys() >= _HEADER
        if is_header or not sessions:
            sessions.append((record.key, rest(fields, ("messages",)) if is_header else {}, {}))
        _, about, messages = sessions[-1]
        if is_header:
            _add(messages, items_of(fields.get("messages")))
        elif "$set" in fields:
            change = fields_of(fields["$set"]) if is_object(fields["$set"]) else {}
            about.update(rest(change, ("messages",)))
            _add(messages, items_of(change.get("messages")))
        elif "$rewindTo" in fields:
            kept = list(messages)
            target = text_of(fields["$rewindTo"])
            for key in kept[kept.index(target) if target in messages else 0 :]:
                del messages[key]
        else:
            messages[text_of(fields["id"])] = record.raw
    for key, about, messages in sessions:
        if messages:
            draft = _draft(about, list(messages.values()))
            draft.record = key
            yield draft


def _add(messages: dict[str, Json], more: Iterable[Json]) -> None:
    for number, message in enumerate(more):
        messages.setdefault(text_of(fields_of(message).get("id")) or f"#{number}", message)


def _draft(about: Fields, messages: list[Any]) -> Draft:
    pieces: list[Piece] = []
    events = []
    number = 0
    for raw in messages:
        fields = fields_of(raw)
        kind = text_of(fields.get("type"))
        if kind not in _AGENT and kind != "user":
            events.append(bytes(raw).decode())
            continue
        acted = any(piece["kind"] == "act" for piece in pieces)
        made = _agent_pieces(fields, number) if kind in _AGENT else _user_pieces(fields, number, acted=acted)
        made[0] = noted(made[0], rest(fields, ("type", "content", "thoughts", "toolCalls")))
        pieces += made
        number += 1
    beside: dict[str, Json | str] = dict(rest(about, ("sessionId",)))
    if events:
        beside["events"] = f"[{','.join(events)}]"
    return Draft(
        id=text_of(about.get("sessionId")) or None,
        task=first_words(pieces),
        pieces=match_by_order(pieces),
        extra=json_object(beside),
    )


def _user_pieces(fields: Fields, number: int, *, acted: bool) -> list[Piece]:
    text = string_of(fields.get("content"))
    if text is not None:
        return [(observation if acted else context)(text, message=number, author="user")]
    made = content_pieces(Content("user", items_of(fields.get("content")), {}), message=number, acted=acted)
    return made or [unreadable("context", ["{}"], message=number, author="user")]


def _agent_pieces(fields: Fields, number: int) -> list[Piece]:
    """Thoughts, words, then each call with its result: the tools ran after the model had ended its turn."""
    pieces = [_thought(raw, number) for raw in items_of(fields.get("thoughts")) if is_object(raw)]
    calls = [fields_of(raw) for raw in items_of(fields.get("toolCalls")) if is_object(raw)]
    text = string_of(fields.get("content"))
    if text:
        pieces.append((thought if calls else say)(text, message=number))
    elif text is None:
        parts = Content("model", items_of(fields.get("content")), {})
        made = content_pieces(parts, message=number, acted=True)
        if calls:
            made = [thought(p["text"], message=number) if p["kind"] == "act" and not p.get("name") else p for p in made]
        pieces += made
    for asked in calls:
        piece = call(
            text_of(asked.get("name")),
            text_of(asked.get("args")),
            message=number,
            call_id=string_of(asked.get("id")),
        )
        pieces.append(noted(piece, rest(asked, ("name", "args", "id", "result"))))
    for asked in calls:
        pieces += _result(asked, number)
    return pieces or [unreadable("reason", ["{}"], message=number, author="agent")]


def _thought(raw: Json, number: int) -> Piece:
    """A summary of what the model thought, written as the model does: its subject in bold above."""
    fields = fields_of(raw)
    subject, text = text_of(fields.get("subject")), text_of(fields.get("description"))
    whole = f"**{subject}**\n\n{text}" if subject and text else subject or text
    if not whole:
        return unreadable("reason", [bytes(raw).decode()], message=number, author="agent")
    return noted(thought(whole, message=number, hidden=True), {"thought": json_object(fields)})


def _result(asked: Fields, number: int) -> list[Piece]:
    failed = text_of(asked.get("status")) == "error" or None
    call_id, raw = string_of(asked.get("id")), asked.get("result")
    parts = items_of(raw)
    if parts and all(map(is_object, parts)):
        made = content_pieces(Content("function", parts, {}), message=number, acted=True)
        return [{**p, "call_id": call_id or p.get("call_id"), "error": failed or p.get("error")} for p in made]
    if raw is None or bytes(raw) == b"null":
        return []
    return [observation(text_of(raw), message=number, name=text_of(asked.get("name")), call_id=call_id, error=failed)]


FORMATS = (
    RecordFormat(
        "gemini-cli", "chat recordings of Gemini CLI, a session a file (`toolCalls`, `thoughts`)", recognise, read
    ),
    SessionFormat(
        "gemini-cli-lines", "chat recordings of Gemini CLI as lines (`$set`, `$rewindTo`)", recognise_line, read_lines
    ),
)
