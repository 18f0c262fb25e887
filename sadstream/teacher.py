"""The second stage: ask the teacher, once, about every token that will be supervised.

Imports no torch until there is something to ask, so a finished folder is recognised at once.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from sadstream.codec import TeacherArrays, encode_teacher_sample
from sadstream.errors import ConfigError
from sadstream.manifest import (
    MANIFEST,
    Input,
    StageFolder,
    describe_inputs,
    folder_written_atomically,
    index_name,
    read_manifest,
)
from sadstream.model_files import model_fingerprint, resolve_model, tokenizer_fingerprint, window_length
from sadstream.progress import Progress
from sadstream.shards import Sample, sample_key, write_shard
from sadstream.spans import INDEX_SCHEMA
from sadstream.tokens import ACT, REASON
from sadstream.windows import Job, Positions, plan_windows

# An interrupted run loses at most one shard: some minutes of a CPU, seconds of a GPU.
_SHARD_TOKENS = 32_768

TEACHER_INDEX: dict[str, pl.DataType] = {
    **INDEX_SCHEMA,
    "window": pl.Int64(),
    "n_tokens": pl.Int64(),
    "n_supervised_reason": pl.Int64(),
    "n_supervised_act": pl.Int64(),
    "n_supervised_other": pl.Int64(),
    "entropy": pl.Float64(),
    "tail_mass": pl.Float64(),
    "n_teacher_bytes": pl.Int64(),
    "cut_prompt": pl.Boolean(),
    "cut_step": pl.Boolean(),
}


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Options of `cache-teacher`.

    Attributes:
        spans: folder of span shards.
        teacher: a model, as `model_files.resolve_model` takes it.
        out: folder for the teacher shards.
        top_k: ids kept a token.
        positions: `supervised`: what the agent wrote; `all`: every token, for flat token-level distillation.
        max_length: tokens a window; 0 is what the teacher can take, at most 8192.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        dtype: `auto`, `float32`, `bfloat16`, `float16`.
        batch_tokens: padded tokens a batch; 0 is one window at a time on a CPU, 16384 on a GPU.
        limit: windows at most; 0 is all.
    """

    spans: str
    teacher: str
    out: str
    top_k: int = 32
    positions: Positions = "supervised"
    max_length: int = 0
    device: str = "auto"
    dtype: str = "auto"
    batch_tokens: int = 0
    limit: int = 0


def cache_teacher(config: CacheConfig, progress: Progress) -> dict[str, Any]:
    """Ask the teacher about the supervised tokens of span shards, and write teacher shards.

    A finished shard is never asked again; a finished folder is left as it is.

    Returns:
        The summary: keys as `sadstream cache-teacher --json` prints them.
    Raises:
        SadstreamError: folder, teacher or options are not as they should be.
    """
    begin = time.monotonic()
    spans, out = Path(config.spans), Path(config.out)
    read_manifest(spans, "segment")
    _check(config)
    teacher_path = resolve_model(config.teacher, lambda note: progress(0, None, "tokens", note))
    max_length = window_length(config.max_length, teacher_path)
    decisive = {
        "teacher_fingerprint": model_fingerprint(teacher_path),
        "tokenizer_fingerprint": tokenizer_fingerprint(teacher_path),
        "top_k": config.top_k,
        "positions": config.positions,
        "max_length": max_length,
        "device": config.device,
        "dtype": config.dtype,
        "batch_tokens": config.batch_tokens,
        "limit": config.limit,
    }
    inputs = describe_inputs([Input(MANIFEST, spans / MANIFEST)], out)
    folder = StageFolder(out, "cache-teacher", decisive, inputs)
    if folder.done is not None:
        return {**folder.done.totals, "out": config.out, "already_done": True}

    progress(0, None, "tokens", "loading torch and the teacher")
    from sadstream.ask import ask
    from sadstream.models import load_model, load_tokenizer, pick_device, pick_dtype

    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    folder.resolve({"device": device.type, "dtype": str(dtype).removeprefix("torch.")})
    tokenizer = load_tokenizer(teacher_path)
    model = load_model(teacher_path, device, dtype)
    vocab_size = int(model.get_output_embeddings().weight.shape[0])
    if not 1 <= config.top_k <= vocab_size:
        raise ConfigError(
            f"--top-k {config.top_k}: the teacher's vocabulary has {vocab_size}", hint="32 is a good number"
        )
    if not (out / "tokenizer").is_dir():
        with folder_written_atomically(out / "tokenizer") as target:
            tokenizer.save_pretrained(target)
    progress(0, None, "tokens", "counting")
    total = _count_tokens(spans, tokenizer, max_length, config)
    n_done = _tokens_in(folder)
    n_asked = 0
    asking = time.monotonic()
    jobs = _plan(spans, tokenizer, max_length, config)
    for number, shard in enumerate(_by_tokens(jobs)):
        if number < len(folder.shards):
            continue
        samples: dict[int, Sample] = {}
        for batch in _batches(shard, config.batch_tokens, is_cpu=device.type == "cpu"):
            for place, arrays in zip(batch, ask(model, [shard[i] for i in batch], config.top_k), strict=True):
                samples[place] = _sample(shard[place], arrays, vocab_size)
                n_asked += len(arrays.token_ids)
            progress(n_done + n_asked, total, "tokens", f"asking the teacher, shard {number}")
        write_shard(folder, [samples[i] for i in range(len(shard))], TEACHER_INDEX)
    if not folder.shards:
        raise ConfigError(f"{spans}: no supervised token in it", hint="`sadstream inspect` shows what it holds")
    seconds = time.monotonic() - asking
    # Its name and not where it lies: the same teacher elsewhere gives the same folder.
    name = Path(config.teacher).resolve().name if Path(config.teacher).exists() else config.teacher
    totals = {"teacher": name, **_totals(folder)}
    folder.finish(totals, sorted(f"tokenizer/{p.name}" for p in (out / "tokenizer").iterdir()))
    return {
        **totals,
        "tokens_per_second": round(n_asked / seconds, 1) if n_asked else None,
        "seconds": round(time.monotonic() - begin, 1),
        "out": config.out,
    }


def plan_cache(config: CacheConfig, progress: Progress) -> dict[str, Any]:
    """What `cache_teacher` would do: nothing is loaded but the tokenizer, nothing is asked.

    Returns:
        `n_windows`, `n_tokens`, `n_supervised`, `n_bytes` (estimated on disk) and `max_length`.
    Raises:
        SadstreamError: as `cache_teacher`.
    """
    spans = Path(config.spans)
    read_manifest(spans, "segment")
    _check(config)
    from sadstream.models import load_tokenizer

    path = resolve_model(config.teacher, lambda note: progress(0, None, "windows", note))
    tokenizer, max_length = load_tokenizer(path), window_length(config.max_length, path)
    n_windows = n_tokens = n_supervised = 0
    for job in _plan(spans, tokenizer, max_length, config):
        n_windows += 1
        n_tokens += len(job.token_ids)
        n_supervised += int(job.window.supervised.sum())
        progress(n_windows, None, "windows", "counting")
    # Measured at K = 32 on SmolLM2: 2.5 bytes an id and code, 10 for the rest; tokens and headers beside them.
    n_bytes = round(n_supervised * (2.2 * config.top_k + 8) + n_tokens * 3 + n_windows * 1200)
    return {
        "n_windows": n_windows,
        "n_tokens": n_tokens,
        "n_supervised": n_supervised,
        "n_bytes": n_bytes,
        "max_length": max_length,
    }


def _check(config: CacheConfig) -> None:
    for name, value, least in (
        ("--top-k", config.top_k, 1),
        ("--max-length", config.max_length or 2, 2),
        ("--batch-tokens", config.batch_tokens, 0),
        ("--limit", config.limit, 0),
    ):
        if value < least:
            raise ConfigError(f"{name} {value}: at least {least}", hint="leave it out for the default")
    if config.positions not in ("supervised", "all"):
        raise ConfigError(f"--positions {config.positions}: unknown", hint="supervised or all")


def _plan(spans: Path, tokenizer: Any, max_length: int, config: CacheConfig) -> Iterator[Job]:
    return plan_windows(spans, tokenizer, max_length=max_length, positions=config.positions, limit=config.limit)


def _count_tokens(spans: Path, tokenizer: Any, max_length: int, config: CacheConfig) -> int:
    return sum(len(job.token_ids) for job in _plan(spans, tokenizer, max_length, config))


def _tokens_in(folder: StageFolder) -> int:
    names = [folder.path / index_name(shard.name) for shard in folder.shards]
    return int(pl.scan_parquet(names).select(pl.col("n_tokens").sum()).collect().item()) if names else 0


def _by_tokens(jobs: Iterator[Job]) -> Iterator[list[Job]]:
    shard: list[Job] = []
    n_tokens = 0
    for job in jobs:
        shard.append(job)
        n_tokens += len(job.token_ids)
        if n_tokens >= _SHARD_TOKENS:
            yield shard
            shard, n_tokens = [], 0
    if shard:
        yield shard


def _batches(jobs: list[Job], batch_tokens: int, *, is_cpu: bool) -> Iterator[list[int]]:
    """Indices of jobs to ask together. A function of the jobs alone, so a continued run asks as an undisturbed one."""
    budget = batch_tokens or (1 if is_cpu else 16_384)
    batch: list[int] = []
    for index in sorted(range(len(jobs)), key=lambda i: len(jobs[i].token_ids)):
        if batch and (len(batch) + 1) * len(jobs[index].token_ids) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _sample(job: Job, arrays: TeacherArrays, vocab_size: int) -> Sample:
    data, n_teacher_bytes = encode_teacher_sample(
        arrays, trajectory_id=job.trajectory.id, window=job.number, vocab_size=vocab_size
    )
    kinds = job.kinds[arrays.positions]
    n_reason, n_act = int((kinds == REASON).sum()), int((kinds == ACT).sum())
    row = {
        # A folder of spans that was made before a column was thought of lacks it.
        **{name: job.row.get(name) for name in INDEX_SCHEMA},
        "window": job.number,
        "n_tokens": len(arrays.token_ids),
        "n_supervised_reason": n_reason,
        "n_supervised_act": n_act,
        "n_supervised_other": len(kinds) - n_reason - n_act,
        "entropy": float(arrays.entropy.mean()),
        "tail_mass": float(np.exp(arrays.log_tail).mean()),
        "n_teacher_bytes": n_teacher_bytes,
        "cut_prompt": job.window.cut_prompt,
        "cut_step": job.window.cut_step,
    }
    return Sample(sample_key(job.trajectory.id, str(job.number)), "msgpack", data, row)


def _totals(folder: StageFolder) -> dict[str, Any]:
    names = [folder.path / index_name(shard.name) for shard in folder.shards]
    supervised = pl.sum_horizontal("n_supervised_reason", "n_supervised_act", "n_supervised_other")
    row = (
        pl.scan_parquet(names)
        .select(
            n_samples=pl.len(),
            n_tokens=pl.col("n_tokens").sum(),
            reason=pl.col("n_supervised_reason").sum(),
            act=pl.col("n_supervised_act").sum(),
            n_bytes=pl.col("n_teacher_bytes").sum(),
            supervised=supervised.sum(),
            tail=(pl.col("tail_mass") * supervised).sum(),
            entropy=(pl.col("entropy") * supervised).sum(),
            n_cut_prompts=pl.col("cut_prompt").sum(),
            n_cut_steps=pl.col("cut_step").sum(),
        )
        .collect()
        .row(0, named=True)
    )
    return {
        "n_samples": row["n_samples"],
        "n_tokens": row["n_tokens"],
        "n_supervised": {"reason": row["reason"], "act": row["act"]},
        "bytes_per_supervised_token": round(row["n_bytes"] / row["supervised"], 2),
        "mean_tail_mass": round(row["tail"] / row["supervised"], 5),
        "mean_entropy_nats": round(row["entropy"] / row["supervised"], 4),
        "n_cut_prompts": row["n_cut_prompts"],
        "n_cut_steps": row["n_cut_steps"],
        "n_shards": len(folder.shards),
    }
