"""Cut trajectories into spans: LazyFrame -> LazyFrame, row-local, block by block."""

from typing import Any

import numpy as np
import polars as pl

from sadstream.formats.dialects import DIALECTS, EXAMPLES_END, LABELS
from sadstream.frames import PIECE, SPAN, SPAN_FIELDS

_BLANK = " \t\r"
_Ints = np.ndarray[Any, np.dtype[np.int64]]


def segment(logs: pl.LazyFrame) -> pl.LazyFrame:
    """Trajectories with their text cut into spans.

    Row-local and streamed in blocks, so cutting the input into chunks never changes the output and memory stays flat.

    Needs: `text` (String), or `pieces` (see `sadstream.frames`) where messages are to be rendered as text first.
        Optional: `dialect` (String; null or absent: recognised from the text), `spans` (rows already cut are kept).
    Adds: `text`, `spans` (List of Struct, fields as `sadstream.Span`). Drops `pieces` and `dialect`.

    >>> frame = pl.LazyFrame({"text": ["Question: Who?\\nThought 1: Look.\\nAction 1: Search[x]\\n"]})
    >>> segment(frame).collect()["spans"][0].struct.field("kind").to_list()
    ['context', 'reason', 'act']
    """
    schema = dict(logs.collect_schema())
    kept = {name: dtype for name, dtype in schema.items() if name not in ("text", "spans", "pieces", "dialect")}
    return logs.map_batches(
        _segment_block, schema={**kept, "text": pl.String(), "spans": pl.List(SPAN)}, streamable=True
    )


def _segment_block(block: pl.DataFrame) -> pl.DataFrame:
    optional = {"text": pl.String(), "dialect": pl.String(), "pieces": pl.List(PIECE), "spans": pl.List(SPAN)}
    block = block.with_columns(
        pl.lit(None, dtype).alias(name) for name, dtype in optional.items() if name not in block.columns
    )
    rows = block.select("text", "dialect", "pieces", given="spans").with_row_index("row")
    uncut = rows.filter(pl.col("given").is_null())
    pieces = _pieces(uncut)
    texts = uncut.select("row", "text").join(
        pieces.filter(pl.col("message").is_not_null())
        .group_by("row", maintain_order=True)
        .agg(pl.col("text").str.join("").alias("rendered")),
        on="row",
        how="left",
        maintain_order="left",
    )
    spans = _number_steps(_spans(pieces))
    lists = spans.group_by("row", maintain_order=True).agg(pl.struct(*SPAN_FIELDS).alias("spans"))
    cut = texts.select("row", text=pl.coalesce("rendered", "text", pl.lit(""))).join(
        lists, on="row", how="left", maintain_order="left"
    )
    done = rows.join(cut, on="row", how="left", suffix="_cut", maintain_order="left")
    block = block.drop("text", "spans", "pieces", "dialect")
    if "outcome" in block.columns:
        block = block.with_columns(outcome=_with_ending(pl.col("outcome"), cut_short=_ends_in_thought(done["spans"])))
    return block.with_columns(
        text=pl.coalesce(done["text_cut"], done["text"]),
        spans=pl.coalesce(done["given"], done["spans"], pl.lit([], pl.List(SPAN))),
    )


def _ends_in_thought(spans: pl.Series) -> pl.Series:
    return (spans.list.last().struct.field("kind") == "reason").fill_null(False)


def _with_ending(outcome: pl.Expr, *, cut_short: pl.Series) -> pl.Expr:
    """A run that stops after a thought, and of which the log does not say how it ended, was truncated."""
    ending = outcome.struct.field("ending")
    return outcome.struct.with_fields(
        ending=pl.when(cut_short & (ending == "unknown")).then(pl.lit("truncated")).otherwise(ending)
    )


def _dialect_of_text() -> pl.Expr:
    """Dialect of column `text`; mirrors `formats.dialects.dialect_of`."""
    chain: Any = pl
    for name, pattern in DIALECTS.items():
        chain = chain.when(pl.col("text").str.contains(pattern)).then(pl.lit(name))
    expression: pl.Expr = chain.otherwise(pl.lit(None, pl.String))
    return expression


_ABOUT = (
    "call_id",
    "name",
    "syntax",
    "arguments_start",
    "arguments_stop",
    "hidden",
    "error",
    "flags",
    "opaque",
    "extra",
)
_PIECE_FIELDS = {field.name: field.dtype for field in PIECE.fields}


def _pieces(rows: pl.DataFrame) -> pl.DataFrame:
    """One row a piece, in order: `PIECE`'s fields with `text` rendered, row, dialect, n_prefix, n_suffix, n, offset."""
    whole = rows.filter(pl.col("pieces").is_null() & pl.col("text").is_not_null()).select(
        "row",
        "dialect",
        *(pl.col(name) if name == "text" else pl.lit(None, dtype).alias(name) for name, dtype in _PIECE_FIELDS.items()),
    )
    messages = (
        rows.filter(pl.col("pieces").is_not_null())
        .select("row", "dialect", "pieces")
        .explode("pieces", empty_as_null=False)
        .unnest("pieces")
    )
    prefix, suffix = (pl.col(name).fill_null("") for name in ("prefix", "suffix"))
    undecided = pl.col("dialect").is_null() & pl.col("kind").is_null()
    return (
        pl.concat([whole, messages])
        .sort("row", maintain_order=True)
        .with_columns(
            text=pl.when(pl.col("message").is_null()).then("text").otherwise(pl.concat_str(prefix, "text", suffix)),
            n_prefix=prefix.str.len_chars().cast(pl.Int64),
            n_suffix=suffix.str.len_chars().cast(pl.Int64),
        )
        .with_columns(dialect=pl.when(undecided).then(_dialect_of_text()).otherwise("dialect"))
        .with_columns(n=pl.col("text").str.len_chars().cast(pl.Int64))
        .with_columns(stop=pl.col("n").cum_sum())
        # Where the piece begins in its trajectory's text: a running sum, less what stood before the trajectory.
        .with_columns(offset=pl.col("stop") - pl.col("n") - (pl.col("stop") - pl.col("n")).first().over("row"))
        .drop("stop")
        .with_row_index("piece")
    )


_CUT = {
    "piece": pl.UInt32(),
    "kind": pl.String(),
    "start": pl.Int64(),
    "stop": pl.Int64(),
    "body_start": pl.Int64(),
    "body_stop": pl.Int64(),
}


def _spans(pieces: pl.DataFrame) -> pl.DataFrame:
    """Cut pieces at their labels; offsets become those of the trajectory's text."""
    # What renders to nothing stays if it holds something unreadable, as an encrypted thought.
    pieces = pieces.filter((pl.col("n") > 0) | (pl.col("opaque").list.len().fill_null(0) > 0))
    # Only the agent, or a text that holds all voices, is cut by labels: in anyone else's message they are quotes.
    whole = pl.col("kind").is_not_null() | pl.col("author").is_in(["system", "user", "environment"]).fill_null(False)
    parts = [
        _cut_lines(part, dialect, whole=is_whole)
        for (dialect, is_whole), part in pieces.with_columns(whole=whole).group_by(
            "dialect", "whole", maintain_order=True
        )
    ]
    cut = pl.concat([pl.DataFrame(schema=_CUT), *parts]).sort("piece", "start", maintain_order=True)
    about = pieces.select(
        "piece", "row", "author", "message", "offset", "n", "n_prefix", "n_suffix", *_ABOUT, given=pl.col("kind")
    )
    spans = cut.join(about, on="piece", how="left", maintain_order="left")
    return _settle_kinds(spans)


def _settle_kinds(spans: pl.DataFrame) -> pl.DataFrame:
    """Give a kind to what stands before a piece's first label, and turn offsets into those of the trajectory.

    In a chat the role decides: a user's unlabelled words are the prompt until the agent has acted and a reply after
    it; the agent's own are a thought if labels follow in the message, else a message, which is an act.
    """
    kind = pl.col("kind")
    acted = (kind == "act").fill_null(False).cast(pl.Int32).cum_sum().over("row") > 0
    labels_follow = kind.is_not_null().any().over("piece")
    unlabelled = (
        pl.when(pl.col("author").is_null() | (pl.col("author") == "system"))
        .then(pl.lit("context"))
        .when(pl.col("author") == "agent")
        .then(pl.when(labels_follow).then(pl.lit("reason")).otherwise(pl.lit("act")))
        .when(pl.col("author") == "environment")
        .then(pl.lit("observation"))
        .otherwise(pl.lit(None, pl.String))
    )
    spans = spans.with_columns(kind=pl.coalesce(kind, unlabelled))
    spans = spans.with_columns(
        kind=pl.coalesce(kind, pl.when(acted).then(pl.lit("observation")).otherwise(pl.lit("context")))
    )
    by_kind = (
        pl.when(kind.is_in(["reason", "act"]))
        .then(pl.lit("agent"))
        .when(kind == "observation")
        .then(pl.lit("environment"))
        .otherwise(pl.lit("user"))
    )
    # A label in the agent's own turn says observation: it made that one up.
    invented = (kind == "observation") & (pl.col("author") == "agent") & pl.col("given").is_null()
    offset = pl.col("offset")
    is_first, is_last = pl.col("start") == 0, pl.col("stop") == pl.col("n")
    rendered = ((pl.col("n_prefix") > 0) & is_first) | ((pl.col("n_suffix") > 0) & is_last)
    logged_start = offset + pl.max_horizontal("start", "n_prefix")
    logged_stop = offset + pl.min_horizontal("stop", pl.col("n") - pl.col("n_suffix"))
    arguments = offset + pl.col("n_prefix")
    return spans.with_columns(
        author=pl.coalesce("author", by_kind),
        flags=pl.when(invented).then(pl.lit(["invented"])).otherwise(pl.col("flags").fill_null([])),
        start=pl.col("start") + offset,
        stop=pl.col("stop") + offset,
        body_start=pl.col("body_start") + offset,
        body_stop=pl.col("body_stop") + offset,
        logged_start=pl.when(rendered).then(logged_start),
        logged_stop=pl.when(rendered).then(logged_stop),
        arguments_start=pl.col("arguments_start") + arguments,
        arguments_stop=pl.col("arguments_stop") + arguments,
        hidden=pl.col("hidden").fill_null(False),
        opaque=pl.col("opaque").fill_null([]),
    )


def _number_steps(spans: pl.DataFrame) -> pl.DataFrame:
    """Number the agent's decisions.

    A step opens at the first reason or act after an observation or context, and at a reason after an act.
    """
    kind, before = pl.col("kind"), pl.col("kind").shift(1).over("row").fill_null("context")
    agent = kind.is_in(["reason", "act"])
    opens = agent & (before.is_in(["context", "observation"]) | ((kind == "reason") & (before == "act")))
    number = opens.cast(pl.Int64).cum_sum().over("row") - 1
    spans = spans.with_columns(step=pl.when((kind != "context") & (number >= 0)).then(number))
    return _answer_calls(spans)


def _answer_calls(spans: pl.DataFrame) -> pl.DataFrame:
    """An observation that names its call has that call's step, however late it comes."""
    if not spans["call_id"].null_count() < spans.height:
        return spans
    # Some logs give the same id to several calls: a result answers the last such before it.
    asked = pl.when((pl.col("kind") == "act") & pl.col("call_id").is_not_null()).then("step")
    call_step = pl.coalesce(asked.forward_fill(), asked.backward_fill()).over("row", "call_id")
    answers = (pl.col("kind") == "observation") & pl.col("call_id").is_not_null()
    return spans.with_columns(step=pl.when(answers).then(pl.coalesce(call_step, "step")).otherwise("step"))


def _cut_lines(pieces: pl.DataFrame, dialect: str | None, *, whole: bool) -> pl.DataFrame:
    """Spans of pieces that share a dialect, offsets within the piece; `kind` null before the first label.

    A piece that is `whole` is one span; a label on its first line is not part of its body.

    The lines of all pieces stand in one column, and one running sum of their lengths gives every offset: exact code
    points by construction, no window, no sentinel that the text might hold.
    """
    lines = pieces.select("row", "piece", line=pl.col("text").str.split("\n")).explode("line")
    line, piece = lines["line"], lines["piece"]
    length = line.str.len_chars().to_numpy().astype(np.int64) + 1
    line_start = length.cumsum() - length
    # Every piece has one line break less than it has lines, so it takes its length plus one in the running sum.
    piece_first = _first_of_run(piece)
    base = np.repeat(line_start[piece_first], np.diff(np.append(piece_first, len(line))))

    opens = _opening_lines(lines, dialect, only=piece_first if whole else None)
    begins_piece = np.zeros(len(line), bool)
    begins_piece[piece_first] = True
    begins_span = begins_piece.copy()
    begins_span[opens["at"].to_numpy()] = True
    at = np.flatnonzero(begins_span)
    hits = pl.DataFrame({"at": at}).join(opens, on="at", how="left", maintain_order="left")
    label = hits["n_label"].fill_null(0).to_numpy().astype(np.int64)
    if whole:
        rendered = pieces["prefix"].str.extract(r"^([A-Za-z ]+:)").str.len_chars().fill_null(0)
        label = np.maximum(label, rendered.to_numpy().astype(np.int64))
    start = line_start[at] - base[at]
    ends_piece = np.append(begins_piece[at[1:]], True)
    n_chars = pieces["n"].to_numpy()[np.cumsum(begins_piece[at]) - 1]
    stop = np.where(ends_piece, n_chars, np.append(start[1:], 0))
    body_start, body_stop = _bodies(line, line_start - base, at, label)
    cut = pl.DataFrame(
        {
            "piece": piece.gather(at),
            "kind": _kind_of_whole(pieces["kind"], hits["kind"]) if whole else hits["kind"],
            "start": start,
            "stop": stop,
            "body_start": body_start,
            "body_stop": body_stop,
        },
        schema=_CUT,
    )
    return _join_leading_blanks(cut, pieces)


def _kind_of_whole(given: pl.Series, by_label: pl.Series) -> pl.Series:
    """The kind a format gave, else observation where a label says so, else null."""
    label = pl.DataFrame({"given": given, "label": by_label})
    observation = pl.when(pl.col("label") == "observation").then("label")
    return label.select(pl.coalesce("given", observation)).to_series()


def _join_leading_blanks(cut: pl.DataFrame, pieces: pl.DataFrame) -> pl.DataFrame:
    """Blank lines before a message's first label belong to the label's span: they are no thought of their own."""
    spoken = pieces.filter(pl.col("author") == "agent")["piece"]
    blank = (
        pl.col("kind").is_null()
        & (pl.col("body_start") == pl.col("body_stop"))
        & (pl.col("piece").shift(-1) == pl.col("piece"))
        & pl.col("piece").is_in(spoken.implode())
    )
    return (
        cut.with_columns(blank=blank.fill_null(False))
        .with_columns(
            start=pl.when(pl.col("blank").shift(1, fill_value=False)).then(pl.col("start").shift(1)).otherwise("start")
        )
        .filter(~pl.col("blank"))
        .drop("blank")
    )


def _first_of_run(series: pl.Series) -> _Ints:
    values = series.to_numpy()
    return np.flatnonzero(np.append(True, values[1:] != values[:-1]))


def _bodies(line: pl.Series, start: _Ints, at: _Ints, label: _Ints) -> tuple[_Ints, _Ints]:
    """Where each span's text stands without label, outer blanks and final line break.

    Args:
        line: all lines. start: offset of each in its piece.
        at: index of the line that opens each span. label: n_chars of its label.
    Returns:
        body_start, body_stop; both at the label's end where there is no text.
    """
    until = np.append(at[1:], len(line))
    filled = np.flatnonzero(line.str.contains(rf"[^{_BLANK}]").to_numpy())
    opening = line.gather(at).str.slice(pl.Series(label))
    rest = opening.str.strip_chars_start(_BLANK)
    n_rest = rest.str.len_chars().to_numpy().astype(np.int64)
    label_end = start[at] + label
    body_start = label_end + opening.str.len_chars().to_numpy().astype(np.int64) - n_rest

    # Empty after the label: the text begins on the next line that is not blank, if that is still this span's.
    following = np.append(filled, len(line))[np.searchsorted(filled, at + 1)]
    later = (n_rest == 0) & (following < until)
    taken = line.gather(following[later])
    indent = taken.str.len_chars() - taken.str.strip_chars_start(_BLANK).str.len_chars()
    body_start[later] = start[following[later]] + indent.to_numpy().astype(np.int64)

    last = np.append(filled, -1)[np.searchsorted(filled, until) - 1]
    has_text = (last >= at) & ((n_rest > 0) | later)
    end = line.gather(np.where(has_text, last, at)).str.strip_chars_end(_BLANK).str.len_chars()
    body_stop = np.where(has_text, start[np.where(has_text, last, at)] + end.to_numpy().astype(np.int64), label_end)
    return np.where(has_text, body_start, label_end), body_stop


def _opening_lines(lines: pl.DataFrame, dialect: str | None, *, only: _Ints | None) -> pl.DataFrame:
    """Lines that open a span: `at` (line index), `kind`, `n_label` (characters).

    Args:
        only: lines that may; None for any.
    """
    nothing = pl.DataFrame(schema={"at": pl.Int64(), "kind": pl.String(), "n_label": pl.Int64()})
    if dialect is None:
        return nothing
    pattern = LABELS[dialect]
    found = lines.with_row_index("at").with_columns(pl.col("at").cast(pl.Int64))
    if dialect == "prompt":
        # An observation is a run of lines that are no commands; only its first line with text opens it.
        found = found.filter(pl.col("line").str.contains(pattern) | pl.col("line").str.contains(rf"[^{_BLANK}]"))
        command = pl.col("line").str.contains(pattern)
        answered = command.shift(1).over("piece").fill_null(False)
        found = found.filter(command | answered)
    else:
        found = found.filter(pl.col("line").str.contains(pattern))
    found = found.filter(pl.col("at") > _examples_end(lines, pl.col("piece")))
    label = pl.col("line").str.extract(f"({pattern})").fill_null("")
    found = found.with_columns(n_label=label.str.len_chars().cast(pl.Int64), kind=_kind_of_line(dialect))
    if only is not None:
        found = found.filter(pl.col("at").is_in(only.tolist()))
    elif dialect == "react-numbered":
        found = _follow_numbering(found)
    if dialect == "webshop":
        found = _drop_reset(found)
    return found.select("at", "kind", "n_label") if found.height else nothing


def _examples_end(lines: pl.DataFrame, piece: pl.Expr) -> pl.Expr:
    marks = (
        lines.with_row_index("at")
        .filter(pl.col("line").str.strip_chars(_BLANK) == EXAMPLES_END)
        .group_by("piece")
        .agg(pl.col("at").max().cast(pl.Int64))
    )
    if marks.is_empty():
        return pl.lit(-1, pl.Int64)
    return piece.replace_strict(marks["piece"], marks["at"], default=-1, return_dtype=pl.Int64)


def _kind_of_line(dialect: str) -> pl.Expr:
    line = pl.col("line")
    if dialect == "prompt":
        command = line.str.starts_with(">")
        thought = line.str.contains(r"^> ?(?:[Tt]hink|ActionPath):")
        return (
            pl.when(thought).then(pl.lit("reason")).when(command).then(pl.lit("act")).otherwise(pl.lit("observation"))
        )
    if dialect == "webshop":
        thought = line.str.starts_with("Action: think[")
    else:
        thought = line.str.starts_with("Thought") | line.str.starts_with("ActionPath")
    observation = line.str.starts_with("Observation")
    return (
        pl.when(thought).then(pl.lit("reason")).when(observation).then(pl.lit("observation")).otherwise(pl.lit("act"))
    )


def _follow_numbering(found: pl.DataFrame) -> pl.DataFrame:
    """Keep labels whose number is the current or the next: others are quoted in what the agent or a page says.

    The number runs on through all messages of a trajectory.
    """
    found = found.with_columns(number=pl.col("line").str.extract(r" ([0-9]+):").str.to_integer(strict=False))
    number = found["number"].fill_null(-1).to_numpy()
    first = _first_of_run(found["row"]) if found.height else np.array([], np.int64)
    jump = np.diff(number, prepend=0)
    jump[first] = np.where(number[first] == 1, 1, 2)  # a text that does not begin at 1 needs the slow look
    odd = np.unique(found["row"].to_numpy()[(jump < 0) | (jump > 1)])
    if not len(odd):
        return found
    keep = np.ones(found.height, bool)
    row = found["row"].to_numpy()
    for which in odd:
        labels = np.flatnonzero(row == which)
        keep[labels] = in_sequence(number[labels].tolist())
    return found.filter(keep)


def in_sequence(numbers: list[int]) -> list[bool]:
    """Which labels of a numbered text are real, from their numbers in order of appearance.

    A run begins at its first 0 or 1 (or, if it has none, at its first label), and each label repeats the current
    number or goes on to the next.

    >>> in_sequence([1, 1, 7, 1, 2, 2])
    [True, True, False, True, True, True]
    """
    begin = next((index for index, number in enumerate(numbers) if number in (0, 1)), 0)
    keep = [False] * len(numbers)
    current = numbers[begin]
    for index in range(begin, len(numbers)):
        if numbers[index] in (current, current + 1):
            keep[index] = True
            current = numbers[index]
    return keep


def _drop_reset(found: pl.DataFrame) -> pl.DataFrame:
    """`Action: reset` is the harness's, and the page that answers it is the prompt: neither opens a span."""
    reset = pl.col("line").str.contains(r"^Action: reset[ \t]*\r?$")
    answer = reset.shift(1).over("piece").fill_null(False) & (pl.col("kind") == "observation")
    return found.filter(~(reset | answer))
