import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from sadstream import SegmentConfig, ask, iter_samples, models, scan_index, scan_shards, segment_logs, teacher
from sadstream.codec import decode_teacher_sample
from sadstream.errors import ConfigError, ManifestError, ModelError, ShardError
from sadstream.inspect import inspect_artefact
from sadstream.manifest import index_name
from sadstream.models import load_model, load_tokenizer
from sadstream.progress import silent
from sadstream.score import score, with_teacher_entropy
from sadstream.shards import iter_trajectories
from sadstream.teacher import CacheConfig, cache_teacher, plan_cache
from sadstream.tokens import ACT, CONTEXT, REASON
from tests import tiny


def cache(spans: Path, model: Path, out: Path, progress=silent, **options) -> dict:
    return cache_teacher(CacheConfig(spans=str(spans), teacher=str(model), out=str(out), top_k=8, **options), progress)


def samples_of(folder: Path) -> list[dict[str, np.ndarray]]:
    return [decode_teacher_sample(data) for _, data in iter_samples(folder)]


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def dense_logprobs(model, token_ids: np.ndarray) -> np.ndarray:
    """log p(token | all before it) at each position from 1 on, by the model's own forward, float64 [T, V]."""
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(token_ids)[None]).logits[0].double()
    return np.concatenate([np.full((1, logits.shape[1]), np.nan), logits.log_softmax(-1).numpy()[:-1]])


def assert_says_what_the_model_says(folder: Path, model) -> None:
    for arrays in samples_of(folder):
        dense = dense_logprobs(model, arrays["token_ids"])[arrays["positions"]]
        ids = arrays["topk_ids"]
        assert all(len(set(row)) == len(row) for row in ids.tolist())
        of_ids = np.take_along_axis(dense, ids, 1)
        best = -np.sort(-dense, axis=1)[:, : ids.shape[1]]
        np.testing.assert_allclose(of_ids, best, atol=1e-4)
        tail = 1 - np.exp(of_ids).sum(1)
        np.testing.assert_allclose(arrays["topk_logprobs"], of_ids, atol=0.03)
        np.testing.assert_allclose(arrays["tail_mass"], tail, rtol=2e-3, atol=1e-6)
        np.testing.assert_allclose(arrays["entropy"], -(np.exp(dense) * dense).sum(1), rtol=2e-3, atol=1e-4)
        logged = arrays["token_ids"][arrays["positions"]]
        np.testing.assert_allclose(
            arrays["token_logprobs"], dense[np.arange(len(logged)), logged], rtol=1e-3, atol=1e-3
        )


def test_cached_values_are_those_of_a_dense_forward_at_the_right_tokens(tiny_cache, tiny_teacher):
    assert_says_what_the_model_says(tiny_cache, load_model(tiny_teacher, torch.device("cpu"), torch.float32))


def test_what_is_supervised_decodes_to_what_the_agent_wrote(tiny_cache, tiny_spans, tiny_teacher):
    tokenizer = load_tokenizer(tiny_teacher)
    for arrays, trajectory in zip(samples_of(tiny_cache), iter_trajectories(tiny_spans), strict=True):
        wrote = {
            code: "".join(trajectory.text[s.start : s.stop] for s in trajectory.spans if s.kind == kind)
            for kind, code in (("reason", REASON), ("act", ACT))
        }
        supervised = arrays["token_ids"][arrays["positions"]]
        kinds = arrays["kinds"][arrays["positions"]]
        for code, text in wrote.items():
            assert tokenizer.decode(supervised[kinds == code]) == text
        assert arrays["token_ids"][0] == tokenizer.bos_token_id and arrays["kinds"][0] == CONTEXT
        assert trajectory.text.startswith(tokenizer.decode(arrays["token_ids"][1:]))


def test_the_index_and_the_summary_count_what_the_samples_hold(tiny_cache, tiny_teacher, tiny_spans):
    rows = scan_index(tiny_cache).collect()
    arrays = samples_of(tiny_cache)
    assert rows["n_tokens"].to_list() == [len(a["token_ids"]) for a in arrays]
    assert rows["n_supervised_reason"].sum() == sum((a["kinds"][a["positions"]] == REASON).sum() for a in arrays)
    assert set(rows["split"]) == {"train", "holdout"}
    assert rows["key"].n_unique() == len(rows)
    again = cache(tiny_spans, tiny_teacher, tiny_cache)
    assert again["already_done"]
    assert again["n_tokens"] == rows["n_tokens"].sum() and again["n_samples"] == len(rows)
    assert again["n_supervised"]["act"] == rows["n_supervised_act"].sum()
    tail = np.concatenate([a["tail_mass"] for a in arrays])
    assert again["mean_tail_mass"] == pytest.approx(tail.mean(), abs=1e-3)


def test_a_finished_folder_is_left_as_it_is(tiny_cache, tiny_spans, tiny_teacher, monkeypatch):
    monkeypatch.setattr(models, "load_model", None)  # would fail if it were called
    before = {name: (tiny_cache / name).stat().st_mtime_ns for name in content(tiny_cache)}
    cache(tiny_spans, tiny_teacher, tiny_cache)
    assert {name: (tiny_cache / name).stat().st_mtime_ns for name in content(tiny_cache)} == before


def test_batches_change_nothing_but_the_last_digits(tiny_cache, tiny_spans, tiny_teacher, tmp_path):
    cache(tiny_spans, tiny_teacher, tmp_path / "out", batch_tokens=1500)
    for one, other in zip(samples_of(tiny_cache), samples_of(tmp_path / "out"), strict=True):
        for name in ("token_ids", "kinds", "steps", "positions"):
            assert np.array_equal(one[name], other[name])
        for name, tolerance in (("tail_mass", 1e-3), ("entropy", 5e-3), ("token_logprobs", 1e-2)):
            np.testing.assert_allclose(one[name], other[name], atol=tolerance, rtol=1e-3)
        np.testing.assert_allclose(one["topk_logprobs"], other["topk_logprobs"], atol=0.05)


class Stop(Exception):
    pass


@pytest.mark.parametrize("stopped_at", [0, 2, 4])
def test_an_interrupted_run_asks_no_finished_shard_again_and_ends_with_the_same_bytes(
    tiny_spans, tiny_teacher, tmp_path, monkeypatch, stopped_at
):
    monkeypatch.setattr(teacher, "_SHARD_TOKENS", 600)
    asked = []
    real = ask.ask

    def counting(model, jobs, top_k):
        asked.extend((job.trajectory.id, job.number) for job in jobs)
        return real(model, jobs, top_k)

    monkeypatch.setattr(ask, "ask", counting)
    cache(tiny_spans, tiny_teacher, tmp_path / "undisturbed" / "out")
    n_windows = len(asked)
    asked.clear()

    def stop(done, total, unit, note=""):
        if note == f"asking the teacher, shard {stopped_at}":
            raise Stop

    out = tmp_path / "disturbed" / "out"
    with pytest.raises(Stop):
        cache(tiny_spans, tiny_teacher, out, stop)
    with pytest.raises(ManifestError, match="unfinished"):
        scan_index(out)
    finished = scan_rows(out)
    assert set(finished) <= set(asked)
    asked.clear()
    cache(tiny_spans, tiny_teacher, out)
    assert len(finished) + len(asked) == n_windows
    assert not set(finished) & set(asked)
    assert content(out) == content(tmp_path / "undisturbed" / "out")


def scan_rows(folder: Path) -> list[tuple[str, int]]:
    """Trajectories and windows of the shards that lie in an unfinished folder."""
    names = sorted(folder.glob("shard-*.parquet"))
    return pl.concat([pl.read_parquet(name) for name in names]).select("id", "window").rows() if names else []


def test_a_run_of_other_options_in_the_same_folder_is_refused(tiny_cache, tiny_spans, tiny_teacher):
    with pytest.raises(ManifestError, match=r"positions was 'supervised' and is now 'all'"):
        cache(tiny_spans, tiny_teacher, tiny_cache, positions="all")


@pytest.mark.parametrize("max_length", [2, 40, 90])
def test_long_runs_become_windows_that_fit_and_miss_nothing(tiny_spans, tiny_teacher, tiny_cache, tmp_path, max_length):
    summary = cache(tiny_spans, tiny_teacher, tmp_path / "out", max_length=max_length, limit=60)
    rows = scan_index(tmp_path / "out").collect()
    assert rows["n_tokens"].max() <= max_length
    assert rows["window"].max() > 0
    assert summary["n_cut_prompts"] == rows["cut_prompt"].sum() and summary["n_cut_steps"] == rows["cut_step"].sum()
    whole = {row["id"]: row for row in scan_index(tiny_cache).collect().iter_rows(named=True)}
    # The last trajectory may be cut off by the limit.
    for name, windows in list(rows.group_by("id", maintain_order=True))[:-1]:
        assert windows["window"].to_list() == list(range(len(windows)))
        for column in ("n_supervised_reason", "n_supervised_act"):
            assert windows[column].sum() == whole[name[0]][column]
    assert_says_what_the_model_says(tmp_path / "out", load_model(tiny_teacher, torch.device("cpu"), torch.float32))


def test_with_all_positions_every_token_but_the_first_has_its_distribution(tiny_spans, tiny_teacher, tmp_path):
    cache(tiny_spans, tiny_teacher, tmp_path / "out", positions="all", limit=3)
    for arrays in samples_of(tmp_path / "out"):
        assert arrays["positions"].tolist() == list(range(1, len(arrays["token_ids"])))
    rows = scan_index(tmp_path / "out").collect()
    assert rows["n_supervised_other"].min() > 0
    assert_says_what_the_model_says(tmp_path / "out", load_model(tiny_teacher, torch.device("cpu"), torch.float32))


def test_the_whole_vocabulary_can_be_kept(tiny_spans, tiny_teacher, tmp_path):
    vocab_size = len(load_tokenizer(tiny_teacher))
    config = CacheConfig(
        spans=str(tiny_spans), teacher=str(tiny_teacher), out=str(tmp_path / "out"), top_k=vocab_size, limit=1
    )
    cache_teacher(config, silent)
    (arrays,) = samples_of(tmp_path / "out")
    assert arrays["topk_ids"].shape[1] == vocab_size
    assert (arrays["tail_mass"] == 0).all()


def test_a_plan_counts_what_the_run_will_do(tiny_spans, tiny_teacher, tiny_cache):
    config = CacheConfig(spans=str(tiny_spans), teacher=str(tiny_teacher), out="unused", top_k=8)
    plan = plan_cache(config, silent)
    done = cache(tiny_spans, tiny_teacher, tiny_cache)
    assert (plan["n_windows"], plan["n_tokens"]) == (done["n_samples"], done["n_tokens"])
    assert plan["n_supervised"] == sum(done["n_supervised"].values())
    assert plan["max_length"] == 512
    assert not Path("unused").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 100_000}, "--top-k 100000: the teacher's vocabulary has 340"),
        ({"top_k": 0}, "--top-k 0: at least 1"),
        ({"max_length": 1}, "--max-length 1: at least 2"),
        ({"max_length": 4096}, "--max-length 4096: the teacher takes 512"),
        ({"batch_tokens": -1}, "--batch-tokens -1"),
        ({"positions": "some"}, "--positions some: unknown"),
        ({"dtype": "int8"}, "--dtype int8: unknown"),
    ],
)
def test_options_out_of_range_are_refused_and_do_not_spoil_the_folder(
    tiny_spans, tiny_teacher, tmp_path, options, message
):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=message):
        cache_teacher(CacheConfig(spans=str(tiny_spans), teacher=str(tiny_teacher), out=str(out), **options), silent)
    assert cache(tiny_spans, tiny_teacher, out, limit=1)["n_samples"] == 1


def test_a_folder_that_is_not_of_spans_is_named_with_what_takes_it(tiny_cache, tiny_teacher, tmp_path):
    with pytest.raises(ManifestError, match="made by `sadstream cache-teacher`") as error:
        cache(tiny_cache, tiny_teacher, tmp_path / "out")
    assert "sadstream train" in error.value.hint
    with pytest.raises(ManifestError, match="no such folder"):
        cache(tmp_path / "absent", tiny_teacher, tmp_path / "out")
    with pytest.raises(ManifestError, match="not a folder that sadstream wrote"):
        cache(tiny_teacher, tiny_teacher, tmp_path / "out")


def test_a_damaged_span_shard_is_named(tiny_spans, tiny_teacher, tmp_path):
    spans = tmp_path / "spans"
    shutil.copytree(tiny_spans, spans)
    shard = spans / "shard-000000.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ShardError, match=r"shard-000000.tar: its content is not what was written"):
        cache(spans, tiny_teacher, tmp_path / "out")


def test_a_teacher_that_is_none_is_refused(tiny_spans, tiny_teacher, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_teacher, broken)
    (broken / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(ModelError, match="broken: "):
        cache(tiny_spans, broken, tmp_path / "out")


def test_a_teacher_that_says_no_numbers_of_some_window_is_refused_by_the_windows_name(tiny_spans, tmp_path):
    tokenizer = tiny.make_tokenizer()
    config = tiny.llama_config(len(tokenizer), tie_word_embeddings=False)
    broken = tiny.save_model(config, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    first = tokenizer("Question")["input_ids"][1]
    weights["model.embed_tokens.weight"][first] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"run-\d+, window 0: what the teacher says is not a number"):
        cache(tiny_spans, broken, tmp_path / "out")


def test_spans_of_nothing_are_refused(tiny_teacher, tmp_path):
    logs = tiny.write_logs(tmp_path / "runs.jsonl", 2)
    segment_logs(SegmentConfig(logs=(str(logs),), out=str(tmp_path / "spans"), where="n_steps > 99"), silent)
    with pytest.raises(ConfigError, match="spans: no supervised token in it"):
        cache(tmp_path / "spans", tiny_teacher, tmp_path / "out")


def test_kept_distributions_are_exact_in_float32():
    torch.manual_seed(0)
    logits = torch.randn(50, 700) * 6
    logits[::5, 20:] = float("-inf")
    logits = torch.cat([logits, logits + 1e4])
    logged = torch.arange(100) % 20
    ids, logprobs, log_tail, entropy, token_logprobs = ask.distribution(logits, logged, 32)
    dense = logits.double().log_softmax(-1)
    torch.testing.assert_close(logprobs.double(), dense.gather(-1, ids), atol=2e-3, rtol=1e-5)
    tail = dense.exp().scatter(-1, ids, 0).sum(-1)
    torch.testing.assert_close(log_tail.double().exp(), tail, atol=2e-5, rtol=2e-3)
    exact = -torch.where(dense.exp() > 0, dense.exp() * dense, 0).sum(-1)
    torch.testing.assert_close(entropy.double(), exact, atol=2e-3, rtol=1e-4)
    torch.testing.assert_close(token_logprobs.double(), dense[torch.arange(100), logged], atol=2e-3, rtol=1e-5)


def test_the_complexity_of_a_cached_folder_has_the_teacher_s_entropy_in_it(tiny_spans, tiny_cache):
    plain = score(scan_shards(tiny_spans)).collect()
    cached = score(with_teacher_entropy(scan_shards(tiny_spans), scan_index(tiny_cache)), gamma=100).collect()
    assert cached["entropy"].null_count() == 0 and (cached["entropy"] > 0).all()
    more = cached["complexity"] - plain["complexity"]
    assert more.to_list() == pytest.approx((100 * cached["entropy"]).to_list())


def test_spans_made_before_a_score_was_thought_of_are_cached_and_inspected(tiny_spans, tiny_teacher, tmp_path):
    old = tmp_path / "spans"
    shutil.copytree(tiny_spans, old)
    manifest = json.loads((old / "manifest.json").read_text())
    for number, shard in enumerate(manifest["shards"]):
        path = old / index_name(shard["name"])
        unknown = ["n_steps_loop"] if number else ["n_steps_loop", "is_truncated"]
        pl.read_parquet(path).drop(unknown).write_parquet(path)
        shard["index_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(manifest["shards"]) > 1
    (old / "manifest.json").write_text(json.dumps(manifest))
    index = scan_index(old).collect()
    assert "n_steps_loop" not in index.columns
    assert index["is_truncated"].null_count() == manifest["shards"][0]["n_samples"]
    cache = CacheConfig(spans=str(old), teacher=str(tiny_teacher), out=str(tmp_path / "teacher"), top_k=2, limit=2)
    cache_teacher(cache, silent)
    rows = scan_index(tmp_path / "teacher").collect()
    assert rows["n_steps"].null_count() == 0 and rows["is_truncated"].null_count() == len(rows) == 2
    assert inspect_artefact(old)[1].rows
