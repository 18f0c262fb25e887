"""Where each part of an agent's message stands in its rendering.

Found by structure: each part is rendered between two private-use characters, which are then taken out, and the rest
must be what the template gives without them. What the template puts between two parts (`</think>`, `<tool_call>`) is
split where the template itself stops when the message ends there.
"""

import re
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from sadstream.chat_template import OPENER, Template
from sadstream.errors import RenderError
from sadstream.logged_tokens import n_alike
from sadstream.messages import Field, Message, Part
from sadstream_schemas import Kind

# Marks are characters of the two private-use planes that the run itself does not hold: two a part.
_PRIVATE_USE = (*range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))


class Cut(NamedTuple):
    """A piece of a rendered text.

    Attributes:
        kind, step: as in `sadstream.Span`.
        start, stop: half-open, in code points.
        logged_as: index of the log's message that it came from; None of what the agent does not say here.
        words: what the log holds of it.
    """

    kind: Kind
    start: int
    stop: int
    step: int | None
    logged_as: int | None = None
    words: str = ""


class Taught(NamedTuple):
    """A message of the agent, rendered as the last of a chat.

    Attributes:
        prompt: what stands before it. text: prompt and message. cuts: of the message, through its end of turn.
    """

    prompt: str
    text: str
    cuts: list[Cut]


def teach(
    message: Message,
    history: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]],
    template: Template,
    openings: dict[tuple[Field, Field], str],
    said: Container[str],
) -> Taught:
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
    prompt, whole = render(None), render(as_dict(message, plain))
    marker = _Marker(said)
    text, marks = _take_marks(render(as_dict(message, marker)), marker.marks)
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
                cut_short = render(as_dict(message, plain, n_groups=number + 1))
                end = _where_it_stops(whole, cut_short, known, next_mark, template)
                openings[following] = whole[end:next_mark]
        cuts += _cut_group(group, places, at, end)
        at = end
    if template.thinking == "opened":
        return _with_opened_thinking(prompt, whole, begin, cuts, thoughts)
    return Taught(prompt, prompt + whole[begin:], _moved(cuts, len(prompt) - begin))


def _moved(cuts: Sequence[Cut], by: int) -> list[Cut]:
    return [cut._replace(start=cut.start + by, stop=cut.stop + by) for cut in cuts]


_FIELD_NAMES: dict[Field, str] = {"reasoning": "thinking", "content": "words", "call": "tool call"}


def _where(message: Message) -> str:
    step = next((part.step for part in message.parts if part.step is not None), None)
    return "the agent's message" if step is None else f"the agent's message of step {step}"


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


def plain(part: Part) -> str:
    return part.text


def as_dict(message: Message, said: Callable[[Part], str], *, n_groups: int | None = None) -> dict[str, Any]:
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
        prompt = OPENER.sub("", prompt)
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
        stop = n_alike(whole, cut_short[:stop])
    stop = max(known, min(stop, limit))
    # A line break before a label closes what stands before it.
    while stop < limit and whole[stop].isspace():
        stop += 1
    return stop


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
            yield _cut(part, at, end)
        at = end


def _cut(part: Part, start: int, stop: int) -> Cut:
    return Cut(part.kind, start, stop, part.step, part.logged_as, part.text)


def _with_opened_thinking(prompt: str, whole: str, begin: int, cuts: Sequence[Cut], thoughts: _Group | None) -> Taught:
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
            added.append(_cut(part, at, end))
        at = end
    moved_by = len(prompt) + len(said) + len(closing) - begin
    rest = _moved(cuts, moved_by)
    if rest and not added:
        rest[0] = rest[0]._replace(start=len(prompt))
    return Taught(prompt, prompt + said + closing + whole[begin:], [*added, *rest])
