"""sadstream's own `Trajectory` records, one a line."""

from collections.abc import Iterable
from typing import Any

import msgspec

from sadstream.errors import RecordError
from sadstream.formats.kinds import RecordFormat
from sadstream.frames import Draft, span_row
from sadstream_schemas import Trajectory, decode_json


def recognise(record: Any) -> bool:
    """A record with `text`, `spans` and `source`."""
    return isinstance(record, dict) and {"text", "spans", "source", "format_version"} <= record.keys()


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """The trajectory, its spans as they stand.

    Raises:
        RecordError: not a Trajectory, of a newer version, or its spans do not cover its text in order.
    """
    try:
        trajectory = decode_json(raw, Trajectory)
    except msgspec.DecodeError as error:
        raise RecordError(str(error), hint="see `sadstream schema trajectory`") from error
    check_partition(trajectory)
    yield Draft(
        id=trajectory.id,
        format_version=str(trajectory.format_version),
        task_id=trajectory.task_id,
        task=trajectory.task,
        tools=[bytes(tool).decode() for tool in trajectory.tools],
        parent_id=trajectory.parent_id,
        text=trajectory.text,
        spans=[span_row(span) for span in trajectory.spans],
        extra=msgspec.json.encode(trajectory.extra).decode(),
        **msgspec.structs.asdict(trajectory.outcome),
    )


def check_partition(trajectory: Trajectory) -> None:
    """Refuse spans that are out of order, overlap, leave a gap, or whose body, logged text or arguments leave them.

    Raises:
        RecordError: names the trajectory and the span.
    """
    spans = trajectory.spans
    edges = [0, *(span.stop for span in spans)]
    starts = [*(span.start for span in spans), len(trajectory.text)]
    for index, (stop, start) in enumerate(zip(edges, starts, strict=True)):
        if start != stop:
            raise RecordError(
                f"trajectory {trajectory.id}: span {index} begins at {start}, the text before it ends at {stop}",
                hint="spans are in order, disjoint, and together cover the text",
            )
    for index, span in enumerate(spans):
        inner = {
            "body": (span.body_start, span.body_stop),
            "logged text": (span.logged_start, span.logged_stop),
            "arguments": (span.arguments_start, span.arguments_stop),
        }
        for name, places in inner.items():
            inside = [span.start, *(place for place in places if place is not None), span.stop]
            if inside != sorted(inside):
                raise RecordError(f"trajectory {trajectory.id}: the {name} of span {index} leaves the span")


FORMATS = (RecordFormat("trajectory", "JSON lines of sadstream's own Trajectory records", recognise, read),)
