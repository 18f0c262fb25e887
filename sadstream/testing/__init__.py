"""Prove a format of your own: checks of what comes out, and hypothesis strategies of what may go in.

The checks need nothing further; the strategies need hypothesis, which is imported when the first of them is asked for.
"""

import importlib
from typing import Any

from sadstream.testing.checks import check_format, check_spans, check_trajectory, step_numbers

_STRATEGIES = (
    "chats",
    "damaged",
    "json_values",
    "runs",
    "spans",
    "texts",
    "topk",
    "trajectories",
    "transcripts",
)

__all__ = ["check_format", "check_spans", "check_trajectory", "step_numbers", *_STRATEGIES]


def __getattr__(name: str) -> Any:
    if name in _STRATEGIES:
        return getattr(importlib.import_module("sadstream.testing.strategies"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
