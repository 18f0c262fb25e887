"""Columns of the frames that flow from reading to shards, one row a trajectory."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import polars as pl
from polars.io.plugins import register_io_source

from sadstream_schemas import TRAJECTORY_VERSION, Outcome, Source, Span, Trajectory

SOURCE = pl.Struct({"file": pl.String, "record": pl.String, "format": pl.String, "format_version": pl.String})

OUTCOME = pl.Struct(
    {"success": pl.Boolean, "reward": pl.Float64, "ending": pl.String, "answer": pl.String, "gold": pl.String}
)

# A piece is what a format knows before the text is cut. `kind` null: the row's dialect cuts it by its labels.
# Rendering adds `prefix` and `suffix`, which the log does not hold; `arguments_start` and `arguments_stop` count within
# `text`; `opaque` and `extra` hold JSON text. All but `text` may be null.
PIECE = pl.Struct(
    {
        "kind": pl.String,
        "author": pl.String,
        "message": pl.Int64,
        "prefix": pl.String,
        "text": pl.String,
        "suffix": pl.String,
        "call_id": pl.String,
        "name": pl.String,
        "syntax": pl.String,
        "arguments_start": pl.Int64,
        "arguments_stop": pl.Int64,
        "hidden": pl.Boolean,
        "error": pl.Boolean,
        "flags": pl.List(pl.String),
        "opaque": pl.List(pl.String),
        "extra": pl.String,
    }
)

# The fields of sadstream_schemas.Span; `opaque` and `extra` hold JSON text.
SPAN_FIELDS: dict[str, pl.DataType] = {
    "kind": pl.String(),
    "start": pl.Int64(),
    "stop": pl.Int64(),
    "body_start": pl.Int64(),
    "body_stop": pl.Int64(),
    "author": pl.String(),
    "step": pl.Int64(),
    "message": pl.Int64(),
    "logged_start": pl.Int64(),
    "logged_stop": pl.Int64(),
    "call_id": pl.String(),
    "name": pl.String(),
    "arguments_start": pl.Int64(),
    "arguments_stop": pl.Int64(),
    "syntax": pl.String(),
    "hidden": pl.Boolean(),
    "error": pl.Boolean(),
    "flags": pl.List(pl.String()),
    "opaque": pl.List(pl.String()),
    "extra": pl.String(),
}
SPAN = pl.Struct(SPAN_FIELDS)

LOG_SCHEMA: dict[str, pl.DataType] = {
    "id": pl.String(),
    "source": SOURCE,
    "task_id": pl.String(),
    "task": pl.String(),
    "tools": pl.List(pl.String()),
    "outcome": OUTCOME,
    "parent_id": pl.String(),
    "dialect": pl.String(),
    "text": pl.String(),
    "pieces": pl.List(PIECE),
    "spans": pl.List(SPAN),
    "extra": pl.String(),
    "refused": pl.String(),
    "detail": pl.String(),
}


def scan_blocks(blocks: Callable[[], Iterable[pl.DataFrame]], schema: dict[str, pl.DataType]) -> pl.LazyFrame:
    """Blocks of a frame as a LazyFrame that makes them when it is collected, and only as many as are asked for.

    Args:
        blocks: gives them anew at each call, each with `schema`.
    """
    return scan_columns(lambda _: blocks(), schema)


def scan_columns(blocks: Callable[[list[str]], Iterable[pl.DataFrame]], schema: dict[str, pl.DataType]) -> pl.LazyFrame:
    """As `scan_blocks`, of blocks that are made with the columns that are asked for, or more."""

    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        asked = set(schema if with_columns is None else with_columns)
        asked.update(() if predicate is None else predicate.meta.root_names())
        for block in blocks([name for name in schema if name in asked]):
            chosen = block if predicate is None else block.filter(predicate)
            if n_rows is not None:
                chosen = chosen.head(n_rows)
                n_rows -= chosen.height
            yield chosen if with_columns in (None, chosen.columns) else chosen.select(with_columns)
            if n_rows == 0:
                return

    return register_io_source(source, schema=schema)


class Draft(msgspec.Struct, kw_only=True):
    """A trajectory as a format read it, before it is cut; fields as in `LOG_SCHEMA`.

    Either `text` (one text that the dialect cuts), `pieces` (messages, rendered one after another) or `spans`
    (already cut, with `text`) is given.
    """

    file: str = ""
    record: str = ""
    format: str = ""
    format_version: str | None = None
    id: str | None = None
    task_id: str | None = None
    task: str | None = None
    tools: list[str] = []
    success: bool | None = None
    reward: float | None = None
    ending: str = "unknown"
    answer: str | None = None
    gold: str | None = None
    parent_id: str | None = None
    dialect: str | None = None
    text: str | None = None
    pieces: list[dict[str, Any]] | None = None
    spans: list[dict[str, Any]] | None = None
    extra: str = "{}"
    refused: str | None = None
    detail: str | None = None

    @property
    def n_chars(self) -> int:
        """Size of what will be cut, to bound a block's memory."""
        return len(self.text or "") + sum(len(p["text"]) for p in self.pieces or ())


def log_frame(drafts: list[Draft]) -> pl.DataFrame:
    """Drafts as a frame with `LOG_SCHEMA`.

    An id that the format did not give is made of file and record number, which no other trajectory of the same
    arguments shares.
    """
    rows = [
        {
            "id": d.id or f"{d.file}#{d.record}",
            "source": {
                "file": d.file,
                "record": d.record,
                "format": d.format,
                "format_version": d.format_version,
            },
            "task_id": d.task_id,
            "task": d.task,
            "tools": d.tools,
            "outcome": {
                "success": d.success,
                "reward": d.reward,
                "ending": d.ending,
                "answer": d.answer,
                "gold": d.gold,
            },
            "parent_id": d.parent_id,
            "dialect": d.dialect,
            "text": d.text,
            "pieces": d.pieces,
            "spans": d.spans,
            "extra": d.extra,
            "refused": d.refused,
            "detail": d.detail,
        }
        for d in drafts
    ]
    return pl.DataFrame(rows, schema=LOG_SCHEMA)


def span_row(span: Span) -> dict[str, Any]:
    """A span as a row of the frame: fields as in `SPAN_FIELDS`."""
    row = msgspec.structs.asdict(span)
    row["opaque"] = [bytes(raw).decode() for raw in span.opaque]
    row["extra"] = _json(span.extra) if span.extra else None
    return row


def trajectory_row(trajectory: Trajectory) -> dict[str, Any]:
    """A trajectory as a row of a segmented frame."""
    return {
        "id": trajectory.id,
        "source": msgspec.structs.asdict(trajectory.source),
        "task_id": trajectory.task_id,
        "task": trajectory.task,
        "tools": [bytes(tool).decode() for tool in trajectory.tools],
        "outcome": msgspec.structs.asdict(trajectory.outcome),
        "parent_id": trajectory.parent_id,
        "text": trajectory.text,
        "spans": [span_row(span) for span in trajectory.spans],
        "extra": _json(trajectory.extra),
    }


def row_trajectory(row: dict[str, Any]) -> Trajectory:
    """The record of a segmented frame's row (as `DataFrame.iter_rows(named=True)` gives it).

    Raises:
        msgspec.ValidationError: a column holds what the record does not allow.
    """
    return Trajectory(
        format_version=TRAJECTORY_VERSION,
        id=row["id"],
        source=Source(**row["source"]),
        task_id=row["task_id"],
        task=row["task"],
        tools=[msgspec.Raw(tool.encode()) for tool in row["tools"] or ()],
        outcome=Outcome(**row["outcome"]),
        parent_id=row["parent_id"],
        text=row["text"],
        spans=[_row_span(span) for span in row["spans"]],
        extra=_raws(row["extra"]),
    )


def _row_span(row: dict[str, Any]) -> Span:
    # In place: the row was made for this call, and a copy a span shows in the time a shard takes.
    row["opaque"] = [msgspec.Raw(text.encode()) for text in row["opaque"]] if row["opaque"] else []
    row["extra"] = _raws(row["extra"])
    row["flags"] = row["flags"] or []
    row["hidden"] = bool(row["hidden"])
    return Span(**row)


def _raws(text: str | None) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(text, type=dict[str, msgspec.Raw]) if text and text != "{}" else {}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
