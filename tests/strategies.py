"""Where the tests have their strategies from: `sadstream.testing` is their home."""

from sadstream.testing.checks import step_numbers as steps
from sadstream.testing.strategies import (
    Chat,
    Cut,
    Run,
    Teacher,
    Transcript,
    chats,
    damage,
    damaged,
    json_values,
    runs,
    spans,
    teacher_of,
    texts,
    topk,
    trajectories,
    transcripts,
)

__all__ = [
    "Chat",
    "Cut",
    "Run",
    "Teacher",
    "Transcript",
    "chats",
    "damage",
    "damaged",
    "json_values",
    "runs",
    "spans",
    "steps",
    "teacher_of",
    "texts",
    "topk",
    "trajectories",
    "transcripts",
]
