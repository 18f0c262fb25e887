"""LangChain's and LangGraph's messages, in each of the forms that they are written in."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from sadstream.formats.anthropic import content_text, has_acted, message_pieces
from sadstream.formats.kinds import RecordFormat
from sadstream.formats.openai_chat import record_draft
from sadstream.formats.pieces import AUTHORS, Piece, call, first_words, observation, thought
from sadstream.formats.responses import is_item, item_pieces
from sadstream.formats.verbatim import (
    Fields,
    fields_of,
    is_object,
    items_of,
    json_object,
    noted,
    object_of,
    rest,
    string_of,
    text_of,
)
from sadstream.frames import Draft

_LC_ROLES = {
    "HumanMessage": "user",
    "HumanMessageChunk": "user",
    "SystemMessage": "system",
    "AIMessage": "assistant",
    "AIMessageChunk": "assistant",
    "ToolMessage": "tool",
    "ToolMessageChunk": "tool",
    "DeveloperMessage": "system",
    "FunctionMessage": "tool",
}
_TYPES = {**_LC_ROLES, "human": "user", "system": "system", "ai": "assistant", "tool": "tool", "function": "tool"}
_LISTS = ("messages", "chat_history", "history")


def is_message(value: Any) -> bool:
    """Whether a value is such a message: serialised with `lc`, with its `data`, or plain, told by its `type`."""
    if not isinstance(value, dict) or "role" in value:
        return False
    if "lc" in value:
        named = value.get("id")
        kind = named[-1] if isinstance(named, list) and named else None
        return isinstance(kind, str) and kind in _LC_ROLES and isinstance(value.get("kwargs"), dict)
    kind = value.get("type")
    inner = value.get("data", value)
    if not isinstance(kind, str) or kind not in _TYPES or not isinstance(inner, dict):
        return False
    return isinstance(inner.get("content", 0), str | list | None)


def role_of(message: dict[str, Any]) -> str:
    """The role of such a message."""
    return _TYPES[message["id"][-1] if "lc" in message else message["type"]]


def is_messages(value: Any) -> bool:
    """Whether a value is a list of such messages."""
    return isinstance(value, list) and bool(value) and all(is_message(m) for m in value)


def recognise(record: Any) -> bool:
    """Such messages, bare, under `messages`, or under `values` as a LangGraph state has them."""
    return _path(record) is not None


def _path(record: Any) -> tuple[str, ...] | None:
    """The names under which a record has its messages."""
    if not isinstance(record, dict):
        return () if is_messages(record) else None
    for name in _LISTS:
        if is_messages(record.get(name)):
            return (name,)
    state = record.get("values")
    return ("values", "messages") if isinstance(state, dict) and is_messages(state.get("messages")) else None


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory; the record's other fields go to outcome, tools and `extra`."""
    path = _path(record)
    assert path is not None
    fields: Fields = {}
    held: msgspec.Raw | bytes = raw
    for name in path:
        fields = fields_of(held)
        held = fields[name]
    pieces: list[Piece] = []
    for index, item in enumerate(items_of(held)):
        pieces += lc_pieces(normal(item), message=index, acted=has_acted(pieces))
    draft = Draft(pieces=pieces, task=first_words(pieces))
    if not path:
        yield draft
        return
    if len(path) > 1:
        fields = {**fields_of(raw), "values": msgspec.Raw(json_object(rest(fields, ("messages",))).encode())}
        yield msgspec.structs.replace(draft, extra=json_object(fields))
        return
    yield record_draft(record, raw, draft, mapped={path[0]})


def normal(raw: msgspec.Raw) -> Fields:
    """A message with `role` and `content`, from LangChain's serialised form, its `[role, text]`, or as it stands."""
    if not is_object(raw):
        parts = items_of(raw)
        if len(parts) == 2:
            role = string_of(parts[0]) or "user"
            return {"role": quoted(_TYPES.get(role, role)), "content": parts[1]}
        return {"role": quoted("user"), "content": raw}
    fields = fields_of(raw)
    if "lc" in fields and is_object(fields.get("kwargs")):
        named = [string_of(part) for part in items_of(fields.get("id"))]
        role = _LC_ROLES.get((named[-1] if named else None) or "", "user")
        return {**rest(fields_of(fields["kwargs"]), ("type",)), "role": quoted(role)}
    kind = string_of(fields.get("type"))
    if "role" not in fields and kind in _TYPES:
        inner = fields_of(fields["data"]) if is_object(fields.get("data")) else rest(fields, ("type",))
        return {**inner, "role": quoted(_TYPES[kind])}
    return fields


def is_empty(raw: msgspec.Raw) -> bool:
    """Whether a value says nothing."""
    return bytes(raw) in (b"null", b"{}", b"[]")


def quoted(text: str) -> msgspec.Raw:
    """A text as JSON."""
    return msgspec.Raw(msgspec.json.encode(text))


def lc_pieces(fields: Fields, *, message: int, acted: bool) -> list[Piece]:
    """Pieces of a message in the form that `normal` gives; at least one."""
    if "role" not in fields and is_item(msgspec.json.decode(json_object(fields))):
        return item_pieces(fields, message=message, acted=acted)
    author = AUTHORS.get(string_of(fields.get("role")) or "", "user")
    if author == "environment":
        text, opaque = content_text(fields.get("content"))
        left = rest(fields, ("role", "content", "tool_call_id", "name"))
        return [
            observation(
                text,
                message=message,
                call_id=string_of(fields.get("tool_call_id")),
                name=string_of(fields.get("name")),
                error=True if string_of(fields.get("status")) == "error" else None,
                opaque=opaque,
                extra=json_object({"message": json_object(left)}) if left else None,
            )
        ]
    made = _calls(fields, message=message) if author == "agent" else []
    known = {piece["call_id"] for piece in made}
    extra = object_of(fields.get("additional_kwargs"))
    thinking = next(
        (t for f in (fields, extra) for n in ("reasoning_content", "reasoning") if (t := string_of(f.get(n)))), ""
    )
    told = rest(fields, ("tool_calls",) if made else ())
    told = rest(told, ("reasoning_content", "reasoning") if thinking else ())
    told = {name: raw for name, raw in told.items() if not is_empty(raw) or name == "content"}
    content = told.get("content")
    if content is not None and string_of(content) is None:
        told["content"] = _without_calls(content, known)
    said = message_pieces(told, message=message, acted=acted, calls=True if made else None)
    thoughts = [thought(thinking, message=message, hidden=True)] if thinking else []
    if (made or thinking) and said[0].get("opaque") in (['""'], ["[]"]):
        # Nothing was said: what the message has beside its content stands with what it has instead.
        instead = [*thoughts, *made]
        return [noted(instead[0], fields_of((said[0].get("extra") or "{}").encode())), *instead[1:]]
    return [*thoughts, *said, *made]


def _without_calls(content: msgspec.Raw, known: set[Any]) -> msgspec.Raw:
    """Blocks of a message but for the calls that it names elsewhere too."""
    blocks = [block for block in items_of(content) if string_of(object_of(block).get("id")) not in known]
    return msgspec.Raw(msgspec.json.encode(blocks))


def _calls(fields: Fields, *, message: int) -> list[Piece]:
    """Calls in a message; the string that the model wrote stands before the arguments read from it."""
    written = object_of(fields.get("additional_kwargs")).get("tool_calls")
    pieces = []
    for raw in items_of(written) or items_of(fields.get("tool_calls")):
        made = object_of(raw)
        function = object_of(made.get("function"))
        name = function.get("name", made.get("name"))
        arguments = function.get("arguments", made.get("args", made.get("arguments")))
        native = string_of(made.get("id"))
        pieces.append(call(text_of(name), text_of(arguments), message=message, call_id=native))
    legacy = object_of(fields.get("function_call"))
    if legacy and not pieces:
        pieces.append(call(text_of(legacy.get("name")), text_of(legacy.get("arguments")), message=message))
    return pieces


def call_ids(message: Fields) -> Iterator[str]:
    """Ids of the calls in a message."""
    for made in items_of(message.get("tool_calls")):
        native = string_of(object_of(made).get("id"))
        if native:
            yield native


FORMATS = (RecordFormat("langchain", "messages of LangChain and LangGraph (`type: ai`, `lc`)", recognise, read),)
