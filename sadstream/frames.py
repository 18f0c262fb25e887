"""Columns of the frames that flow from reading to shards, one row a trajectory."""

from typing import Any

import msgspec
import polars as pl

SOURCE = pl.Struct({"file": pl.String, "record": pl.String, "format": pl.String, "format_version": pl.String})

OUTCOME = pl.Struct(
    {"success": pl.Boolean, "reward": pl.Float64, "ending": pl.String, "answer": pl.String, "gold": pl.String}
)

# A piece is what a format knows before the text is cut. `kind` null: the row's dialect cuts it by its labels.
# `suffix` is what rendering adds and the log does not hold.
PIECE = pl.Struct(
    {"kind": pl.String, "author": pl.String, "message": pl.Int64, "text": pl.String, "suffix": pl.String}
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


class Draft(msgspec.Struct, kw_only=True):
    """A trajectory as a format read it, before it is cut; fields as in `LOG_SCHEMA`.

    Either `text` (one text that the dialect cuts), `pieces` (messages, rendered one after another) or `spans`
    (already cut, with `text`) is given.
    """

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


def log_frame(drafts: list[Draft], file: str) -> pl.DataFrame:
    """Drafts of one file as a frame with `LOG_SCHEMA`.

    An id that the format did not give is made of file and record number, which no other trajectory of the same
    arguments shares.
    """
    rows = [
        {
            "id": d.id or f"{file}#{d.record}",
            "source": {
                "file": file,
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
