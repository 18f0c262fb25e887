"""Bare lists of chat messages: which format reads one, told by its content."""

from collections.abc import Iterable
from typing import Any

from sadstream.formats import (
    anthropic,
    cline,
    converse,
    crewai,
    gemini,
    langchain,
    llamafactory,
    llamaindex,
    mini_swe_agent,
    openai_chat,
    pydantic_ai,
    react_chat,
    sharegpt,
    smolagents,
    vercel,
    webvoyager,
)
from sadstream.formats.kinds import RecordFormat
from sadstream.formats.pieces import AUTHORS
from sadstream.frames import Draft

# Tried in this order.
_READERS = tuple(
    format
    for format in (
        *vercel.FORMATS,
        *llamaindex.FORMATS,
        *pydantic_ai.FORMATS,
        *gemini.FORMATS,
        *langchain.FORMATS,
        *cline.FORMATS,
        *webvoyager.FORMATS,
        *crewai.FORMATS,
        *smolagents.FORMATS,
        *mini_swe_agent.FORMATS,
        *converse.FORMATS,
        *anthropic.FORMATS,
        *openai_chat.TAGGED_FORMATS,
        *llamafactory.FORMATS,
        *react_chat.FORMATS,
        *sharegpt.FORMATS,
        *openai_chat.FORMATS,
    )
    if isinstance(format, RecordFormat)
)
# Messages in other forms than OpenAI's, told by what stands in them.
_TOLD = (langchain.is_messages, vercel.recognise, llamaindex.recognise)


def read_messages(record: Any, raw: bytes) -> Iterable[Draft]:
    """Drafts of a list of messages, or of a record that has one under `messages`, by who knows such messages.

    Raises:
        RecordError, msgspec.DecodeError: the messages are malformed.
    """
    reader = next((f for f in _READERS if f.recognise(record)), _READERS[-1])
    return reader.read(record, raw)


def author_of(message: Any) -> str | None:
    """Whose a message is: system, user, agent or environment; None where that is not known, or it is no message."""
    if not isinstance(message, dict):
        return None
    role = message.get("role")
    if not isinstance(role, str):
        role = langchain.role_of(message) if langchain.is_message(message) else ""
    return AUTHORS.get(role)


def is_messages(value: Any) -> bool:
    """Whether a value is a list of chat messages, LangChain's among them."""
    if not isinstance(value, list):
        return False
    return openai_chat.is_chat(value) or any(known(value) for known in _TOLD)
