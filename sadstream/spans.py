"""The first stage: raw logs to a folder of span shards."""

import difflib
import hashlib
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from sadstream.errors import ConfigError, InputError
from sadstream.formats import Format
from sadstream.formats.chosen import chosen_formats
from sadstream.frames import LOG_SCHEMA
from sadstream.logs import OnError, read_logs
from sadstream.manifest import REJECTS, Input, StageFolder, describe_inputs, index_name, write_atomically
from sadstream.paths import LogFile, find_logs
from sadstream.progress import Progress
from sadstream.score import KINDS, SCORES, score
from sadstream.segment import segment
from sadstream.shards import SPANS_SCHEMA, Sample, encode_trajectory, member_size, sample_key, write_shard

INDEX_SCHEMA: dict[str, pl.DataType] = {
    "id": pl.String(),
    "split": pl.String(),
    "content_hash": pl.String(),
    "file": pl.String(),
    "format": pl.String(),
    "task": pl.String(),
    "success": pl.Boolean(),
    "reward": pl.Float64(),
    "ending": pl.String(),
    **SCORES,
}
_PASSED_OVER = ("unrecognised", "empty", "malformed", "cut-off", "not-read", "not-chosen")


class SegmentConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Options of `segment`; those but `logs` and `out` decide the content.

    Attributes:
        logs: files, folders, globs, fsspec URLs, or `-`.
        out: folder for the span shards.
        format: `auto`, a name of `sadstream.formats.NAMES`, or `module:function`.
        where: SQL over the index columns; rows for which it is not true are left out.
        holdout: share of the tasks whose trajectories get the split `holdout`.
        dedupe: leave out a trajectory whose text and spans came before.
        shard_size: bytes after which a shard is closed.
        on_error: what a malformed record does.
    """

    logs: tuple[str, ...]
    out: str
    format: str = "auto"
    where: str = ""
    holdout: float = 0.05
    dedupe: bool = False
    shard_size: int = 64_000_000
    on_error: OnError = "stop"


def segment_logs(config: SegmentConfig, progress: Progress) -> dict[str, Any]:
    """Read logs, cut and score them, and write span shards. A finished folder is left as it is.

    Returns:
        The summary: keys as `sadstream segment --json` prints them.
    Raises:
        SadstreamError: paths, logs, options or the output folder are not as they should be.
    """
    begin = time.monotonic()
    formats = chosen_formats(config.format)
    if not 0 <= config.holdout < 1:
        raise ConfigError(
            f"holdout {config.holdout}: not a share", hint="from 0 to below 1; 0.05 is one task in twenty"
        )
    if config.shard_size < 1:
        raise ConfigError(f"shard size {config.shard_size}: not a size", hint="bytes, as in 64MB")
    check_where(config.where)
    out = Path(config.out)
    with tempfile.TemporaryDirectory() as spool:
        files = [_spooled(file, Path(spool)) for file in find_logs(config.logs)]
        _refuse_own_output(files, out)
        inputs = [Input(file.name, Path(file.path)) for file in files if "://" not in file.path and not file.problem]
        options = msgspec.to_builtins(config)
        decisive = {key: value for key, value in options.items() if key not in ("logs", "out")}
        decisive["remote"] = [file.path for file in files if "://" in file.path]
        folder = StageFolder(out, "segment", decisive, describe_inputs(inputs, out), may_grow="by-input")
        if folder.done is not None:
            return {**folder.done.totals, "out": config.out, "already_done": True}
        totals = _write_spans(files, formats, config, folder, progress)
    totals["seconds"] = round(time.monotonic() - begin, 3)
    # Seconds differ from run to run and are no part of the content.
    folder.finish({k: v for k, v in totals.items() if k not in ("seconds", "out")}, _extra_files(out))
    return totals


def _extra_files(out: Path) -> list[str]:
    return [REJECTS] if (out / REJECTS).exists() else []


def _spooled(file: LogFile, spool: Path) -> LogFile:
    """Standard input as a file: it must be hashed before it is read."""
    if file.path != "-":
        return file
    if sys.stdin is None:
        raise InputError("-: standard input is closed", hint="pipe the logs in, or name files")
    target = spool / "stdin"
    with target.open("wb") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
    return file._replace(path=str(target), shown="standard input")


def _refuse_own_output(files: list[LogFile], out: Path) -> None:
    inside = [f for f in files if "://" not in f.path and Path(f.path).resolve().is_relative_to(out.resolve())]
    if inside and out.exists():
        raise InputError(f"{out}: --out holds logs to be read ({inside[0].name})", hint="choose an --out beside them")


def check_where(where: str) -> None:
    """Refuse a filter that is no SQL expression over the index columns, or looks at more than one row.

    Raises:
        ConfigError: says what is wrong, and which columns there are.
    """
    if not where:
        return
    try:
        expression = pl.sql_expr(where)
        _refuse_unknown(where, expression.meta.root_names())
        dtype = pl.DataFrame(schema=INDEX_SCHEMA).select(expression.alias("kept"))["kept"].dtype
    except (pl.exceptions.PolarsError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"--where {where!r}: {reason}", hint=f"columns: {', '.join(INDEX_SCHEMA)}") from error
    if dtype != pl.Boolean:
        raise ConfigError(
            f"--where {where!r}: gives {dtype}, not true or false", hint="for example: success AND n_steps < 20"
        )
    if _looks_beyond_its_row(msgspec.json.decode(expression.meta.serialize(format="json"))):
        raise ConfigError(
            f"--where {where!r}: looks at more than one trajectory",
            hint="trajectories are judged one by one; put the number in: n_steps > 12",
        )


def _refuse_unknown(where: str, columns: Sequence[str]) -> None:
    for name in columns:
        if name not in INDEX_SCHEMA:
            near = difflib.get_close_matches(name.lower(), INDEX_SCHEMA, 3, 0.6)
            meant = f"did you mean {' or '.join(near)}? " if near else ""
            raise ConfigError(
                f"--where {where!r}: no column {name!r}", hint=f"{meant}columns: {', '.join(INDEX_SCHEMA)}"
            )


def _looks_beyond_its_row(tree: Any) -> bool:
    """Whether an expression's tree has an aggregate or a window in it."""
    if isinstance(tree, dict):
        return any(
            key in ("Agg", "Over", "Window") or (key != "Literal" and _looks_beyond_its_row(child))
            for key, child in tree.items()
        )
    if isinstance(tree, list):
        return any(_looks_beyond_its_row(child) for child in tree)
    return bool(tree == "Len")


def holdout_split(task: str, share: float) -> str:
    """`holdout` for a share of all tasks, else `train`; depends on the task's words alone.

    Case and spacing don't count, so the same question in two logs stands on one side.

    >>> holdout_split("Who made Gromit?", 0.0), holdout_split(" who made  gromit?", 0.9999)
    ('train', 'holdout')
    """
    words = " ".join(task.casefold().split())
    digest = hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return "holdout" if int.from_bytes(digest, "big") < share * 2**64 else "train"


def _write_spans(
    files: list[LogFile], known: Sequence[Format], config: SegmentConfig, folder: StageFolder, progress: Progress
) -> dict[str, Any]:
    n_bytes_in = 0
    total_bytes = sum(Path(f.path).stat().st_size for f in files if "://" not in f.path and not f.problem) or None

    def count(n_bytes: int) -> None:
        nonlocal n_bytes_in
        n_bytes_in += n_bytes
        # Packed files give more bytes than they have; the bar then waits at its end.
        progress(n_bytes_in, max(total_bytes, n_bytes_in) if total_bytes else None, "bytes", "reading")

    tally: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    kept_spans: Counter[str] = Counter()
    refused_spans: Counter[str] = Counter()
    names = {file.name for file in files}
    before = folder.extends
    files = [file for file in files if file.name not in before.get("inputs", ())]
    seen_ids, seen_content = _seen_before(folder)
    rejected_before = _rejects_before(folder)
    rejects: list[bytes] = []

    def samples() -> Iterator[Sample]:
        blocks = read_logs(files, formats=known, on_error=config.on_error, on_bytes=count)
        for block in blocks:
            for row in _scored(block, config).iter_rows(named=True):
                if row["refused"] is not None:
                    tally[row["refused"]] += 1
                    rejects.append(_reject(row))
                    if row["refused"] == "not-a-run":
                        refused_spans.update({kind: row[f"n_spans_{kind}"] for kind in KINDS})
                    continue
                row["id"] = _unique_id(row, seen_ids, names)
                if config.dedupe and row["content_hash"] in seen_content:
                    tally["duplicate"] += 1
                    rejects.append(_reject({**row, "refused": "duplicate", "detail": "its text came before"}))
                    continue
                if not row["kept"]:
                    tally["filtered"] += 1
                    continue
                if config.dedupe:
                    seen_content.add(row["content_hash"])
                formats[row["format"]] += 1
                kept_spans.update({kind: row[f"n_spans_{kind}"] for kind in KINDS})
                tally["steps"] += row["n_steps"]
                tally[row["split"]] += 1
                data = encode_trajectory(row)
                yield Sample(sample_key(row["id"]), "json", data, {name: row[name] for name in INDEX_SCHEMA})

    n_committed = len(folder.shards)
    for number, shard in enumerate(_by_size(samples(), config.shard_size), before.get("n_shards", 0)):
        # A shard that an interrupted run committed is made again only in memory: cutting is cheap, and it keeps
        # ids, duplicates and totals right.
        if number >= n_committed:
            write_shard(folder, shard, INDEX_SCHEMA)
    if not before and not formats and not tally["not-a-run"] and not tally["filtered"]:
        found = ", ".join(f"{tally[k]} {k}" for k in ("unrecognised", "empty", "malformed") if tally[k])
        raise InputError(
            f"{', '.join(config.logs)}: no trajectory in it" + (f" ({found})" if found else ""),
            hint="see README, Your own logs, for the formats read",
        )
    listed_before = set(rejected_before)
    listed = rejected_before + [line for line in rejects if line not in listed_before]
    if listed:
        write_atomically(folder.path / REJECTS, b"\n".join(listed) + b"\n")
    if not before and not formats and not tally["filtered"]:
        raise InputError(
            f"{', '.join(config.logs)}: {tally['not-a-run']} records, and in none an agent acts or thinks",
            hint=f"{folder.path / REJECTS} lists them",
        )
    totals = {
        "n_trajectories": formats.total(),
        "n_rejected": tally["not-a-run"],
        "n_filtered": tally["filtered"],
        "n_duplicates": tally["duplicate"],
        "n_passed_over": {reason: tally[reason] for reason in _PASSED_OVER if tally[reason]},
        "n_holdout": tally["holdout"],
        "n_steps": tally["steps"],
        "n_spans": {kind: kept_spans[kind] for kind in KINDS},
        "n_rejected_spans": {kind: refused_spans[kind] for kind in KINDS},
        "n_bytes_in": n_bytes_in,
        "formats": dict(sorted(formats.items())),
    }
    totals = _added(before.get("totals", {}), totals)
    return {**totals, "n_shards": len(folder.shards), "out": config.out}


def _seen_before(folder: StageFolder) -> tuple[Counter[str], set[str]]:
    """Native ids and content hashes of the trajectories that a growing folder held before."""
    n_shards = folder.extends.get("n_shards", 0)
    if not n_shards:
        return Counter(), set()
    paths = [folder.path / index_name(shard.name) for shard in folder.shards[:n_shards]]
    # Shards of an earlier version may lack a column, or the first have one less than the others.
    scan = pl.scan_parquet(paths, extra_columns="ignore", missing_columns="insert")
    rows = scan.select("id", "file", "content_hash").collect()
    native = rows.filter(~pl.col("id").str.starts_with(pl.col("file") + "#"))
    return Counter(native["id"].to_list()), set(rows["content_hash"].to_list())


def _rejects_before(folder: StageFolder) -> list[bytes]:
    n_bytes = folder.extends.get("n_rejects_bytes", 0)
    return (folder.path / REJECTS).read_bytes()[:n_bytes].split(b"\n")[:-1] if n_bytes else []


def _added(before: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Totals of both, name by name; numbers below names too."""
    both = dict(before)
    for name, value in more.items():
        if isinstance(value, dict):
            both[name] = _added(both.get(name, {}), value)
        else:
            both[name] = both.get(name, 0) + value
    return both


def _scored(block: pl.DataFrame, config: SegmentConfig) -> pl.DataFrame:
    """A block cut, scored, judged and split."""
    source, outcome = pl.col("source").struct, pl.col("outcome").struct
    nobody_acts = (pl.col("n_spans_reason") + pl.col("n_spans_act") == 0) & pl.col("refused").is_null()
    frame = (
        score(segment(block.lazy()))
        .with_columns(
            refused=pl.when(nobody_acts).then(pl.lit("not-a-run")).otherwise("refused"),
            detail=pl.when(nobody_acts).then(pl.lit("no agent acts or thinks in it")).otherwise("detail"),
            file=source.field("file"),
            format=source.field("format"),
            success=outcome.field("success"),
            reward=outcome.field("reward"),
            ending=outcome.field("ending"),
        )
        .collect()
    )
    tasks = pl.Series(
        [holdout_split(t, config.holdout) for t in frame["task"].fill_null(frame["text"])], dtype=pl.String
    )
    hashes = [
        hashlib.blake2b(text.encode() + repr(cuts).encode(), digest_size=16).hexdigest()
        for text, cuts in zip(frame["text"], frame.select(_cuts()).to_series().to_list(), strict=True)
    ]
    frame = frame.with_columns(split=tasks, content_hash=pl.Series(hashes, dtype=pl.String))
    kept = pl.sql_expr(config.where).fill_null(False) if config.where else pl.lit(True)
    try:
        return frame.with_columns(kept=kept)
    except pl.exceptions.PolarsError as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"--where {config.where!r}: {reason}", hint="TRY_CAST gives null where CAST fails") from error


def _cuts() -> pl.Expr:
    field = pl.element().struct.field
    return (
        pl.col("spans")
        .list.eval(pl.concat_str(field("kind").str.slice(0, 1), field("stop").cast(pl.String)))
        .list.join(" ")
    )


def _unique_id(row: dict[str, Any], seen: Counter[str], names: Container[str]) -> str:
    """The row's id, with `~2` and so on where a log uses one twice.

    Derived ids are unique and not remembered; a native one that looks like one of them counts as the second.
    """
    native: str = row["id"]
    if native == f"{row['file']}#{row['source']['record']}":
        return native
    seen[native] += 1
    number = seen[native] + (native.rpartition("#")[0] in names)
    if number == 1:
        return native
    while (unique := f"{native}~{number}") in seen:
        number += 1
    seen[unique] += 1
    return unique


def _reject(row: dict[str, Any]) -> bytes:
    return msgspec.json.encode(
        {
            "file": row["source"]["file"],
            "record": row["source"]["record"],
            "format": row["source"]["format"],
            "reason": row["refused"],
            "detail": row["detail"],
            "n_spans": {kind: row[f"n_spans_{kind}"] for kind in KINDS},
        }
    )


def _by_size(samples: Iterator[Sample], shard_size: int) -> Iterator[list[Sample]]:
    shard: list[Sample] = []
    n_bytes = 0
    for sample in samples:
        shard.append(sample)
        n_bytes += member_size(sample)
        if n_bytes >= shard_size:
            yield shard
            shard, n_bytes = [], 0
    if shard:
        yield shard


def write_shards(
    spans: pl.LazyFrame, out: str | Path, *, shard_size: int = 64_000_000, holdout: float = 0.05
) -> dict[str, Any]:
    """Write a segmented frame of one's own making as span shards, streamed block by block.

    Args:
        spans: what `segment` gives, further columns ignored; `id` and `source` are made up where absent.
        out: a new or empty folder.
        shard_size: bytes after which a shard is closed.
        holdout: share of the tasks whose trajectories get the split `holdout`.
    Returns:
        `n_trajectories`, `n_rejected` (nobody acts or thinks in it), `n_shards`, `out`.
    Raises:
        ManifestError: the folder is not empty.
    """
    out = Path(out)
    folder = StageFolder(out, "segment", {"frame": True, "shard_size": shard_size, "holdout": holdout}, [])
    if folder.done is not None or folder.shards:
        raise ConfigError(f"{out}: not empty", hint="a frame has no name to know it by; choose a new folder")
    config = SegmentConfig(logs=(), out=str(out), holdout=holdout, shard_size=shard_size)
    tally: Counter[str] = Counter()
    seen_ids: Counter[str] = Counter()

    def samples() -> Iterator[Sample]:
        for number, block in enumerate(spans.collect_batches(chunk_size=4_000, maintain_order=True, lazy=True)):
            for row in _scored(_with_log_columns(block, number), config).iter_rows(named=True):
                if row["refused"] is not None:
                    tally["rejected"] += 1
                    continue
                tally["trajectories"] += 1
                row["id"] = _unique_id(row, seen_ids, ())
                yield Sample(
                    sample_key(row["id"]), "json", encode_trajectory(row), {name: row[name] for name in INDEX_SCHEMA}
                )

    for shard in _by_size(samples(), shard_size):
        write_shard(folder, shard, INDEX_SCHEMA)
    totals = {
        "n_trajectories": tally["trajectories"],
        "n_rejected": tally["rejected"],
        "n_shards": len(folder.shards),
        "out": str(out),
    }
    folder.finish({k: v for k, v in totals.items() if k != "out"})
    return totals


def _with_log_columns(block: pl.DataFrame, number: int) -> pl.DataFrame:
    """Columns of `SPANS_SCHEMA` that a frame of one's own lacks."""
    record = pl.format("{}.{}", pl.lit(number), pl.int_range(pl.len()))
    absent = {name: dtype for name, dtype in SPANS_SCHEMA.items() if name not in block.columns}
    made: dict[str, pl.Expr] = {
        "source": pl.struct(
            file=pl.lit("frame"), record=record, format=pl.lit("frame"), format_version=pl.lit(None, pl.String)
        ),
        "outcome": pl.struct(
            success=pl.lit(None, pl.Boolean),
            reward=pl.lit(None, pl.Float64),
            ending=pl.lit("unknown"),
            answer=pl.lit(None, pl.String),
            gold=pl.lit(None, pl.String),
        ),
        "id": pl.format("frame#{}", record),
        "tools": pl.lit([], pl.List(pl.String)),
        "extra": pl.lit("{}"),
    }
    block = block.with_columns(
        made.get(name, pl.lit(None, dtype)).cast(dtype).alias(name) for name, dtype in absent.items()
    )
    judged = {name: LOG_SCHEMA[name] for name in ("refused", "detail") if name not in block.columns}
    return block.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in judged.items())
