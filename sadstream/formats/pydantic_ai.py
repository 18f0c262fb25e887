"""Pydantic AI's messages: `kind: request` and `response`, of parts told by `part_kind`."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from sadstream.formats import anthropic
from sadstream.formats.kinds import RecordFormat
from sadstream.formats.openai_chat import record_draft
from sadstream.formats.pieces import Piece
from sadstream.formats.verbatim import (
    Fields,
    Json,
    fields_of,
    items_of,
    json_array,
    json_object,
    rest,
    string_of,
    text_of,
)
from sadstream.frames import Draft

_LISTS = ("messages", "message_history", "all_messages", "new_messages")
# Names of a part's fields in Anthropic's blocks, which are read there.
_BLOCKS: dict[str, tuple[str, dict[str, str]]] = {
    "text": ("text", {"content": "text"}),
    "system-prompt": ("text", {"content": "text"}),
    "thinking": ("thinking", {"content": "thinking"}),
    "tool-call": ("tool_use", {"tool_name": "name", "args": "input", "tool_call_id": "id"}),
    "builtin-tool-call": ("server_tool_use", {"tool_name": "name", "args": "input", "tool_call_id": "id"}),
    "tool-return": ("tool_result", {"tool_call_id": "tool_use_id"}),
    "builtin-tool-return": ("builtin_tool_result", {"tool_call_id": "tool_use_id"}),
    "retry-prompt": ("tool_result", {"tool_call_id": "tool_use_id"}),
}


def is_message(value: Any) -> bool:
    """Whether a value is such a message."""
    if not isinstance(value, dict) or value.get("kind") not in ("request", "response"):
        return False
    parts = value.get("parts")
    return isinstance(parts, list) and all(isinstance(p, dict) and isinstance(p.get("part_kind"), str) for p in parts)


def is_messages(value: Any) -> bool:
    """Whether a value is a list of such messages."""
    return isinstance(value, list) and bool(value) and all(is_message(m) for m in value)


def recognise(record: Any) -> bool:
    """Such messages, bare or under a usual name."""
    return _name(record) is not None


def _name(record: Any) -> str | None:
    names = [n for n in _LISTS if n in record] if isinstance(record, dict) else [""]
    return next((n for n in names if is_messages(record[n] if n else record)), None)


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory; the record's other fields go to outcome, tools and `extra`."""
    name = _name(record)
    pieces: list[Piece] = []
    instructions = None
    for index, item in enumerate(items_of(fields_of(raw)[name] if name else raw)):
        fields = fields_of(item)
        acted = anthropic.has_acted(pieces)
        told = string_of(fields.get("instructions"))
        if told and told != instructions:
            about: dict[str, Json | str] = {"role": '"system"', "content": fields["instructions"]}
            pieces += anthropic.message_pieces(_fields(about), message=index, acted=acted)
            instructions = told
        for message in _messages(fields):
            pieces += anthropic.message_pieces(_fields(message), message=index, acted=acted)
    draft = Draft(pieces=pieces, task=anthropic.first_request(pieces))
    yield record_draft(record, raw, draft, mapped={name}) if name else draft


def _fields(message: dict[str, Json | str]) -> Fields:
    return fields_of(json_object(message).encode())


def _messages(fields: Fields) -> list[dict[str, Json | str]]:
    """A request or a response as messages of Anthropic's: system prompts apart; its other fields go to the last."""
    parts = [fields_of(part) for part in items_of(fields.get("parts"))]
    told = rest(fields, ("parts", "kind", "instructions"))
    if text_of(fields.get("kind")) == "response":
        return [{"role": '"assistant"', "content": _array(parts), **told}]
    prompts = [part for part in parts if text_of(part["part_kind"]) == "system-prompt"]
    others = [part for part in parts if text_of(part["part_kind"]) != "system-prompt"]
    made: list[dict[str, Json | str]] = [{"role": '"system"', "content": _array(prompts)}] if prompts else []
    if others or not made:
        made.append({"role": '"user"', "content": _array(others)})
    made[-1].update(told)
    return made


def _array(parts: Sequence[Fields]) -> msgspec.Raw:
    return json_array(block for part in parts for block in _blocks(part))


def _blocks(part: Fields) -> list[str]:
    """A part as a block; a prompt of several items, as one for each."""
    kind = text_of(part["part_kind"])
    left = rest(part, ("part_kind",))
    if kind == "user-prompt":
        items = [part["content"]] if string_of(part.get("content")) is not None else items_of(part.get("content"))
        about = rest(left, ("content",))
        return [_prompt(item, about if not n else {}) for n, item in enumerate(items)]
    if kind == "retry-prompt" and not string_of(part.get("tool_name")):
        # No call is answered: the harness says what was wrong with the words.
        text = msgspec.json.encode(text_of(part.get("content")))
        return [json_object({"type": '"text"', "text": text, **rest(left, ("content",))})]
    if kind not in _BLOCKS:
        return [json_object({"type": msgspec.json.encode(kind), **left})]
    name, names = _BLOCKS[kind]
    left = {n: raw for n, raw in left.items() if bytes(raw) != b"null"}
    made: dict[str, Json | str] = {names.get(n, n): raw for n, raw in left.items()}
    failed = kind == "retry-prompt" or text_of(part.get("outcome")) == "failed"
    return [json_object({"type": f'"{name}"', **made, **({"is_error": "true"} if failed else {})})]


def _prompt(item: msgspec.Raw, about: Fields) -> str:
    if string_of(item) is not None:
        return json_object({"type": '"text"', "text": item, **about})
    fields = fields_of(item)
    return json_object({"type": '"file"', **rest(fields, ("type",)), **about})


FORMATS = (
    RecordFormat(
        "pydantic-ai",
        "Pydantic AI's messages: `kind: request`, `response`, parts of `part_kind`",
        recognise,
        read,
    ),
)
