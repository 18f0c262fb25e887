"""Span shards to windows of tokens, ready to ask a teacher about. Imports no torch."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sadstream.chat import Rendering, render_chat
from sadstream.chat_template import Template
from sadstream.errors import RenderError
from sadstream.logged_tokens import Written
from sadstream.manifest import read_manifest
from sadstream.messages import logged_place
from sadstream.shards import decode_trajectory, iter_shard, read_index
from sadstream.tokens import Cut, Window, cut_windows, supervised_tokens, token_kinds
from sadstream_schemas import Trajectory

Positions = Literal["supervised", "all"]
_STEP = re.compile(r" of step \d+")
Render = Literal["auto", "text", "chat"]


class Tokenised(NamedTuple):
    """A text of a trajectory as tokens.

    Attributes:
        text: the trajectory's own, or as a template renders it.
        written: the pieces of it that the agent wrote in messages of its own.
        token_ids: int64 [T]. offsets: int64 [T, 2], code points of the text. kinds: uint8 [T]. steps: int32 [T].
    """

    text: str
    written: tuple[Written, ...]
    token_ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    steps: NDArray[np.int32]


class Job(NamedTuple):
    """A window to ask the teacher about.

    Attributes:
        render: `text`: the trajectory's own text; `chat`: through the tokenizer's chat template.
        refusal: why it is text although it was logged as messages and there is a template; else "".
        number: of the window in its trajectory, from 0.
        tokenised: the whole that the window is of.
    """

    trajectory: Trajectory
    render: Literal["text", "chat"]
    refusal: str
    row: dict[str, Any]
    number: int
    window: Window
    token_ids: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    steps: NDArray[np.int32]
    tokenised: Tokenised


def _trajectories(spans: Path) -> Iterator[tuple[Trajectory, dict[str, Any]]]:
    for shard in read_manifest(spans, "segment").shards:
        for (key, data), row in zip(iter_shard(spans, shard), read_index(spans, shard), strict=True):
            yield decode_trajectory(data, f"{spans / shard.name}: sample {key}"), row


class Plan(NamedTuple):
    """How trajectories become windows.

    Attributes:
        tokenizer: a fast one of transformers.
        template: its chat template; None where it has none or none is wanted.
        render: `auto`: what was logged as messages goes through the template if that takes it, all else is text.
        max_length: tokens a window at most.
        positions: which tokens are asked about.
        limit: windows at most; 0 is all.
    """

    tokenizer: Any
    template: Template | None
    render: Render
    max_length: int
    positions: Positions
    limit: int


def plan_windows(spans: Path, plan: Plan) -> Iterator[Job]:
    """The windows of a folder of span shards, in their order.

    Raises:
        RenderError: `render` is `chat` and the template does not take a trajectory; names it and the part.
    """
    jobs = (job for trajectory, row in _trajectories(spans) for job in windows_of(trajectory, row, plan))
    return islice(jobs, plan.limit) if plan.limit else jobs


def windows_of(trajectory: Trajectory, row: dict[str, Any], plan: Plan) -> Iterator[Job]:
    """The windows of one trajectory, without `plan.limit`; errors as `plan_windows`.

    Args:
        row: of the index, handed on.
    """
    rendered, refusal = _rendered(trajectory, plan)
    render: Literal["text", "chat"] = "text" if rendered is None else "chat"
    number = 0
    for tokenised in _tokens(trajectory, plan, rendered):
        token_ids, kinds, steps = tokenised.token_ids, tokenised.kinds, tokenised.steps
        supervised = supervised_tokens(kinds, everything=plan.positions == "all")
        # The first token is never supervised, so it counts as prompt even where the agent wrote it.
        written = np.flatnonzero(supervised_tokens(kinds))
        prompt_stop = int(written[0]) if len(written) else len(kinds)
        for window in cut_windows(supervised, steps, plan.max_length, prompt_stop=prompt_stop):
            at = window.tokens
            ids = token_ids[at]
            yield Job(trajectory, render, refusal, row, number, window, ids, kinds[at], steps[at], tokenised)
            number += 1


def _rendered(trajectory: Trajectory, plan: Plan) -> tuple[list[Rendering] | None, str]:
    """A trajectory through the template, or None, and why it is not where the template refused."""
    if plan.template is None or plan.render == "text":
        return None, ""
    if plan.render == "auto" and not _logged_as_messages(trajectory):
        return None, ""
    try:
        return render_chat(trajectory, plan.template), ""
    except RenderError as error:
        if plan.render == "auto":
            # Alike whatever the step, so that like reasons can be counted together.
            return None, _STEP.sub("", str(error)).removeprefix(f"{plan.template.name}: ")
        raise RenderError(
            f"{trajectory.id}: {error}", hint="--render auto renders what the template does not take as text"
        ) from error


def _logged_as_messages(trajectory: Trajectory) -> bool:
    # A chat that is logged as one string in a template's own marks is text: its marks would be written twice.
    marked = trajectory.source.format.startswith("chatml")
    return not marked and any(span.message is not None for span in trajectory.spans)


def _tokens(trajectory: Trajectory, plan: Plan, rendered: list[Rendering] | None) -> Iterator[Tokenised]:
    """Each text of a trajectory."""
    if rendered is None:
        text, spans = trajectory.text, trajectory.spans
        encoded = plan.tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
        yield _tokenised(text, spans, encoded, encoded["special_tokens_mask"], _written(trajectory))
        return
    for rendering in rendered:
        # Special tokens stand in the text, and the one that ends a turn of the agent's is learnt.
        encoded = plan.tokenizer(rendering.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        special = np.zeros(len(encoded["input_ids"]), bool)
        yield _tokenised(rendering.text, rendering.cuts, encoded, special, _written_in_chat(rendering))


def _tokenised(text: str, cuts: Sequence[Cut], encoded: Any, special: Any, written: Iterable[Written]) -> Tokenised:
    offsets = np.array(encoded["offset_mapping"], np.int64).reshape(-1, 2)
    kinds, steps = token_kinds(offsets, special, cuts)
    return Tokenised(text, tuple(written), np.array(encoded["input_ids"], np.int64), offsets, kinds, steps)


def _written(trajectory: Trajectory) -> Iterator[Written]:
    for span in trajectory.spans:
        if span.author == "agent" and span.message is not None:
            start, stop = logged_place(span)
            yield Written(span.message, span.start, span.stop, trajectory.text[start:stop])


def _written_in_chat(rendering: Rendering) -> Iterator[Written]:
    for cut in rendering.cuts:
        if cut.logged_as is not None:
            yield Written(cut.logged_as, cut.start, cut.stop, cut.words)
