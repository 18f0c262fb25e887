"""Turns whose text is cut by tags: `<think>`, `<tool_call>`, `<search>`, `<answer>`, `<function=name>`; raw ChatML.

Such text stays as it stands: the agent writes the tags itself, and its student must write them too.
"""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec

from sadstream.formats.kinds import RecordFormat, TextFormat
from sadstream.formats.outcomes import outcome_fields, remaining
from sadstream.formats.pieces import AUTHORS, Piece, verbatim
from sadstream.formats.verbatim import fields_of
from sadstream.frames import Draft

DIALECT = "tags"

THOUGHTS = ("think", "thinking")
_ACTS = ("tool_call", "search", "answer")
_REPLIES = ("information", "tool_response")
_KINDS = {**dict.fromkeys(THOUGHTS, "reason"), **dict.fromkeys(_ACTS, "act"), **dict.fromkeys(_REPLIES, "observation")}
_OPENING = re.compile(rf"<(?:({'|'.join(_KINDS)})|function=([^<>\n]*))>")
_ARGUMENTS = re.compile(r'"(?:arguments|parameters)"\s*:\s*')
_RESULT_OF = re.compile(r"EXECUTION RESULT of \[([^\]\n]*)\]:")
_HEADER = re.compile(r"<\|im_start\|>([a-z_]+)[^\n]*\n")
_END = "<|im_end|>"
_BLANKS = re.compile(r"\s*")


class Part(NamedTuple):
    """A slice of a turn; `about` holds what its piece says of it; untagged text has no `tag`."""

    kind: str
    text: str
    tag: str
    about: dict[str, Any]


def acts(text: str) -> bool:
    """Whether an agent's turn acts by tags.

    >>> acts("<think>Look.</think>\\n<search> x </search>"), acts("Say `<answer>` first.")
    (True, False)
    """
    if not any(mark in text for mark in ("<tool_call>", "<function=", "</search>", "</answer>")):
        return False
    parts = (p for _, _, tagged in _tagged(text, tuple(_KINDS)) for p in tagged)
    return any(p.kind == "act" and (p.tag in ("tool_call", "function") or not p.about.get("flags")) for p in parts)


def cut(
    text: str, *, act_follows: bool = False, only: tuple[str, ...] = tuple(_KINDS), prompt_opens: bool = True
) -> list[Part]:
    """Parts of an agent's turn, which together are the turn.

    Text outside of tags is a thought where an act follows in the turn, else a message. Blanks belong to what stands
    before them.

    Args:
        only: the tags that count.
        prompt_opens: whether `</think>` alone closes a thought, which the template opened in the prompt.

    >>> [(p.kind, p.text) for p in cut("Hm.</think>\\n<search> x </search>")]
    [('reason', 'Hm.</think>\\n'), ('act', '<search> x </search>')]
    """
    parts: list[Part] = []
    at = 0
    for begin, stop, part in _tagged(text, only):
        parts += _untagged(text[at:begin], prompt_opens)
        parts += part
        at = stop
    parts += _untagged(text[at:], prompt_opens)
    return _settled(_blanks_joined(parts), act_follows)


def _tagged(text: str, only: tuple[str, ...]) -> Iterator[tuple[int, int, list[Part]]]:
    at = 0
    while found := _OPENING.search(text, at):
        name, function = found[1] or "function", found[2]
        if name not in only and not (function is not None and "tool_call" in only):
            at = found.end()
            continue
        if not _opens(text, found, at):
            at = found.end()
            continue
        close = f"</{name}>"
        end = text.find(close, found.end())
        stop = len(text) if end < 0 else end + len(close)
        inner = found.end(), len(text) if end < 0 else end
        parts = _parts(text[found.start() : stop], inner[0] - found.start(), inner[1] - found.start(), name, function)
        if end < 0:
            parts[-1].about["flags"] = ["unclosed"]
        yield found.start(), stop, parts
        at = stop


def _opens(text: str, found: re.Match[str], at: int) -> bool:
    """A tag opens a part at a line start or behind another tag; elsewhere it is mentioned, unless a call follows."""
    line = text[max(text.rfind("\n", 0, found.start()) + 1, at) : found.start()]
    if not line.strip():
        return True
    return found[1] == "tool_call" and text[found.end() : found.end() + 80].lstrip()[:1] in ("{", "[")


def _parts(text: str, begin: int, end: int, name: str, function: str | None) -> list[Part]:
    if function is not None:
        about = {"name": function, "syntax": "text", "arguments_start": begin, "arguments_stop": end}
        return [Part("act", text, name, about)]
    if name == "search":
        about = {"name": name, "syntax": "text", "arguments_start": begin, "arguments_stop": end}
        return [Part("act", text, name, about)]
    if name == "tool_call":
        return _calls(text, begin, end)
    return [Part(_KINDS[name], text, name, {})]


def _calls(text: str, begin: int, end: int) -> list[Part]:
    """The calls in one pair of tags, mostly one; what is no JSON stays one part without a name."""
    starts, at, body, n_calls = [0], begin, text[:end], 0
    decoder = json.JSONDecoder()
    try:
        while at < end:
            at = _past_blanks(body, at)
            if at >= end:
                break
            if n_calls:
                starts.append(at)
            _, at = decoder.raw_decode(body, at)
            n_calls += 1
    except (ValueError, RecursionError):
        # Trailing commas, Python's dicts: the whole pair is one call, told by its name alone.
        starts = [0]
    edges = [*starts, len(text)]
    return [Part("act", text[a:b], "tool_call", call_about(text[a:b])) for a, b in pairwise(edges)]


def _past_blanks(text: str, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    return blanks.end() if blanks else at


def call_about(text: str) -> dict[str, Any]:
    """Name of the first call in a text, and where its arguments stand there, as fields of a piece."""
    about: dict[str, Any] = {"syntax": "json"}
    start = text.find("{")
    if start < 0:
        return about
    try:
        value, stop = json.JSONDecoder().raw_decode(text, start)
        raws = msgspec.json.decode(text[start:stop].encode(), type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError, msgspec.DecodeError):
        named = re.search(r"""["']name["']\s*:\s*["']([^"'\n]+)["']""", text)
        return {**about, "name": named[1]} if named else about
    if isinstance(value.get("name"), str):
        about["name"] = value["name"]
    raw = next((bytes(raws[key]).decode() for key in ("arguments", "parameters") if key in raws), None)
    if raw is not None:
        for found in _ARGUMENTS.finditer(text, start, stop):
            if text.startswith(raw, found.end()):
                about |= {"arguments_start": found.end(), "arguments_stop": found.end() + len(raw)}
                break
    return about


def _untagged(text: str, prompt_opens: bool) -> list[Part]:
    """What stands outside of tags. The template opens `<think>` in the prompt: the end alone closes a thought."""
    parts = []
    for closing in ("</think>", "</thinking>") if prompt_opens else ():
        head, mark, tail = text.partition(closing)
        if mark:
            parts.append(Part("reason", head + mark, "think", {}))
            text = tail
    return [*parts, Part("", text, "", {})] if text else parts


def _blanks_joined(parts: list[Part]) -> list[Part]:
    joined: list[Part] = []
    lead = ""
    for part in parts:
        if joined and not part.tag and part.text.strip():
            n_blanks = len(part.text) - len(part.text.lstrip())
            joined[-1] = joined[-1]._replace(text=joined[-1].text + part.text[:n_blanks])
            part = part._replace(text=part.text[n_blanks:])
        if part.text.strip():
            joined.append(part._replace(text=lead + part.text, about=_moved(part.about, len(lead))))
            lead = ""
        elif joined:
            joined[-1] = joined[-1]._replace(text=joined[-1].text + part.text)
        else:
            lead += part.text
    return [*joined, Part("", lead, "", {})] if lead else joined


def _moved(about: dict[str, Any], by: int) -> dict[str, Any]:
    return {name: value + by if name.startswith("arguments_") else value for name, value in about.items()}


def _settled(parts: list[Part], act_follows: bool) -> list[Part]:
    settled: list[Part] = []
    for part in reversed(parts):
        if not part.kind:
            part = part._replace(kind="reason" if act_follows else "act")
        act_follows = act_follows or part.kind == "act"
        settled.append(part)
    return settled[::-1]


def agent_pieces(text: str, *, message: int, act_follows: bool = False) -> list[Piece]:
    """Pieces of an agent's turn, verbatim; what it wrote in the environment's name is an observation all the same."""
    parts = cut(text, act_follows=act_follows)
    return [
        verbatim(
            p.kind,
            p.text,
            message=message,
            author="environment" if p.kind == "observation" else "agent",
            last=p is parts[-1],
            **p.about,
        )
        for p in parts
    ]


def reply_pieces(text: str, *, message: int, author: str, **about: Any) -> list[Piece]:
    """What comes back in such a chat: an observation for each `<tool_response>`, verbatim."""
    starts = [m.start() for m in re.finditer(r"(?m)^[ \t]*<tool_response>", text)]
    if starts and not text[: starts[0]].strip():
        starts = starts[1:]
    edges = [0, *starts, len(text)]
    made = []
    for begin, stop in pairwise(edges):
        slice_ = text[begin:stop]
        result = _RESULT_OF.match(slice_)
        fields = {**({"name": result[1]} if result else {}), **(about if begin == 0 else {})}
        last = stop == len(text)
        made.append(verbatim("observation", slice_, message=message, author=author, last=last, **fields))
    return made


def is_chatml(sample: str) -> bool:
    """Text in ChatML's own markers, with an agent's turn in it."""
    return sample.lstrip().startswith("<|im_start|>") and "<|im_start|>assistant" in sample


def read_chatml(lines: Iterator[str]) -> Iterator[Draft]:
    """A trajectory for each conversation: a system turn, or a first user turn, opens the next."""
    gathered: list[str] = []
    spoken, number = False, 0
    for line in lines:
        role = _HEADER.match(line if line.endswith("\n") else line + "\n")
        if role and role[1] == "system" and spoken:
            yield _chatml_draft("".join(gathered), str(number))
            gathered, spoken, number = [], False, number + 1
        spoken = spoken or bool(role and AUTHORS.get(role[1]) == "agent")
        gathered.append(line)
    if gathered:
        yield _chatml_draft("".join(gathered), str(number))


def _chatml_draft(text: str, record: str, **about: Any) -> Draft:
    pieces = chatml_pieces(text)
    request = next((p["text"] for p in pieces if p["author"] == "user"), None)
    if request is not None:
        about.setdefault("task", request.partition(_END)[0].strip())
    last = next((p["text"] for p in reversed(pieces) if p["kind"] == "act"), "")
    answers = re.findall(r"<answer>([^<]*)</answer>", last)
    if answers:
        about.setdefault("answer", answers[-1].strip())
    return Draft(record=record, dialect=DIALECT, pieces=pieces, **about)


def chatml_pieces(text: str) -> list[Piece]:
    """Pieces that together are the text: role headers are context, the end mark belongs to the agent's last span."""
    headers = [m for m in _HEADER.finditer(text) if m.start() == 0 or text[m.start() - 1] == "\n" or _ends(text, m)]
    made: list[Piece] = []
    if headers and headers[0].start() > 0:
        made.append(verbatim("context", text[: headers[0].start()], message=0, author="system", last=False))
    acted = False
    for index, (header, following) in enumerate(zip(headers, [*headers[1:], None], strict=True)):
        body = text[header.end() : following.start() if following else len(text)]
        author = AUTHORS.get(header[1], "user")
        made.append(verbatim("context", header[0], message=index, author="system", last=False))
        if author == "agent":
            turn, mark, tail = body.partition(_END)
            new = [{**p, "suffix": ""} for p in agent_pieces(turn, message=index)]
            if new:
                new[-1]["text"] += mark + tail
            elif body:
                new = [verbatim("context", body, message=index, author="system", last=False)]
        elif acted and author != "system":
            new = [{**p, "suffix": ""} for p in reply_pieces(body, message=index, author=author)]
        else:
            new = [verbatim("context", body, message=index, author=author, last=False)] if body else []
        acted = acted or any(p["kind"] == "act" for p in new)
        made += new
    return made


def _ends(text: str, header: re.Match[str]) -> bool:
    return text.endswith(_END, 0, header.start())


def recognise_chatml(record: Any) -> bool:
    """A bare ChatML string, or one under `text`."""
    text = record.get("text") if isinstance(record, dict) else record
    return isinstance(text, str) and is_chatml(text)


def read_chatml_record(record: Any, raw: bytes) -> Iterable[Draft]:
    """One trajectory; the record's other fields go to outcome and `extra`."""
    if isinstance(record, str):
        yield _chatml_draft(record, "")
        return
    outcome = outcome_fields({key: value for key, value in record.items() if key != "text"})
    mapped: set[str] = outcome.pop("mapped") | {"text"}
    fields = fields_of(raw)
    yield _chatml_draft(record["text"], "", extra=remaining(fields, mapped), **outcome)


FORMATS = (
    RecordFormat(
        "chatml", "records with a chat as one string in ChatML's markers", recognise_chatml, read_chatml_record
    ),
)
TEXT_FORMATS = (
    TextFormat("chatml-text", "a chat as plain text in ChatML's markers (Search-R1, Qwen)", is_chatml, read_chatml),
)
