"""Anthropic messages: typed content blocks, of single conversations and of logged calls."""

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

_REMINDER = ("<system-reminder>", "</system-reminder>")
_OWN_BLOCKS = ("tool_use", "tool_result", "thinking", "redacted_thinking", "server_tool_use", "mcp_tool_use")
_MEDIA = ("image", "document", "file", "audio", "video", "container_upload")
_ENDINGS = {"end_turn": "finished", "stop_sequence": "finished", "max_tokens": "truncated"}


def recognise(record: Any) -> bool:
    """Messages with blocks that only Anthropic has, or beside tools with `input_schema`; bare or under `messages`."""
    messages = record.get("messages") if isinstance(record, dict) else record
    if not isinstance(messages, list) or not messages or not all(_is_message(m) for m in messages):
        return False
    blocks = [b for m in messages if isinstance(m["content"], list) for b in m["content"]]
    if any(_is_own(b) for b in blocks):
        return True
    return isinstance(record, dict) and (_has_tools(record) or ("max_tokens" in record and "system" in record))


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("role") in ("user", "assistant", "system")
        and isinstance(value.get("content"), str | list)
        and not any(value.get(name) for name in ("tool_calls", "function_call", "tool_call_id"))
    )


def _is_own(block: Any) -> bool:
    if not isinstance(block, dict) or not isinstance(block.get("type"), str):
        return False
    kind: str = block["type"]
    if kind == "thinking":
        return "thinking" in block
    return kind in _OWN_BLOCKS or (kind.endswith("_tool_result") and "tool_use_id" in block)


def _has_tools(record: dict[str, Any]) -> bool:
    tools = record.get("tools")
    return isinstance(tools, list) and any(isinstance(t, dict) and "input_schema" in t for t in tools)


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory; `system` is the first message, so those of `messages` are numbered from 1 where it is given."""
    if isinstance(record, list):
        yield conversation({}, items_of(raw))
        return
    fields = fields_of(raw)
    outcome = outcome_fields(record)
    mapped = outcome.pop("mapped") | {"messages", "system", "tools"}
    draft = conversation(fields, items_of(fields.get("messages")))
    outcome.setdefault("task", draft.task)
    yield msgspec.structs.replace(draft, extra=remaining(fields, mapped), **outcome)


def conversation(request: Fields, messages: Sequence[msgspec.Raw]) -> Draft:
    """A request's system prompt and tools, and the messages after it."""
    pieces = system_pieces(request.get("system"))
    first = 1 if pieces else 0
    for index, raw in enumerate(messages, first):
        pieces += message_pieces(fields_of(raw), message=index, acted=has_acted(pieces))
    return Draft(
        pieces=pieces,
        task=first_request(pieces),
        tools=[bytes(tool).decode() for tool in items_of(request.get("tools"))],
    )


def has_acted(pieces: Iterable[Piece]) -> bool:
    """Whether the agent has acted: then what a user says is an answer."""
    return any(piece["kind"] == "act" for piece in pieces)


def first_request(pieces: Iterable[Piece]) -> str | None:
    """The first words of a user that are no reminder."""
    asked = (p["text"] for p in pieces if p["author"] == "user" and p["text"] and not is_reminder(p["text"]))
    return next(asked, None)


def is_reminder(text: str) -> bool:
    """Whether a text is one that the harness puts into the user's mouth."""
    return text.lstrip().startswith(_REMINDER[0])


def system_pieces(raw: msgspec.Raw | None, *, message: int = 0) -> list[Piece]:
    """A system prompt: a string, or text blocks."""
    text = string_of(raw)
    if text is not None:
        return [context(text, message=message, author="system")] if text else []
    return [
        p for block in items_of(raw) for p in _said(fields_of(block), message=message, author="system", acted=False)
    ]


def message_pieces(
    fields: Fields, *, message: int, acted: bool, calls: bool | None = None, notes: Fields | None = None
) -> list[Piece]:
    """Pieces of a message; what has no place in them stands in the first one's `extra`, under `message`.

    Args:
        fields: of the message: `role`, `content` and others.
        acted: whether the agent acted in an earlier message.
        calls: whether the turn holds a call, where it is spread over several records; None: look here.
        notes: further fields for the first piece's `extra`.
    """
    author = AUTHORS.get(string_of(fields.get("role")) or "", "user")
    content = fields.get("content")
    text = string_of(content)
    blocks: list[Fields] = (
        [{"type": msgspec.Raw(b'"text"'), "text": content}]
        if text is not None and content is not None
        else [fields_of(block) for block in items_of(content)]
    )
    if calls is None:
        calls = any(is_call(block) for block in blocks)
    shown = any(_block_text(block) or _is_result(block) for block in blocks)
    pieces: list[Piece] = []
    for block in blocks:
        if author == "agent":
            pieces += _agent_block(block, message=message, calls=calls)
        elif _is_result(block):
            pieces.append(result_piece(block, message=message))
        else:
            pieces += _said(block, message=message, author=author, acted=acted, alone=not shown)
    about = rest(fields, ("role", "content"))
    notes = {**(notes or {}), **({"message": msgspec.Raw(json_object(about).encode())} if about else {})}
    if not pieces:
        kind = "reason" if author == "agent" else "context"
        kept = bytes(content).decode() if content is not None else "null"
        pieces = [unreadable(kind, [kept], message=message, author=author)]
    return [noted(pieces[0], notes), *pieces[1:]]


def is_call(block: Fields) -> bool:
    """Whether a block is a call of a tool, the client's or the server's."""
    return (string_of(block.get("type")) or "").endswith("tool_use")


def _agent_block(block: Fields, *, message: int, calls: bool) -> list[Piece]:
    kind = string_of(block.get("type")) or ""
    if kind == "text":
        text, extra = text_of(block.get("text")), _extra(block, ("type", "text"))
        if not text:
            return []
        return [(thought if calls else say)(text, message=message, extra=extra)]
    if kind == "thinking":
        opaque = [json_object(rest(block, ("thinking",)))] if len(block) > 2 else []
        return [thought(text_of(block.get("thinking")), message=message, hidden=True, opaque=opaque)]
    if kind.endswith("tool_use"):
        return [
            call(
                text_of(block.get("name")),
                text_of(block.get("input")),
                message=message,
                call_id=string_of(block.get("id")),
                extra=_extra(block, ("name", "input", "id"), usual="tool_use"),
            )
        ]
    if _is_result(block):
        return [result_piece(block, message=message, role="assistant")]
    return [unreadable("reason", [json_object(block)], message=message, author="agent", hidden=True)]


def _is_result(block: Fields) -> bool:
    return (string_of(block.get("type")) or "").endswith("_result")


def result_piece(block: Fields, *, message: int, role: str = "user") -> Piece:
    """What a tool returned: `tool_use_id`, `content`, `is_error`; what stands in it stays whole, reminders too.

    Args:
        role: of the message that holds it; the server's own results stand in the agent's turn.
    """
    text, opaque = content_text(block.get("content"))
    error = block.get("is_error")
    mapped = {"tool_use_id", "content", *(["is_error"] if _truth(error) is not None else [])}
    piece = observation(
        text,
        message=message,
        call_id=string_of(block.get("tool_use_id")),
        error=_truth(error),
        opaque=opaque,
        extra=_extra(block, mapped, usual="tool_result"),
    )
    return piece if role == "user" else noted(piece, {"role": f'"{role}"'})


def content_text(raw: msgspec.Raw | None) -> tuple[str, list[str]]:
    """Text of a result's content, and as JSON what in it is no text.

    A string is the text; text blocks are joined by line breaks; media go aside, with a placeholder where nothing else
    stands; anything else is the text as the log wrote it, its encrypted parts aside.
    """
    blocks = [fields_of(block) if is_object(block) else {} for block in items_of(raw)]
    if not blocks or not all(_is_text_or_media(block) for block in blocks):
        return _readable(raw)
    texts = [text for block in blocks if (text := _block_text(block)) is not None]
    opaque = [_without_text(block) for block in blocks if len(block) > 2 or _block_text(block) is None]
    if not any(texts) and opaque:
        texts = [" ".join(_placeholder(block) for block in blocks if _block_text(block) is None)]
    return "\n".join(texts), opaque


def _readable(raw: msgspec.Raw | None) -> tuple[str, list[str]]:
    if raw is None or b'"encrypted_content"' not in bytes(raw):
        return text_of(raw), []
    blocks = [fields_of(block) for block in items_of(raw) if is_object(block)]
    if len(blocks) != len(items_of(raw)) or not blocks:
        return text_of(raw), []
    shown = ",".join(json_object(rest(block, ("encrypted_content",))) for block in blocks)
    return f"[{shown}]", [text for b in blocks if (text := bytes(b.get("encrypted_content", b"")).decode())]


def _is_text_or_media(block: Fields) -> bool:
    kind = string_of(block.get("type"))
    return kind in _MEDIA or (kind == "text" and string_of(block.get("text")) is not None)


def _block_text(block: Fields) -> str | None:
    """Text of a text block, or of a document that holds plain text; None for anything else."""
    if string_of(block.get("type")) == "text":
        return string_of(block.get("text"))
    source = block.get("source")
    if is_object(source) and string_of(fields_of(source).get("type")) == "text":
        return string_of(fields_of(source).get("data"))
    return None


def _without_text(block: Fields) -> str:
    """A block as JSON, without what is rendered of it."""
    if string_of(block.get("type")) == "text":
        return json_object(rest(block, ("text",)))
    if _block_text(block) is None:
        return json_object(block)
    source = json_object(rest(fields_of(block["source"]), ("data",)))
    return json_object({**block, "source": source})


def _placeholder(block: Fields) -> str:
    kind = text_of(block.get("type"))
    source = block.get("source")
    media = string_of(fields_of(source).get("media_type")) if is_object(source) else None
    return f"[{kind}: {media}]" if media else f"[{kind}]"


def _said(block: Fields, *, message: int, author: str, acted: bool, alone: bool = True) -> list[Piece]:
    """What a user or the system says: its reminders are context, the rest too until the agent has acted.

    Args:
        alone: whether the message has no text, so that a placeholder stands for its media.
    """
    text = _block_text(block)
    answers = acted and author == "user"
    if text is None and not (alone and string_of(block.get("type")) in _MEDIA):
        kind = "observation" if answers else "context"
        return [unreadable(kind, [json_object(block)], message=message, author=author)]
    if text is None:
        text, opaque = _placeholder(block), [json_object(block)]
    else:
        rich = string_of(block.get("type")) != "text"
        opaque = [_without_text(block)] if rich else []
    extra = _extra(block, ("type", "text")) if not opaque else None
    return user_pieces(text, message=message, author=author, answers=answers, opaque=opaque, extra=extra)


def user_pieces(text: str, *, message: int, author: str = "user", answers: bool, **about: Any) -> list[Piece]:
    """Words of a user, cut at injected reminders, which are context wherever they stand.

    Args:
        answers: whether the rest answers an act.
        about: further fields of the first piece.
    """
    pieces: list[Piece] = []
    for part, is_injected in _cut_reminders(text):
        make = observation if answers and not is_injected else context
        pieces.append(make(part, message=message, author=author, **({} if pieces else about)))
    return pieces


def _cut_reminders(text: str) -> Iterator[tuple[str, bool]]:
    """The text in parts, and of each whether it is a reminder; blanks beside a reminder belong to it."""
    opening, closing = _REMINDER
    at = 0
    while at < len(text):
        start = text.find(opening, at)
        stop = text.find(closing, start) if start >= 0 else -1
        if stop < 0:
            yield text[at:], False
            return
        stop += len(closing)
        stop += len(text[stop:]) - len(text[stop:].lstrip())
        before = text[at:start]
        if before.strip():
            yield before, False
            at = start
        yield text[at:stop], True
        at = stop


def _extra(block: Fields, mapped: Iterable[str], *, usual: str | None = None) -> str | None:
    """Fields that were not mapped, as JSON; the type too unless it is the usual one."""
    known = set(mapped)
    if usual is not None and string_of(block.get("type")) == usual:
        known.add("type")
    left = rest(block, known)
    return json_object(left) if left else None


def _truth(raw: msgspec.Raw | None) -> bool | None:
    return {b"true": True, b"false": False}.get(bytes(raw)) if raw is not None else None


def is_logged_call(record: Any) -> bool:
    """`{request, response}` of the messages API."""
    if not isinstance(record, dict):
        return False
    request, response = record.get("request"), record.get("response")
    return (
        isinstance(request, dict)
        and isinstance(request.get("messages"), list)
        and isinstance(response, dict)
        and response.get("type") == "message"
        and isinstance(response.get("content"), list)
    )


def read_calls(records: list[SessionRecord]) -> Iterator[Draft]:
    """One trajectory a conversation: the last call of each repeats the ones before it."""
    calls = [fields_of(record.raw) for record in records]
    requests = [fields_of(logged.get("request")) for logged in calls]
    numbers: dict[str, int] = {}
    histories = [
        [
            numbers.setdefault(_gist(fields_of(message)), len(numbers))
            for message in (*items_of(request.get("messages")), logged["response"])
        ]
        for logged, request in zip(calls, requests, strict=True)
    ]
    for index in longest_paths(histories):
        request, response = requests[index], fields_of(calls[index].get("response"))
        answer = msgspec.Raw(json_object({"role": '"assistant"', "content": response.get("content", b"[]")}).encode())
        draft = conversation(request, [*items_of(request.get("messages")), answer])
        draft.record = records[index].key
        draft.ending = _ENDINGS.get(string_of(response.get("stop_reason")) or "", "unknown")
        draft.extra = json_object(
            {
                **rest(calls[index], ("request", "response")),
                "request": json_object(rest(request, ("messages", "system", "tools"))),
                "response": json_object(rest(response, ("role", "content"))),
            }
        )
        yield draft


def _gist(message: Fields) -> str:
    """What makes a message the same when it is sent again: not its cache marks, nor how its text is wrapped."""
    text = string_of(message.get("content"))
    blocks = [fields_of(block) for block in items_of(message.get("content"))] if text is None else []
    gists = [f"text {text}"] if text is not None else [g for block in blocks if (g := _gist_of_block(block))]
    return "\0".join([text_of(message.get("role")), *gists])


def _gist_of_block(block: Fields) -> str:
    kind = text_of(block.get("type"))
    if kind == "text":
        return f"text {text_of(block.get('text'))}" if text_of(block.get("text")) else ""
    if kind.endswith("thinking"):
        return ""
    told = ("id", "name", "input", "tool_use_id", "content", "source")
    return " ".join([kind, *(same_value(block[name]) for name in told if name in block)])


FORMATS = (
    SessionFormat(
        "anthropic-calls",
        "logged calls of the Anthropic messages API, `{request, response}`",
        is_logged_call,
        read_calls,
    ),
    RecordFormat("anthropic", "Anthropic messages with typed content blocks", recognise, read),
)
