"""A trajectory's spans back to chat messages, each word of the agent's still known by its span."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple

import msgspec

from sadstream_schemas import Kind, Span, Trajectory

Role = Literal["system", "user", "assistant", "tool"]
Field = Literal["reasoning", "content", "call"]


class Part(NamedTuple):
    """What one span says in a message.

    Attributes:
        field: where it stands: the thinking, the words, or a tool call of its own.
        text: as logged; of a call its arguments.
        core_start, core_stop: within `text`, the part without labels and outer blanks.
        name, call_id: of a call.
        kind, step: of the span. logged_as: index of the log's message that it came from.
    """

    field: Field
    text: str
    core_start: int
    core_stop: int
    name: str | None
    call_id: str | None
    kind: Kind
    step: int | None
    logged_as: int | None = None


class Message(NamedTuple):
    """A chat message.

    Attributes:
        role: whose. parts: in the order in which templates write them: thinking, words, calls.
        call_id, name: of the call that a tool's message answers.
    """

    role: Role
    parts: tuple[Part, ...]
    call_id: str | None = None
    name: str | None = None


def to_messages(trajectory: Trajectory) -> list[Message]:
    """A trajectory as chat messages; those without any text or call are left out.

    What a log wrote as one message stays one, and a text without messages becomes turns of user and agent.

    >>> from sadstream_schemas import Source, Span, Trajectory
    >>> text = "Who?\\n> think: x\\n> go\\nOK\\n"
    >>> cuts = [("context", 0, 5), ("reason", 5, 16), ("act", 16, 21), ("observation", 21, 24)]
    >>> about = dict(author="agent", step=0)
    >>> spans = [Span(kind=k, start=a, stop=b, body_start=a, body_stop=b, **about) for k, a, b in cuts]
    >>> source = Source(file="f", record="0", format="prompt")
    >>> run = Trajectory(format_version=1, id="a", source=source, text=text, spans=spans)
    >>> [message.role for message in to_messages(run)]
    ['user', 'assistant']
    """
    roles = [_role(span) for span in trajectory.spans]
    numbered = zip(trajectory.spans, roles, strict=True)
    messages: list[Message] = []
    calls_before = False
    # An observation that answers a call is a message of its own, however many the log put into one.
    for (_, role, call_id), group in groupby(numbered, lambda pair: (_message_of(pair[0]), pair[1], _answers(*pair))):
        spans = [span for span, _ in group]
        parts = _joined(trajectory.text, spans)
        if not parts:
            continue
        if role == "assistant":
            calls_before = any(part.field == "call" for part in parts)
            before = messages[-1] if messages else None
            if before is not None and before.role == role and _follows(before.parts, parts):
                messages[-1] = before._replace(parts=_run_on(before.parts, parts))
                continue
        # Only what answers a call of its own is a tool's: to one that is written in words a user's turn answers.
        if role == "tool" and calls_before:
            messages.append(Message("tool", tuple(parts), call_id, spans[0].name))
        else:
            messages.append(Message("user" if role == "tool" else role, tuple(parts)))
    return messages


_ORDER: tuple[Field, ...] = ("reasoning", "content", "call")


def in_order(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Parts in the order in which templates write a message: thinking, words, calls."""
    return tuple(sorted(parts, key=lambda part: _ORDER.index(part.field)))


def _follows(before: Sequence[Part], parts: Sequence[Part]) -> bool:
    """Whether two messages of the agent in a row are one turn: thinking, words and calls stay in this order."""
    return _ORDER.index(before[-1].field) <= _ORDER.index(parts[0].field)


def _run_on(before: Sequence[Part], parts: Sequence[Part]) -> tuple[Part, ...]:
    last = before[-1]
    if last.field == parts[0].field != "call" and not last.text.endswith("\n"):
        last = last._replace(text=last.text + "\n")
    return (*before[:-1], last, *parts)


def _message_of(span: Span) -> int:
    return -1 if span.message is None else span.message


def _answers(span: Span, role: Role) -> str | None:
    return span.call_id if role == "tool" else None


def _role(span: Span) -> Role:
    # What an agent made up in its own turn stays in it, as a quote that carries no loss.
    if span.kind in ("reason", "act") or (span.author == "agent" and span.message is not None):
        return "assistant"
    if span.author == "system":
        return "system"
    if span.author == "environment" and span.kind == "observation" and span.message is not None:
        return "tool"
    return "user"


def _joined(text: str, spans: Sequence[Span]) -> list[Part]:
    """The parts of one message: thinking first, then words, then calls, with what joins neighbours of one field."""
    by_field: dict[Field, list[tuple[Part, Span]]] = {field: [] for field in _ORDER}
    for span in spans:
        part = _part(text, span)
        if part.text or part.field == "call":
            by_field[part.field].append((part, span))
    parts: list[Part] = []
    for field, found in by_field.items():
        for number, (part, span) in enumerate(found):
            following = found[number + 1] if number + 1 < len(found) else None
            # What stood apart in the log, as two blocks of one message, would run together.
            apart = following is not None and field != "call" and logged_place(span)[1] != logged_place(following[1])[0]
            glue = "\n" if apart and not part.text.endswith("\n") else ""
            parts.append(part._replace(text=part.text + glue))
    return parts


def logged_place(span: Span) -> tuple[int, int]:
    """Where in its trajectory's text stands what the log itself holds of a span."""
    start = span.start if span.logged_start is None else span.logged_start
    return start, span.stop if span.logged_stop is None else span.logged_stop


def _part(text: str, span: Span) -> Part:
    start, stop = logged_place(span)
    is_call = span.name is not None and start > span.start and (start, stop) == _arguments(span)
    field: Field = "call" if is_call else "reasoning" if span.hidden and span.kind == "reason" else "content"
    said = text[start:stop]
    body = text[max(start, span.body_start) : min(stop, span.body_stop)]
    core = body.strip()
    core_start = max(start, span.body_start) - start + len(body) - len(body.lstrip()) if core else 0
    core_stop = core_start + len(core)
    return Part(field, said, core_start, core_stop, span.name, span.call_id, span.kind, span.step, span.message)


def _arguments(span: Span) -> tuple[int | None, int | None]:
    return span.arguments_start, span.arguments_stop


def tool_definitions(tools: Iterable[msgspec.Raw]) -> list[dict[str, Any]]:
    """Tool definitions in the shape that chat templates read, from those of the known APIs; others as they stand.

    >>> tool_definitions([msgspec.Raw(b'{"name": "f", "input_schema": {"type": "object"}}')])
    [{'type': 'function', 'function': {'name': 'f', 'parameters': {'type': 'object'}}}]
    """
    definitions = []
    for raw in tools:
        tool = msgspec.json.decode(raw)
        found = tool if isinstance(tool, list) else [tool]
        for one in found:
            nested = (
                one.get("functionDeclarations", one.get("function_declarations")) if isinstance(one, dict) else None
            )
            definitions += [_definition(each) for each in (nested if isinstance(nested, list) else [one])]
    return definitions


def _definition(tool: Any) -> dict[str, Any]:
    if not isinstance(tool, dict) or isinstance(tool.get("function"), dict) or not isinstance(tool.get("name"), str):
        return tool if isinstance(tool, dict) else {"type": "function", "function": {"name": str(tool)}}
    function = {key: value for key, value in tool.items() if key in ("name", "description", "parameters", "strict")}
    schema = tool.get("input_schema", tool.get("inputSchema"))
    if schema is not None:
        function["parameters"] = schema
    return {"type": "function", "function": function}
