"""Attributes of spans about models and agents: one set of names for what the conventions in use call differently.

OpenTelemetry's own (`gen_ai.input.messages`, before that an event a message), OpenLLMetry's (`gen_ai.prompt.0.role`)
and OpenInference's (`llm.input_messages.0.message.role`).
"""

import re
from typing import Any

import msgspec

from sadstream.formats.content import content_of
from sadstream.formats.verbatim import Fields, Json, fields_of, first_of, is_object, items_of, json_object, text_of

OPERATION = ("gen_ai.operation.name",)
INPUT = ("gen_ai.input.messages", "gen_ai.prompt")
OUTPUT = ("gen_ai.output.messages", "gen_ai.output", "gen_ai.completion")
SYSTEM = ("gen_ai.system_instructions",)
TOOLS = ("gen_ai.tool.definitions",)
TOOL_NAME = ("gen_ai.tool.name",)
TOOL_ARGUMENTS = ("gen_ai.tool.call.arguments", "gen_ai.tool.args")
TOOL_RESULT = ("gen_ai.tool.call.result", "gen_ai.output", "gen_ai.tool.output")
TOOL_ID = ("gen_ai.tool.call.id",)

_MAPPED = frozenset((*INPUT, *OUTPUT, *SYSTEM, *TOOLS, *TOOL_NAME, *TOOL_ARGUMENTS, *TOOL_RESULT, *TOOL_ID))
_PREFIXES = ("gen_ai.", "llm.input_messages.", "llm.output_messages.", "openinference.", "traceloop.")
_OTLP_VALUES = ("stringValue", "intValue", "boolValue", "doubleValue", "bytesValue")
_INDEXED = (
    (INPUT[0], "user", re.compile(r"(?:gen_ai\.prompt|llm\.input_messages)\.(\d+)\.(?:message\.)?(.+)", re.S)),
    (
        OUTPUT[0],
        "assistant",
        re.compile(r"(?:gen_ai\.completion|llm\.output_messages)\.(\d+)\.(?:message\.)?(.+)", re.S),
    ),
)
_CALL = re.compile(r"tool_calls\.(\d+)\.(?:tool_call\.)?(?:function\.)?(\w+)")
_CONTENT = re.compile(r"contents?\.(\d+)\.(?:message_content\.)?(\w+)")
_FUNCTION = re.compile(r"llm\.request\.functions\.(\d+)\.(\w+)|llm\.tools\.(\d+)\.tool\.json_schema")
# Names of the kinds of span elsewhere, and of what they say of tools.
_KINDS = ("openinference.span.kind", "traceloop.span.kind")
_OPERATIONS = {"LLM": "chat", "AGENT": "invoke_agent", "TOOL": "execute_tool"}
_OF_TOOLS = {
    TOOL_NAME[0]: ("tool.name", "traceloop.entity.name"),
    TOOL_ARGUMENTS[0]: ("tool.parameters", "input.value", "traceloop.entity.input"),
    TOOL_RESULT[0]: ("output.value", "traceloop.entity.output"),
    TOOL_ID[0]: ("tool_call.id", "tool.id"),
}
_EVENT = re.compile(r"gen_ai\.(system|user|assistant|tool)\.message")


def is_about_agents(name: str) -> bool:
    """Whether an attribute's name is of a convention for models and agents."""
    return name.startswith(_PREFIXES)


def is_mapped(name: str) -> bool:
    """Whether what an attribute says became pieces or tools."""
    return (
        name in _MAPPED or any(pattern.fullmatch(name) for *_, pattern in _INDEXED) or bool(_FUNCTION.fullmatch(name))
    )


def known_attributes(span: Fields) -> Fields:
    """Attributes of a span by name, and of its events where they hold messages; all under OpenTelemetry's names."""
    attributes = _attributes(span.get("attributes"))
    _add_indexed(attributes)
    _add_operation(attributes, span)
    _add_events(attributes, [fields_of(event) for event in items_of(span.get("events")) if is_object(event)])
    return attributes


def _attributes(raw: Json | None) -> Fields:
    """Attributes by name, of an object or of OTLP's list of `{key, value: {stringValue}}`."""
    if is_object(raw):
        return fields_of(raw)
    found: Fields = {}
    for item in filter(is_object, items_of(raw)):
        pair = fields_of(item)
        value = pair.get("value")
        if value is None:
            continue
        inner = fields_of(value) if is_object(value) else {}
        found[text_of(pair.get("key"))] = first_of(inner, _OTLP_VALUES) or value
    return found


def _add_indexed(attributes: Fields) -> None:
    """Messages and tools that are spread over attributes with an index in their names."""
    for name, role, pattern in _INDEXED:
        found: dict[int, Fields] = {}
        for key in attributes:
            match = pattern.fullmatch(key)
            if match:
                found.setdefault(int(match[1]), {})[match[2]] = attributes[key]
        if found and name not in attributes:
            attributes[name] = _list([_message(found[index], role) for index in sorted(found)])
    functions: dict[int, Fields] = {}
    for key in attributes:
        match = _FUNCTION.fullmatch(key)
        if match:
            functions.setdefault(int(match[1] or match[3]), {})[match[2] or ""] = attributes[key]
    if functions and TOOLS[0] not in attributes:
        attributes[TOOLS[0]] = _list([_definition(functions[index]) for index in sorted(functions)])


def _list(items: list[str]) -> msgspec.Raw:
    return msgspec.Raw(f"[{','.join(items)}]".encode())


def _message(flat: Fields, role: str) -> str:
    """A message of fields as `role`, `tool_calls.0.name`, `contents.0.message_content.text`.

    Args:
        role: where none is named.
    """
    message: dict[str, Json | str] = {"role": f'"{role}"'}
    calls: dict[int, Fields] = {}
    contents: dict[int, Fields] = {}
    for name, raw in flat.items():
        call, content = _CALL.fullmatch(name), _CONTENT.fullmatch(name)
        if call:
            calls.setdefault(int(call[1]), {})[call[2]] = raw
        elif content:
            contents.setdefault(int(content[1]), {})[content[2]] = raw
        elif name == "tool_calls":
            message[name] = text_of(raw) or "[]"
        else:
            message[name] = _unwrapped(raw) if name == "content" else raw
    if calls:
        message["tool_calls"] = f"[{','.join(json_object(calls[index]) for index in sorted(calls))}]"
    if contents and "content" not in message:
        texts = [text_of(contents[index].get("text")) for index in sorted(contents)]
        message["content"] = msgspec.json.encode("".join(texts)).decode()
        others = [json_object(c) for c in contents.values() if "text" not in c]
        if others:
            message["contents"] = f"[{','.join(others)}]"
    return json_object(message)


def _unwrapped(raw: msgspec.Raw) -> msgspec.Raw:
    """The text of a content that is a list of blocks written as a string; any other as it is."""
    text = text_of(raw)
    if not text.startswith("[{"):
        return raw
    try:
        inner, opaque = content_of(text.encode())
    except msgspec.DecodeError:
        return raw
    return raw if opaque else msgspec.Raw(msgspec.json.encode(inner))


def _definition(fields: Fields) -> str:
    schema = text_of(fields.get(""))
    if schema:
        return schema if _is_json(schema) else msgspec.json.encode(schema).decode()
    parameters = text_of(fields.get("parameters"))
    function: dict[str, Json | str] = {**fields}
    if _is_json(parameters):
        function["parameters"] = parameters
    return f'{{"type":"function","function":{json_object(function)}}}'


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _add_operation(attributes: Fields, span: Fields) -> None:
    kind = text_of(first_of(attributes, _KINDS)).upper()
    operation = _OPERATIONS.get(kind)
    if operation is None or OPERATION[0] in attributes:
        return
    attributes[OPERATION[0]] = msgspec.Raw(msgspec.json.encode(operation))
    if operation != "execute_tool":
        return
    for name, others in _OF_TOOLS.items():
        found = first_of(attributes, (name, *others))
        if found is not None:
            attributes[name] = found
    attributes.setdefault(TOOL_NAME[0], span.get("name", msgspec.Raw(b'""')))


def _add_events(attributes: Fields, events: list[Fields]) -> None:
    """Messages that a span's events hold: all in one event, or an event a message."""
    inputs: list[str] = []
    outputs: list[str] = []
    for event in events:
        name, about = text_of(event.get("name")), _attributes(event.get("attributes"))
        said = _EVENT.fullmatch(name)
        if said:
            inputs.append(_event_message(about, said[1]))
        elif name == "gen_ai.choice":
            outputs.append(_event_message(about, "assistant"))
        else:
            for known in (*INPUT, *OUTPUT, *SYSTEM, *TOOLS):
                if known in about:
                    attributes.setdefault(known, about[known])
    if inputs:
        attributes.setdefault(INPUT[0], _list(inputs))
    if outputs:
        attributes.setdefault(OUTPUT[0], _list(outputs))


def _event_message(about: Fields, role: str) -> str:
    inner = about.get("message")
    text = text_of(inner)
    fields: dict[str, Any] = {**about}
    if inner is not None and text.lstrip().startswith("{") and _is_json(text):
        fields = {**{n: raw for n, raw in about.items() if n != "message"}, **fields_of(text.encode())}
    calls = fields.get("tool_calls")
    if calls is not None and _is_json(text_of(calls)):
        fields["tool_calls"] = text_of(calls)
    if role == "tool" and "id" in fields:
        fields["tool_call_id"] = fields.pop("id")
    fields.setdefault("role", msgspec.Raw(msgspec.json.encode(role)))
    return json_object(fields)
