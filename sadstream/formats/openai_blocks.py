"""Content blocks of chat messages: text, thoughts, media, and calls and results in the forms of several makers."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from sadstream.formats.content import content_of
from sadstream.formats.verbatim import (
    Fields,
    Json,
    fields_of,
    first_of,
    is_object,
    items_of,
    json_array,
    json_object,
    object_of,
    rest,
    string_of,
    text_of,
)

# Blocks of calls and results, told by their type or by their one name.
_TOLD_BLOCKS = ("tool_call", "tool_result", "tool_call_result")
_ARGUMENTS = ("arguments", "args", "input", "tool_kwargs", "parameters")
_IDS = ("id", "tool_call_id", "call_id")
_CALL_NAMES = ("name", "tool_name", "function")
_FOREIGN_BLOCKS = ("tool_use", "tool_result", "redacted_thinking", "server_tool_use", "mcp_tool_use", "function_call")


def has_foreign_block(message: dict[str, Any]) -> bool:
    """Whether a message has blocks that may be calls or results in a form that is not read here."""
    content = message.get("content")
    return isinstance(content, list) and any(isinstance(b, dict) and _is_foreign_block(b) for b in content)


def _is_foreign_block(block: dict[str, Any]) -> bool:
    """Whether a block may be a call or a result in a form that is not read here."""
    kind = block.get("type")
    if not isinstance(kind, str):
        names = [name for name in block if "tool" in name.lower()]
        return "reasoningContent" in block or any(n not in _TOLD_BLOCKS or not _is_told(block, n) for n in names)
    if kind in _TOLD_BLOCKS and _is_told(block, kind):
        return False
    return kind in _FOREIGN_BLOCKS or "tool" in kind.lower() or kind.lower().endswith("call")


def _is_told(block: dict[str, Any], kind: str) -> bool:
    """Whether a call or a result is in a form that is read: LLaMA-Factory's, LangChain's, Haystack's or Azure's."""
    inner = block.get(kind, block)
    if kind == "tool_call":
        return isinstance(block.get("value"), str) or (
            isinstance(inner, dict) and any(isinstance(inner.get(n), str | dict) for n in _CALL_NAMES)
        )
    return kind in block and (kind == "tool_result" or isinstance(inner, dict))


def with_calls_lifted(fields: Fields) -> Fields:
    """A message whose calls stand in blocks, with these under `tool_calls`."""
    content = fields.get("content")
    if content is None or b"tool_call" not in (written := bytes(content)) or written.lstrip()[:1] != b"[":
        return fields
    blocks = [(raw, _call_in(object_of(raw))) for raw in items_of(content)]
    if all(made is None for _, made in blocks):
        return fields
    named = items_of(fields.get("tool_calls"))
    known = {text_of(object_of(call).get("id")) for call in named} - {""}
    told = [made for _, made in blocks if made is not None and text_of(made.get("id")) not in known]
    calls: list[Json | str] = [*named, *map(json_object, told)]
    left = [raw for raw, made in blocks if made is None]
    return {**fields, "content": json_array(left), "tool_calls": json_array(calls)}


def _call_in(block: Fields) -> Fields | None:
    """The call in a block, under the names of OpenAI's; None where there is none."""
    kind = string_of(block.get("type")) or "tool_call"
    if kind != "tool_call" or string_of(block.get("value")) is not None:
        return None
    nested = is_object(block.get("tool_call"))
    inner = object_of(block.get("tool_call")) if nested else block if "type" in block else {}
    beside = rest(block, ("type", "tool_call")) if nested else {}
    if "function" in inner:
        return {**beside, **inner}
    name = first_of(inner, _CALL_NAMES)
    if name is None:
        return None
    arguments = first_of(inner, _ARGUMENTS)
    native = first_of(inner, _IDS)
    told = ("type", *_CALL_NAMES, *_ARGUMENTS, *_IDS)
    made: Fields = {**beside, "name": name, **({"arguments": arguments} if arguments is not None else {})}
    return {**made, **({"id": native} if native is not None else {}), **rest(inner, told)}


class Block(NamedTuple):
    """Part of a message's content: text, thought or call; media beside it, what else it says, and a placeholder."""

    kind: str
    text: str
    opaque: tuple[str, ...] = ()
    notes: Mapping[str, msgspec.Raw] = MappingProxyType({})
    label: str = ""
    call_id: str | None = None
    name: str | None = None
    error: bool | None = None

    @property
    def about(self) -> dict[str, Any]:
        extra = {"extra": json_object({"block": json_object(self.notes)})} if self.notes else {}
        told = {"call_id": self.call_id, "name": self.name, "error": self.error}
        told = {name: value for name, value in told.items() if value is not None}
        return {**({"opaque": list(self.opaque)} if self.opaque else {}), **extra, **told}


def blocks_of(raw: Json | None) -> list[Block]:
    """Blocks of a message's content; media are beside the text that they stand by."""
    return _with_media(_blocks(raw))


def _blocks(raw: Json | None) -> list[Block]:
    if raw is None or bytes(raw).lstrip()[:1] != b"[":
        text = text_of(raw)
        return [Block("text", text)] if text else []
    return [_block(item) for item in items_of(raw)]


def _block(raw: msgspec.Raw) -> Block:
    if not is_object(raw):
        return Block("text", text_of(raw))
    fields = fields_of(raw)
    kind = string_of(fields.get("type")) or "text"
    if kind in ("text", "input_text", "output_text", "refusal"):
        name = next((n for n in ("text", "value", "refusal", "content") if string_of(fields.get(n)) is not None), None)
        if name is not None:
            usual = {name, "type"} if kind == "text" else {name}
            return Block("text", text_of(fields[name]), notes=rest(fields, usual))
    if "tool_result" in fields or is_object(fields.get("tool_call_result")):
        return _result_in(fields)
    if is_object(fields.get("text")) and string_of(fields_of(fields["text"]).get("value")) is not None:
        inner_fields = fields_of(fields["text"])
        notes = {**rest(fields, ("type", "text")), **_json_notes("text", rest(inner_fields, ("value",)))}
        return Block("text", text_of(inner_fields["value"]), notes=notes)
    if "type" not in fields and is_object(fields.get("reasoning")):
        inner_fields = fields_of(fields["reasoning"])
        left = rest(inner_fields, ("reasoning_text",))
        opaque = (json_object(left),) if left else ()
        return Block("thought", text_of(inner_fields.get("reasoning_text")), opaque)
    if kind == "document" and is_object(fields.get("document")) and "data" in fields_of(fields["document"]):
        inner_fields = fields_of(fields["document"])
        notes = {**rest(fields, ("document",)), **_json_notes("document", rest(inner_fields, ("data",)))}
        return Block("text", text_of(inner_fields["data"]), notes=notes)
    if kind in ("reasoning", "thinking"):
        name = next((n for n in (kind, "text", "value", "content") if n in fields), kind)
        inner = fields.get(name)
        left = rest(fields, ("type", name))
        opaque = (json_object(left),) if left else ()
        return Block("thought", content_of(inner)[0] if inner is not None else "", opaque)
    if kind == "tool_call" and string_of(fields.get("value")) is not None:
        return Block("call", text_of(fields["value"]), notes=rest(fields, ("type", "value")))
    return Block("media", "", (bytes(raw).decode(),), label=content_of(b"[" + bytes(raw) + b"]")[0])


def _result_in(block: Fields) -> Block:
    """A result in a block of its own: Azure's `tool_result`, Haystack's `tool_call_result` with the call it is of."""
    if "tool_result" in block:
        native = text_of(first_of(block, _IDS)) or None
        notes = rest(block, ("tool_result", *_IDS))
        return Block("text", text_of(block["tool_result"]), notes=notes, call_id=native)
    inner = fields_of(block["tool_call_result"])
    origin = object_of(inner.get("origin"))
    failed = bytes(inner.get("error", b"")) == b"true"
    notes = {**rest(block, ("tool_call_result",)), **rest(inner, ("result", "error"))}
    native, name = string_of(origin.get("id")), string_of(origin.get("tool_name"))
    return Block("text", text_of(inner.get("result")), notes=notes, call_id=native, name=name, error=failed or None)


def _json_notes(name: str, fields: Fields) -> Fields:
    return {name: msgspec.Raw(json_object(fields).encode())} if fields else {}


def _with_media(blocks: list[Block]) -> list[Block]:
    """Media go beside the text before them, or the first; alone they are named by a placeholder, which is rendered."""
    if not any(b.kind == "media" for b in blocks):
        return blocks
    if not any(b.kind == "text" and b.text for b in blocks):
        media = [b for b in blocks if b.kind == "media"]
        shown = Block("text", "", tuple(o for b in media for o in b.opaque), label=" ".join(b.label for b in media))
        return [*(b for b in blocks if b.kind not in ("media", "text")), shown]
    kept: list[Block] = []
    waiting: tuple[str, ...] = ()
    for block in blocks:
        at = next((i for i in reversed(range(len(kept))) if kept[i].kind == "text"), None)
        if block.kind == "media" and at is not None:
            kept[at] = kept[at]._replace(opaque=kept[at].opaque + block.opaque)
        elif block.kind == "media":
            waiting += block.opaque
        elif block.kind == "text" and block.text:
            kept.append(block._replace(opaque=waiting + block.opaque))
            waiting = ()
        elif block.kind != "text":
            kept.append(block)
    return kept
