"""How long work tells how far it is."""

from typing import Protocol


class Progress(Protocol):
    """Told now and then how far the work is; cheap to call often."""

    def __call__(self, done: int, total: int | None, unit: str, note: str = "") -> None:
        """`done` of `total` (None: unknown) `unit`s, and a short note on what is going on."""


def silent(done: int, total: int | None, unit: str, note: str = "") -> None:
    """A `Progress` that says nothing."""
