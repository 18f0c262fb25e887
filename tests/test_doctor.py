import hashlib
import json
import shutil
from functools import cache, partial
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
import torch

from sadstream import SegmentConfig, segment_logs
from sadstream.codec import TeacherArrays, decode_teacher_sample, encode_teacher_sample
from sadstream.doctor import DoctorConfig, bucket_kl, doctor
from sadstream.errors import ConfigError, ManifestError
from sadstream.manifest import MANIFEST, StageFolder, load_manifest
from sadstream.models import load_model, load_tokenizer, save_model
from sadstream.progress import silent
from sadstream.shards import Sample, iter_shard, read_index, write_shard
from sadstream.teacher import CacheConfig, cache_teacher
from sadstream.teacher_index import TEACHER_INDEX
from sadstream.train import TrainConfig, train
from sadstream_cli import cli
from tests import tiny


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Path:
    """A small teacher that has read the tiny runs: it foretells their tokens."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = tiny.make_tokenizer()
    torch.manual_seed(0)
    raw = tiny.save_model(
        tiny.llama_config(len(tokenizer), num_hidden_layers=2, tie_word_embeddings=False), folder / "raw"
    )
    model = load_model(raw, torch.device("cpu"), torch.float32).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.3 if parameter.ndim > 1 else 1)
    texts = tokenizer([tiny.react_text(n) for n in range(24)], padding=False)["input_ids"]
    ids = torch.zeros(24, max(map(len, texts)), dtype=torch.int64)
    labels = torch.full_like(ids, -100)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = labels[row, : len(text)] = torch.tensor(text)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(30):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    save_model(model, load_tokenizer(raw), folder / "taught")
    return folder / "taught"


@pytest.fixture(scope="module")
def healthy(taught, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    logs = tiny.write_logs(folder / "runs.jsonl", 12)
    segment_logs(SegmentConfig(logs=(str(logs),), out=str(folder / "spans"), holdout=0.2), silent)
    config = CacheConfig(spans=str(folder / "spans"), teacher=str(taught), out=str(folder / "teacher"), top_k=16)
    cache_teacher(config, silent)
    return folder / "teacher"


def examine(folder: Path, **options) -> dict:
    return doctor(DoctorConfig(shards=str(folder), **options), silent)


def wrong(summary: dict) -> dict[str, str]:
    return {verdict["check"]: verdict["says"] for verdict in summary["verdicts"] if not verdict["ok"]}


def rewritten(healthy: Path, out: Path, change, **options) -> Path:
    """The same cache with each sample's arrays changed, its checksums those of the changed files."""
    manifest = load_manifest(healthy)
    shutil.copytree(healthy / "tokenizer", out / "tokenizer")
    folder = StageFolder(out.with_name(out.name + "-made"), "cache-teacher", manifest.config, manifest.inputs)
    shutil.copytree(out / "tokenizer", folder.path / "tokenizer")
    for shard in manifest.shards:
        samples = []
        for (key, data), row in zip(iter_shard(healthy, shard), read_index(healthy, shard), strict=True):
            arrays = decode_teacher_sample(data)
            with np.errstate(divide="ignore"):
                arrays["log_tail"] = np.log(arrays.pop("tail_mass"))
            changed = change(TeacherArrays(**arrays))
            data, _ = encode_teacher_sample(changed, trajectory_id=row["id"], window=row["window"], vocab_size=340)
            samples.append(Sample(key, "msgpack", data, {name: row[name] for name in TEACHER_INDEX}))
        write_shard(folder, samples, TEACHER_INDEX)
    folder.finish(manifest.totals, sorted(f"tokenizer/{p.name}" for p in (folder.path / "tokenizer").iterdir()))
    return folder.path


def test_a_healthy_cache_is_found_healthy_by_itself_and_by_its_teacher(healthy, taught):
    summary = examine(healthy, teacher=str(taught))
    assert summary["ok"], wrong(summary)
    checks = {verdict["check"] for verdict in summary["verdicts"]}
    assert {"files", "samples", "tokenizer", "consistency", "numbers", "alignment", "teacher", "live"} <= checks
    assert summary["shift_nll"]["0"] + 1 < min(summary["shift_nll"]["-1"], summary["shift_nll"]["1"])
    assert summary["live"]["kl_mean"] < 3e-5 and summary["live"]["noise_kl_mean"] < 1e-6
    assert 0 <= summary["by_kind"]["act"]["logged_outside_top_k"] < 0.5
    lost = list(summary["truncation"].values())
    assert lost == sorted(lost, reverse=True) and lost[-1] > 0


def shifted(by: int, healthy: Path, out: Path) -> Path:
    """Rows that stand where others belong."""

    def shift(arrays: TeacherArrays) -> TeacherArrays:
        rolled = {
            name: np.roll(getattr(arrays, name), by, axis=0)
            for name in ("topk_ids", "topk_logprobs", "log_tail", "entropy", "token_logprobs")
        }
        return arrays._replace(**rolled)

    return rewritten(healthy, out, shift)


def with_another_tokenizer(healthy: Path, out: Path) -> Path:
    shutil.copytree(healthy, out)
    tiny.make_tokenizer(n_extra=2).save_pretrained(out / "tokenizer")
    return out


def damaged(change, healthy: Path, out: Path) -> Path:
    """Its shard's bytes changed; None: gone."""
    shutil.copytree(healthy, out)
    shard = out / "shard-000000.tar"
    changed = change(bytearray(shard.read_bytes()))
    shard.unlink() if changed is None else shard.write_bytes(changed)
    return out


FAULTS = {
    "shifted by -1": partial(shifted, -1),
    "shifted by 1": partial(shifted, 1),
    "another tokenizer": with_another_tokenizer,
    "flipped": partial(damaged, lambda data: data[:5000] + bytes([data[5000] ^ 4]) + data[5001:]),
    "truncated": partial(damaged, lambda data: data[: len(data) // 2]),
    "missing": partial(damaged, lambda data: None),
}


@pytest.fixture(scope="module")
def with_fault(healthy, tmp_path_factory):
    """The healthy cache with a fault of that name, made once."""

    @cache
    def made(name: str) -> Path:
        return FAULTS[name](healthy, tmp_path_factory.mktemp("faults") / "teacher")

    return made


@pytest.mark.parametrize("by", [-1, 1])
def test_positions_that_are_off_by_one_are_found_and_stop_training(with_fault, taught, tmp_path, by):
    folder = with_fault(f"shifted by {by}")
    summary = examine(folder, teacher=str(taught))
    assert {"consistency", "alignment", "live"} <= set(wrong(summary))
    assert f"{-by:+d} places off" in wrong(summary)["alignment"]
    with pytest.raises(ManifestError, match="shifted"):
        train(TrainConfig(shards=str(folder), student=str(taught), out=str(tmp_path / "run"), updates=1), silent)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_command_exits_1_at_a_planted_fault_and_names_what_is_wrong(with_fault, fault, capsys):
    assert cli.run(["doctor", str(with_fault(fault))]) == 1
    told = capsys.readouterr().out
    assert "  WRONG  " in told and "Something is wrong" in told
    assert cli.run(["doctor", str(with_fault(fault)), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_the_command_exits_0_where_nothing_is_wrong_and_1_with_another_teacher(healthy, taught, tiny_teacher, capsys):
    assert cli.run(["doctor", str(healthy), "--teacher", str(taught), "--windows", "2"]) == 0
    told = capsys.readouterr().out
    assert "WRONG" not in told and told.endswith("Nothing is wrong.\n")
    assert cli.run(["doctor", str(healthy), "--teacher", str(tiny_teacher), "--windows", "2"]) == 1
    assert "  WRONG  live" in capsys.readouterr().out


def test_a_capture_that_is_off_by_one_in_all_it_stores_is_found_by_alignment(healthy, tmp_path):
    """As a teacher whose hidden states were taken one place late: its own logprobs agree with its top k."""

    def late(arrays: TeacherArrays) -> TeacherArrays:
        rolled = {
            name: np.roll(getattr(arrays, name), -1, axis=0) for name in ("topk_ids", "topk_logprobs", "log_tail")
        }
        logged = arrays.token_ids[arrays.positions]
        is_it = rolled["topk_ids"] == logged[:, None]
        own = np.where(is_it.any(1), (rolled["topk_logprobs"] * is_it).sum(1), rolled["log_tail"])
        return arrays._replace(**rolled, token_logprobs=own)

    summary = examine(rewritten(healthy, tmp_path / "late", late))
    assert set(wrong(summary)) == {"alignment"}


def test_another_teacher_is_found(healthy, tiny_teacher):
    summary = examine(healthy, teacher=str(tiny_teacher), windows=3)
    assert {"teacher", "live", "live logged tokens"} == set(wrong(summary))


def test_another_tokenizer_is_found(with_fault):
    assert {"files", "tokenizer"} == set(wrong(examine(with_fault("another tokenizer"))))


@pytest.mark.parametrize("fault", ["flipped", "truncated", "missing"])
def test_damaged_files_are_found_by_name(with_fault, fault):
    found = wrong(examine(with_fault(fault)))
    assert {"files", "samples"} == set(found)
    assert all("shard-000000.tar" in says for says in found.values())


def test_an_index_of_another_shard_is_found_though_its_checksum_is_right(healthy, tmp_path):
    folder = tmp_path / "teacher"
    shutil.copytree(healthy, folder)
    index = folder / "shard-000000.parquet"
    pl.read_parquet(index).with_columns(pl.col("n_tokens") + 1).write_parquet(index)
    manifest = load_manifest(folder)
    checksum = hashlib.sha256(index.read_bytes()).hexdigest()
    shards = [msgspec.structs.replace(manifest.shards[0], index_sha256=checksum), *manifest.shards[1:]]
    (folder / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, shards=shards)))
    assert "its index says" in wrong(examine(folder))["samples"]


def test_a_teacher_that_says_nothing_in_particular_is_no_fault_of_the_cache(tiny_cache):
    summary = examine(tiny_cache)
    assert summary["ok"], wrong(summary)
    assert "too little to say" in next(v["says"] for v in summary["verdicts"] if v["check"] == "alignment")


def test_a_cache_of_draws_is_examined_by_what_it_holds(tiny_spans, taught, tmp_path):
    config = CacheConfig(
        spans=str(tiny_spans), teacher=str(taught), out=str(tmp_path / "out"), mode="sample", draws=30, limit=8
    )
    cache_teacher(config, silent)
    summary = examine(tmp_path / "out", teacher=str(taught), windows=2)
    assert {"live", "alignment"}.isdisjoint(v["check"] for v in summary["verdicts"])
    assert not {"numbers", "live logged tokens", "teacher"} & set(wrong(summary))


def test_nothing_to_examine_is_an_error(tmp_path, tiny_spans, healthy):
    with pytest.raises(ManifestError, match="no such folder"):
        examine(tmp_path / "absent")
    with pytest.raises(ManifestError, match="made by `sadstream segment`"):
        examine(tiny_spans)
    with pytest.raises(ConfigError, match="--windows 0"):
        examine(healthy, windows=0)


def test_bucket_kl_is_kl():
    p, q = np.array([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]]), np.array([[0.2, 0.3, 0.5], [0.5, 0.25, 0.25]])
    with np.errstate(divide="ignore"):
        found = bucket_kl([np.log(p)], [np.log(q)])
    np.testing.assert_allclose(found, [0.5 * np.log(2.5) + 0.2 * np.log(0.4), np.log(2)], rtol=1e-12)
