"""SWE-agent's `.traj`: steps with thought, action, observation and the response they were parsed from."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from sadstream.formats.content import content_of
from sadstream.formats.kinds import RecordFormat
from sadstream.formats.pieces import AUTHORS, Piece, call, context, observation, say, thought, unreadable, verbatim
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

# What may stand around the command in the response: a fence, or the tag of the XML style.
_OPENING = re.compile(r"(?:```[^\n`]*\n|<command>)\s*\Z")
_CLOSING = re.compile(r"\s*(?:```|</command>)")
_OPENING_CHARS = 200
_MESSAGE = {"role", "content", "thought", "action", "tool_calls", "tool_call_ids", "thinking_blocks"}
_STEP = {"response", "thought", "action", "observation", "query"}


def recognise(record: Any) -> bool:
    """`trajectory` of steps with a response, or `history` with the action that was read from a message."""
    if not isinstance(record, dict):
        return False
    steps = record.get("trajectory")
    if isinstance(steps, list) and steps:
        return all(isinstance(s, dict) and {"action", "observation", "response"} <= s.keys() for s in steps)
    history = record.get("history")
    return (
        isinstance(history, list)
        and all(isinstance(m, dict) and "role" in m for m in history)
        and any(m["role"] == "assistant" and {"thought", "action"} <= m.keys() for m in history)
    )


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory.

    The agent's text is `response`; thought and action only say where to cut it. Prompts and tool calls stand in
    `history`, whose observations (the step's, and what the harness adds) are kept in `extra`. A step's `query` is the
    history up to it, and is not kept.
    """
    fields = fields_of(raw)
    history = [fields_of(message) for message in items_of(fields.get("history"))]
    info = fields_of(fields["info"]) if is_object(fields.get("info")) else {}
    is_run = isinstance(record.get("trajectory"), list) and bool(record["trajectory"])
    n_prompt = _n_prompt(history)
    pieces = _prompts(history[:n_prompt])
    notes = rest(fields, {"history", "trajectory", "info"})
    if is_run:
        steps = [fields_of(step) for step in items_of(fields["trajectory"])]
        turns = _turns_of(steps, history[n_prompt:])
        pieces += _steps(steps, turns, n_prompt)
        kept = _unsaid(items_of(fields.get("history"))[n_prompt:], steps)
        if kept:
            notes["history"] = msgspec.Raw(msgspec.json.encode(kept))
    else:
        pieces += _conversation(history[n_prompt:], n_prompt)
    left = rest(info, {"submission"} if string_of(info.get("submission")) is not None else ())
    if left:
        notes["info"] = msgspec.Raw(json_object(left).encode())
    yield Draft(
        task=next((p["text"] for p in pieces if p["kind"] == "context" and p["author"] == "user"), None),
        answer=string_of(info.get("submission")),
        ending=ending_of(string_of(info.get("exit_status"))),
        pieces=pieces,
        extra=json_object(notes),
    )


def ending_of(status: str | None) -> str:
    """How a run ended, by the exit status of SWE-agent or mini-swe-agent.

    >>> [ending_of(s) for s in ("submitted", "submitted (exit_cost)", "LimitsExceeded", "exit_error", None)]
    ['finished', 'halted', 'halted', 'error', 'unknown']
    """
    words = (status or "").lower()
    for ending, signs in _ENDINGS.items():
        if any(sign in words for sign in signs):
            return ending
    return "unknown"


# Tried in this order: "submitted (exit_cost)" was submitted by the harness, when the money was spent.
_ENDINGS = {
    "halted": ("cost", "limit", "total_execution_time", "timeexceeded", "timeout"),
    "truncated": ("context",),
    "aborted": ("forfeit", "interrupt", "skipped", "early_exit"),
    "error": ("error", "format", "exception", "api"),
    "finished": ("submitted",),
}


def cut_response(response: str, thought_text: str, action: str) -> tuple[int, int] | None:
    """Where the action stands in a response, with the fence or tag around it; None where it does not.

    >>> cut_response("I look.\\n```\\nls\\n```", "I look.\\n", "ls\\n")
    (8, 18)
    """
    command = action.strip()
    if not command:
        return None
    after = len(thought_text) if thought_text and response.startswith(thought_text) else 0
    start = response.find(command, after) if after else response.rfind(command)
    if start < 0:
        return None
    stop = start + len(command)
    begin = max(after, start - _OPENING_CHARS)
    opening = _OPENING.search(response[begin:start])
    closing = _CLOSING.match(response, stop)
    return begin + opening.start() if opening else start, closing.end() if closing else stop


def _n_prompt(history: Sequence[Fields]) -> int:
    """Messages before the agent's first own turn; a file of nothing but demonstrations is itself the run."""
    turns = [i for i, m in enumerate(history) if string_of(m.get("role")) == "assistant"]
    own = [i for i in turns if bytes(history[i].get("is_demo", b"")) != b"true"]
    return next(iter(own or turns), len(history))


def _prompts(messages: Sequence[Fields]) -> list[Piece]:
    pieces = []
    for index, fields in enumerate(messages):
        text, opaque = content_of(fields.get("content"))
        author = AUTHORS.get(string_of(fields.get("role")) or "", "user")
        piece = context(text, message=index, author=author, opaque=opaque)
        pieces.append(noted(piece, rest(fields, {"role", "content"})))
    return pieces


def _turns_of(steps: Sequence[Fields], history: Sequence[Fields]) -> list[Fields | None]:
    """The agent's message in the history that each step came from; the history lacks those that were asked again."""
    turns = [m for m in history if string_of(m.get("role")) == "assistant"]
    found: list[Fields | None] = []
    at = 0
    for step in steps:
        match = next((i for i in range(at, len(turns)) if _is_turn_of(step, turns[i])), None)
        found.append(None if match is None else turns[match])
        at = at if match is None else match + 1
    return found


def _is_turn_of(step: Fields, turn: Fields) -> bool:
    action = string_of(step.get("action"))
    same_words = content_of(turn.get("content"))[0] == text_of(step.get("response"))
    return same_words or (action is not None and action == string_of(turn.get("action")))


def _unsaid(history: Sequence[msgspec.Raw], steps: Sequence[Fields]) -> list[msgspec.Raw]:
    """Messages of the history that the steps do not hold word for word."""
    said = {text_of(step.get("response")) for step in steps}
    kept = []
    for raw in history:
        fields = fields_of(raw)
        if string_of(fields.get("role")) != "assistant" or content_of(fields.get("content"))[0] not in said:
            kept.append(raw)
    return kept


def _steps(steps: Sequence[Fields], turns: Sequence[Fields | None], first: int) -> Iterator[Piece]:
    with_tools = any(turn is not None and items_of(turn.get("tool_calls")) for turn in turns)
    for number, (step, turn) in enumerate(zip(steps, turns, strict=True)):
        message = first + 2 * number
        calls = items_of(turn.get("tool_calls")) if turn is not None else []
        pieces = list(_turn(step, text_of(step.get("response")), calls, message, with_tools=with_tools))
        if turn is not None:
            pieces = _with_thinking(pieces, turn, message)
        result = observation if with_tools else _plain_observation
        call_id = pieces[-1].get("call_id") if len(calls) == 1 else None
        pieces.append(result(text_of(step.get("observation")), message=message + 1, call_id=call_id))
        yield noted(pieces[0], rest(step, _STEP))
        yield from pieces[1:]


def _conversation(history: Sequence[Fields], first: int) -> Iterator[Piece]:
    with_tools = any(items_of(m.get("tool_calls")) for m in history)
    for message, fields in enumerate(history, first):
        role = string_of(fields.get("role"))
        text, opaque = content_of(fields.get("content"))
        if role == "assistant":
            calls = items_of(fields.get("tool_calls"))
            pieces = list(_turn(fields, text, calls, message, with_tools=with_tools))
            pieces = _with_thinking(pieces, fields, message)
        elif role == "system":
            pieces = [context(text, message=message, author="system", opaque=opaque)]
        else:
            ids = [string_of(raw) for raw in items_of(fields.get("tool_call_ids"))]
            author = (
                "environment" if string_of(fields.get("message_type")) == "observation" else AUTHORS.get(role or "")
            )
            result = observation if with_tools else _plain_observation
            call_id = ids[0] if ids else None
            pieces = [result(text, message=message, author=author or "user", call_id=call_id, opaque=opaque)]
        yield noted(pieces[0], rest(fields, _MESSAGE))
        yield from pieces[1:]


def _turn(
    step: Fields, response: str, calls: Sequence[msgspec.Raw], message: int, *, with_tools: bool
) -> Iterator[Piece]:
    """The agent's pieces of one step, from its response; at least one, which may be empty."""
    said, action = text_of(step.get("thought")), text_of(step.get("action"))
    if with_tools or calls:
        if response.strip():
            yield thought(response, message=message)
        for raw in calls:
            yield tool_call(raw, message)
        if not calls and action.strip():
            yield _command(action, message)
        elif not calls and not response.strip():
            yield unreadable("reason", [], message=message, author="agent")
        return
    if action.startswith("exit_") and action not in response:
        # The harness stopped the run and wrote this step itself.
        yield context(response, message=message, author="system")
        return
    place = cut_response(response, said, action)
    if place is None:
        if response.strip() or not action.strip():
            yield verbatim("reason", response, message=message, author="agent")
        if action.strip():
            yield _command(action, message)
        return
    begin, stop = place
    yield from cut_turn(response, [(begin, stop, response.find(action.strip(), begin), action.strip())], message)


def cut_turn(
    text: str, acts: Sequence[tuple[int, int, int, str]], message: int, flags: Sequence[str] = ()
) -> Iterator[Piece]:
    """An agent's turn, verbatim: acts, each given by its start, stop, where its command starts and the command.

    Everything else is reason; blanks before the first act or after the last are the act's.
    """
    at = 0
    for number, (begin, stop, command_at, command) in enumerate(acts):
        if text[at:begin].strip():
            yield verbatim("reason", text[at:begin], message=message, author="agent", last=False)
            at = begin
        is_last = number + 1 == len(acts)
        if is_last and not text[stop:].strip():
            stop = len(text)
        yield verbatim(
            "act",
            text[at:stop],
            message=message,
            author="agent",
            last=stop == len(text),
            syntax="shell",
            arguments_start=command_at - at,
            arguments_stop=command_at - at + len(command),
            flags=list(flags),
        )
        at = stop
    if at < len(text):
        yield verbatim("reason", text[at:], message=message, author="agent")


def tool_call(raw: msgspec.Raw, message: int) -> Piece:
    """A call in the shape of OpenAI's chat messages."""
    fields = fields_of(raw)
    function = fields_of(fields["function"]) if is_object(fields.get("function")) else {}
    arguments = text_of(function.get("arguments"))
    piece = call(string_of(function.get("name")) or "", arguments, message=message, call_id=string_of(fields.get("id")))
    notes = rest(fields, {"id", "function", "type"})
    inner = rest(function, {"name", "arguments"})
    return noted(piece, {**notes, **({"function": json_object(inner)} if inner else {})})


def _command(action: str, message: int) -> Piece:
    """A command that the response does not hold word for word."""
    place = {"syntax": "shell", "arguments_start": 0, "arguments_stop": len(action)}
    return say(action, message=message) | {"prefix": "Action: ", **place}


def _with_thinking(pieces: list[Piece], turn: Fields, message: int) -> list[Piece]:
    blocks = [bytes(raw).decode() for raw in items_of(turn.get("thinking_blocks"))]
    return [unreadable("reason", blocks, message=message, author="agent"), *pieces] if blocks else pieces


def _plain_observation(text: str, *, message: int, author: str = "environment", **about: Any) -> Piece:
    return verbatim("observation", text, message=message, author=author, **about)


FORMATS = (
    RecordFormat("swe-agent", "SWE-agent `.traj` files, and its demonstrations with only `history`", recognise, read),
)
