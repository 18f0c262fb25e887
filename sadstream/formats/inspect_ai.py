"""Inspect's eval logs: all samples in one JSON file, or a sample a file in an `.eval` archive."""

from collections.abc import Iterable
from typing import Any

import msgspec

from sadstream.formats.kinds import RecordFormat
from sadstream.formats.openai_chat import conversation, is_chat
from sadstream.formats.outcomes import as_bool, as_float, as_text
from sadstream.formats.verbatim import (
    Fields,
    Json,
    fields_of,
    is_object,
    items_of,
    json_object,
    rest,
    string_of,
    text_of,
)
from sadstream.frames import Draft

_ATTACHMENT = b"attachment://"
_GRADES = {"C": True, "I": False}
_ENDINGS = {"stop": "finished", "max_tokens": "truncated", "model_length": "truncated"}


def recognise_log(record: Any) -> bool:
    """`eval` and `samples`."""
    if not isinstance(record, dict) or not isinstance(record.get("eval"), dict):
        return False
    samples = record.get("samples")
    return isinstance(samples, list) and "version" in record and all(isinstance(s, dict) for s in samples)


def recognise_sample(record: Any) -> bool:
    """A sample alone: `epoch`, `input`, `target` and `messages`."""
    return (
        isinstance(record, dict)
        and {"id", "epoch", "input", "target", "messages"} <= record.keys()
        and (is_chat(record["messages"]) or isinstance(record.get("message_pool"), list))
    )


def read_log(record: Any, raw: bytes) -> Iterable[Draft]:
    """A trajectory a sample; what the log says of all of them stands in the first one's `extra`, under `log`."""
    log = fields_of(raw)
    samples = zip(record["samples"], items_of(log["samples"]), strict=True)
    about = rest(log, ("samples",))
    for index, (sample, view) in enumerate(samples):
        draft = _sample(sample, view)
        draft.record = str(index)
        draft.format_version = as_text(record["version"])
        if index == 0:
            draft.extra = json_object({**fields_of(draft.extra.encode()), "log": json_object(about)})
        yield draft


def read_sample(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory."""
    yield _sample(record, raw)


def _sample(sample: dict[str, Any], raw: Json) -> Draft:
    fields = fields_of(raw)
    attachments = fields_of(fields["attachments"]) if is_object(fields.get("attachments")) else {}
    messages = [_message(m, attachments) for m in _listed(fields)]
    draft = conversation(messages)
    for piece, error in _results_with_error(draft.pieces or []):
        piece["error"] = error
    used = {name for name in attachments if any(_ATTACHMENT + name.encode() in bytes(m) for m in _listed(fields))}
    extra: dict[str, Json | str] = {**rest(fields, ("id", "messages", "target", "uuid", "attachments"))}
    if left := rest(attachments, used):
        extra["attachments"] = json_object(left)
    target = sample.get("target")
    return msgspec.structs.replace(
        draft,
        id=string_of(fields.get("uuid")) or None,
        task_id=as_text(sample.get("id")),
        gold=as_text(target) if target not in ("", [], None) else None,
        ending=_ending(sample),
        extra=json_object(extra),
        **_score(sample.get("scores") or sample.get("score")),
    )


def _listed(fields: Fields) -> list[msgspec.Raw]:
    """The sample's messages; where they stand in its pool, those that are named there by id or number."""
    pool = items_of(fields.get("message_pool"))
    messages = items_of(fields.get("messages")) or pool
    if all(is_object(m) for m in messages):
        return messages
    by_id = {text_of(fields_of(m).get("id")): m for m in pool if is_object(m)}
    by_id |= {str(number): m for number, m in enumerate(pool)}
    return [m if is_object(m) else by_id.get(text_of(m), m) for m in messages]


def _message(raw: msgspec.Raw, attachments: Fields) -> msgspec.Raw:
    """A message with what was put aside put back."""
    data = bytes(raw)
    if _ATTACHMENT not in data:
        return raw
    for name, text in attachments.items():
        inner = bytes(text)
        # Both are JSON strings, so the inside of one can stand inside the other.
        if inner[:1] == b'"':
            data = data.replace(_ATTACHMENT + name.encode(), inner[1:-1])
    return msgspec.Raw(data)


def _results_with_error(pieces: list[dict[str, Any]]) -> Iterable[tuple[dict[str, Any], bool]]:
    for piece in pieces:
        if piece["author"] == "environment":
            notes = fields_of(piece["extra"].encode()) if piece.get("extra") else {}
            if is_object(notes.get("error")):
                yield piece, True


def _ending(sample: dict[str, Any]) -> str:
    if sample.get("error"):
        return "error"
    if sample.get("limit"):
        return "halted"
    output = sample.get("output")
    choices = output.get("choices") if isinstance(output, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    reason = choice.get("stop_reason") if isinstance(choice, dict) else None
    return _ENDINGS.get(reason, "unknown") if isinstance(reason, str) else "unknown"


def _score(scores: Any) -> dict[str, Any]:
    """Outcome by the first score; all of them stand in `extra`."""
    first = next(iter(scores.values()), None) if isinstance(scores, dict) and "value" not in scores else scores
    if not isinstance(first, dict):
        return {}
    value = first.get("value")
    success = _GRADES.get(value) if isinstance(value, str) else None
    outcome: dict[str, Any] = {"answer": as_text(first.get("answer"))}
    if success is None:
        success = as_bool(value)
        outcome["reward"] = as_float(value) if isinstance(value, int | float | str) else None
    return {**outcome, "success": success}


FORMATS = (
    RecordFormat("inspect", "Inspect's eval logs, `eval` and `samples`", recognise_log, read_log),
    RecordFormat("inspect-sample", "a sample of an Inspect `.eval` archive", recognise_sample, read_sample),
)
