"""Preference pairs: an answer that was chosen and one that was rejected, beside their prompt or after it."""

from collections.abc import Iterable
from typing import Any

import msgspec

from sadstream.formats import sharegpt, tags, transcript
from sadstream.formats.bare_messages import author_of, is_messages, read_messages
from sadstream.formats.dialects import dialect_of
from sadstream.formats.kinds import RecordFormat
from sadstream.formats.verbatim import Fields, fields_of, is_object, items_of, json_array, json_object, rest, string_of
from sadstream.frames import Draft

_PAIRS = (
    ("chosen", "rejected"),
    ("chosen_messages", "rejected_messages"),
    ("chosen_response", "rejected_response"),
    ("preferred_output", "non_preferred_output"),
)
# An `input` that is text is a part of the `instruction` that it stands beside.
_PROMPTS = ("messages", "conversations", "conversation", "input", "prompt", "question", "query", "instruction")
_SYSTEMS = ("system", "system_prompt")


def recognise(record: Any) -> bool:
    """A chosen and a rejected answer, of which the chosen one is messages, or text that is a run or has its prompt."""
    if not isinstance(record, dict):
        return False
    pair = _pair(record)
    if pair is None:
        return False
    if record[pair[0]] == pair[0]:
        return False  # names of columns, as in a list of data sets
    chosen, prompt = _held(record[pair[0]]), _prompt(record)
    if prompt != ("messages",) and record.get("messages") is not None:
        return False
    if isinstance(chosen, str):
        return bool(chosen.strip()) and (_is_run(chosen) or bool(prompt))
    return _is_turns(chosen if isinstance(chosen, list) else [chosen])


def _pair(record: dict[str, Any]) -> tuple[str, str] | None:
    return next(((good, bad) for good, bad in _PAIRS if good in record and bad in record), None)


def _held(value: Any) -> Any:
    """The messages that an object has under `messages`; any other value as it is."""
    return value["messages"] if isinstance(value, dict) and isinstance(value.get("messages"), list) else value


def _is_run(text: str) -> bool:
    return dialect_of(text) is not None or tags.is_chatml(text)


def _is_turns(value: Any) -> bool:
    return is_messages(value) or sharegpt.is_turns(value)


def _prompt(record: dict[str, Any]) -> tuple[str, ...]:
    """The fields that hold the prompt: one of messages, or of text; none where there is no prompt."""
    for name in _PROMPTS:
        given = _held(record.get(name))
        if _is_turns(given):
            return (name,)
        if isinstance(given, str) and given.strip() and name != "input":
            more = record.get("input") if name == "instruction" else None
            return (name, "input") if isinstance(more, str) and more.strip() else (name,)
    return ()


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """The chosen answer after its prompt is a trajectory; the rejected one is none, is counted, and stays in `extra`.

    What is chosen is read as such a list of messages, or such a text, would be alone.
    """
    pair = _pair(record)
    assert pair is not None
    name, prompt, fields = pair[0], _prompt(record), fields_of(raw)
    is_text = isinstance(record[name], str) and all(isinstance(record[n], str) for n in prompt)
    if is_text and tags.is_chatml(record[name]):
        whole = {**rest(fields, (name,)), "text": fields[name]}
        yield from tags.read_chatml_record({**record, "text": record[name]}, json_object(whole).encode())
    elif is_text and _is_run(record[name]):
        yield from _labelled(record, fields, name, prompt)
    else:
        yield from _messages(record, fields, name, prompt)
    yield Draft(record=pair[1], refused="not-chosen", detail="the rejected answer of a preference pair, no run")


def _labelled(record: dict[str, Any], fields: Fields, name: str, prompt: tuple[str, ...]) -> Iterable[Draft]:
    """A run that is text, cut by its labels after a prompt that is text."""
    asked = "\n".join(record[n] for n in prompt)
    told = {"prompt": msgspec.Raw(msgspec.json.encode(asked)), "completion": fields[name]}
    value = {n: v for n, v in record.items() if n not in (*prompt, name)}
    whole = {**rest(fields, (*prompt, name)), **told}
    return transcript.read_alpaca({**value, "prompt": asked, "completion": record[name]}, json_object(whole).encode())


def _messages(record: dict[str, Any], fields: Fields, name: str, prompt: tuple[str, ...]) -> Iterable[Draft]:
    """The chosen messages after those of the prompt, which is not said twice where they begin with it."""
    chosen = _turns_in(fields[name], "assistant")
    asked = [turn for n in prompt for turn in _turns_in(fields[n], "user")]
    values, given = ([msgspec.json.decode(turn) for turn in turns] for turns in (chosen, asked))
    begins = values[: len(given)] == given
    # A prompt in other words than the messages' own, a chat template's say, stays beside the run.
    is_told = not begins and isinstance(record[prompt[0]], str) and _author(values[0]) != "agent"
    mapped = {name, *(() if is_told else prompt)}
    ends = bool(given) and given[-len(values) :] == values
    turns = asked if ends else chosen if begins or is_told else [*asked, *chosen]
    system = next((n for n in _SYSTEMS if isinstance(record.get(n), str) and record[n]), None)
    if system is not None and _author(msgspec.json.decode(turns[0])) != "system":
        turns = [*_turns_in(fields[system], "system"), *turns]
        mapped.add(system)
    about: Fields = {}
    for n in mapped & set(prompt):
        about |= rest(fields_of(fields[n]), ("messages",)) if is_object(fields[n]) else {}
    left = {**rest(about, fields), **rest(fields, (*mapped, "messages"))}
    whole = json_object({**left, "messages": json_array(_alike(turns))}).encode()
    return read_messages(msgspec.json.decode(whole), whole)


def _turns_in(raw: msgspec.Raw, role: str) -> list[msgspec.Raw]:
    """A prompt or an answer as messages; a text is said by who has the role."""
    if string_of(raw) is not None:
        return [msgspec.Raw(json_object({"role": f'"{role}"', "content": raw}).encode())]
    if not is_object(raw):
        return items_of(raw)
    return items_of(fields_of(raw).get("messages")) or [raw]


def _author(turn: Any) -> str | None:
    return sharegpt.author_of(turn) or author_of(turn)


def _alike(turns: list[msgspec.Raw]) -> list[msgspec.Raw]:
    """The turns in one form: texts beside turns of ShareGPT's become such turns."""
    fields = [fields_of(turn) for turn in turns]
    if not any("from" in turn for turn in fields):
        return turns
    return [
        raw if "from" in turn else msgspec.Raw(json_object({"from": turn["role"], "value": turn["content"]}).encode())
        for raw, turn in zip(turns, fields, strict=True)
    ]


FORMATS = (
    RecordFormat(
        "preferences",
        "preference pairs: the `chosen` run after its prompt; what is `rejected` is counted (TRL, LLaMA-Factory)",
        recognise,
        read,
    ),
)
