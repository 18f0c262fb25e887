"""Asking a teacher beside its bare forward with full logits, on the same windows: paired ratios, and bytes.

    OMP_NUM_THREADS=1 python benchmarks/caching.py --teacher smollm2-135m

The bare forward is `model(input_ids, attention_mask).logits` of transformers on length-sorted, padded batches of four
windows. Caching is `sadstream.ask.ask` and the encoding of its samples: on the same batches, on length-sorted ones of
at most so many padded tokens, one window at a time, and in packed rows. All ways alternate; each ratio is of CPU times
of one round, and the median of the rounds is printed, with the least and the largest. Bytes are of the samples' teacher
columns, for supervised tokens and for all positions.
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
from sadstream.packing import takes_packed_rows
from sadstream.progress import silent
from sadstream.teachers import batches_of
from sadstream.windows import Job, Plan, Positions, plan_windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", default="examples/logs")
    parser.add_argument("--teacher", default="smollm2-135m")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--row-tokens", type=int, nargs="*", default=[512, 1024])
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
    lengths = [len(job.token_ids) for job in chosen]
    fours = [chosen[i : i + 4] for i in range(0, len(chosen), 4)]

    def batches(batch_tokens: int, row_tokens: int) -> list[list[Job]]:
        return [[chosen[i] for i in batch] for batch in batches_of(lengths, batch_tokens, row_tokens)]

    ways: dict[str, Callable[[], object]] = {
        "bare": lambda: [bare(model, batch) for batch in fours],
        "same batches": lambda: [encoded(model, batch, kept) for batch in fours],
        "length-sorted, 1024": lambda: [encoded(model, batch, kept) for batch in batches(1024, 0)],
        "one at a time": lambda: [encoded(model, batch, kept) for batch in batches(1, 0)],
    }
    if takes_packed_rows(model):
        for n in args.row_tokens:
            ways[f"packed rows of {n}"] = lambda n=n: [encoded(model, batch, kept, n) for batch in batches(n, n)]
    else:
        click.echo("this model does not keep packed windows apart")
    click.echo(f"{len(chosen)} windows of {min(lengths)} to {max(lengths)} tokens, {sum(lengths):,} in all, ", nl=False)
    click.echo(f"{n_asked(chosen):,} of them supervised; tokens a CPU second")
    encoded(model, chosen[:1], kept)  # the first call pays for what later ones find ready
    rounds = []
    for number in range(args.rounds):
        # Each round begins elsewhere, so that none always follows the same one.
        names = [*ways][number:] + [*ways][:number]
        rounds.append({name: timed(ways[name]) for name in names})
        click.echo(f"round {number}: " + ", ".join(f"{name} {rounds[-1][name]:.2f} s" for name in ways))
    for name in ways:
        ratios = sorted(times["bare"] / times[name] for times in rounds)
        rate = sum(lengths) / min(times[name] for times in rounds)
        click.echo(
            f"{name:20} {rate:6,.0f}  {statistics.median(ratios):5.2f} x bare ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    click.echo(f"{sum(encoded(model, [job], kept) for job in chosen) / n_asked(chosen):.1f} bytes a supervised token")
    click.echo(
        f"the whole corpus asks about {n_asked(jobs):,} tokens, and about {n_asked(whole):,} with --positions all:"
    )
    click.echo(f"{n_asked(whole) / n_asked(jobs):.2f} times as many")


def n_asked(jobs: list[Job]) -> int:
    return sum(int(job.window.supervised.sum()) for job in jobs)


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


def encoded(model: torch.nn.Module, batch: list[Job], kept: Kept, row_tokens: int = 0) -> int:
    """Ask and encode. Returns the bytes of the teacher's columns."""
    return sum(
        encode_teacher_sample(arrays, trajectory_id=job.trajectory.id, window=job.number, vocab_size=kept.n_named)[1]
        for job, arrays in zip(batch, ask(model, batch, kept, row_tokens=row_tokens), strict=True)
    )


def timed(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
