"""Claude Code sessions: a line an event; an API message is spread over lines, and edits make the lines a tree."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from sadstream.formats.anthropic import first_request, has_acted, is_call, message_pieces
from sadstream.formats.kinds import SessionFormat, SessionRecord
from sadstream.formats.pieces import Piece
from sadstream.formats.trees import longest_branch
from sadstream.formats.verbatim import Fields, fields_of, is_object, items_of, json_object, rest, string_of
from sadstream.frames import Draft

# Lines of a session that take no part in the conversation and lie outside its tree.
_ASIDE = ("queue-operation", "custom-title", "ai-title", "agent-name", "last-prompt", "tag", "mode", "pr-link")
_SAME_IN_ALL = ("sessionId", "isSidechain", "agentId", "userType", "entrypoint", "cwd", "gitBranch", "version", "slug")
_INJECTED = (
    "<command-",
    "<local-command-",
    "<bash-",
    "<user-prompt-submit-hook>",
    "<task-notification>",
    "Caveat: The ",
)


class _Line(NamedTuple):
    key: str
    fields: Fields
    message: Fields
    kind: str
    uuid: str | None
    message_id: str | None


def recognise(record: Any) -> bool:
    """A line with a type, a session and a word on side chains; or one that such sessions have beside them."""
    if not isinstance(record, dict) or not isinstance(record.get("type"), str):
        return False
    kind = record["type"]
    if "sessionId" in record:
        return "isSidechain" in record or kind in _ASIDE
    return (kind == "summary" and "leafUuid" in record) or (kind == "file-history-snapshot" and "snapshot" in record)


def read(records: list[SessionRecord]) -> Iterator[Draft]:
    """One trajectory a session and one a sub-agent, each the longest branch of its lines, in the file's order.

    Titles of sessions (`summary` lines) were never shown to the model: they stand in `extra`.
    """
    lines = [_line(record) for record in records]
    titles = [msgspec.Raw(record.raw) for record in records if _kind(record) == "summary"]
    for (session, agent), members in _runs(lines).items():
        yield _draft(session, agent, members, titles)


def _kind(record: SessionRecord) -> str | None:
    kind: str | None = record.value.get("type")
    return kind


def _line(record: SessionRecord) -> _Line:
    fields = fields_of(record.raw)
    message = fields_of(fields["message"]) if is_object(fields.get("message")) else {}
    return _Line(
        key=record.key,
        fields=fields,
        message=message,
        kind=string_of(fields.get("type")) or "",
        uuid=string_of(fields.get("uuid")),
        message_id=string_of(message.get("id")),
    )


def _runs(lines: Sequence[_Line]) -> dict[tuple[str, str], list[_Line]]:
    """Lines by session and sub-agent; a side chain without the agent's id is named by its first line.

    A line that a resumed session copied into its file again is read once.
    """
    runs: dict[tuple[str, str], list[_Line]] = {}
    chains: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    for line in lines:
        session = string_of(line.fields.get("sessionId"))
        if session is None or line.kind in _ASIDE or (session, line.uuid) in seen:
            continue
        if line.uuid:
            seen.add((session, line.uuid))
        agent = string_of(line.fields.get("agentId")) or ""
        if not agent and bytes(line.fields.get("isSidechain", b"")) == b"true":
            agent = chains.get(string_of(line.fields.get("parentUuid")) or "", line.uuid or line.key)
            chains[line.uuid or line.key] = agent
        runs.setdefault((session, agent), []).append(line)
    return runs


def _draft(session: str, agent: str, lines: list[_Line], titles: list[msgspec.Raw]) -> Draft:
    told = _told(lines)
    first = (told or lines)[0].fields
    common = {name: first[name] for name in _SAME_IN_ALL if name in first}
    pieces: list[Piece] = []
    for index, members in enumerate(_messages(told)):
        pieces += _message(members, message=index, acted=has_acted(pieces), common=common)
    n_off_branch = sum(bool(line.message) for line in lines) - len(told)
    notes: dict[str, bytes | str | msgspec.Raw] = {name: common[name] for name in common if name != "version"}
    if n_off_branch:
        notes["n_lines_off_branch"] = str(n_off_branch)
    if titles and not agent:
        notes["summaries"] = msgspec.json.encode(titles)
    return Draft(
        record=f"{session}/{agent}" if agent else session,
        id=f"{session}/{agent}" if agent else session,
        parent_id=session if agent else None,
        format_version=string_of(first.get("version")),
        pieces=pieces,
        task=first_request(p for p in pieces if p["kind"] == "context" and not _is_injected(p["text"])),
        ending="aborted" if _interrupted(pieces) else "unknown",
        extra=json_object(notes),
    )


def _told(lines: list[_Line]) -> list[_Line]:
    """The lines with messages on the longest branch, and those that hang beside it and yet belong to it.

    Parallel calls of one API message and their results each hang on their own call.
    """
    order = {line.uuid: index for index, line in enumerate(lines) if line.uuid}
    parents = [_parent(line, index, order) for index, line in enumerate(lines)]
    branch = set(longest_branch(parents, [int(bool(line.message)) for line in lines]))
    ids = {lines[index].message_id for index in branch} - {None}
    calls = {
        string_of(block.get("id"))
        for index, line in enumerate(lines)
        if index in branch or line.message_id in ids
        for block in _blocks(line)
        if is_call(block)
    }
    return [
        line
        for index, line in enumerate(lines)
        if line.message
        and (index in branch or line.message_id in ids or any(_answers(b) in calls for b in _blocks(line)))
    ]


def _parent(line: _Line, index: int, order: dict[str, int]) -> int | None:
    """The line before: as named; the one above where the named one isn't in the file or no line is named at all."""
    named = string_of(line.fields.get("parentUuid")) or string_of(line.fields.get("logicalParentUuid"))
    parent = order.get(named) if named else None
    if parent is not None and parent < index:
        return parent
    return index - 1 if index and (named or "parentUuid" not in line.fields) else None


def _blocks(line: _Line) -> list[Fields]:
    return [fields_of(block) for block in items_of(line.message.get("content"))]


def _answers(block: Fields) -> str:
    return string_of(block.get("tool_use_id")) or ""


def _messages(lines: list[_Line]) -> list[list[_Line]]:
    """Lines of one API message together, where the first of them stands."""
    messages: dict[str, list[_Line]] = {}
    for index, line in enumerate(lines):
        messages.setdefault(line.message_id or f" {index}", []).append(line)
    return list(messages.values())


def _message(lines: list[_Line], *, message: int, acted: bool, common: Fields) -> list[Piece]:
    calls = any(is_call(block) for line in lines for block in _blocks(line))
    pieces: list[Piece] = []
    seen: Fields = {}
    for line in lines:
        told = {k: v for k, v in line.message.items() if k in ("role", "content") or v != seen.get(k)}
        seen.update(line.message)
        about = {k: v for k, v in rest(line.fields, ("message", "toolUseResult", "type")).items() if v != common.get(k)}
        notes = {"line": msgspec.Raw(json_object(about).encode())} if about else {}
        parts = message_pieces(told, message=message, acted=acted, calls=calls, notes=notes)
        pieces += [_as_context(p) for p in parts] if _is_harness(line) else [_unless_injected(p) for p in parts]
    return pieces


def _is_harness(line: _Line) -> bool:
    """Lines that the harness wrote into the conversation: meta, summaries of what was compacted, API errors."""
    flags = ("isMeta", "isCompactSummary", "isApiErrorMessage")
    is_flagged = any(bytes(line.fields.get(flag, b"")) == b"true" for flag in flags)
    return is_flagged or string_of(line.message.get("model")) == "<synthetic>"


def _unless_injected(piece: Piece) -> Piece:
    said_by_user = piece["author"] == "user" and piece["kind"] == "observation"
    return _as_context(piece) if said_by_user and _is_injected(piece["text"]) else piece


def _is_injected(text: str) -> bool:
    return text.lstrip().startswith(_INJECTED)


def _as_context(piece: Piece) -> Piece:
    """What is said, as context and without a label; a tool's result stays one."""
    if piece.get("call_id") is not None:
        return piece
    author = "environment" if piece["author"] == "agent" else piece["author"]
    return {**piece, "kind": "context", "author": author, "prefix": ""}


def _interrupted(pieces: list[Piece]) -> bool:
    return bool(pieces) and pieces[-1]["text"].startswith("[Request interrupted by user")


FORMATS = (SessionFormat("claude-code", "Claude Code session files (JSON lines)", recognise, read),)
