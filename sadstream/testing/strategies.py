"""Hypothesis strategies: any legal value may appear. Needs hypothesis."""

import random
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from sadstream.codec import TeacherArrays
from sadstream.errors import ConfigError
from sadstream.formats import pieces
from sadstream.testing.checks import step_numbers
from sadstream_schemas import Kind, Outcome, Source, Span, Trajectory

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ConfigError("the strategies of sadstream.testing need hypothesis", hint="pip install hypothesis") from error


class Teacher(NamedTuple):
    """Full teacher distributions of S tokens, and what a cache keeps of them."""

    arrays: TeacherArrays
    logits: NDArray[np.float64]

    @property
    def vocab_size(self) -> int:
        return self.logits.shape[1]


def teacher_of(logits: NDArray[np.float64], top_k: int, *, n_context: int = 1) -> Teacher:
    """What a cache keeps of logits [S, V], in float64; a window of `n_context` further tokens before them."""
    n_tokens = len(logits)
    total = np.logaddexp.reduce(logits, axis=1) if n_tokens else np.zeros(0)
    logprobs = logits - total[:, None]
    ids = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    rest = logprobs.copy()
    np.put_along_axis(rest, ids, -np.inf, axis=1)
    logged = np.arange(n_tokens) % logits.shape[1]
    entropy = -np.where(np.isfinite(logprobs), np.exp(logprobs) * np.maximum(logprobs, -1e9), 0).sum(1)
    arrays = TeacherArrays(
        token_ids=np.concatenate([np.zeros(n_context, np.int64), logged]),
        kinds=np.concatenate([np.zeros(n_context, np.uint8), 1 + np.arange(n_tokens, dtype=np.uint8) % 2]),
        steps=np.concatenate([np.full(n_context, -1, np.int32), np.arange(n_tokens, dtype=np.int32) // 3]),
        positions=np.arange(n_context, n_context + n_tokens),
        topk_ids=ids,
        topk_logprobs=np.take_along_axis(logprobs, ids, 1).astype(np.float32),
        log_tail=np.logaddexp.reduce(rest, axis=1).astype(np.float32),
        entropy=entropy.astype(np.float32),
        token_logprobs=logprobs[np.arange(n_tokens), logged].astype(np.float32),
    )
    return Teacher(arrays, logits)


@st.composite
def topk(draw: st.DrawFn, *, max_vocab: int = 300_000, max_tokens: int = 6, max_scale: float = 40.0) -> Teacher:
    """Teachers of any K and vocabulary: flat, peaked, with ties and with impossible ids; also of no token at all."""
    vocab_size = draw(st.one_of(st.integers(1, 40), st.integers(1, max_vocab)))
    top_k = draw(st.one_of(st.integers(1, min(vocab_size, 64)), st.just(min(vocab_size, 40))))
    n_tokens = draw(st.integers(0, max_tokens if vocab_size <= 1000 else 2))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = random.normal(0, draw(st.floats(0, max_scale)), (n_tokens, vocab_size))
    if draw(st.booleans()):
        logits = np.round(logits)
    impossible = draw(st.sampled_from([0.0, 0.5, 1.0]))
    hidden = random.random(logits.shape) < impossible
    hidden[:, random.integers(vocab_size)] = False
    return teacher_of(np.where(hidden, -np.inf, logits), top_k)


class Cut(NamedTuple):
    """A span as it must come out."""

    kind: str
    start: int
    stop: int
    body_start: int
    body_stop: int
    step: int | None


class Transcript(NamedTuple):
    """A text in one dialect with the spans it was built from."""

    dialect: str
    text: str
    spans: list[Cut]


class Chat(NamedTuple):
    """Chat messages with the spans they were built from; `owners` has the message of each span."""

    messages: list[dict[str, str]]
    text: str
    spans: list[Cut]
    owners: list[int]


class _Part(NamedTuple):
    kind: str
    label: str
    rest: str


_NASTY = (
    "\u2028",
    "\u0085",
    "\0",
    "\r\n",
    "\n",
    "\n\n",
    "\x0b\x0c",
    " \t",
    "e\u0301\u0323",
    "👩‍👩‍👧",
    "\U0010ffff",
    "\ufeff",
    "Action: search[x]",
    "\nAction:",
    "\nThought: hm",
    "\nObservation 97: quoted",
    "\nThought 97:",
    "\n Thought 1:",
    "\nthought: x",
    "\n> go to desk 1",
    "\n==== Heading ====\n",
    "]",
    '"\\',
)
_NUMBERED = re.compile(r"(?:Thought|Action|Observation|ActionPath) (?!97:)[0-9]+:")
# What no line of a body may begin with, so that the text stays in its dialect and the body in its span.
_FORBIDDEN = {
    "react-numbered": (_NUMBERED,),
    "webshop": (_NUMBERED, re.compile(r"(?:Thought|Action|Observation|ActionPath) 97:|(?:Action|Observation):")),
    "react": (
        re.compile(r"(?:Thought|Action|Observation|ActionPath) [0-9]+:"),
        re.compile(r"(?:Thought|ActionPath|Action|Observation|Final Answer):"),
    ),
    "prompt": (
        re.compile(r"(?:Thought|Action|Observation|ActionPath) [0-9]+:"),
        re.compile(r"(?:Thought|ActionPath|Action|Observation|Final Answer):|>"),
    ),
}


def texts(*, max_size: int = 6) -> st.SearchStrategy[str]:
    """Any text, with what breaks parsers in it."""
    fragments = st.one_of(st.sampled_from(_NASTY), st.text(st.characters(codec="utf-8"), max_size=8))
    return st.lists(fragments, max_size=max_size).map("".join)


def _bodies(dialect: str, *, line_start: bool = False) -> st.SearchStrategy[str]:
    """Texts of which no line begins like a label; the first too if the body has none before it."""

    def keep_apart(text: str) -> str:
        lines = text.split("\n")
        return "\n".join(
            "|" + line if (i > 0 or line_start) and any(p.match(line) for p in _FORBIDDEN[dialect]) else line
            for i, line in enumerate(lines)
        )

    return texts().map(keep_apart)


def _ended(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


@st.composite
def transcripts(draw: st.DrawFn, *, dialect: str | None = None) -> Transcript:
    """Runs in a text dialect: empty bodies, missing thoughts, quoted labels, few-shot examples, no final line break."""
    dialect = dialect or draw(st.sampled_from(["react-numbered", "react", "prompt", "webshop"]))
    parts = draw(_PARTS[dialect]())
    cut = draw(st.booleans())  # the log's last line break
    if cut and parts[-1].rest.endswith("\n"):
        parts[-1] = parts[-1]._replace(rest=parts[-1].rest[:-1])
    return Transcript(dialect, "".join(p.label + p.rest for p in parts), cuts(parts))


def cuts(parts: Sequence[_Part], *, calls: Sequence[str | None] | None = None, empty: bool = False) -> list[Cut]:
    """Spans of parts that stand one after another; those without a character have none, unless `empty` says so."""
    spans, start = [], 0
    for part in parts:
        stop = start + len(part.label) + len(part.rest)
        body_start = body_stop = start + len(part.label)
        if body := part.rest.strip(" \t\r\n"):
            body_start += part.rest.index(body)
            body_stop = body_start + len(body)
        if stop > start or empty:
            spans.append(Cut(part.kind, start, stop, body_start, body_stop, None))
        start = stop
    numbers = step_numbers([span.kind for span in spans], calls)
    return [span._replace(step=step) for span, step in zip(spans, numbers, strict=True)]


@st.composite
def _numbered_parts(draw: st.DrawFn) -> list[_Part]:
    body = _bodies("react-numbered")
    prompt = draw(_bodies("react-numbered", line_start=True).map(lambda text: _ended(text) if text else text))
    if draw(st.booleans()):
        prompt = f"Thought 1: shown\nAction 1: Search[shown]\nThought 2: end\n(END OF EXAMPLES)\n{prompt}"
    parts = [_Part("context", "", prompt)]
    kinds = {"ActionPath": "reason", "Thought": "reason", "Action": "act", "Observation": "observation"}
    for number in range(1, draw(st.integers(1, 4)) + 1):
        names = draw(st.lists(st.sampled_from(list(kinds)), min_size=1, max_size=4))
        parts += [_Part(kinds[name], f"{name} {number}:", _ended(draw(body))) for name in names]
    return parts


@st.composite
def _react_parts(draw: st.DrawFn, *, prompt: bool = True) -> list[_Part]:
    body = _bodies("react").map(lambda text: re.sub(r"^(?= (?:think\[|reset))", " x", text))
    kinds = {
        "Thought": "reason",
        "ActionPath": "reason",
        "Action": "act",
        "Observation": "observation",
        "Final Answer": "act",
    }
    # `ActionPath:` alone does not make a text ReAct.
    names = [*draw(st.lists(st.sampled_from(list(kinds)), max_size=6)), draw(st.sampled_from(["Thought", "Action"]))]
    parts = [_Part(kinds[name], f"{name}:", _ended(draw(body))) for name in names]
    if not prompt:
        return parts
    opening = draw(_bodies("react", line_start=True).map(lambda text: _ended(text) if text else text))
    return [_Part("context", "", opening), *parts]


@st.composite
def _prompt_parts(draw: st.DrawFn) -> list[_Part]:
    opening = draw(_bodies("prompt", line_start=True).map(lambda text: _ended(text) if text else text))
    parts = [_Part("context", "", opening)]
    for _ in range(draw(st.integers(1, 5))):
        line = draw(texts().map(lambda text: text.replace("\n", " ")))
        label = draw(st.sampled_from(["> ", "> think:", "> Think:", "> ActionPath:"]))
        if label == "> ":
            line = re.sub(r"^(?=(?:[Tt]hink|ActionPath):)", "x", line)
        blank = draw(st.sampled_from(["", "\n", " \n\t\r\n"]))
        parts.append(_Part("act" if label == "> " else "reason", label, f"{line}\n{blank}"))
        if draw(st.booleans()):
            reply = draw(_bodies("prompt", line_start=True))
            parts.append(_Part("observation", "", _ended("You see. " + reply)))
    return parts


@st.composite
def _webshop_parts(draw: st.DrawFn) -> list[_Part]:
    body = _bodies("webshop")
    page = draw(body)
    opening = f"-----------------\n{draw(st.integers(0, 499))}\nAction: reset\nObservation: \nWebShop{_ended(page)}\n"
    parts = [_Part("context", "", opening)]
    for _ in range(draw(st.integers(1, 4))):
        verb, kind = draw(st.sampled_from([("think", "reason"), ("search", "act"), ("click", "act")]))
        close = draw(st.sampled_from(["]", ""]))
        parts.append(_Part(kind, "Action:", _ended(f" {verb}[{draw(body)}{close}")))
        if draw(st.booleans()):
            parts.append(_Part("observation", "Observation:", _ended(draw(body)) + "\n"))
    return parts


_PARTS = {
    "react-numbered": _numbered_parts,
    "react": _react_parts,
    "prompt": _prompt_parts,
    "webshop": _webshop_parts,
}
_FIRST_LABEL = re.compile(r"(?:Thought|ActionPath|Action|Observation|Final Answer):")


@st.composite
def chats(draw: st.DrawFn) -> Chat:
    """Chat messages whose agent turns hold ReAct labels; users quote labels, the agent may invent observations."""
    messages: list[dict[str, str]] = []
    parts: list[_Part] = []
    owners: list[int] = []
    acted = False
    n_prompt = draw(st.integers(1, 2))
    n_turns = draw(st.integers(1, 4))
    for index in range(n_prompt + n_turns):
        speaks = index >= n_prompt and (index == n_prompt or draw(st.booleans()))
        if speaks:
            turn = draw(_react_parts(prompt=False)) if index == n_prompt or draw(st.booleans()) else []
            lead = draw(_bodies("react", line_start=True))
            if turn and lead.strip(" \t\r\n"):
                turn.insert(0, _Part("reason", "", _ended(lead)))
            elif not turn:
                turn = [_Part("act", "", _ended("Well. " + lead))]
            if draw(st.booleans()):
                turn[-1] = turn[-1]._replace(rest=turn[-1].rest[:-1])
            content = "".join(p.label + p.rest for p in turn)
            if not content.endswith("\n"):
                turn[-1] = turn[-1]._replace(rest=turn[-1].rest + "\n")
            acted = acted or any(p.kind == "act" for p in turn)
        else:
            content = draw(texts())
            found = _FIRST_LABEL.match(content)
            label = found[0] if found else ""
            kind = "context" if index < n_prompt or not (acted or label == "Observation:") else "observation"
            turn = [_Part(kind, label, _ended(content[len(label) :]))]
        role = "assistant" if speaks else "system" if index == 0 and n_prompt > 1 else "user"
        messages.append({"role": role, "content": content})
        parts += turn
        owners += [index] * len(turn)
    return Chat(messages, "".join(p.label + p.rest for p in parts), cuts(parts), owners)


def json_values() -> st.SearchStrategy[Any]:
    """Any JSON value that a record may hold."""
    leaves = st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False), texts())
    leaves = leaves.filter(lambda value: value not in (float("inf"), float("-inf")))
    return st.recursive(
        leaves,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts(max_size=2), inner, max_size=3)),
        max_leaves=6,
    )


def _raws() -> st.SearchStrategy[dict[str, msgspec.Raw]]:
    return st.dictionaries(texts(max_size=2), json_values().map(_raw), max_size=3)


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


class Run(NamedTuple):
    """Pieces of a message-born trajectory with the text and the spans that they must give.

    Attributes:
        reads_as_text: the text, read as a log of its own, is cut in the same places.
    """

    pieces: list[dict[str, Any]]
    text: str
    spans: list[Cut]
    call_ids: list[str | None]
    reads_as_text: bool


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """Messages in pieces: thoughts, calls in parallel, results late, unnamed or of no call, messages, reminders."""
    parts: list[_Part] = []
    drawn: list[dict[str, Any]] = []
    call_ids: list[str | None] = []
    waiting: list[str] = []
    plain = draw(st.booleans())  # what a text with labels can say too
    body = _bodies("react", line_start=True).map(lambda text: text or "x") if plain else texts()

    def add(piece: dict[str, Any], label: str) -> None:
        prefix, suffix = piece.get("prefix", ""), piece["suffix"]
        drawn.append(piece)
        whole = prefix + piece["text"] + suffix
        if whole or piece.get("opaque"):
            parts.append(_Part(piece["kind"], whole[: len(label)], whole[len(label) :]))
            call_ids.append(piece.get("call_id"))

    add(pieces.context(draw(body), message=0, author=draw(st.sampled_from(["system", "user"]))), "")
    names = (
        ["thought", "call", "observation"] if plain else ["thought", "call", "observation", "say", "context", "hidden"]
    )
    for message in range(1, draw(st.integers(1, 6)) + 1):
        name, text = draw(st.sampled_from(names)), draw(body)
        if name == "thought":
            add(pieces.thought(text, message=message), "Thought:" if text else "")
        elif name == "call":
            call_id = None if plain else draw(st.none() | st.sampled_from(["c1", "c2", f"m{message}"]))
            waiting += [call_id] if call_id else []
            syntax = draw(st.sampled_from(["json", "text"]))
            add(pieces.call("tool", text, message=message, syntax=syntax, call_id=call_id), "Action:")
        elif name == "observation":
            answered = draw(st.none() | st.sampled_from([*waiting, "m9"])) if not plain else None
            add(pieces.observation(text, message=message, call_id=answered), "Observation:")
        elif name == "say":
            add(pieces.say(text, message=message), "Answer:")
        elif name == "context":
            add(pieces.context(text, message=message), "")
        else:
            add(pieces.unreadable("reason", ['"c2VjcmV0"'], message=message, author="agent"), "")
    spans = cuts(parts, calls=call_ids, empty=True)
    spoken = any(part.label for part in parts)
    return Run(drawn, "".join(p.label + p.rest for p in parts), spans, call_ids, plain and spoken)


def spans(text: str) -> st.SearchStrategy[list[Span]]:
    """Spans that cut a text as contract wants it, of any kinds and lengths; none if it is empty."""
    edges = st.sets(st.integers(1, max(1, len(text) - 1)), max_size=6) if len(text) > 1 else st.just(set[int]())

    @st.composite
    def drawn(draw: st.DrawFn) -> list[Span]:
        kinds = st.sampled_from(["context", "reason", "act", "observation"])
        stops = [*sorted(draw(edges)), len(text)] if text else []
        parts = [
            _Part(draw(kinds), text[start:stop][: draw(st.integers(0, stop - start))], "")
            for start, stop in pairwise([0, *stops])
        ]
        parts = [
            part._replace(rest=text[start + len(part.label) : stop])
            for part, (start, stop) in zip(parts, pairwise([0, *stops]), strict=True)
        ]
        authors = {"context": "user", "reason": "agent", "act": "agent", "observation": "environment"}
        rows = [{**cut._asdict(), "author": authors[cut.kind]} for cut in cuts(parts)]
        return msgspec.convert(rows, list[Span])

    return drawn()


def damaged(value: Any) -> st.SearchStrategy[Any]:
    """A JSON value with some places in it gone, of another type, cut short, or swapped."""
    return st.integers(0, 2**32 - 1).map(lambda seed: damage(value, random.Random(seed)))


_JUNK: tuple[Any, ...] = (
    *(None, True, 0, -1.5, 2**63, "", "x", "\ufffd", "<think>"),
    *([], {}, [None], [[]], [{}], {"type": "text"}, {"a": {"b": 1}}),
)


def damage(value: Any, randomly: random.Random, *, n_places: int = 3) -> Any:
    """The value, copied, with up to `n_places` places in it gone, of another type, cut short, or swapped."""
    value = _copied(value)
    for _ in range(randomly.randint(1, n_places)):
        place = _place(value, randomly)
        if place is None:
            return randomly.choice(_JUNK)
        holder, key = place
        which = randomly.randrange(4)
        if which == 0:
            del holder[key]
        elif which == 1:
            holder[key] = _copied(randomly.choice(_JUNK))
        elif which == 2 and isinstance(holder[key], str):
            holder[key] = holder[key][: randomly.randrange(len(holder[key]) + 1)]
        else:
            other, other_key = _place(value, randomly) or place
            holder[key] = _copied(other[other_key])
    return value


def _copied(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def _place(value: Any, randomly: random.Random) -> tuple[Any, Any] | None:
    """A place in a JSON value, as what holds it and its key there: any, or one on a way down from the top.

    Of all places of a large record most lie deep, and what a reader looks at first lies near the top.
    """
    if randomly.random() < 0.5:
        places = list(_places(value))
        return randomly.choice(places) if places else None
    place = None
    while keys := _keys(value):
        place = value, randomly.choice(keys)
        value = value[place[1]]
        if randomly.random() < 0.3:
            break
    return place


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    stack = [value]
    while stack:
        holder = stack.pop()
        for key in _keys(holder):
            yield holder, key
            stack.append(holder[key])


def _keys(value: Any) -> list[Any]:
    return list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    """Valid records with every field in use; empty texts, spans of no character, bodies that are empty."""
    text = draw(texts(max_size=12))
    edges = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
    edges = [0, *edges, len(text)]
    spans = []
    for start, stop in pairwise(edges if text else [0, 0]):
        inner = sorted(draw(st.tuples(*[st.integers(start, stop)] * 4)))
        kind: Kind = draw(st.sampled_from(["context", "reason", "act", "observation"]))
        is_call = kind == "act" and draw(st.booleans())
        spans.append(
            Span(
                kind=kind,
                start=start,
                stop=stop,
                body_start=inner[0],
                body_stop=inner[3],
                author=draw(st.sampled_from(["system", "user", "agent", "environment"])),
                step=draw(st.none() | st.integers(0, 9)),
                message=draw(st.none() | st.integers(0, 9)),
                logged_start=draw(st.none() | st.just(start)),
                logged_stop=draw(st.none() | st.just(stop)),
                call_id=draw(texts()) if is_call else None,
                name=draw(texts()) if is_call else None,
                arguments_start=inner[1] if is_call else None,
                arguments_stop=inner[2] if is_call else None,
                syntax=draw(st.sampled_from(["json", "text", "code", "shell"])) if is_call else None,
                hidden=draw(st.booleans()),
                error=draw(st.none() | st.booleans()),
                flags=draw(st.lists(texts(), max_size=2)),
                opaque=draw(st.lists(json_values().map(_raw), max_size=2)),
                extra=draw(_raws()),
            )
        )
    optional = st.none() | texts()
    return Trajectory(
        format_version=1,
        id="i" + draw(texts()),
        source=Source(file=draw(texts()), record=draw(texts()), format=draw(texts()), format_version=draw(optional)),
        task_id=draw(optional),
        task=draw(optional),
        tools=draw(st.lists(json_values().map(_raw), max_size=2)),
        outcome=Outcome(
            success=draw(st.none() | st.booleans()),
            reward=draw(st.none() | st.floats(allow_nan=False, allow_infinity=False)),
            ending=draw(st.sampled_from(["finished", "halted", "truncated", "aborted", "error", "unknown"])),
            answer=draw(optional),
            gold=draw(optional),
        ),
        parent_id=draw(optional),
        text=text,
        spans=spans,
        extra=draw(_raws()),
    )
