"""Items of OpenAI's Responses API: messages, reasoning, calls and their outputs, one after another."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from sadstream.formats.histories import longest_paths
from sadstream.formats.kinds import RecordFormat, SessionFormat, SessionRecord
from sadstream.formats.outcomes import outcome_fields, remaining
from sadstream.formats.pieces import AUTHORS, Piece, call, context, observation, say, thought, unreadable
from sadstream.formats.verbatim import (
    Fields,
    fields_of,
    is_object,
    items_of,
    json_object,
    noted,
    rest,
    same_value,
    string_of,
    text_of,
)
from sadstream.frames import Draft

_ROLES = ("user", "assistant", "system", "developer")
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
# Where a hosted tool's item has what it was asked, and where what came back: such a call has no output item.
_ASKED = ("arguments", "input", "action", "code", "queries", "revised_prompt")
_RETURNED = ("output", "outputs", "results", "error")
# Items of tools that the client runs: what it sends again is what the model wrote.
_CLIENTS = ("function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output")
_ENDINGS = {"completed": "finished", "incomplete": "truncated", "failed": "error", "cancelled": "aborted"}


def recognise(record: Any) -> bool:
    """Items with types that only this API has: bare, or under `input` or `output`."""
    if isinstance(record, list):
        return _has_items(record)
    if not isinstance(record, dict):
        return False
    given = [record[name] for name in ("input", "output") if isinstance(record.get(name), list)]
    return any(_has_items(items) for items in given) and isinstance(record.get("input", ""), list | str)


def _has_items(items: list[Any]) -> bool:
    return (
        bool(items)
        and all(isinstance(item, dict) and ("type" in item or item.get("role") in _ROLES) for item in items)
        and any(is_item(item) for item in items)
    )


def is_item(item: Any) -> bool:
    """Whether a value is an item of a type that only this API has."""
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        return False
    kind: str = item["type"]
    if kind == "message":
        content = item.get("content")
        typed = isinstance(content, list) and any(isinstance(b, dict) and b.get("type") in _TEXTS[:2] for b in content)
        return item.get("role") in _ROLES and typed
    if kind == "reasoning":
        return isinstance(item.get("summary"), list)
    is_call = kind.endswith("_call") and ("call_id" in item or "id" in item or "status" in item)
    return is_call or (kind.endswith("_output") and "call_id" in item)


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory; `instructions` are the first message, so items are numbered from 1 where they are given."""
    if isinstance(record, list):
        yield conversation({}, items_of(raw))
        return
    fields = fields_of(raw)
    outcome = outcome_fields({name: value for name, value in record.items() if name not in ("input", "output")})
    items = [*_input(fields), *items_of(fields.get("output"))]
    mapped = outcome.pop("mapped") | {"input", "output", "instructions", "tools"}
    draft = conversation(fields, items)
    outcome.setdefault("task", draft.task)
    if outcome.get("ending", "unknown") == "unknown":
        outcome["ending"] = _ENDINGS.get(string_of(fields.get("status")) or "", "unknown")
    yield msgspec.structs.replace(draft, extra=remaining(fields, mapped), **outcome)


def _input(request: Fields) -> list[msgspec.Raw]:
    """The request's items; a bare string is a user's message."""
    given = request.get("input")
    if given is not None and string_of(given) is not None:
        return [msgspec.Raw(json_object({"role": '"user"', "content": given}).encode())]
    return items_of(given)


def conversation(request: Fields, items: Sequence[msgspec.Raw]) -> Draft:
    """A request's instructions and tools, and the items after it."""
    pieces = instructions(request.get("instructions"))
    first = 1 if pieces else 0
    for index, item in enumerate(items, first):
        pieces += item_pieces(fields_of(item), message=index, acted=any(p["kind"] == "act" for p in pieces))
    asked = (p["text"] for p in pieces if p["author"] == "user" and p["kind"] == "context" and p["text"])
    tools = [bytes(tool).decode() for tool in items_of(request.get("tools"))]
    return Draft(pieces=pieces, task=next(asked, None), tools=tools)


def instructions(raw: msgspec.Raw | None) -> list[Piece]:
    """Instructions, which stand before all items."""
    text = string_of(raw)
    return [context(text, message=0, author="system")] if text else []


def item_pieces(item: Fields, *, message: int, acted: bool) -> list[Piece]:
    """Pieces of an item; what has no place in them stands in the first one's `extra`, under the item's own names.

    Args:
        acted: whether the agent acted before: then what a user says is an answer.
    """
    kind = string_of(item.get("type")) or "message"
    if kind == "message":
        return _message(item, message=message, acted=acted)
    if kind == "reasoning":
        return [_reasoning(item, message=message)]
    if kind.endswith("_call"):
        return _call(item, kind, message=message)
    if kind.endswith("_output"):
        text, opaque = content_text(item["output"] if "output" in item else item.get("tools"))
        names = (
            "call_id",
            "output" if "output" in item else "tools",
            *(["type"] if kind == "function_call_output" else []),
        )
        call_id = string_of(item.get("call_id"))
        return [observation(text, message=message, call_id=call_id, opaque=opaque, extra=_extra(item, names))]
    if kind == "agent_message":
        text, opaque = content_text(item.get("content"))
        if text:
            extra = _extra(item, ("content",))
            return [context(text, message=message, author="environment", opaque=opaque, extra=extra)]
    return [unreadable("context", [json_object(item)], message=message, author="environment")]


def _message(item: Fields, *, message: int, acted: bool) -> list[Piece]:
    author = AUTHORS.get(string_of(item.get("role")) or "", "user")
    about = _extra(item, ("role", "content"))
    content = item.get("content")
    text = string_of(content)
    pieces: list[Piece] = []
    blocks = [(text, None)] if text is not None else [_block(block) for block in items_of(content)]
    has_text = any(part for part, _ in blocks)
    for part, rest_of_block in blocks:
        opaque = [rest_of_block] if rest_of_block else []
        kind = "act" if author == "agent" else "observation" if acted and author == "user" else "context"
        if not part and (has_text or author == "agent"):
            if opaque:
                pieces.append(unreadable(kind, opaque, message=message, author=author))
            continue
        shown = part or _placeholder(rest_of_block)
        if author == "agent":
            pieces.append(say(shown, message=message, opaque=opaque))
        elif kind == "observation":
            pieces.append(observation(shown, message=message, author=author, opaque=opaque))
        else:
            pieces.append(context(shown, message=message, author=author, opaque=opaque))
    if not pieces:
        kind = "reason" if author == "agent" else "context"
        pieces = [unreadable(kind, [json_object(item)], message=message, author=author)]
    # The role of a system's message may be `developer`, and a turn's phase matters to who replays it.
    role = {"role": item["role"]} if string_of(item.get("role")) == "developer" else {}
    return [noted(pieces[0], {**(fields_of(about.encode()) if about else {}), **role}), *pieces[1:]]


def _block(raw: msgspec.Raw) -> tuple[str | None, str | None]:
    """Text of a content block, and as JSON what else it holds."""
    block = fields_of(raw)
    name = "text" if "text" in block else "refusal"
    text = string_of(block.get(name))
    if text is None:
        return None, json_object(block)
    left = {k: v for k, v in rest(block, ("type", name)).items() if bytes(v) not in (b"[]", b"null", b"{}")}
    usual = string_of(block.get("type")) in _TEXTS
    return text, json_object(rest(block, (name,))) if left or not usual else None


def _placeholder(block: str | None) -> str:
    kind = string_of(fields_of(block.encode()).get("type")) if block else None
    return f"[{(kind or 'content').removeprefix('input_')}]"


def _reasoning(item: Fields, *, message: int) -> Piece:
    """Readable content, else the summary; the encrypted thought beside it, or alone."""
    content, summary = (_joined(item.get(name)) for name in ("content", "summary"))
    shown = "content" if content else "summary"
    encrypted = item.get("encrypted_content")
    opaque = [bytes(encrypted).decode()] if encrypted is not None and bytes(encrypted) != b"null" else []
    mapped = ["type", shown, *(["encrypted_content"] if opaque else [])]
    text = content or summary
    if not text and not opaque:
        opaque = [json_object(item)]
    return thought(text, message=message, hidden=True, opaque=opaque, extra=_extra(item, mapped))


def _joined(raw: msgspec.Raw | None) -> str:
    texts = (string_of(fields_of(part).get("text")) for part in items_of(raw) if is_object(part))
    return "\n\n".join(text for text in texts if text)


def _call(item: Fields, kind: str, *, message: int) -> list[Piece]:
    asked = next((name for name in _ASKED if name in item), "arguments")
    name = string_of(item.get("name"))
    free_text = asked == "input" and string_of(item.get("input")) is not None
    native = string_of(item.get("call_id")) or string_of(item.get("id"))
    returned = next((n for n in _RETURNED if n in item and bytes(item[n]) not in (b"null", b"[]")), None)
    mapped = {asked, *(["name"] if name is not None else []), *([returned] if returned else [])}
    mapped |= {"call_id"} if string_of(item.get("call_id")) else {"id"} if native else set()
    if kind == "function_call":
        mapped.add("type")
    pieces = [
        call(
            name if name is not None else kind.removesuffix("_call"),
            text_of(item.get(asked)),
            message=message,
            syntax="text" if free_text else "code" if asked == "code" else "json",
            call_id=native,
            extra=_extra(item, mapped),
        )
    ]
    if returned:
        text, opaque = content_text(item[returned])
        notes = json_object({"type": item["type"], "field": f'"{returned}"'})
        pieces.append(
            observation(
                text, message=message, call_id=native, opaque=opaque, error=returned == "error" or None, extra=notes
            )
        )
    return pieces


def content_text(raw: msgspec.Raw | None) -> tuple[str, list[str]]:
    """Text of an output, and as JSON what in it is no text.

    A string is the text; text blocks are joined by line breaks; anything else is the text as the log wrote it.
    """
    blocks = [fields_of(block) for block in items_of(raw) if is_object(block)]
    if not blocks or len(blocks) != len(items_of(raw)) or not all(_is_content(block) for block in blocks):
        return text_of(raw), []
    texts = [text for block in blocks if (text := string_of(block.get("text"))) is not None]
    opaque = [json_object(block) for block in blocks if string_of(block.get("text")) is None]
    if not any(texts) and opaque:
        texts = [" ".join(_placeholder(text) for text in opaque)]
    return "\n".join(texts), opaque


def _is_content(block: Fields) -> bool:
    kind = string_of(block.get("type"))
    return kind in _TEXTS or kind in ("input_image", "input_file", "image", "encrypted_content")


def _extra(item: Fields, mapped: Iterable[str]) -> str | None:
    left = rest(item, mapped)
    return json_object(left) if left else None


def is_logged_call(record: Any) -> bool:
    """`{request, response}` of the Responses API."""
    if not isinstance(record, dict):
        return False
    request, response = record.get("request"), record.get("response")
    return (
        isinstance(request, dict)
        and "input" in request
        and "messages" not in request
        and isinstance(response, dict)
        and isinstance(response.get("output"), list)
    )


def read_calls(records: list[SessionRecord]) -> Iterator[Draft]:
    """One trajectory a conversation: the last call of each repeats the ones before it, or names the one before."""
    calls = [fields_of(record.raw) for record in records]
    requests = [fields_of(logged.get("request")) for logged in calls]
    responses = [fields_of(logged.get("response")) for logged in calls]
    told: list[list[msgspec.Raw]] = []
    by_id: dict[str, list[msgspec.Raw]] = {}
    for request, response in zip(requests, responses, strict=True):
        before = by_id.get(string_of(request.get("previous_response_id")) or "", [])
        told.append([*before, *_input(request), *items_of(response.get("output"))])
        if native := string_of(response.get("id")):
            by_id[native] = told[-1]
    numbers: dict[str, int] = {}
    histories = [
        [numbers.setdefault(gist, len(numbers)) for item in items if (gist := _gist(fields_of(item)))] for items in told
    ]
    for index in longest_paths(histories):
        draft = conversation(requests[index], told[index])
        draft.record = records[index].key
        draft.ending = _ENDINGS.get(string_of(responses[index].get("status")) or "", "unknown")
        draft.extra = json_object(
            {
                **rest(calls[index], ("request", "response")),
                "request": json_object(rest(requests[index], ("input", "instructions", "tools"))),
                "response": json_object(rest(responses[index], ("output", "instructions", "tools"))),
            }
        )
        yield draft


def _gist(item: Fields) -> str:
    """What makes an item the same when it is sent again; nothing for what a client may leave out.

    Clients rewrite more than one thinks: ids get a prefix, a hosted search other arguments, reasoning is dropped.
    """
    kind = string_of(item.get("type")) or "message"
    if kind in ("reasoning", "additional_tools"):
        return ""
    if kind == "message":
        text, opaque = content_text(item.get("content"))
        return "\0".join([kind, text_of(item.get("role")), text, *opaque])
    told = ("name", "arguments", "input", "output") if kind in _CLIENTS else ()
    return " ".join([kind, *(same_value(item[name]) for name in told if name in item)])


FORMATS = (
    SessionFormat(
        "responses-calls", "logged calls of OpenAI's Responses API, `{request, response}`", is_logged_call, read_calls
    ),
    RecordFormat("responses", "items of OpenAI's Responses API", recognise, read),
)
