"""Chat messages one a line, without a record around them: `{"role": ..., "content": ...}` and its like."""

from collections.abc import Iterator
from typing import Any

from sadstream.formats import gemini, langchain, llamaindex, openai_chat, pydantic_ai, vercel
from sadstream.formats.bare_messages import author_of, read_messages
from sadstream.formats.kinds import SessionFormat, SessionRecord
from sadstream.formats.verbatim import json_array
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
_MESSAGES = (
    openai_chat.is_message,
    vercel.is_message,
    llamaindex.is_message,
    pydantic_ai.is_message,
    gemini.is_content,
    langchain.is_message,
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
    begins_with_system = author_of(records[0].value) == "system"
    for record in records:
        author = author_of(record.value)
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


def _drafts(messages: list[SessionRecord]) -> Iterator[Draft]:
    values = [record.value for record in messages]
    yield from read_messages(values, bytes(json_array(record.raw for record in messages)))


FORMATS = (SessionFormat("messages", "chat messages one a line, of one run or of several", recognise, read, False),)
