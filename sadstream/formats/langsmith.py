"""LangSmith runs, as payloads or whole trees, and Anthropic's managed-agent sessions, which it records."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from sadstream.formats.anthropic import content_text, has_acted, message_pieces, user_pieces
from sadstream.formats.histories import longest_paths
from sadstream.formats.kinds import SessionFormat, SessionRecord
from sadstream.formats.pieces import AUTHORS, Piece, call, context, observation, say, thought, unreadable
from sadstream.formats.responses import is_item, item_pieces
from sadstream.formats.verbatim import (
    Fields,
    fields_of,
    is_object,
    items_of,
    json_object,
    noted,
    rest,
    same_value,
    string_of,
    text_of,
)
from sadstream.frames import Draft

_LC_ROLES = {
    "HumanMessage": "user",
    "HumanMessageChunk": "user",
    "SystemMessage": "system",
    "AIMessage": "assistant",
    "AIMessageChunk": "assistant",
    "ToolMessage": "tool",
    "FunctionMessage": "tool",
}
_TYPES = {"human": "user", "system": "system", "ai": "assistant", "tool": "tool", "function": "tool"}
_METHOD = "client.beta.sessions."


def recognise(record: Any) -> bool:
    """A payload of runs under `post` or `patch`, or a run: what has a type, inputs, and a place in a trace."""
    if not isinstance(record, dict):
        return False
    batches = [record[name] for name in ("post", "patch") if isinstance(record.get(name), list)]
    if batches and record.keys() <= {"post", "patch"}:
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
        trace[native] = {**known, **{k: v for k, v in run.items() if k not in known or not _is_empty(v)}}
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
        trace = {"trace_id": _quoted(_trace(run))}
        waiting += [{**trace, **fields_of(c)} for c in items_of(run.get("child_runs"))[::-1] if is_object(c)]


def _trace(run: Fields) -> str:
    order = string_of(run.get("dotted_order"))
    root = order.split(".")[0].partition("Z")[2] if order else ""
    return string_of(run.get("trace_id")) or root or string_of(run.get("id")) or ""


def _is_empty(raw: msgspec.Raw) -> bool:
    return bytes(raw) in (b"null", b"{}", b"[]")


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
            pieces += _message(message, message=position, acted=has_acted(pieces))
        asked = (p["text"] for p in pieces if p["author"] == "user" and p["text"])
        yield Draft(
            record=trace if len(kept) == 1 else f"{trace}.{number}",
            pieces=pieces,
            task=next(asked, None),
            tools=_tools(run),
            ending="error" if "error" in run and not _is_empty(run["error"]) else "unknown",
            extra=json_object(_about(run)),
        )


def _about(run: Fields) -> Fields:
    """What a run says beside its messages."""
    about = rest(run, ("inputs", "outputs"))
    inputs = rest(_object(run.get("inputs")), ("messages", "input", "tools", "instructions", "system"))
    outputs = rest(_object(run.get("outputs")), ("choices", "generations", "message", "content", "output", "role"))
    for name, fields in (("inputs", inputs), ("outputs", outputs)):
        if fields:
            about[name] = msgspec.Raw(json_object(fields).encode())
    return about


def _object(raw: msgspec.Raw | None) -> Fields:
    return fields_of(raw) if is_object(raw) else {}


def _tools(run: Fields) -> list[str]:
    given = _object(run.get("inputs")).get("tools")
    invocation = _object(_object(run.get("extra")).get("invocation_params"))
    return [bytes(tool).decode() for tool in items_of(given if given is not None else invocation.get("tools"))]


def _asked(run: Fields) -> list[Fields]:
    """Messages that a model was given, in whichever dialect."""
    inputs = _object(run.get("inputs"))
    given = items_of(inputs.get("messages", inputs.get("input")))
    if given and items_of(given[0]) and string_of(items_of(given[0])[0]) is None:
        given = items_of(given[0])
    head = next((inputs[name] for name in ("system", "instructions") if name in inputs), None)
    first = [{"role": msgspec.Raw(b'"system"'), "content": head}] if head is not None and text_of(head) else []
    asked = string_of(inputs.get("input"))
    last = [{"role": msgspec.Raw(b'"user"'), "content": inputs["input"]}] if asked else []
    return [*first, *(_normal(message) for message in given), *last]


def _answered(run: Fields) -> list[Fields]:
    """What the model answered."""
    outputs = _object(run.get("outputs"))
    for generation in items_of(outputs.get("generations")):
        best = next(iter(items_of(generation)), generation)
        message = _object(best).get("message")
        if message is not None:
            return [_normal(message)]
        text = _object(best).get("text")
        return [{"role": msgspec.Raw(b'"assistant"'), "content": text}] if text is not None else []
    for source in (*(_object(choice) for choice in items_of(outputs.get("choices"))), outputs):
        if "message" in source:
            return [_normal(source["message"])]
    if "content" in outputs:
        return [{"role": msgspec.Raw(b'"assistant"'), **outputs}]
    given = outputs.get("output", outputs.get("messages"))
    if string_of(given) is not None and given is not None:
        return [{"role": msgspec.Raw(b'"assistant"'), "content": given}]
    return [_normal(item) for item in items_of(given)]


def _late_results(messages: Sequence[Fields], runs: Sequence[Fields]) -> list[Fields]:
    """Results of calls that no later model call repeats: the runs of tools have them."""
    answered = {string_of(message.get("tool_call_id")) for message in messages}
    called = {native for message in messages for native in _call_ids(message)} - answered
    found = []
    for run in runs:
        if string_of(run.get("run_type")) == "tool":
            output = _object(run.get("outputs")).get("output")
            message = _normal(output) if output is not None and is_object(output) else {}
            if string_of(message.get("tool_call_id")) in called:
                found.append(message)
    return found


def _call_ids(message: Fields) -> Iterator[str]:
    for made in items_of(message.get("tool_calls")):
        native = string_of(_object(made).get("id"))
        if native:
            yield native


def _normal(raw: msgspec.Raw) -> Fields:
    """A message with `role` and `content`, from LangChain's serialised form, its `[role, text]`, or as it stands."""
    if not is_object(raw):
        parts = items_of(raw)
        if len(parts) == 2:
            role = string_of(parts[0]) or "user"
            return {"role": _quoted(_TYPES.get(role, role)), "content": parts[1]}
        return {"role": _quoted("user"), "content": raw}
    fields = fields_of(raw)
    if "lc" in fields and is_object(fields.get("kwargs")):
        named = [string_of(part) for part in items_of(fields.get("id"))]
        role = _LC_ROLES.get((named[-1] if named else None) or "", "user")
        return {**rest(fields_of(fields["kwargs"]), ("type",)), "role": _quoted(role)}
    kind = string_of(fields.get("type"))
    if "role" not in fields and kind in _TYPES:
        inner = fields_of(fields["data"]) if is_object(fields.get("data")) else rest(fields, ("type",))
        return {**inner, "role": _quoted(_TYPES[kind])}
    return fields


def _quoted(text: str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(text))


def _message(fields: Fields, *, message: int, acted: bool) -> list[Piece]:
    if "role" not in fields and is_item(msgspec.json.decode(json_object(fields))):
        return item_pieces(fields, message=message, acted=acted)
    author = AUTHORS.get(string_of(fields.get("role")) or "", "user")
    if author == "environment":
        text, opaque = content_text(fields.get("content"))
        left = rest(fields, ("role", "content", "tool_call_id", "name"))
        return [
            observation(
                text,
                message=message,
                call_id=string_of(fields.get("tool_call_id")),
                name=string_of(fields.get("name")),
                error=True if string_of(fields.get("status")) == "error" else None,
                opaque=opaque,
                extra=json_object({"message": json_object(left)}) if left else None,
            )
        ]
    made = _calls(fields, message=message) if author == "agent" else []
    known = {piece["call_id"] for piece in made}
    extra = _object(fields.get("additional_kwargs"))
    thinking = next(
        (t for f in (fields, extra) for n in ("reasoning_content", "reasoning") if (t := string_of(f.get(n)))), ""
    )
    told = rest(fields, ("tool_calls", "reasoning_content", "reasoning") if made else ())
    told = {name: raw for name, raw in told.items() if not _is_empty(raw) or name == "content"}
    content = told.get("content")
    if content is not None and string_of(content) is None:
        told["content"] = _without_calls(content, known)
    said = message_pieces(told, message=message, acted=acted, calls=True if made else None)
    if made or thinking:
        said = [piece for piece in said if piece["text"] or piece.get("extra") or piece.get("opaque") != ["[]"]]
    return [*([thought(thinking, message=message, hidden=True)] if thinking else []), *said, *made]


def _without_calls(content: msgspec.Raw, known: set[Any]) -> msgspec.Raw:
    """Blocks of a message but for the calls that it names elsewhere too."""
    blocks = [block for block in items_of(content) if string_of(_object(block).get("id")) not in known]
    return msgspec.Raw(msgspec.json.encode(blocks))


def _calls(fields: Fields, *, message: int) -> list[Piece]:
    """Calls in a message; the string that the model wrote stands before the arguments read from it."""
    written = _object(fields.get("additional_kwargs")).get("tool_calls")
    pieces = []
    for raw in items_of(written) or items_of(fields.get("tool_calls")):
        made = _object(raw)
        function = _object(made.get("function"))
        name = function.get("name", made.get("name"))
        arguments = function.get("arguments", made.get("args", made.get("arguments")))
        native = string_of(made.get("id"))
        pieces.append(call(text_of(name), text_of(arguments), message=message, call_id=native))
    legacy = _object(fields.get("function_call"))
    if legacy and not pieces:
        pieces.append(call(text_of(legacy.get("name")), text_of(legacy.get("arguments")), message=message))
    return pieces


def _gist(message: Fields) -> str:
    """What makes a message the same when it is sent again."""
    text, opaque = content_text(message.get("content"))
    calls = [f"{native}" for native in _call_ids(message)]
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
            sessions[-1][0].update(_object(event))
        elif record.value[0].endswith(".send"):
            given = next((part for part in items_of(event) if is_object(part)), event)
            sessions[-1][2].extend(_object(e) for e in items_of(_object(given).get("events")))
        elif is_object(event):
            sessions[-1][1].append(fields_of(event))
    for number, (head, streamed, sent) in enumerate(sessions):
        yield _managed_draft(number, head, streamed or sent)


def _managed_draft(number: int, head: Fields, events: list[Fields]) -> Draft:
    agent = _object(head.get("agent"))
    system = string_of(agent.get("system"))
    pieces = [context(system, message=0, author="system")] if system else []
    ending = "unknown"
    first = len(pieces)
    calls = _turns_with_calls(events)
    message = first
    for index, event in enumerate(events):
        kind = string_of(event.get("type")) or ""
        if kind == "session.status_idle":
            stopped = string_of(_object(event.get("stop_reason")).get("type"))
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
