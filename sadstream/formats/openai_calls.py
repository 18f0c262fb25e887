"""Logged calls of the OpenAI chat API, each of which repeats the history: request and response, streamed or not."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from sadstream.formats import crewai, react_chat
from sadstream.formats.content import content_of
from sadstream.formats.histories import longest_paths
from sadstream.formats.kinds import SessionFormat, SessionRecord
from sadstream.formats.openai_chat import TOOLS, conversation, is_logged_call, tool_list
from sadstream.formats.verbatim import (
    Fields,
    Json,
    fields_of,
    is_object,
    items_of,
    json_array,
    json_object,
    rest,
    same_value,
    string_of,
    text_of,
)
from sadstream.frames import Draft

_ENDINGS = {"length": "truncated", "max_tokens": "truncated", "content_filter": "error"}


class _Logged(NamedTuple):
    record: SessionRecord
    fields: Fields
    request: Fields
    messages: list[msgspec.Raw]
    reply: msgspec.Raw
    ending: str

    @property
    def history(self) -> tuple[str, ...]:
        return tuple(_gist(fields_of(message)) for message in (*self.messages, self.reply))


def read_calls(records: list[SessionRecord]) -> Iterator[Draft]:
    """One trajectory a conversation: the last call of each repeats those before it.

    A client sends a reply back without its reasoning, so each reply stands as it was first received.
    """
    calls = [_logged(record) for record in records]
    histories = [c.history for c in calls]
    replies = {history: c.reply for history, c in zip(histories, calls, strict=True)}
    for index in longest_paths(histories):
        logged, history = calls[index], histories[index]
        received = [
            message if _is_told_more(message) else replies.get(history[: at + 1], message)
            for at, message in enumerate(logged.messages)
        ]
        draft = _said([*received, logged.reply])
        draft.record = logged.record.key
        draft.ending = draft.ending if logged.ending == "unknown" else logged.ending
        name = next((n for n in TOOLS if n in logged.request), "tools")
        draft.tools = tool_list(logged.request.get(name)) or []
        draft.extra = _call_extra(logged, {"messages", *([name] if draft.tools else [])})
        yield draft


def _said(messages: list[msgspec.Raw]) -> Draft:
    """The conversation, its text cut by labels where the agent writes ReAct's."""
    raw = bytes(json_array(messages))
    values = msgspec.json.decode(raw)
    for known in (crewai, react_chat):
        if known.recognise(values):
            return next(iter(known.read(values, raw)))
    return conversation(messages)


def _is_told_more(message: msgspec.Raw) -> bool:
    """Whether a framework appended to the agent's words what came back, as CrewAI does."""
    fields = fields_of(message)
    text = string_of(fields.get("content")) or ""
    return text_of(fields.get("role")) == "assistant" and crewai.own_words(text) != text


def _call_extra(logged: _Logged, mapped: set[str]) -> str:
    response: dict[str, Json | str] = {}
    if _is_streamed(logged.fields["response"]):
        for chunk in _chunks(logged.fields["response"]):
            response |= {name: raw for name, raw in rest(chunk, ("choices",)).items() if bytes(raw) != b"null"}
    else:
        response = {**rest(fields_of(logged.fields["response"]), ("choices",))}
        choices = items_of(fields_of(logged.fields["response"])["choices"])
        told = ("message", *_with_its_logprobs(fields_of(choices[0])))
        response["choices"] = json_array([json_object(rest(fields_of(choices[0]), told)), *choices[1:]])
    about: dict[str, Json | str] = {**rest(logged.fields, {"request", "response", *mapped})}
    if "request" in logged.fields:
        about["request"] = json_object(rest(logged.request, mapped))
    return json_object({**about, "response": json_object(response)} if response else about)


def _logged(record: SessionRecord) -> _Logged:
    fields = fields_of(record.raw)
    request = fields_of(fields["request"]) if "request" in fields else fields
    response = fields["response"]
    choice = _streamed(response) if _is_streamed(response) else fields_of(items_of(fields_of(response)["choices"])[0])
    ending = _ENDINGS.get(string_of(choice.get("finish_reason")) or "", "unknown")
    message = json_object({**fields_of(choice["message"]), **_with_its_logprobs(choice)})
    return _Logged(record, fields, request, items_of(request["messages"]), msgspec.Raw(message.encode()), ending)


def _with_its_logprobs(choice: Fields) -> Fields:
    """The logprobs of a reply's tokens, which go with its message: the calls before the last are kept as messages."""
    return {"logprobs": choice["logprobs"]} if is_object(choice.get("logprobs")) else {}


def _is_streamed(response: msgspec.Raw) -> bool:
    """Whether it is events in a string or chunks in a list; a whole completion is an object."""
    return not is_object(response)


def _streamed(response: msgspec.Raw) -> Fields:
    """The first choice of a streamed response: deltas put together."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    calls: dict[Any, dict[str, Any]] = {}
    logprobs: dict[str, list[Any]] = {}
    finish: Any = None
    for chunk in _chunks(response):
        choices = msgspec.json.decode(chunk.get("choices", b"null"), type=list[_Choice] | None)
        for choice in (c for c in choices or () if not c.index):
            finish = choice.finish_reason or finish
            for name, tokens in (choice.logprobs if isinstance(choice.logprobs, dict) else {}).items():
                logprobs.setdefault(name, []).extend(tokens if isinstance(tokens, list) else ())
            for name, value in (choice.delta or {}).items():
                if name == "tool_calls":
                    _join_calls(calls, value)
                elif isinstance(value, str) and name != "role":
                    message[name] = (message.get(name) or "") + value
                elif value is not None and name != "role":
                    message[name] = value
    if calls:
        message["tool_calls"] = list(calls.values())
    told = {"logprobs": logprobs} if logprobs else {}
    return fields_of(msgspec.json.encode({"message": message, "finish_reason": finish, **told}))


def _chunks(response: msgspec.Raw) -> Iterator[Fields]:
    """Of a list of them, or of the events as they were sent."""
    yield from map(fields_of, items_of(response))
    for line in (string_of(response) or "").split("\n"):
        if line.startswith("data:") and line[5:].strip() != "[DONE]":
            yield fields_of(line[5:].encode())


class _Choice(msgspec.Struct):
    index: int = 0
    delta: dict[str, Any] | None = None
    finish_reason: str | None = None
    logprobs: Any = None


class _CallDelta(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: dict[str, str | None] | None = None


def _join_calls(calls: dict[Any, dict[str, Any]], value: Any) -> None:
    for delta in msgspec.convert(value or [], list[_CallDelta]):
        made = calls.setdefault(
            delta.index, {"id": None, "type": "function", "function": {"name": "", "arguments": ""}}
        )
        made["id"] = made["id"] or delta.id
        for name, part in (delta.function or {}).items():
            made["function"][name] = made["function"].get(name, "") + (part or "")


def _gist(message: Fields) -> str:
    """What makes a message the same when it is sent again: not its reasoning, nor fields that are null."""
    text, _ = content_of(message.get("content"))
    role = text_of(message.get("role"))
    text = crewai.own_words(text) if role == "assistant" else text
    told = [role, text.strip(), text_of(message.get("tool_call_id"))]
    for raw in items_of(message.get("tool_calls")):
        fields = fields_of(raw)
        function = fields_of(fields["function"]) if is_object(fields.get("function")) else fields
        told += [text_of(fields.get("id")), text_of(function.get("name")), text_of(function.get("arguments"))]
    if is_object(message.get("function_call")):
        told.append(same_value(message["function_call"]))
    return "\0".join(told)


FORMATS = (
    SessionFormat(
        "openai-calls", "logged calls of the OpenAI chat API, request and response", is_logged_call, read_calls
    ),
)
