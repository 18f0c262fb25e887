"""The page that shows trajectories: records in, one self-contained HTML document out."""

import base64
import hashlib
import html
import json
import re
import zlib
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from sadstream.tokens import KIND_CODES
from sadstream.version import VERSION
from sadstream_schemas import Trajectory

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_TOP = 5  # of the teacher's ids, how many a token shows
_AUTHORS = ("system", "user", "agent", "environment")


class Spans(msgspec.Struct, frozen=True, kw_only=True):
    """Spans of one text as columns. Offsets are code points.

    Attributes:
        bounds: [n + 1]; a span reaches from one bound to the next.
        kinds: [n], codes of `sadstream.tokens`. steps: [n], -1 where none. authors: [n], -1 where unknown.
        body_starts, body_stops: [n]; what lies outside them is the span's label.
        names: tools called. notes: peculiarities. Both by index of the span.
    """

    bounds: list[int]
    kinds: list[int]
    steps: list[int]
    body_starts: list[int]
    body_stops: list[int]
    authors: list[int]
    names: dict[int, str] = {}
    notes: dict[int, list[str]] = {}


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one text as columns: T tokens, S of them with values.

    Attributes:
        bounds: [T + 1], code points. A token that only goes on with a code point takes none.
        kinds: [T]. steps: [T].
        positions: [S], rising, the tokens that have values.
        values: [S] each; `Page.values` describes those that are there.
        top_pieces: [S] lists of indices into `Page.pieces`, the likeliest first; top_probabilities: beside them.
    """

    bounds: list[int]
    kinds: list[int]
    steps: list[int]
    positions: list[int]
    values: dict[str, list[float]]
    top_pieces: list[list[int]] = []
    top_probabilities: list[list[float]] = []


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One text on the page: a trajectory, or a window of one."""

    id: str
    window: int | None = None
    file: str | None = None
    record: str | None = None
    format: str
    split: str | None = None
    task_id: str | None = None
    task: str | None = None
    success: bool | None = None
    reward: float | None = None
    ending: str = "unknown"
    answer: str | None = None
    gold: str | None = None
    parent_id: str | None = None
    text: str
    spans: Spans
    tokens: Tokens | None = None


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A number that tokens have.

    Attributes:
        name: its key in `Tokens.values`. label: for people. unit: `nats` or nothing.
        full: the number that is shaded fully.
    """

    name: str
    label: str
    unit: str = ""
    full: float


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What a page shows.

    Attributes:
        title: what was looked at. what: what an entry is.
        n_all: entries there are; fewer may be on the page. n_refused: records that are no trajectory.
        notes: what the reader should know about the numbers.
        values: numbers by which tokens can be shaded. pieces: texts of vocabulary entries that tokens refer to.
    """

    title: str
    what: Literal["trajectories", "windows"] = "trajectories"
    made_by: str = f"sadstream {VERSION}"
    n_all: int
    n_refused: int = 0
    notes: list[str] = []
    entries: list[Entry]
    values: list[Value] = []
    pieces: list[str] = []


def trajectory_entry(trajectory: Trajectory, *, split: str | None = None) -> Entry:
    """A trajectory as the page shows it."""
    spans = trajectory.spans
    notes = {
        number: [
            *(["hidden"] if span.hidden else []),
            *(["error"] if span.error else []),
            *span.flags,
            *([f"{len(span.opaque)} opaque"] if span.opaque else []),
        ]
        for number, span in enumerate(spans)
    }
    return Entry(
        id=trajectory.id,
        file=trajectory.source.file,
        record=trajectory.source.record,
        format=trajectory.source.format,
        split=split,
        task_id=trajectory.task_id,
        task=trajectory.task,
        **msgspec.structs.asdict(trajectory.outcome),
        parent_id=trajectory.parent_id,
        text=trajectory.text,
        spans=Spans(
            bounds=[*(span.start for span in spans), len(trajectory.text)],
            kinds=[KIND_CODES[span.kind] for span in spans],
            steps=[-1 if span.step is None else span.step for span in spans],
            body_starts=[span.body_start for span in spans],
            body_stops=[span.body_stop for span in spans],
            authors=[_AUTHORS.index(span.author) for span in spans],
            names={number: span.name for number, span in enumerate(spans) if span.name},
            notes={number: words for number, words in notes.items() if words},
        ),
    )


class Pieces:
    """The texts of vocabulary entries that a page's tokens refer to, each once.

    Args:
        text_of: the text of a token id by itself.
    Attributes:
        texts: in the order in which they were met.
    """

    def __init__(self, text_of: Callable[[int], str]) -> None:
        self.texts: list[str] = []
        self._text_of = text_of
        self._numbers: dict[int, int] = {}

    def number(self, token_id: int) -> int:
        """Where a token's text stands in `texts`."""
        if token_id not in self._numbers:
            self._numbers[token_id] = len(self.texts)
            self.texts.append(self._text_of(token_id))
        return self._numbers[token_id]


def window_entry(
    row: dict[str, Any], arrays: dict[str, NDArray[Any]], token_texts: Sequence[str], pieces: Pieces
) -> Entry:
    """A window of a teacher shard as the page shows it.

    Args:
        row: of the folder's index.
        arrays: what `decode_teacher_sample` gives.
        token_texts: [T], the text that each token adds.
        pieces: is told of the ids that the page names.
    """
    bounds = [0, *np.cumsum([len(text) for text in token_texts], dtype=np.int64).tolist()]
    kinds, steps = arrays["kinds"], arrays["steps"]
    changed = np.flatnonzero((np.diff(kinds) != 0) | (np.diff(steps) != 0)) + 1
    first = [0, *changed.tolist()]  # of the tokens of each run of one kind and step
    edges = [bounds[number] for number in first]
    top_ids, top = arrays["topk_ids"][:, :_TOP], np.exp(arrays["topk_logprobs"][:, :_TOP])
    return Entry(
        id=row["id"],
        window=row["window"],
        file=row["file"],
        format=row["format"],
        split=row["split"],
        task=row["task"],
        success=row["success"],
        reward=row["reward"],
        ending=row["ending"],
        text="".join(token_texts),
        spans=Spans(
            bounds=[*edges, bounds[-1]],
            kinds=kinds[first].tolist(),
            steps=steps[first].tolist(),
            body_starts=edges,
            body_stops=[*edges[1:], bounds[-1]],
            authors=[-1] * len(first),
        ),
        tokens=Tokens(
            bounds=bounds,
            kinds=kinds.tolist(),
            steps=steps.tolist(),
            positions=arrays["positions"].tolist(),
            values={
                "entropy": rounded(arrays["entropy"], 3),
                "surprise": rounded(-arrays["token_logprobs"], 3),
                "tail": rounded(arrays["tail_mass"], 4),
            },
            top_pieces=[[pieces.number(token) for token in ids] for ids in top_ids.tolist()],
            top_probabilities=[rounded(line, 4) for line in top],
        ),
    )


TEACHER_VALUES = {
    "entropy": ("teacher's entropy", "nats"),
    "surprise": ("teacher's surprise at the logged token", "nats"),
    "tail": ("mass outside the teacher's top k", ""),
}
STUDENT_VALUES = {
    "kl": ("student's KL", "nats"),
    "kl_before": ("student's KL before training", "nats"),
    "kl_fell": ("KL that training took away", "nats"),
    "student_surprise": ("student's surprise at the logged token", "nats"),
}


def value_scales(entries: Sequence[Entry], labels: dict[str, tuple[str, str]]) -> list[Value]:
    """How values are shaded: fully where only one token in twenty is further from 0.

    Args:
        labels: label and unit by name.
    """
    scales = []
    for name, (label, unit) in labels.items():
        numbers = [n for entry in entries if entry.tokens for n in entry.tokens.values.get(name, ())]
        if numbers:
            full = round(float(np.quantile(np.abs(numbers), 0.95)), 4)
            scales.append(Value(name=name, label=label, unit=unit, full=full or 1.0))
    return scales


def rounded(numbers: NDArray[Any], digits: int) -> list[float]:
    """Numbers as a page holds them."""
    return [round(number, digits) for number in numbers.tolist()]


def render_page(page: Page) -> bytes:
    """The page as one HTML document that asks for nothing but itself.

    Texts of logs stand in it only as a compressed block in base64, which no text can leave; the page's script puts
    them into the document as text. Its policy allows that script and that style sheet by their hashes, and no
    other, and no network. Equal pages give equal bytes under one zlib. Lone surrogates become U+FFFD.
    """
    template = (files("sadstream") / "page.html").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src '{_hash_between(template, '<script>', '</script>')}'; "
        f"style-src '{_hash_between(template, '<style>', '</style>')}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    data = base64.b64encode(zlib.compress(_json(page), 9)).decode("ascii")
    title = html.escape(_LONE_SURROGATE.sub("\ufffd", page.title))
    parts = re.split(r"\{\{(policy|title|data)\}\}", template)
    filled = {"policy": policy, "title": title, "data": data}
    return "".join(part if number % 2 == 0 else filled[part] for number, part in enumerate(parts)).encode()


def _hash_between(text: str, opening: str, closing: str) -> str:
    content = text.partition(opening)[2].partition(closing)[0]
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _json(page: Page) -> bytes:
    try:
        return msgspec.json.encode(page)
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(page, str_keys=True), ensure_ascii=False)
        return _LONE_SURROGATE.sub("\ufffd", text).encode()
