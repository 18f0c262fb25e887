"""WebVoyager: thought and browser action in each of the agent's turns, pages and screenshots in the user's."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from sadstream.formats.content import texts_in
from sadstream.formats.kinds import RecordFormat
from sadstream.formats.pieces import Piece, unreadable, verbatim
from sadstream.formats.verbatim import fields_of, items_of, json_object, noted, rest, string_of, text_of
from sadstream.frames import Draft

_AUTHORS = {"system": "system", "user": "user", "assistant": "agent"}
_ACTION = re.compile(r"(?m)^Action: ?(?:(?:Click|Hover|Type|Scroll) ?\[|Wait\b|GoBack\b|Google\b|ANSWER;)")
_ANSWER = re.compile(r"(?ms)^Action: ?ANSWER; ?(.*)")
_TASK = re.compile(r"Now given a task: ?(.*?)\s*Please interact with ", re.DOTALL)


def recognise(record: Any) -> bool:
    """Messages, bare or under `messages`; the agent's first has an action on a page, as `Action: Click [33]`."""
    messages = record.get("messages") if isinstance(record, dict) else record
    if not isinstance(messages, list) or not messages or not all(_is_message(m) for m in messages):
        return False
    first = next((m["content"] for m in messages if m["role"] == "assistant"), None)
    return any(_ACTION.search(text) for text in texts_in(first))


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("role"), str)
        and value["role"] in _AUTHORS
        and isinstance(value.get("content"), str | list)
        and not value.get("tool_calls")
    )


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory. The first page stands in the prompt; the agent's turns are cut by their labels."""
    fields = {} if isinstance(record, list) else fields_of(raw)
    messages = record if isinstance(record, list) else record["messages"]
    pieces: list[Piece] = []
    begun = False
    for number, item in enumerate(items_of(raw if isinstance(record, list) else fields["messages"])):
        message = fields_of(item)
        author = _AUTHORS[messages[number]["role"]]
        begun = begun or author == "agent"
        kind = None if author == "agent" else "observation" if begun and author == "user" else "context"
        made = list(_message_pieces(message["content"], kind, author, number))
        made[0] = noted(made[0], rest(message, ("role", "content")))
        pieces += made
    texts = [p["text"] for p in pieces]
    task = next((found[1] for text in texts if (found := _TASK.search(text))), None)
    last = next((p["text"] for p in reversed(pieces) if p["author"] == "agent"), "")
    answer = _ANSWER.search(last)
    yield Draft(
        dialect="react",
        pieces=pieces,
        task=task,
        answer=answer[1].strip() if answer else None,
        ending="finished" if answer else "unknown",
        extra=json_object(rest(fields, ("messages",))),
    )


def _message_pieces(content: Any, kind: str | None, author: str, number: int) -> Iterator[Piece]:
    """A message's text, or that of its blocks; what is no text renders to nothing beside it."""
    text = string_of(content)
    if text is not None:
        yield _text(kind, text, author, number)
        return
    blocks = [fields_of(block) for block in items_of(content)]
    texts = [block for block in blocks if string_of(block.get("text")) is not None]
    if not texts:
        opaque = [json_object(block) for block in blocks]
        yield {**_text(kind, "[image]" if blocks else "", author, number), "opaque": opaque}
        return
    for block in blocks:
        if string_of(block.get("text")) is None:
            yield unreadable(kind or "act", [json_object(block)], message=number, author=author)
        else:
            piece = _text(kind, text_of(block["text"]), author, number)
            yield noted(piece, rest(block, ("type", "text")))


def _text(kind: str | None, text: str, author: str, number: int) -> Piece:
    return {**verbatim("", text, message=number, author=author), "kind": kind}


FORMATS = (
    RecordFormat(
        "webvoyager", "WebVoyager's messages: `Action: Click [33]` and pages with screenshots", recognise, read
    ),
)
