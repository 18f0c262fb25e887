"""Pieces of trajectories to spans: the one tail of all formats, on columns of bytes and codes."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from sadstream.errors import FormatError
from sadstream.frames import PIECE, SPAN_FIELDS
from sadstream.labels import (
    ACT,
    CONTEXT,
    DIALECT_NAMES,
    KINDS,
    NO_DIALECT,
    NO_KIND,
    OBSERVATION,
    REASON,
    TAGS,
    UNDECIDED,
    Codes,
    openings,
)
from sadstream.utf8 import Bools, Ints, Texts, continuation_bytes, skip, skip_back, texts_of

_OUTER_BLANKS = b" \t\r\n"
# Only the agent, or a text that holds all voices, is cut by labels: in anyone else's message they are quotes.
_AUTHORS = ("system", "user", "environment", "agent")
_SYSTEM, _USER, _ENVIRONMENT, _AGENT = range(4)
_ANYONE = -1
_AUTHOR_OF_KIND = np.array([_USER, _AGENT, _AGENT, _ENVIRONMENT], np.int8)  # by index in KINDS
_KIND_NAMES, _AUTHOR_NAMES = pl.Series(KINDS), pl.Series(_AUTHORS)
_PIECE_FIELDS = {field.name: field.dtype for field in PIECE.fields}
# Nothing is known of a span of a text but what its label says.
_EMPTY = {"hidden": pl.lit(False), "flags": pl.lit([], pl.List(pl.String)), "opaque": pl.lit([], pl.List(pl.String))}
_TEXT_BORN = {
    name: _EMPTY.get(name, pl.lit(None, dtype)).alias(name)
    for name, dtype in SPAN_FIELDS.items()
    if name not in ("kind", "start", "stop", "body_start", "body_stop", "author", "step")
}
_AS_LOGGED = ("call_id", "name", "syntax", "error", "extra")


class _Pieces(NamedTuple):
    """Pieces of trajectories, one after another, as columns of one length; those that render to nothing left out.

    Attributes:
        frame: fields of `PIECE`; None where each piece is a whole text, of which nothing else is known.
        text: rendered. row: of each piece's trajectory, ascending. dialect: as `labels.openings` wants it.
        author: index in `_AUTHORS`. kind: index in `KINDS`, `NO_KIND` where labels decide. whole: one span.
    """

    frame: pl.DataFrame | None
    text: pl.Series
    row: Ints
    dialect: Codes
    author: Codes
    kind: Codes
    whole: Bools


class _Spans(NamedTuple):
    """Spans as columns of one length, offsets in bytes of all texts.

    Attributes:
        piece: index of the piece. kind: index in `KINDS` or `NO_KIND`.
    """

    piece: Ints
    kind: Codes
    start: Ints
    stop: Ints
    body_start: Ints
    body_stop: Ints


def cut(rows: pl.DataFrame, fields: Collection[str] = SPAN_FIELDS) -> tuple[Ints, pl.DataFrame, pl.Series]:
    """Row of each span, the spans, and each row's text.

    Args:
        rows: a row a trajectory: `text`, or `pieces` to be rendered as text; `dialect` where it is known.
        fields: those of `SPAN_FIELDS` that are asked for, in its order; at least one.
    Returns:
        Rows ascend; spans have the columns that are asked for, in order; a text is never null.
    """
    pieces, text = _pieces(rows)
    if not len(pieces.row):
        return np.zeros(0, np.int64), pl.DataFrame(schema={name: SPAN_FIELDS[name] for name in fields}), text
    texts = texts_of(pieces.text)
    spans = _cut_at_labels(pieces, texts)
    row = pieces.row[spans.piece]
    begins = np.append(True, row[1:] != row[:-1])
    kind = _settled_kinds(spans, pieces, begins)
    step = _steps(kind, begins)
    return row, _span_frame(pieces, texts, spans, kind, step, begins, fields), text


def _pieces(rows: pl.DataFrame) -> tuple[_Pieces, pl.Series]:
    """The pieces of all rows, and each row's text."""
    if "pieces" not in rows.columns or rows["pieces"].null_count() == rows.height:
        text = rows.get_column("text")
        text = text.fill_null("") if text.null_count() else text
        empty = text == ""
        row = np.arange(rows.height)
        filled = text
        if empty.any():
            row, filled = row[~empty.to_numpy()], text.filter(~empty)
        unknown = np.full(len(row), -1, np.int8)
        dialect = np.full(len(row), UNDECIDED, np.int8)
        if "dialect" in rows.columns:
            dialect = _dialects(rows.get_column("dialect").filter(~empty), unknown)
        return _Pieces(None, filled, row, dialect, unknown, unknown, np.zeros(len(row), bool)), text
    if "dialect" not in rows.columns:
        rows = rows.with_columns(dialect=pl.lit(None, pl.String))
    frame = _piece_frame(rows.with_row_index("row"))
    rendered = frame.group_by("row").agg(pl.col("rendered").str.join(""))
    texts = rows.select(pl.int_range(pl.len(), dtype=pl.UInt32).alias("row"), "text")
    texts = texts.join(rendered, on="row", how="left", maintain_order="left")
    # What renders to nothing stays if it holds something unreadable, as an encrypted thought.
    frame = frame.filter((pl.col("rendered") != "") | (pl.col("opaque").list.len().fill_null(0) > 0))
    kind = _codes(frame["kind"], KINDS, NO_KIND)
    author = _codes(frame["author"], _AUTHORS, _ANYONE)
    pieces = _Pieces(
        frame,
        frame["rendered"],
        frame["row"].to_numpy().astype(np.int64),
        _dialects(frame["dialect"], kind),
        author,
        kind,
        (kind != NO_KIND) | np.isin(author, (_SYSTEM, _USER, _ENVIRONMENT)),
    )
    return pieces, texts.select(pl.coalesce("rendered", "text", pl.lit(""))).to_series()


def _piece_frame(rows: pl.DataFrame) -> pl.DataFrame:
    """One row a piece, in order: `PIECE`'s fields, its row and dialect, and `rendered`."""
    messages = (
        rows.filter(pl.col("pieces").is_not_null())
        .select("row", "dialect", "pieces")
        .explode("pieces", empty_as_null=False)
        .unnest("pieces")
    )
    texts = rows.filter(pl.col("pieces").is_null())
    if texts.height:
        whole = texts.select(
            "row",
            "dialect",
            *(pl.col(n) if n == "text" else pl.lit(None, dtype).alias(n) for n, dtype in _PIECE_FIELDS.items()),
        )
        messages = pl.concat([whole, messages]).sort("row", maintain_order=True)
    prefix, suffix = (pl.col(name).fill_null("") for name in ("prefix", "suffix"))
    rendered = pl.when(pl.col("message").is_null()).then("text").otherwise(pl.concat_str(prefix, "text", suffix))
    return messages.with_columns(rendered=rendered)


def _codes(names: pl.Series, known: tuple[str, ...], absent: int) -> Codes:
    """Index of each name among those known, `len(known)` for any other, `absent` for null."""
    code = names.replace_strict(known, range(len(known)), default=len(known), return_dtype=pl.Int8)
    return code.zip_with(names.is_not_null(), pl.Series([absent], dtype=pl.Int8)).to_numpy()


def _dialects(names: pl.Series, kind: Codes) -> Codes:
    if names.null_count() == len(names):
        code = np.full(len(names), -1, np.int8)
    else:
        code = _codes(names, DIALECT_NAMES, -1)
        if len(DIALECT_NAMES) in code:
            unknown = names.filter(~names.is_in(DIALECT_NAMES))[0]
            raise FormatError(f"unknown dialect {unknown!r}", hint=f"one of: {', '.join(DIALECT_NAMES)}; or null")
    return np.where(code >= 0, code, np.where(kind == NO_KIND, UNDECIDED, NO_DIALECT)).astype(np.int8)


def _cut_at_labels(pieces: _Pieces, texts: Texts) -> _Spans:
    """Spans; `NO_KIND` for what stands before a piece's first label."""
    data = texts.data
    found = openings(texts, row=pieces.row, dialect=pieces.dialect, whole=pieces.whole)
    unopened = np.ones(len(pieces.row), bool)
    unopened[found.piece[found.at == texts.start.take(found.piece)]] = False
    # What a piece begins with, where that is no label, is a span before those of its labels.
    lead = np.flatnonzero(unopened)
    slot = np.arange(len(found.at)) + np.cumsum(unopened).take(found.piece)
    is_lead = np.ones(len(found.at) + len(lead), bool)
    is_lead[slot] = False
    lead_slot = np.flatnonzero(is_lead)

    def merged(of_lead: Ints, of_label: Ints) -> Ints:
        both = np.empty(len(is_lead), np.int64)
        both[slot], both[lead_slot] = of_label, of_lead
        return both

    start, body = merged(texts.start[lead], found.at), merged(texts.start[lead], found.body)
    piece = merged(lead, found.piece)
    kind = np.full(len(is_lead), NO_KIND, np.int8)
    kind[slot] = found.kind
    stop = np.append(start[1:], 0)
    last = np.flatnonzero(np.append(piece[1:] != piece[:-1], True))
    stop[last] = texts.stop[piece[last]]
    if pieces.frame is not None and pieces.whole.any():
        kind = _kinds_of_whole(kind, pieces.kind[piece], pieces.whole[piece])
        body = np.minimum(np.maximum(body, start + _n_rendered_label(pieces)[piece]), stop)

    body_start = skip(data, body, stop, _OUTER_BLANKS)
    empty = body_start >= stop
    body_start = np.where(empty, body, body_start)
    body_stop = skip_back(data, np.where(empty, body, stop), body_start, _OUTER_BLANKS)
    spans = _Spans(piece, kind, start, stop, body_start, body_stop)
    return _join_leading_blanks(spans, is_lead & empty, pieces.author)


def _kinds_of_whole(label: Codes, given: Codes, whole: Bools) -> Codes:
    """Where a piece is whole: the kind a format gave, else observation where a label says so, else none."""
    by_label = np.where(whole & (label != OBSERVATION), NO_KIND, label)
    return np.where(given != NO_KIND, given, by_label)


def _n_rendered_label(pieces: _Pieces) -> Ints:
    """Characters of the label that rendering put before each piece which is whole."""
    assert pieces.frame is not None
    label = pieces.frame["prefix"].str.extract(r"^([A-Za-z ]+:)").str.len_bytes().fill_null(0)
    return np.where(pieces.whole, label.to_numpy(), 0).astype(np.int64)


def _join_leading_blanks(spans: _Spans, blank: Bools, author: Codes) -> _Spans:
    """Blank lines before a message's first label belong to the label's span: they are no thought of their own."""
    if not (author == _AGENT).any():
        return spans
    joined = blank & (author[spans.piece] == _AGENT) & np.append(spans.piece[1:] == spans.piece[:-1], False)
    start = spans.start.copy()
    start[1:][joined[:-1]] = spans.start[:-1][joined[:-1]]
    return _Spans(*(column[~joined] for column in spans._replace(start=start)))


def _settled_kinds(spans: _Spans, pieces: _Pieces, begins: Bools) -> Codes:
    """Give a kind to what stands before a piece's first label.

    In a chat the role decides: a user's unlabelled words are the prompt until the agent has acted and a reply after
    it; the agent's own are a thought if labels follow in the message, else a message, which is an act.

    Args:
        begins: whether a span is the first of its trajectory.
    """
    kind = spans.kind.copy()
    open_ = np.flatnonzero(kind == NO_KIND)
    author = pieces.author[spans.piece[open_]]
    follows = np.append(spans.piece[1:] == spans.piece[:-1], False)[open_]
    of_role = np.where(author == _ENVIRONMENT, OBSERVATION, NO_KIND)
    of_role[(author == _ANYONE) | (author == _SYSTEM)] = CONTEXT
    kind[open_] = np.where(author == _AGENT, np.where(follows, REASON, ACT), of_role)
    open_ = np.flatnonzero(kind == NO_KIND)
    if len(open_):
        n_acts = np.cumsum(kind == ACT)
        before = (n_acts - (kind == ACT))[np.flatnonzero(begins)]
        acted = n_acts - before[np.cumsum(begins) - 1] > 0
        kind[open_] = np.where(acted[open_], OBSERVATION, CONTEXT)
    return kind


def _steps(kind: Codes, begins: Bools) -> Ints:
    """Number of the agent's decision that each span belongs to, -1 where it belongs to none.

    A step opens at the first reason or act after an observation or context, and at a reason after an act.

    Args:
        begins: whether a span is the first of its trajectory.
    """
    before = np.append(np.int8(CONTEXT), kind[:-1])
    before[begins] = CONTEXT
    agent, was_agent = (kind == REASON) | (kind == ACT), (before == REASON) | (before == ACT)
    opens = agent & (~was_agent | ((kind == REASON) & (before == ACT)))
    number = np.cumsum(opens)
    of_row = (number - opens)[begins]
    number -= of_row[np.cumsum(begins) - 1] + 1
    number[kind == CONTEXT] = -1
    return number


def _span_frame(
    pieces: _Pieces, texts: Texts, spans: _Spans, kind: Codes, step: Ints, begins: Bools, fields: Collection[str]
) -> pl.DataFrame:
    """Spans with the columns that are asked for."""
    characters = _Characters(pieces, texts)
    start = characters.before(spans.start, spans.piece)
    ends = np.flatnonzero(np.append(begins[1:], True))
    stop = np.append(start[1:], 0)
    stop[ends] = characters.before(spans.stop[ends], spans.piece[ends])
    # Labels and blanks around bodies are ASCII.
    body_start = start + (spans.body_start - spans.start)
    body_stop = stop - (spans.stop - spans.body_stop)
    if (pieces.dialect == TAGS).any():
        body_start, body_stop = (characters.before(at, spans.piece) for at in (spans.body_start, spans.body_stop))
    # As Arrow, which Polars takes without a copy and faster than arrays.
    columns = {
        "kind": _named(_KIND_NAMES, kind),
        "start": pa.array(start),
        "stop": pa.array(stop),
        "body_start": pa.array(body_start),
        "body_stop": pa.array(body_stop),
        "step": pa.array(step, mask=step < 0),
    }
    if pieces.frame is not None or "author" in fields:
        columns["author"] = _named(_AUTHOR_NAMES, _AUTHOR_OF_KIND[kind])
    if pieces.frame is None:
        known = [name for name in fields if name in columns] or ["kind"]
        unknown = [column for name, column in _TEXT_BORN.items() if name in fields]
        frame = pl.DataFrame(pa.RecordBatch.from_arrays([columns[name] for name in known], names=known))
        return frame.with_columns(unknown)[list(fields)] if unknown else frame
    frame = pl.DataFrame(pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns)))
    begin = characters.before(texts.start, np.arange(len(pieces.row)))
    end = characters.before(texts.stop, np.arange(len(pieces.row)))
    about = pieces.frame.select(
        *_AS_LOGGED,
        "message",
        "arguments_start",
        "arguments_stop",
        pl.col("author").alias("speaker"),
        pl.col("flags").fill_null([]),
        pl.col("hidden").fill_null(False),
        pl.col("opaque").fill_null([]),
        pl.col("kind").alias("given"),
        n_prefix=pl.col("prefix").str.len_chars().fill_null(0).cast(pl.Int64),
        n_suffix=pl.col("suffix").str.len_chars().fill_null(0).cast(pl.Int64),
        begin=begin,
        end=end,
    )
    # A label in the agent's own turn says observation: it made that one up.
    invented = (pl.col("kind") == "observation") & (pl.col("speaker") == "agent") & pl.col("given").is_null()
    is_first, is_last = pl.col("start") == pl.col("begin"), pl.col("stop") == pl.col("end")
    rendered = ((pl.col("n_prefix") > 0) & is_first) | ((pl.col("n_suffix") > 0) & is_last)
    arguments = pl.col("begin") + pl.col("n_prefix")
    return (
        frame.hstack(about[spans.piece])
        .with_columns(
            author=pl.coalesce("speaker", "author"),
            flags=pl.when(invented).then(pl.lit(["invented"])).otherwise("flags"),
            logged_start=pl.when(rendered).then(pl.max_horizontal("start", arguments)),
            logged_stop=pl.when(rendered).then(pl.min_horizontal("stop", pl.col("end") - pl.col("n_suffix"))),
            arguments_start=pl.col("arguments_start") + arguments,
            arguments_stop=pl.col("arguments_stop") + arguments,
        )
        .pipe(_answer_calls, pieces.row[spans.piece])
        .select(*fields)
    )


def _named(names: pl.Series, code: Codes) -> pa.Array:
    return names[pl.Series(code.astype(np.uint32))].to_arrow(compat_level=pl.CompatLevel.newest())


class _Characters:
    """Counts code points from the begin of a trajectory to a byte."""

    def __init__(self, pieces: _Pieces, texts: Texts) -> None:
        row = pieces.row
        first = np.flatnonzero(np.append(True, row[1:] != row[:-1]))
        n_pieces = np.append(first[1:], len(row)) - first
        self._begin = np.repeat(texts.start[first], n_pieces)
        self._more = continuation_bytes(texts)
        self._more_before = np.repeat(np.searchsorted(self._more, texts.start[first]), n_pieces)
        self._mixed = np.searchsorted(self._more, texts.stop) > self._more_before

    def before(self, at: Ints, piece: Ints) -> Ints:
        """Code points before each byte, which stands in or right after a piece of the trajectory."""
        n_chars = at - self._begin.take(piece)
        mixed = np.flatnonzero(self._mixed.take(piece))
        n_chars[mixed] -= np.searchsorted(self._more, at[mixed]) - self._more_before[piece[mixed]]
        return n_chars


def _answer_calls(spans: pl.DataFrame, row: Ints) -> pl.DataFrame:
    """An observation that names its call has that call's step, however late it comes."""
    if spans["call_id"].null_count() == spans.height:
        return spans
    # Some logs give the same id to several calls: a result answers the last such before it.
    asked = pl.when((pl.col("kind") == "act") & pl.col("call_id").is_not_null()).then("step")
    call_step = pl.coalesce(asked.forward_fill(), asked.backward_fill()).over("row", "call_id")
    answers = (pl.col("kind") == "observation") & pl.col("call_id").is_not_null()
    step = pl.when(answers).then(pl.coalesce(call_step, "step")).otherwise("step")
    return spans.with_columns(row=row).with_columns(step=step).drop("row")
