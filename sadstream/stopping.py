"""When a run ends before its last update: Ctrl-C, a loss that is no number, a loss that leaps."""

import contextlib
import math
import signal
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sadstream.errors import TrainingError

_BEFORE = 32
_NAMED = 8


@contextlib.contextmanager
def watching_for_interrupt() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed since: the first one waits until it is asked for, a second one interrupts at once."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def press(number: int, frame: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def refuse_bad_update(
    update: int, loss: float, norm: float, before: Sequence[float], spike: float, keys: Callable[[], Sequence[str]]
) -> None:
    """Stop before a bad update reaches the weights.

    Args:
        update: its number, from 1. norm: of its gradient, before clipping.
        before: the losses of earlier updates, oldest first.
        spike: how many times the median of the 32 updates before it a loss may be; 0 is any. With fewer than 32
            before it, nothing is known yet and nothing is refused.
        keys: gives those of its samples; asked in case of need only.
    Raises:
        TrainingError: loss or gradient is no number, or the loss leaps; names the samples.
    """
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise TrainingError(
            f"update {update}: the loss is {loss} (gradient norm {norm}); samples {_named(keys())}",
            hint="checkpoints before it are whole; try a smaller --lr, with another --out if there are any",
        )
    if spike and len(before) >= _BEFORE:
        usual = statistics.median(before[-_BEFORE:])
        if loss > spike * usual:
            raise TrainingError(
                f"update {update}: the loss is {loss:.4g}, more than {spike:g} times the {usual:.4g} of the "
                f"{_BEFORE} updates before it; samples {_named(keys())}",
                hint="checkpoints before it are whole; look at the samples, or set spike = 0 in a --config and go on",
            )


def _named(keys: Sequence[str]) -> str:
    return ", ".join(keys[:_NAMED]) + (f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else "")
