"""One window of a trajectory with what the teacher said about it."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Column = Annotated[bytes, Meta(description="A column; docs/teacher-shards.md gives its layout.")]


class TeacherSample(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One window of a trajectory with what the teacher said of its supervised tokens.

    T tokens, S of them supervised, at most K teacher ids each, U different ones in all.
    `sadstream.decode_teacher_sample` turns the record's bytes into NumPy arrays.
    """

    format_version: Annotated[int, Meta(ge=1)]
    trajectory_id: str
    window: Annotated[int, Meta(ge=0, description="Which window of the trajectory, from 0.")]
    n_tokens: Annotated[int, Meta(ge=1, description="T")]
    n_supervised: Annotated[int, Meta(ge=0, description="S")]
    top_k: Annotated[int, Meta(ge=1, description="K: ids of the row that has most.")]
    vocab_size: Annotated[int, Meta(ge=1, le=1 << 22, description="Size of the teacher's output layer.")]
    mode: Annotated[Literal["top-k", "sample"], Meta(description="Whether ids are the likeliest, or were drawn.")]
    levels: Annotated[int, Meta(ge=1, le=1000, description="What a code counts in: see the layout.")]
    n_ids: Annotated[int, Meta(ge=0, description="U")]
    token_ids: Column
    kinds: Column
    steps: Column
    per_row: Column
    ids: Column
    symbols: Column
    symbols_low: Column
    codes_deep: Column
    codes_top: Column
    codes_beyond: Column
    numbers_low: Column
    numbers_high: Column


class TeacherSample1(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A teacher sample of format 1, which is still read.

    T tokens, S of them supervised, K teacher ids each. Columns are little-endian, each compressed by itself.
    `sadstream.decode_teacher_sample` turns the record's bytes into NumPy arrays.
    """

    format_version: Annotated[int, Meta(ge=1)]
    trajectory_id: str
    window: Annotated[int, Meta(ge=0, description="Which window of the trajectory, from 0.")]
    n_tokens: Annotated[int, Meta(ge=1, description="T")]
    n_supervised: Annotated[int, Meta(ge=0, description="S")]
    top_k: Annotated[int, Meta(ge=1, description="K")]
    vocab_size: Annotated[int, Meta(ge=1, description="Size of the teacher's output layer.")]
    token_ids: Column
    kinds: Column
    steps: Column
    supervised: Column
    topk_ids: Column
    topk_codes: Column
    topk_scales: Column
    tail: Column
    entropy: Column
    token_logprobs: Column
