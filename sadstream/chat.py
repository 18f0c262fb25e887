"""Trajectories through a tokenizer's own chat template, with every character of the agent's traced to its span.

A model writes an agent's message after the prompt that the template makes of the messages before it. So each message
of the agent is rendered as the last one, after exactly that prompt, and messages share a rendering only where the later
one begins with the earlier. A template that rewrites what stands before (Qwen3 drops thinking of earlier turns) then
gives several renderings, each with loss on its own messages, and no token is learnt after a prompt that inference never
shows.

Where spans stand is found by structure: each part is rendered between two private-use characters, which are then taken
out, and the rest must be what the template gives without them. What the template puts between two parts (`</think>`,
`<tool_call>`) is split where the template itself stops when the message ends there.
"""

import re
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from sadstream.errors import RenderError
from sadstream.messages import Field, Message, Part, in_order, to_messages, tool_definitions
from sadstream_schemas import Kind, Trajectory

Thinking = Literal["field", "inline", "opened"]
# Marks are characters of the two private-use planes that the run itself does not hold: two a part.
_PRIVATE_USE = (*range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))
_OPENER = re.compile(r"<think>\s*$")
# Templates may print the day: the same log must give the same tokens tomorrow.
_SAME_DAY = (
    "{%- macro strftime_now(format) -%}"
    "{%- if format == '%Y-%m-%d' -%}2024-07-26{%- else -%}26 Jul 2024{%- endif -%}"
    "{%- endmacro %}"
)


class Cut(NamedTuple):
    """A piece of a rendered text: half-open, in code points. `step` as in `sadstream.Span`."""

    kind: Kind
    start: int
    stop: int
    step: int | None


class Rendering(NamedTuple):
    """A prompt and what the agent says after it.

    Attributes:
        text: as the template gives it, special tokens as text.
        cuts: in order, covering `text`; only `reason` and `act` are learnt, and an agent's message that another
            rendering of the trajectory teaches is `context` here.
    """

    text: str
    cuts: tuple[Cut, ...]


class Template(NamedTuple):
    """A tokenizer's chat template and what it can do, as tried on a small chat.

    Attributes:
        name: to say in errors.
        render: messages, tools, whether a turn of the agent is to be begun -> text.
        specials: contents of the tokenizer's special tokens.
        thinking: `field`: it writes `reasoning_content`; `inline`: thinking stands as `<think>` in the words;
            `opened`: the prompt ends in `<think>`, and what is before `</think>` in a message is dropped.
        calls: whether it writes `tool_calls` and takes a tool's messages.
    """

    name: str
    render: Callable[[Sequence[dict[str, Any]], Sequence[dict[str, Any]], bool], str]
    specials: tuple[str, ...]
    thinking: Thinking
    calls: bool


def read_template(tokenizer: Any, name: str) -> Template:
    """The chat template of a tokenizer (of transformers), tried out.

    Raises:
        RenderError: it has none, or one that does not write what an agent says.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise RenderError(f"{name}: its tokenizer has no chat template", hint="--render text needs none")

    def render(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], begin: bool) -> str:
        given = list(tools) or None
        program = tokenizer.get_chat_template(tools=given)
        if "strftime_now" in program:
            program = _SAME_DAY + program
        text = tokenizer.apply_chat_template(
            list(messages), tools=given, chat_template=program, add_generation_prompt=begin, tokenize=False
        )
        return str(text)

    specials = {str(token) for token in tokenizer.all_special_tokens}
    specials |= {str(added) for added in tokenizer.added_tokens_decoder.values() if added.special}
    template = Template(name, render, tuple(sorted(specials)), "field", True)
    ask = {"role": "user", "content": "a question"}
    if "an answer" not in _tried(template, [ask, {"role": "assistant", "content": "an answer"}]):
        raise RenderError(f"{name}: its chat template does not write what the agent says", hint="--render text")
    return template._replace(thinking=_thinking(template, ask), calls=_has_calls(template, ask))


def _tried(template: Template, messages: list[dict[str, Any]], *, begin: bool = False) -> str:
    try:
        return template.render(messages, (), begin)
    except Exception:  # a template is a program: it raises what it likes
        return ""


def _thinking(template: Template, ask: dict[str, Any]) -> Thinking:
    answer = {"role": "assistant", "content": "an answer"}
    if "a thought" in _tried(template, [ask, {**answer, "reasoning_content": "a thought"}]):
        return "field"
    inline = {**answer, "content": "<think>\na thought\n</think>\n\nan answer"}
    opens = _OPENER.search(_tried(template, [ask], begin=True))
    return "opened" if opens and "a thought" not in _tried(template, [ask, inline]) else "inline"


def _has_calls(template: Template, ask: dict[str, Any]) -> bool:
    call = {"type": "function", "id": "call00001", "function": {"name": "a_tool", "arguments": {"key": "a value"}}}
    reply = {"role": "tool", "content": "a reply", "tool_call_id": "call00001", "name": "a_tool"}
    text = _tried(template, [ask, {"role": "assistant", "content": "", "tool_calls": [call]}, reply])
    return all(said in text for said in ("a_tool", "a value", "a reply"))


def render_chat(trajectory: Trajectory, template: Template) -> list[Rendering]:
    """A trajectory in the words of a chat template.

    A template without tool calls gets them as `<tool_call>` text in the agent's message, results as `<tool_response>`
    in a user's, and the tools in the system message; one that wants turns to alternate gets neighbours joined.

    Returns:
        One or more; together they teach every part of the agent's exactly once. None where the agent says nothing.
    Raises:
        RenderError: names the template and the part that it drops or refuses.
    """
    messages = to_messages(trajectory)
    first = next((number for number, message in enumerate(messages) if message.role != "system"), None)
    if first is not None and messages[first].role == "assistant":
        # Nothing was asked: templates want a turn before the agent's.
        messages.insert(first, Message("user", (_context(""),)))
    failure: RenderError | None = None
    for native in (True, False) if template.calls else (False,):
        for alternate in (False, True):
            shaped = messages if native else _calls_as_text(messages, trajectory)
            if alternate:
                shaped = _alternating(shaped)
            tools = tool_definitions(trajectory.tools) if native else []
            try:
                return list(_renderings(_spoken(shaped, template.thinking), tools, template))
            except RenderError as error:
                failure = failure or error
    assert failure is not None
    raise failure


def _calls_as_text(messages: Sequence[Message], trajectory: Trajectory) -> list[Message]:
    """Calls as `<tool_call>` in the agent's words, results as `<tool_response>` of the user, tools in the prompt."""
    shaped = []
    for message in messages:
        if message.role == "tool":
            parts = [_wrapped(part, "<tool_response>\n", "\n</tool_response>") for part in message.parts]
            shaped.append(Message("user", tuple(parts)))
        else:
            shaped.append(message._replace(parts=tuple(_written(message.parts))))
    tools = tool_definitions(trajectory.tools)
    if tools:
        shaped = _with_tools(shaped, tools)
    return shaped


def _written(parts: Sequence[Part]) -> Iterator[Part]:
    for number, part in enumerate(parts):
        following = parts[number + 1].field if number + 1 < len(parts) else None
        if part.field == "call":
            name = msgspec.json.encode(part.name).decode()
            before = f'<tool_call>\n{{"name": {name}, "arguments": '
            part = _wrapped(part._replace(field="content"), before, "}\n</tool_call>")
        if following == "call" and part.field == "content" and not part.text.endswith("\n"):
            part = part._replace(text=part.text + "\n")
        yield part


def _wrapped(part: Part, before: str, after: str) -> Part:
    return part._replace(
        text=before + part.text + after,
        core_start=part.core_start + len(before),
        core_stop=part.core_stop + len(before),
    )


def _with_tools(messages: list[Message], tools: Sequence[dict[str, Any]]) -> list[Message]:
    listed = "\n".join(msgspec.json.encode(tool).decode() for tool in tools)
    text = (
        f"You can call these tools:\n<tools>\n{listed}\n</tools>\n\nTo call one, write\n<tool_call>\n"
        '{"name": <its name>, "arguments": <a JSON object>}\n</tool_call>'
    )
    if messages and messages[0].role == "system":
        first, rest = messages[0], messages[1:]
        glue = first.parts[-1]._replace(text=first.parts[-1].text.rstrip("\n") + "\n\n")
        return [first._replace(parts=(*first.parts[:-1], glue, _context(text))), *rest]
    return [Message("system", (_context(text),)), *messages]


def _context(text: str) -> Part:
    return Part("content", text, 0, len(text), None, None, "context", None)


def _alternating(messages: Sequence[Message]) -> list[Message]:
    """User and agent by turns: a later system message is the user's, and neighbours of one role are one message."""
    joined: list[Message] = []
    for number, message in enumerate(messages):
        role = "user" if message.role == "system" and number else message.role
        before = joined[-1] if joined else None
        if before is not None and before.role == role and role in ("user", "assistant"):
            last = before.parts[-1]
            last = last._replace(text=last.text if last.text.endswith("\n") else f"{last.text}\n")
            parts = (*before.parts[:-1], last, *message.parts)
            joined[-1] = before._replace(parts=in_order(parts))
        else:
            joined.append(message._replace(role=role))
    return joined


def _spoken(messages: Sequence[Message], thinking: Thinking) -> list[Message]:
    """Messages with thinking where the template takes it: in its field, or as words between `<think>` tags."""
    return [
        message._replace(parts=_tagged(message.parts) if thinking == "inline" else _untagged(message.parts))
        for message in messages
    ]


def _tagged(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    n_thoughts = sum(part.field == "reasoning" for part in parts)
    shaped = []
    for number, part in enumerate(parts):
        if part.field == "reasoning":
            before = "<think>\n" if number == 0 else ""
            after = "\n</think>\n\n" if number + 1 == n_thoughts else ""
            part = _wrapped(part._replace(field="content"), before, after)
        shaped.append(part)
    return tuple(shaped)


def _untagged(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """A thought that the log holds between `<think>` tags at a message's beginning, moved to the field for it."""
    first = parts[0] if parts else None
    if first is None or first.field != "content" or first.kind != "reason":
        return parts
    label, closing = first.text[: first.core_start], first.text[first.core_stop :]
    if "<think>" not in label and "</think>" not in closing:
        return parts
    core = first.text[first.core_start : first.core_stop]
    return (first._replace(field="reasoning", text=core, core_start=0, core_stop=len(core)), *parts[1:])


class _Group(NamedTuple):
    """Parts of a message that stand in one field of it: the thinking, the words, or one call."""

    field: Field
    parts: tuple[Part, ...]


def _groups(message: Message) -> list[_Group]:
    groups: list[_Group] = []
    for part in message.parts:
        if groups and part.field == groups[-1].field != "call":
            groups[-1] = _Group(part.field, (*groups[-1].parts, part))
        else:
            groups.append(_Group(part.field, (part,)))
    return groups


class _Marker:
    """Puts each part's core between two marks, in the order in which it is asked."""

    def __init__(self, said: Container[str]) -> None:
        self._free = (char for char in map(chr, _PRIVATE_USE) if char not in said)
        self.marks: list[str] = []

    def __call__(self, part: Part) -> str:
        if part.core_start == part.core_stop:
            return part.text
        opens, closes = next(self._free), next(self._free)
        self.marks += [opens, closes]
        core = part.text[part.core_start : part.core_stop]
        return part.text[: part.core_start] + opens + core + closes + part.text[part.core_stop :]


def _plain(part: Part) -> str:
    return part.text


def _as_dict(message: Message, said: Callable[[Part], str], *, n_groups: int | None = None) -> dict[str, Any]:
    """A message as templates take it, of its first groups of parts only if `n_groups` says so."""
    shown: dict[str, Any] = {"role": message.role, "content": ""}
    calls = []
    for group in _groups(message)[:n_groups]:
        if group.field == "call":
            part = group.parts[0]
            calls.append(
                {
                    "id": part.call_id or "",
                    "type": "function",
                    "function": {"name": _called(part, said), "arguments": _arguments(part.text)},
                }
            )
        else:
            key = "content" if group.field == "content" else "reasoning_content"
            shown[key] = "".join(said(part) for part in group.parts)
    if calls:
        shown["tool_calls"] = calls
    if message.role == "tool":
        shown |= {"tool_call_id": message.call_id or "", "name": message.name or ""}
    return shown


def _called(part: Part, said: Callable[[Part], str]) -> str:
    name = part.name or ""
    return said(part._replace(text=name, core_start=0, core_stop=len(name)))


def _arguments(text: str) -> Any:
    """A call's arguments as templates pipe them through JSON: the object, or the text where they are none."""
    try:
        parsed = msgspec.json.decode(text) if text.strip() else {}
    except msgspec.DecodeError:
        return text
    return parsed if isinstance(parsed, dict) else text


class _Taught(NamedTuple):
    """A message of the agent, rendered as the last of a chat.

    Attributes:
        prompt: what stands before it. text: prompt and message. cuts: of the message, through its end of turn.
    """

    prompt: str
    text: str
    cuts: list[Cut]


def _renderings(
    messages: Sequence[Message], tools: Sequence[dict[str, Any]], template: Template
) -> Iterator[Rendering]:
    said = {char for message in messages for part in message.parts for char in part.text}
    history: list[dict[str, Any]] = []
    openings: dict[tuple[Field, Field], str] = {}
    cuts: list[Cut] = []
    text, reply = "", Cut("context", 0, 0, None)
    for message in messages:
        if message.role == "assistant" and any(part.kind in ("reason", "act") for part in message.parts):
            taught = _teach(message, history, tools, template, openings, said)
            if cuts and not taught.prompt.startswith(text):
                yield Rendering(text, tuple(cuts))
                cuts, text, reply = [], "", Cut("context", 0, 0, None)
            if len(taught.prompt) > len(text):
                cuts.append(reply._replace(start=len(text), stop=len(taught.prompt)))
            cuts += taught.cuts
            text = taught.text[: cuts[-1].stop]
            reply = Cut("context", 0, 0, None)
        for part in message.parts:
            if part.kind == "observation" and reply.kind == "context":
                reply = Cut("observation", 0, 0, part.step)
        history.append(_as_dict(message, _plain))
    if cuts:
        yield Rendering(text, tuple(cuts))


def _teach(
    message: Message,
    history: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]],
    template: Template,
    openings: dict[tuple[Field, Field], str],
    said: Container[str],
) -> _Taught:
    """Render a message of the agent after its prompt, and find its parts.

    Args:
        openings: what the template was found to write before a field that follows another.
        said: all characters of the chat.
    """

    def render(last: dict[str, Any] | None, *, begin: bool = True) -> str:
        try:
            return template.render([*history, last] if last else history, tools, begin and last is None)
        except RenderError:
            raise
        except Exception as error:  # a template is a program: it raises what it likes
            raise RenderError(
                f"{template.name}: its chat template refuses {_where(message)}: {str(error).splitlines()[0][:120]}",
                hint="--render text needs none",
            ) from error

    groups = _groups(message)
    thoughts: _Group | None = None
    if template.thinking == "opened":
        thoughts = groups[0] if groups and groups[0].field == "reasoning" else None
        groups = groups[1:] if thoughts else groups
        message = message._replace(parts=tuple(part for group in groups for part in group.parts))
    prompt, whole = render(None), render(_as_dict(message, _plain))
    marker = _Marker(said)
    text, marks = _take_marks(render(_as_dict(message, marker)), marker.marks)
    if text != whole:
        raise RenderError(
            f"{template.name}: its chat template writes {_where(message)} otherwise when its words change",
            hint="--render text needs none",
        )
    first = min(marks.values(), default=len(whole))
    begin = _begin_of_message(prompt, lambda: render(None, begin=False), whole, first, template)
    if begin is None:
        raise RenderError(
            f"{template.name}: its chat template begins {_where(message)} otherwise than its prompt for one",
            hint="--render text needs none",
        )
    stop = _end_of_turn(whole, max([begin, *marks.values()]), template)
    cuts: list[Cut] = []
    at, n_marks = begin, 0
    for number, group in enumerate(groups):
        places: list[tuple[int, int] | None] = []
        for part in group.parts:
            if part.core_start == part.core_stop and part.field != "call":
                places.append(None)
                continue
            if n_marks not in marks or n_marks + 1 not in marks:
                raise RenderError(
                    f"{template.name}: its chat template drops the agent's {_FIELD_NAMES[group.field]} in "
                    f"{_where(message)}",
                    hint="--render text keeps it",
                )
            places.append((marks[n_marks], marks[n_marks + 1]))
            n_marks += 2
        end = stop
        if number + 1 < len(groups):
            known = max([at, *(place[1] for place in places if place)])
            following = (group.field, groups[number + 1].field)
            next_mark = marks.get(n_marks, stop)
            opening = openings.get(following)
            if opening is not None and next_mark - len(opening) >= known and whole[:next_mark].endswith(opening):
                end = next_mark - len(opening)
            else:
                cut_short = render(_as_dict(message, _plain, n_groups=number + 1))
                end = _where_it_stops(whole, cut_short, known, next_mark, template)
                openings[following] = whole[end:next_mark]
        cuts += _cut_group(group, places, at, end)
        at = end
    if template.thinking == "opened":
        return _with_opened_thinking(prompt, whole, begin, cuts, thoughts)
    return _Taught(prompt, prompt + whole[begin:], _moved(cuts, len(prompt) - begin))


def _moved(cuts: Sequence[Cut], by: int) -> list[Cut]:
    return [cut._replace(start=cut.start + by, stop=cut.stop + by) for cut in cuts]


_FIELD_NAMES: dict[Field, str] = {"reasoning": "thinking", "content": "words", "call": "tool call"}


def _where(message: Message) -> str:
    step = next((part.step for part in message.parts if part.step is not None), None)
    return "the agent's message" if step is None else f"the agent's message of step {step}"


def _take_marks(marked: str, marks: Sequence[str]) -> tuple[str, dict[int, int]]:
    """Text without its marks, and where each stood in it; one that stands twice is left out."""
    if not marks:
        return marked, {}
    numbers = {mark: number for number, mark in enumerate(marks)}
    pieces: list[str] = []
    places: dict[int, int] = {}
    twice: set[int] = set()
    n_chars = at = 0
    for found in re.finditer(f"[{''.join(marks)}]", marked):
        pieces.append(marked[at : found.start()])
        n_chars += found.start() - at
        at = found.end()
        number = numbers[found.group()]
        if number in places:
            twice.add(number)
        places[number] = n_chars
    return "".join([*pieces, marked[at:]]), {number: place for number, place in places.items() if number not in twice}


def _begin_of_message(
    prompt: str, without_turn: Callable[[], str], whole: str, first: int, template: Template
) -> int | None:
    """Where in `whole` begins what the agent writes; None where the template begins it otherwise than its prompt.

    Args:
        without_turn: gives the prompt without the beginning of a turn. first: where in `whole` the first words stand.
    """
    if whole.startswith(prompt):
        return len(prompt)
    if template.thinking == "opened":
        prompt = _OPENER.sub("", prompt)
    prompt = prompt.rstrip()
    if whole.startswith(prompt):
        return len(prompt)
    # A message that follows another of the agent's: the template writes the earlier one otherwise once it is not last.
    before = without_turn()
    header = prompt[len(before) :] if prompt.startswith(before) else ""
    begin = whole.rfind(header, 0, first) if header else -1
    return begin + len(header) if begin >= 0 else None


def _end_of_turn(text: str, after: int, template: Template) -> int:
    """Where the agent's turn ends in a text that ends with it: after its last special token, if it has one."""
    start, stop = _last_special(text, after, template)
    return stop if stop > start else len(text)


def _last_special(text: str, after: int, template: Template) -> tuple[int, int]:
    found = [(text.rfind(special, after), special) for special in template.specials]
    start, special = max(found, default=(-1, ""), key=lambda pair: (pair[0], len(pair[1])))
    return (start, start + len(special)) if start >= after else (len(text), len(text))


def _where_it_stops(whole: str, cut_short: str, known: int, limit: int, template: Template) -> int:
    """Where in `whole` a field ends, from the rendering of the message that ends with that field."""
    stop = _last_special(cut_short, min(known, len(cut_short)), template)[0]
    if not whole.startswith(cut_short[:stop]):
        stop = _common(whole, cut_short[:stop])
    stop = max(known, min(stop, limit))
    # A line break before a label closes what stands before it.
    while stop < limit and whole[stop].isspace():
        stop += 1
    return stop


def _common(left: str, right: str) -> int:
    """How many characters two texts begin with alike."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if left[:middle] == right[:middle] else (low, middle - 1)
    return low


def _cut_group(group: _Group, places: Sequence[tuple[int, int] | None], start: int, stop: int) -> Iterator[Cut]:
    """The parts of one field between two places: neighbours touch where the log let them touch."""
    at = start
    for number, part in enumerate(group.parts):
        end = stop
        if number + 1 < len(group.parts):
            place = places[number]
            end = place[1] + len(part.text) - part.core_stop if place else at + len(part.text)
            following = places[number + 1]
            end = min(max(end, at), following[0] if following else stop)
        if end > at:
            yield Cut(part.kind, at, end, part.step)
        at = end


def _with_opened_thinking(prompt: str, whole: str, begin: int, cuts: Sequence[Cut], thoughts: _Group | None) -> _Taught:
    """A message whose thinking the prompt begins and the template drops: the model writes it, so it is put back."""
    parts = thoughts.parts if thoughts else ()
    said = "".join(part.text for part in parts).strip()
    closing = "\n</think>\n\n"
    added: list[Cut] = []
    at = len(prompt)
    for number, part in enumerate(parts):
        is_last = number + 1 == len(parts)
        end = len(prompt) + len(said) + len(closing) if is_last else min(at + len(part.text), len(prompt) + len(said))
        if end > at:
            added.append(Cut(part.kind, at, end, part.step))
        at = end
    moved_by = len(prompt) + len(said) + len(closing) - begin
    rest = _moved(cuts, moved_by)
    if rest and not added:
        rest[0] = rest[0]._replace(start=len(prompt))
    return _Taught(prompt, prompt + said + closing + whole[begin:], [*added, *rest])
