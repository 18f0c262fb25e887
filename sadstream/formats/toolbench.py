"""ToolBench answers: search trees and chains, of which `answer_generation` holds the chosen path."""

from collections.abc import Iterable
from typing import Any

import msgspec

from sadstream.formats.kinds import RecordFormat
from sadstream.formats.matching import match_by_order
from sadstream.formats.outcomes import as_bool
from sadstream.formats.pieces import Piece, call, context, observation, thought, unreadable
from sadstream.formats.verbatim import (
    Fields,
    Json,
    fields_of,
    is_object,
    items_of,
    json_array,
    json_object,
    noted,
    rest,
    string_of,
    text_of,
)
from sadstream.frames import Draft

_AUTHORS = {"system": "system", "user": "user", "assistant": "agent", "function": "environment", "tool": "environment"}
_ENDINGS = {"give_answer": "finished", "give_up_and_restart": "aborted"}


def recognise(record: Any) -> bool:
    """A record with `answer_generation` that has a query or messages to train on."""
    if not isinstance(record, dict) or not isinstance(record.get("answer_generation"), dict):
        return False
    return not record["answer_generation"].keys().isdisjoint(("train_messages", "query", "valid_data"))


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """The longest path; a failed search has none, and of its tree no branch is the run: it is no more than its query.

    Paths that are no beginning of the longest are kept in `extra`.
    """
    fields = fields_of(raw)
    made = fields_of(fields["answer_generation"])
    paths = [items_of(path) for path in items_of(made.get("train_messages"))]
    longest = max(paths, key=len, default=[])
    others = [path for path in paths if _values(path) != _values(longest[: len(path)])]
    query = string_of(made.get("query"))
    answer = string_of(made.get("final_answer"))
    pieces = _pieces(longest) if longest else [context(query or "", message=0)]
    left: Fields = rest(made, ("train_messages", "query", "function", "final_answer"))
    kept: dict[str, Json | str] = {"train_messages": json_array(map(json_array, others))} if others else {}
    if made.get("final_answer") is not None and answer is None:
        kept["final_answer"] = text_of(made["final_answer"])
    return_type, said = _finish(answer)
    yield Draft(
        pieces=match_by_order(pieces),
        tools=[bytes(tool).decode() for tool in items_of(made.get("function"))],
        task=query,
        success=as_bool(record.get("win")),
        ending=_ENDINGS.get(return_type, "unknown" if longest else "halted"),
        answer=said if said is not None else answer or None,
        extra=json_object(
            {**rest(fields, ("win", "answer_generation")), "answer_generation": json_object({**left, **kept})}
        ),
    )


def _pieces(messages: list[msgspec.Raw]) -> list[Piece]:
    pieces: list[Piece] = []
    for number, raw in enumerate(messages):
        fields = fields_of(raw)
        author = _AUTHORS.get(text_of(fields.get("role")), "user")
        made = _message(fields, author, number)
        if not made:
            made = [unreadable("reason" if author == "agent" else "context", ["{}"], message=number, author=author)]
        made[0] = noted(made[0], rest(fields, ("role", "content", "function_call", "name")))
        pieces += made
    return pieces


def _message(fields: Fields, author: str, number: int) -> list[Piece]:
    text = text_of(fields.get("content"))
    if author == "environment":
        return [observation(text, message=number, name=text_of(fields.get("name")))]
    if author != "agent":
        # A user's later words are the search's own: try something else than before. They answer nothing.
        return [context(text, message=number, author=author)]
    # All that leaves this agent is a call, `Finish` at the end: words without one are its thoughts.
    made = [thought(text, message=number)] if text else []
    asked = fields.get("function_call")
    if asked is None or not is_object(asked):
        return made
    about = fields_of(asked)
    piece = call(text_of(about.get("name")), text_of(about.get("arguments")), message=number)
    return [*made, noted(piece, rest(about, ("name", "arguments")))]


def _finish(answer: str | None) -> tuple[str, str | None]:
    """`return_type` and `final_answer` of the call that ended the run."""
    try:
        said = msgspec.json.decode(answer or "null")
    except msgspec.DecodeError:
        return "", None
    if not isinstance(said, dict):
        return "", None
    kind, text = said.get("return_type"), said.get("final_answer")
    return kind if isinstance(kind, str) else "", text if isinstance(text, str) else None


def _values(path: list[msgspec.Raw]) -> list[bytes]:
    return [bytes(raw) for raw in path]


FORMATS = (RecordFormat("toolbench", "ToolBench and StableToolBench answers (`answer_generation`)", recognise, read),)
