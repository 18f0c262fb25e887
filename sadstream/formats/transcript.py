"""Records that hold a whole run as one string."""

from collections.abc import Iterable
from typing import Any

from sadstream.errors import RecordError
from sadstream.formats.dialects import EXAMPLES_END, dialect_of
from sadstream.formats.kinds import RecordFormat
from sadstream.formats.outcomes import as_text, finish_line, outcome_fields, remaining, task_in
from sadstream.formats.pieces import context
from sadstream.formats.verbatim import fields_of
from sadstream.frames import Draft

# Names of a prompt and of the run that answers it, in data to train on.
_TRAINED = (
    (("instruction", "input"), "output"),
    (("instruction", "input"), "response"),
    (("input",), "output"),
    (("prompt",), "completion"),
    (("prompt",), "response"),
    (("query",), "response"),
)
_SIMPLE = {"text", "id", "task", "success", "reward"}


def recognise(record: Any) -> bool:
    """A bare string with labels at line starts, a record with such a string, or `{"text": ...}`.

    One message of a chat is no run.
    """
    if isinstance(record, str):
        return dialect_of(record) is not None
    return isinstance(record, dict) and "role" not in record and (_is_simple(record) or _run_field(record) is not None)


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory; its text is the string as it stands, other fields go to outcome, task and `extra`.

    Raises:
        RecordError: `text` is no string.
    """
    if isinstance(record, str):
        yield Draft(dialect=dialect_of(record), text=record, task=_task(record), **finish_line(record))
        return
    name = "text" if _is_simple(record) else _run_field(record)
    assert name is not None
    text = record[name]
    if not isinstance(text, str):
        raise RecordError(f"`text` is {type(text).__name__}, not a string")
    outcome = outcome_fields({key: value for key, value in record.items() if key != name})
    mapped: set[str] = outcome.pop("mapped") | {name}
    native = record.get("id")
    if isinstance(native, str | int) and not isinstance(native, bool) and str(native):
        outcome["id"] = str(native)
        mapped.add("id")
    outcome.setdefault("task", _task(text))
    fields = fields_of(raw)
    yield Draft(
        dialect=dialect_of(text), text=text, extra=remaining(fields, mapped), **{**finish_line(text), **outcome}
    )


def is_alpaca(record: Any) -> bool:
    """A prompt, and a run beside it, under names that data to train on has: `instruction`, `input` and `output`."""
    return isinstance(record, dict) and _prompt_and_run(record) is not None


def read_alpaca(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory: the prompt is context, the run is cut by its labels."""
    found = _prompt_and_run(record)
    assert found is not None
    prompt, name = [n for n in found[0] if record.get(n)], found[1]
    outcome = outcome_fields({k: v for k, v in record.items() if k not in ("input", name)})
    mapped = outcome.pop("mapped") | {*found[0], name}
    asked = "\n".join(record[n] for n in prompt)
    outcome.setdefault("task", _task(asked))
    fields = fields_of(raw)
    run = record[name]
    pieces = [context(record[n], message=index) for index, n in enumerate(prompt)]
    pieces.append({"kind": None, "author": None, "message": len(prompt), "text": run, "suffix": ""})
    yield Draft(
        dialect=dialect_of(run), pieces=pieces, extra=remaining(fields, mapped), **{**finish_line(run), **outcome}
    )


def _prompt_and_run(record: dict[str, Any]) -> tuple[tuple[str, ...], str] | None:
    for prompts, run in _TRAINED:
        if (
            isinstance(record.get(prompts[0]), str)
            and all(isinstance(record.get(name, ""), str) for name in prompts)
            and isinstance(record.get(run), str)
            and dialect_of(record[run]) is not None
        ):
            return prompts, run
    return None


def _is_simple(record: dict[str, Any]) -> bool:
    return "text" in record and record.keys() <= _SIMPLE


def _run_field(record: dict[str, Any]) -> str | None:
    """Name of the longest string that has labels at line starts; None if all are such: then the keys name runs."""
    runs = [name for name, value in record.items() if isinstance(value, str) and dialect_of(value)]
    if len(runs) > 1 and len(runs) == len(record):
        return None
    return max(runs, key=lambda name: len(record[name]), default=None)


def _task(text: str) -> str | None:
    return as_text(task_in(text[text.rfind(EXAMPLES_END) + 1 :] if EXAMPLES_END in text else text))


FORMATS = (
    RecordFormat(
        "alpaca",
        "a prompt and a run beside it: `instruction` or `input`, and `output` (FireAct, Alpaca)",
        is_alpaca,
        read_alpaca,
    ),
    RecordFormat(
        "transcript",
        'records with a run as one string: `{"text": ...}`, KnowAgent, ALFWorld prompts',
        recognise,
        read,
    ),
)
