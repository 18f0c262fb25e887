"""ShareGPT conversations of `from` and `value`, with calls (Glaive) or with thoughts and actions (AgentInstruct)."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from sadstream.formats import tags
from sadstream.formats.kinds import RecordFormat
from sadstream.formats.openai_chat import call_texts, record_draft, said_by_agent
from sadstream.formats.outcomes import as_bool
from sadstream.formats.pieces import Piece, context, observation, unreadable, verbatim
from sadstream.formats.verbatim import Fields, fields_of, items_of, noted, rest
from sadstream.frames import Draft

_AUTHORS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "agent",
    "assistant": "agent",
    "chatgpt": "agent",
    "bing": "agent",
    "function_call": "agent",
    "tool_call": "agent",
    "observation": "environment",
    "tool": "environment",
    "function": "environment",
    "tool_response": "environment",
    "function_response": "environment",
}
_CALLS = ("function_call", "tool_call")
_USUAL = {"system": "system", "user": "human", "agent": "gpt", "environment": "observation"}
_LISTS = ("conversations", "conversation", "messages")
_LABEL = re.compile(r"(?m)^(?:(Thought|Think)|(Action|Act)|(Observation)):")


def recognise(record: Any) -> bool:
    """A list of turns with `from` and `value`, bare or under `conversations`, a turn of the agent's among them."""
    turns = _turns(record)[1]
    return turns is not None


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory; agent turns with `Thought:` and `Action:` are cut by them."""
    name, turns = _turns(record)
    assert turns is not None
    messages = [fields_of(turn) for turn in items_of(fields_of(raw)[name] if name else raw)]
    prompt = _n_unlearnt(turns)
    labelled = any(_is_said(t) and _LABEL.search(t["value"]) for t in turns)
    tagged = any(_is_said(t) and tags.acts(t["value"]) for t in turns)
    pieces: list[Piece] = []
    acted = False
    for index, (turn, fields) in enumerate(zip(turns, messages, strict=True)):
        author = _AUTHORS[turn["from"]]
        if author == "agent" and index < prompt:
            new = [context(turn["value"], message=index, author="agent")]
        elif author == "agent":
            new = _agent(turn, index=index, labelled=labelled, tagged=tagged)
        else:
            new = _other(turn["value"], index=index, author=author, acted=acted, bare=labelled or tagged)
        acted = acted or any(p["kind"] == "act" for p in new)
        notes: Fields = rest(fields, ("from", "value"))
        if turn["from"] not in (_USUAL[author], "function_call"):
            notes["from"] = fields["from"]
        if not new:
            new = [unreadable("reason", ['""'], message=index, author=author)]
        pieces += [noted(new[0], notes), *new[1:]]
    draft = Draft(pieces=pieces, dialect=tags.DIALECT, task=_task(pieces, prompt))
    yield draft if not name else record_draft(record, raw, draft, mapped={name})


def _turns(record: Any) -> tuple[str, list[dict[str, str]] | None]:
    names = [n for n in _LISTS if n in record] if isinstance(record, dict) else [""]
    for name in names:
        turns = record[name] if name else record
        if is_turns(turns):
            return (name, turns) if any(_AUTHORS[t["from"]] == "agent" for t in turns) else ("", None)
    return "", None


def is_turns(value: Any) -> bool:
    """Whether a value is a list of turns of `from` and `value`."""
    return isinstance(value, list) and bool(value) and all(_is_turn(t) for t in value)


def author_of(turn: Any) -> str | None:
    """Whose a turn is; None where it is none."""
    return _AUTHORS[turn["from"]] if _is_turn(turn) else None


def _is_turn(turn: Any) -> bool:
    return (
        isinstance(turn, dict)
        and isinstance(turn.get("from"), str)
        and turn["from"] in _AUTHORS
        and isinstance(turn.get("value"), str)
    )


def _is_said(turn: dict[str, str]) -> bool:
    return _AUTHORS[turn["from"]] == "agent" and turn["from"] not in _CALLS


def _n_unlearnt(turns: list[dict[str, Any]]) -> int:
    """How many turns stand before the first of the agent's that it learns from.

    Agent turns with `loss` false at the beginning are examples and acknowledgements; so is a first one without label
    where later ones have labels ("OK. I'll follow your instructions.").
    """
    spoken = [i for i, t in enumerate(turns) if _AUTHORS[t["from"]] == "agent"]
    if any(as_bool(turns[i].get("loss")) for i in spoken):
        return next(i for i in spoken if as_bool(turns[i].get("loss")) is not False)
    labelled = [i for i in spoken if _LABEL.search(turns[i]["value"])]
    first = spoken[0]
    return first + 1 if labelled and first not in labelled and _is_said(turns[first]) and len(spoken) > 1 else 0


def _agent(turn: dict[str, str], *, index: int, labelled: bool, tagged: bool) -> list[Piece]:
    text = turn["value"]
    if turn["from"] in _CALLS:
        return call_texts(text, message=index)
    if labelled and not tagged:
        return _labelled_pieces(text, index=index)
    if not text.strip():
        return [unreadable("reason", [msgspec.json.encode(text).decode()], message=index, author="agent")]
    return said_by_agent(text, index=index, tagged=tagged)


def _labelled_pieces(text: str, *, index: int) -> list[Piece]:
    """A turn cut at its labels; what stands before the first is a thought, a turn without any is a message."""
    found = list(_LABEL.finditer(text))
    if not found:
        return [verbatim("act", text, message=index, author="agent")] if text else []
    head = text[: found[0].start()]
    starts = [m.start() for m in found]
    pieces = []
    if head.strip():
        pieces.append(verbatim("reason", head, message=index, author="agent", last=False))
    else:
        starts[0] = 0
    for begin, stop, label in zip(starts, [*starts[1:], len(text)], found, strict=True):
        kind = "reason" if label[1] else "act" if label[2] else "observation"
        # A label in the agent's own turn says observation: it made that one up.
        about = {"flags": ["invented"]} if kind == "observation" else {}
        pieces.append(verbatim(kind, text[begin:stop], message=index, author="agent", last=stop == len(text), **about))
    return pieces


def _other(text: str, *, index: int, author: str, acted: bool, bare: bool) -> list[Piece]:
    answers = author == "environment" or (author == "user" and acted)
    if not answers:
        return [context(text, message=index, author=author)]
    if bare:
        return tags.reply_pieces(text, message=index, author=author)
    return [observation(text, message=index, author=author)]


def _task(pieces: list[Piece], prompt: int) -> str | None:
    """The first request; where examples or an acknowledgement stand before it, the last before the agent acts."""
    asked = [p["text"] for p in pieces if p["author"] == "user" and p["kind"] == "context"]
    return asked[-1 if prompt else 0] if asked else None


FORMATS = (
    RecordFormat(
        "sharegpt",
        "`conversations` of `from` and `value`, with function calls or `Thought:`/`Action:` (AgentInstruct, AgentGym)",
        recognise,
        read,
    ),
)
