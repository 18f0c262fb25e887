"""OpenAI chat messages: conversations, bare or in records of any kind."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from sadstream.errors import RecordError
from sadstream.formats import tags
from sadstream.formats.anthropic import user_pieces
from sadstream.formats.content import texts_in
from sadstream.formats.dialects import dialect_of
from sadstream.formats.kinds import RecordFormat
from sadstream.formats.openai_blocks import Block, blocks_of, has_foreign_block, with_calls_lifted
from sadstream.formats.outcomes import outcome_fields, remaining
from sadstream.formats.pieces import (
    AUTHORS,
    Piece,
    call,
    context,
    first_words,
    observation,
    say,
    thought,
    unreadable,
    verbatim,
)
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

LISTS = ("messages", "traj", "trajectory", "conversation", "conversations", "history", "chat_history", "dialogue")
TOOLS = ("tools", "functions", "tool_definitions")
# Where a record has a system prompt beside messages that have none.
_SYSTEMS = ("system", "system_prompt", "systemPrompt")
# A record's `task` is a word for the kind of task more often than the request, which the first user message is.
_NO_OUTCOME = ("task", "question", "instruction", "goal", "name")
# Cohere's models say what they are about to call.
_PLAN = "tool_plan"
_THINKING = ("reasoning_content", "reasoning", "thinking", _PLAN)
_ENCRYPTED = ("reasoning_details", "thinking_blocks", "thought_signature", "reasoning_signature")
# What a message without content may have in its place; and where others write what it says, which is not read here.
_SAID = {"tool_calls", "toolCalls", "toolPlan", "function_call", "refusal", "audio", *_THINKING, *_ENCRYPTED}
_FOREIGN_WORDS = ("text", "parts", "blocks", "toolInvocations")
# The same names as TypeScript's clients write them: AG-UI, Mistral, Cohere.
_CAMEL = {"toolCalls": "tool_calls", "toolCallId": "tool_call_id", "toolPlan": _PLAN}
_USUAL_ROLES = {"system": "system", "user": "user", "agent": "assistant", "environment": "tool"}


def recognise(record: Any) -> bool:
    """A list of messages with known roles, an agent's among them; bare, or under a usual name.

    A request without reply is such a chat, in which nobody acts.
    """
    name, messages = _messages(record)
    if messages is None:
        return _is_request(record)
    return not _is_foreign(record, name, messages)


def _is_request(record: Any) -> bool:
    if not isinstance(record, dict) or not is_chat(record.get("messages")):
        return False
    return not any(isinstance(v, str) and dialect_of(v) for v in record.values())


def recognise_tagged(record: Any) -> bool:
    """Such messages without `tool_calls`, of which an agent's turn acts by tags."""
    _, messages = _messages(record)
    return (
        messages is not None
        and not is_logged_call(record)
        and not any(m.get("tool_calls") or m.get("toolCalls") for m in messages)
        and any(_is_agent(m) and any(tags.acts(text) for text in texts_in(m.get("content"))) for m in messages)
    )


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory; the record's other fields go to outcome, tools and `extra`."""
    name, messages = _messages(record)
    if messages is None:
        name = "messages"
    if not name:
        yield conversation(items_of(raw))
        return
    yield record_draft(record, raw, conversation(items_of(fields_of(raw)[name])), mapped={name})


def record_draft(record: dict[str, Any], raw: Json, draft: Draft, *, mapped: set[str]) -> Draft:
    """A conversation with what its record says beside it: prompt, outcome, tools, id, and in `extra` all others."""
    fields = fields_of(raw)
    prompt, beside = prompt_beside(fields, draft.pieces or ())
    mapped = mapped | beside
    draft = msgspec.structs.replace(draft, pieces=[*prompt, *(draft.pieces or ())])
    outcome = outcome_fields({k: v for k, v in record.items() if k not in mapped and k not in _NO_OUTCOME})
    mapped = mapped | outcome.pop("mapped")
    tools: list[str] = []
    for name in TOOLS:
        listed = tool_list(fields.get(name)) if name not in mapped else None
        if listed is not None and not tools:
            tools = listed
            mapped.add(name)
    native = record.get("id")
    if isinstance(native, str) and native:
        outcome["id"] = native
        mapped.add("id")
    return msgspec.structs.replace(draft, tools=tools, extra=remaining(fields, mapped), **outcome)


def prompt_beside(fields: Fields, pieces: Sequence[Piece]) -> tuple[list[Piece], set[str]]:
    """The system prompt that a record has beside messages that have none, and the name of its field."""
    if any(piece["author"] == "system" for piece in pieces[:1]):
        return [], set()
    for name in _SYSTEMS:
        text = string_of(fields.get(name))
        if text:
            extra = json_object({"field": f'"{name}"'})
            return [context(text, message=0, author="system", extra=extra)], {name}
    return [], set()


def tool_list(raw: Json | None) -> list[str] | None:
    """Tool definitions as they were written: a list, or one as JSON text; None for anything else."""
    text = string_of(raw)
    if text is not None:
        raw = text.encode()
    try:
        return [bytes(tool).decode() for tool in msgspec.json.decode(raw or b"", type=list[msgspec.Raw])]
    except msgspec.DecodeError:
        return None


def _messages(record: Any) -> tuple[str, list[dict[str, Any]] | None]:
    """Name of the list of messages in a record ("" for a bare list), and the list; None if there is none."""
    names = [n for n in LISTS if n in record] if isinstance(record, dict) else [""]
    for name in names:
        messages = record[name] if name else record
        if is_chat(messages) and any(_is_agent(m) or m["role"] in ("tool", "function") for m in messages):
            return name, messages
    return "", None


def is_chat(messages: Any) -> bool:
    """A list of messages, each with a role that is known and content that can be one."""
    return isinstance(messages, list) and bool(messages) and all(is_message(m) for m in messages)


def is_message(message: Any) -> bool:
    """Whether a value is a message with a role that is known and content that can be one."""
    return (
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and message["role"] in AUTHORS
        and isinstance(message.get("content"), str | list | None)
        and ("content" in message or not _SAID.isdisjoint(message))
        and (bool(message.get("content")) or not any(message.get(name) for name in _FOREIGN_WORDS))
    )


def _is_agent(message: dict[str, Any]) -> bool:
    return AUTHORS[message["role"]] == "agent"


def _is_foreign(record: Any, name: str, messages: list[dict[str, Any]]) -> bool:
    """Whether other readers know more of such messages: typed blocks of other makers, text with labels."""
    if any(has_foreign_block(m) for m in messages):
        return True
    if _is_newest_first(messages):
        return True
    if isinstance(record, dict) and ("trajectory_format" in record or "schema_version" in record):
        return True
    if any(m.get("tool_calls") or m.get("toolCalls") or m.get("function_call") for m in messages):
        return False
    return any(
        _is_agent(m) and isinstance(m.get("content"), str) and dialect_of(m["content"]) in ("react", "react-numbered")
        for m in messages
    )


def _is_newest_first(messages: list[dict[str, Any]]) -> bool:
    """Whether messages are listed as OpenAI's API of threads gives them, the last one first."""
    times = [m.get("created_at") for m in (messages[0], messages[-1]) if m.get("object") == "thread.message"]
    first, last = times if len(times) == 2 else (0, 0)
    return isinstance(first, int) and isinstance(last, int) and first > last


def conversation(messages: Sequence[Json], *, n_prompt: int = 0) -> Draft:
    """A draft of a list of messages.

    Args:
        n_prompt: how many of the first are prompt, the agent's turns there (examples) included.
    """
    fields = [fields_of(message) for message in messages]
    tagged = _is_tagged(fields)
    pieces: list[Piece] = []
    acted = False
    for index, message in enumerate(fields):
        new = message_pieces(message, index=index, acted=acted, tagged=tagged)
        if index < n_prompt:
            new = [{**piece, "kind": "context"} for piece in new]
        acted = acted or any(piece["kind"] == "act" for piece in new)
        pieces += new
    return Draft(pieces=pieces, dialect=tags.DIALECT, task=first_words(pieces))


def _is_tagged(messages: list[Fields]) -> bool:
    """Whether the agent acts by tags: then the chat stays verbatim, and what comes back needs no label."""
    said = (m.get("content") for m in messages if AUTHORS.get(text_of(m.get("role"))) == "agent")
    return any(tags.acts(text) for raw in said for text in texts_in(msgspec.json.decode(raw or b"null")))


def message_pieces(fields: Fields, *, index: int, acted: bool, tagged: bool = False) -> list[Piece]:
    """Pieces of a message; what has no place in them stands in the first one's `extra`.

    Args:
        fields: of the message, by name.
        index: of the message in its log.
        acted: whether the agent acted before: then what a user says is an answer.
        tagged: whether the agent acts by tags in its text.
    Raises:
        RecordError: a role that nobody has.
    """
    role = string_of(fields.get("role"))
    author = AUTHORS.get(role or "")
    if author is None:
        raise RecordError(f"message {index} has no role that is known", hint=f"one of: {', '.join(AUTHORS)}")
    fields = _snaked(fields)
    fields = with_calls_lifted(fields) if author == "agent" else fields
    blocks = blocks_of(fields.get("content"))
    if role == "tool_call":
        blocks = [block._replace(kind="call") if block.kind == "text" else block for block in blocks]
    mapped = {"role", "content"}
    if author == "agent":
        pieces, more = _agent(fields, blocks, index=index, tagged=tagged)
        mapped |= more
    elif author == "environment":
        mapped |= {"tool_call_id", "name"}
        pieces = _result(fields, blocks, index=index, tagged=tagged)
    else:
        pieces = [p for b in blocks for p in _said(b, index=index, author=author, acted=acted, tagged=tagged)]
    notes: dict[str, Json | str] = {**rest(fields, mapped)}
    if role != _USUAL_ROLES[author]:
        notes["role"] = msgspec.json.encode(role)
    if not pieces:
        kind = "reason" if author == "agent" else "context"
        content = bytes(fields.get("content", b"null")).decode()
        pieces = [unreadable(kind, [content], message=index, author=author)]
    return [noted(pieces[0], notes), *pieces[1:]]


def _snaked(fields: Fields) -> Fields:
    """A message with calls under the names of OpenAI's API, and not those of clients in TypeScript."""
    if _CAMEL.keys().isdisjoint(fields):
        return fields
    return {_CAMEL[n] if n in _CAMEL and _CAMEL[n] not in fields else n: raw for n, raw in fields.items()}


def _labelled(piece: Piece, block: Block) -> Piece:
    """A piece with the placeholder of its media, which the log does not hold."""
    return {**piece, "prefix": piece.get("prefix", "") + block.label} if block.label else piece


def _said(block: Block, *, index: int, author: str, acted: bool, tagged: bool) -> list[Piece]:
    answers = acted and author == "user"
    if tagged and answers and not block.label:
        return tags.reply_pieces(block.text, message=index, author=author, **block.about)
    pieces = user_pieces(block.text, message=index, author=author, answers=answers, **block.about)
    if not pieces:
        make = observation if answers else context
        pieces = [make("", message=index, author=author, **block.about)]
    return [_labelled(pieces[0], block), *pieces[1:]]


def _result(fields: Fields, blocks: list[Block], *, index: int, tagged: bool) -> list[Piece]:
    about: dict[str, Any] = {"call_id": id_of(fields.get("tool_call_id")), "name": string_of(fields.get("name"))}
    if tagged and blocks and not any(b.label for b in blocks):
        return [
            piece
            for b in blocks
            for piece in tags.reply_pieces(b.text, message=index, author="environment", **{**about, **b.about})
        ]
    return [
        _labelled(observation(b.text, message=index, **{**about, **b.about}), b) for b in blocks or [Block("text", "")]
    ]


def id_of(raw: Json | None) -> str | None:
    """An id: a string, or a number as it was written."""
    return text_of(raw) or None


def _agent(fields: Fields, blocks: list[Block], *, index: int, tagged: bool) -> tuple[list[Piece], set[str]]:
    """Pieces of the agent's turn, and the names of the fields that are in them."""
    mapped: set[str] = set()
    pieces: list[Piece] = []
    for name in _THINKING:
        text = string_of(fields.get(name))
        if text and text not in (p["text"] for p in pieces):
            where: dict[str, Any] = {} if name == _THINKING[0] else {"extra": json_object({"field": f'"{name}"'})}
            pieces.append(thought(text, message=index, hidden=name != _PLAN, **where))
            mapped.add(name)
    encrypted = {name: fields[name] for name in _ENCRYPTED if name in fields and bytes(fields[name]) != b"null"}
    if encrypted:
        mapped |= encrypted.keys()
        opaque = [json_object(encrypted)]
        if pieces:
            pieces[0]["opaque"] = opaque
        else:
            pieces.append(unreadable("reason", opaque, message=index, author="agent", hidden=True))
    calls, named = _calls(fields, index=index)
    mapped |= named
    last_act = next((i for i in reversed(range(len(blocks))) if blocks[i].kind == "call"), -1)
    for position, block in enumerate(blocks):
        follows = bool(calls) or position < last_act
        thinks = any(piece["text"] for piece in pieces if piece["kind"] == "reason")
        pieces += _agent_block(block, index=index, act_follows=follows, tagged=tagged, prompt_opens=not thinks)
    refusal = string_of(fields.get("refusal"))
    if refusal and not blocks:
        pieces.append(say(refusal, message=index, extra=json_object({"field": '"refusal"'})))
        mapped.add("refusal")
    return pieces + calls, mapped


def _agent_block(block: Block, *, index: int, act_follows: bool, tagged: bool, prompt_opens: bool) -> list[Piece]:
    if block.kind == "thought":
        return [thought(block.text, message=index, hidden=True, **block.about)] if block.text or block.opaque else []
    if block.kind == "call":
        return call_texts(block.text, message=index, **block.about)
    if not block.text.strip():
        if block.label:
            return [_labelled(say("", message=index, **block.about), block)]
        opaque = [*([msgspec.json.encode(block.text).decode()] if block.text else []), *block.opaque]
        return [unreadable("reason", opaque, message=index, author="agent")] if opaque else []
    how = {"act_follows": act_follows, "tagged": tagged, "prompt_opens": prompt_opens}
    return said_by_agent(block.text, index=index, **how, **block.about)


def said_by_agent(
    text: str,
    *,
    index: int,
    act_follows: bool = False,
    tagged: bool = False,
    prompt_opens: bool = True,
    **about: Any,
) -> list[Piece]:
    """The agent's text: verbatim where it is cut by tags, else a message, or a thought where an act follows.

    Args:
        prompt_opens: whether `</think>` alone closes a thought; not where the message has its thought elsewhere.
        about: further fields of the first piece.
    """
    if tagged:
        pieces = tags.agent_pieces(text, message=index, act_follows=act_follows)
    else:
        parts = tags.cut(text, act_follows=act_follows, only=tags.THOUGHTS, prompt_opens=prompt_opens)
        pieces = [
            verbatim(p.kind, p.text, message=index, author="agent", **p.about)
            if p.tag
            else (thought if p.kind == "reason" else say)(p.text, message=index)
            for p in parts
        ]
    return [{**pieces[0], **about}, *pieces[1:]]


def _calls(fields: Fields, *, index: int) -> tuple[list[Piece], set[str]]:
    pieces: list[Piece] = []
    mapped: set[str] = set()
    raw = fields.get("tool_calls")
    if raw is not None and bytes(raw) != b"null":
        pieces = [_call(fields_of(c), index=index) for c in msgspec.json.decode(raw, type=list[msgspec.Raw])]
        mapped.add("tool_calls")
    legacy = fields.get("function_call")
    if is_object(legacy) and string_of(fields_of(legacy).get("name")):
        pieces.append(_call({"function": msgspec.Raw(bytes(legacy or b""))}, index=index, legacy=True))
        mapped.add("function_call")
    return pieces, mapped


def _call(fields: Fields, *, index: int, legacy: bool = False) -> Piece:
    """A tool call; Inspect's and others' have name and arguments beside the id, OpenAI's under `function`."""
    function = fields.get("function")
    nested = is_object(function)
    inner = fields_of(function) if nested else fields
    name = text_of(inner.get("name")) if nested or "name" in fields else text_of(function)
    arguments = text_of(inner.get("arguments"))
    left = rest(fields, ("id", "function", *(() if nested else ("name", "arguments"))))
    if string_of(left.get("type")) == "function":
        del left["type"]
    inner_left = rest(inner, ("name", "arguments")) if nested else {}
    notes = {**left, **({"function": msgspec.Raw(json_object(inner_left).encode())} if inner_left else {})}
    if legacy:
        notes["legacy"] = msgspec.Raw(b"true")
    piece = call(name, arguments, message=index, syntax=syntax_of(arguments), call_id=id_of(fields.get("id")))
    return noted(piece, {"tool_call": json_object(notes)}) if notes else piece


def syntax_of(arguments: str) -> str:
    """What arguments are written in: json, or text where it is none.

    >>> syntax_of('{"a": 1}'), syntax_of(""), syntax_of("{'a': 1}")
    ('json', 'json', 'text')
    """
    try:
        msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return "text"
    return "json"


def call_texts(text: str, *, message: int, **about: Any) -> list[Piece]:
    """Calls in a text of JSON, `{"name": ..., "arguments": ...}` or a list of such; the arguments as they stand.

    The text itself is kept in `extra` where it is not what these two, written plainly, give.
    """
    try:
        raws = items_of(text.encode()) or [msgspec.Raw(text.encode())]
        calls = [fields_of(raw) for raw in raws]
    except (msgspec.DecodeError, RecursionError):
        name = tags.call_about(text).get("name", "")
        return [call(name, text, message=message, syntax="text", **about)]
    pieces = []
    for raw, fields in zip(raws, calls, strict=True):
        name, key = text_of(fields.get("name")), "parameters" if "parameters" in fields else "arguments"
        arguments = text_of(fields.get(key))
        piece = call(name, arguments, message=message, syntax=syntax_of(arguments), **about)
        plain = f'{{"name": {msgspec.json.encode(name).decode()}, "arguments": {arguments}}}'
        if plain != (text if len(raws) == 1 else bytes(raw).decode()):
            piece = noted(piece, {"call": bytes(raw).decode()})
        pieces.append(piece)
    return pieces


def is_logged_call(record: Any) -> bool:
    """`{request: {messages}, response}`, or messages with the `response` beside them."""
    if not isinstance(record, dict):
        return False
    request = record.get("request", record)
    return isinstance(request, dict) and is_chat(request.get("messages")) and _is_response(record.get("response"))


def _is_response(response: Any) -> bool:
    if isinstance(response, str):
        return response.lstrip().startswith("data:") and '"chat.completion.chunk"' in response[:2000]
    if isinstance(response, list):
        return bool(response) and all(
            isinstance(c, dict) and c.get("object") == "chat.completion.chunk" for c in response
        )
    choices = response.get("choices") if isinstance(response, dict) else None
    return isinstance(choices, list) and bool(choices) and isinstance(choices[0], dict) and "message" in choices[0]


def recognise_completion(record: Any) -> bool:
    """`prompt` and `completion` as messages; of the two the prompt may be a string."""
    if not isinstance(record, dict) or not is_chat(record.get("completion")):
        return False
    prompt = record.get("prompt")
    return isinstance(prompt, str) or prompt == [] or is_chat(prompt)


def read_completion(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory: all of the prompt is context, the agent's turns in it (examples) included."""
    fields = fields_of(raw)
    prompt: list[Json] = list(items_of(fields["prompt"]))
    if isinstance(record["prompt"], str):
        prompt = [json_object({"role": '"user"', "content": fields["prompt"]}).encode()]
    draft = conversation([*prompt, *items_of(fields["completion"])], n_prompt=len(prompt))
    yield record_draft(record, raw, draft, mapped={"prompt", "completion"})


# Stands before react-chat: a tagged turn may quote `Action:` at a line start.
TAGGED_FORMATS = (
    RecordFormat(
        "tagged-chat",
        "chat messages whose agent acts by `<tool_call>`, `<search>`, `<function=...>` (Hermes, WebDancer, OpenHands)",
        recognise_tagged,
        read,
    ),
)
FORMATS = (
    RecordFormat(
        "verifiers", "`prompt` and `completion` messages (verifiers, prime-rl)", recognise_completion, read_completion
    ),
    RecordFormat("openai-chat", "OpenAI chat messages, `tool_calls` or plain (tau-bench, OpenHands)", recognise, read),
)
