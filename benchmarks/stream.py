"""Samples, MB and tokens a CPU second of reading teacher shards, beside the loaders people use; what an index costs.

    python benchmarks/stream.py --python litdata=PATH --python mds=PATH
    python benchmarks/stream.py --index
    python benchmarks/stream.py --padding LOGS

All readers get the same samples as NumPy arrays, in files of some 64 MB, uncompressed. `columns` is how LitData and
MosaicML Streaming store arrays by themselves; `one record` gives them our layout, two counts and raw columns, which
one function decodes for all. Ours compares each sample with its checksum; `ours, not compared` doesn't, as the others.
`ours, codec` is compressed; its MB are those of the compressed files. Each reader is a fresh process with a warm page
cache; rounds alternate, and medians are printed. CPU time counts from the first sample on, all threads and children.

LitData and MosaicML Streaming bring builds of torch of their own: name the Python of an environment for each, made by
`pip install torch==2.13.0 numpy litdata==0.2.76` and `... mosaicml-streaming==0.13.0`. Who is not named is left out.
`--index` measures start-up and memory at 10^3, 10^5 and 10^7 rows of index; `--padding` the padding of real logs'
windows in SmolLM2's tokens.
"""

import argparse
import importlib
import json
import os
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

K = 32
ROWS_A_SHARD = 10_000
# Widest first, so that each column lies where its numbers may.
DTYPES = {
    name: np.dtype(dtype)
    for name, dtype in {
        "steps": "<i4",
        "topk_ids": "<u2",
        "topk_logprobs": "<f2",
        "token_ids": "<u2",
        "tail": "<f2",
        "entropy": "<f2",
        "kinds": "u1",
        "supervised": "u1",
    }.items()
}
_I4, _U2, _F2, _U1 = (np.dtype(name) for name in ("<i4", "<u2", "<f2", "u1"))
_counts = struct.Struct("<II")


def encode(arrays: dict[str, np.ndarray]) -> bytes:
    """A record: how many tokens, how many of them supervised, then the columns one after the other."""
    counts = _counts.pack(len(arrays["token_ids"]), len(arrays["tail"]))
    return counts + b"".join(arrays[name].tobytes() for name in DTYPES)


def decode(data: Any) -> dict[str, np.ndarray]:
    """Arrays of a record, where it lies."""
    array = np.ndarray
    n, s = _counts.unpack_from(data)
    ids = 8 + 4 * n
    logprobs = ids + 2 * K * s
    tokens = logprobs + 2 * K * s
    tail = tokens + 2 * n
    entropy = tail + 2 * s
    kinds = entropy + 2 * s
    return {
        "steps": array(n, _I4, data, 8),
        "topk_ids": array((s, K), _U2, data, ids),
        "topk_logprobs": array((s, K), _F2, data, logprobs),
        "token_ids": array(n, _U2, data, tokens),
        "tail": array(s, _F2, data, tail),
        "entropy": array(s, _F2, data, entropy),
        "kinds": array(n, _U1, data, kinds),
        "supervised": array(n, _U1, data, kinds + n),
    }


def make(n_samples: int) -> Iterator[dict[str, np.ndarray]]:
    """Samples of some 590 tokens, 40 % of them supervised; ids are frequent ones mostly, as in text."""
    random = np.random.default_rng(0)
    for n_tokens in np.exp(random.normal(6.25, 0.5, n_samples)).astype(int).clip(32, 4000):
        supervised = (random.random(n_tokens) < 0.4).astype("u1")
        n_supervised = int(supervised.sum())
        logprobs = -np.sort(random.exponential(3.0, (n_supervised, K)), 1) - 0.1
        yield {
            "token_ids": (random.zipf(1.3, n_tokens) % 49_152).astype("<u2"),
            "kinds": supervised,
            "steps": (np.arange(n_tokens) // 100).astype("<i4"),
            "supervised": supervised,
            "topk_ids": np.sort(random.zipf(1.2, (n_supervised, K)) % 49_152).astype("<u2"),
            "topk_logprobs": logprobs.astype("<f2"),
            "tail": random.normal(-3, 1, n_supervised).astype("<f2"),
            "entropy": random.random(n_supervised).astype("<f2"),
        }


def write_ours(out: Path, n_samples: int, *, compressed: bool) -> None:
    """The samples as a folder of teacher shards."""
    import polars as pl

    from sadstream.codec import TeacherArrays, encode_teacher_sample
    from sadstream.manifest import StageFolder
    from sadstream.shards import Sample, write_shard

    schema = {"split": pl.String(), "n_tokens": pl.Int64()}
    folder = StageFolder(out, "cache-teacher", {}, [])
    shard: list[Sample] = []
    n_bytes = 0
    for number, arrays in enumerate(make(n_samples)):
        if compressed:
            at = np.flatnonzero(arrays["supervised"])
            ids = arrays["topk_ids"].astype(int)
            logprobs = arrays["topk_logprobs"].astype("f4")
            own = arrays["tail"].astype("f4")
            data, _ = encode_teacher_sample(
                TeacherArrays(
                    arrays["token_ids"].astype(int), arrays["kinds"], arrays["steps"], at, ids, logprobs,
                    np.minimum(own, -0.01), arrays["entropy"], own,
                ),
                trajectory_id=str(number), window=0, vocab_size=49_152,
            )  # fmt: skip
        else:
            data = encode(arrays)
        row = {"split": "train", "n_tokens": len(arrays["token_ids"])}
        shard.append(Sample(f"{number:08d}", "msgpack" if compressed else "bin", data, row))
        n_bytes += len(data)
        if n_bytes > 64_000_000:
            write_shard(folder, shard, schema)
            shard, n_bytes = [], 0
    if shard:
        write_shard(folder, shard, schema)
    folder.finish({})


def members(folder: Path) -> Iterator[bytes]:
    """The samples of our tars, by the standard library."""
    import tarfile

    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                yield file.read()


def write_litdata(source: Path, out: Path, *, columns: bool) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(out), chunk_bytes=64_000_000)
    for number, data in enumerate(members(source)):
        writer.add_item(number, dict(decode(data)) if columns else {"sample": data})
    writer.done()
    writer.merge()


def write_mds(source: Path, out: Path, *, columns: bool) -> None:
    streaming = _streaming()
    own = {name: f"ndarray:{dtype.name}" for name, dtype in DTYPES.items()}
    layout = own if columns else {"sample": "bytes"}
    with streaming.MDSWriter(out=str(out), columns=layout, size_limit=64_000_000) as writer:
        for data in members(source):
            writer.write(decode(data) if columns else {"sample": data})


def _streaming() -> Any:
    """MosaicML Streaming without torchvision, whose wheel wants a CUDA build of torch; only its image sets use it."""
    # It looks for torchvision, and must find it absent.
    importlib.import_module("transformers.feature_extraction_utils")
    names = ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional")
    for name in names:
        module = types.ModuleType(name)
        module.__dict__.update(VisionDataset=object, to_tensor=None)
        sys.modules[name] = module
    import streaming

    return streaming


def read_ours(
    folder: Path, *, shuffled: bool, function: Any = decode, kind: Any = None
) -> Iterator[dict[str, np.ndarray]]:
    from sadstream.order import Order
    from sadstream.sample_stream import SampleStream
    from sadstream.samples import SampleFolder, places_of

    samples = (kind or SampleFolder)(folder)
    if shuffled:
        # No background thread: the others decode in the loop's own, too.
        stream: SampleStream[Any] = SampleStream(samples, Order(), lambda draft: draft.samples, epochs=1, ahead=0)
        for update in stream:
            for _, data in update.data:
                yield function(data)
        return
    for shard in range(len(samples)):
        for place in places_of(samples.rows(shard, [])):
            yield function(samples.read(*place))


def read_codec(folder: Path, *, shuffled: bool) -> Iterator[dict[str, np.ndarray]]:
    from sadstream.codec import decode_teacher_sample

    return read_ours(folder, shuffled=shuffled, function=decode_teacher_sample)


def read_trusting(folder: Path, *, shuffled: bool) -> Iterator[dict[str, np.ndarray]]:
    """Ours without what the others don't do: what comparing each sample with its checksum takes."""
    from sadstream.samples import SampleFolder

    class Trusting(SampleFolder):
        def read_many(self, places: Any) -> list[tuple[str, memoryview]]:
            samples = []
            for shard, offset, _, _, key in places:
                whole, _ = self._open.get(shard) or self._open_shard(shard, is_checked=True)
                begin = offset + 512
                samples.append((key, whole[begin : begin + int(bytes(whole[offset + 124 : offset + 135]), 8)]))
            return samples

    return read_ours(folder, shuffled=shuffled, kind=Trusting)


def read_webdataset(folder: Path, *, shuffled: bool) -> Iterator[dict[str, np.ndarray]]:
    import webdataset

    tars = sorted(map(str, folder.glob("*.tar")))
    data = webdataset.WebDataset(tars, shardshuffle=len(tars) if shuffled else False, seed=0)
    for sample in data.shuffle(1000) if shuffled else data:
        yield decode(sample["bin"])


def read_litdata(folder: Path, *, shuffled: bool) -> Iterator[dict[str, np.ndarray]]:
    from litdata import StreamingDataset

    for sample in StreamingDataset(str(folder), shuffle=shuffled):
        yield decode(sample["sample"]) if "sample" in sample else sample


def read_mds(folder: Path, *, shuffled: bool) -> Iterator[dict[str, np.ndarray]]:
    streaming = _streaming()
    streaming.base.util.clean_stale_shared_memory()
    for sample in streaming.StreamingDataset(local=str(folder), shuffle=shuffled, batch_size=1):
        yield decode(sample["sample"]) if "sample" in sample else sample


READERS = {
    "ours": ("raw", read_ours),
    "webdataset": ("raw", read_webdataset),
    "litdata, columns": ("litdata-columns", read_litdata),
    "litdata, one record": ("litdata-record", read_litdata),
    "mds, columns": ("mds-columns", read_mds),
    "mds, one record": ("mds-record", read_mds),
    "ours, not compared": ("raw", read_trusting),
    "ours, codec": ("codec", read_codec),
}


def cpu_seconds() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def measure(name: str, folder: Path, *, shuffled: bool) -> dict[str, float]:
    """Read a folder once."""
    begin, samples = cpu_seconds(), READERS[name][1](folder, shuffled=shuffled)
    first = next(samples)
    ready = cpu_seconds()
    n_samples, n_tokens, total = 0, len(first["token_ids"]), int(first["token_ids"][0])
    for arrays in samples:
        n_samples += 1
        token_ids = arrays["token_ids"]
        n_tokens += len(token_ids)
        total += int(token_ids[0])
    seconds = cpu_seconds() - ready
    return {
        "n": n_samples + 1,
        "total": total + n_tokens,
        "samples": n_samples / seconds,
        "MB": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / seconds / 1e6,
        "tokens": n_tokens / seconds,
        "first": ready - begin,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def child(python: str, *arguments: str) -> Any:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    done = subprocess.run([python, __file__, *arguments], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(folder: Path, pythons: dict[str, str], n_samples: int, rounds: int) -> None:
    """Print a line a reader."""
    write_ours(folder / "raw", n_samples, compressed=False)
    write_ours(folder / "codec", n_samples, compressed=True)
    for name in ("litdata", "mds"):
        if name in pythons:
            for layout in ("columns", "record"):
                child(pythons[name], "--write", name, layout, str(folder / "raw"), str(folder / f"{name}-{layout}"))
    sys.stdout.write("reader | shuffled | samples/cpu-s | MB/cpu-s | tokens/cpu-s | first, cpu-s | peak MB\n")
    for shuffled in (False, True):
        found: dict[str, list[dict[str, float]]] = {}
        for _ in range(rounds):
            for name, (kind, _) in READERS.items():
                python = pythons.get(name.split(",")[0])
                if python:
                    where = str(folder / kind)
                    found.setdefault(name, []).append(child(python, "--read", name, where, str(int(shuffled))))
        same = {(row["n"], row["total"]) for rows in found.values() for row in rows}
        assert len(same) == 1, f"the readers do not give the same samples: {same}"
        for name, rows in found.items():
            m = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            sys.stdout.write(
                f"{name} | {'yes' if shuffled else 'no'} | {m['samples']:,.0f} | {m['MB']:,.0f} | {m['tokens']:,.0f} "
                f"| {m['first']:.2f} | {m['peak']:.0f}\n"
            )
        for name in found:
            ratios = [a["samples"] / b["samples"] for a, b in zip(found["ours"], found[name], strict=True)]
            sys.stdout.write(f"ours / {name}: {statistics.median(ratios):.2f} (paired, median)\n")
        sys.stdout.flush()


def make_index(out: Path, n_rows: int) -> None:
    """A folder whose tars are absent: shards of 10,000 samples (fewer in the smallest), their rows alike."""
    import polars as pl

    from sadstream.manifest import StageFolder, index_name, sha256_of
    from sadstream.shards import PLACE
    from sadstream.teacher_index import TEACHER_INDEX
    from sadstream_schemas import Shard

    a_shard = min(ROWS_A_SHARD, n_rows)
    random = np.random.default_rng(0)
    known = {
        "key": [f"{n:020x}" for n in range(a_shard)],
        "offset": np.arange(a_shard) * 6144,
        "n_bytes": np.full(a_shard, 6144),
        "checksum": random.integers(0, 1 << 32, a_shard),
        "split": ["train"] * a_shard,
        "format": ["alpaca"] * a_shard,
        "n_steps": random.integers(1, 12, a_shard),
        "n_tokens": np.exp(random.normal(6.25, 0.5, a_shard)).astype(int),
        "n_supervised_reason": random.integers(1, 200, a_shard),
        "n_supervised_act": random.integers(1, 60, a_shard),
        "entropy": random.random(a_shard) * 3,
    }
    rows = pl.DataFrame(known).select(
        (pl.col(name) if name in known else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in {**PLACE, **TEACHER_INDEX}.items()
    )
    folder = StageFolder(out, "cache-teacher", {}, [])
    rows.write_parquet(out / "shard-000000.parquet", compression="zstd")
    checksum = sha256_of(out / "shard-000000.parquet")
    for number in range(n_rows // a_shard):
        name = f"shard-{number:06d}.tar"
        if number:
            os.link(out / "shard-000000.parquet", out / index_name(name))
        folder.shards.append(
            Shard(name=name, n_samples=a_shard, n_bytes=6144 * a_shard, sha256="", index_sha256=checksum)
        )
    folder.finish({})


def measure_index(folder: Path, curriculum: Any) -> dict[str, float]:
    """Until the first update is planned, and then a whole epoch's plan."""
    from sadstream.order import Order, Position
    from sadstream.sample_stream import SampleStream
    from sadstream.samples import SampleFolder

    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    begin = cpu_seconds()
    stream: SampleStream[Any] = SampleStream(SampleFolder(folder), Order(curriculum=curriculum), list)
    block = next(iter(stream.blocks(Position())))
    assert block.updates
    ready = cpu_seconds() - begin
    n_updates = stream.count_updates(1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"ready": ready, "epoch": cpu_seconds() - begin - ready, "peak": peak - base, "n_updates": n_updates}


def index_costs(folder: Path) -> None:
    """Print a line a size."""
    sys.stdout.write("rows | curriculum | ready, cpu-s | a whole epoch planned, cpu-s | updates | MB above imports\n")
    for n_rows in (10**3, 10**5, 10**7):
        make_index(folder / str(n_rows), n_rows)
        for curriculum in ("none", "complexity", "depth"):
            m = child(sys.executable, "--measure-index", str(folder / str(n_rows)), curriculum)
            sys.stdout.write(
                f"{n_rows:,} | {curriculum} | {m['ready']:.2f} | {m['epoch']:.1f} | {m['n_updates']:,} "
                f"| {m['peak']:.0f}\n"
            )
            sys.stdout.flush()


def padding(logs: Path) -> None:
    """Print the share of padding at some budgets; batches of at most 16,384 padded tokens, as `train` has on a GPU."""
    from transformers import AutoTokenizer

    import sadstream
    from sadstream.model_files import EMBEDDED, resolve_model
    from sadstream.order import cut_updates, micro_batches
    from sadstream.tokens import cut_windows, supervised_tokens, token_kinds
    from sadstream_schemas import Span

    tokenizer = AutoTokenizer.from_pretrained(resolve_model(EMBEDDED, lambda note: None))
    sys.stdout.write("kind of log | windows | tokens | padding at 4096 | 8192 | 16384 | 65536 tokens an update\n")
    everything: list[int] = []
    for kind in (*sorted(path for path in logs.iterdir() if path.is_dir()), None):
        lengths = everything if kind is None else []
        if kind is not None:
            frame = sadstream.segment(sadstream.scan_logs(str(kind))).select("text", "spans").collect()
            for text, rows in frame.iter_rows():
                encoded = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
                spans = [Span(**{name: row[name] for name in _SPAN}) for row in rows]
                kinds, steps = token_kinds(encoded["offset_mapping"], encoded["special_tokens_mask"], spans)
                learnt = supervised_tokens(kinds)
                stop = int(np.flatnonzero(learnt)[0]) if learnt.any() else len(kinds)
                lengths += [len(window.tokens) for window in cut_windows(learnt, steps, 8192, prompt_stop=stop)]
            everything += lengths
        n_tokens = np.array(lengths, np.int64)
        shares = []
        for budget in (4096, 8192, 16_384, 65_536):
            cut = cut_updates(np.arange(len(n_tokens)), n_tokens, budget, np.random.default_rng(0))
            batches = [batch for update in cut for batch in micro_batches(update, n_tokens, 16_384)]
            shares.append(1 - n_tokens.sum() / sum(len(batch) * int(n_tokens[batch].max()) for batch in batches))
        name = kind.name if kind is not None else "all together"
        sys.stdout.write(f"{name} | {len(lengths):,} | {sum(lengths):,} | {' | '.join(f'{s:.1%}' for s in shares)}\n")


_SPAN = ("kind", "start", "stop", "body_start", "body_stop", "author", "step")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", default=[], metavar="litdata|mds=PATH")
    parser.add_argument("--samples", type=int, default=12_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--index", action="store_true")
    parser.add_argument("--padding", type=Path, metavar="LOGS")
    parser.add_argument("--write", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--read", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--measure-index", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.padding:
        padding(options.padding)
    elif options.write:
        name, layout, source, out = options.write
        write = {"litdata": write_litdata, "mds": write_mds}[name]
        write(Path(source), Path(out), columns=layout == "columns")
        sys.stdout.write("null\n")
    elif options.read:
        name, folder, shuffled = options.read
        sys.stdout.write(json.dumps(measure(name, Path(folder), shuffled=shuffled == "1")) + "\n")
    elif options.measure_index:
        folder, curriculum = options.measure_index
        sys.stdout.write(json.dumps(measure_index(Path(folder), curriculum)) + "\n")
    else:
        temporary = Path(tempfile.mkdtemp())
        try:
            if options.index:
                index_costs(temporary)
            else:
                mine = dict.fromkeys(("ours", "webdataset"), sys.executable)
                compare(
                    temporary,
                    mine | dict(text.split("=", 1) for text in options.python),
                    options.samples,
                    options.rounds,
                )
        finally:
            shutil.rmtree(temporary)


if __name__ == "__main__":
    main()
