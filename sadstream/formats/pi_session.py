"""Sessions of the pi coding agent: a line an event, or a single message."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from sadstream.formats.anthropic import content_text, has_acted
from sadstream.formats.kinds import SessionFormat, SessionRecord
from sadstream.formats.pieces import Piece, call, context, observation, say, thought, unreadable
from sadstream.formats.trees import longest_branch
from sadstream.formats.verbatim import (
    Fields,
    fields_of,
    is_object,
    items_of,
    json_array,
    json_object,
    noted,
    rest,
    string_of,
    text_of,
)
from sadstream.frames import Draft

_ROLES = ("user", "assistant", "toolResult")
_ENDINGS = {"stop": "finished", "length": "truncated", "aborted": "aborted", "error": "error"}


class _Line(NamedTuple):
    kind: str
    fields: Fields
    message: Fields


def recognise(record: Any) -> bool:
    """A line of a session, or a message of the agent with the API it was got from."""
    if not isinstance(record, dict):
        return False
    if record.get("role") == "assistant":
        return isinstance(record.get("content"), list) and {"api", "provider", "stopReason"} <= record.keys()
    kind = record.get("type")
    if kind == "message":
        message = record.get("message")
        return (
            isinstance(message, dict)
            and message.get("role") in (*_ROLES, "bashExecution", "custom", "hookMessage")
            and {"sessionId", "uuid"}.isdisjoint(record)
            and "timestamp" in record
        )
    told = {
        "session": {"id", "cwd", "timestamp"},
        "model_change": {"modelId", "provider"},
        "thinking_level_change": {"thinkingLevel"},
        "compaction": {"summary", "timestamp"},
        "branch_summary": {"summary", "timestamp"},
        "custom_message": {"customType", "content"},
    }
    return isinstance(kind, str) and kind in told and told[kind] <= record.keys()


def read(records: list[SessionRecord]) -> Iterator[Draft]:
    """One trajectory a session, along its longest branch where its lines are a tree."""
    sessions: list[list[_Line]] = [[]]
    for record in records:
        line = _line(record)
        if line.kind == "session" and any(other.kind != "session" for other in sessions[-1]):
            sessions.append([])
        sessions[-1].append(line)
    for number, lines in enumerate(sessions):
        yield _draft(number, lines)


def _line(record: SessionRecord) -> _Line:
    fields = fields_of(record.raw)
    if "role" in record.value:
        return _Line("message", {}, fields)
    message = fields_of(fields["message"]) if is_object(fields.get("message")) else {}
    return _Line(string_of(fields.get("type")) or "", fields, message)


def _draft(number: int, lines: list[_Line]) -> Draft:
    head = next((line.fields for line in lines if line.kind == "session"), {})
    pieces: list[Piece] = []
    settings: list[bytes] = []
    ending = "unknown"
    message = 0
    for line in _branch(lines):
        if line.kind == "message":
            pieces += _message(line, message=message, acted=has_acted(pieces))
            message += 1
            if string_of(line.message.get("role")) == "assistant":
                ending = _ENDINGS.get(string_of(line.message.get("stopReason")) or "", "unknown")
        elif line.kind in ("compaction", "branch_summary", "custom_message"):
            pieces.append(_told_by_harness(line, message=message))
            message += 1
        elif line.kind != "session":
            settings.append(json_object(line.fields).encode())
    asked = (p["text"] for p in pieces if p["author"] == "user" and p["text"])
    notes = rest(head, ("id", "type", "parentSession", "version"))
    if settings:
        notes["settings"] = json_array(settings)
    native = string_of(head.get("id"))
    version = head.get("version")
    return Draft(
        record=native or str(number),
        id=native or None,
        parent_id=string_of(head.get("parentSession")),
        format_version=text_of(version) if version is not None else None,
        pieces=pieces,
        task=next(asked, None),
        ending=ending,
        extra=json_object(notes),
    )


def _branch(lines: Sequence[_Line]) -> list[_Line]:
    """Lines of the longest branch; all of them where they name no parents, as in the first version."""
    order = {native: index for index, line in enumerate(lines) if (native := string_of(line.fields.get("id")))}
    parents: list[int | None] = []
    for index, line in enumerate(lines):
        named = string_of(line.fields.get("parentId"))
        parent = order.get(named, index) if named else None
        if parent is None or parent >= index:
            # The head names no parent and is none: a first message hangs on it all the same.
            is_root = "parentId" in line.fields and not named
            parent = (
                (0 if is_root and lines[0].kind == "session" else None if is_root else index - 1) if index else None
            )
        parents.append(parent)
    return [lines[index] for index in longest_branch(parents, [1] * len(lines))]


def _message(line: _Line, *, message: int, acted: bool) -> list[Piece]:
    fields = line.message
    role = string_of(fields.get("role"))
    content = fields.get("content")
    mapped = {"role", "content"}
    if role == "assistant":
        pieces = _agent(items_of(content), message=message)
    elif role == "toolResult":
        text, opaque = content_text(content)
        mapped |= {"toolCallId", "toolName", "isError"}
        pieces = [
            observation(
                text,
                message=message,
                call_id=string_of(fields.get("toolCallId")),
                name=string_of(fields.get("toolName")),
                error={b"true": True, b"false": False}.get(bytes(fields.get("isError", b""))),
                opaque=opaque,
            )
        ]
    elif role == "user":
        pieces = _user(content, message=message, acted=acted)
    else:
        pieces = [unreadable("context", [json_object(fields)], message=message, author="user")]
        mapped = set(fields)
    if not pieces:
        kind = "reason" if role == "assistant" else "context"
        author = "agent" if role == "assistant" else "user"
        pieces = [unreadable(kind, ["[]"], message=message, author=author)]
    about, beside = rest(fields, mapped), rest(line.fields, ("type", "message"))
    notes = {
        **({"message": json_object(about)} if about else {}),
        **({"line": json_object(beside)} if beside else {}),
    }
    return [noted(pieces[0], notes), *pieces[1:]]


def _agent(blocks: list[msgspec.Raw], *, message: int) -> list[Piece]:
    decoded = [fields_of(block) for block in blocks]
    calls = any(string_of(block.get("type")) == "toolCall" for block in decoded)
    return [piece for block in decoded for piece in _agent_block(block, message=message, calls=calls)]


def _agent_block(block: Fields, *, message: int, calls: bool) -> list[Piece]:
    kind = string_of(block.get("type"))
    if kind == "text":
        text, left = text_of(block.get("text")), rest(block, ("type", "text"))
        extra = json_object(left) if left else None
        return [(thought if calls else say)(text, message=message, extra=extra)] if text else []
    if kind == "thinking":
        opaque = [json_object(rest(block, ("thinking",)))] if len(block) > 2 else []
        return [thought(text_of(block.get("thinking")), message=message, hidden=True, opaque=opaque)]
    if kind == "toolCall":
        left = rest(block, ("type", "name", "arguments", "id"))
        return [
            call(
                text_of(block.get("name")),
                text_of(block.get("arguments")),
                message=message,
                call_id=string_of(block.get("id")),
                extra=json_object(left) if left else None,
            )
        ]
    return [unreadable("reason", [json_object(block)], message=message, author="agent")]


def _user(content: msgspec.Raw | None, *, message: int, acted: bool) -> list[Piece]:
    make = observation if acted else context
    text = string_of(content)
    if text is not None:
        return [make(text, message=message, author="user")] if text else []
    shown = [content_text(msgspec.Raw(b"[" + bytes(b) + b"]")) for b in items_of(content)]
    return [make(text, message=message, author="user", opaque=opaque) for text, opaque in shown]


def _told_by_harness(line: _Line, *, message: int) -> Piece:
    name = "content" if line.kind == "custom_message" else "summary"
    text, opaque = content_text(line.fields.get(name))
    extra = json_object(rest(line.fields, (name,)))
    if not text:
        return unreadable("context", opaque or ["[]"], message=message, author="user", extra=extra)
    return context(text, message=message, opaque=opaque, extra=extra)


FORMATS = (
    SessionFormat("pi", "sessions of the pi coding agent (JSON lines), or one of its messages", recognise, read),
)
