"""Chat messages one a line, without a record around them: `{"role": ..., "content": ...}` and its like."""

from collections.abc import Iterator
from typing import Any

import msgspec

from sadstream.formats import (
    anthropic,
    converse,
    crewai,
    gemini,
    langchain,
    llamafactory,
    mini_swe_agent,
    openai_chat,
    react_chat,
    smolagents,
    webvoyager,
)
from sadstream.formats.kinds import RecordFormat, SessionFormat, SessionRecord
from sadstream.formats.pieces import AUTHORS
from sadstream.frames import Draft

# Names that tell which of several conversations in a file a message belongs to; the first that all messages have.
_SESSIONS = (
    "session_id",
    "sessionId",
    "conversation_id",
    "conversationId",
    "thread_id",
    "threadId",
    "chat_id",
    "dialogue_id",
    "dialog_id",
    "run_id",
    "trace_id",
    "trajectory_id",
    "traj_id",
    "episode_id",
    "task_id",
    "session",
    "conversation",
    "thread",
)
_MESSAGES = (openai_chat.is_message, gemini.is_content, langchain.is_message)
# What reads a bare list of messages; tried in this order.
_READERS = tuple(
    format
    for format in (
        *gemini.FORMATS,
        *langchain.FORMATS,
        *webvoyager.FORMATS,
        *crewai.FORMATS,
        *smolagents.FORMATS,
        *mini_swe_agent.FORMATS,
        *converse.FORMATS,
        *anthropic.FORMATS,
        *openai_chat.TAGGED_FORMATS,
        *llamafactory.FORMATS,
        *react_chat.FORMATS,
        *openai_chat.FORMATS,
    )
    if isinstance(format, RecordFormat)
)


def recognise(record: Any) -> bool:
    """A message with a known role."""
    return isinstance(record, dict) and any(is_message(record) for is_message in _MESSAGES)


def read(records: list[SessionRecord]) -> Iterator[Draft]:
    """One trajectory a conversation, its messages read as a bare list of them would be.

    Conversations are told apart by a name that all messages have. Where there is none, the file is one; where it begins
    with a system's message, each such message after one of the agent's opens the next.
    """
    name = next((n for n in _SESSIONS if all(_session(r.value, n) for r in records)), None)
    runs: dict[str, list[SessionRecord]] = {}
    number, spoken = 0, False
    begins_with_system = _author(records[0].value) == "system"
    for record in records:
        author = _author(record.value)
        if author == "system" and spoken and begins_with_system:
            number, spoken = number + 1, False
        spoken = spoken or author == "agent"
        runs.setdefault(str(record.value[name]) if name else str(number), []).append(record)
    for key, messages in runs.items():
        for draft in _drafts(messages):
            draft.record = key
            if name:
                draft.id = draft.id or key
            yield draft


def _session(message: dict[str, Any], name: str) -> bool:
    value = message.get(name)
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def _author(message: dict[str, Any]) -> str | None:
    role = message.get("role")
    named = role if isinstance(role, str) else langchain.role_of(message) if langchain.is_message(message) else ""
    return AUTHORS.get(named)


def _drafts(messages: list[SessionRecord]) -> Iterator[Draft]:
    values = [record.value for record in messages]
    raw = msgspec.json.encode([msgspec.Raw(record.raw) for record in messages])
    reader = next((f for f in _READERS if f.recognise(values)), _READERS[-1])
    yield from reader.read(values, raw)


FORMATS = (SessionFormat("messages", "chat messages one a line, of one run or of several", recognise, read, False),)
