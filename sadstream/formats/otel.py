"""OpenTelemetry's GenAI spans: model calls and tool calls of an agent, messages as JSON in their attributes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from sadstream.formats.kinds import RecordFormat, SessionFormat, SessionRecord
from sadstream.formats.matching import match_by_order
from sadstream.formats.otel_attributes import (
    INPUT,
    OPERATION,
    OUTPUT,
    SYSTEM,
    TOOL_ARGUMENTS,
    TOOL_ID,
    TOOL_NAME,
    TOOL_RESULT,
    TOOLS,
    is_about_agents,
    is_mapped,
    known_attributes,
)
from sadstream.formats.outcomes import as_text
from sadstream.formats.pieces import AUTHORS, Piece, call, context, first_words, observation, say, thought, unreadable
from sadstream.formats.verbatim import (
    Fields,
    Json,
    fields_of,
    first_of,
    is_object,
    items_of,
    json_object,
    noted,
    rest,
    string_of,
    text_of,
)
from sadstream.frames import Draft

_MODEL = ("chat", "call_llm", "text_completion", "generate_content")
_STARTS = ("start_time", "startTimeUnixNano", "start_time_unix_nano", "startTime", "start_time_ns")


class _Span(msgspec.Struct):
    """A span, its attributes without OTLP's wrapping."""

    number: int
    trace: str
    id: str
    parent: str
    operation: str
    start: tuple[int, int, str]
    attributes: Fields
    fields: Fields


def is_span(value: Any) -> bool:
    """Whether a value is a span with attributes of the GenAI conventions."""
    if not isinstance(value, dict):
        return False
    attributes = value.get("attributes")
    if isinstance(attributes, list):
        names = [a.get("key") for a in attributes if isinstance(a, dict)]
    else:
        names = list(attributes) if isinstance(attributes, dict) else []
    return any(isinstance(name, str) and is_about_agents(name) for name in names)


def _has_span(value: Any) -> bool:
    return isinstance(value, list) and any(is_span(item) for item in value)


def recognise(record: Any) -> bool:
    """`spans` of the GenAI conventions, or a bare list of such spans."""
    if isinstance(record, list):
        return all(isinstance(item, dict) for item in record) and _has_span(record)
    return isinstance(record, dict) and _has_span(record.get("spans"))


def recognise_line(record: Any) -> bool:
    """A single span, or OTLP's `resourceSpans` with such spans."""
    if not isinstance(record, dict):
        return False
    name = _otlp_name(record)
    return any(_has_span(spans) for spans in _otlp_values(record[name])) if name else is_span(record)


def _otlp_name(record: dict[str, Any]) -> str:
    return next((n for n in ("resourceSpans", "resource_spans") if isinstance(record.get(n), list)), "")


def _otlp_values(groups: list[Any]) -> Iterator[Any]:
    for group in groups:
        scopes = group.get("scopeSpans", group.get("scope_spans")) if isinstance(group, dict) else None
        for scope in scopes if isinstance(scopes, list) else []:
            if isinstance(scope, dict):
                yield scope.get("spans")


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """A trajectory an agent: each `invoke_agent` has what is below it, sub-agents apart."""
    if isinstance(record, list):
        drafts = list(_drafts(items_of(raw), {}, None))
    else:
        fields = fields_of(raw)
        final = as_text(record.get("final_output"))
        drafts = list(_drafts(items_of(fields["spans"]), rest(fields, ("spans", "final_output")), final))
    if len(drafts) == 1:
        drafts[0].record = ""
    yield from drafts


def read_lines(records: list[SessionRecord]) -> Iterable[Draft]:
    """As `read` does; an exporter writes a trace over several records, so all are read together."""
    spans: list[msgspec.Raw] = []
    keys: list[str] = []
    beside: Fields = {}
    for record in records:
        name = _otlp_name(record.value)
        fields = fields_of(record.raw)
        made = _otlp_spans(fields[name]) if name else [msgspec.Raw(record.raw)]
        beside |= rest(fields, (name,)) if name else {}
        spans += made
        keys += [f"{record.key}.{number}" if name else record.key for number in range(len(made))]
    for draft in _drafts(spans, beside, None):
        draft.record = keys[int(draft.record)]
        yield draft


def _otlp_spans(groups: Json) -> list[msgspec.Raw]:
    """Spans of all resources and scopes, each with those it stands under."""
    spans = []
    for group in map(fields_of, filter(is_object, items_of(groups))):
        for scope in map(fields_of, filter(is_object, items_of(group.get("scopeSpans", group.get("scope_spans"))))):
            about = {name: raw for name, raw in {**group, **scope}.items() if name in ("resource", "scope")}
            for span in filter(is_object, items_of(scope.get("spans"))):
                spans.append(msgspec.Raw(json_object({**about, **fields_of(span)}).encode()))
    return spans


def _drafts(raws: Sequence[msgspec.Raw], beside: Fields, final: str | None) -> Iterator[Draft]:
    spans = [_span(fields_of(raw), number) for number, raw in enumerate(raws) if is_object(raw)]
    by_id = {span.id: span for span in spans if span.id}
    agents: dict[str, list[_Span]] = {}
    for span in spans:
        agents.setdefault(_agent(span, by_id), []).append(span)
    _adopt_orphans(agents, by_id)
    roots = _roots(agents, by_id)
    for key, members in agents.items():
        agent = by_id.get(key)
        outer = _agent(by_id[agent.parent], by_id) if agent and agent.parent in by_id else None
        own = [raws[s.number] for s in members if s is agent or not _says(s)]
        speaking = sorted((s for s in members if _says(s) and s is not agent), key=lambda s: s.start)
        if not speaking and agent and _has_words(agent):
            speaking, own = [agent], [raw for raw in own if raw is not raws[agent.number]]
        left: dict[str, Json | str] = dict(beside)
        if own:
            left["spans"] = f"[{','.join(bytes(raw).decode() for raw in own)}]"
        draft = _conversation(speaking)
        draft.record = str(members[0].number)
        draft.id = _native_id(members[0].trace, key, roots) or None
        draft.parent_id = None if outer is None else _native_id(members[0].trace, outer, roots)
        draft.ending = _ending(agent, draft)
        draft.answer = final if outer is None else None
        draft.extra = json_object(left)
        yield draft


def _native_id(trace: str, key: str, roots: dict[str, list[str]]) -> str:
    """The trace's id for its only root, else one with the agent's span."""
    return trace if key == trace or roots.get(trace) == [key] else f"{trace}/{key}"


def _agent(span: _Span, by_id: dict[str, _Span]) -> str:
    """Id of the nearest `invoke_agent` that a span stands under or is; else its trace."""
    seen: set[str] = set()
    at: _Span | None = span
    while at is not None and at.id not in seen:
        if at.operation == "invoke_agent" and at.id:
            return at.id
        seen.add(at.id)
        at = by_id.get(at.parent)
    return span.trace


def _roots(agents: dict[str, list[_Span]], by_id: dict[str, _Span]) -> dict[str, list[str]]:
    """Keys of the agents that no other started, by trace."""
    roots: dict[str, list[str]] = {}
    for key, spans in agents.items():
        if key not in by_id or by_id[key].parent not in by_id:
            roots.setdefault(spans[0].trace, []).append(key)
    return roots


def _adopt_orphans(agents: dict[str, list[_Span]], by_id: dict[str, _Span]) -> None:
    """Give spans whose parents were not logged to the only agent of their trace, if there is one."""
    for trace, keys in _roots(agents, by_id).items():
        started = [key for key in keys if key in by_id]
        if trace in agents and trace not in by_id and len(started) == 1:
            agents[started[0]] = sorted([*agents.pop(trace), *agents[started[0]]], key=lambda span: span.number)


def _says(span: _Span) -> bool:
    """Whether a span holds a model's or a tool's words."""
    if span.operation in (*_MODEL, "execute_tool"):
        return True
    return not span.operation and _has_words(span)


def _has_words(span: _Span) -> bool:
    return any(name in span.attributes for name in (*INPUT, *OUTPUT))


def _failed(span: _Span) -> bool:
    """Whether a span's status is an error: OTLP's code 2, or any writing of the word."""
    status = span.fields.get("status")
    fields = fields_of(status) if is_object(status) else {"code": status} if status is not None else {}
    codes = [text_of(raw).upper() for raw in (fields.get("code"), fields.get("status_code")) if raw is not None]
    return any(code == "2" or code.endswith("ERROR") for code in codes)


def _ending(agent: _Span | None, draft: Draft) -> str:
    if agent and _failed(agent):
        return "error"
    acts = [p for p in draft.pieces or [] if p["kind"] in ("act", "observation")]
    return "finished" if agent and acts and acts[-1]["kind"] == "act" and acts[-1].get("name") is None else "unknown"


def _span(fields: Fields, number: int) -> _Span:
    at = fields_of(fields["context"]) if is_object(fields.get("context")) else fields
    parent = fields.get("parent")
    above = (
        fields_of(parent).get("span_id")
        if is_object(parent)
        else first_of(fields, ("parentSpanId", "parent_span_id", "parent_id"))
    )
    attributes = known_attributes(fields)
    return _Span(
        number=number,
        trace=text_of(first_of(at, ("trace_id", "traceId"))),
        id=text_of(first_of(at, ("span_id", "spanId"))),
        parent=text_of(above),
        operation=text_of(first_of(attributes, OPERATION)),
        start=_instant(text_of(first_of(fields, _STARTS)), number),
        attributes=attributes,
        fields=fields,
    )


def _instant(text: str, number: int) -> tuple[int, int, str]:
    """What spans are sorted by: a count of nanoseconds as a number, a date as text; without any, as they stand."""
    if text.isascii() and text.isdigit() and len(text) < 40:
        return 0, int(text), ""
    return (1, 0, text) if text else (2, number, "")


def _conversation(spans: Sequence[_Span]) -> Draft:
    """What an agent's spans say, in order, each thing once.

    Some loggers give every model call its whole history, some only the first.
    """
    pieces: list[Piece] = []
    tools: list[str] = []
    n_known = 0
    message = 0
    answered: set[str] = set()
    open_calls: list[Piece] = []
    outputs = any(first_of(s.attributes, OUTPUT) for s in spans if s.operation != "execute_tool")
    any_tool = any(s.operation == "execute_tool" for s in spans)
    for span in spans:
        made: list[Piece] = []
        if span.operation == "execute_tool":
            made = _tool_pieces(span, open_calls, message=message)
            answered.update(p["call_id"] for p in made if p.get("call_id"))
            message += 1
        else:
            tools = tools or [bytes(t).decode() for t in _items(first_of(span.attributes, TOOLS))]
            system = first_of(span.attributes, SYSTEM)
            if system is not None and not pieces:
                made += _system_pieces(system, message=message)
                message += 1
            history = _messages(first_of(span.attributes, INPUT))
            for raw in history[n_known:]:
                if n_known and outputs and _role(raw) == "assistant":
                    continue
                fresh = _message_pieces(raw, message=message, begun=any(p["kind"] == "act" for p in pieces))
                fresh = [
                    p
                    for p in fresh
                    if not (p["kind"] == "observation" and _is_known(p, answered, guess=any_tool and bool(n_known)))
                ]
                made += fresh
                message += bool(fresh)
            n_known = max(n_known, len(history))
            spoken = _output_pieces(first_of(span.attributes, OUTPUT), message=message)
            made += spoken
            message += 1
            n_known += bool(spoken) and bool(history)
        if not made:
            made = [unreadable("reason", ["{}"], message=message - 1, author="agent")]
        made[-1] = noted(made[-1], {"span": json_object(_unmapped(span))})
        pieces += made
        if span.operation != "execute_tool":
            open_calls += [p for p in made if p["kind"] == "act" and p.get("name") is not None]
    task = first_words(pieces)
    return Draft(pieces=match_by_order(pieces), tools=tools, task=task)


def _is_known(piece: Piece, answered: set[str], *, guess: bool) -> bool:
    """A result that a tool's span has given already; `guess`: one without an id is taken for such."""
    if piece["author"] != "environment":
        return False
    return piece["call_id"] in answered if piece.get("call_id") else guess


def _unmapped(span: _Span) -> Fields:
    """A span but for the attributes that became pieces, which are named as the log named them."""
    raw = span.fields.get("attributes")
    left: dict[str, Json | str] = dict(span.fields)
    if is_object(raw):
        left["attributes"] = json_object({n: v for n, v in fields_of(raw).items() if not is_mapped(n)})
    else:
        kept = [
            bytes(i).decode()
            for i in items_of(raw)
            if not (is_object(i) and is_mapped(text_of(fields_of(i).get("key"))))
        ]
        left["attributes"] = f"[{','.join(kept)}]"
    return fields_of(json_object(left).encode())


def _tool_pieces(span: _Span, open_calls: list[Piece], *, message: int) -> list[Piece]:
    """What a tool gave back; and its call, if no model's words hold it."""
    name = text_of(first_of(span.attributes, TOOL_NAME))
    call_id = text_of(first_of(span.attributes, TOOL_ID)) or None
    arguments = text_of(first_of(span.attributes, TOOL_ARGUMENTS))
    if call_id:
        asked = next((p for p in open_calls if p.get("call_id") == call_id), None)
        asked = asked or next((p for p in open_calls if p["name"] == name and not p.get("call_id")), None)
    else:
        asked = next((p for p in open_calls if p["name"] == name), None)
    made = []
    if asked is None:
        asked = call(name, arguments, message=message, call_id=call_id)
        made.append(asked)
    else:
        open_calls.remove(asked)
    # The model's words often lack the id that the tool's span has.
    asked["call_id"] = asked.get("call_id") or call_id
    result = text_of(first_of(span.attributes, TOOL_RESULT))
    made.append(
        observation(
            result, message=message, name=name, call_id=call_id or asked.get("call_id"), error=_failed(span) or None
        )
    )
    return made


def _system_pieces(raw: Json, *, message: int) -> list[Piece]:
    parts = _items(raw)
    if not parts:
        return [context(text_of(raw), message=message, author="system")]
    return [p for part in parts for p in _part_pieces(part, "system", message, begun=False, calls=False)]


def _items(raw: Json | None) -> list[msgspec.Raw]:
    """Items of an array, or of one that is written in a string; none if it was cut at a length limit."""
    text = text_of(raw)
    try:
        return items_of(text.encode()) if text.lstrip().startswith("[") else []
    except msgspec.DecodeError:
        return []


def _messages(raw: msgspec.Raw | None) -> list[msgspec.Raw]:
    """Messages of an attribute; one that was cut is a message of the user's, as far as it goes."""
    items = _items(raw)
    if items and all(map(is_object, items)):
        return items
    text = text_of(raw)
    return (
        [msgspec.Raw(msgspec.json.encode({"role": "user", "content": text}))] if text and text.strip() != "[]" else []
    )


def _role(raw: msgspec.Raw) -> str:
    return text_of(fields_of(raw).get("role"))


def _message_pieces(raw: msgspec.Raw, *, message: int, begun: bool) -> list[Piece]:
    """A message of `parts`, or of the older `content` and `tool_calls`."""
    fields = fields_of(raw)
    role = text_of(fields.get("role"))
    parts = [p for p in items_of(fields.get("parts")) if is_object(p)]
    author = AUTHORS.get(role, "user")
    if parts:
        calls = any(_kind(part) == "tool_call" for part in parts)
        made = [p for part in parts for p in _part_pieces(part, author, message, begun=begun, calls=calls)]
        left = rest(fields, ("role", "parts"))
    else:
        asked = [c for c in items_of(fields.get("tool_calls")) if is_object(c)]
        made = _text_piece(text_of(fields.get("content")), author, message, begun=begun, calls=bool(asked))
        if author == "environment" and made:
            made[0] |= {"call_id": string_of(fields.get("tool_call_id")), "name": text_of(fields.get("name"))}
        made += [_chat_call(c, message) for c in asked]
        left = rest(fields, ("role", "content", "tool_calls", "tool_call_id", "name"))
    if made and left:
        made[0] = noted(made[0], left)
    return made


def _kind(part: Json) -> str:
    return text_of(fields_of(part).get("type"))


def _part_pieces(part: Json, author: str, message: int, *, begun: bool, calls: bool) -> list[Piece]:
    fields = fields_of(part) if is_object(part) else {"content": msgspec.Raw(bytes(part))}
    kind = text_of(fields.get("type"))
    if kind == "tool_call":
        piece = call(
            text_of(fields.get("name")),
            text_of(fields.get("arguments")),
            message=message,
            call_id=string_of(fields.get("id")),
        )
        return [noted(piece, rest(fields, ("type", "name", "arguments", "id")))]
    if kind == "tool_call_response":
        piece = observation(
            text_of(first_of(fields, ("response", "result"))),
            message=message,
            call_id=string_of(fields.get("id")),
            name=text_of(fields.get("name")),
        )
        return [noted(piece, rest(fields, ("type", "response", "result", "id", "name")))]
    text = text_of(fields.get("content", fields.get("text")))
    left = rest(fields, ("type", "content", "text"))
    if kind in ("reasoning", "thinking") and text:
        return [noted(thought(text, message=message, hidden=True), left)]
    if not text or (kind and kind != "text"):
        kind_of_span = "reason" if author == "agent" else "context"
        return [unreadable(kind_of_span, [json_object(fields)], message=message, author=author)]
    return [noted(p, left) for p in _text_piece(text, author, message, begun=begun, calls=calls)]


def _text_piece(text: str, author: str, message: int, *, begun: bool, calls: bool) -> list[Piece]:
    if author == "environment":
        return [observation(text, message=message)]
    if author == "agent":
        make = thought if calls else say
        return [make(text, message=message)] if text else []
    reply = begun and author == "user"
    return [(observation if reply else context)(text, message=message, author=author)]


def _chat_call(raw: Json, message: int) -> Piece:
    fields = fields_of(raw)
    function = fields_of(fields["function"]) if is_object(fields.get("function")) else fields
    name, arguments = text_of(function.get("name")), text_of(function.get("arguments"))
    return call(name, arguments, message=message, call_id=string_of(fields.get("id")))


def _output_pieces(raw: msgspec.Raw | None, *, message: int) -> list[Piece]:
    """What the model said: messages, any-agent's list of tools, or words."""
    if raw is None:
        return []
    items = _items(raw)
    if items and all(is_object(i) and "tool.name" in fields_of(i) for i in items):
        return [_tool_list_call(fields_of(item), message) for item in items]
    if items and all(is_object(i) and not fields_of(i).keys().isdisjoint(("parts", "content", "role")) for i in items):
        return [p for item in items for p in _message_pieces(_as_agent(item), message=message, begun=True)]
    text = text_of(raw)
    return [say(text, message=message)] if text else []


def _as_agent(item: msgspec.Raw) -> msgspec.Raw:
    fields = fields_of(item)
    return item if "role" in fields else msgspec.Raw(json_object({"role": '"assistant"', **fields}).encode())


def _tool_list_call(fields: Fields, message: int) -> Piece:
    piece = call(text_of(fields.get("tool.name")), text_of(fields.get("tool.args")), message=message)
    return noted(piece, rest(fields, ("tool.name", "tool.args")))


FORMATS = (
    RecordFormat(
        "otel",
        "OpenTelemetry GenAI spans in one record, OpenLLMetry's and OpenInference's too",
        recognise,
        read,
    ),
    SessionFormat("otel-lines", "OpenTelemetry GenAI spans, OTLP or one a line", recognise_line, read_lines),
)
