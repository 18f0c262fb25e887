"""Character spans to token kinds, and long trajectories to windows. NumPy only."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sadstream_schemas import Kind

CONTEXT, REASON, ACT, OBSERVATION = range(4)
KIND_CODES = {"context": CONTEXT, "reason": REASON, "act": ACT, "observation": OBSERVATION}

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Cut(Protocol):
    """What a piece of a text is: a `sadstream.Span`, or a piece of a rendered chat."""

    @property
    def kind(self) -> Kind: ...
    @property
    def stop(self) -> int: ...
    @property
    def step(self) -> int | None: ...


class TokenKinds(NamedTuple):
    """What each token belongs to.

    Attributes:
        kinds: uint8 [T]; 0 context, 1 reason, 2 act, 3 observation.
        steps: int32 [T]; -1 where a token belongs to no step.
    """

    kinds: NDArray[np.uint8]
    steps: NDArray[np.int32]


def token_kinds(offsets: Any, is_special: Any, spans: Sequence[Cut]) -> TokenKinds:
    """Kind and step of each token, by the span that holds its first code point.

    Args:
        offsets: int [T, 2], code points of the text that each token stands for, as tokenizers give them.
        is_special: bool [T]; tokens that the tokenizer added. They are context.
        spans: of the whole text, in order.
    """
    table = np.asarray(offsets, np.int64).reshape(-1, 2)
    n_tokens = len(table)
    first = table[:, 0].copy()
    # Some tokenizers leave a token's leading blank out of its offsets: what lies between two tokens is the latter's.
    before = np.maximum.accumulate(np.append(0, table[:-1, 1])) if n_tokens else first
    first = np.minimum(first, before)
    # A token that goes on with bytes of a code point begun before it keeps that code point.
    stops = np.array([span.stop for span in spans], np.int64)
    kinds = np.array([*(KIND_CODES[span.kind] for span in spans), CONTEXT], np.uint8)
    steps = np.array([*(-1 if span.step is None else span.step for span in spans), -1], np.int32)
    span_of = np.searchsorted(stops, first, side="right")
    special = np.asarray(is_special, bool)
    return TokenKinds(
        np.where(special, np.uint8(CONTEXT), kinds[span_of]), np.where(special, np.int32(-1), steps[span_of])
    )


def supervised_tokens(kinds: NDArray[np.uint8], *, everything: bool = False) -> Bools:
    """Which tokens the teacher is asked about: the agent's own, or all; never the first, which nothing precedes."""
    wanted = np.ones(len(kinds), bool) if everything else (kinds == REASON) | (kinds == ACT)
    wanted[:1] = False
    return wanted


class Window(NamedTuple):
    """A part of a trajectory that fits the model: the prompt, then some steps.

    Attributes:
        tokens: int64 [T], which of the trajectory's tokens; strictly rising.
        supervised: bool [T]; each supervised token of the trajectory is so in exactly one window.
        cut_prompt: the prompt's beginning was left out.
        cut_step: begins or ends inside a step, which is longer than a window.
    """

    tokens: Ints
    supervised: Bools
    cut_prompt: bool
    cut_step: bool


def cut_windows(supervised: Bools, steps: NDArray[np.int32], max_length: int, *, prompt_stop: int) -> list[Window]:
    """Cut a trajectory's tokens into windows of at most `max_length`, at step boundaries.

    Each window repeats the prompt (its end, if it takes over half of a window), then what its first step reacts to, as
    far as it fits. Tokens after a window's last supervised one are left out: nothing is learnt from them. A single
    step that is too long is cut inside; what goes on begins with a quarter of a window that was there before.

    Args:
        supervised: bool [T]. steps: int32 [T].
        max_length: at least 2.
        prompt_stop: where the prompt ends: index of the first token that the agent wrote.
    Returns:
        In order; none if nothing is supervised.
    """
    learnt = np.flatnonzero(supervised)
    if not len(learnt):
        return []
    first, last = int(learnt[0]), int(learnt[-1])
    if last < max_length:
        return [Window(np.arange(last + 1), supervised[: last + 1].copy(), False, False)]
    n_prompt = min(prompt_stop, max(1, max_length // 2))
    prompt = np.arange(prompt_stop - n_prompt, prompt_stop)
    # A step begins at its first supervised token, so that what answers the step before stays with that step.
    begins = np.append(first, learnt[1:][np.diff(steps[learnt]) != 0])
    ends = np.append(learnt[np.searchsorted(learnt, begins[1:]) - 1] + 1, last + 1)

    windows: list[Window] = []

    def room_from(start: int) -> int:
        """Tokens for what begins at `start`: inside the prompt itself there is none to repeat."""
        return max_length - (n_prompt if start >= prompt_stop else 0)

    def close(start: int, learn_from: int, stop: int, *, cut_step: bool) -> None:
        lead = prompt if start >= prompt_stop else prompt[:0]
        mask = supervised[start:stop].copy()
        mask[: learn_from - start] = False
        windows.append(
            Window(
                np.concatenate([lead, np.arange(start, stop)]),
                np.concatenate([np.zeros(len(lead), bool), mask]),
                start >= prompt_stop and n_prompt < prompt_stop,
                cut_step,
            )
        )

    def begin_at(learn_from: int, stop: int, reacts_to: int) -> int:
        """Where a window begins that learns from `learn_from` on, and is to reach `stop` if it can."""
        if learn_from < prompt_stop:
            return max(0, learn_from - max(1, max_length // 4))
        room = max_length - n_prompt
        quarter = learn_from - room // 4
        return max(prompt_stop, min(reacts_to, quarter), stop - room if stop - learn_from <= room else quarter)

    start = 0 if first < prompt_stop else prompt_stop
    learn_from, stop = first, first
    inside = False  # the open window begins inside a step
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        if end - start <= room_from(start):
            stop = end
            continue
        if stop > learn_from:
            close(start, learn_from, stop, cut_step=inside)
            start = begin_at(begin, end, stop)
            learn_from = begin
        inside = end - start > room_from(start)
        while end - start > room_from(start):
            taken = learnt[(learnt >= learn_from) & (learnt < start + room_from(start))]
            close(start, learn_from, int(taken[-1]) + 1, cut_step=True)
            learn_from = int(learnt[np.searchsorted(learnt, taken[-1], side="right")])
            start = begin_at(learn_from, end, learn_from)
        stop = end
    close(start, learn_from, stop, cut_step=inside)
    return windows
