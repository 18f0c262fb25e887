"""Where the tests have their strategies from: `sadstream.testing` is their home."""

from hypothesis import strategies as st

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
    "HEAPS",
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

_LABELS = ["Thought", "Action", "Observation", "ActionPath", "Final Answer", " 1", " 23", ":", "> ", ">", "think:"]
_OTHERS = ["\n", " reset", " think[", "\r\n", " ", "\t", "é", "(END OF EXAMPLES)", "99999999999999999999", " " * 30]
HEAPS = st.lists(st.sampled_from([*_LABELS, *_OTHERS]), max_size=20).map("".join)
