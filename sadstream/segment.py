"""Cut trajectories into spans: LazyFrame -> LazyFrame, row-local, block by block."""

from collections.abc import Iterator

import numpy as np
import polars as pl

from sadstream.cut import cut
from sadstream.frames import PIECE, SPAN, SPAN_FIELDS, scan_columns
from sadstream.labels import in_sequence
from sadstream.utf8 import Ints

__all__ = ["cut_spans", "in_sequence", "segment"]

# Blocks that are larger leave the processor's cache, smaller ones cost more calls than cutting.
_BLOCK_BYTES = 4_000_000
# After it has freed as much as this at once, glibc keeps what a block frees for the next one; it would give the pages
# back and ask for them again, block for block.
_KEPT_BYTES = 8_000_000
_NEEDS: dict[str, pl.DataType] = {
    "text": pl.String(),
    "dialect": pl.String(),
    "pieces": pl.List(PIECE),
    "spans": pl.List(SPAN),
}


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
    kept = {name: dtype for name, dtype in logs.collect_schema().items() if name not in _NEEDS}
    return logs.map_batches(
        _segment_block, schema={**kept, "text": pl.String(), "spans": pl.List(SPAN)}, streamable=True
    )


def cut_spans(logs: pl.LazyFrame) -> pl.LazyFrame:
    """The spans of trajectories, one row a span: `segment` without the lists, for what asks about spans only.

    Row-local and streamed as `segment` is; a trajectory without spans gives no row. Select the columns that are worth
    repeating, as `id`, before.

    Needs: as `segment`.
    Adds: the fields of `sadstream.Span` as columns; a column of the same name gives way. All others but `text`,
        `pieces`, `spans` and `dialect`, which are dropped, are repeated for each span.

    >>> frame = pl.LazyFrame({"id": ["a", "b"], "text": ["> go\\nOK\\n> go\\nOK\\n", "> look\\n"]})
    >>> acts = cut_spans(frame).filter(pl.col("kind") == "act")
    >>> acts.group_by("id", maintain_order=True).len().collect().rows()
    [('a', 2), ('b', 1)]
    """
    kept = _repeated(logs.collect_schema())
    return scan_columns(lambda columns: (_cut_block(b, columns) for b in _blocks(logs)), {**kept, **SPAN_FIELDS})


def _blocks(logs: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """A frame in blocks of about so much text that cutting costs more than calling."""
    np.empty(_KEPT_BYTES, np.uint8)
    gathered: list[pl.DataFrame] = []
    n_bytes = 0.0
    for batch in logs.collect_batches(maintain_order=True, lazy=True):
        gathered.append(batch)
        n_bytes += batch.estimated_size()
        if n_bytes >= _BLOCK_BYTES:
            yield pl.concat(gathered)
            gathered, n_bytes = [], 0.0
    if gathered:
        yield pl.concat(gathered)


def _repeated(schema: pl.Schema) -> dict[str, pl.DataType]:
    return {name: dtype for name, dtype in schema.items() if name not in _NEEDS and name not in SPAN_FIELDS}


def _segment_block(block: pl.DataFrame) -> pl.DataFrame:
    given = _given(block)
    row, spans, text = cut(_uncut(block, given))
    lists = _as_lists(row, spans, block.height)
    cut_short = _ends_in_thought(lists)
    if given is not None:
        lists = given.zip_with(given.is_not_null(), lists)
        text = block["text"].zip_with(given.is_not_null(), text)
    block = block.drop(_NEEDS, strict=False)
    if "outcome" in block.columns:
        block = block.with_columns(outcome=_with_ending(pl.col("outcome"), cut_short=cut_short))
    return block.with_columns(text.alias("text"), lists.alias("spans"))


def _cut_block(block: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    given = _given(block)
    fields = [name for name in columns if name in SPAN_FIELDS] or ["kind"]
    row, spans, _ = cut(_uncut(block, given), fields)
    if given is not None:
        before = pl.DataFrame({"row": np.arange(block.height), "span": given}).drop_nulls("span")
        before = before.explode("span", empty_as_null=False)
        both = pl.concat([spans.with_columns(row=row), before.unnest("span").select(*fields, "row")])
        both = both.sort("row", maintain_order=True)
        row, spans = both["row"].to_numpy(), both.drop("row")
    repeated = [name for name in columns if name not in SPAN_FIELDS]
    return block[repeated].rechunk()[pl.Series(row.astype(np.uint32))].hstack(spans) if repeated else spans


def _given(block: pl.DataFrame) -> pl.Series | None:
    """Spans of the rows that are cut already; None where there is no such row."""
    spans = block["spans"] if "spans" in block.columns else None
    return spans if spans is not None and spans.null_count() < len(spans) else None


def _uncut(block: pl.DataFrame, given: pl.Series | None) -> pl.DataFrame:
    """What there is to cut, a row a trajectory; nothing where spans are given."""
    if "text" not in block.columns:
        block = block.with_columns(text=pl.lit(None, pl.String))
    rows = block[[name for name in ("text", "pieces", "dialect") if name in block.columns]]
    return rows if given is None else rows.with_columns(pl.when(given.is_null()).then(pl.all()))


def _ends_in_thought(spans: pl.Series) -> pl.Series:
    return (spans.list.last().struct.field("kind") == "reason").fill_null(False)


def _with_ending(outcome: pl.Expr, *, cut_short: pl.Series) -> pl.Expr:
    """A run that stops after a thought, and of which the log does not say how it ended, was truncated."""
    ending = outcome.struct.field("ending")
    return outcome.struct.with_fields(
        ending=pl.when(cut_short & (ending == "unknown")).then(pl.lit("truncated")).otherwise(ending)
    )


def _as_lists(row: Ints, spans: pl.DataFrame, n_rows: int) -> pl.Series:
    """Spans as a list a row; empty where a row has none."""
    lists = spans.select(row=row, span=pl.struct(*SPAN_FIELDS)).group_by("row", maintain_order=True).agg("span")
    if lists.height == n_rows:
        return lists["span"]
    every = pl.DataFrame({"row": np.arange(n_rows)}).join(lists, on="row", how="left", maintain_order="left")
    return every.select(pl.col("span").fill_null(pl.lit([], pl.List(SPAN)))).to_series()
