"""Chat messages in the shapes that templates take: calls as text, turns that alternate, thinking between tags."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from sadstream.chat_template import Template, Thinking
from sadstream.messages import Message, Part, in_order, to_messages, tool_definitions
from sadstream_schemas import Trajectory


class Shape(NamedTuple):
    """A trajectory as a template may take it.

    Attributes:
        messages: in order. tools: that are handed to the template.
    """

    messages: list[Message]
    tools: list[dict[str, Any]]


def shapes(trajectory: Trajectory, template: Template) -> Iterator[Shape]:
    """A trajectory's messages in all shapes that are worth a try, the nearest to what was logged first.

    A template without tool calls gets them as `<tool_call>` text in the agent's message, results as `<tool_response>`
    in a user's, and the tools in the system message; one that wants turns to alternate gets neighbours joined.
    """
    messages = to_messages(trajectory)
    first = next((number for number, message in enumerate(messages) if message.role != "system"), None)
    if first is not None and messages[first].role == "assistant":
        # Nothing was asked: templates want a turn before the agent's.
        messages.insert(first, Message("user", (_context(""),)))
    for native in (True, False) if template.calls else (False,):
        shaped = messages if native else _calls_as_text(messages, trajectory)
        tools = tool_definitions(trajectory.tools) if native else []
        yield Shape(_spoken(shaped, template.thinking), tools)
        yield Shape(_spoken(_alternating(shaped), template.thinking), tools)


def _calls_as_text(messages: Sequence[Message], trajectory: Trajectory) -> list[Message]:
    """Calls as `<tool_call>` in the agent's words, results as `<tool_response>` of the user, tools in the prompt."""
    shaped = []
    for message in messages:
        if message.role == "tool":
            parts = [_wrapped(part, "<tool_response>\n", "\n</tool_response>") for part in message.parts]
            shaped.append(Message("user", tuple(parts)))
        else:
            shaped.append(message._replace(parts=tuple(_written(message.parts))))
    tools = tool_definitions(trajectory.tools)
    if tools:
        shaped = _with_tools(shaped, tools)
    return shaped


def _written(parts: Sequence[Part]) -> Iterator[Part]:
    for number, part in enumerate(parts):
        following = parts[number + 1].field if number + 1 < len(parts) else None
        if part.field == "call":
            name = msgspec.json.encode(part.name).decode()
            before = f'<tool_call>\n{{"name": {name}, "arguments": '
            part = _wrapped(part._replace(field="content"), before, "}\n</tool_call>")
        if following == "call" and part.field == "content" and not part.text.endswith("\n"):
            part = part._replace(text=part.text + "\n")
        yield part


def _wrapped(part: Part, before: str, after: str) -> Part:
    return part._replace(
        text=before + part.text + after,
        core_start=part.core_start + len(before),
        core_stop=part.core_stop + len(before),
    )


def _with_tools(messages: list[Message], tools: Sequence[dict[str, Any]]) -> list[Message]:
    listed = "\n".join(msgspec.json.encode(tool).decode() for tool in tools)
    text = (
        f"You can call these tools:\n<tools>\n{listed}\n</tools>\n\nTo call one, write\n<tool_call>\n"
        '{"name": <its name>, "arguments": <a JSON object>}\n</tool_call>'
    )
    if messages and messages[0].role == "system":
        first, rest = messages[0], messages[1:]
        glue = first.parts[-1]._replace(text=first.parts[-1].text.rstrip("\n") + "\n\n")
        return [first._replace(parts=(*first.parts[:-1], glue, _context(text))), *rest]
    return [Message("system", (_context(text),)), *messages]


def _context(text: str) -> Part:
    return Part("content", text, 0, len(text), None, None, "context", None)


def _alternating(messages: Sequence[Message]) -> list[Message]:
    """User and agent by turns: a later system message is the user's, and neighbours of one role are one message."""
    joined: list[Message] = []
    for number, message in enumerate(messages):
        role = "user" if message.role == "system" and number else message.role
        before = joined[-1] if joined else None
        if before is not None and before.role == role and role in ("user", "assistant"):
            last = before.parts[-1]
            last = last._replace(text=last.text if last.text.endswith("\n") else f"{last.text}\n")
            parts = (*before.parts[:-1], last, *message.parts)
            joined[-1] = before._replace(parts=in_order(parts))
        else:
            joined.append(message._replace(role=role))
    return joined


def _spoken(messages: Sequence[Message], thinking: Thinking) -> list[Message]:
    """Messages with thinking where the template takes it: in its field, or as words between `<think>` tags."""
    return [
        message._replace(parts=_tagged(message.parts) if thinking == "inline" else _untagged(message.parts))
        for message in messages
    ]


def _tagged(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    n_thoughts = sum(part.field == "reasoning" for part in parts)
    shaped = []
    for number, part in enumerate(parts):
        if part.field == "reasoning":
            before = "<think>\n" if number == 0 else ""
            after = "\n</think>\n\n" if number + 1 == n_thoughts else ""
            part = _wrapped(part._replace(field="content"), before, after)
        shaped.append(part)
    return tuple(shaped)


def _untagged(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """A thought that the log holds between `<think>` tags at a message's beginning, moved to the field for it."""
    first = parts[0] if parts else None
    if first is None or first.field != "content" or first.kind != "reason":
        return parts
    label, closing = first.text[: first.core_start], first.text[first.core_stop :]
    if "<think>" not in label and "</think>" not in closing:
        return parts
    core = first.text[first.core_start : first.core_stop]
    return (first._replace(field="reasoning", text=core, core_start=0, core_stop=len(core)), *parts[1:])
