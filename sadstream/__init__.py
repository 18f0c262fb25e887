"""Distil agents from the logs you have.

Reading, cutting, scoring and shards need no torch; training is `from sadstream.train import train`.
"""

from sadstream.codec import decode_teacher_sample
from sadstream.errors import SadstreamError
from sadstream.formats import pieces
from sadstream.frames import Draft
from sadstream.logs import scan_logs
from sadstream.score import score, with_teacher_entropy
from sadstream.segment import cut_spans, segment
from sadstream.shards import iter_samples, scan_index, scan_shards
from sadstream.spans import SegmentConfig, segment_logs, write_shards
from sadstream.version import VERSION as __version__
from sadstream_schemas import Manifest, Span, TeacherSample, Trajectory

__all__ = [
    "Draft",
    "Manifest",
    "SadstreamError",
    "SegmentConfig",
    "Span",
    "TeacherSample",
    "Trajectory",
    "__version__",
    "cut_spans",
    "decode_teacher_sample",
    "iter_samples",
    "pieces",
    "scan_index",
    "scan_logs",
    "scan_shards",
    "score",
    "segment",
    "segment_logs",
    "with_teacher_entropy",
    "write_shards",
]
