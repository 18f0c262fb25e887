"""Sessions of Qwen Code and Gemini CLI: a line an event, messages with Gemini's `parts`."""

from collections.abc import Iterable
from typing import Any

from sadstream.formats.gemini import Content, content_pieces, is_content
from sadstream.formats.kinds import SessionFormat, SessionRecord
from sadstream.formats.matching import match_by_order
from sadstream.formats.pieces import Piece, first_words, unreadable
from sadstream.formats.trees import longest_branch
from sadstream.formats.verbatim import fields_of, items_of, json_object, noted, rest, string_of
from sadstream.frames import Draft


def recognise(record: Any) -> bool:
    """A line with `uuid` and `sessionId` whose message has `parts`, or an event of the harness with a payload."""
    if not isinstance(record, dict) or not isinstance(record.get("uuid"), str):
        return False
    if not isinstance(record.get("sessionId"), str):
        return False
    return is_content(record.get("message")) or (record.get("type") == "system" and "systemPayload" in record)


def read(records: list[SessionRecord]) -> Iterable[Draft]:
    """A trajectory a session: its longest branch, for an edit forks the tree of lines.

    What the harness notes beside the messages is kept in `extra`, under `events`.
    """
    sessions: dict[str, list[SessionRecord]] = {}
    for record in records:
        sessions.setdefault(record.value["sessionId"], []).append(record)
    for session_id, lines in sessions.items():
        branch = [lines[index] for index in _branch(lines)]
        pieces = _session_pieces([line for line in branch if is_content(line.value.get("message"))])
        events = [line.raw.decode() for line in branch if not is_content(line.value.get("message"))]
        task = first_words(pieces)
        version = lines[0].value.get("version")
        yield Draft(
            record=lines[0].key,
            id=session_id or None,
            format_version=version if isinstance(version, str) else None,
            task=task,
            pieces=match_by_order(pieces),
            extra=json_object({"events": f"[{','.join(events)}]"} if events else {}),
        )


def _branch(lines: list[SessionRecord]) -> list[int]:
    at: dict[str, int] = {}
    parents: list[int | None] = []
    for index, line in enumerate(lines):
        parent = line.value.get("parentUuid")
        parents.append(at.get(parent) if isinstance(parent, str) else None)
        at[line.value["uuid"]] = index
    return longest_branch(parents, [1] * len(lines))


def _session_pieces(lines: list[SessionRecord]) -> list[Piece]:
    pieces: list[Piece] = []
    acted = False
    for number, line in enumerate(lines):
        fields = fields_of(line.raw)
        message = fields_of(fields["message"])
        content = Content(string_of(message.get("role")) or "user", items_of(message.get("parts")), {})
        made = content_pieces(content, message=number, acted=acted)
        acted = acted or any(piece["kind"] == "act" for piece in made)
        if not made:
            made = [unreadable("context", ["{}"], message=number, author="user")]
        made[0] = noted(made[0], {**rest(message, ("role", "parts")), **rest(fields, ("message",))})
        pieces += made
    return pieces


FORMATS = (SessionFormat("qwen-code", "session lines of Qwen Code and Gemini CLI (`message.parts`)", recognise, read),)
