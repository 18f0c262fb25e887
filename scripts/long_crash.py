"""Kill a training run at random, again and again, and compare it with one that was left alone, byte for byte.

    python scripts/long_crash.py [--kills 10] [--updates 120] [--seed 0]

Makes a tiny model, logs and teacher shards in a temporary folder. Each kill is SIGKILL to the training process: a
fifth of them while it starts, the others a random time after it has gone on. Exits 1 if a byte differs.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sadstream import SegmentConfig, segment_logs
from sadstream.progress import silent
from sadstream.teacher import CacheConfig, cache_teacher

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests import tiny

_COMPARED = ("metrics.jsonl", "curves.png", "model/model.safetensors")


def make_shards(folder: Path) -> tuple[Path, Path]:
    """Teacher shards of 24 runs, and a student."""
    vocabulary = len(tiny.make_tokenizer())
    teacher = tiny.save_model(tiny.llama_config(vocabulary), folder / "teacher")
    student = tiny.save_model(tiny.llama_config(vocabulary, num_hidden_layers=2), folder / "student", seed=1)
    logs = tiny.write_logs(folder / "runs.jsonl", 24)
    segment_logs(SegmentConfig(logs=(str(logs),), out=str(folder / "spans"), holdout=0.25), silent)
    cache_teacher(
        CacheConfig(spans=str(folder / "spans"), teacher=str(teacher), out=str(folder / "cache"), top_k=8), silent
    )
    return folder / "cache", student


def last_update(out: Path) -> int:
    """Of the newest whole checkpoint; 0 before the first."""
    return max((int(p.name.removeprefix("update-")) for p in out.glob("checkpoints/update-*")), default=0)


def wait_for_a_row(process: subprocess.Popen[bytes], metrics: Path) -> float:
    """Seconds until a run has written its next row, or has ended."""
    begin = time.monotonic()
    before = None
    while process.poll() is None:
        rows = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
        if before is not None and rows > before:
            break
        before = rows  # it falls when the run cuts its metrics back to the checkpoint
        time.sleep(0.02)
    return time.monotonic() - begin


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cache, student = make_shards(folder)
        command = [sys.executable, "-m", "sadstream", "train", str(cache), "--student", str(student)]
        command += ["--updates", str(arguments.updates), "--batch-tokens", "600", "--lr", "1e-3"]
        command += ["--save-every", "3", "--eval-every", "10", "--out"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}

        begin = time.monotonic()
        process = subprocess.Popen([*command, str(folder / "whole")], env=environment, **quiet)
        startup = wait_for_a_row(process, folder / "whole" / "metrics.jsonl")
        if process.wait():
            return 1
        updating = time.monotonic() - begin - startup
        sys.stdout.write(f"left alone: {startup:.1f} s to the first update, {updating:.1f} s after it\n")

        killed = 0
        while killed < arguments.kills:
            process = subprocess.Popen([*command, str(folder / "killed")], env=environment, **quiet)
            limit = chance.uniform(0, startup)
            if chance.random() < 0.8:
                wait_for_a_row(process, folder / "killed" / "metrics.jsonl")
                limit = chance.uniform(0, 2 * updating / arguments.kills)
            try:
                process.wait(limit)
                sys.stdout.write("finished before it was killed; begun again\n")
                if process.returncode:
                    return 1
                (folder / "killed").rename(folder / f"finished-{killed}-{time.monotonic_ns()}")
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
                sys.stdout.write(f"kill {killed}: the last checkpoint is {last_update(folder / 'killed')}\n")
                sys.stdout.flush()
        subprocess.run([*command, str(folder / "killed")], check=True, env=environment, **quiet)
        finished = [folder / "killed", *folder.glob("finished-*")]
        for out in finished:
            for name in _COMPARED:
                if (out / name).read_bytes() != (folder / "whole" / name).read_bytes():
                    sys.stdout.write(f"{name} differs\n")
                    return 1
        sys.stdout.write(f"killed {killed} times: {', '.join(_COMPARED)} are the same to the byte\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
