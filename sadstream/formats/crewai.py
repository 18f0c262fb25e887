"""CrewAI's (and LangChain's) ReAct in chat turns: `Thought:`, `Action:`, `Action Input:`, `Final Answer:`.

The framework appends what a tool returned to the agent's own turn.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from sadstream.formats import tags
from sadstream.formats.content import texts_in
from sadstream.formats.kinds import RecordFormat
from sadstream.formats.outcomes import outcome_fields
from sadstream.formats.pieces import Piece, first_words, unreadable, verbatim
from sadstream.formats.verbatim import fields_of, items_of, json_object, noted, rest, string_of, text_of
from sadstream.frames import Draft

_AUTHORS = {"system": "system", "developer": "system", "user": "user", "assistant": "agent"}
_OWN = re.compile(r"(?m)^(?:Action Input|Final Answer):")
_THOUGHT_OR_ACTION = re.compile(r"(?m)^(?:Thought|Action):")
_LABEL = re.compile(r"(?m)^(Thought|Action|Observation|Final Answer):")
_BLANK_OR_FENCE = re.compile(r"\s*(?:```[a-z]*\s*)?")
_CALL = re.compile(r"Action:[ \t]*(.*?)[ \t\r]*\n(?:.*\n)*?Action Input:\s*")
_FINAL = re.compile(r"(?ms)^Final Answer:\s*(.*)")


class _Part(NamedTuple):
    kind: str
    text: str
    author: str
    about: dict[str, Any]


def recognise(record: Any) -> bool:
    """Messages, bare or under `messages`, of which one of the agent's holds `Action Input:`, or `Final Answer:`
    and another label.

    The system prompt decides nothing: it is full of examples. Nor does an agent's turn that acts by tags.
    """
    messages = record.get("messages") if isinstance(record, dict) else record
    if not isinstance(messages, list) or not messages or not all(_is_message(m) for m in messages):
        return False
    said = [text for m in messages if m["role"] == "assistant" for text in texts_in(m["content"])]
    own = {label[0] for text in said for label in _OWN.finditer(text)}
    if "Action Input:" not in own and not (own and any(_THOUGHT_OR_ACTION.search(text) for text in said)):
        return False
    return not any(tags.acts(text) for text in said)


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("role"), str)
        and value["role"] in _AUTHORS
        and isinstance(value.get("content"), str | list)
        and not any(value.get(name) for name in ("tool_calls", "function_call", "tool_call_id"))
    )


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory; what the user says after the agent's first turn answers it."""
    fields = {} if isinstance(record, list) else fields_of(raw)
    messages = record if isinstance(record, list) else record["messages"]
    pieces: list[Piece] = []
    begun = False
    for number, item in enumerate(items_of(raw if isinstance(record, list) else fields["messages"])):
        message = fields_of(item)
        author = _AUTHORS[messages[number]["role"]]
        begun = begun or author == "agent"
        text = string_of(message["content"])
        if text is not None:
            made = list(_text_pieces(text, author, number, begun=begun))
        else:
            made = list(_block_pieces(items_of(message["content"]), author, number, begun=begun))
        if not made:
            made = [unreadable("context", ["{}"], message=number, author=author)]
        made[0] = noted(made[0], rest(message, ("role", "content")))
        pieces += made
    outcome = {"mapped": set()} if isinstance(record, list) else outcome_fields(_without_messages(record))
    mapped = outcome.pop("mapped") | {"messages", "tools"}
    last = next((p["text"] for p in reversed(pieces) if p["author"] == "agent"), "")
    final = _FINAL.search(last)
    if final:
        outcome = {"answer": _unfenced(final[1]), "ending": "finished", **outcome}
    outcome.setdefault("task", first_words(pieces))
    yield Draft(
        dialect="react",
        pieces=pieces,
        tools=[bytes(tool).decode() for tool in items_of(fields.get("tools"))],
        extra=json_object(rest(fields, mapped)),
        **outcome,
    )


def _without_messages(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "messages"}


def _text_pieces(text: str, author: str, number: int, *, begun: bool) -> Iterator[Piece]:
    if author == "agent":
        parts = cut_turn(text)
    else:
        replies = begun and author == "user" and not text.lstrip().startswith("<system-reminder>")
        parts = [_Part("observation" if replies else "context", text, author, {})]
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        yield verbatim(part.kind, part.text, message=number, author=part.author, last=last, **part.about)


def _block_pieces(blocks: list[Any], author: str, number: int, *, begun: bool) -> Iterator[Piece]:
    """Blocks one after another; what is no text renders to nothing, unless nothing else stands there."""
    kind = "reason" if author == "agent" else "observation" if begun and author == "user" else "context"
    fields = [fields_of(block) for block in blocks]
    has_text = any(string_of(block.get("text")) for block in fields)
    for block in fields:
        text = string_of(block.get("text"))
        if text is not None:
            made = list(_text_pieces(text, author, number, begun=begun))
            made[0] = noted(made[0], rest(block, ("type", "text")))
            yield from made
        elif has_text:
            yield unreadable(kind, [json_object(block)], message=number, author=author)
        else:
            shown = f"[{text_of(block.get('type')) or 'media'}]"
            yield verbatim(kind, shown, message=number, author=author, opaque=[json_object(block)])


def cut_turn(text: str) -> list[_Part]:
    """An agent's turn cut at its labels.

    An observation after an action is the framework's, and is all that follows, labels and all; one that no action
    comes before the agent made up, and went on.

    >>> [(part.kind, part.text) for part in cut_turn("Thought: a\\nAction: f\\nAction Input: {}\\nObservation: b")]
    [('reason', 'Thought: a\\n'), ('act', 'Action: f\\nAction Input: {}\\n'), ('observation', 'Observation: b')]
    """
    labels = list(_LABEL.finditer(text))
    starts: list[tuple[int, str]] = []
    acted = False
    for label in labels:
        starts.append((label.start(), label[1]))
        if label[1] == "Observation" and acted:
            break
        acted = acted or label[1] == "Action"
    if not starts:
        return [_Part("act", text, "agent", {})]
    opening = text[: starts[0][0]]
    if _BLANK_OR_FENCE.fullmatch(opening):
        starts[0] = (0, starts[0][1])
    elif opening:
        starts.insert(0, (0, "Thought"))
    stops = [*(start for start, _ in starts[1:]), len(text)]
    acted = False
    parts = []
    for (start, name), stop in zip(starts, stops, strict=True):
        parts.append(_labelled(name, text[start:stop], acted=acted))
        acted = acted or name == "Action"
    return parts


def own_words(text: str) -> str:
    """An agent's turn without the observation that the framework appended.

    >>> own_words("Action: f\\nAction Input: {}\\nObservation: b")
    'Action: f\\nAction Input: {}\\n'
    """
    if "\nObservation:" not in text:
        return text
    last = cut_turn(text)[-1]
    return text[: -len(last.text)] if last.kind == "observation" and last.author == "environment" else text


def _labelled(label: str, text: str, *, acted: bool) -> _Part:
    if label == "Observation":
        return _Part("observation", text, "environment" if acted else "agent", {} if acted else {"flags": ["invented"]})
    if label == "Thought":
        return _Part("reason", text, "agent", {})
    return _Part("act", text, "agent", _call(text) if label == "Action" else {})


def _call(text: str) -> dict[str, Any]:
    """Tool and where its input stands, if both are there."""
    found = _CALL.search(text)
    if found is None:
        return {}
    arguments = _unfenced(text[found.end() :])
    syntax = "json" if arguments.startswith(("{", "[")) else "text"
    return {
        "name": found[1],
        "syntax": syntax,
        "arguments_start": found.end(),
        "arguments_stop": found.end() + len(arguments),
    }


def _unfenced(text: str) -> str:
    """Text without the fence and the blanks that end it."""
    return text.rstrip().removesuffix("```").rstrip()


FORMATS = (RecordFormat("crewai", "CrewAI's ReAct in chat turns (`Action Input:`, `Final Answer:`)", recognise, read),)
