"""mini-swe-agent: chat messages in which the one bash block is the action."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from sadstream.formats.content import content_of, texts_in
from sadstream.formats.kinds import RecordFormat
from sadstream.formats.outcomes import outcome_fields
from sadstream.formats.pieces import Piece, call, context, observation, thought, unreadable, verbatim
from sadstream.formats.swe_agent import cut_turn, ending_of, tool_call
from sadstream.formats.verbatim import (
    Fields,
    fields_of,
    is_object,
    items_of,
    json_object,
    noted,
    rest,
    string_of,
    text_of,
)
from sadstream.frames import Draft

_BLOCK = re.compile(r"```(?:bash|mswea_bash_command)[ \t]*\n(.*?)\n?```", re.DOTALL)
_BLOCK_SIGNS = ("```bash\n", "```mswea_bash_command\n")
_RETURN_CODE = re.compile(r"\s*<returncode>\s*(-?[0-9]+)\s*</returncode>")
_ROLES = ("system", "user", "assistant", "tool", "exit", "developer")
_MAPPED = {"role", "content", "tool_calls", "tool_call_id"}


def recognise(record: Any) -> bool:
    """`messages` beside `trajectory_format`, or bare ones of bash blocks answered by `<returncode>`."""
    if isinstance(record, dict):
        name = record.get("trajectory_format")
        return isinstance(name, str) and name.startswith("mini-swe-agent") and isinstance(record.get("messages"), list)
    if not isinstance(record, list) or not all(_is_message(m) for m in record):
        return False
    spoken = [text for m in record if m["role"] == "assistant" for text in texts_in(m["content"])]
    answers = [text for m in record if m["role"] == "user" for text in texts_in(m["content"])]
    return any(sign in text for text in spoken for sign in _BLOCK_SIGNS) and any(
        _RETURN_CODE.match(text) for text in answers
    )


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory: in the agent's turns the one bash block is the act, and all else is thought."""
    fields = {} if isinstance(record, list) else fields_of(raw)
    messages = [fields_of(m) for m in items_of(raw if isinstance(record, list) else fields["messages"])]
    info = fields_of(fields["info"]) if is_object(fields.get("info")) else {}
    outcome = outcome_fields({k: v for k, v in record.items() if k != "info"}) if isinstance(record, dict) else {}
    mapped = outcome.pop("mapped", set()) | {"messages", "trajectory_format", "info"}
    pieces = list(_pieces(messages))
    notes = rest(fields, mapped)
    submission = string_of(info.get("submission"))
    left = rest(info, {"submission"} if submission is not None else ())
    if left:
        notes["info"] = msgspec.Raw(json_object(left).encode())
    outcome.setdefault("task", next((p["text"] for p in pieces if _is_task(p)), None))
    outcome.setdefault("answer", submission)
    yield Draft(
        format_version=string_of(fields.get("trajectory_format")),
        pieces=pieces,
        extra=json_object(notes),
        **{"ending": ending_of(string_of(info.get("exit_status"))), **outcome},
    )


def _is_task(piece: Piece) -> bool:
    return piece["kind"] == "context" and piece["author"] == "user"


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict) and message.get("role") in _ROLES and isinstance(message.get("content"), str | list)
    )


def _pieces(messages: Sequence[Fields]) -> Iterator[Piece]:
    with_tools = any(items_of(m.get("tool_calls")) or "output" in m for m in messages)
    has_agent = False
    for index, fields in enumerate(messages):
        if _is_agent(fields):
            has_agent = True
            pieces = list(_response(fields, index) if "output" in fields else _turn(fields, index, with_tools))
        elif has_agent and string_of(fields.get("role")) != "system":
            pieces = [_answer(fields, index, with_tools)]
        else:
            text, opaque = content_of(fields.get("content"))
            author = "system" if string_of(fields.get("role")) in ("system", "developer") else "user"
            pieces = [context(text, message=index, author=author, opaque=opaque)]
        pieces = pieces or [unreadable("reason", [json_object(fields)], message=index, author="agent")]
        yield noted(pieces[0], rest(fields, _MAPPED | {"output", "call_id", "type", "object"}))
        yield from pieces[1:]


def _is_agent(fields: Fields) -> bool:
    return string_of(fields.get("role")) == "assistant" or string_of(fields.get("object")) == "response"


def _turn(fields: Fields, message: int, with_tools: bool) -> Iterator[Piece]:
    text, opaque = content_of(fields.get("content"))
    calls = items_of(fields.get("tool_calls"))
    if with_tools:
        # A turn without a call runs nothing here: it is told to call a tool.
        if text.strip() or opaque:
            yield thought(text, message=message, opaque=opaque)
        for raw in calls:
            yield tool_call(raw, message)
        return
    found = list(_BLOCK.finditer(text))
    acts = [(m.start(), m.end(), m.start(1), m[1]) for m in found]
    if not acts:
        acts = _logged_action(fields, text)
    yield from cut_turn(text, acts, message, () if len(acts) == 1 else ("rejected",))


def _logged_action(fields: Fields, text: str) -> list[tuple[int, int, int, str]]:
    """The command that was run, where the log names it and the agent was asked for another kind of block."""
    extra = fields_of(fields["extra"]) if is_object(fields.get("extra")) else {}
    actions = [fields_of(a) for a in items_of(extra.get("actions")) if is_object(a)]
    commands = [string_of(a.get("command")) or "" for a in actions]
    if len(commands) != 1 or not commands[0].strip() or commands[0] not in text:
        return []
    start = text.rindex(commands[0])
    stop = start + len(commands[0])
    opening = re.compile(r"```[^\n`]*\n\s*\Z|<[A-Za-z_]+>\s*\Z").search(text[max(0, start - 100) : start])
    closing = re.compile(r"\s*(?:```|</[A-Za-z_]+>)").match(text, stop)
    begin = max(0, start - 100) + opening.start() if opening else start
    return [(begin, closing.end() if closing else stop, start, commands[0])]


def _response(fields: Fields, message: int) -> Iterator[Piece]:
    """A turn as OpenAI's Responses give it: items of reasoning, words and calls."""
    for raw in items_of(fields.get("output")):
        item = fields_of(raw)
        kind = string_of(item.get("type"))
        if kind == "reasoning":
            text = content_of(item.get("summary"))[0] or content_of(item.get("content"))[0]
            sealed = [json_object(rest(item, {"summary", "content"}))]
            yield thought(text, message=message, opaque=sealed)
        elif kind == "message":
            text, opaque = content_of(item.get("content"))
            yield thought(text, message=message, opaque=opaque)
        elif kind == "function_call":
            name, call_id = string_of(item.get("name")) or "", string_of(item.get("call_id"))
            piece = call(name, text_of(item.get("arguments")), message=message, call_id=call_id)
            yield noted(piece, rest(item, {"name", "arguments", "call_id", "type"}))
        else:
            yield unreadable("reason", [bytes(raw).decode()], message=message, author="agent")


def _answer(fields: Fields, message: int, with_tools: bool) -> Piece:
    text, opaque = content_of(fields.get("content") if "content" in fields else fields.get("output"))
    call_id = string_of(fields.get("tool_call_id")) or string_of(fields.get("call_id"))
    code = _RETURN_CODE.match(text)
    error = None if code is None else bool(code[1].strip("-0"))
    about: dict[str, Any] = {"call_id": call_id, "error": error, "opaque": opaque}
    if with_tools:
        return observation(text, message=message, **about)
    return verbatim("observation", text, message=message, author="environment", **about)


FORMATS = (
    RecordFormat(
        "mini-swe-agent", "mini-swe-agent trajectories: one bash block a turn, or tool calls", recognise, read
    ),
)
