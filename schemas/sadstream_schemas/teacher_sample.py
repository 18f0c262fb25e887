"""One window of a trajectory with what the teacher said about it."""

from typing import Annotated

from msgspec import Meta, Struct

Column = Annotated[bytes, Meta(description="A compressed column; docs/teacher-shards.md gives its layout.")]


class TeacherSample(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One window of a trajectory with the teacher's top-k at its supervised tokens.

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
