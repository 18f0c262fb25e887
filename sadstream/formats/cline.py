"""Cline, Roo Code and their kin: the agent calls a tool by an XML element, `<read_file><path>a.py</path></read_file>`.

Which elements are calls is told by the log itself: by what the harness says it ran, or by the system prompt's tools.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from sadstream.formats import tags
from sadstream.formats.content import texts_in
from sadstream.formats.kinds import RecordFormat
from sadstream.formats.openai_chat import record_draft, said_by_agent
from sadstream.formats.pieces import AUTHORS, Piece, first_words, thought, unreadable, verbatim
from sadstream.formats.verbatim import (
    Fields,
    Json,
    fields_of,
    items_of,
    json_object,
    noted,
    object_of,
    rest,
    string_of,
    text_of,
)
from sadstream.frames import Draft

_ROLES = ("system", "user", "assistant")
_LISTS = ("messages", "history", "conversation", "apiConversationHistory")
_OPENING = re.compile(r"(?m)^[ \t]*<([a-z][a-z0-9_]*)>")
# What ran: "[read_file for 'a.py'] Result:", "[ask_followup_question] Result:".
_RAN = re.compile(r"\[([a-z][a-z0-9_]*)(?: [^\n]*)?\] Result:")
_HEADING = re.compile(r"(?m)^#+ ([a-z][a-z0-9_]*)[ \t\r]*$")
_TASK = re.compile(r"<task>\s*(.*?)\s*</task>", re.DOTALL)
# Tools that all of the kin have; the last ones end a turn or a run, so nothing need come back.
_TOOLS = frozenset(
    (
        "execute_command",
        "read_file",
        "write_to_file",
        "replace_in_file",
        "apply_diff",
        "search_files",
        "list_files",
        "list_code_definition_names",
        "browser_action",
        "use_mcp_tool",
        "access_mcp_resource",
        "new_task",
        "switch_mode",
        "plan_mode_respond",
        "ask_followup_question",
        "attempt_completion",
    )
)
_THOUGHTS = ("thinking", "think")


def recognise(record: Any) -> bool:
    """Messages of text, of which one of the agent's holds a whole element that is a tool's."""
    names = [n for n in _LISTS if n in record] if isinstance(record, dict) else [""]
    if not any(_has_elements(record[name] if name else record) for name in names):
        return False
    messages = _messages(record)[1]
    if messages is None:
        return False
    said = [text for m in messages if m["role"] == "assistant" for text in texts_in(m["content"]) if "</" in text]
    if any(tags.acts(text) for text in said):
        return False
    tools = _names(record, messages)
    return bool(tools) and any(True for text in said for _ in _calls(text, tools))


def _has_elements(messages: Any) -> bool:
    """Whether the agent closes an element: looked at first, for there are many messages of others."""
    if not isinstance(messages, list):
        return False
    said = (m.get("content") for m in messages if isinstance(m, dict) and m.get("role") == "assistant")
    return any("</" in text for content in said for text in texts_in(content))


def _messages(record: Any) -> tuple[str, list[dict[str, Any]] | None]:
    """Name of the list of messages in a record ("" for a bare list), and the list; None if there is none."""
    for name in [n for n in _LISTS if n in record] if isinstance(record, dict) else [""]:
        messages = record[name] if name else record
        if isinstance(messages, list) and messages and all(_is_message(m) for m in messages):
            return name, messages
    return "", None


def _is_message(value: Any) -> bool:
    if not isinstance(value, dict) or value.get("role") not in _ROLES or value.get("tool_calls"):
        return False
    content = value.get("content")
    if not isinstance(content, list):
        return isinstance(content, str)
    kinds = [block.get("type") if isinstance(block, dict) else None for block in content]
    return all(isinstance(kind, str) and not kind.endswith(("tool_use", "tool_result")) for kind in kinds)


def _names(record: Any, messages: Sequence[dict[str, Any]]) -> frozenset[str]:
    """Names of the tools, of which the log tells that they are."""
    names: set[str] = set()
    prompts = (
        [record.get(name) for name in ("system", "system_prompt", "systemPrompt")] if isinstance(record, dict) else []
    )
    for message in messages:
        texts = texts_in(message["content"])
        if message["role"] == "user":
            names.update(ran[1] for text in texts if text.startswith("[") and (ran := _RAN.match(text)))
        elif message["role"] == "system":
            prompts += texts
    for prompt in prompts:
        if isinstance(prompt, str) and "</" in prompt:
            names.update(n for n in _HEADING.findall(prompt) if f"<{n}>" in prompt and f"</{n}>" in prompt)
    names.difference_update(_THOUGHTS)
    return _TOOLS | names if names or _is_of_harness(messages) else frozenset()


def _is_of_harness(messages: Sequence[dict[str, Any]]) -> bool:
    """Whether the request stands as such a harness writes it: a run of one answer names no tool that ran."""
    texts = [text for m in messages if m["role"] == "user" for text in texts_in(m["content"])]
    return any(text.lstrip().startswith("<environment_details>") for text in texts) or (
        bool(texts) and texts[0].lstrip().startswith("<task>")
    )


def _calls(text: str, names: frozenset[str]) -> Iterator[tuple[str, int, int, int, int]]:
    """Whole elements of tools that stand in no other: name, start, where the body begins and ends, stop.

    >>> list(_calls("I look.\\n<ls>\\n<path>a</path>\\n</ls>\\n", frozenset({"ls"})))
    [('ls', 8, 12, 28, 33)]
    """
    at = 0
    while found := _OPENING.search(text, at):
        at = found.end()
        if found[1] not in names and found[1] not in _THOUGHTS:
            continue
        close = f"</{found[1]}>"
        # What is written into a file may quote the element: its own end stands at a line start.
        end = text.find(f"\n{close}", at - 1) + 1 or text.find(close, at)
        if end < 0:
            continue
        if found[1] in names:
            yield found[1], found.start(), at, end, end + len(close)
        at = end + len(close)


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory; the chat stays verbatim, for the agent writes the elements itself."""
    name, messages = _messages(record)
    assert messages is not None
    names = _names(record, messages)
    fields: Fields = fields_of(raw) if name else {}
    pieces: list[Piece] = []
    begun = False
    for index, item in enumerate(items_of(fields[name] if name else raw)):
        message = fields_of(item)
        author = AUTHORS[text_of(message.get("role"))]
        begun = begun or author == "agent"
        made = list(_pieces(message.get("content"), index=index, author=author, names=names, begun=begun))
        if not made:
            made = [unreadable("reason" if author == "agent" else "context", ["[]"], message=index, author=author)]
        pieces += [noted(made[0], rest(message, ("role", "content"))), *made[1:]]
    draft = Draft(pieces=pieces, dialect=tags.DIALECT, task=_task(pieces))
    yield record_draft(record, raw, draft, mapped={name}) if name else draft


def _task(pieces: Iterable[Piece]) -> str | None:
    asked = first_words(pieces)
    found = _TASK.search(asked) if asked is not None else None
    return found[1] if found else asked


def _pieces(content: Json | None, *, index: int, author: str, names: frozenset[str], begun: bool) -> Iterator[Piece]:
    text = string_of(content)
    blocks = [fields_of(json_object({"text": content}).encode())] if content is not None and text is not None else []
    blocks = blocks or [object_of(raw) for raw in items_of(content)]
    texts = [string_of(block.get("text")) for block in blocks]
    acts = [n for n, said in enumerate(texts) if said is not None and any(True for _ in _calls(said, names))]
    for number, (block, said) in enumerate(zip(blocks, texts, strict=True)):
        if said is None:
            yield _wordless(block, index=index, author=author, begun=begun)
            continue
        if author == "agent":
            made = list(_turn(said, names, index=index, act_follows=any(n > number for n in acts)))
        elif begun and author == "user":
            made = [_reply(said, index=index)]
        else:
            made = [verbatim("context", said, message=index, author=author)]
        left = rest(block, ("type", "text"))
        yield noted(made[0], {"block": json_object(left)}) if left else made[0]
        yield from made[1:]


def _wordless(block: Fields, *, index: int, author: str, begun: bool) -> Piece:
    """A thought beside the text, readable or not; pictures, which render to nothing."""
    if author == "agent":
        said = string_of(block.get("thinking")) or ""
        left = rest(block, ("type", "thinking"))
        return thought(said, message=index, hidden=True, opaque=[json_object(left if said else block)] if left else [])
    kind = "observation" if begun and author == "user" else "context"
    return unreadable(kind, [json_object(block)], message=index, author=author)


def _reply(text: str, *, index: int) -> Piece:
    ran = _RAN.match(text)
    return verbatim("observation", text, message=index, author="user", name=ran[1] if ran else None)


def _turn(text: str, names: frozenset[str], *, index: int, act_follows: bool) -> Iterator[Piece]:
    """The agent's text: each call an act, all else in a turn with a call a thought; without one it is said."""
    if not text.strip():
        yield unreadable("reason", [msgspec.json.encode(text).decode()], message=index, author="agent")
        return
    calls = list(_calls(text, names))
    if not calls:
        yield from said_by_agent(text, index=index, act_follows=act_follows)
        return
    at = 0
    for name, start, begin, end, stop in calls:
        if text[at:start].strip():
            yield verbatim("reason", text[at:start], message=index, author="agent", last=False)
            at = start
        # Blanks around a call are its own where nothing else is to have them.
        stop = len(text) if not text[stop:].strip() else stop
        place = {"arguments_start": begin - at, "arguments_stop": end - at}
        yield verbatim(
            "act",
            text[at:stop],
            message=index,
            author="agent",
            last=stop == len(text),
            name=name,
            syntax="text",
            **place,
        )
        at = stop
    if at < len(text):
        yield verbatim("reason", text[at:], message=index, author="agent")


FORMATS = (
    RecordFormat(
        "cline",
        "chat messages whose agent calls tools by XML elements (Cline, Roo Code)",
        recognise,
        read,
    ),
)
