"""ATIF, the trajectory format of Harbor and Terminal-Bench, and homemade relatives of it."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from sadstream.formats.content import content_of
from sadstream.formats.kinds import RecordFormat
from sadstream.formats.outcomes import as_bool
from sadstream.formats.pieces import Piece, call, context, observation, say, thought, unreadable, verbatim
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

_ANSWERS = re.compile(r"Tool result for (\S+)\s*\Z")
_STEP = {"message", "reasoning_content", "tool_calls", "observation"}
_CALL_IDS, _CALL_NAMES = ("tool_call_id", "id"), ("function_name", "name")
_RESULT_IDS = ("source_call_id", "tool_call_id", "tool_use_id", "call_id")


def recognise(record: Any) -> bool:
    """`schema_version` and `steps`, each with a `source`."""
    return (
        isinstance(record, dict)
        and isinstance(record.get("schema_version"), str)
        and isinstance(record.get("steps"), list)
        and all(isinstance(step, dict) and "source" in step for step in record["steps"])
        and (record["schema_version"].startswith("ATIF") or (bool(record["steps"]) and "agent" in record))
    )


class _Result(NamedTuple):
    call_id: str | None
    step: int
    piece: Piece


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory. A result stands after the call that it names, wherever the log has it."""
    fields = fields_of(raw)
    steps = [fields_of(step) for step in items_of(fields["steps"])]
    agent = fields_of(fields["agent"]) if is_object(fields.get("agent")) else {}
    pieces = list(_pieces(steps))
    notes = rest(fields, {"schema_version", "steps", "agent"})
    left = rest(agent, {"tool_definitions"})
    if left:
        notes["agent"] = msgspec.Raw(json_object(left).encode())
    extra = fields_of(fields["extra"]) if is_object(fields.get("extra")) else {}
    yield Draft(
        format_version=string_of(fields["schema_version"]),
        task=next((p["text"] for p in pieces if p["kind"] == "context" and p["author"] == "user"), None),
        tools=[bytes(tool).decode() for tool in items_of(agent.get("tool_definitions"))],
        success=as_bool(msgspec.json.decode(extra["success"])) if "success" in extra else None,
        # What follows is in another file: this one stops in the middle.
        ending="truncated" if string_of(fields.get("continued_trajectory_ref")) else "unknown",
        pieces=pieces,
        extra=json_object(notes),
    )


def _pieces(steps: Sequence[Fields]) -> Iterator[Piece]:
    calls = [[_call(raw, index) for raw in items_of(step.get("tool_calls"))] for index, step in enumerate(steps)]
    results = [result for index, step in enumerate(steps) for result in _results(step, index)]
    home = _homes(calls, results)
    acted = False
    for index, step in enumerate(steps):
        source = string_of(step.get("source"))
        text, opaque = content_of(step.get("message"))
        own = [r.piece for r in results if r.step == index and id(r.piece) not in home]
        asked = [c["call_id"] for c in calls[index]]
        answers = sorted((r for r in results if home.get(id(r.piece)) == index), key=lambda r: asked.index(r.call_id))
        if source == "agent":
            pieces = [*_agent(step, text, opaque, calls[index], index)]
            acted = acted or any(p["kind"] == "act" for p in pieces)
        elif _ANSWERS.match(text) and len([r for r in results if r.step == index]) == 1:
            # The harness's caption of a result that stands elsewhere: kept beside it.
            pieces = []
        elif source == "user" and acted:
            pieces = [observation(text, message=index, author="user", opaque=opaque)]
        else:
            author = "system" if source == "system" else "user"
            pieces = [context(text, message=index, author=author, opaque=opaque)] if text or opaque else []
        pieces += [*(r.piece for r in answers), *own]
        if not pieces and id(_first_result(results, index)) not in home:
            pieces = [unreadable("context", [json_object(step)], message=index, author="environment")]
        if bytes(step.get("is_copied_context", b"")) == b"true":
            # Told again from an earlier part, whose own file has it.
            pieces = [{**p, "kind": "context"} for p in pieces]
        yield from _with_notes(pieces, step, index)


def _first_result(results: Sequence[_Result], step: int) -> Piece | None:
    return next((r.piece for r in results if r.step == step), None)


def _with_notes(pieces: list[Piece], step: Fields, index: int) -> Iterator[Piece]:
    """Pieces, the step's further fields on the first that is its own."""
    first = next((i for i, p in enumerate(pieces) if p["message"] == index), None)
    for i, piece in enumerate(pieces):
        yield noted(piece, rest(step, _STEP)) if i == first else piece


def _homes(calls: Sequence[Sequence[Piece]], results: Sequence[_Result]) -> dict[int, int]:
    """Step whose calls a result answers, by its piece's identity: the last such before it, else the first after."""
    home = {}
    for result in results:
        if result.call_id is None:
            continue
        named = [index for index, own in enumerate(calls) if any(c["call_id"] == result.call_id for c in own)]
        before = [index for index in named if index <= result.step]
        if named:
            home[id(result.piece)] = before[-1] if before else named[0]
    return home


def _agent(step: Fields, text: str, opaque: list[str], calls: Sequence[Piece], index: int) -> Iterator[Piece]:
    reasoning = content_of(step.get("reasoning_content"))[0]
    if reasoning.strip():
        yield thought(reasoning, message=index, hidden=True)
    commands = [] if calls else list(cut_commands(text, index))
    if commands:
        yield from commands
    elif text.strip() or opaque:
        yield thought(text, message=index, opaque=opaque) if calls else say(text, message=index, opaque=opaque)
    yield from calls


def _call(raw: msgspec.Raw, index: int) -> Piece:
    fields = fields_of(raw)
    function = fields_of(fields["function"]) if is_object(fields.get("function")) else fields
    name = _first_string(function, _CALL_NAMES) or ""
    piece = call(name, text_of(function.get("arguments")), message=index, call_id=_first_string(fields, _CALL_IDS))
    return noted(piece, rest(fields, {*_CALL_IDS, *_CALL_NAMES, "arguments", "function"}))


def _first_string(fields: Fields, names: Sequence[str]) -> str | None:
    return next((text for name in names if (text := string_of(fields.get(name))) is not None), None)


def _results(step: Fields, index: int) -> list[_Result]:
    """A step's results; in homemade logs its observation is one, and its message says of which call."""
    if not is_object(step.get("observation")):
        return []
    whole = fields_of(step["observation"])
    found = [fields_of(raw) for raw in items_of(whole["results"])] if "results" in whole else [whole]
    named = _ANSWERS.match(content_of(step.get("message"))[0])
    if named is None or len(found) != 1 or string_of(step.get("source")) == "agent":
        return [_result(fields, index, None, {}) for fields in found]
    return [_result(found[0], index, named[1], rest(step, _STEP - {"message"}))]


def _result(fields: Fields, index: int, call_id: str | None, notes: Fields) -> _Result:
    call_id = _first_string(fields, _RESULT_IDS) or call_id
    text, opaque = content_of(fields.get("content"))
    inner = fields_of(fields["result"]) if is_object(fields.get("result")) else {}
    error = as_bool(msgspec.json.decode(fields["is_error"])) if "is_error" in fields else None
    if error is None and "success" in inner:
        succeeded = as_bool(msgspec.json.decode(inner["success"]))
        error = None if succeeded is None else not succeeded
    piece = observation(text, message=index, call_id=call_id, error=error, opaque=opaque)
    piece = noted(piece, rest(fields, {*_RESULT_IDS, "content"}))
    return _Result(call_id, index, noted(piece, notes))


# ---- Terminus-2: a whole JSON in the message, cut inside the string

_REASONS = ("analysis", "plan", "explanation", "reasoning", "thought", "state_analysis")
_FENCE = re.compile(r"```[A-Za-z]*[ \t]*\n\s*\Z")
_FENCE_END = re.compile(r"\s*```[ \t]*")
_BLANKS = re.compile(r"\s*")
_DECODER = json.JSONDecoder(strict=False)


def cut_commands(text: str, message: int) -> Iterator[Piece]:
    """An agent's message that holds `{"analysis": ..., "plan": ..., "commands": [...]}`, as verbatim pieces.

    A field's name opens its span, and each command is an act with the command's JSON as its arguments. The rest of the
    structure belongs to the span before it: the agent has to write it too. Nothing if there is no such JSON.
    """
    found = _find_object(text)
    if found is None:
        return
    begin, stop, marks = found
    fence, closing = _FENCE.search(text[:begin]), _FENCE_END.match(text, stop)
    begin = fence.start() if fence else begin
    stop = closing.end() if fence and closing else stop
    if not text[:begin].strip():
        begin = 0
    if not text[stop:].strip():
        stop = len(text)
    starts: list[tuple[int, str, tuple[int, int] | None]] = [(0, "reason", None)] if begin else []
    starts += [(begin if i == 0 else mark.start, mark.kind, mark.arguments) for i, mark in enumerate(marks)]
    if stop < len(text):
        starts.append((stop, "reason", None))
    stops = [start for start, _, _ in starts[1:]] + [len(text)]
    for (start, kind, arguments), end in zip(starts, stops, strict=True):
        about: dict[str, Any] = {}
        if arguments is not None:
            about = {"syntax": "json", "arguments_start": arguments[0] - start, "arguments_stop": arguments[1] - start}
        yield verbatim(kind, text[start:end], message=message, author="agent", last=end == len(text), **about)


class _Mark(NamedTuple):
    """Where a span begins in the message, of which kind, and where the command's JSON stands."""

    start: int
    kind: str
    arguments: tuple[int, int] | None


def _find_object(text: str) -> tuple[int, int, list[_Mark]] | None:
    """Start, stop and marks of the first JSON object in a text that has a list of commands."""
    begin = text.find("{")
    if '"commands"' not in text:
        return None
    while begin >= 0:
        try:
            stop, marks = _scan(text, begin)
        except (ValueError, RecursionError):
            begin = text.find("\n{", begin + 1)
            begin += begin >= 0
            continue
        return (begin, stop, marks) if any(mark.kind == "act" for mark in marks) else None
    return None


def _scan(text: str, begin: int) -> tuple[int, list[_Mark]]:
    """End of the object that begins there, and its marks.

    Raises:
        ValueError: no JSON object. RecursionError: nested too deep.
    """
    marks: list[_Mark] = []
    at = _skip(text, begin + 1)
    while text[at : at + 1] == '"':
        key_at = at
        key, at = _DECODER.raw_decode(text, at)
        at = _skip(text, _expect(text, _skip(text, at), ":"))
        if key == "commands" and text[at : at + 1] == "[":
            at, commands = _scan_list(text, at)
            marks += [_Mark(key_at if i == 0 else c[0], "act", c) for i, c in enumerate(commands)]
            if not commands:
                marks.append(_Mark(key_at, "act", None))
        else:
            _, at = _DECODER.raw_decode(text, at)
            if key in _REASONS:
                marks.append(_Mark(key_at, "reason", None))
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
    return _expect(text, at, "}"), marks


def _scan_list(text: str, begin: int) -> tuple[int, list[tuple[int, int]]]:
    at = _skip(text, begin + 1)
    found = []
    while text[at : at + 1] not in ("]", ""):
        _, stop = _DECODER.raw_decode(text, at)
        found.append((at, stop))
        at = _skip(text, stop)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
    return _expect(text, at, "]"), found


def _skip(text: str, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    return blanks.end() if blanks else at


def _expect(text: str, at: int, sign: str) -> int:
    if text[at : at + 1] != sign:
        raise ValueError(f"no {sign!r} at {at}")
    return at + 1


FORMATS = (RecordFormat("atif", "ATIF trajectories (Harbor, Terminal-Bench)", recognise, read),)
