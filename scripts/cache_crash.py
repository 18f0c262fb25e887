"""Kill `cache-teacher` at random, again and again, and compare its folder with one that was left alone, byte for byte.

    python scripts/cache_crash.py [--teacher smollm2-135m] [--logs examples/logs] [--kills 10] [--limit 20]

Each kill is SIGKILL to the command's process: a fifth of them while it starts, the others a random time after it has
asked about a random number of windows. Shards are small here (`--shard-tokens`), so that a short run has several. Says
how many tokens each kill made it ask about again. Exits 1 if a byte differs, or if more than one shard's work was lost.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

from sadstream import SegmentConfig, segment_logs
from sadstream.manifest import MANIFEST, index_name, load_manifest
from sadstream.progress import silent

# The command as it is, with smaller shards and a line for each batch that the teacher is asked about.
_COMMAND = """
import os, sys
from sadstream import ask, teacher
from sadstream_cli import main
shard_tokens, log, *sys.argv[1:] = sys.argv[1:]
teacher._SHARD_TOKENS = int(shard_tokens)
real = ask.ask
def logging(model, jobs, kept, **options):
    with open(log, "a") as file:
        file.write(f"{sum(len(job.token_ids) for job in jobs)}\\n")
    return real(model, jobs, kept, **options)
ask.ask = logging
main()
"""


def asked(log: Path) -> list[int]:
    """Tokens of each batch that was asked about."""
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def committed(out: Path) -> list[int]:
    """Tokens of each shard that a finished folder or an unfinished one's journal names."""
    if (out / "journal.jsonl").exists():
        names = [json.loads(line)["name"] for line in (out / "journal.jsonl").read_text().split("\n")[:-1]]
    else:
        names = [shard.name for shard in load_manifest(out).shards] if (out / MANIFEST).exists() else []
    return [pl.read_parquet(out / index_name(name))["n_tokens"].sum() for name in names]


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="smollm2-135m")
    parser.add_argument("--logs", default="examples/logs")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--shard-tokens", type=int, default=1024)
    parser.add_argument("--packing", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        spans, whole, killed, log = (folder / name for name in ("spans", "whole/out", "killed/out", "log"))
        segment_logs(SegmentConfig(logs=(args.logs,), out=str(spans)), silent)

        def start(out: Path) -> subprocess.Popen[bytes]:
            log.unlink(missing_ok=True)
            options = ["--teacher", args.teacher, "--limit", str(args.limit), "--packing", args.packing]
            command = [sys.executable, "-c", _COMMAND, str(args.shard_tokens), str(log), "cache-teacher", str(spans)]
            return subprocess.Popen([*command, *options, "--out", str(out)], env=environment, **quiet)

        begin = time.monotonic()
        process = start(whole)
        while not asked(log) and process.poll() is None:
            time.sleep(0.05)
        startup = time.monotonic() - begin
        if process.wait():
            return 1
        batches, shards = asked(log), committed(whole)
        sys.stdout.write(
            f"left alone: {len(shards)} shards of at most {max(shards)} tokens, {sum(batches)} tokens in "
            f"{len(batches)} batches; {startup:.0f} s to the first\n"
        )
        lost = []
        while len(lost) < args.kills:
            before = sum(committed(killed))
            process = start(killed)
            if chance.random() < 0.2:
                time.sleep(chance.uniform(0, startup))
            else:
                n_batches = chance.randint(1, max(1, 2 * len(batches) // args.kills))
                while len(asked(log)) < n_batches and process.poll() is None:
                    time.sleep(0.02)
                time.sleep(chance.uniform(0, 1))
            process.send_signal(signal.SIGKILL)
            if process.wait() == 0:
                sys.stdout.write("finished before it was killed; begun again\n")
                if content(killed) != content(whole):
                    return 1
                killed.rename(folder / f"finished-{len(lost)}-{time.monotonic_ns()}")
                continue
            lost.append(before + sum(asked(log)) - sum(committed(killed)))
            sys.stdout.write(f"kill {len(lost)}: {len(committed(killed))} shards there, {lost[-1]} tokens lost\n")
            sys.stdout.flush()
        if start(killed).wait():
            return 1
        if content(killed) != content(whole):
            sys.stdout.write("the folders differ\n")
            return 1
        sys.stdout.write(f"killed {len(lost)} times: all files are the same to the byte; ")
        sys.stdout.write(f"at most {max(lost)} tokens were lost by a kill, a shard has up to {max(shards)}\n")
        return int(max(lost) > max(shards))


if __name__ == "__main__":
    sys.exit(main())
