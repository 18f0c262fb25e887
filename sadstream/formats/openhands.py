"""OpenHands: the events of a run, of the classic server (`action`, `observation`) and of the SDK (`kind`)."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from sadstream.formats.content import content_of
from sadstream.formats.kinds import RecordFormat, SessionFormat, SessionRecord
from sadstream.formats.outcomes import as_bool
from sadstream.formats.pieces import Piece, call, context, observation, say, thought, unreadable
from sadstream.formats.swe_agent import tool_call
from sadstream.formats.verbatim import (
    Fields,
    fields_of,
    is_object,
    items_of,
    json_array,
    json_object,
    noted,
    rest,
    string_of,
    text_of,
)
from sadstream.frames import Draft

# Of the harness, about itself: the agent neither does nor reads these.
_BOOKKEEPING = (
    "null",
    "change_agent_state",
    "agent_state_changed",
    "recall",
    "condensation",
    "condensation_request",
    "pause",
    "resume",
    "stop",
    "loop_recovery",
)
_SDK_FIELDS = {"id", "timestamp", "source", "kind"}
_SOURCES = ("agent", "user", "environment", "hook")
_STATES = {"finished": "finished", "error": "error", "stuck": "halted", "paused": "aborted"}


# ---- classic events


def recognise(record: Any) -> bool:
    """A list of events with `action` or `observation`, or of pairs of them; bare, or under `history`."""
    events = record.get("history") if isinstance(record, dict) else record
    if not isinstance(events, list) or not events:
        return False
    flat = _flat(events) if isinstance(record, dict) else events
    return all(_is_event(e) for e in flat) and any("action" in e for e in flat)


def _flat(events: list[Any]) -> list[Any]:
    """The old form has pairs of an action and what it gave."""
    return [event for entry in events for event in (entry if isinstance(entry, list) else [entry])]


def _is_event(event: Any) -> bool:
    if not isinstance(event, dict) or "role" in event:
        return False
    if isinstance(event.get("action"), str):
        return isinstance(event.get("args"), dict)
    return isinstance(event.get("observation"), str) and "content" in event


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory. What the model said is taken from its logged response where the event has it."""
    fields = fields_of(raw) if isinstance(record, dict) else {}
    entries = items_of(fields.get("history") if fields else raw)
    events = [fields_of(e) for entry in entries for e in (items_of(entry) or [entry])]
    pieces = list(_pieces(events))
    notes, outcome = _outcome(fields)
    last = next((e for e in reversed(events) if _is_agents(e, events)), {})
    if "ending" not in outcome:
        ends = {"finish": "finished", "reject": "aborted"}
        outcome["ending"] = ends.get(string_of(last.get("action")) or "", "unknown")
    task = string_of(fields.get("instruction")) or next((p["text"] for p in pieces if _is_request(p)), None)
    yield Draft(
        task_id=string_of(fields.get("instance_id")),
        task=task,
        tools=next((_tools(e) for e in events if string_of(e.get("action")) == "system"), []),
        pieces=pieces,
        extra=json_object(notes),
        **outcome,
    )


def _is_request(piece: Piece) -> bool:
    return piece["kind"] == "context" and piece["author"] == "user" and bool(piece["text"])


def _tools(event: Fields) -> list[str]:
    return [bytes(tool).decode() for tool in items_of(_object(event.get("args")).get("tools"))]


def _object(raw: msgspec.Raw | None) -> Fields:
    return fields_of(raw) if is_object(raw) else {}


def _outcome(fields: Fields) -> tuple[Fields, dict[str, Any]]:
    """Fields that are left, and `Draft` fields, of a benchmark's record."""
    test, report = _object(fields.get("test_result")), _object(fields.get("report"))
    outcome: dict[str, Any] = {}
    for holder in (report, test, _object(test.get("report"))):
        truth = as_bool(msgspec.json.decode(holder["resolved"])) if "resolved" in holder else None
        if truth is not None:
            outcome.setdefault("success", truth)
    patch = string_of(test.get("git_patch"))
    if patch is not None:
        outcome["answer"] = patch
    error = text_of(fields.get("error"))
    if error:
        outcome["ending"] = "halted" if any(s in error.lower() for s in ("maximum", "budget", "stuck")) else "error"
    notes = rest(fields, {"history", "instance_id", "instruction", "test_result"})
    left = rest(test, {"git_patch"} if patch is not None else ())
    if left:
        notes["test_result"] = msgspec.Raw(json_object(left).encode())
    return notes, outcome


def _is_agents(event: Fields, events: Sequence[Fields]) -> bool:
    """Whether an event is an action of the agent's; in logs without `source` all are but the first request."""
    action = string_of(event.get("action"))
    if action is None or action in (*_BOOKKEEPING, "system"):
        return False
    source = string_of(event.get("source"))
    if source is not None:
        return source == "agent"
    first = next((e for e in events if string_of(e.get("action")) == "message"), None)
    return not (event is first and event is next((e for e in events if not _is_harness(e)), None))


def _is_harness(event: Fields) -> bool:
    name = string_of(event.get("action")) or string_of(event.get("observation"))
    return name in (*_BOOKKEEPING, "system")


def _pieces(events: Sequence[Fields]) -> Iterator[Piece]:
    numbers = {id(event): number for number, event in enumerate(events)}
    by_id = {bytes(e["id"]): e for e in events if "id" in e and "action" in e}
    acted = False
    for event in gathered(events, _response_id):
        number = numbers[id(event)]
        if _is_agents(event, events):
            acted = True
            pieces = list(_action(event, number))
        elif "action" in event:
            pieces = [_other_action(event, number, acted)]
        else:
            pieces = [_result(event, by_id.get(bytes(event.get("cause", b""))), number, acted)]
        yield from pieces


def gathered(events: Sequence[Fields], response_of: Any) -> Iterator[Fields]:
    """Events in order, but for those of one model response, which stand together where the first of them stood."""
    groups: dict[str, list[Fields]] = {}
    order: list[list[Fields]] = []
    for event in events:
        response = response_of(event)
        if response is None:
            order.append([event])
        elif response in groups:
            groups[response].append(event)
        else:
            groups[response] = [event]
            order.append(groups[response])
    for group in order:
        yield from group


def _response_id(event: Fields) -> str | None:
    if "action" not in event:
        return None
    return string_of(_object(_object(event.get("tool_call_metadata")).get("model_response")).get("id"))


def _action(event: Fields, message: int) -> Iterator[Piece]:
    """What the agent thought and did in one event; its further fields are kept on the last piece."""
    metadata, args = _object(event.get("tool_call_metadata")), _object(event.get("args"))
    name = string_of(event.get("action")) or ""
    said, made = _from_response(metadata, message)
    notes = rest(event, {"action", "args", "tool_call_metadata"})
    if made is None:
        words = string_of(args.get("thought")) or ""
        mapped = {"thought"} if "thought" in args else set()
        if name == "message":
            text, mapped = string_of(args.get("content")) or "", mapped | {"content"}
            words = "" if words == text else words
            made = say(text, message=message)
        elif name == "think":
            text, words = words, ""
            made = thought(text, message=message)
        elif name in ("run", "run_ipython"):
            field, syntax = ("command", "shell") if name == "run" else ("code", "code")
            made = call(name, string_of(args.get(field)) or "", message=message, syntax=syntax)
            mapped |= {field}
        else:
            made = call(name, json_object(rest(args, mapped)), message=message)
            mapped = set(args)
        said = [thought(words, message=message)] if words.strip() else []
        left = rest(args, mapped)
    else:
        if name == "think":
            made |= {"kind": "reason"}
        notes["action"] = event["action"]
        notes["tool_call_metadata"] = _without_words(metadata)
        left = rest(args, {"thought"} if said and string_of(args.get("thought")) == said[-1]["text"] else ())
    if left:
        notes["args"] = msgspec.Raw(json_object(left).encode())
    yield from said
    yield noted(made, notes)


def _message_of(metadata: Fields) -> Fields:
    choices = items_of(_object(metadata.get("model_response")).get("choices"))
    return _object(_object(choices[0]).get("message")) if choices else {}


def _from_response(metadata: Fields, message: int) -> tuple[list[Piece], Piece | None]:
    """Thoughts and the call of this event in the model's own response; only its first call brings the thoughts."""
    reply = _message_of(metadata)
    calls = items_of(reply.get("tool_calls"))
    wanted = string_of(metadata.get("tool_call_id"))
    at = next((i for i, c in enumerate(calls) if string_of(_object(c).get("id")) == wanted), None)
    if at is None or wanted is None:
        return [], None
    said = []
    if at == 0:
        sealed = [bytes(raw).decode() for raw in items_of(reply.get("thinking_blocks"))]
        text = content_of(reply.get("content"))[0]
        reasoning = text_of(reply.get("reasoning_content")) or text_of(reply.get("reasoning"))
        said = _thoughts(reasoning, text, sealed, message)
    return said, tool_call(calls[at], message)


def _thoughts(reasoning: str, text: str, sealed: list[str], message: int) -> list[Piece]:
    """Hidden reasoning and words; where the words repeat the reasoning, in a `<think>` block, only the words."""
    pieces = []
    if (reasoning.strip() and reasoning.strip() not in text) or sealed:
        repeated = reasoning.strip() in text
        pieces.append(thought("" if repeated else reasoning, message=message, hidden=True, opaque=sealed))
    if text.strip():
        pieces.append(thought(text, message=message))
    return pieces


def _without_words(metadata: Fields) -> msgspec.Raw:
    """The call's metadata without the message, whose words are in the text."""
    response = rest(_object(metadata.get("model_response")), {"choices"})
    choices = items_of(_object(metadata.get("model_response")).get("choices"))
    left = {}
    if choices:
        words = {"content", "tool_calls", "reasoning_content", "reasoning", "thinking_blocks"}
        kept = json_object(rest(_message_of(metadata), words))
        first = json_object({**_object(choices[0]), "message": kept})
        left = {"choices": json_array([first, *choices[1:]])}
    return msgspec.Raw(json_object({**metadata, "model_response": json_object({**response, **left})}).encode())


def _other_action(event: Fields, message: int, acted: bool) -> Piece:
    """What the user or the harness did."""
    name, args = string_of(event.get("action")) or "", _object(event.get("args"))
    if name in _BOOKKEEPING:
        return unreadable("context", [json_object(event)], message=message, author="environment")
    text, opaque = content_of(args.get("content"))
    notes = rest(event, {"action", "args"} if name in ("message", "system") else {"args"})
    left = rest(args, {"content", "tools"} if name == "system" else {"content"})
    if left:
        notes["args"] = msgspec.Raw(json_object(left).encode())
    if name == "system":
        piece = context(text, message=message, author="system", opaque=opaque)
    elif acted:
        piece = observation(text, message=message, author="user", opaque=opaque)
    else:
        piece = context(text, message=message, opaque=opaque)
    return noted(piece, notes)


def _result(event: Fields, cause: Fields | None, message: int, acted: bool) -> Piece:
    name = string_of(event.get("observation")) or ""
    if name == "recall" and text_of(event.get("content")):
        about = context(text_of(event.get("content")), message=message, author="environment")
        return noted(about, rest(event, {"content"}))
    if name in _BOOKKEEPING:
        return unreadable("context", [json_object(event)], message=message, author="environment")
    metadata = _object(event.get("tool_call_metadata"))
    asked = _object(cause.get("tool_call_metadata")) if cause is not None else {}
    text, opaque = content_of(event.get("content"))
    succeeded = as_bool(msgspec.json.decode(event["success"])) if "success" in event else None
    error = True if name == "error" else None if succeeded is None else not succeeded
    call_id = string_of(metadata.get("tool_call_id")) or string_of(asked.get("tool_call_id"))
    repeated = {"tool_call_metadata"} if asked and metadata.keys() == asked.keys() else set()
    notes = rest(event, {"content", "success"} | repeated)
    if not acted:
        return noted(context(text, message=message, author="environment", opaque=opaque), notes)
    return noted(observation(text, message=message, call_id=call_id, error=error, opaque=opaque), notes)


# ---- the SDK's events, one a line


def is_sdk_event(record: Any) -> bool:
    """An event with `kind`, `source`, `id` and `timestamp`."""
    return (
        isinstance(record, dict)
        and record.keys() >= _SDK_FIELDS
        and isinstance(record["kind"], str)
        and record["source"] in _SOURCES
    )


def read_sdk(records: list[SessionRecord]) -> Iterable[Draft]:
    """One trajectory of all events; state updates are kept and render to nothing."""
    events = [fields_of(record.raw) for record in records]
    numbers = {id(event): number for number, event in enumerate(events)}
    pieces: list[Piece] = []
    tools: list[str] = []
    ending = "unknown"
    acted = False
    for event in gathered(events, lambda e: string_of(e.get("llm_response_id"))):
        kind, number = string_of(event.get("kind")), numbers[id(event)]
        if kind == "ActionEvent":
            pieces += _sdk_action(event, number)
            acted = True
            if string_of(event.get("tool_name")) == "finish":
                ending = "finished"
        elif kind == "MessageEvent":
            made = _sdk_message(event, number, acted)
            pieces += made
            acted = acted or any(p["kind"] == "act" for p in made)
        elif kind == "SystemPromptEvent":
            tools = tools or [bytes(tool).decode() for tool in items_of(event.get("tools"))]
            prompt = _object(event.get("system_prompt"))
            about = context(text_of(prompt.get("text")), message=number, author="system")
            pieces.append(noted(about, rest(event, {"system_prompt", "tools"})))
        elif kind in _RESULTS:
            pieces.append(_sdk_result(event, number))
        else:
            if string_of(event.get("key")) == "execution_status":
                ending = _STATES.get(string_of(event.get("value")) or "", ending)
            pieces.append(unreadable("context", [json_object(event)], message=number, author="environment"))
    yield Draft(
        record=records[0].key,
        task=next((p["text"] for p in pieces if _is_request(p)), None),
        tools=tools,
        ending=ending,
        pieces=pieces,
    )


_RESULTS = ("ObservationEvent", "AgentErrorEvent", "UserRejectObservation")


def _sdk_action(event: Fields, message: int) -> list[Piece]:
    sealed = [bytes(raw).decode() for raw in items_of(event.get("thinking_blocks"))]
    if is_object(event.get("responses_reasoning_item")):
        sealed.append(bytes(event["responses_reasoning_item"]).decode())
    words = content_of(event.get("thought"))[0]
    pieces = _thoughts(text_of(event.get("reasoning_content")), words, sealed, message)
    asked = _object(event.get("tool_call"))
    action = {"thought", "reasoning_content", "thinking_blocks", "responses_reasoning_item", "tool_call"}
    if asked:
        name, arguments = string_of(asked.get("name")) or "", text_of(asked.get("arguments"))
    else:
        name, arguments = string_of(event.get("tool_name")) or "", text_of(event.get("action"))
        action.add("action")
    call_id = string_of(event.get("tool_call_id")) or string_of(asked.get("id"))
    made = call(name, arguments, message=message, call_id=call_id)
    if name == "think":
        made |= {"kind": "reason"}
    left = rest(asked, {"id", "name", "arguments"})
    notes = rest(event, action | {"tool_name", "tool_call_id"})
    if left:
        notes["tool_call"] = msgspec.Raw(json_object(left).encode())
    return [*pieces, noted(made, notes)]


def _sdk_message(event: Fields, message: int, acted: bool) -> list[Piece]:
    reply = _object(event.get("llm_message"))
    text, opaque = content_of(reply.get("content"))
    notes = rest(event, {"llm_message"})
    left = rest(reply, {"content", "reasoning_content", "thinking_blocks"})
    if left:
        notes["llm_message"] = msgspec.Raw(json_object(left).encode())
    if string_of(event.get("source")) == "agent":
        sealed = [bytes(raw).decode() for raw in items_of(reply.get("thinking_blocks"))]
        reasoning = text_of(reply.get("reasoning_content"))
        before = _thoughts(reasoning, "", sealed, message) if reasoning.strip() not in text or sealed else []
        return [*before, noted(say(text, message=message, opaque=opaque), notes)]
    if acted:
        return [noted(observation(text, message=message, author="user", opaque=opaque), notes)]
    return [noted(context(text, message=message, opaque=opaque), notes)]


def _sdk_result(event: Fields, message: int) -> Piece:
    result = _object(event.get("observation"))
    text, opaque = content_of(result.get("content"))
    error = as_bool(msgspec.json.decode(result["is_error"])) if "is_error" in result else None
    mapped = {"tool_call_id"}
    if not result:
        field = next((name for name in ("error", "rejection_reason", "observation") if name in event), "")
        text, opaque, error = text_of(event.get(field)), [], True
        mapped.add(field)
    notes = rest(event, mapped | {"observation"})
    left = rest(result, {"content", "is_error"})
    if left:
        notes["observation"] = msgspec.Raw(json_object(left).encode())
    call_id = string_of(event.get("tool_call_id"))
    return noted(observation(text, message=message, call_id=call_id, error=error, opaque=opaque), notes)


FORMATS = (
    RecordFormat("openhands", "OpenHands benchmark output and saved trajectories: lists of events", recognise, read),
    SessionFormat("openhands-sdk", "OpenHands SDK events with `kind`, one a line", is_sdk_event, read_sdk),
)
