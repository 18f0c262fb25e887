"""LlamaIndex's chat messages: `blocks` told by `block_type`, calls in blocks or in `additional_kwargs`."""

from collections.abc import Iterable
from typing import Any

import msgspec

from sadstream.formats.kinds import RecordFormat
from sadstream.formats.openai_chat import conversation, record_draft
from sadstream.formats.pieces import AUTHORS
from sadstream.formats.verbatim import (
    Fields,
    fields_of,
    first_of,
    items_of,
    json_array,
    json_object,
    object_of,
    rest,
    string_of,
    text_of,
)
from sadstream.frames import Draft

_ROLES = {"chatbot": "assistant"}
_LISTS = ("messages", "chat_history", "history")
# OpenAI's names of what a call says, and under which it stands here.
_CALL_NAMES = {
    "id": ("tool_call_id", "id"),
    "name": ("tool_name", "name"),
    "arguments": ("tool_kwargs", "input", "arguments", "args"),
}


def is_message(value: Any) -> bool:
    """Whether a value is such a message: `blocks` of `block_type`, or calls in `additional_kwargs`."""
    if not isinstance(value, dict) or not _may_be(value):
        return False
    if not _is_role(value.get("role")):
        return False
    blocks, more = value.get("blocks"), value.get("additional_kwargs")
    if isinstance(blocks, list):
        return all(isinstance(b, dict) and isinstance(b.get("block_type"), str) for b in blocks)
    told = isinstance(more, dict) and isinstance(more.get("tool_calls", more.get("tool_call_id")), list | str)
    return told and isinstance(value.get("content"), str | None) and not value.get("tool_calls")


def _may_be(message: dict[str, Any]) -> bool:
    """What is looked at first, for there are many messages of others."""
    return "blocks" in message or "additional_kwargs" in message


def _is_role(role: Any) -> bool:
    return isinstance(role, str) and _ROLES.get(role, role) in AUTHORS


def recognise(record: Any) -> bool:
    """Messages, bare or under a usual name, of which one is told to be LlamaIndex's, and others may be plain."""
    return _name(record) is not None


def _name(record: Any) -> str | None:
    names = [n for n in _LISTS if n in record] if isinstance(record, dict) else [""]
    return next((n for n in names if _is_messages(record[n] if n else record)), None)


def _is_messages(value: Any) -> bool:
    if not isinstance(value, list) or not any(isinstance(m, dict) and _may_be(m) for m in value):
        return False
    return any(is_message(m) for m in value) and all(is_message(m) or _is_plain(m) for m in value)


def _is_plain(message: Any) -> bool:
    return isinstance(message, dict) and _is_role(message.get("role")) and isinstance(message.get("content"), str)


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory; the record's other fields go to outcome, tools and `extra`."""
    name = _name(record)
    held = fields_of(raw)[name] if name else raw
    draft = conversation([json_object(_message(fields_of(item))).encode() for item in items_of(held)])
    yield record_draft(record, raw, draft, mapped={name}) if name else draft


def _message(fields: Fields) -> dict[str, Any]:
    """A message as OpenAI's API would have it; its further fields as they are."""
    role = text_of(fields.get("role"))
    more = object_of(fields.get("additional_kwargs"))
    blocks = [fields_of(block) for block in items_of(fields.get("blocks"))]
    calls = [_call(block) for block in blocks if _kind(block) == "tool_call"]
    known = {bytes(call["id"]) for call in calls if "id" in call}
    # Providers' integrations of some versions name a call in both places.
    calls += [
        _call(c) for c in map(object_of, items_of(more.get("tool_calls"))) if bytes(c.get("id", b"")) not in known
    ]
    said = [_block(block) for block in blocks if _kind(block) != "tool_call"]
    lifted = [n for n in ("tool_calls", "tool_call_id", "name") if n in more and n not in fields]
    left = rest(more, lifted)
    return {
        **rest(fields, ("blocks", "additional_kwargs")),
        "role": msgspec.json.encode(_ROLES.get(role, role)),
        "content": json_array(said) if said else fields.get("content", b"null"),
        **({"tool_calls": json_array(map(json_object, calls))} if calls else {}),
        **{n: more[n] for n in lifted if n != "tool_calls"},
        **({"additional_kwargs": json_object(left)} if left else {}),
    }


def _kind(block: Fields) -> str:
    return text_of(block.get("block_type"))


def _call(fields: Fields) -> dict[str, Any]:
    """A call under the names of OpenAI's."""
    if "function" in fields:
        return fields
    made: dict[str, Any] = {
        to: raw for to, names in _CALL_NAMES.items() if (raw := first_of(fields, names)) is not None
    }
    told = {"block_type", "type", *(name for names in _CALL_NAMES.values() for name in names)}
    return {"arguments": b'""', **made, **rest(fields, told)}


def _block(block: Fields) -> bytes:
    """A block under the names of OpenAI's."""
    kind = _kind(block)
    if kind == "text":
        return json_object({"type": '"text"', **rest(block, ("block_type",))}).encode()
    if kind == "thinking" and string_of(block.get("content")) is not None:
        left = rest(block, ("block_type", "content"))
        left = {n: raw for n, raw in left.items() if bytes(raw) not in (b"null", b"{}")}
        return json_object({"type": '"thinking"', "thinking": block["content"], **left}).encode()
    return json_object({"type": msgspec.json.encode(kind), **rest(block, ("block_type",))}).encode()


FORMATS = (
    RecordFormat(
        "llamaindex",
        "LlamaIndex's chat messages: `blocks` of `block_type`, calls in `additional_kwargs`",
        recognise,
        read,
    ),
)
