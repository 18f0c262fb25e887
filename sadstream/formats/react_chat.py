"""Chat messages whose agent turns hold ReAct text: `Thought: ... Action: ...`, answered by `Observation: ...`."""

from collections.abc import Iterable
from typing import Any

from sadstream.formats.dialects import dialect_of
from sadstream.formats.kinds import RecordFormat
from sadstream.formats.openai_chat import LISTS, prompt_beside
from sadstream.formats.outcomes import finish_line, outcome_fields, remaining
from sadstream.formats.pieces import AUTHORS, Piece, verbatim
from sadstream.formats.verbatim import Fields, fields_of, items_of, noted, rest
from sadstream.frames import Draft

_DIALECTS = ("react", "react-numbered", "webshop")
_USUAL = ("system", "user", "assistant", "tool")
_PLAIN = {"role", "content"}


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
    texts = [_texts(message["content"]) for message in messages]
    if len(messages) > 1 and "ending" not in outcome:
        outcome = {**finish_line("".join(texts[-1])), **outcome}
    first_turn = next(i for i, m in enumerate(messages) if AUTHORS[m["role"]] == "agent")
    # The first message is the prompt whoever sent it: FireAct has records whose first turn went to the wrong role.
    prompt = max(1, first_turn)
    asked = (text for text, m in zip(texts, messages[:prompt], strict=False) if AUTHORS[m["role"]] != "system")
    outcome.setdefault("task", "".join(next(asked, texts[0])).removeprefix("Question: "))
    pieces: list[Piece] = []
    for index, (message, item) in enumerate(zip(messages, items_of(fields[name] if name else raw), strict=True)):
        kind = "context" if index < prompt else None
        role = message["role"]
        author = AUTHORS[role]
        made = [verbatim(kind, text, message=index, author=author) for text in texts[index]]
        if message.keys() != _PLAIN or role not in _USUAL or not isinstance(message["content"], str):
            made[0] = noted(made[0], _notes(fields_of(item), message))
        pieces += made
    system, beside = prompt_beside(fields, pieces)
    extra = remaining(fields, mapped | beside)
    yield Draft(dialect=_dialect(messages), pieces=[*system, *pieces], extra=extra, **outcome)


def _notes(fields: Fields, message: dict[str, Any]) -> Fields:
    """What a message says beside role and text; its blocks as they were written."""
    notes = rest(fields, ("role", "content"))
    if not isinstance(message["content"], str):
        notes["content"] = fields["content"]
    if message["role"] not in _USUAL:
        notes["role"] = fields["role"]
    return notes


def _texts(content: str | list[Any]) -> list[str]:
    """Text of a message, or of each of its blocks; an empty one where it has none."""
    if isinstance(content, str):
        return [content]
    return [block if isinstance(block, str) else block["text"] for block in content] or [""]


def _dialect(messages: list[dict[str, Any]]) -> str | None:
    """The first ReAct dialect in the agent's turns; `> ` there is a quotation."""
    said = (text for m in messages if AUTHORS[m["role"]] == "agent" for text in _texts(m["content"]))
    return next((dialect for dialect in map(dialect_of, said) if dialect in _DIALECTS), None)


def _messages(record: Any) -> tuple[str, list[dict[str, Any]] | None]:
    """Name of the list of messages in a record ("" for a bare list), and the list; None if there is none."""
    names = [n for n in LISTS if n in record] if isinstance(record, dict) else [""]
    for name in names:
        messages = record[name] if name else record
        if isinstance(messages, list) and messages and all(_is_text_message(m) for m in messages):
            return name, messages
    return "", None


def _is_text_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and message["role"] in AUTHORS
        and not any(message.get(name) for name in ("tool_calls", "function_call"))
        and _is_text(message.get("content"))
    )


def _is_text(content: Any) -> bool:
    if not isinstance(content, list):
        return isinstance(content, str)
    return all(isinstance(b, str) or (isinstance(b, dict) and isinstance(b.get("text"), str)) for b in content)


FORMATS = (
    RecordFormat(
        "react-chat", "chat messages whose agent turns hold `Thought:` and `Action:` (FireAct)", recognise, read
    ),
)
