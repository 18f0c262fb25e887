"""LangSmith runs, as payloads or whole trees, and Anthropic's managed-agent sessions, which it records."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from sadstream.formats.anthropic import content_text, has_acted, user_pieces
from sadstream.formats.histories import longest_paths
from sadstream.formats.kinds import SessionFormat, SessionRecord
from sadstream.formats.langchain import call_ids, is_empty, lc_pieces, normal, quoted
from sadstream.formats.pieces import Piece, call, context, observation, say, thought, unreadable
from sadstream.formats.verbatim import (
    Fields,
    fields_of,
    is_object,
    items_of,
    json_object,
    noted,
    object_of,
    rest,
    same_value,
    string_of,
    text_of,
)
from sadstream.frames import Draft

_METHOD = "client.beta.sessions."


def recognise(record: Any) -> bool:
    """A payload of runs under `post` or `patch`, or a run: what has a type, inputs, and a place in a trace."""
    if not isinstance(record, dict):
        return False
    batches = [record[name] for name in ("post", "patch") if isinstance(record.get(name), list)]
    if batches and "run_type" not in record:
        return any(isinstance(run, dict) and {"id", "trace_id"} <= run.keys() for runs in batches for run in runs)
    return (
        isinstance(record.get("run_type"), str)
        and isinstance(record.get("inputs"), dict)
        and not {"dotted_order", "trace_id", "parent_run_id", "child_runs"}.isdisjoint(record)
    )


def read(records: list[SessionRecord]) -> Iterator[Draft]:
    """One trajectory an agent of a trace: the last model call of each holds all messages before it."""
    traces: dict[str, dict[str, Fields]] = {}
    for run in (run for record in records for run in _runs(fields_of(record.raw))):
        native = string_of(run.get("id")) or ""
        trace = traces.setdefault(_trace(run), {})
        # A patch says what became of a run that was posted before.
        known = trace.get(native, {})
        trace[native] = {**known, **{k: v for k, v in run.items() if k not in known or not is_empty(v)}}
    for name, runs in traces.items():
        yield from _trace_drafts(name, list(runs.values()))


def _runs(record: Fields) -> Iterator[Fields]:
    """The runs of a payload or of a tree, parents first."""
    is_payload = "run_type" not in record and ("post" in record or "patch" in record)
    waiting = [record]
    if is_payload:
        waiting = [fields_of(run) for n in ("patch", "post") for run in items_of(record.get(n))[::-1] if is_object(run)]
    while waiting:
        run = waiting.pop()
        yield rest(run, ("child_runs",))
        trace = {"trace_id": quoted(_trace(run))}
        waiting += [{**trace, **fields_of(c)} for c in items_of(run.get("child_runs"))[::-1] if is_object(c)]


def _trace(run: Fields) -> str:
    order = string_of(run.get("dotted_order"))
    root = order.split(".")[0].partition("Z")[2] if order else ""
    return string_of(run.get("trace_id")) or root or string_of(run.get("id")) or ""


def _trace_drafts(trace: str, runs: list[Fields]) -> Iterator[Draft]:
    runs = sorted(runs, key=lambda run: string_of(run.get("dotted_order")) or string_of(run.get("start_time")) or "")
    models = [run for run in runs if string_of(run.get("run_type")) == "llm"]
    told = [[*_asked(run), *_answered(run)] for run in models]
    numbers: dict[str, int] = {}
    histories = [[numbers.setdefault(_gist(message), len(numbers)) for message in messages] for messages in told]
    kept = longest_paths(histories)
    if not kept:
        yield Draft(record=trace, refused="empty", detail="no model was called in this trace")
    for number, index in enumerate(kept):
        run = models[index]
        pieces: list[Piece] = []
        for position, message in enumerate([*told[index], *_late_results(told[index], runs)]):
            pieces += lc_pieces(message, message=position, acted=has_acted(pieces))
        asked = (p["text"] for p in pieces if p["author"] == "user" and p["text"])
        yield Draft(
            record=trace if len(kept) == 1 else f"{trace}.{number}",
            pieces=pieces,
            task=next(asked, None),
            tools=_tools(run),
            ending="error" if "error" in run and not is_empty(run["error"]) else "unknown",
            extra=json_object(_about(run)),
        )


def _about(run: Fields) -> Fields:
    """What a run says beside its messages."""
    about = rest(run, ("inputs", "outputs"))
    inputs = rest(object_of(run.get("inputs")), ("messages", "input", "tools", "instructions", "system"))
    outputs = rest(object_of(run.get("outputs")), ("choices", "generations", "message", "content", "output", "role"))
    for name, fields in (("inputs", inputs), ("outputs", outputs)):
        if fields:
            about[name] = msgspec.Raw(json_object(fields).encode())
    return about


def _tools(run: Fields) -> list[str]:
    given = object_of(run.get("inputs")).get("tools")
    invocation = object_of(object_of(run.get("extra")).get("invocation_params"))
    return [bytes(tool).decode() for tool in items_of(given if given is not None else invocation.get("tools"))]


def _asked(run: Fields) -> list[Fields]:
    """Messages that a model was given, in whichever dialect."""
    inputs = object_of(run.get("inputs"))
    given = items_of(inputs.get("messages", inputs.get("input")))
    if given and items_of(given[0]) and string_of(items_of(given[0])[0]) is None:
        given = items_of(given[0])
    head = next((inputs[name] for name in ("system", "instructions") if name in inputs), None)
    first = [{"role": msgspec.Raw(b'"system"'), "content": head}] if head is not None and text_of(head) else []
    asked = string_of(inputs.get("input"))
    last = [{"role": msgspec.Raw(b'"user"'), "content": inputs["input"]}] if asked else []
    return [*first, *(normal(message) for message in given), *last]


def _answered(run: Fields) -> list[Fields]:
    """What the model answered."""
    outputs = object_of(run.get("outputs"))
    for generation in items_of(outputs.get("generations")):
        best = next(iter(items_of(generation)), generation)
        message = object_of(best).get("message")
        if message is not None:
            return [normal(message)]
        text = object_of(best).get("text")
        return [{"role": msgspec.Raw(b'"assistant"'), "content": text}] if text is not None else []
    for source in (*(object_of(choice) for choice in items_of(outputs.get("choices"))), outputs):
        if "message" in source:
            return [normal(source["message"])]
    if "content" in outputs:
        return [{"role": msgspec.Raw(b'"assistant"'), **outputs}]
    given = outputs.get("output", outputs.get("messages"))
    if string_of(given) is not None and given is not None:
        return [{"role": msgspec.Raw(b'"assistant"'), "content": given}]
    return [normal(item) for item in items_of(given)]


def _late_results(messages: Sequence[Fields], runs: Sequence[Fields]) -> list[Fields]:
    """Results of calls that no later model call repeats: the runs of tools have them."""
    answered = {string_of(message.get("tool_call_id")) for message in messages}
    called = {native for message in messages for native in call_ids(message)} - answered
    found = []
    for run in runs:
        if string_of(run.get("run_type")) == "tool":
            output = object_of(run.get("outputs")).get("output")
            message = normal(output) if output is not None and is_object(output) else {}
            if string_of(message.get("tool_call_id")) in called:
                found.append(message)
    return found


def _gist(message: Fields) -> str:
    """What makes a message the same when it is sent again."""
    text, opaque = content_text(message.get("content"))
    calls = [f"{native}" for native in call_ids(message)]
    item = [same_value(message[n]) for n in ("call_id", "arguments", "output", "tool_call_id") if n in message]
    return "\0".join([text_of(message.get("role", message.get("type"))), text, *opaque, *calls, *item])


def is_managed(record: Any) -> bool:
    """`[method, event]` of a client's managed-agent session."""
    return (
        isinstance(record, list)
        and len(record) == 2
        and isinstance(record[0], str)
        and record[0].startswith(_METHOD)
        and isinstance(record[1], dict | list)
    )


def read_managed(records: list[SessionRecord]) -> Iterator[Draft]:
    """One trajectory a session; what the client sent is read where the stream does not repeat it."""
    sessions: list[tuple[Fields, list[Fields], list[Fields]]] = [({}, [], [])]
    for record in records:
        event = items_of(record.raw)[1]
        if record.value[0].endswith(".create"):
            if sessions[-1][0] or sessions[-1][1]:
                sessions.append(({}, [], []))
            sessions[-1][0].update(object_of(event))
        elif record.value[0].endswith(".send"):
            given = next((part for part in items_of(event) if is_object(part)), event)
            sessions[-1][2].extend(object_of(e) for e in items_of(object_of(given).get("events")))
        elif is_object(event):
            sessions[-1][1].append(fields_of(event))
    for number, (head, streamed, sent) in enumerate(sessions):
        yield _managed_draft(number, head, streamed or sent)


def _managed_draft(number: int, head: Fields, events: list[Fields]) -> Draft:
    agent = object_of(head.get("agent"))
    system = string_of(agent.get("system"))
    pieces = [context(system, message=0, author="system")] if system else []
    ending = "unknown"
    first = len(pieces)
    calls = _turns_with_calls(events)
    message = first
    for index, event in enumerate(events):
        kind = string_of(event.get("type")) or ""
        if kind == "session.status_idle":
            stopped = string_of(object_of(event.get("stop_reason")).get("type"))
            ending = "finished" if stopped == "end_turn" else "unknown"
        elif kind == "session.error":
            ending = "error"
        made = _event(event, kind, message=message, acted=has_acted(pieces), calls=calls[index])
        message += bool(made)
        pieces += made
    asked = (p["text"] for p in pieces if p["author"] == "user" and p["text"])
    native = string_of(head.get("id"))
    notes = rest(head, ("id", "agent"))
    if agent:
        notes["agent"] = msgspec.Raw(json_object(rest(agent, ("system", "tools"))).encode())
    return Draft(
        record=native or str(number),
        id=native or None,
        pieces=pieces,
        task=next(asked, None),
        tools=[bytes(tool).decode() for tool in items_of(agent.get("tools"))],
        ending=ending,
        extra=json_object(notes),
    )


def _turns_with_calls(events: Sequence[Fields]) -> list[bool]:
    """Of each event whether the answer of the model that it is part of holds a call."""
    kinds = [string_of(event.get("type")) or "" for event in events]
    turn, turns = 0, []
    for kind in kinds:
        turn += kind == "span.model_request_start"
        turns.append(turn)
    calling = {number for number, kind in zip(turns, kinds, strict=True) if kind.endswith("tool_use")}
    return [number in calling for number in turns]


def _event(event: Fields, kind: str, *, message: int, acted: bool, calls: bool) -> list[Piece]:
    source, _, what = kind.partition(".")
    if source not in ("agent", "user"):
        return []
    if what == "message":
        text, opaque = content_text(event.get("content"))
        extra = json_object(rest(event, ("content",)))
        if source == "user":
            return user_pieces(text, message=message, answers=acted, opaque=opaque, extra=extra)
        return [(thought if calls else say)(text, message=message, opaque=opaque, extra=extra)]
    if what.endswith("tool_use"):
        extra = json_object(rest(event, ("name", "input", "id")))
        name, arguments = text_of(event.get("name")), text_of(event.get("input"))
        return [call(name, arguments, message=message, call_id=string_of(event.get("id")), extra=extra)]
    if what.endswith("_result"):
        answers = next((n for n in event if n.endswith("tool_use_id")), "tool_use_id")
        text, opaque = content_text(event.get("content"))
        piece = observation(
            text,
            message=message,
            call_id=string_of(event.get(answers)),
            error={b"true": True, b"false": False}.get(bytes(event.get("is_error", b""))),
            opaque=opaque,
        )
        return [noted(piece, rest(event, ("content", answers, "is_error")))]
    if what == "thinking" and source == "agent":
        text, opaque = content_text(event.get("content", event.get("thinking")))
        aside = [json_object(rest(event, ("content", "thinking")))]
        return [thought(text, message=message, hidden=True, opaque=[*opaque, *aside])]
    # A user's leave to call a tool, or an interruption: the model is told of it by the result alone.
    author = "user" if source == "user" else "agent"
    return [unreadable("context", [json_object(event)], message=message, author=author)]


FORMATS = (
    SessionFormat(
        "anthropic-managed",
        "managed-agent sessions of Anthropic's API, `[method, event]` lines",
        is_managed,
        read_managed,
    ),
    SessionFormat("langsmith", "LangSmith runs: payloads (`post`, `patch`), runs and run trees", recognise, read),
)
