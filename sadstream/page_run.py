"""A run's page: windows of the teacher shards it was trained on, with what its student says of each supervised token.

The student's numbers come from the code that measures the held-out split, so they average to what the run reports.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import torch
from numpy.typing import NDArray

from sadstream.errors import ModelError, ShardError
from sadstream.manifest import MANIFEST, read_manifest, sha256_of
from sadstream.measure import token_measures
from sadstream.model_files import model_fingerprint, resolve_config, resolve_model
from sadstream.models import load_model, pick_device, pick_dtype
from sadstream.order import micro_batches
from sadstream.page import STUDENT_VALUES, TEACHER_VALUES, Entry, Page, rounded, value_scales
from sadstream.page_source import read_windows, spread, windows_page
from sadstream.progress import Progress
from sadstream.shards import scan_index
from sadstream.stream import collate
from sadstream.students import make_student
from sadstream.train_config import TrainConfig, read_config
from sadstream_schemas import Manifest

_Measures = dict[str, NDArray[Any]]


def read_run_page(run: Path, progress: Progress, *, limit: int, split: str) -> Page:
    """What the page of a run shows: held-out windows first, then those it learnt from.

    The starting student's KL stands beside the trained one's where that student is still to be had.

    Args:
        limit: windows at most, evenly spread over each split; 0 is all.
        split: of this split only; "" is both.
    Raises:
        SadstreamError: unfinished, without its model, or its teacher shards are gone or not those any more.
    """
    manifest = read_manifest(run, "train")
    config = read_config(str(run / "config.toml"), {})
    trained = run / "model"
    if not (trained / "config.json").is_file():
        raise ModelError(f"{run}: no model in it (no model/config.json)", hint="copy the run again, or train again")
    shards = _shards_of(run, manifest, config)
    index = scan_index(shards).collect()
    if split:
        index = index.filter(split=split)
    rows = _held_out_first(index, limit)
    notes = _reported(manifest)
    device = pick_device("auto")
    dtype = pick_dtype(config.dtype, device)
    budget = config.micro_batch_tokens or (1 if device.type == "cpu" else 16_384)

    page = windows_page(shards, run.resolve().name, rows, index.height, progress)
    try:
        start = _starting_student(run, manifest, config)
    except ModelError as error:
        start = None
        notes.append(f"KL before training is not shown: {error}")
    total = int(rows["n_tokens"].sum()) * (2 if start else 1)
    n_read = 0

    def measured(model: Any, note: str) -> dict[str, _Measures]:
        nonlocal n_read
        found: dict[str, _Measures] = {}
        for key, n_tokens, values in _measured(model, shards, rows, device, dtype, budget):
            found[key] = values
            n_read += n_tokens
            progress(n_read, total, "tokens", note)
        return found

    progress(0, total, "tokens", "loading the trained student")
    after = measured(load_model(trained, device, torch.float32), "asking the trained student")
    before: dict[str, _Measures] = {}
    if start:
        plain = msgspec.structs.replace(config, compile=False, gradient_checkpointing=False)
        before = measured(make_student(plain, start, device), "asking the student that it was")
    entries = [
        _with_student(entry, after[key], before.get(key))
        for entry, key in zip(page.entries, rows["key"].to_list(), strict=True)
    ]
    scales = value_scales(entries, STUDENT_VALUES | TEACHER_VALUES)
    return msgspec.structs.replace(page, entries=entries, values=scales, notes=notes)


def _held_out_first(index: pl.DataFrame, limit: int) -> pl.DataFrame:
    held_out, training = index.filter(split="holdout"), index.filter(pl.col("split") != "holdout")
    held_out = held_out[spread(held_out.height, limit)]
    left = limit - held_out.height
    return pl.concat([held_out, training[spread(training.height, left)] if left > 0 or not limit else training[:0]])


def _reported(manifest: Manifest) -> list[str]:
    """The held-out KL as the run's own summary has it, in words."""
    said = []
    for when, name in (("before", "eval_before"), ("after", "eval_after")):
        values = manifest.totals.get(name) or {}
        kinds = [f"{kind.upper()} {values[f'{kind}_kl']:.3f}" for kind in ("reason", "act") if values.get(f"{kind}_kl")]
        said += [f"{when}: {', '.join(kinds)}"] if kinds else []
    return [f"The run's mean KL over all that was held out, in nats, {'; '.join(said)}"] if said else []


def _candidates(recorded: str, run: Path, out: str) -> Iterator[Path]:
    """Where a path that a run recorded may lead now: from here, from where training was started, beside the run."""
    yield Path(recorded)
    where, parts = run.resolve(), Path(out).parts
    if parts and where.parts[-len(parts) :] == parts:
        yield Path(*where.parts[: -len(parts)]) / recorded
    yield where.parent / Path(recorded).name


def _shards_of(run: Path, manifest: Manifest, config: TrainConfig) -> Path:
    wanted = {file.sha256 for file in manifest.inputs if Path(file.path).name == MANIFEST}
    there = [path for path in _candidates(config.shards, run, config.out) if (path / MANIFEST).is_file()]
    for path in there:
        if sha256_of(path / MANIFEST) in wanted:
            return path
    if there:
        raise ShardError(
            f"{there[0]}: not what {run} was trained on any more (its {MANIFEST} is another)",
            hint=f"`sadstream inspect {there[0]} --html FILE` shows what it holds now; train again for the student",
        )
    raise ShardError(
        f"{run}: the teacher shards that it was trained on are gone from {config.shards}",
        hint=f"run this from where `sadstream train` ran, or put them at {run.parent / Path(config.shards).name}",
    )


def _starting_student(run: Path, manifest: Manifest, config: TrainConfig) -> Path:
    """What the run began from.

    Raises:
        ModelError: it is not here, or is another now.
    """
    is_random = config.init == "random"
    path = next((path for path in _candidates(config.student, run, config.out) if path.exists()), None)
    name = config.student if path is None else str(path)
    found = resolve_config(name) if is_random else resolve_model(name, lambda _: None, fetch=False)
    is_now = sha256_of(found)[:16] if is_random else model_fingerprint(found)
    if is_now != manifest.config["student_fingerprint"]:
        raise ModelError(f"{config.student}: not the student that {run} began with any more")
    return found


def _measured(
    model: Any, shards: Path, rows: pl.DataFrame, device: torch.device, dtype: torch.dtype, budget: int
) -> Iterator[tuple[str, int, _Measures]]:
    """Key and length of each window, and what `token_measures` says of every token that the teacher was asked about.

    Windows come in the order of their lengths.
    """
    for places in micro_batches(range(rows.height), rows["n_tokens"].to_numpy(), budget):
        samples = [(row["key"], arrays) for row, arrays in read_windows(shards, rows[places])]
        batch = collate(samples, everything=True).to(device)
        values = {name: value_N.cpu().numpy() for name, value_N in token_measures(model, batch, dtype).items()}
        start = 0
        for key, arrays in samples:
            stop = start + len(arrays["positions"])
            yield key, len(arrays["token_ids"]), {name: value[start:stop] for name, value in values.items()}
            start = stop


def _with_student(entry: Entry, after: _Measures, before: _Measures | None) -> Entry:
    assert entry.tokens is not None
    values = {"kl": after["kl"], "student_surprise": after["ce"]}
    if before is not None:
        values |= {"kl_before": before["kl"], "kl_fell": before["kl"] - after["kl"]}
    shown = {name: rounded(values[name], 4) for name in STUDENT_VALUES if name in values}
    return msgspec.structs.replace(
        entry, tokens=msgspec.structs.replace(entry.tokens, values={**shown, **entry.tokens.values})
    )
