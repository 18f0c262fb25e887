"""Message content of many shapes: a string, null, or a list of blocks, some of which are no text."""

from typing import Any

import msgspec

from sadstream.formats.verbatim import Json, fields_of, is_object, items_of, string_of, text_of

_MIME = ("media_type", "mime_type", "mimeType", "mediaType")
_TEXT_BLOCKS = ("text", "input_text", "output_text", "summary_text", "reasoning_text")


def content_of(raw: Json | None) -> tuple[str, list[str]]:
    """Text of a message's content, and the JSON of its blocks that are no text.

    A block that is no text is named in the text only where nothing else stands there.

    >>> content_of(b'[{"type": "text", "text": "a"}, {"type": "image", "data": 1}]')
    ('a', ['{"type": "image", "data": 1}'])
    >>> content_of(b'[{"type": "image", "source": {"media_type": "image/png"}}]')[0]
    '[image: image/png]'
    """
    if raw is None or bytes(raw).lstrip()[:1] != b"[":
        return text_of(raw), []
    blocks = items_of(raw)
    texts = [_text_in(block) for block in blocks]
    others = [block for block, text in zip(blocks, texts, strict=True) if text is None]
    whole = "".join(text for text in texts if text is not None)
    return whole or "".join(map(_placeholder, others)), [bytes(block).decode() for block in others]


def _text_in(block: msgspec.Raw) -> str | None:
    if not is_object(block):
        return string_of(block)
    fields = fields_of(block)
    kind = string_of(fields.get("type"))
    return string_of(fields.get("text")) if kind is None or kind in _TEXT_BLOCKS else None


def _placeholder(block: msgspec.Raw) -> str:
    if not is_object(block):
        return ""
    fields = fields_of(block)
    inner = next((fields_of(raw) for raw in fields.values() if is_object(raw)), {})
    mime = next((string_of(f[name]) for f in (fields, inner) for name in _MIME if name in f), None)
    kind = string_of(fields.get("type")) or "media"
    return f"[{kind}: {mime}]" if mime else f"[{kind}]"


def texts_in(content: Any) -> list[str]:
    """The texts of a decoded content: itself, or its blocks'.

    >>> texts_in("a"), texts_in([{"type": "text", "text": "b"}, {"type": "image"}]), texts_in(None)
    (['a'], ['b'], [])
    """
    if isinstance(content, str):
        return [content]
    blocks = content if isinstance(content, list) else []
    return [b["text"] for b in blocks if isinstance(b, dict) and isinstance(b.get("text"), str)]
