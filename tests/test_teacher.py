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
from sadstream.manifest import index_name, writing
from sadstream.model_files import resolve_model, tokenizer_fingerprint
from sadstream.models import load_model, load_tokenizer
from sadstream.progress import silent
from sadstream.score import score, with_teacher_entropy
from sadstream.shards import iter_trajectories
from sadstream.teacher import CacheConfig, cache_teacher, plan_cache
from sadstream.tokens import ACT, CONTEXT, REASON
from sadstream.train import TrainConfig, train
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
        # Half a level of a cube root, and what the sum takes back.
        np.testing.assert_allclose(np.exp(arrays["topk_logprobs"] / 3), np.exp(of_ids / 3), atol=1 / 330)
        np.testing.assert_allclose(arrays["tail_mass"], tail, rtol=4.5e-3, atol=1e-6)
        np.testing.assert_allclose(arrays["entropy"], -(np.exp(dense) * dense).sum(1), rtol=0, atol=4.5e-3)
        logged = arrays["token_ids"][arrays["positions"]]
        np.testing.assert_allclose(arrays["token_logprobs"], dense[np.arange(len(logged)), logged], rtol=0, atol=4.5e-3)


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


@pytest.mark.parametrize("packing", ["on", "off"])
def test_batches_change_nothing_but_the_last_digits(tiny_cache, tiny_spans, tiny_teacher, tmp_path, packing):
    summary = cache(tiny_spans, tiny_teacher, tmp_path / "out", batch_tokens=1500, packing=packing)
    assert summary["batches"].startswith("packed" if packing == "on" else "padded")
    for one, other in zip(samples_of(tiny_cache), samples_of(tmp_path / "out"), strict=True):
        for name in ("token_ids", "kinds", "steps", "positions"):
            assert np.array_equal(one[name], other[name])
        for name, tolerance in (("tail_mass", 5e-3), ("entropy", 2e-2), ("token_logprobs", 2e-2)):
            np.testing.assert_allclose(one[name], other[name], atol=tolerance, rtol=1e-3)
        np.testing.assert_allclose(one["topk_logprobs"], other["topk_logprobs"], atol=0.05)


class Stop(Exception):
    pass


@pytest.mark.parametrize(("stopped_at", "packing"), [(0, "off"), (2, "on"), (4, "off")])
def test_an_interrupted_run_asks_no_finished_shard_again_and_ends_with_the_same_bytes(
    tiny_spans, tiny_teacher, tmp_path, monkeypatch, stopped_at, packing
):
    monkeypatch.setattr(teacher, "_SHARD_TOKENS", 600)
    asked = []
    real = ask.ask

    def counting(model, jobs, kept, *, row_tokens):
        asked.extend((job.trajectory.id, job.number) for job in jobs)
        return real(model, jobs, kept, row_tokens=row_tokens)

    monkeypatch.setattr(ask, "ask", counting)
    cache(tiny_spans, tiny_teacher, tmp_path / "undisturbed" / "out", packing=packing)
    n_windows = len(asked)
    asked.clear()

    def stop(done, total, unit, note=""):
        if note == f"asking the teacher, shard {stopped_at}":
            raise Stop

    out = tmp_path / "disturbed" / "out"
    with pytest.raises(Stop):
        cache(tiny_spans, tiny_teacher, out, stop, packing=packing)
    with pytest.raises(ManifestError, match="unfinished"):
        scan_index(out)
    finished = scan_rows(out)
    assert set(finished) <= set(asked)
    asked.clear()
    cache(tiny_spans, tiny_teacher, out, packing=packing)
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_tokenizer_for_which_there_is_no_room_is_one_line():
    with pytest.raises(ManifestError, match=r"cannot write: No space left"), writing(Path("/dev/full")):
        tiny.make_tokenizer().backend_tokenizer.save("/dev/full")


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
        ({"top_p": 0.0}, "--top-p 0.0: not a share"),
        ({"mode": "all"}, "--mode all: unknown"),
        ({"mode": "sample", "draws": 501}, "--draws 501: at most 500"),
        ({"mode": "sample", "top_p": 0.9}, "--top-p: what was drawn is not cut"),
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


REAL_LOGS = Path(__file__).parent.parent / "examples" / "logs"


def real_spans(out: Path) -> Path:
    segment_logs(SegmentConfig(logs=(str(REAL_LOGS / "hotpotqa_fireact.json"),), out=str(out)), silent)
    return out


def test_on_real_logs_cached_values_are_those_of_a_dense_forward(tiny_teacher, tmp_path):
    spans = real_spans(tmp_path / "spans")
    summary = cache(spans, tiny_teacher, tmp_path / "out", limit=5)
    assert summary["n_tokens"] > 1000
    assert_says_what_the_model_says(tmp_path / "out", load_model(tiny_teacher, torch.device("cpu"), torch.float32))


def test_on_real_logs_the_embedded_teacher_says_what_its_dense_forward_says(tmp_path):
    try:
        model_folder = resolve_model("smollm2-135m", lambda note: None)
    except ModelError as error:
        pytest.skip(f"the embedded teacher is not installed: {error}")
    spans = real_spans(tmp_path / "spans")
    cache(spans, model_folder, tmp_path / "out", max_length=96, limit=1)
    assert_says_what_the_model_says(tmp_path / "out", load_model(model_folder, torch.device("cpu"), torch.float32))


def more_logs(folder: Path, numbers: list[int]) -> Path:
    """A log of some of the tiny runs, in an order."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        run = {"id": f"run-{number}", "task": tiny.question(number), "text": tiny.react_text(number)}
        (folder / f"{number:02}.jsonl").write_text(json.dumps(run) + "\n", encoding="utf-8")
    return folder


def spans_of(folder: Path, out: Path, **options) -> Path:
    segment_logs(SegmentConfig(logs=(str(folder),), out=str(out), **options), silent)
    return out


def count_asked(monkeypatch) -> list[tuple[str, int]]:
    asked: list[tuple[str, int]] = []
    real = ask.ask

    def counting(model, jobs, kept, *, row_tokens):
        asked.extend((job.trajectory.id, job.number) for job in jobs)
        return real(model, jobs, kept, row_tokens=row_tokens)

    monkeypatch.setattr(ask, "ask", counting)
    return asked


def by_content(folder: Path) -> list[tuple[str, bytes]]:
    return sorted((row["teacher_key"], row["key"]) for row in scan_index(folder).collect().iter_rows(named=True))


def test_only_what_is_added_to_a_span_folder_is_asked(tiny_teacher, tmp_path, monkeypatch):
    logs, out = more_logs(tmp_path / "logs", [3, 5]), tmp_path / "out"
    spans = spans_of(logs, tmp_path / "spans")
    cache(spans, tiny_teacher, out)
    shard = (out / "shard-000000.tar").read_bytes()
    asked = count_asked(monkeypatch)
    more_logs(logs, [1, 4, 7])
    spans_of(logs, spans)
    config = CacheConfig(spans=str(spans), teacher=str(tiny_teacher), out=str(out), top_k=8)
    assert plan_cache(config, silent)["n_windows"] == 3
    asked.clear()
    summary = cache(spans, tiny_teacher, out)
    assert sorted(name for name, _ in asked) == ["run-1", "run-4", "run-7"]
    assert summary["n_samples"] == 5 and summary["n_shards"] == 2
    assert (out / "shard-000000.tar").read_bytes() == shard
    assert scan_index(out).collect()["key"].n_unique() == 5
    assert_says_what_the_model_says(out, load_model(tiny_teacher, torch.device("cpu"), torch.float32))
    assert cache(spans, tiny_teacher, out)["already_done"]
    assert plan_cache(config, silent)["n_windows"] == 0


def test_spans_made_again_in_another_order_ask_nothing_again(tiny_teacher, tmp_path, monkeypatch):
    logs, out = more_logs(tmp_path / "logs", [3, 5, 6]), tmp_path / "out"
    cache(spans_of(logs, tmp_path / "spans"), tiny_teacher, out)
    samples = by_content(out)
    for old, new in (("03", "98"), ("05", "97")):
        (logs / f"{old}.jsonl").rename(logs / f"{new}.jsonl")
    more_logs(logs, [8])
    asked = count_asked(monkeypatch)
    cache(spans_of(logs, tmp_path / "spans-again", shard_size=1), tiny_teacher, out, batch_tokens=900)
    assert [name for name, _ in asked] == ["run-8"]
    assert set(samples) < set(by_content(out))


def test_spans_that_lack_what_the_cache_holds_are_refused_by_name_and_the_cache_stays(tiny_teacher, tmp_path):
    logs, out = more_logs(tmp_path / "logs", [3, 5, 6]), tmp_path / "out"
    cache(spans_of(logs, tmp_path / "spans"), tiny_teacher, out)
    before = content(out)
    fewer = spans_of(logs, tmp_path / "fewer", where="id <> 'run-5'")
    with pytest.raises(ManifestError, match=r"1 of its windows are not in the spans any more.*run-5"):
        cache(fewer, tiny_teacher, out)
    held_out = spans_of(logs, tmp_path / "held-out", holdout=0.999)
    with pytest.raises(ManifestError, match=r"3 of its windows .* on the other side of --holdout"):
        cache(held_out, tiny_teacher, out)
    assert content(out) == before


def test_another_teacher_or_option_is_refused_by_name(tiny_cache, tiny_spans, tiny_student, tiny_teacher, tmp_path):
    with pytest.raises(ManifestError, match="teacher_fingerprint was"):
        cache(tiny_spans, tiny_student, tiny_cache)
    with pytest.raises(ManifestError, match=r"top_p was 1.0 and is now 0.5"):
        cache(tiny_spans, tiny_teacher, tiny_cache, top_p=0.5)


@pytest.mark.parametrize("stopped_at", [1, 2])
def test_an_interrupted_extension_continues_and_ends_with_the_same_bytes(
    tiny_teacher, tmp_path, monkeypatch, stopped_at
):
    monkeypatch.setattr(teacher, "_SHARD_TOKENS", 200)

    def stop(done, total, unit, note=""):
        if note == f"asking the teacher, shard {stopped_at}":
            raise Stop

    first, all_of_them = more_logs(tmp_path / "logs", [2]), [1, 4, 7, 8]
    spans = spans_of(first, tmp_path / "spans")
    for name in ("undisturbed", "disturbed"):
        (tmp_path / name).mkdir()
        cache(spans, tiny_teacher, tmp_path / name / "out")
    more_logs(first, all_of_them)
    spans_of(first, spans)
    cache(spans, tiny_teacher, tmp_path / "undisturbed" / "out")
    out = tmp_path / "disturbed" / "out"
    with pytest.raises(Stop):
        cache(spans, tiny_teacher, out, stop)
    n_before = len(scan_rows(out))
    asked = count_asked(monkeypatch)
    cache(spans, tiny_teacher, out)
    assert n_before + len(asked) == 5
    assert content(out) == content(tmp_path / "undisturbed" / "out")


def test_a_run_that_was_interrupted_goes_on_with_spans_that_grew_meanwhile(tiny_teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher, "_SHARD_TOKENS", 200)

    def stop(done, total, unit, note=""):
        if note == "asking the teacher, shard 1":
            raise Stop

    logs, out = more_logs(tmp_path / "logs", [1, 4, 7]), tmp_path / "out"
    spans = spans_of(logs, tmp_path / "spans")
    with pytest.raises(Stop):
        cache(spans, tiny_teacher, out, stop)
    n_before = len(scan_rows(out))
    more_logs(logs, [2, 9])
    spans_of(logs, spans)
    asked = count_asked(monkeypatch)
    assert cache(spans, tiny_teacher, out)["n_samples"] == 5
    assert n_before > 0 and n_before + len(asked) == 5


def test_a_teacher_with_padding_names_no_padding_and_trains_a_student_without(tiny_spans, tmp_path):
    tokenizer = tiny.make_tokenizer()
    padded = tiny.save_model(tiny.llama_config(len(tokenizer) + 60), tmp_path / "padded")
    summary = cache(tiny_spans, padded, tmp_path / "out", limit=12)
    model = load_model(padded, torch.device("cpu"), torch.float32)
    mass_of_padding = []
    for arrays in samples_of(tmp_path / "out"):
        assert arrays["topk_ids"].max() < len(tokenizer)
        dense = np.exp(dense_logprobs(model, arrays["token_ids"])[arrays["positions"]])
        named = -np.sort(-dense[:, : len(tokenizer)], axis=1)[:, :8]
        np.testing.assert_allclose(arrays["tail_mass"], 1 - named.sum(1), rtol=4.5e-3, atol=1e-6)
        mass_of_padding.append(dense[:, len(tokenizer) :].sum(1))
    assert np.concatenate(mass_of_padding).mean() > 0.05, "else the test shows nothing"
    assert summary["n_samples"] == 12
    index = scan_index(tmp_path / "out").collect()
    student = tiny.save_model(tiny.llama_config(len(tokenizer), num_hidden_layers=1), tmp_path / "student")
    assert tokenizer_fingerprint(student) == tokenizer_fingerprint(padded)
    assert int(np.concatenate([a["topk_ids"].ravel() for a in samples_of(tmp_path / "out")]).max()) < len(tokenizer)
    config = TrainConfig(
        shards=str(tmp_path / "out"), student=str(student), out=str(tmp_path / "run"), updates=2, batch_tokens=500
    )
    assert train(config, silent)["n_updates"] == 2 and len(index) == 12


def test_top_p_keeps_the_ids_that_are_needed_for_its_mass_and_puts_the_rest_into_the_tail(
    tiny_spans, tiny_teacher, tiny_cache, tmp_path
):
    summary = cache(tiny_spans, tiny_teacher, tmp_path / "out", top_p=0.4)
    whole_samples = samples_of(tiny_cache)
    for cut, whole in zip(samples_of(tmp_path / "out"), whole_samples, strict=True):
        kept = ~np.isneginf(cut["topk_logprobs"])
        probs = np.exp(whole["topk_logprobs"])
        assert (
            np.array_equal(kept[:, 1:], (np.cumsum(probs, 1)[:, :-1] < 0.4)[:, : kept.shape[1] - 1])
            or (
                np.abs(np.cumsum(probs, 1)[:, :-1] - 0.4)[kept[:, 1:] != (np.cumsum(probs, 1)[:, :-1] < 0.4)] < 0.01
            ).all()
        )
        assert np.array_equal(cut["topk_ids"][kept], whole["topk_ids"][kept])
        np.testing.assert_allclose(cut["tail_mass"], whole["tail_mass"] + (probs * ~kept).sum(1), atol=0.01)
    done = cache(tiny_spans, tiny_teacher, tiny_cache)
    assert summary["bytes_per_supervised_token"] < 0.8 * done["bytes_per_supervised_token"]


def test_drawn_ids_are_the_same_whatever_is_asked_beside_them(tiny_spans, tiny_teacher, tiny_cache, tmp_path):
    for name, batch_tokens in (("one", 0), ("batched", 1500)):
        cache(tiny_spans, tiny_teacher, tmp_path / name, mode="sample", draws=40, limit=8, batch_tokens=batch_tokens)
    same = n_rows = 0
    for one, other, whole in zip(
        samples_of(tmp_path / "one"), samples_of(tmp_path / "batched"), samples_of(tiny_cache), strict=False
    ):
        shares = np.exp(one["topk_logprobs"])
        np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
        np.testing.assert_allclose(shares * 40, np.round(shares * 40), atol=1e-3)
        assert (one["tail_mass"] == 0).all()
        np.testing.assert_allclose(one["entropy"], whole["entropy"], atol=0.02)
        n_rows += len(shares)
        same += sum(np.array_equal(a, b) for a, b in zip(one["topk_ids"], other["topk_ids"], strict=True))
        # The likeliest id is drawn about as often as it is likely.
        np.testing.assert_allclose(shares[:, 0].mean(), np.exp(whole["topk_logprobs"][:, 0]).mean(), atol=0.1)
    assert same > 0.95 * n_rows, "sums of floats in another order may turn a draw now and then"
    with pytest.raises(ConfigError, match="--divergence jsd"):
        train(TrainConfig(shards=str(tmp_path / "one"), student="x", out="unused", divergence="jsd"), silent)


def test_batch_size_is_free(tiny_cache, tiny_spans, tiny_teacher):
    assert cache(tiny_spans, tiny_teacher, tiny_cache, batch_tokens=700)["already_done"]


def test_a_plan_tells_hours_and_bytes_from_windows_that_it_asked(tiny_spans, tiny_teacher, tiny_cache):
    plan = plan_cache(CacheConfig(spans=str(tiny_spans), teacher=str(tiny_teacher), out="unused", top_k=8), silent)
    assert plan["tokens_per_second"] > 0 and plan["hours"] >= 0
    on_disk = sum(p.stat().st_size for p in tiny_cache.glob("shard-*"))
    assert 0.5 * on_disk < plan["n_bytes"] < 2 * on_disk
