"""smolagents: steps of an agent's memory, and its code agent's chat turns."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from sadstream.formats.content import content_of
from sadstream.formats.kinds import RecordFormat
from sadstream.formats.outcomes import as_text, outcome_fields, remaining
from sadstream.formats.pieces import Piece, call, context, observation, thought, unreadable, verbatim
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

_NAMES = ("steps", "memory")
# Older versions write the second; the stop word that closes a block may be missing.
_CODE = re.compile(
    r"<code>\s*(.*?)\s*(?:</code>|\Z)|^Code:[ \t]*\n```[a-z]*\n(.*?)\n?(?:```(?:<end_code>)?|\Z)", re.M | re.S
)
# What the framework adds to the agent's turn: its calls, which repeat the code.
_CALLING = re.compile(r"^Calling tools:\n(?=\[)", re.M)
_CHATS = ("messages", "conversation", "conversations")
_CHAT_AUTHORS = {
    "system": "system",
    "user": "user",
    "assistant": "agent",
    "tool-call": "agent",
    "tool-response": "environment",
    "tool": "environment",
}
_REPLIES = ("Observation:", "Error:", "Call id:")


def recognise(record: Any) -> bool:
    """A list of memory steps, bare or under `steps`, of which one has a model's output and what came of it."""
    steps = _steps(record)[1]
    return any(_is_action(step) for step in steps)


def _steps(record: Any) -> tuple[str, list[dict[str, Any]]]:
    names = [n for n in _NAMES if n in record] if isinstance(record, dict) else [""]
    for name in names:
        steps = record[name] if name else record
        if isinstance(steps, list) and steps and all(isinstance(step, dict) for step in steps):
            return name, steps
    return "", []


def _is_action(step: dict[str, Any]) -> bool:
    return "model_output" in step and "observations" in step and not step.keys().isdisjoint(("step_number", "step"))


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory: prompts, plans and actions in the order of the steps."""
    name, _ = _steps(record)
    fields = fields_of(raw) if name else {}
    pieces: list[Piece] = []
    for number, item in enumerate(items_of(fields[name] if name else raw)):
        step = fields_of(item)
        begun = any(piece["kind"] == "act" for piece in pieces)
        made = list(_step_pieces(step, number, begun=begun))
        left = rest(step, _mapped(step))
        made = made or [unreadable("context", ["{}"], message=number, author="system")]
        made[-1] = noted(made[-1], left)
        pieces += made
    outcome = outcome_fields({k: v for k, v in record.items() if k != name}) if name else {"mapped": set()}
    mapped = outcome.pop("mapped") | {name}
    outcome.setdefault("task", next((p["text"] for p in pieces if p["author"] == "user"), None))
    if pieces and "answer" not in outcome:
        last = _steps(record)[1][-1]
        if last.get("is_final_answer") is True or "final_answer" in last:
            outcome |= {"answer": as_text(last.get("action_output", last.get("final_answer"))), "ending": "finished"}
    yield Draft(pieces=pieces, extra=json_object(rest(fields, mapped)), **outcome)


def _mapped(step: Fields) -> tuple[str, ...]:
    """Fields that pieces hold. A code agent's only call repeats the code in its words."""
    code = _CODE.search(text_of(step.get("model_output")))
    return ("system_prompt", "task", "plan", "model_output", "observations", *(() if code else ("tool_calls",)))


def _step_pieces(step: Fields, number: int, *, begun: bool) -> Iterator[Piece]:
    if "system_prompt" in step:
        yield context(text_of(step["system_prompt"]), message=number, author="system")
    if "task" in step:
        yield (observation if begun else context)(text_of(step["task"]), message=number, author="user")
    if "plan" in step:
        yield thought(text_of(step["plan"]), message=number)
    yield from _acts(step, number)
    error = step.get("error")
    failed = error is not None and bytes(error) != b"null"
    seen = string_of(step.get("observations"))
    if seen is not None:
        yield observation(seen, message=number, error=failed or None)
    elif failed:
        message = text_of(fields_of(error).get("message")) if is_object(error) else text_of(error)
        yield observation(message, message=number, error=True)


def _acts(step: Fields, number: int) -> Iterator[Piece]:
    text = string_of(step.get("model_output")) or ""
    if _CODE.search(text):
        yield from code_turn(text, number)
        return
    if text:
        yield thought(text, message=number)
    for item in filter(is_object, items_of(step.get("tool_calls"))):
        asked = fields_of(item)
        function = fields_of(asked["function"]) if is_object(asked.get("function")) else asked
        yield call(
            text_of(function.get("name")),
            text_of(function.get("arguments")),
            message=number,
            call_id=string_of(asked.get("id")),
        )


def code_turn(text: str, number: int) -> list[Piece]:
    """A code agent's turn as it stands: what it thinks, and the code with its marks.

    >>> [(piece["kind"], piece["text"]) for piece in code_turn("Thought: a\\n<code>\\nf()\\n</code>", 0)]
    [('reason', 'Thought: a\\n'), ('act', '<code>\\nf()\\n</code>')]
    """
    found = _CODE.search(text)
    if found is None:
        return [verbatim("act", text, message=number, author="agent")]
    body = 1 if found[1] is not None else 2
    about = {
        "syntax": "code",
        "name": "python_interpreter",
        "arguments_start": found.start(body) - found.start(),
        "arguments_stop": found.end(body) - found.start(),
    }
    parts = [("reason", text[: found.start()], {}), ("act", text[found.start() :], about)]
    parts = [part for part in parts if part[1]]
    return [
        verbatim(kind, part, message=number, author="agent", last=index == len(parts) - 1, **more)
        for index, (kind, part, more) in enumerate(parts)
    ]


def recognise_chat(record: Any) -> bool:
    """Messages without `tool_calls`, of which an agent's turn is code or calls in words, and the next one answers it.

    The code of a last turn has no answer, and gives one itself.
    """
    messages = _chat(record)[1]
    turns = [(_CHAT_AUTHORS[m["role"]], _plain(m.get("content"))) for m in messages]
    spoken = [index for index, (author, _) in enumerate(turns) if author == "agent"]
    return any(
        _acts_in_words(turns[i][1])
        and (turns[i + 1][1].startswith(_REPLIES) if i + 1 < len(turns) else "final_answer(" in turns[i][1])
        for i in spoken
        if i + 1 == len(turns) or turns[i + 1][0] != "agent"
    )


def _acts_in_words(text: str) -> bool:
    # Looked at in most chats of others: finding a word is ten times as fast as a pattern.
    if not any(word in text for word in ("<code>", "Code:", "Calling tools:")):
        return False
    found = _CODE.search(text)
    # A tag in a line is a mention.
    return bool(_CALLING.search(text)) or (
        found is not None and text[: found.start()].rpartition("\n")[2].strip() == ""
    )


def _plain(content: Any) -> str:
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    return "".join(b["text"] for b in content if isinstance(b, dict) and isinstance(b.get("text"), str))


def _chat(record: Any) -> tuple[str, list[dict[str, Any]]]:
    names = [n for n in _CHATS if n in record] if isinstance(record, dict) else [""]
    for name in names:
        messages = record[name] if name else record
        if isinstance(messages, list) and messages and all(map(_is_message, messages)):
            return name, messages
    return "", []


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and message["role"] in _CHAT_AUTHORS
        and isinstance(message.get("content"), str | list)
        and not message.get("tool_calls")
    )


def read_chat(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory, verbatim: the agent's code is an act, and what the framework adds to its turn is context."""
    name, _ = _chat(record)
    fields = fields_of(raw) if name else {}
    pieces: list[Piece] = []
    for number, item in enumerate(items_of(fields[name] if name else raw)):
        message = fields_of(item)
        role = text_of(message.get("role"))
        text, opaque = content_of(message.get("content"))
        made = _turn(text, role, number, begun=any(p["kind"] == "act" for p in pieces))
        made = made or [unreadable("context", ["{}"], message=number, author=_CHAT_AUTHORS[role])]
        if opaque:
            made[0]["opaque"] = opaque
        usual = role if role in ("system", "user", "assistant", "tool") else ""
        made[0] = noted(made[0], rest(message, ("content", *(("role",) if usual else ()))))
        pieces += made
    outcome = outcome_fields({k: v for k, v in record.items() if k != name}) if name else {"mapped": set()}
    mapped = outcome.pop("mapped") | {name}
    outcome.setdefault("task", next((p["text"] for p in pieces if p["author"] == "user"), None))
    yield Draft(pieces=pieces, extra=remaining(fields, mapped), **outcome)


def _turn(text: str, role: str, number: int, *, begun: bool) -> list[Piece]:
    author = _CHAT_AUTHORS[role]
    if not text:
        return []
    if author != "agent":
        kind = "observation" if author == "environment" or (begun and author == "user") else "context"
        return [verbatim(kind, text, message=number, author=author)]
    calling = _CALLING.search(text)
    said = text[: calling.start()] if calling else text
    if _acts_in_words(said):
        made = code_turn(said, number)
    elif calling:
        made = [verbatim("reason", said, message=number, author="agent", last=False)] if said else []
        return [*made, verbatim("act", text[calling.start() :], message=number, author="agent", syntax="text")]
    else:
        made = [verbatim("act", said, message=number, author="agent")]
    if calling:
        made[-1]["suffix"] = ""
        made.append(verbatim("context", text[calling.start() :], message=number, author="system"))
    return made


FORMATS = (
    RecordFormat(
        "smolagents", "steps of a smolagents agent's memory (`model_output`, `observations`)", recognise, read
    ),
    RecordFormat(
        "smolagents-chat",
        "chats of smolagents: `<code>` or `Calling tools:` in the agent's words",
        recognise_chat,
        read_chat,
    ),
)
