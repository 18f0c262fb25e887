"""Gemini's `contents` of `parts`: conversations, and logs of calls whose history grows."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from sadstream.formats.histories import longest_paths
from sadstream.formats.kinds import RecordFormat, SessionFormat, SessionRecord
from sadstream.formats.matching import match_by_order
from sadstream.formats.outcomes import outcome_fields
from sadstream.formats.pieces import Piece, call, context, first_words, observation, say, thought, unreadable
from sadstream.formats.verbatim import (
    Fields,
    Json,
    fields_of,
    is_object,
    items_of,
    json_object,
    noted,
    rest,
    string_of,
    text_of,
)
from sadstream.frames import Draft

_ROLES = {"user": "user", "model": "agent", "function": "environment", "system": "system"}
_ENDINGS = {"STOP": "finished", "MAX_TOKENS": "truncated"}
# The API writes camel case, the Python SDK dumps snake case.
_CALL = ("functionCall", "function_call")
_RESULT = ("functionResponse", "function_response")
_SIGNATURE = ("thoughtSignature", "thought_signature")
_MEDIA = ("inlineData", "inline_data", "fileData", "file_data")
_CODE = ("executableCode", "executable_code")
_CODE_RESULT = ("codeExecutionResult", "code_execution_result")
_SYSTEM = ("systemInstruction", "system_instruction")
# What is told apart only by these is the same message: a later request gives its calls ids of its own.
_UNSTABLE = {"id", *_SIGNATURE}


class Content(NamedTuple):
    """A message: whose it is, its parts and its other fields as the log wrote them."""

    role: str
    parts: Sequence[msgspec.Raw]
    notes: Fields


def is_contents(value: Any) -> bool:
    """Whether a value is a list of Gemini's messages."""
    return isinstance(value, list) and bool(value) and all(is_content(item) for item in value)


def is_content(value: Any) -> bool:
    """Whether a value is one of Gemini's messages."""
    if not isinstance(value, dict) or not isinstance(value.get("parts"), list) or "content" in value:
        return False
    role = value.get("role") or "user"
    # Pydantic AI's have no role, and parts of their own.
    return (
        isinstance(role, str)
        and role in _ROLES
        and all(isinstance(part, dict) and "part_kind" not in part for part in value["parts"])
    )


def recognise(record: Any) -> bool:
    """A record with `contents`, or a bare list of messages with `parts`."""
    return is_contents(record.get("contents") if isinstance(record, dict) else record)


def recognise_call(record: Any) -> bool:
    """A logged call: `request` has `contents`, beside it is the `response`."""
    return (
        isinstance(record, dict)
        and "response" in record
        and isinstance(record.get("request"), dict)
        and is_contents(record["request"].get("contents"))
    )


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory; a system instruction is its first message, and those of `contents` are numbered from 1 then."""
    if isinstance(record, list):
        yield conversation({}, contents_of(items_of(raw)))
        return
    fields = fields_of(raw)
    outcome = outcome_fields({name: value for name, value in record.items() if name not in ("contents", "tools")})
    mapped = outcome.pop("mapped") | {"contents", "tools", *_SYSTEM}
    draft = conversation(fields, contents_of(items_of(fields["contents"])))
    outcome.setdefault("task", draft.task)
    yield msgspec.structs.replace(draft, extra=json_object(rest(fields, mapped)), **outcome)


def read_calls(records: list[SessionRecord]) -> Iterable[Draft]:
    """The longest path of each conversation, with the reply to its last call."""
    calls = [_logged_call(record.raw) for record in records]
    for index in longest_paths([path for _, path in calls]):
        draft, _ = calls[index]
        draft.record = records[index].key
        yield draft


def _logged_call(raw: bytes) -> tuple[Draft, list[str]]:
    """Trajectory of a call's request and reply, and what it is compared by."""
    fields = fields_of(raw)
    request = fields_of(fields["request"])
    contents = contents_of(items_of(request.get("contents")))
    replies = [fields_of(r) for r in _objects(fields["response"])]
    parts: list[msgspec.Raw] = []
    notes: Fields = {}
    candidates: Fields = {}
    for reply in replies:
        first, *_ = [*_objects(reply.get("candidates")), msgspec.Raw(b"{}")]
        candidates = fields_of(first)
        content = fields_of(candidates["content"]) if is_object(candidates.get("content")) else {}
        parts += items_of(content.get("parts"))
        notes |= rest(content, ("parts", "role"))
    if parts or notes:
        contents = [*contents, Content("model", parts, notes)]
    draft = conversation(request, contents)
    draft.ending = _ENDINGS.get(text_of(candidates.get("finishReason")), "unknown")
    if draft.ending == "finished" and any(_pick(fields_of(p), _CALL)[0] for p in parts):
        draft.ending = "unknown"
    left: dict[str, Json | str] = {
        **rest(fields, ("request", "response")),
        "request": json_object(rest(request, ("contents", "tools", *_SYSTEM))),
        "response": _without_content(replies),
    }
    draft.extra = json_object(left)
    path = [
        _comparable([part for _, part in _system_parts(request)]),
        *(_comparable(c.parts, c.role) for c in contents),
    ]
    return draft, path


def _objects(raw: Json | None) -> list[msgspec.Raw]:
    """An object, or the objects of a list (a streamed reply is a list of chunks)."""
    if raw is not None and is_object(raw):
        return [msgspec.Raw(bytes(raw))]
    return [item for item in items_of(raw) if is_object(item)]


def _without_content(replies: list[Fields]) -> str:
    """A reply's fields but for what the agent said."""
    left = []
    for reply in replies:
        candidates = [fields_of(c) for c in _objects(reply.get("candidates"))]
        kept = [rest(c, ("content",) if n == 0 else ()) for n, c in enumerate(candidates)]
        named = {"candidates": f"[{','.join(map(json_object, kept))}]"} if "candidates" in reply else {}
        left.append(json_object({**rest(reply, ("candidates",)), **named}))
    return left[0] if len(left) == 1 else f"[{','.join(left)}]"


def _comparable(parts: Iterable[msgspec.Raw], role: str = "") -> str:
    return msgspec.json.encode([role, _stable([msgspec.json.decode(p) for p in parts])], order="sorted").decode()


def _stable(value: Any) -> Any:
    if isinstance(value, list):
        return [_stable(v) for v in value]
    if isinstance(value, dict):
        return {name: _stable(v) for name, v in value.items() if name not in _UNSTABLE}
    return value


def contents_of(items: Iterable[msgspec.Raw]) -> list[Content]:
    """Messages as they were written."""
    contents = []
    for item in items:
        fields = fields_of(item)
        contents.append(
            Content(
                string_of(fields.get("role")) or "user", items_of(fields.get("parts")), rest(fields, ("role", "parts"))
            )
        )
    return contents


def conversation(request: Fields, contents: Sequence[Content]) -> Draft:
    """A request's system instruction and tools, and the messages after it."""
    system = _system_parts(request)
    pieces = [
        piece
        for text, raw in system
        for piece in _text_pieces(context, text, fields_of(raw), message=0, author="system")
    ]
    pieces += message_pieces(contents, first=1 if system else 0)
    request_text = first_words(pieces)
    tools = [bytes(tool).decode() for tool in items_of(request.get("tools"))]
    return Draft(pieces=match_by_order(pieces), task=request_text, tools=tools)


def _system_parts(request: Fields) -> list[tuple[str, msgspec.Raw]]:
    """Texts of the system instruction, with the parts they stand in."""
    name, raw = _pick(request, _SYSTEM)
    if not name or raw is None:
        return []
    text = string_of(raw)
    if text is not None:
        return [(text, msgspec.Raw(msgspec.json.encode({"text": text})))]
    parts = [p for value in _objects(raw) for p in items_of(fields_of(value).get("parts"))]
    return [(text_of(fields_of(part).get("text")), part) for part in parts]


def message_pieces(contents: Sequence[Content], *, first: int = 0) -> list[Piece]:
    """Pieces of messages, which are numbered from `first`; each has at least one."""
    pieces: list[Piece] = []
    acted = False
    for number, content in enumerate(contents, first):
        made = content_pieces(content, message=number, acted=acted)
        acted = acted or any(piece["kind"] == "act" for piece in made)
        if not made:
            author = _ROLES.get(content.role, "user")
            made = [unreadable("reason" if author == "agent" else "context", ["{}"], message=number, author=author)]
        made[0] = noted(made[0], content.notes)
        pieces += made
    return pieces


def content_pieces(content: Content, *, message: int, acted: bool) -> list[Piece]:
    """Pieces of one message, a part each; `acted`: the agent has already, so what the user says answers it."""
    parts = [fields_of(part) for part in content.parts]
    has_text = any(text_of(part.get("text")) or _pick(part, _RESULT)[0] for part in parts)
    if content.role == "model":
        calls = any(_pick(part, (*_CALL, *_CODE))[0] for part in parts)
        return [p for part in parts for p in _agent_pieces(part, message=message, calls=calls)]
    return [p for part in parts for p in _other_pieces(part, content.role, message, acted=acted, alone=not has_text)]


def _agent_pieces(part: Fields, *, message: int, calls: bool) -> list[Piece]:
    name, raw = _pick(part, _CALL)
    if name and raw is not None:
        return [_call_piece(part, name, raw, message=message)]
    name, raw = _pick(part, _CODE)
    if name and raw is not None:
        code = fields_of(raw)
        notes = _leftover(part, name, rest(code, ("code",)))
        return [noted(call(name, text_of(code.get("code")), message=message, syntax="code", **_signed(part)), notes)]
    name, raw = _pick(part, _CODE_RESULT)
    if name and raw is not None:
        result = fields_of(raw)
        failed = text_of(result.get("outcome")) not in ("OUTCOME_OK", "")
        notes = _leftover(part, name, rest(result, ("output",)))
        return [
            noted(observation(text_of(result.get("output")), message=message, error=failed, **_signed(part)), notes)
        ]
    text = text_of(part.get("text"))
    if not text:
        return [unreadable("reason", [json_object(part)], message=message, author="agent")]
    if part.get("thought") is not None and bytes(part["thought"]) == b"true":
        return _text_pieces(thought, text, part, message=message, hidden=True)
    return _text_pieces(thought if calls else say, text, part, message=message)


def _call_piece(part: Fields, name: str, raw: msgspec.Raw, *, message: int) -> Piece:
    asked = fields_of(raw)
    piece = call(
        text_of(asked.get("name")),
        text_of(asked.get("args")),
        message=message,
        call_id=string_of(asked.get("id")),
        **_signed(part),
    )
    return noted(piece, _leftover(part, name, rest(asked, ("name", "args", "id"))))


def _other_pieces(part: Fields, role: str, message: int, *, acted: bool, alone: bool) -> list[Piece]:
    author = _ROLES.get(role, "user")
    name, raw = _pick(part, _RESULT)
    if name and raw is not None:
        result = fields_of(raw)
        response = result.get("response")
        media = [bytes(item).decode() for item in items_of(result.get("parts"))]
        piece = observation(
            text_of(response),
            message=message,
            name=text_of(result.get("name")),
            call_id=string_of(result.get("id")),
            error=True if response is not None and is_object(response) and "error" in fields_of(response) else None,
            opaque=media,
        )
        return [noted(piece, _leftover(part, name, rest(result, ("response", "parts", "name", "id"))))]
    text = text_of(part.get("text"))
    replies = acted and not text.lstrip().startswith("<system")
    if "text" in part:
        return _text_pieces(observation if replies else context, text, part, message=message, author=author)
    kind = "observation" if replies else "context"
    name, raw = _pick(part, _MEDIA)
    if not alone or not name or raw is None:
        return [unreadable(kind, [json_object(part)], message=message, author=author)]
    about = fields_of(raw)
    mime = text_of(about.get("mimeType", about.get("mime_type"))) or "unknown"
    family = mime.split("/")[0]
    label = family if family in ("image", "audio", "video") else "file"
    make = observation if replies else context
    return [make(f"[{label}: {mime}]", message=message, author=author, opaque=[json_object(part)])]


def _text_pieces(make: Any, text: str, part: Fields, *, message: int, **about: Any) -> list[Piece]:
    notes = _leftover(part, "", {}) if part else {}
    return [noted(make(text, message=message, **about, **_signed(part)), rest(notes, ("text", "thought")))]


def _signed(part: Fields) -> dict[str, Any]:
    name, raw = _pick(part, _SIGNATURE)
    return {"opaque": [json_object({name: raw})]} if name and raw is not None else {}


def _leftover(part: Fields, name: str, inner: Fields) -> Fields:
    """A part's fields that no piece holds; `inner`: those within its field `name`."""
    left = rest(part, (name, *_SIGNATURE))
    return {**left, name: msgspec.Raw(json_object(inner).encode())} if inner else left


def _pick(fields: Fields, names: Sequence[str]) -> tuple[str, msgspec.Raw | None]:
    """The first of several spellings of a field that is there and not null, and its value."""
    for name in names:
        raw = fields.get(name)
        if raw is not None and bytes(raw) != b"null":
            return name, raw
    return "", None


FORMATS = (
    SessionFormat(
        "gemini-calls",
        "logged calls of Gemini's API: `request` with `contents`, `response`",
        recognise_call,
        read_calls,
    ),
    RecordFormat(
        "gemini", "Gemini's `contents` of `parts`, with `functionCall` and `functionResponse`", recognise, read
    ),
)
