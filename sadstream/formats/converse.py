"""Messages of Bedrock's Converse API: conversations, logged calls, and Bedrock's own logs of invocations."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from sadstream.formats import anthropic
from sadstream.formats.histories import longest_paths
from sadstream.formats.kinds import RecordFormat, SessionFormat, SessionRecord
from sadstream.formats.outcomes import outcome_fields, remaining
from sadstream.formats.verbatim import (
    Fields,
    Json,
    fields_of,
    items_of,
    json_array,
    json_object,
    object_of,
    rest,
    same_value,
    text_of,
)
from sadstream.frames import Draft

_BLOCKS = {
    "text",
    "toolUse",
    "toolResult",
    "reasoningContent",
    "image",
    "document",
    "video",
    "cachePoint",
    "guardContent",
    "citationsContent",
}
_ENDINGS = {"end_turn": "finished", "stop_sequence": "finished", "max_tokens": "truncated"}


def is_message(value: Any) -> bool:
    """A message whose content is blocks that are told by their one name, without `type`."""
    if not isinstance(value, dict) or value.get("role") not in ("user", "assistant"):
        return False
    content = value.get("content")
    return isinstance(content, list) and bool(content) and all(_is_block(block) for block in content)


def _is_block(block: Any) -> bool:
    return isinstance(block, dict) and "type" not in block and not _BLOCKS.isdisjoint(block)


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(is_message(m) for m in value)


def recognise(record: Any) -> bool:
    """Such messages, bare or under `messages`."""
    return _is_messages(record.get("messages") if isinstance(record, dict) else record)


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory; a reply that stands beside the messages under `output` is its last."""
    if isinstance(record, list):
        yield _conversation({}, items_of(raw))
        return
    fields = fields_of(raw)
    reply = object_of(fields.get("output")).get("message")
    outcome = outcome_fields(record)
    mapped = outcome.pop("mapped") | {"messages", "system", "toolConfig"}
    draft = _conversation(fields, [*items_of(fields["messages"]), *([reply] if reply is not None else [])])
    outcome.setdefault("task", draft.task)
    left = {**fields, **({"output": msgspec.Raw(_without_message(fields))} if reply is not None else {})}
    yield msgspec.structs.replace(draft, extra=remaining(left, mapped), **outcome)


def _without_message(fields: Fields) -> bytes:
    return json_object(rest(object_of(fields.get("output")), ("message",))).encode()


def is_logged_call(record: Any) -> bool:
    """`{request, response}` of this API, or a line of Bedrock's log of invocations."""
    request, response = _call_of(record)
    if not isinstance(request, dict) or not isinstance(response, dict) or not _is_messages(request.get("messages")):
        return False
    output = response.get("output")
    return isinstance(output, dict) and is_message(output.get("message"))


def _call_of(record: Any) -> tuple[Any, Any]:
    if not isinstance(record, dict):
        return None, None
    if "request" in record:
        return record["request"], record.get("response")
    asked, answered = record.get("input"), record.get("output")
    if isinstance(asked, dict) and isinstance(answered, dict):
        return asked.get("inputBodyJson"), answered.get("outputBodyJson")
    return None, None


def read_calls(records: list[SessionRecord]) -> Iterator[Draft]:
    """One trajectory a conversation: the last call of each repeats the ones before it."""
    calls = [_logged(fields_of(record.raw)) for record in records]
    told = [
        [*items_of(request["messages"]), fields_of(response["output"])["message"]] for request, response, _ in calls
    ]
    histories = [[_gist(message) for message in messages] for messages in told]
    for index in longest_paths(histories):
        request, response, left = calls[index]
        draft = _conversation(request, told[index])
        draft.record = records[index].key
        draft.ending = _ENDINGS.get(text_of(response.get("stopReason")), "unknown")
        draft.extra = json_object(
            {
                **left,
                "request": json_object(rest(request, ("messages", "system", "toolConfig"))),
                "response": json_object({**response, "output": _without_message(response)}),
            }
        )
        yield draft


def _logged(fields: Fields) -> tuple[Fields, Fields, Fields]:
    """Request, response, and what the line says beside them."""
    if "request" in fields:
        return fields_of(fields["request"]), fields_of(fields["response"]), rest(fields, ("request", "response"))
    asked, answered = fields_of(fields["input"]), fields_of(fields["output"])
    left: Fields = rest(fields, ("input", "output"))
    for name, side, body in (("input", asked, "inputBodyJson"), ("output", answered, "outputBodyJson")):
        left[name] = msgspec.Raw(json_object(rest(side, (body,))).encode())
    return fields_of(asked["inputBodyJson"]), fields_of(answered["outputBodyJson"]), left


def _gist(message: msgspec.Raw) -> str:
    """What makes a message the same when it is sent again: not its thoughts, nor marks of a cache."""
    fields = fields_of(message)
    blocks = [b for b in items_of(fields.get("content")) if object_of(b).keys() & {"text", "toolUse", "toolResult"}]
    return "\0".join([text_of(fields.get("role")), *(same_value(block) for block in blocks)])


def _conversation(request: Fields, messages: Iterable[msgspec.Raw]) -> Draft:
    """The messages in Anthropic's shape, which is read there."""
    system = request.get("system")
    asked: Fields = {} if system is None else {"system": json_array(_block(block) for block in items_of(system))}
    draft = anthropic.conversation(asked, [_message(message) for message in messages])
    tools = object_of(request.get("toolConfig")).get("tools")
    return msgspec.structs.replace(draft, tools=[bytes(tool).decode() for tool in items_of(tools)])


def _message(raw: msgspec.Raw) -> msgspec.Raw:
    fields = fields_of(raw)
    blocks = json_array(_block(block) for block in items_of(fields.get("content")))
    return msgspec.Raw(json_object({**fields, "content": blocks}).encode())


def _block(raw: msgspec.Raw) -> str:
    """A block as Anthropic's API would have it; its further fields as they are."""
    fields = fields_of(raw)
    name = next((n for n in fields if n in _BLOCKS), "")
    left = rest(fields, (name,))
    inner = object_of(fields.get(name))
    made: dict[str, Json | str]
    if name == "text":
        made = {"type": '"text"', "text": fields["text"]}
    elif name == "toolUse":
        made = {"type": '"tool_use"', **_renamed(inner, {"toolUseId": "id"})}
    elif name == "toolResult":
        made = {"type": '"tool_result"', **_renamed(inner, {"toolUseId": "tool_use_id"})}
        made["content"] = _result(items_of(inner.get("content")))
        if text_of(inner.get("status")) in ("success", "error"):
            del made["status"]
            made["is_error"] = "true" if text_of(inner.get("status")) == "error" else "false"
    elif name == "reasoningContent" and "reasoningText" in inner:
        thought = object_of(inner["reasoningText"])
        made = {"type": '"thinking"', **rest(inner, ("reasoningText",)), **_renamed(thought, {"text": "thinking"})}
    elif name == "reasoningContent":
        made = {"type": '"redacted_thinking"', **_renamed(inner, {"redactedContent": "data"})}
    else:
        made = {"type": msgspec.json.encode(name), **inner}
    return json_object({**made, **left})


def _renamed(fields: Fields, names: dict[str, str]) -> dict[str, Json | str]:
    return {names.get(name, name): raw for name, raw in fields.items()}


def _result(blocks: list[msgspec.Raw]) -> str:
    """Content of a result; one JSON value is the text as it was written."""
    if len(blocks) == 1 and "json" in object_of(blocks[0]):
        return bytes(object_of(blocks[0])["json"]).decode()
    texts = (
        json_object({"type": '"text"', "text": msgspec.json.encode(bytes(fields["json"]).decode())})
        if "json" in (fields := object_of(block))
        else _block(block)
        for block in blocks
    )
    return f"[{','.join(texts)}]"


FORMATS = (
    SessionFormat(
        "converse-calls", "logged calls of Bedrock's Converse API, its invocation logs too", is_logged_call, read_calls
    ),
    RecordFormat("converse", "messages of Bedrock's Converse API (`toolUse`, `toolResult`)", recognise, read),
)
