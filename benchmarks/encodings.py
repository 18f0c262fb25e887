"""Bytes and error of teacher samples beside DistillKit's encoding of the same distributions.

    git clone https://github.com/arcee-ai/DistillKit /somewhere/DistillKit     # a61c2e7 was compared
    OMP_NUM_THREADS=1 python benchmarks/encodings.py /somewhere/DistillKit

The teacher is asked once about every token of the windows. Its log-probabilities of the top k go through DistillKit's
own `LogprobCompressor`, a window a call, at the settings that its README and examples name, and at a grid of others
with K = 32. Its capture hands over float32 ("as captured"), whose digits do not suffice for its fit of a curve with a
fourth power; all other lines hand over float64. Nothing of it is copied: without a checkout this says so and ends.

- packed: bytes a token as its encoder gives them; Parquet: the columns in a file as its `StreamingParquetWriter` writes
  one, all windows in it; zstd: each window's columns by themselves at level 15, as ours are. Of supervised tokens.
- bucket KL: of the top K and one bucket for the rest, exact against stored, in nats. DistillKit stores no rest: it is
  what its values leave, and where they leave none they are scaled to 1. KL within: both sides scaled to 1 over the top
  K, which is what its losses take with `missing_probability_handling: zero`.
- whole corpus: ours for supervised tokens, and DistillKit's for all, which is what it stores.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from sadstream import SegmentConfig, segment_logs
from sadstream.ask import Kept, ask
from sadstream.codec import TeacherArrays, decode_teacher_sample, encode_teacher_sample
from sadstream.model_files import resolve_model
from sadstream.models import load_model, load_tokenizer
from sadstream.progress import silent
from sadstream.windows import Plan, plan_windows

_MOST = 128
_POLY = [0, 1, 2, 3, 4, "sqrt"]
_NAMED: dict[str, dict[str, Any]] = {
    "README, recommended": {"k": 128, "exact_k": 16, "exact_dtype": "bfloat16", "polynomial_terms": _POLY},
    "README, budget": {"k": 50, "exact_k": 1, "exact_dtype": "bfloat16", "polynomial_terms": [0, 1, "sqrt"]},
    "README, first example": {
        "k": 128,
        "exact_k": 32,
        "exact_dtype": "float32",
        "polynomial_terms": [0, 1, 2],
        "delta_encoding": True,
    },
}
_LEGACY = {
    "mistral3.yaml (legacy)": {"k": 32, "exact_k": 32, "polynomial_degree": 0},
    "llama_70b_base.yml (legacy)": {"k": 128, "exact_k": 32, "polynomial_degree": 8},
}


class Window(NamedTuple):
    """What a teacher said about one window, at all its tokens but the first; `is_supervised` says where it counts."""

    arrays: TeacherArrays
    is_supervised: NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", default="", help="a checkout of DistillKit")
    parser.add_argument("--logs", default="examples/logs")
    parser.add_argument("--teacher", default="smollm2-135m")
    parser.add_argument("--every", type=int, default=1, help="1 is all windows, 3 every third")
    args = parser.parse_args()
    if not (Path(args.checkout) / "distillkit" / "compression").is_dir():
        click.echo(f"skipped: no checkout of DistillKit at {args.checkout!r}; it is an argument")
        return
    sys.path.insert(0, args.checkout)
    windows, vocab_size = asked(args.logs, args.teacher, args.every)
    n_all = sum(len(w.is_supervised) for w in windows)
    n_supervised = sum(int(w.is_supervised.sum()) for w in windows)
    click.echo(f"{len(windows)} windows, {n_supervised:,} supervised tokens of {n_all:,}")
    click.echo(
        f"{'what':34} {'K':>4} {'packed':>6} {'Parquet':>7} {'zstd':>6}  KL mean    p99        within     mass > 1"
    )
    sizes = {k: ours(windows, k, vocab_size) for k in (8, 16, 32, 50, 64, 128)}
    whole = {}
    for name, options in _NAMED.items():
        theirs(f"{name}, as captured", windows, options, vocab_size, dtype=torch.float32)
        whole[name] = theirs(name, windows, options, vocab_size)
    for name, options in _LEGACY.items():
        whole[name] = theirs(name, windows, options, vocab_size, dtype=torch.float32, is_legacy=True)
    click.echo(f"\nK = 32, its settings whose mean bucket KL is at most ours ({sizes[32][1]:.1e}), fewest bytes first:")
    tried = [(*measured(windows, o, vocab_size), o) for o in grid()]
    good = sorted((row for row in tried if row[3].mean() <= sizes[32][1]), key=lambda row: row[2])
    for row in good[:3]:
        theirs(named(row[-1]), windows, row[-1], vocab_size)
    click.echo("" if good else "none of them")
    click.echo("and those of least error:" if not good else "and of the others, those of least error:")
    for row in sorted((row for row in tried if row not in good), key=lambda row: row[3].mean())[:3]:
        theirs(named(row[-1]), windows, row[-1], vocab_size)
    click.echo("\nthe whole corpus, bytes:")
    click.echo(f"  ours, supervised tokens, K = 32: {sizes[32][0] * n_supervised:,.0f}")
    everywhere = [Window(w.arrays, np.ones_like(w.is_supervised)) for w in windows]
    n_bytes = sum(
        encode_teacher_sample(top(w, 32), trajectory_id="", window=0, vocab_size=vocab_size)[1] for w in everywhere
    )
    click.echo(f"  ours, --positions all, K = 32: {n_bytes:,}")
    for name, a_token in whole.items():
        click.echo(f"  DistillKit, {name}, all {n_all:,} tokens: {a_token * n_all:,.0f}")


def asked(logs: str, teacher: str, apart: int) -> tuple[list[Window], int]:
    """All tokens' distributions in every so-manieth window, by `sadstream.ask`, and the size of the vocabulary."""
    path = resolve_model(teacher, lambda note: None)
    tokenizer = load_tokenizer(path)
    model = load_model(path, torch.device("cpu"), torch.float32)
    kept = Kept(_MOST, len(tokenizer))
    with tempfile.TemporaryDirectory() as folder:
        spans = Path(folder) / "spans"
        segment_logs(SegmentConfig(logs=(logs,), out=str(spans)), silent)
        both = [
            list(plan_windows(spans, Plan(tokenizer, None, "text", 8192, positions, 0)))
            for positions in ("supervised", "all")
        ]
    windows = []
    for some, every in list(zip(*both, strict=True))[::apart]:
        arrays = ask(model, [every], kept)[0]
        # Where nothing more is supervised, a window of supervised tokens ends.
        is_supervised = np.zeros(len(every.token_ids), bool)
        is_supervised[: len(some.token_ids)] = some.window.supervised
        windows.append(Window(arrays, is_supervised[arrays.positions]))
    return windows, len(tokenizer)


def top(window: Window, top_k: int) -> TeacherArrays:
    """The supervised rows of a window, cut to so many ids; what is cut off is added to the rest."""
    a, rows = window.arrays, window.is_supervised
    rest = np.concatenate([a.topk_logprobs[rows, top_k:], a.log_tail[rows, None]], 1)
    return a._replace(
        positions=a.positions[rows],
        topk_ids=a.topk_ids[rows, :top_k],
        topk_logprobs=a.topk_logprobs[rows, :top_k],
        log_tail=np.logaddexp.reduce(rest.astype(np.float64), axis=1).astype(np.float32),
        entropy=a.entropy[rows],
        token_logprobs=a.token_logprobs[rows],
    )


def bucket_kl(arrays: TeacherArrays, logprobs: NDArray[Any], tail: NDArray[Any]) -> NDArray[np.float64]:
    """KL of the top K and the rest, exact against stored; the stored side sums to 1."""
    exact = np.concatenate([arrays.topk_logprobs, arrays.log_tail[:, None]], 1).astype(np.float64)
    stored = np.concatenate([logprobs, np.log(np.maximum(tail, 1e-12))[:, None]], 1).astype(np.float64)
    stored -= np.logaddexp.reduce(stored, axis=1, keepdims=True)
    exact -= np.logaddexp.reduce(exact, axis=1, keepdims=True)
    return np.einsum("sk,sk->s", np.exp(exact), exact - stored)


def within_kl(arrays: TeacherArrays, logprobs: NDArray[Any]) -> NDArray[np.float64]:
    """KL over the top K alone, both sides scaled to 1."""
    exact, stored = arrays.topk_logprobs.astype(np.float64), logprobs.astype(np.float64)
    exact = exact - np.logaddexp.reduce(exact, axis=1, keepdims=True)
    stored = stored - np.logaddexp.reduce(stored, axis=1, keepdims=True)
    return np.einsum("sk,sk->s", np.exp(exact), exact - stored)


def ours(windows: list[Window], top_k: int, vocab_size: int) -> tuple[float, float]:
    """Prints a line. Returns bytes a token and the mean KL."""
    kl, within, n_bytes = [], [], 0
    for window in windows:
        arrays = top(window, top_k)
        data, n_teacher = encode_teacher_sample(arrays, trajectory_id="", window=0, vocab_size=vocab_size)
        found = decode_teacher_sample(data)
        kl.append(bucket_kl(arrays, found["topk_logprobs"], found["tail_mass"]))
        within.append(within_kl(arrays, found["topk_logprobs"]))
        n_bytes += n_teacher
    all_kl, n = np.concatenate(kl), sum(map(len, kl))
    line("sadstream", top_k, None, None, n_bytes / n, all_kl, np.concatenate(within), 0.0)
    return n_bytes / n, float(all_kl.mean())


def grid() -> Iterator[dict[str, Any]]:
    """Settings for K = 32: all exact, or a curve with what it misses in some bits."""
    for dtype in ("bfloat16", "float16", "float32"):
        yield {"k": 32, "exact_k": 32, "exact_dtype": dtype, "polynomial_terms": None}
    for exact_k in (1, 4, 8, 16):
        for terms in ([0, 1, "sqrt"], _POLY):
            for bits in (0, 4, 6, 8):
                bins = [{"scale_dtype": "float16", "element_bits": bits, "num_elements": 32 - exact_k}] if bits else []
                for dtype in ("float16", "float32"):
                    options = {"exact_dtype": dtype, "term_dtype": dtype, "polynomial_terms": terms}
                    yield {"k": 32, "exact_k": exact_k, "residual_bins": bins, **options}


def named(options: dict[str, Any]) -> str:
    bins = options.get("residual_bins")
    bits = f", {bins[0]['element_bits']} bits" if bins else ""
    terms = len(options["polynomial_terms"] or ())
    return f"{options['exact_k']} in {options['exact_dtype']}, {terms} terms{bits}"


def compressor_of(options: dict[str, Any], vocab_size: int, *, is_legacy: bool) -> Any:
    from distillkit.compression import (
        DistributionQuantizationConfig,
        LegacyLogitCompressionConfig,
        LogprobCompressor,
    )
    from distillkit.compression.config import SpecialTerm

    if is_legacy:
        return LogprobCompressor(legacy_config=LegacyLogitCompressionConfig(vocab_size=vocab_size, **options))
    terms = [SpecialTerm(t) if isinstance(t, str) else t for t in options.get("polynomial_terms") or []]
    usual = {"residual_bins": [], "delta_encoding": False, "error_diffusion": False, "d": vocab_size}
    return LogprobCompressor(DistributionQuantizationConfig(**{**usual, **options, "polynomial_terms": terms or None}))


def measured(
    windows: list[Window],
    options: dict[str, Any],
    vocab_size: int,
    *,
    dtype: torch.dtype = torch.float64,
    is_legacy: bool = False,
) -> tuple[float, float, float, NDArray[Any], NDArray[Any], float]:
    """Bytes a supervised token by its own count, in Parquet and by zstd; KL of buckets and within; share above 1."""
    compressor, k = compressor_of(options, vocab_size, is_legacy=is_legacy), options["k"]
    codec = pa.Codec("zstd", 15)
    kl, within, above, n_raw, n_zstd = [], [], 0, 0, 0
    columns: dict[str, list[Any]] = {}
    for window in windows:
        arrays = top(window, k)
        ids, logprobs = torch.from_numpy(arrays.topk_ids)[None], torch.from_numpy(arrays.topk_logprobs)[None].to(dtype)
        row = compressor.compress_from_sparse(ids, logprobs)
        for name, column in row.items():
            array = column[0].view(torch.uint8).numpy() if column.dtype == torch.bfloat16 else column[0].numpy()
            n_raw += array.nbytes
            n_zstd += len(codec.compress(np.ascontiguousarray(array).tobytes(), asbytes=True)) if array.size else 0
            columns.setdefault(name, []).append(array.tolist())
        found_ids, found = compressor.decompress_to_sparse(row)
        if not torch.equal(found_ids.sort(-1).values, ids.sort(-1).values):
            raise SystemExit("DistillKit's ids came back as others")
        values = found[0].double().numpy()
        mass = np.exp(values).sum(1)
        kl.append(bucket_kl(arrays, values, 1 - mass))
        within.append(within_kl(arrays, values))
        above += int((mass > 1).sum())
    n = sum(map(len, kl))
    return n_raw / n, parquet_bytes(columns) / n, n_zstd / n, np.concatenate(kl), np.concatenate(within), above / n


def parquet_bytes(columns: dict[str, list[Any]]) -> int:
    kinds = {"exact_values": pa.float16(), "coeffs": pa.float32(), "packed_indices": pa.int64()}
    fields = {name: pa.list_(pa.list_(kinds.get(name, pa.uint8()))) for name in columns}
    if "exact_values" in columns:
        columns = {**columns, "exact_values": [[np.float16(row) for row in rows] for rows in columns["exact_values"]]}
    table = pa.table({name: pa.array(column, fields[name]) for name, column in columns.items()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return int(sink.getvalue().size)


def theirs(
    name: str,
    windows: list[Window],
    options: dict[str, Any],
    vocab_size: int,
    *,
    dtype: torch.dtype = torch.float64,
    is_legacy: bool = False,
) -> float:
    """Prints a line. Returns bytes a token, in Parquet."""
    n_raw, n_parquet, n_zstd, kl, within, above = measured(
        windows, options, vocab_size, dtype=dtype, is_legacy=is_legacy
    )
    line(name, options["k"], n_raw, n_parquet, n_zstd, kl, within, above)
    return n_parquet


def line(
    name: str,
    top_k: int,
    n_raw: float | None,
    n_parquet: float | None,
    n_zstd: float,
    kl: NDArray[Any],
    within: NDArray[Any],
    above: float,
) -> None:
    raw, parquet = (f"{n:.1f}" if n is not None else "" for n in (n_raw, n_parquet))
    errors = f"{kl.mean():<10.2e} {np.quantile(kl, 0.99):<10.2e} {within.mean():<10.2e} {above:.1%}"
    click.echo(f"{name:34} {top_k:4} {raw:>6} {parquet:>7} {n_zstd:6.1f}  {errors}")


if __name__ == "__main__":
    main()
