"""Messages of Vercel's AI SDK: the UI's, whose parts hold calls with their results, and the model's own."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from sadstream.formats.anthropic import first_request, has_acted
from sadstream.formats.content import content_of
from sadstream.formats.kinds import RecordFormat
from sadstream.formats.openai_chat import message_pieces, record_draft, syntax_of
from sadstream.formats.pieces import Piece, call, observation, say, thought, unreadable
from sadstream.formats.verbatim import (
    Fields,
    fields_of,
    first_of,
    items_of,
    json_object,
    noted,
    object_of,
    rest,
    same_value,
    string_of,
    text_of,
)
from sadstream.frames import Draft

_ROLES = ("system", "user", "assistant", "tool")
_PARTS = {"text", "reasoning", "step-start", "file", "source", "source-url", "source-document"}
_TOOL_PARTS = {"dynamic-tool", "tool-invocation"}
_CALL, _RESULT = "tool-call", "tool-result"
_APPROVALS = ("tool-approval-request", "tool-approval-response")
_RESULTS = (_RESULT, "tool-error")
_ARGUMENTS = ("input", "args", "rawInput")
_ERRORS = ("errorText", "error")
_RETURNED = ("output", "result", *_ERRORS)
_USUAL_STATES = ("output-available", "output-error", "result")
# A result of the model's own messages says what it is of; an error's is no plain one.
_OUTPUTS = {"text": None, "json": None, "content": None, "error-text": True, "error-json": True}


def is_message(value: Any) -> bool:
    """Whether a value is a message with `parts` or `toolInvocations` of the UI, or with blocks of calls or results."""
    if not isinstance(value, dict) or value.get("role") not in _ROLES:
        return False
    parts, content = value.get("parts"), value.get("content")
    if isinstance(parts, list) and parts:
        return all(_is_part(part) for part in parts)
    if isinstance(content, list):
        blocks = [block for block in content if isinstance(block, dict)]
        return any(b.get("type") in (_CALL, _RESULT) and isinstance(b.get("toolCallId"), str) for b in blocks)
    invocations = value.get("toolInvocations")
    return isinstance(invocations, list) and bool(invocations) and all(isinstance(i, dict) for i in invocations)


def _may_be(message: dict[str, Any]) -> bool:
    """What is looked at first, for there are many messages of others."""
    return "parts" in message or "toolInvocations" in message or isinstance(message.get("content"), list)


def _is_part(part: Any) -> bool:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        return False
    if kind in ("text", "reasoning"):
        return isinstance(part.get("text", part.get("reasoning")), str)
    return kind in _PARTS or kind.startswith(("tool-", "dynamic-tool", "data-"))


def _is_tool(kind: str) -> bool:
    return kind in _TOOL_PARTS or (kind.startswith("tool-") and kind not in _APPROVALS)


def recognise(record: Any) -> bool:
    """Messages, bare or under `messages`, of which one is told to be the SDK's, and others may be plain."""
    messages = record.get("messages") if isinstance(record, dict) else record
    if not isinstance(messages, list) or not any(isinstance(m, dict) and _may_be(m) for m in messages):
        return False
    return any(is_message(m) for m in messages) and all(is_message(m) or _is_plain(m) for m in messages)


def _is_plain(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and message.get("role") in _ROLES
        and isinstance(message.get("content"), str | list)
        and not message.get("tool_calls")
    )


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory; the record's other fields go to outcome, tools and `extra`."""
    fields = {} if isinstance(record, list) else fields_of(raw)
    pieces: list[Piece] = []
    for index, message in enumerate(items_of(fields["messages"] if fields else raw)):
        pieces += _message(fields_of(message), index=index, acted=has_acted(pieces))
    draft = Draft(pieces=pieces, task=first_request(pieces))
    yield record_draft(record, raw, draft, mapped={"messages"}) if fields else draft


def _message(fields: Fields, *, index: int, acted: bool) -> list[Piece]:
    """Pieces of a message; what has no place in them stands in the first one's `extra`."""
    role = text_of(fields.get("role"))
    parts = [fields_of(part) for part in items_of(fields.get("parts"))]
    if role in ("system", "user"):
        content = fields["parts"] if parts else fields.get("content", msgspec.Raw(b"null"))
        told = rest(fields, ("parts", "content", *_repeated(fields, parts)))
        return message_pieces({**told, "content": content}, index=index, acted=acted)
    mapped = {"role", "parts", "content", "toolInvocations", "reasoning"}
    if parts:
        mapped = {"role", "parts", *_repeated(fields, parts)}
    pieces = list(_pieces(parts or _parts_of(fields), message=index))
    if not pieces:
        pieces = [unreadable("reason", ["[]"], message=index, author="agent" if role == "assistant" else "environment")]
    return [noted(pieces[0], rest(fields, mapped)), *pieces[1:]]


def _repeated(fields: Fields, parts: Sequence[Fields]) -> list[str]:
    """Fields of a message that say again what its parts say."""
    texts = [text_of(part.get("text")) for part in parts if text_of(part.get("type")) == "text"]
    said = string_of(fields.get("content"))
    again = ["content"] if parts and said is not None and (said in ("", "".join(texts)) or said in texts) else []
    invoked = [same_value(part["toolInvocation"]) for part in parts if "toolInvocation" in part]
    if invoked and [same_value(raw) for raw in items_of(fields.get("toolInvocations"))] == invoked:
        again.append("toolInvocations")
    thinking = [text_of(part.get("reasoning")) for part in parts if text_of(part.get("type")) == "reasoning"]
    return [*again, "reasoning"] if string_of(fields.get("reasoning")) in ("".join(thinking), *thinking) else again


def _parts_of(fields: Fields) -> list[Fields]:
    """The parts of a message that has none: its blocks, or its reasoning, tool invocations and text."""
    text, thinking = string_of(fields.get("content")), string_of(fields.get("reasoning"))
    if text is None and fields.get("content") is not None and not fields.get("toolInvocations"):
        return [object_of(block) for block in items_of(fields["content"])]
    invoked = [fields_of(invocation) for invocation in items_of(fields.get("toolInvocations"))]
    tools = [{**rest(i, ("type",)), "type": msgspec.Raw(b'"tool-invocation"')} for i in invoked]
    said = [{"type": msgspec.Raw(b'"text"'), "text": fields["content"]}] if text else []
    thoughts = [{"type": msgspec.Raw(b'"reasoning"'), "text": fields["reasoning"]}] if thinking else []
    # What is said stands before calls that nobody answered, and after results.
    return [*thoughts, *tools, *said] if all(_returned(i) is not None for i in invoked) else [*thoughts, *said, *tools]


def _pieces(parts: Sequence[Fields], *, message: int) -> Iterator[Piece]:
    """Pieces of the agent's parts, or of a tool's: in each step its calls, and then what they returned."""
    for step in _steps(parts):
        calls = any(_is_call(_kind(part)) for part in step)
        results: list[Piece] = []
        for part in step:
            kind, inner = _kind(part), _inner(part)
            if _is_call(kind):
                yield _call(part, inner, message=message)
            if _is_tool(kind):
                results += _result(inner, is_alone=not _is_call(kind), message=message)
            elif kind != "step-start":
                yield from _said(part, kind, message=message, calls=calls)
        yield from results


def _steps(parts: Sequence[Fields]) -> Iterator[list[Fields]]:
    """The parts of each answer of the model: what stands after a result was said when it had come."""
    step: list[Fields] = []
    for part in parts:
        answered = bool(step) and _is_tool(_kind(step[-1])) and _returned(_inner(step[-1])) is not None
        if step and (_kind(part) == "step-start" or (answered and not _is_tool(_kind(part)))):
            yield step
            step = []
        step.append(part)
    if step:
        yield step


def _kind(part: Fields) -> str:
    return text_of(part.get("type"))


def _is_call(kind: str) -> bool:
    return _is_tool(kind) and kind not in _RESULTS


def _inner(part: Fields) -> Fields:
    """The fields of a call, which the older UI nests."""
    return object_of(part["toolInvocation"]) if "toolInvocation" in part else part


def _call(part: Fields, inner: Fields, *, message: int) -> Piece:
    name = string_of(inner.get("toolName")) or _kind(part).removeprefix("tool-")
    asked = next((n for n in _ARGUMENTS if n in inner and bytes(inner[n]) != b"null"), "")
    told = {"type", "toolName", "toolCallId", "toolInvocation", asked, *_RETURNED}
    left = {**rest(inner, told), **rest(part, {*told, *inner})}
    if text_of(left.get("state")) in _USUAL_STATES:
        del left["state"]
    arguments = text_of(inner.get(asked))
    native = string_of(inner.get("toolCallId"))
    piece = call(name, arguments, message=message, syntax=syntax_of(arguments), call_id=native)
    return noted(piece, {"part": json_object(left)}) if left else piece


def _returned(inner: Fields) -> msgspec.Raw | None:
    """What a call returned, an error's text too; None while it has not."""
    return first_of(inner, _RETURNED) or next((inner[name] for name in _RETURNED if name in inner), None)


def _result(inner: Fields, *, is_alone: bool, message: int) -> list[Piece]:
    """What a call returned.

    Args:
        is_alone: whether it stands apart from its call: then what else it says is nowhere else.
    """
    returned = _returned(inner)
    if returned is None and not is_alone:
        return []
    typed = object_of(returned)
    kind = text_of(typed.get("type"))
    is_typed = is_alone and kind in _OUTPUTS and "value" in typed
    held = typed["value"] if is_typed else returned
    text, opaque = content_of(held) if kind == "content" and is_typed else (text_of(held), [])
    failed = (is_typed and _OUTPUTS[kind]) or any(text_of(inner.get(name)) for name in _ERRORS)
    failed = failed or bytes(inner.get("isError", b"")) == b"true"
    left = rest(inner, ("type", "toolCallId", "toolName", "isError", *_RETURNED)) if is_alone else {}
    if is_typed:
        # Blocks of content may say more than their text.
        about = typed if kind == "content" else rest(typed, ("value",))
        left = {**left, "output": msgspec.Raw(json_object(about).encode())}
    return [
        observation(
            text,
            message=message,
            call_id=string_of(inner.get("toolCallId")),
            name=string_of(inner.get("toolName")),
            error=True if failed else None,
            opaque=opaque,
            extra=json_object({"part": json_object(left)}) if left else None,
        )
    ]


def _said(part: Fields, kind: str, *, message: int, calls: bool) -> list[Piece]:
    """What the agent says or thinks in a part; anything else renders to nothing."""
    if kind == "text":
        text, left = text_of(part.get("text")), rest(part, ("type", "text"))
        if bytes(left.get("state", b"")) == b'"done"':
            del left["state"]
        extra = json_object({"part": json_object(left)}) if left else None
        return [(thought if calls else say)(text, message=message, extra=extra)] if text else []
    if kind == "reasoning":
        name = "text" if "text" in part else "reasoning"
        left = rest(part, ("type", name, "state"))
        opaque = [json_object(left)] if left else []
        return [thought(text_of(part.get(name)), message=message, hidden=True, opaque=opaque)]
    return [unreadable("reason", [json_object(part)], message=message, author="agent")]


FORMATS = (
    RecordFormat(
        "vercel",
        "messages of Vercel's AI SDK: `parts` with `tool-NAME`, `toolInvocations`, `tool-call` blocks",
        recognise,
        read,
    ),
)
