"""JSON values taken apart without being written again: what a log's bytes say is what is kept."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

Fields = dict[str, msgspec.Raw]
Json = msgspec.Raw | bytes
# Made once: a decoder's type costs more to take apart than a small message.
_FIELDS: msgspec.json.Decoder[Fields] = msgspec.json.Decoder(Fields)
_ITEMS: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])
_STRING = msgspec.json.Decoder(str)


def fields_of(raw: Json | None) -> Fields:
    """Fields of a JSON object, each as it was written; none where there is no value.

    Raises:
        msgspec.ValidationError: it is no object.
    """
    return {} if raw is None else _FIELDS.decode(raw)


def items_of(raw: Json | None) -> list[msgspec.Raw]:
    """Items of a JSON array, each as it was written; none if it is no array."""
    if raw is None or bytes(raw).lstrip()[:1] != b"[":
        return []
    return _ITEMS.decode(raw)


def is_object(raw: Json | None) -> bool:
    """Whether a value is a JSON object."""
    return raw is not None and bytes(raw).lstrip()[:1] == b"{"


def object_of(raw: Json | None) -> Fields:
    """Fields of a JSON object, each as it was written; none where it is no object."""
    return fields_of(raw) if is_object(raw) else {}


def string_of(raw: Json | None) -> str | None:
    """A JSON string's text; None for any other value."""
    if raw is None or bytes(raw).lstrip()[:1] != b'"':
        return None
    return _STRING.decode(raw)


def text_of(raw: Json | None) -> str:
    """A JSON string's text; nothing for null; any other value as the log wrote it.

    >>> text_of(b'"a"'), text_of(b"null"), text_of(b'{"a":  1}')
    ('a', '', '{"a":  1}')
    """
    text = string_of(raw)
    if text is not None:
        return text
    return "" if raw is None or bytes(raw) == b"null" else bytes(raw).decode()


def first_of(fields: Fields, names: Sequence[str]) -> msgspec.Raw | None:
    """The first of several fields that is there and not null."""
    return next((fields[name] for name in names if name in fields and bytes(fields[name]) != b"null"), None)


def json_object(fields: Mapping[str, Json | str]) -> str:
    """A JSON object of values that are JSON already."""
    raws = {name: msgspec.Raw(v.encode() if isinstance(v, str) else bytes(v)) for name, v in fields.items()}
    return msgspec.json.encode(raws).decode()


def json_array(items: Iterable[Json | str]) -> msgspec.Raw:
    """A JSON array of values that are JSON already."""
    return msgspec.Raw(
        b"[" + b",".join(item.encode() if isinstance(item, str) else bytes(item) for item in items) + b"]"
    )


def rest(fields: Fields, mapped: Iterable[str]) -> Fields:
    """Fields that were not mapped."""
    known = set(mapped)
    return {name: raw for name, raw in fields.items() if name not in known}


def noted(piece: dict[str, Any], notes: Mapping[str, Json | str]) -> dict[str, Any]:
    """A piece with further fields in its `extra`; those it has already stand."""
    if not notes:
        return piece
    have = _FIELDS.decode(piece["extra"]) if piece.get("extra") else {}
    return {**piece, "extra": json_object({**notes, **have})}


def same_value(raw: Json | None) -> str:
    """A text equal for equal values, however they are written."""
    return msgspec.json.encode(msgspec.json.decode(raw), order="sorted").decode() if raw is not None else ""
