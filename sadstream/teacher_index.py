"""What the index of teacher shards says of each window, and which windows were asked about already."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sadstream.codec import TeacherArrays, encode_teacher_sample
from sadstream.logged_tokens import raw_logprobs
from sadstream.manifest import StageFolder, index_name
from sadstream.shards import Sample, sample_key
from sadstream.spans import INDEX_SCHEMA
from sadstream.tokens import ACT, REASON
from sadstream.windows import Job
from sadstream_schemas import Shard, Trajectory

TEACHER_INDEX: dict[str, pl.DataType] = {
    **INDEX_SCHEMA,
    "teacher_key": pl.String(),
    "render": pl.String(),
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

# How many supervised tokens of a window have the log's own distribution, and how many are hard labels and why.
LABEL_SOURCES = ("n_logged", "n_no_logprobs", "n_unreadable", "n_other_text", "n_other_tokens")
LOGGED, NO_LOGPROBS, UNREADABLE, OTHER_TEXT, OTHER_TOKENS = range(len(LABEL_SOURCES))
LOGS_INDEX: dict[str, pl.DataType] = {**TEACHER_INDEX, **dict.fromkeys(LABEL_SOURCES, pl.Int64())}


def window_key(job: Job, options: str, *, logprobs: bytes = b"") -> str:
    """What was asked, as a hash: the window's tokens, which of them are supervised, its split, teacher and options.

    Two windows with the same key have the same sample, wherever they come from.

    Args:
        options: hash of what decides the answers, teacher and tokenizer included.
        logprobs: what the log says of its tokens, as a hash, where that decides them too.
    """
    digest = hashlib.blake2b(f"{options}\0{job.row['split']}\0{len(job.token_ids)}\0".encode(), digest_size=16)
    digest.update(job.token_ids.astype("<i8").tobytes())
    digest.update(np.packbits(job.window.supervised).tobytes())
    digest.update(job.kinds.tobytes() + job.steps.astype("<i4").tobytes())
    digest.update(logprobs)
    return digest.hexdigest()


def logprobs_digest(trajectory: Trajectory) -> bytes:
    """What the log says of the trajectory's tokens, as a hash; nothing where it says nothing."""
    found = raw_logprobs(trajectory)
    digest = hashlib.blake2b(digest_size=16)
    for message, logprobs in found.items():
        digest.update(f"{message}\0{len(logprobs)}\0".encode() + logprobs)
    return digest.digest() if found else b""


def asked_windows(folder: Path, shards: list[Shard]) -> Counter[str]:
    """How often each key stands in some shards of a folder."""
    names = [folder / index_name(shard.name) for shard in shards]
    if not names:
        return Counter()
    return Counter(pl.scan_parquet(names).select("teacher_key").collect().to_series().to_list())


def first_of(folder: Path, shards: list[Shard], keys: set[str]) -> str:
    """The trajectory of the first window in some shards that has one of these keys."""
    names = [folder / index_name(shard.name) for shard in shards]
    found = pl.scan_parquet(names).filter(pl.col("teacher_key").is_in(list(keys))).select("id").head(1).collect()
    return str(found.item())


def teacher_sample(
    job: Job, arrays: TeacherArrays, *, teacher_key: str, occurrence: int, vocab_size: int, n_draws: int
) -> Sample:
    """A window with its answers as a shard's sample.

    Args:
        occurrence: how many samples of the folder have this key already.
    """
    data, n_teacher_bytes = encode_teacher_sample(
        arrays, trajectory_id=job.trajectory.id, window=job.number, vocab_size=vocab_size, n_draws=n_draws
    )
    kinds = job.kinds[arrays.positions]
    n_reason, n_act = int((kinds == REASON).sum()), int((kinds == ACT).sum())
    row = {
        # A folder of spans that was made before a column was thought of lacks it.
        **{name: job.row.get(name) for name in INDEX_SCHEMA},
        "teacher_key": teacher_key,
        "render": job.render,
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
    if arrays.sources is not None:
        counts = np.bincount(arrays.sources, minlength=len(LABEL_SOURCES))
        row |= dict(zip(LABEL_SOURCES, counts.tolist(), strict=True))
    return Sample(sample_key(teacher_key, str(occurrence)), "msgpack", data, row)


def tokens_in(folder: StageFolder) -> int:
    """Tokens in the shards that are committed."""
    names = [folder.path / index_name(shard.name) for shard in folder.shards]
    return int(pl.scan_parquet(names).select(pl.col("n_tokens").sum()).collect().item()) if names else 0


def teacher_totals(folder: StageFolder) -> dict[str, Any]:
    """The summary of all committed shards, from their indexes."""
    names = [folder.path / index_name(shard.name) for shard in folder.shards]
    supervised = pl.sum_horizontal("n_supervised_reason", "n_supervised_act", "n_supervised_other")
    index = pl.scan_parquet(names)
    sources = [name for name in LABEL_SOURCES if name in index.collect_schema()]
    row = (
        index.select(
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
            n_chat=(pl.col("render") == "chat").sum(),
            **{name: pl.col(name).sum() for name in sources},
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
        "n_rendered": {"text": row["n_samples"] - row["n_chat"], "chat": row["n_chat"]},
        "n_shards": len(folder.shards),
        **({"labels": {name: row[name] for name in sources}} if sources else {}),
    }
