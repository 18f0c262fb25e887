"""What an artefact of sadstream holds, as tables."""

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import polars as pl

from sadstream.errors import InputError, ManifestError, ShardError
from sadstream.manifest import MANIFEST, REJECTS, load_manifest, verify
from sadstream.progress import Progress
from sadstream.score import KINDS
from sadstream.shards import iter_members, scan_index
from sadstream_schemas import Manifest, Trajectory, decode_json, read_teacher_sample


class Table(NamedTuple):
    """A titled table.

    Attributes:
        title: what it shows. rows: one mapping from column to value each, of like keys.
    """

    title: str
    rows: list[dict[str, Any]]


def inspect_artefact(path: str | Path) -> list[Table]:
    """Tables about a folder of span shards, teacher shards, a run, a student or collected episodes, or about one tar.

    Raises:
        InputError: nothing of sadstream's. ManifestError, ShardError: damaged.
    """
    path = Path(path)
    if path.suffix == ".tar" and path.is_file():
        return [_members(path)]
    if not path.exists():
        raise InputError(f"{path}: no such file or folder", hint="give a folder that sadstream wrote, or a shard")
    if not (path / MANIFEST).is_file():
        raise InputError(
            f"{path}: not something that sadstream wrote", hint=f"a folder with {MANIFEST}, or a .tar shard"
        )
    manifest = load_manifest(path)
    tables = [_about(path, manifest)]
    if not manifest.complete:
        return tables
    if manifest.stage in ("segment", "cache-teacher") and not manifest.shards:
        return tables
    if manifest.stage == "segment":
        return [*tables, *_spans(path)]
    if manifest.stage == "cache-teacher":
        return [*tables, *_teacher(path)]
    if manifest.stage == "train":
        return [*tables, *run_tables(manifest.totals)]
    if manifest.stage == "evaluate":
        return [*tables, *result_tables(manifest.totals)]
    if manifest.stage == "collect":
        return [*tables, *episode_tables(manifest.totals)]
    return tables


def verify_artefact(path: str | Path, progress: Progress) -> list[str]:
    """Compare a folder's files with their checksums.

    Returns:
        What is wrong, a line a file.
    Raises:
        ManifestError: no manifest there, or unfinished.
    """
    path = Path(path)
    if path.is_file():
        raise InputError(f"{path}: a file", hint=f"give its folder: sadstream inspect {path.parent} --verify")
    manifest = load_manifest(path)
    if not manifest.complete:
        raise ManifestError(f"{path}: unfinished", hint="run the command that made it again; it continues")
    total = 2 * len(manifest.shards) + len(manifest.files)
    checked = 0

    def count(name: str) -> None:
        nonlocal checked
        checked += 1
        progress(checked, total, "files", name)

    return verify(path, manifest, count)


def _about(path: Path, manifest: Manifest) -> Table:
    options = {k: v for k, v in manifest.config.items() if v not in ("", None, [], {})}
    facts = {
        "made by": f"sadstream {manifest.stage} {manifest.sadstream_version}",
        "finished": "yes" if manifest.complete else "no: run the same command again, it continues",
        "inputs": len(manifest.inputs),
        "shards": len(manifest.shards),
        "bytes in shards": sum(shard.n_bytes for shard in manifest.shards),
        **options,
    }
    return Table(str(path), [{"what": name, "value": value} for name, value in facts.items()])


def _spans(path: Path) -> list[Table]:
    chars = [pl.col(f"n_chars_{kind}").sum() for kind in KINDS]
    supervised = pl.col("n_chars_reason").sum() + pl.col("n_chars_act").sum()
    summary = (
        scan_index(path)
        .group_by("format")
        .agg(
            pl.len().alias("trajectories"),
            pl.col("success").mean().round(3),
            pl.col("success").count().alias("of known"),
            (pl.col("split") == "holdout").sum().alias("holdout"),
            pl.col("n_steps").sum().alias("steps"),
            *(column.alias(f"{kind} chars") for column, kind in zip(chars, KINDS, strict=True)),
            (supervised / pl.sum_horizontal(chars)).round(3).alias("supervised"),
            pl.col("complexity").median().round(0).alias("complexity"),
        )
        .sort("format")
        .collect()
    )
    tables = [Table("trajectories by format", summary.to_dicts())]
    if (path / REJECTS).exists():
        # Folders of older versions do not say the format.
        columns = ("format", "file", "reason", "detail")
        refused = pl.read_ndjson(path / REJECTS, schema=dict.fromkeys(columns, pl.String))
        counts = refused.group_by("format", "reason", "detail").agg(n=pl.len(), first=pl.col("file").first())
        ordered = counts.sort("n", "reason", "format", descending=[True, False, False]).rename({"first": "first in"})
        tables.append(Table("left out", ordered.to_dicts()))
    return tables


def _teacher(path: Path) -> list[Table]:
    supervised = pl.sum_horizontal("n_supervised_reason", "n_supervised_act", "n_supervised_other")
    summary = (
        scan_index(path)
        .group_by("format", "split")
        .agg(
            pl.len().alias("samples"),
            pl.col("n_tokens").sum().alias("tokens"),
            pl.col("n_supervised_reason").sum().alias("reason"),
            pl.col("n_supervised_act").sum().alias("act"),
            (supervised.sum() / pl.col("n_tokens").sum()).round(3).alias("supervised"),
            (pl.col("n_teacher_bytes").sum() / supervised.sum()).round(1).alias("bytes a token"),
            ((pl.col("entropy") * supervised).sum() / supervised.sum()).round(3).alias("entropy, nats"),
            ((pl.col("tail_mass") * supervised).sum() / supervised.sum()).round(4).alias("tail mass"),
            (pl.col("cut_prompt") | pl.col("cut_step")).sum().alias("cut"),
        )
        .sort("format", "split")
        .collect()
    )
    return [Table("samples by format and split", summary.to_dicts())]


def run_tables(totals: dict[str, Any]) -> list[Table]:
    """A run's held-out measures per kind: before and after training, and those of the best unigram."""
    before, after, unigram = (totals.get(f"eval_{when}") or {} for when in ("before", "after", "unigram"))
    if not after:
        return []
    rows = []
    for kind in ("reason", "act"):
        rows.append(
            {
                "kind": kind.upper(),
                "KL before": _round(before.get(f"{kind}_kl")),
                "KL after": _round(after.get(f"{kind}_kl")),
                "KL of best unigram": _round(unigram.get(f"{kind}_kl")),
                "after / unigram": _ratio(after.get(f"{kind}_kl"), unigram.get(f"{kind}_kl")),
                "top-1 before": _round(before.get(f"{kind}_top1")),
                "top-1 after": _round(after.get(f"{kind}_top1")),
                "cross-entropy after": _round(after.get(f"{kind}_ce")),
            }
        )
    return [Table("held-out split, nats per token (top-1: agreement with the teacher)", rows)]


def episode_tables(totals: dict[str, Any]) -> list[Table]:
    """What collected episodes came to, by type of task where there are types, and over all."""
    measured = {**totals["by_type"], "all": totals}
    rows = []
    for name, measures in measured.items():
        rate, low, high = measures["success_rate"]
        rows.append(
            {
                "task type": name,
                "episodes": measures["n_episodes"],
                "success": rate,
                "95 % from": low,
                "to": high,
                "reward": measures["mean_reward"],
                **measures["metrics"],
                "turns": measures["mean_turns"],
                "invalid actions": measures["invalid_action_share"],
            }
        )
    return [Table(f"{totals['agent']} in {totals['env']}, split {totals['split']}", rows)]


def result_tables(results: dict[str, Any]) -> list[Table]:
    """What evaluated models came to: success by type of task, how they acted, and what sets them apart."""
    models = results["models"]
    success, acting, matches = [], [], []
    for label, measures in models.items():
        for name, part in {**measures["by_type"], "all": measures}.items():
            success.append(
                {
                    "model": label,
                    "task type": name,
                    "episodes": part["n_episodes"],
                    **_interval("success", part["success_rate"]),
                    **_interval("reward", part["reward"]),
                    "steps to success": part["steps_per_success"],
                    "invalid actions": part["invalid_actions"],
                }
            )
        acting.append(
            {
                "model": measures["agent"],
                "reason tokens a step": measures["reason_tokens_per_step"],
                "an episode": measures["reason_tokens_per_episode"],
                "counted by": measures["reason_tokens_by"],
                "loops": measures["loops"],
                "never acted": measures["never_acted"],
                "seconds a step": measures["seconds_per_step"],
                "tokens a step": measures["tokens_per_step"],
                "ended": measures["endings"],
                "answers cut off": measures["costs"].get("n_cut_off", 0),
                "no answer": measures["costs"].get("n_failed", 0),
                "turns left out": measures["costs"].get("n_dropped", 0),
            }
        )
        if measures["cot_match"] is not None:
            matches.append({"model": label, **measures["cot_match"]})
    tables = [
        Table(f"{results['env']}, split {results['split']}: 95 % intervals", success),
        Table("how they acted", acting),
    ]
    if matches:
        tables.append(Table(f"CoT match with the reference: {results['rules']['cot_match']}", matches))
    if results["differences"]:
        rows = [
            {
                "second minus first": f"{row['second']} - {row['first']}",
                "tasks": row["n_tasks"],
                **_interval("success", row["success"]),
                **_interval("reward", row["reward"]),
            }
            for row in results["differences"]
        ]
        tables.append(Table("differences on the same tasks: 95 % paired bootstrap over tasks", rows))
    return tables


def _interval(name: str, numbers: list[float]) -> dict[str, Any]:
    middle, low, high = numbers
    return {name: middle, f"{name} from": low, f"{name} to": high}


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _ratio(value: float | None, base: float | None) -> float | None:
    return round(value / base, 3) if value is not None and base else None


def _members(path: Path) -> Table:
    rows = []
    for key, data in iter_members(path):
        is_spans = data[:1] == b"{"
        try:
            record = decode_json(data, Trajectory) if is_spans else read_teacher_sample(data)
        except msgspec.DecodeError as error:
            raise ShardError(f"{path}: member {key}: {error}", hint="not a shard of sadstream's, or damaged") from error
        facts = {"key": key, "n_bytes": len(data)}
        if isinstance(record, Trajectory):
            facts |= {"id": record.id, "spans": len(record.spans), "task": (record.task or "")[:60]}
        else:
            facts |= {"id": record.trajectory_id, "window": record.window}
            facts |= {"tokens": record.n_tokens, "supervised": record.n_supervised}
        rows.append(facts)
    return Table(str(path), rows)
