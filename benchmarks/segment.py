"""Cutting: speed against a Python loop and against Polars' bare parse, and peak memory.

    python benchmarks/segment.py LOGS [MB [LARGE_MB]]

LOGS is a folder of real logs. Their texts are repeated to MB (200) of JSON lines in a temporary folder; the peak is
also taken at LARGE_MB (2000; 0: not). Everything runs on one thread of one CPU; times are CPU seconds, medians of
alternating repeats, so what else the machine does weighs on all alike.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ["POLARS_MAX_THREADS"] = "1"
# Virtual CPUs that share a core slow each other: one thread that moves between them is not timed alike.
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import polars as pl

import sadstream

try:
    from orjson import loads
except ModuleNotFoundError:
    from json import loads

_REPEATS = 5
_COLUMNS = ("id", "kind", "start", "stop", "body_start", "body_stop", "step")
_KINDS = {"Thought": "reason", "ActionPath": "reason", "Observation": "observation"}
_NUMBERED = re.compile(r"(?m)^(Thought|Action|Observation|ActionPath) [0-9]+:")
_PLAIN = re.compile(r"(?m)^(Thought|ActionPath|Action|Observation|Final Answer):")
_WEBSHOP = re.compile(r"(?m)^Action: reset[ \t]*\nObservation:|^(Action|Observation):( think\[)?")

Span = tuple[str, str, int, int]


class Workload(NamedTuple):
    """Logs of one kind, by what in LOGS holds them, and how a loop over lines tells their labels."""

    name: str
    paths: list[str]
    patterns: list[re.Pattern[str]]


WORKLOADS = (
    Workload("ReAct runs", ["hotpotqa"], [_NUMBERED, _PLAIN]),
    Workload("observations of many lines (WebShop)", ["webshop"], [_WEBSHOP]),
)


def loop(path: Path, patterns: list[re.Pattern[str]]) -> list[Span]:
    """What one would write: a regular expression over each line's text."""
    spans: list[Span] = []
    with path.open("rb") as lines:
        for line in lines:
            record = loads(line)
            spans += cut_text(record["id"], record["text"], patterns)
    return spans


def cut_text(name: str, text: str, patterns: list[re.Pattern[str]]) -> Iterator[Span]:
    """Spans of a text by the first pattern that is found after its examples."""
    begin = text.rfind("(END OF EXAMPLES)") + 1
    found = next((m for p in patterns if (m := [m for m in p.finditer(text, begin) if m[1]])), [])
    starts = [m.start() for m in found]
    if not starts or starts[0] > 0:
        yield name, "context", 0, starts[0] if starts else len(text)
    for match, stop in zip(found, [*starts[1:], len(text)], strict=True):
        thinks = match.re is _WEBSHOP and match[2]
        yield name, "reason" if thinks else _KINDS.get(match[1], "act"), match.start(), stop


def cut(path: Path) -> Iterator[pl.DataFrame]:
    """The same with sadstream, bodies and steps too: flat columns, block by block."""
    return iter(sadstream.cut_spans(pl.scan_ndjson(path)).select(_COLUMNS).collect_batches(lazy=True))


def parse(path: Path) -> int:
    """Polars' own parse of the file."""
    return sum(block.height for block in pl.scan_ndjson(path).collect_batches(lazy=True))


def write(folder: Path, logs: Path, workload: Workload, size: int) -> Path:
    """The workload's texts, repeated to a size in bytes."""
    paths = [str(logs / "raw" / name) for name in workload.paths]
    runs = sadstream.segment(sadstream.scan_logs(paths).filter(pl.col("refused").is_null())).collect()
    lines = [json.dumps({"id": i, "text": t}).encode() + b"\n" for i, t in runs.select("id", "text").iter_rows()]
    target = folder / f"{size}-{workload.paths[0]}.jsonl"
    n_bytes = number = 0
    with target.open("wb") as file:
        while n_bytes < size:
            n_bytes += file.write(lines[number % len(lines)])
            number += 1
    return target


def share_equal(path: Path, patterns: list[re.Pattern[str]]) -> float:
    """Share of trajectories, of the first ones in a file, that both cut alike; the loop knows no numbering."""
    sample = pl.scan_ndjson(path).head(2000).collect().with_row_index("row")
    ours = sadstream.cut_spans(sample.lazy()).select("row", "kind", "start", "stop").collect()
    by_row: dict[int, list[Any]] = {}
    for row, *span in ours.iter_rows():
        by_row.setdefault(row, []).append(tuple(span))
    equal = [
        [span[1:] for span in cut_text("", text, patterns)] == by_row.get(row, [])
        for row, text in sample.select("row", "text").iter_rows()
    ]
    return sum(equal) / len(equal)


def medians(contenders: dict[str, Callable[[], object]]) -> dict[str, float]:
    """CPU seconds of each, run in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(_REPEATS):
        for name, run in contenders.items():
            begin = time.process_time()
            run()
            seconds[name].append(time.process_time() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}


def peak_mb(path: Path, what: str) -> int:
    """Peak memory of a process of its own; the mapped file counts."""
    command = [sys.executable, __file__, "--peak", str(path), what]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def report_peak(path: Path, what: str) -> None:
    """Run one contender and print its process's peak."""
    if what == "parse":
        parse(path)
    else:
        sum(block.height for block in cut(path))
    # The kernel's mark of this program alone; `ru_maxrss` would count the parent's memory too.
    status = Path("/proc/self/status").read_text()
    sys.stdout.write(str(int(status.partition("VmHWM:")[2].split()[0]) // 1024))


def main(logs: Path, size: int = 200, large: int = 2000) -> None:
    """Print the tables."""
    out = sys.stdout.write
    out(f"Polars {pl.__version__}, Python {sys.version.split()[0]}, lines decoded by {loads.__module__}\n\n")
    out(
        "| logs | loop, MB/s | parse, MB/s | sadstream, MB/s | x loop | x parse | cut alike |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for workload in WORKLOADS:
            path = write(folder, logs, workload, size * 1_000_000)
            times = medians(
                {
                    "loop": lambda path=path, patterns=workload.patterns: len(loop(path, patterns)),
                    "parse": lambda path=path: parse(path),
                    "cut": lambda path=path: sum(block.height for block in cut(path)),
                }
            )
            mb = path.stat().st_size / 1e6
            speeds = " | ".join(f"{mb / times[name]:.0f}" for name in ("loop", "parse", "cut"))
            ratios = f"{times['loop'] / times['cut']:.2f} | {times['parse'] / times['cut']:.2f}"
            out(f"| {workload.name} | {speeds} | {ratios} | {share_equal(path, workload.patterns):.1%} |\n")
        out("\n| file, MB | peak of the parse, MB | peak of sadstream, MB |\n|---|---|---|\n")
        for megabytes in filter(None, (size, large)):
            path = write(folder, logs, WORKLOADS[0], megabytes * 1_000_000)
            out(f"| {megabytes} | {peak_mb(path, 'parse')} | {peak_mb(path, 'cut')} |\n")
            path.unlink()


if __name__ == "__main__":
    if sys.argv[1] == "--peak":
        report_peak(Path(sys.argv[2]), sys.argv[3])
    else:
        main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
