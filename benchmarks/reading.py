"""MB a CPU second of reading and cutting, on one core, per kind of log.

    POLARS_MAX_THREADS=1 python benchmarks/reading.py LOGS

LOGS is a folder of real logs; each kind is repeated to 30 MB in a temporary folder. Peak memory is the process's.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import sadstream

_SIZE = 30_000_000


def kinds(logs: Path) -> Iterator[tuple[str, list[bytes]]]:
    """Name of a kind, and the lines (or whole files) that are repeated."""
    runs = json.loads((logs / "raw/hotpotqa/fireact_alpaca_hotpotqa.json").read_text())
    yield "ReAct text, JSON lines", [json.dumps({"text": r["output"]}).encode() for r in runs]
    chats = json.loads((logs / "formats/tau-bench/gpt-4o-airline_60.json").read_text())
    yield "OpenAI chat, JSON lines", [json.dumps(chat).encode() for chat in chats]
    yield "Claude Code sessions", [p.read_bytes() for p in sorted((logs / "formats/claude-code").glob("*.jsonl"))]


def repeat(pieces: list[bytes], folder: Path, *, one_file: bool) -> int:
    """Write pieces over and over; returns the bytes written."""
    folder.mkdir()
    n_bytes = number = 0
    while n_bytes < _SIZE:
        piece = pieces[number % len(pieces)]
        target = folder / ("log.jsonl" if one_file else f"{number}.jsonl")
        with target.open("ab") as file:
            n_bytes += file.write(piece.rstrip(b"\n") + b"\n")
        number += 1
    return n_bytes


def main() -> None:
    """Print a line a kind."""
    logs = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as temporary:
        for number, (name, pieces) in enumerate(kinds(logs)):
            folder = Path(temporary) / str(number)
            n_bytes = repeat(pieces, folder, one_file="sessions" not in name)
            begin = time.process_time()
            spans = sadstream.segment(sadstream.scan_logs(str(folder)))
            n_spans = sum(b["spans"].list.len().sum() for b in spans.collect_batches(chunk_size=1000, lazy=True))
            seconds = time.process_time() - begin
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            sys.stdout.write(f"{name:<26} {n_bytes / seconds / 1e6:5.1f} MB/s {n_spans:>8} spans, peak {peak} MB\n")


if __name__ == "__main__":
    main()
