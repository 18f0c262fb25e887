"""Messages with the reply to them beside them: logged calls of any chat model, Ollama's among them."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from sadstream.formats import anthropic, converse, inspect_ai, openai_chat, responses
from sadstream.formats.bare_messages import author_of, is_messages, read_messages
from sadstream.formats.histories import longest_paths
from sadstream.formats.kinds import SessionFormat, SessionRecord
from sadstream.formats.verbatim import (
    Fields,
    fields_of,
    is_object,
    items_of,
    json_array,
    json_object,
    object_of,
    rest,
    same_value,
    string_of,
    text_of,
)
from sadstream.frames import Draft

Path = tuple[str | int, ...]

_PROMPTS = (
    "messages",
    "prompt",
    "query",
    "request",
    "request_body",
    "input",
    "inputs",
    "conversation",
    "history",
    "chat_history",
)
_REPLIES = ("response", "response_body", "completion", "output", "outputs", "reply", "choices", "message")
# In words alone these are options of a question, and a status: `OK`, `rate limited`.
_NOT_IN_WORDS = ("choices", "message")
# Where a reply may stand in what was returned: OpenAI's, Ollama's, the AI SDK's, and homemade ones.
_PLACES: tuple[Path, ...] = (
    ("choices", 0, "message"),
    (0, "message"),
    ("body", "choices", 0, "message"),
    ("message",),
    ("messages",),
    ("content",),
    ("text",),
    ("output",),
    (0,),
)
# Where messages may stand in what was sent.
_WITHIN: tuple[Path, ...] = ((), ("messages",), ("body", "messages"))
# What of a request stands beside its messages, and is looked for there.
_ASKED = ("system", "tools", "functions")
_ENDINGS = {"length": "truncated", "max_tokens": "truncated", "content_filter": "error"}
_ENDED = ("finish_reason", "done_reason", "stop_reason")
# Other readers know more of these, though they hold a list of messages and something returned.
_OTHERS = (
    openai_chat.is_logged_call,
    openai_chat.recognise_completion,
    anthropic.is_logged_call,
    converse.is_logged_call,
    converse.recognise,
    responses.recognise,
    inspect_ai.recognise_log,
    inspect_ai.recognise_sample,
)


def recognise(record: Any) -> bool:
    """Messages of which the last is not the agent's, and a reply of the agent's beside them."""
    return isinstance(record, dict) and _found(record) is not None


def _found(record: dict[str, Any]) -> tuple[Path, Path] | None:
    """Where a record has its messages, and where the reply to them."""
    reply = next((n for n in _REPLIES if n in record and not (n in _NOT_IN_WORDS and _is_in_words(record[n]))), None)
    if reply is None or "trajectory_format" in record or "schema_version" in record:
        return None
    prompt = _prompt_path(record)
    place = reply_path(record[reply]) if prompt is not None else None
    if prompt is None or place is None or any(known(record) for known in _OTHERS):
        return None
    return prompt, (reply, *place)


def _is_in_words(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and any(isinstance(item, str) for item in value))


def _prompt_path(record: dict[str, Any]) -> Path | None:
    """Where the messages stand; None where there are none, or where the agent has the last word in them."""
    for name in _PROMPTS:
        given = record.get(name)
        for within in _WITHIN:
            messages = _at(given, within)
            if isinstance(messages, list) and is_messages(messages):
                return (name, *within) if author_of(messages[-1]) in ("system", "user", "environment") else None
        if name == "messages" and name in record:
            return None
    return None


def reply_path(value: Any) -> Path | None:
    """Where in what was returned the agent's reply stands: a text, a message, or messages; None where there is none.

    >>> reply_path("Yes."), reply_path({"choices": [{"message": {"role": "assistant", "content": "Yes."}}]})
    ((), ('choices', 0, 'message'))
    >>> reply_path({"n_tokens": 3}) is None
    True
    """
    if _is_reply(value):
        return ()
    if isinstance(value, dict) and "role" in value:
        return None
    return next((path for path in _PLACES if _is_reply(_at(value, path))), None)


def _at(value: Any, path: Path) -> Any:
    for step in path:
        if isinstance(step, int) and isinstance(value, list) and len(value) > step:
            value = value[step]
        elif isinstance(step, str) and isinstance(value, dict):
            value = value.get(step)
        else:
            return None
    return value


def _is_reply(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    messages = value if isinstance(value, list) else [value]
    return is_messages(messages) and author_of(messages[0]) == "agent"


def reply_messages(raw: msgspec.Raw) -> list[msgspec.Raw]:
    """A reply as messages: a text is the agent's words."""
    if is_object(raw):
        return [raw]
    return items_of(raw) or [msgspec.Raw(json_object({"role": '"assistant"', "content": raw}).encode())]


def raw_at(raw: msgspec.Raw | bytes, path: Path) -> msgspec.Raw:
    """The value at a place, as it was written."""
    for step in path:
        raw = items_of(raw)[step] if isinstance(step, int) else fields_of(raw)[step]
    return msgspec.Raw(bytes(raw))


def _without(raw: msgspec.Raw | bytes, path: Path) -> msgspec.Raw:
    """A value without what stands at a place in it."""
    first, *others = path
    if isinstance(first, int):
        items = items_of(raw)
        return json_array(
            [*items[:first], *([_without(items[first], tuple(others))] if others else []), *items[first + 1 :]]
        )
    fields = fields_of(raw)
    left = rest(fields, (first,))
    if others:
        within = _without(fields[first], tuple(others))
        left = left if bytes(within) in (b"{}", b"[]", b"[{}]") else {**left, first: within}
    return msgspec.Raw(json_object(left).encode())


class _Logged(NamedTuple):
    """A call: all but its messages, those, what makes them the same when they are sent again, and how it ended."""

    about: Fields
    messages: list[msgspec.Raw]
    history: tuple[str, ...]
    ending: str


def read_calls(records: list[SessionRecord]) -> Iterator[Draft]:
    """One trajectory a conversation: the last call of each repeats the ones before it.

    The messages and the reply are read as a list of them would be, by whichever format knows them. A reply that was
    logged with its logprobs keeps them where it is sent back without.
    """
    calls = [_logged(record) for record in records]
    with_logprobs = {c.history: c.messages[-1] for c in calls if "logprobs" in object_of(c.messages[-1])}
    for index in longest_paths([logged.history for logged in calls]):
        about, messages, history, ending = calls[index]
        told = [with_logprobs.get(history[: at + 1], message) for at, message in enumerate(messages)]
        raw = json_object({**about, "messages": json_array(told)}).encode()
        for draft in read_messages(msgspec.json.decode(raw), raw):
            draft.record = records[index].key
            draft.ending = draft.ending if ending == "unknown" else ending
            yield draft


def _logged(record: SessionRecord) -> _Logged:
    """The record with all its messages under `messages`, the reply last."""
    found = _found(record.value)
    assert found is not None
    prompt, reply = found
    replies = reply_messages(raw_at(record.raw, reply))
    left = _without(_without(record.raw, reply), prompt)
    beside = (*reply[:-1], "logprobs")
    logprobs = _at(record.value, beside)
    if isinstance(logprobs, dict | list) and len(replies) == 1 and not text_of(fields_of(replies[0]).get("logprobs")):
        told = {**fields_of(replies[0]), "logprobs": raw_at(record.raw, beside)}
        replies = [msgspec.Raw(json_object(told).encode())]
        left = _without(left, beside)
    messages = [*items_of(raw_at(record.raw, prompt)), *replies]
    asked = rest(fields_of(raw_at(record.raw, prompt[:-1])), ("messages",)) if len(prompt) > 1 else {}
    lifted = {n: asked[n] for n in _ASKED if n in asked and n not in record.value}
    for n in lifted:
        left = _without(left, (*prompt[:-1], n))
    about = {**lifted, **rest(fields_of(left), ("messages",))}
    return _Logged(about, messages, tuple(map(_gist, messages)), _ending(record.raw, reply))


def _ending(raw: bytes, reply: Path) -> str:
    """How the reply ended, by what stands beside it or around it."""
    for n in range(len(reply)):
        around = object_of(raw_at(raw, reply[: n + 1]))
        said = next((text_of(around[name]) for name in _ENDED if name in around), "")
        if said in _ENDINGS:
            return _ENDINGS[said]
    return "unknown"


def _gist(raw: msgspec.Raw) -> str:
    """What makes a message the same when it is sent again: not its thoughts, its ids or how its text is wrapped."""
    fields = fields_of(raw)
    told = [text_of(fields.get("role")), *_gists_of(fields.get("content"))]
    calls: Sequence[Fields] = [object_of(call) for call in items_of(fields.get("tool_calls"))]
    told += [same_value(call["function"] if "function" in call else call.get("name")) for call in calls]
    return "\0".join(told)


def _gists_of(content: msgspec.Raw | None) -> list[str]:
    gists = []
    for block in items_of(content):
        fields = object_of(block)
        text = string_of(fields.get("text"))
        kind = text_of(fields.get("type"))
        if text is not None:
            gists.append(text.strip())
        elif not kind.endswith(("thinking", "reasoning")):
            gists.append(same_value(block))
    return [text for text in gists or [text_of(content).strip()] if text]


FORMATS = (
    SessionFormat(
        "chat-calls",
        "messages with the reply beside them: `{messages, response}`, Ollama's `{request, response}`",
        recognise,
        read_calls,
    ),
)
