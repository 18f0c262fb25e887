"""LLaMA-Factory's training messages: typed blocks whose text stands under `value`."""

from collections.abc import Iterable
from typing import Any

from sadstream.formats.kinds import RecordFormat
from sadstream.formats.openai_chat import conversation, is_chat, record_draft
from sadstream.formats.verbatim import fields_of, items_of
from sadstream.frames import Draft

_BLOCKS = ("text", "reasoning", "tool_call")


def recognise(record: Any) -> bool:
    """Messages whose content is blocks of `type` and `value`."""
    messages = record.get("messages") if isinstance(record, dict) else None
    if not is_chat(messages):
        return False
    blocks = [b for m in messages or () if isinstance(m.get("content"), list) for b in m["content"]]
    return any(isinstance(b, dict) and isinstance(b.get("value"), str) and b.get("type") in _BLOCKS for b in blocks)


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory; each block is a span."""
    draft = conversation(items_of(fields_of(raw)["messages"]))
    yield record_draft(record, raw, draft, mapped={"messages"})


FORMATS = (RecordFormat("llamafactory", "messages with blocks of `type` and `value` (LLaMA-Factory)", recognise, read),)
