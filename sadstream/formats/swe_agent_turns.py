"""SWE-agent's runs as a data set of turns (Nebius): roles `system`, `user`, `ai`, and the words in `text`."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from sadstream.formats.kinds import RecordFormat
from sadstream.formats.outcomes import as_bool
from sadstream.formats.pieces import Piece, context, first_words, unreadable, verbatim
from sadstream.formats.swe_agent import cut_turn, ending_of
from sadstream.formats.verbatim import Fields, fields_of, items_of, json_object, noted, rest, string_of, text_of
from sadstream.frames import Draft

_ROLES = {"system": "system", "user": "user", "ai": "agent"}
_FENCE = re.compile(r"(?m)^```([^\s`]*)[ \t\r]*$")


def recognise(record: Any) -> bool:
    """`trajectory` of turns with `text`, one of them by `ai`."""
    turns = record.get("trajectory") if isinstance(record, dict) else None
    if not isinstance(turns, list) or not turns or not all(_is_turn(turn) for turn in turns):
        return False
    return any(turn["role"] == "ai" for turn in turns)


def _is_turn(turn: Any) -> bool:
    return (
        isinstance(turn, dict)
        and turn.get("role") in ("system", "user", "ai")
        and isinstance(turn.get("text", 0), str | None)
        and isinstance(turn.get("system_prompt"), str | None)
        and "content" not in turn
    )


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory: the last fenced block of a turn is its command, all else in the turn a thought."""
    fields = fields_of(raw)
    pieces: list[Piece] = []
    begun = False
    for index, item in enumerate(items_of(fields["trajectory"])):
        turn = fields_of(item)
        begun = begun or string_of(turn.get("role")) == "ai"
        made = list(_turn(turn, index=index, begun=begun))
        pieces += [noted(made[0], rest(turn, ("role", "text", "system_prompt"))), *made[1:]]
    yield Draft(
        task_id=string_of(fields.get("instance_id")),
        task=first_words(pieces),
        success=as_bool(record.get("target")),
        ending=ending_of(string_of(fields.get("exit_status"))),
        answer=string_of(fields.get("generated_patch")),
        pieces=pieces,
        extra=json_object(rest(fields, _mapped(record))),
    )


def _mapped(record: dict[str, Any]) -> set[str]:
    texts = {name for name in ("instance_id", "exit_status", "generated_patch") if isinstance(record.get(name), str)}
    return {"trajectory", *texts, *(("target",) if as_bool(record.get("target")) is not None else ())}


def _turn(turn: Fields, *, index: int, begun: bool) -> Iterator[Piece]:
    """Pieces of a turn; at least one, which may be empty."""
    author = _ROLES[text_of(turn.get("role"))]
    text, prompt = text_of(turn.get("text")), text_of(turn.get("system_prompt"))
    if prompt:
        yield context(prompt, message=index, author="system")
    if author == "agent" and text.strip():
        place = last_block(text)
        yield from cut_turn(text, [] if place is None else [place], index)
    elif author == "agent":
        yield unreadable("reason", ['""'], message=index, author=author)
    elif author == "user" and begun:
        yield verbatim("observation", text, message=index, author="environment")
    elif text or not prompt:
        yield context(text, message=index, author=author)


def last_block(text: str) -> tuple[int, int, int, str] | None:
    """The last fenced block that stands in no other: its start, its stop, where its command starts, the command.

    >>> last_block("I look.\\n```\\nls\\n```\\n")
    (8, 18, 12, 'ls')
    """
    opened: list[re.Match[str]] = []
    found = None
    for fence in _FENCE.finditer(text):
        if fence[1] or not opened:
            opened.append(fence)
            continue
        first = opened.pop()
        if not opened:
            found = first, fence
    if found is None:
        return None
    first, last = found
    inner = text[first.end() : last.start()]
    command = inner.strip()
    at = first.end() + (len(inner) - len(inner.lstrip()) if command else 0)
    return first.start(), last.end(), at, command


FORMATS = (
    RecordFormat(
        "swe-agent-turns",
        "SWE-agent's runs as turns: `trajectory` with `role: ai` and `text` (Nebius)",
        recognise,
        read,
    ),
)
