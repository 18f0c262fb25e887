"""Chat messages whose agent turns hold ReAct text: `Thought: ... Action: ...`, answered by `Observation: ...`."""

from collections.abc import Iterable
from typing import Any

from sadstream.formats.dialects import dialect_of
from sadstream.formats.kinds import RecordFormat
from sadstream.formats.outcomes import finish_line, outcome_fields, remaining
from sadstream.formats.pieces import verbatim
from sadstream.formats.verbatim import fields_of
from sadstream.frames import Draft

_LISTS = ("messages", "traj", "trajectory", "conversation")
_DIALECTS = ("react", "react-numbered", "webshop")
_AUTHORS = {"system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "agent"}


def recognise(record: Any) -> bool:
    """A list of role and text, of which an agent's turn holds ReAct labels; bare, or under a usual name."""
    messages = _messages(record)[1]
    return messages is not None and _dialect(messages) is not None


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory: what stands before the agent's first turn is the prompt, labels cut the agent's turns."""
    name, messages = _messages(record)
    assert messages is not None
    fields = fields_of(raw) if name else {}
    outcome = outcome_fields(record) if name else {"mapped": set()}
    mapped: set[str] = outcome.pop("mapped") | {name}
    if len(messages) > 1 and "ending" not in outcome:
        outcome = {**finish_line(messages[-1]["content"]), **outcome}
    first_turn = next(i for i, m in enumerate(messages) if m["role"] == "assistant")
    # The first message is the prompt whoever sent it: FireAct has records whose first turn went to the wrong role.
    prompt = max(1, first_turn)
    request = next((m["content"] for m in messages[:prompt] if m["role"] != "system"), messages[0]["content"])
    outcome.setdefault("task", request.removeprefix("Question: "))
    yield Draft(
        dialect=_dialect(messages),
        pieces=[
            verbatim(
                "context" if index < prompt else None,
                message["content"],
                message=index,
                author=_AUTHORS[message["role"]],
            )
            for index, message in enumerate(messages)
        ],
        extra=remaining(fields, mapped),
        **outcome,
    )


def _dialect(messages: list[dict[str, Any]]) -> str | None:
    """The first ReAct dialect in the agent's turns; `> ` there is a quotation."""
    dialects = (dialect_of(m["content"]) for m in messages if m["role"] == "assistant")
    return next((dialect for dialect in dialects if dialect in _DIALECTS), None)


def _messages(record: Any) -> tuple[str, list[dict[str, Any]] | None]:
    """Name of the list of messages in a record ("" for a bare list), and the list; None if there is none."""
    names = [n for n in _LISTS if n in record] if isinstance(record, dict) else [""]
    for name in names:
        messages = record[name] if name else record
        if isinstance(messages, list) and messages and all(_is_text_message(m) for m in messages):
            return name, messages
    return "", None


def _is_text_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and message.keys() <= {"role", "content"}
        and isinstance(message.get("content"), str)
        and isinstance(message.get("role"), str)
        and message["role"] in _AUTHORS
    )


FORMATS = (
    RecordFormat(
        "react-chat", "chat messages whose agent turns hold `Thought:` and `Action:` (FireAct)", recognise, read
    ),
)
