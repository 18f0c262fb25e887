import shutil
import tomllib
from itertools import islice, pairwise
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from sadstream import SegmentConfig, checkpoints, scan_index, segment_logs
from sadstream.codec import decode_teacher_sample
from sadstream.errors import ConfigError, ManifestError, ModelError, SadstreamError, ShardError
from sadstream.losses import hard_loss, soft_loss
from sadstream.models import load_model
from sadstream.optimise import make_optimizer, schedule
from sadstream.order import Order
from sadstream.progress import silent
from sadstream.sample_stream import SampleStream
from sadstream.samples import SampleFolder
from sadstream.shards import iter_samples
from sadstream.teacher import CacheConfig, cache_teacher
from sadstream.train import TrainConfig, read_config, train
from sadstream.train_config import to_toml
from tests import tiny


def run(cache: Path, student: Path, out: Path, progress=silent, **options) -> dict:
    wanted = {"batch_tokens": 600, "updates": 3, "lr": 1e-3, **options}
    return train(TrainConfig(shards=str(cache), student=str(student), out=str(out), **wanted), progress)


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def same(one: Path, other: Path, *, tolerance: float = 0) -> bool:
    a, b = weights_of(one), weights_of(other)
    return a.keys() == b.keys() and all(torch.allclose(a[k], b[k], rtol=0, atol=tolerance) for k in a)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_cache, tiny_student):
    """A run of 6 updates, and its summary."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    return out, run(tiny_cache, tiny_student, out, updates=6, save_every=1)


@pytest.mark.parametrize("objective", ["sad", "imitation"])
def test_how_an_update_is_cut_up_does_not_matter(tiny_cache, tiny_student, tmp_path, objective):
    budgets = (1, 400, 100_000)
    # A small rate: AdamW turns rounding in a gradient that should be 0 into a step of that size.
    for budget in budgets:
        options = {
            "micro_batch_tokens": budget,
            "objective": objective,
            "reduction": "mean",
            "lambda_act": 0.5,
            "lr": 1e-4,
        }
        run(tiny_cache, tiny_student, tmp_path / str(budget), **options)
    for budget in budgets[1:]:
        assert same(tmp_path / "1", tmp_path / str(budget), tolerance=1e-6)


def test_the_fused_optimizer_takes_the_plain_loops_steps():
    models = [torch.nn.Linear(7, 5), torch.nn.Linear(7, 5)]
    models[1].load_state_dict(models[0].state_dict())
    config = TrainConfig(shards="", student="", out="", lr=1e-2, weight_decay=0.1)
    ours = make_optimizer(models[0], config, torch.device("cpu"))
    plain = torch.optim.AdamW(models[1].parameters(), 1e-2, (0.9, 0.95), weight_decay=0.1, foreach=False)
    assert ours.defaults["fused"]
    for step in range(20):
        for model, optimizer in zip(models, (ours, plain), strict=True):
            optimizer.zero_grad()
            (model(torch.full((3, 7), 0.1 * step)) ** 2).sum().backward()
            optimizer.step()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_sad_with_sums_and_lambdas_1_is_token_kd(tiny_cache, tiny_student, tmp_path):
    run(tiny_cache, tiny_student, tmp_path / "sad", objective="sad")
    run(tiny_cache, tiny_student, tmp_path / "kd", objective="token-kd")
    assert same(tmp_path / "sad", tmp_path / "kd")
    run(tiny_cache, tiny_student, tmp_path / "mean", objective="sad", reduction="mean")
    assert not same(tmp_path / "mean", tmp_path / "kd", tolerance=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "sad"},
        {"objective": "imitation"},
        {"divergence": "reverse-kl"},
        {"divergence": "jsd"},
        {"curriculum": "complexity"},
        {"curriculum": "depth", "mix": ("transcript=1.5",)},
        {"dtype": "bfloat16"},
    ],
    ids=str,
)
def test_what_is_trained_on_goes_down(tiny_cache, tiny_student, tmp_path, options):
    out = tmp_path / "run"
    summary = run(tiny_cache, tiny_student, out, updates=12, batch_tokens=900, lr=1e-2, **options)
    rows = [msgspec.json.decode(line) for line in (out / "metrics.jsonl").read_bytes().splitlines()]
    assert [row["update"] for row in rows] == list(range(1, 13))
    assert np.mean([row["loss"] for row in rows[-3:]]) < 0.95 * np.mean([row["loss"] for row in rows[:3]])
    measure = "ce" if options.get("objective") == "imitation" else "kl"
    for kind in ("reason", "act"):
        assert summary["eval_after"][f"{kind}_{measure}"] < summary["eval_before"][f"{kind}_{measure}"]


def test_the_reported_loss_is_that_of_the_documented_formula(tiny_cache, tiny_student, tmp_path):
    options = {"updates": 1, "batch_tokens": 100_000}
    run(tiny_cache, tiny_student, tmp_path / "sum", lambda_reason=0.5, lambda_act=2.0, **options)
    run(tiny_cache, tiny_student, tmp_path / "mean", lambda_reason=0.5, lambda_act=2.0, reduction="mean", **options)
    values = losses_before_training(tiny_cache, tiny_student, "train", soft_loss("forward-kl"))
    n_reason, n_act = len(values[1]), len(values[2])
    wanted = {
        "sum": (0.5 * values[1].sum() + 2 * values[2].sum()) / (n_reason + n_act),
        "mean": 0.5 * values[1].mean() + 2 * values[2].mean(),
    }
    for reduction, loss in wanted.items():
        (row,) = [msgspec.json.decode(x) for x in (tmp_path / reduction / "metrics.jsonl").read_bytes().splitlines()]
        assert row["loss"] == pytest.approx(float(loss), rel=1e-4)
        assert row["reason_loss"] == pytest.approx(float(values[1].mean()), rel=1e-4)
        assert row["act_loss"] == pytest.approx(float(values[2].mean()), rel=1e-4)


def losses_before_training(cache: Path, student: Path, split: str, loss) -> dict[int, torch.Tensor]:
    """The untrained student's token losses by kind (1 reason, 2 act), by its own forward over whole windows."""
    model = load_model(student, torch.device("cpu"), torch.float32)
    rows = scan_index(cache).filter(pl.col("split") == split).select("key").collect()["key"].to_list()
    found: dict[int, list[torch.Tensor]] = {1: [], 2: []}
    for key, data in iter_samples(cache):
        if key not in rows:
            continue
        arrays = {name: torch.from_numpy(value) for name, value in decode_teacher_sample(data).items()}
        with torch.no_grad():
            logits = model(input_ids=arrays["token_ids"][None]).logits[0]
        at = arrays["positions"]
        targets = {"tokens": arrays["token_ids"][at], **{k: arrays[k] for k in ("topk_ids", "topk_logprobs")}}
        values = loss(logits[at - 1], {**targets, "tail_mass": arrays["tail_mass"]})
        for kind, parts in found.items():
            parts.append(values[arrays["kinds"][at] == kind])
    return {kind: torch.cat(parts).double() for kind, parts in found.items()}


def test_the_held_out_measures_are_those_of_a_plain_forward(undisturbed, tiny_cache, tiny_student):
    _, summary = undisturbed
    for name, loss in (("kl", soft_loss("forward-kl")), ("ce", hard_loss)):
        values = losses_before_training(tiny_cache, tiny_student, "holdout", loss)
        assert summary["eval_before"][f"reason_{name}"] == pytest.approx(float(values[1].mean()), rel=1e-4)
        assert summary["eval_before"][f"act_{name}"] == pytest.approx(float(values[2].mean()), rel=1e-4)


def test_a_run_leaves_what_is_documented(undisturbed):
    out, summary = undisturbed
    assert {p.name for p in out.iterdir()} >= {
        "manifest.json",
        "config.toml",
        "metrics.jsonl",
        "curves.png",
        "checkpoints",
        "model",
    }
    assert summary["n_updates"] == 6 and summary["n_train"] == 19 and summary["n_holdout"] == 5
    assert 0 <= summary["padding_share"] < 1
    assert summary["eval_unigram"].keys() == {"reason_kl", "act_kl"}
    assert len(list((out / "checkpoints").iterdir())) == 2
    assert tomllib.loads((out / "config.toml").read_text())["updates"] == 6


def test_the_trained_model_loads_in_transformers(undisturbed):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out, _ = undisturbed
    model = AutoModelForCausalLM.from_pretrained(out / "model")
    ids = AutoTokenizer.from_pretrained(out / "model")("Thought 1:", return_tensors="pt")["input_ids"]
    assert model(input_ids=ids).logits.isfinite().all()


class Stop(Exception):
    pass


def stop_after(update: int):
    def progress(done: int, total: int | None, unit: str, note: str = "") -> None:
        if done == update and note.startswith("reason"):
            raise Stop

    return progress


@pytest.mark.parametrize("stops", [[1], [3], [2, 5], [6]], ids=str)
def test_a_continued_run_is_bit_for_bit_the_undisturbed_one(undisturbed, tiny_cache, tiny_student, tmp_path, stops):
    whole, summary = undisturbed
    out = tmp_path / "run"
    for update in stops:
        with pytest.raises(Stop):
            run(tiny_cache, tiny_student, out, stop_after(update), updates=6, save_every=1)
    again = run(tiny_cache, tiny_student, out, updates=6, save_every=1)
    for name in ("metrics.jsonl", "curves.png", "model/model.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert again["eval_after"] == summary["eval_after"] and again["n_tokens"] == summary["n_tokens"]


def test_a_run_with_dropout_continues_with_the_same_dropout(tiny_cache, tmp_path):
    from transformers import GPT2Config

    config = GPT2Config(vocab_size=340, n_embd=16, n_layer=1, n_head=2, n_positions=256, resid_pdrop=0.3)
    student = tiny.save_model(config, tmp_path / "student")
    options = {"updates": 4, "save_every": 1}
    run(tiny_cache, student, tmp_path / "whole", **options)
    with pytest.raises(Stop):
        run(tiny_cache, student, tmp_path / "stopped", stop_after(3), **options)
    run(tiny_cache, student, tmp_path / "stopped", **options)
    assert same(tmp_path / "whole", tmp_path / "stopped")


def test_a_half_written_line_or_checkpoint_does_not_hinder_a_continued_run(
    undisturbed, tiny_cache, tiny_student, tmp_path
):
    whole, _ = undisturbed
    out = tmp_path / "run"
    with pytest.raises(Stop):
        run(tiny_cache, tiny_student, out, stop_after(4), updates=6, save_every=1)
    with (out / "metrics.jsonl").open("ab") as file:
        file.write(b'{"update": 5, "lo')
    (out / "checkpoints" / ".tmp-update-00000004").mkdir()
    (out / "checkpoints" / ".tmp-update-00000004" / "model.safetensors").write_bytes(b"half")
    run(tiny_cache, tiny_student, out, updates=6, save_every=1)
    assert (out / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert same(out, whole)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_serves(undisturbed, tiny_cache, tiny_student, tmp_path):
    whole, _ = undisturbed
    out = tmp_path / "run"
    with pytest.raises(Stop):
        run(tiny_cache, tiny_student, out, stop_after(4), updates=6, save_every=1)
    last = out / "checkpoints" / "update-00000003"
    (last / "optimizer.safetensors").write_bytes(b"damaged")
    with pytest.raises(ManifestError, match="update-00000003: a damaged checkpoint"):
        run(tiny_cache, tiny_student, out, updates=6, save_every=1)
    shutil.rmtree(last)
    run(tiny_cache, tiny_student, out, updates=6, save_every=1)
    assert same(out, whole)


def test_a_finished_run_is_left_as_it_is(undisturbed, tiny_cache, tiny_student):
    out, summary = undisturbed
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    again = run(tiny_cache, tiny_student, out, updates=6, save_every=1)
    assert again["already_done"] and again["eval_after"] == summary["eval_after"]
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    with pytest.raises(ManifestError, match="seed was 0 and is now 1"):
        run(tiny_cache, tiny_student, out, updates=6, save_every=1, seed=1)


def test_a_parameter_that_no_gradient_reaches_does_not_spoil_a_checkpoint(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(3, 3), "idle": torch.nn.Linear(3, 3)})
    optimizer = torch.optim.AdamW(model.parameters())
    model["used"](torch.ones(3)).sum().backward()
    optimizer.step()
    state = checkpoints.State(
        update=1, n_tokens=3, n_padded=4, n_metrics_bytes=9, eval_before={"act_kl": 0.1}, stream={"epoch": 2}
    )
    checkpoints.save(tmp_path, model, optimizer, state)
    other = torch.nn.ModuleDict({"used": torch.nn.Linear(3, 3), "idle": torch.nn.Linear(3, 3)})
    other_optimizer = torch.optim.AdamW(other.parameters())
    assert checkpoints.load_last(tmp_path, other, other_optimizer) == state
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
        assert optimizer.state[one].keys() == other_optimizer.state[two].keys()
        assert all(torch.equal(optimizer.state[one][k], other_optimizer.state[two][k]) for k in optimizer.state[one])


def test_there_is_no_checkpoint_where_none_was_written(tmp_path):
    model = torch.nn.Linear(2, 2)
    assert checkpoints.load_last(tmp_path / "absent", model, torch.optim.AdamW(model.parameters())) is None


@pytest.fixture(scope="module")
def full_cache(tmp_path_factory, tiny_spans, tiny_teacher):
    """Teacher shards with all positions."""
    out = tmp_path_factory.mktemp("full") / "cache"
    config = CacheConfig(spans=str(tiny_spans), teacher=str(tiny_teacher), out=str(out), top_k=8, positions="all")
    cache_teacher(config, silent)
    return out


def test_flat_distillation_needs_a_cache_of_all_positions(tiny_cache, full_cache, tiny_student, tmp_path):
    options = {"objective": "token-kd", "kd_tokens": "all"}
    with pytest.raises(ConfigError, match="--kd-tokens all") as error:
        run(tiny_cache, tiny_student, tmp_path / "all", **options)
    assert "sadstream cache-teacher" in error.value.hint and "--positions all" in error.value.hint
    run(full_cache, tiny_student, tmp_path / "all", **options)
    run(full_cache, tiny_student, tmp_path / "agent", objective="token-kd")
    assert not same(tmp_path / "all", tmp_path / "agent", tolerance=1e-5)


def test_a_cache_of_all_positions_serves_the_span_losses_too(tiny_cache, full_cache, tiny_student, tmp_path):
    # With one sample an update and no pool to cut otherwise, both caches give the same updates.
    for name, cache in (("full", full_cache), ("agent", tiny_cache)):
        run(cache, tiny_student, tmp_path / name, updates=1, batch_tokens=100_000)
    assert same(tmp_path / "full", tmp_path / "agent", tolerance=1e-5)


def test_another_tokenizer_is_refused(tiny_cache, tmp_path):
    tokenizer = tiny.make_tokenizer(n_extra=1)
    student = tiny.save_model(tiny.llama_config(len(tokenizer)), tmp_path / "student", tokenizer=tokenizer)
    with pytest.raises(ModelError, match="its tokenizer is not the one") as error:
        run(tiny_cache, student, tmp_path / "run")
    assert "prune-student" in error.value.hint


def test_heads_padded_to_different_sizes_serve_each_other(tiny_cache, tiny_spans, tmp_path):
    vocab_size = len(tiny.make_tokenizer())
    wide = tiny.save_model(tiny.llama_config(vocab_size + 24), tmp_path / "wide")
    narrow = tiny.save_model(tiny.llama_config(vocab_size), tmp_path / "narrow")
    assert run(tiny_cache, wide, tmp_path / "run")["n_updates"] == 3
    cache_teacher(
        CacheConfig(spans=str(tiny_spans), teacher=str(wide), out=str(tmp_path / "cache"), top_k=32, limit=12), silent
    )
    # The teacher's padding is named nowhere in the cache: its mass is in the tail.
    assert run(tmp_path / "cache", narrow, tmp_path / "other")["n_updates"] == 3


def test_a_folder_of_spans_is_refused_with_what_takes_it(tiny_spans, tiny_student, tmp_path):
    with pytest.raises(ManifestError, match="made by `sadstream segment`") as error:
        run(tiny_spans, tiny_student, tmp_path / "run")
    assert "cache-teacher" in error.value.hint


@pytest.mark.parametrize("name", ["shard-000000.tar", "shard-000000.parquet", "tokenizer/tokenizer.json"])
def test_a_damaged_folder_is_refused_before_the_first_update(tiny_cache, tiny_student, tmp_path, name):
    shutil.copytree(tiny_cache, tmp_path / "cache")
    data = bytearray((tmp_path / "cache" / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "cache" / name).write_bytes(data)
    with pytest.raises(SadstreamError, match=f"{name}: its content is not what was written"):
        run(tmp_path / "cache", tiny_student, tmp_path / "run", stop_after(1))


@pytest.mark.parametrize("name", ["shard-000001.tar", "shard-000002.parquet"])
def test_a_missing_or_cut_off_shard_is_named_at_once(tiny_shards, tiny_student, tmp_path, name):
    cache = Path(shutil.copytree(tiny_shards, tmp_path / "cache"))
    whole = (cache / name).read_bytes()
    (cache / name).unlink()
    with pytest.raises(ManifestError, match=f"{name}: missing"):
        run(cache, tiny_student, tmp_path / "run")
    (cache / name).write_bytes(whole[:-1])
    with pytest.raises(SadstreamError, match=f"{name}: ({len(whole) - 1} bytes|its content is not what was written)"):
        run(cache, tiny_student, tmp_path / "run")


def test_a_byte_that_flips_while_training_is_named_before_its_update(tiny_shards, tiny_student, tmp_path):
    cache = Path(shutil.copytree(tiny_shards, tmp_path / "cache"))
    options = {"batch_tokens": 200, "updates": 9, "save_every": 1}
    run(cache, tiny_student, tmp_path / "whole", **options)
    stream = SampleStream(SampleFolder(cache), Order(batch_tokens=200), lambda draft: [key for key, _ in draft.samples])
    key = next(islice(stream, 7, 8)).data[0]
    row = scan_index(cache).filter(pl.col("key") == key).collect().row(0, named=True)

    def flip(*_) -> None:
        with (cache / row["shard"]).open("r+b") as tar:
            tar.seek(row["offset"] + 600)
            byte = tar.read(1)[0]
            tar.seek(row["offset"] + 600)
            tar.write(bytes([byte ^ 4]))

    def flip_once(done, total, unit, note):
        if done == 1 and "tokens/s" in note:
            flip()

    with pytest.raises(ShardError, match=f"sample {key} is not what was written"):
        run(cache, tiny_student, tmp_path / "run", flip_once, **options)
    assert len((tmp_path / "run" / "metrics.jsonl").read_bytes().splitlines()) < 8
    flip()
    run(cache, tiny_student, tmp_path / "run", **options)
    assert same(tmp_path / "run", tmp_path / "whole")


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_samples(tiny_cache, tiny_student, tmp_path):
    with pytest.raises(SadstreamError, match=r"update \d+: the loss is .*; samples ") as error:
        run(tiny_cache, tiny_student, tmp_path / "run", lr=1e30, updates=4)
    keys = scan_index(tiny_cache).collect()["key"].to_list()
    assert any(key in str(error.value) for key in keys)
    assert "smaller --lr" in error.value.hint


def test_nothing_to_train_on_is_refused(tiny_cache, tiny_student, tiny_spans, tiny_teacher, tmp_path):
    logs = tiny.write_logs(tmp_path / "runs.jsonl", 2)
    segment_logs(SegmentConfig(logs=(str(logs),), out=str(tmp_path / "spans"), holdout=0.999999), silent)
    cache_teacher(
        CacheConfig(spans=str(tmp_path / "spans"), teacher=str(tiny_teacher), out=str(tmp_path / "cache")), silent
    )
    with pytest.raises(ConfigError, match="no sample in the training split"):
        run(tmp_path / "cache", tiny_student, tmp_path / "run")


def test_a_run_without_held_out_split_has_no_measures_of_it(tiny_student, tiny_teacher, tmp_path):
    logs = tiny.write_logs(tmp_path / "runs.jsonl", 3)
    segment_logs(SegmentConfig(logs=(str(logs),), out=str(tmp_path / "spans"), holdout=0), silent)
    cache_teacher(
        CacheConfig(spans=str(tmp_path / "spans"), teacher=str(tiny_teacher), out=str(tmp_path / "cache")), silent
    )
    summary = run(tmp_path / "cache", tiny_student, tmp_path / "run", updates=0, epochs=2, batch_tokens=1)
    assert summary["eval_before"] is summary["eval_after"] is summary["eval_unigram"] is None
    assert summary["n_updates"] == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "sda"}, "--objective sda: unknown"),
        ({"divergence": "kl"}, "--divergence kl: unknown"),
        ({"kd_tokens": "some"}, "--kd-tokens some: unknown"),
        ({"reduction": "max"}, "--reduction max: unknown"),
        ({"curriculum": "breadth"}, "--curriculum breadth: unknown"),
        ({"lr": float("inf")}, "--lr inf: out of range"),
        ({"mix": ("alpaca",)}, "--mix alpaca: not VALUE=WEIGHT"),
        ({"mix": ("a=1", "a=2")}, "--mix a=2: not VALUE=WEIGHT, each value once"),
        ({"mix": ("a=-1",)}, "--mix a=-1: not VALUE=WEIGHT"),
        ({"lambda_act": float("nan")}, "--lambda-act nan: out of range"),
        ({"warmup": 1.5}, "warmup 1.5: out of range"),
        ({"epochs": 0}, "--epochs 0: at least 1"),
        ({"save_every": 0}, "--save-every 0: at least 1"),
    ],
)
def test_options_out_of_range_are_refused(tiny_cache, tiny_student, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        run(tiny_cache, tiny_student, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


REQUIRED = {"shards": "a", "student": "b", "out": "c"}


@given(
    shards=st.text(st.characters(exclude_categories=["Cs"])),
    lr=st.floats(0, 1e30),
    seed=st.integers(0, 2**62),
    objective=st.sampled_from(["sad", "token-kd", "imitation"]),
)
def test_a_saved_config_is_read_back_as_it_was(tmp_path, **options):
    config = TrainConfig(**{**REQUIRED, **options})
    (tmp_path / "config.toml").write_text(to_toml(msgspec.to_builtins(config)), encoding="utf-8")
    assert read_config(str(tmp_path / "config.toml"), {}) == config


def test_flags_override_the_file_and_integers_pass_for_numbers(tmp_path):
    (tmp_path / "config.toml").write_text('seed = 3\nlr = 1\nobjective = "token-kd"\n')
    config = read_config(str(tmp_path / "config.toml"), {**REQUIRED, "seed": 4})
    assert (config.seed, config.lr, config.objective) == (4, 1.0, "token-kd")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("lamda_reason = 1\n", "unknown key 'lamda_reason'", "did you mean lambda_reason"),
        ("colour = 1\n", "unknown key 'colour'", "--help"),
        ("lr = \n", "not TOML", "key = value"),
        ("lr = 'fast'\n", r"Expected `float`, got `str` - at `\$.lr`", "--help"),
        ("objective = 'sda'\n", r"Invalid enum value 'sda' - at `\$.objective`", "--help"),
    ],
)
def test_a_config_file_with_a_slip_is_named(tmp_path, text, message, hint):
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=rf"config\.toml: {message}") as error:
        read_config(str(tmp_path / "config.toml"), REQUIRED)
    assert hint in error.value.hint
    with pytest.raises(ConfigError, match=r"absent\.toml: No such file"):
        read_config(str(tmp_path / "absent.toml"), REQUIRED)


@given(st.integers(1, 300), st.floats(0, 1))
def test_the_rate_rises_then_falls_and_is_never_nothing(n_updates, warmup):
    rates = [schedule(update, n_updates, warmup) for update in range(n_updates)]
    top = int(np.argmax(rates))
    assert max(rates) <= 1 and min(rates) > 0
    assert all(a < b for a, b in pairwise(rates[: top + 1]))
    assert all(a >= b for a, b in pairwise(rates[top:]))
