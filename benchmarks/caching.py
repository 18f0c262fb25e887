"""Asking a teacher beside its bare forward with full logits, on the same windows: paired ratios, and bytes.

    python benchmarks/caching.py --teacher smollm2-135m

The bare forward is `model(input_ids, attention_mask).logits` of transformers on length-sorted, padded batches of four
windows; caching is `sadstream.ask.ask` and the encoding of its samples, once on the same batches, once a window at a
time, as `cache-teacher` does on a CPU. The three alternate; each ratio is of CPU times of one round, and the median
of the rounds is printed. Bytes are of the samples' teacher columns, for supervised tokens and for all positions.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch

from sadstream import SegmentConfig, segment_logs
from sadstream.ask import Kept, ask
from sadstream.codec import encode_teacher_sample
from sadstream.model_files import resolve_model
from sadstream.models import load_model, load_tokenizer
from sadstream.progress import silent
from sadstream.windows import Job, Plan, Positions, plan_windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", default="examples/logs")
    parser.add_argument("--teacher", default="smollm2-135m")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    path = resolve_model(args.teacher, lambda note: None)
    tokenizer = load_tokenizer(path)
    model = load_model(path, torch.device("cpu"), torch.float32)
    kept = Kept(32, len(tokenizer))
    with tempfile.TemporaryDirectory() as folder:
        spans = Path(folder) / "spans"
        segment_logs(SegmentConfig(logs=(args.logs,), out=str(spans)), silent)

        def windows(positions: Positions) -> list[Job]:
            plan = Plan(
                tokenizer=tokenizer, template=None, render="text", max_length=8192, positions=positions, limit=0
            )
            return list(plan_windows(spans, plan))

        jobs, whole = windows("supervised"), windows("all")
    every = len(jobs) / args.windows
    chosen = sorted((jobs[int(i * every)] for i in range(args.windows)), key=lambda job: len(job.token_ids))
    batches = [chosen[i : i + 4] for i in range(0, len(chosen), 4)]
    n_tokens = sum(len(job.token_ids) for job in chosen)
    n_supervised = sum(int(job.window.supervised.sum()) for job in chosen)
    click.echo(f"{len(chosen)} windows, {n_tokens:,} tokens, {n_supervised:,} of them supervised; CPU times")
    ways: dict[str, Callable[[], None]] = {
        "bare": lambda: [bare(model, batch) for batch in batches] and None,
        "same batches": lambda: [encoded(model, batch, kept) for batch in batches] and None,
        "one at a time": lambda: [encoded(model, [job], kept) for job in chosen] and None,
    }
    rounds = []
    for number in range(args.rounds + 1):
        seconds = {name: timed(way) for name, way in ways.items()}
        if number:  # the first call pays for what later ones find ready
            rounds.append(seconds)
    for name in ways:
        ratio = statistics.median(times["bare"] / times[name] for times in rounds)
        rate = n_tokens / min(times[name] for times in rounds)
        click.echo(f"{name:14} {rate:8,.0f} tokens a CPU second  {ratio:5.2f} x bare")
    n_bytes = sum(encoded(model, [job], kept) for job in chosen)
    n_whole, n_all = (
        sum(int(j.window.supervised.sum()) for j in jobs),
        sum(int(j.window.supervised.sum()) for j in whole),
    )
    click.echo(
        f"{n_bytes / n_supervised:.1f} bytes a supervised token; the whole corpus asks about {n_whole:,} tokens, and"
    )
    click.echo(f"about {n_all:,} with --positions all: {n_all / n_whole:.2f} times as many")


def bare(model: torch.nn.Module, batch: list[Job]) -> None:
    """The forward that a script would do: padded, with a mask, logits at every position."""
    longest = max(len(job.token_ids) for job in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, job in enumerate(batch):
        ids[row, : len(job.token_ids)] = torch.from_numpy(job.token_ids)
        mask[row, : len(job.token_ids)] = 1
    with torch.inference_mode():
        model(input_ids=ids, attention_mask=mask, use_cache=False)


def encoded(model: torch.nn.Module, batch: list[Job], kept: Kept) -> int:
    """Ask and encode. Returns the bytes of the teacher's columns."""
    return sum(
        encode_teacher_sample(arrays, trajectory_id=job.trajectory.id, window=job.number, vocab_size=kept.n_named)[1]
        for job, arrays in zip(batch, ask(model, batch, kept), strict=True)
    )


def timed(work: Callable[[], None]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
