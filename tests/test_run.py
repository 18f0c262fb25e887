"""How a run ends early, keeps its best, and is carried on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from sadstream.errors import ConfigError, ManifestError, ModelError, TrainingError
from sadstream.models import apply_head, hidden_states, load_config, load_model
from sadstream.stopping import refuse_bad_update
from sadstream.students import make_student, merge_adapters, packs
from sadstream.train_config import ONLY_IN_FILES, TrainConfig
from tests.test_train import Stop, run, same, stop_after, weights_of

CPU = torch.device("cpu")


def rows_of(out) -> list[dict]:
    return [msgspec.json.decode(line) for line in (out / "metrics.jsonl").read_bytes().splitlines()]


def test_the_held_out_split_is_measured_on_the_way_and_the_best_checkpoint_stays(tiny_cache, tiny_student, tmp_path):
    out = tmp_path / "run"
    # The rate rises to where nothing is learnt any more: an early measure is the best one.
    options = {"updates": 8, "lr": 3.0, "warmup": 1.0, "eval_every": 2, "save_every": 3, "keep": 1}
    summary = run(tiny_cache, tiny_student, out, **options)
    measured = {row["update"]: row["eval"]["kl"] for row in rows_of(out) if "eval" in row}
    assert list(measured) == [2, 4, 6]
    best = min(measured, key=measured.__getitem__)
    assert best < 6
    assert summary["eval_best"] == {"update": best, "kl": measured[best]}
    kept = sorted(p.name for p in (out / "checkpoints").iterdir())
    assert kept == sorted({f"update-{best:08d}", "update-00000006"})


def test_a_run_that_measures_continues_to_the_same_bits(tiny_cache, tiny_student, tmp_path):
    options = {"updates": 6, "eval_every": 2, "save_every": 3, "schedule": "wsd"}
    whole = run(tiny_cache, tiny_student, tmp_path / "whole", **options)
    for update in (3, 5):
        with pytest.raises(Stop):
            run(tiny_cache, tiny_student, tmp_path / "stopped", stop_after(update), **options)
    again = run(tiny_cache, tiny_student, tmp_path / "stopped", **options)
    assert again["eval_best"] == whole["eval_best"]
    for name in ("metrics.jsonl", "curves.png", "model/model.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_ctrl_c_saves_and_the_next_run_continues_to_the_same_bits(tiny_cache, tiny_student, tmp_path):
    """By a process of its own: the signal comes once the third update is in metrics.jsonl."""
    out = tmp_path / "run"
    (tmp_path / "run.toml").write_text("updates = 15\nbatch_tokens = 300\nlr = 1e-3\nsave_every = 1000\n")
    command = [sys.executable, "-m", "sadstream", "train", str(tiny_cache), "--student", str(tiny_student)]
    command += ["--config", str(tmp_path / "run.toml"), "--out"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen([*command, str(out)], env=environment, stderr=subprocess.PIPE, text=True)
    metrics = out / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or metrics.read_bytes().count(b"\n") < 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "continues where it stopped" in errors
    (saved,) = (out / "checkpoints").iterdir()
    n_done = len(rows_of(out))
    assert 3 <= n_done < 15 and saved.name == f"update-{n_done:08d}"
    options = {"updates": 15, "batch_tokens": 300, "save_every": 1000}
    run(tiny_cache, tiny_student, out, **options)
    run(tiny_cache, tiny_student, tmp_path / "whole", **options)
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_of_other_options_in_the_same_folder_those_alone_are_named(tiny_cache, tiny_student, tmp_path):
    run(tiny_cache, tiny_student, tmp_path / "run", updates=1)
    with pytest.raises(ManifestError, match=r"other options: updates was 1 and is now 2$"):
        run(tiny_cache, tiny_student, tmp_path / "run", updates=2)


def test_a_loss_that_leaps_is_refused_by_the_stated_rule():
    usual = [1.0, 2.0] * 16
    refuse_bad_update(33, 14.9, 1.0, usual, 10, lambda: ["a"])
    with pytest.raises(
        TrainingError, match=r"update 33: the loss is 15.1, more than 10 times the 1.5 .*; samples a, b"
    ):
        refuse_bad_update(33, 15.1, 1.0, usual, 10, lambda: ["a", "b"])
    refuse_bad_update(33, 15.1, 1.0, usual, 0, lambda: ["a"])
    refuse_bad_update(32, 1e9, 1.0, usual[1:], 10, lambda: ["a"])
    # Only the last 32 count.
    refuse_bad_update(65, 100.0, 1.0, usual + [20.0] * 32, 10, lambda: ["a"])
    with pytest.raises(TrainingError, match="h and 2 more"):
        refuse_bad_update(1, float("nan"), 1.0, [], 0, lambda: list("abcdefghij"))
    with pytest.raises(TrainingError, match="gradient norm inf"):
        refuse_bad_update(1, 1.0, float("inf"), [], 0, lambda: ["a"])


def test_a_leap_stops_the_run_with_its_keys_and_the_last_checkpoint_goes_on(tiny_cache, tiny_student, tmp_path):
    options = {"updates": 40, "batch_tokens": 200, "lr": 1e-5, "save_every": 16}
    # What is a leap is a matter of the option: half the usual loss is one here.
    with pytest.raises(TrainingError, match=r"update \d+: the loss is .* samples [0-9a-f]{20}"):
        run(tiny_cache, tiny_student, tmp_path / "run", spike=0.5, **options)
    assert [p.name for p in sorted((tmp_path / "run" / "checkpoints").iterdir())] == [
        "update-00000016",
        "update-00000032",
    ]
    # A continued run knows the losses before its checkpoint.
    with pytest.raises(TrainingError, match=r"update 33: "):
        run(tiny_cache, tiny_student, tmp_path / "run", spike=0.01, **options)
    run(tiny_cache, tiny_student, tmp_path / "run", spike=0.0, **options)
    run(tiny_cache, tiny_student, tmp_path / "whole", **options)
    assert same(tmp_path / "run", tmp_path / "whole")


def test_recomputed_activations_give_the_same_update(tiny_cache, tiny_student, tmp_path):
    run(tiny_cache, tiny_student, tmp_path / "plain")
    run(tiny_cache, tiny_student, tmp_path / "recomputed", gradient_checkpointing=True)
    assert same(tmp_path / "plain", tmp_path / "recomputed", tolerance=1e-6)


def test_packed_windows_make_the_same_run_and_it_says_which(tiny_cache, tiny_student, tmp_path):
    notes: list[str] = []

    def listen(done: int, total: int | None, unit: str, note: str = "") -> None:
        notes.append(note)

    options = {"lr": 1e-4, "eval_every": 2, "batch_tokens": 2000}
    padded = run(tiny_cache, tiny_student, tmp_path / "padded", **options)
    packed = run(
        tiny_cache, tiny_student, tmp_path / "packed", listen, packing="yes", micro_batch_tokens=700, **options
    )
    assert packed["packed"] and not padded["packed"]  # "auto" on a CPU
    assert sum(note.endswith(", packed") for note in notes) == 3
    assert same(tmp_path / "packed", tmp_path / "padded", tolerance=1e-6)
    for one, other in zip(rows_of(tmp_path / "packed"), rows_of(tmp_path / "padded"), strict=True):
        assert one.pop("eval", {}) == pytest.approx(other.pop("eval", {}), rel=1e-5)
        assert one == pytest.approx(other, rel=1e-4)
    for name in ("eval_before", "eval_after"):
        assert packed[name] == pytest.approx(padded[name], rel=1e-5)


def test_a_model_that_cannot_pack_is_refused_or_padded(tiny_cache, tiny_student, tmp_path):
    from tests.test_models import KNOWN, make

    student = make(
        "OPTConfig", {**KNOWN["OPTConfig"], "vocab_size": 340, "max_position_embeddings": 512}, tmp_path / "s"
    )
    with pytest.raises(ModelError, match="OPTForCausalLM does not keep windows in one row apart"):
        run(tiny_cache, student, tmp_path / "run", packing="yes")
    gpu = torch.device("cuda")
    assert not packs(load_model(student, CPU, torch.float32), "auto", gpu, student)
    llama = load_model(tiny_student, CPU, torch.float32)
    assert packs(llama, "auto", gpu, tiny_student) and packs(llama, "yes", CPU, tiny_student)
    assert not packs(llama, "auto", CPU, tiny_student) and not packs(llama, "no", gpu, tiny_student)


def test_recomputing_does_recompute(tiny_student):
    model = make_student(
        TrainConfig(shards="a", student="b", out="c", gradient_checkpointing=True), tiny_student, CPU
    ).train()
    calls = []
    model.base_model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    hidden_states(model, torch.arange(1, 9)[None]).sum().backward()
    assert len(calls) == 2


def test_a_student_at_random_is_made_of_a_config_and_takes_the_teachers_tokenizer(tiny_cache, tiny_student, tmp_path):
    folder = tmp_path / "configuration"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny_student / "config.json").read_bytes())
    with pytest.raises(ModelError):
        run(tiny_cache, folder, tmp_path / "pretrained")
    run(tiny_cache, folder, tmp_path / "a", init="random", updates=1)
    run(tiny_cache, folder / "config.json", tmp_path / "b", init="random", updates=1)
    run(tiny_cache, folder, tmp_path / "c", init="random", updates=1, seed=1)
    assert same(tmp_path / "a", tmp_path / "b") and not same(tmp_path / "a", tmp_path / "c", tolerance=1e-3)
    assert (tmp_path / "a" / "model" / "tokenizer.json").exists()
    assert load_config(tmp_path / "a" / "model").num_hidden_layers == 2
    with pytest.raises(ModelError, match="absent: no such file"):
        run(tiny_cache, tmp_path / "absent", tmp_path / "d", init="random")


def test_adapters_alone_learn_and_are_merged_on_export(tiny_cache, tiny_student, tmp_path):
    pytest.importorskip("peft", reason="peft (the extra `lora`) is not installed")
    options = {"lora_rank": 4, "lr": 1e-2, "updates": 4, "save_every": 1}
    summary = run(tiny_cache, tiny_student, tmp_path / "run", **options)
    assert summary["eval_after"]["kl"] < summary["eval_before"]["kl"]
    saved = load_file(sorted((tmp_path / "run" / "checkpoints").iterdir())[-1] / "model.safetensors")
    assert saved and all("lora_" in name for name in saved)
    before, after = load_file(tiny_student / "model.safetensors"), weights_of(tmp_path / "run")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj" in name}
    with pytest.raises(Stop):
        run(tiny_cache, tiny_student, tmp_path / "stopped", stop_after(2), **options)
    run(tiny_cache, tiny_student, tmp_path / "stopped", **options)
    assert same(tmp_path / "run", tmp_path / "stopped")


def test_a_merged_student_says_what_the_adapted_one_said(tiny_student):
    pytest.importorskip("peft", reason="peft (the extra `lora`) is not installed")
    config = TrainConfig(shards="a", student="b", out="c", lora_rank=4)
    model = make_student(config, tiny_student, CPU)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    ids = torch.arange(1, 20)[None]
    with torch.no_grad():
        adapted = apply_head(model, hidden_states(model, ids))
        merge_adapters(model)
        merged = apply_head(model, hidden_states(model, ids))
        plain = load_model(tiny_student, CPU, torch.float32)(input_ids=ids).logits
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(merged, plain, atol=1e-2)
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_missing_extras_are_named(tiny_cache, tiny_student, tmp_path, monkeypatch):
    for module, option, extra in (
        ("peft", {"lora_rank": 2}, "lora"),
        ("torch.utils.tensorboard", {"tensorboard": True}, "tensorboard"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ConfigError) as error:
            run(tiny_cache, tiny_student, tmp_path / extra, **option)
        assert f"sadstream[{extra}]" in error.value.hint


def test_tensorboard_gets_the_rows(tiny_cache, tiny_student, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard (the extra of that name) is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tiny_cache, tiny_student, tmp_path / "run", tensorboard=True, eval_every=2)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    updates = [row for row in rows_of(tmp_path / "run") if "loss" in row]
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(row["update"], pytest.approx(row["loss"])) for row in updates]
    assert [event.step for event in events.Scalars("eval/kl")] == [2]


def test_a_kind_that_is_not_held_out_has_no_number(tiny_student, tiny_cache, tmp_path):
    from sadstream.curves import draw_curves
    from sadstream.measure import measure, measure_unigram
    from sadstream.samples import SampleFolder
    from sadstream.stream import Collate, Split

    class NoReason(Collate):
        def __call__(self, draft):
            return [batch._replace(is_reason_N=torch.zeros_like(batch.is_act_N)) for batch in super().__call__(draft)]

    folder = SampleFolder(tiny_cache)
    split = Split(folder, "holdout", NoReason(micro_tokens=1))
    model = load_model(tiny_student, CPU, torch.float32)
    values = measure(model, split, device=CPU, dtype=torch.float32)
    assert values["reason_kl"] is values["reason_ce"] is values["reason_top1"] is None
    assert values["kl"] == values["act_kl"] > 0
    unigram = measure_unigram(split, split, 400)
    assert unigram["reason_kl"] is None and unigram["act_kl"] > 0
    rows = [{"update": 1, "reason_loss": 0.0, "act_loss": 1.0}, {"update": 1, "eval": values}]
    assert draw_curves(rows, values, values, unigram, tmp_path / "curves.png") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "--temperature 0.0: out of range"),
        ({"ce_weight": 1.5}, "--ce-weight 1.5: out of range"),
        ({"jsd_beta": 1.0, "divergence": "jsd"}, "jsd_beta 1.0: out of range"),
        ({"jsd_beta": 0.3}, "jsd_beta goes with --divergence jsd"),
        ({"decay": 0.3}, "decay goes with"),
        ({"schedule": "step"}, "schedule step: unknown"),
        ({"init": "random", "lora_rank": 2}, "lora_rank goes with"),
        ({"objective": "imitation", "temperature": 2.0}, "--temperature and --ce-weight mean nothing"),
        ({"keep": 0}, "keep 0: at least 1"),
        ({"weight_by": "reward"}, "weight_by reward: "),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_as_they_are_written(
    tiny_cache, tiny_student, tmp_path, options, message
):
    with pytest.raises(ConfigError, match=message):
        run(tiny_cache, tiny_student, tmp_path / "run", **options)


def test_train_has_at_most_25_flags_and_each_option_a_flag_or_a_place_in_files():
    from sadstream_cli.train import command

    flags = [option for option in command.params if option.param_type_name == "option"]
    assert len(flags) + 1 <= 25  # and --help
    names = {option.name for option in command.params} - {"config", "as_json"}
    assert names.isdisjoint(ONLY_IN_FILES)
    assert names | set(ONLY_IN_FILES) == set(TrainConfig.__struct_fields__)


def test_the_page_lists_the_options_without_a_flag():
    page = (Path(__file__).parent.parent / "docs" / "method.md").read_text(encoding="utf-8")
    listed = page[page.index("Options without a flag") :]
    assert re.findall(r"`(\w+)`", listed) == list(ONLY_IN_FILES)


def test_the_resolved_options_are_saved_with_the_rarer_ones(tiny_cache, tiny_student, tmp_path):
    (tmp_path / "c.toml").write_text('schedule = "linear"\nlr = 0.5\n')
    command = ["train", str(tiny_cache), "--student", str(tiny_student), "--out", str(tmp_path / "run")]
    from sadstream_cli import cli

    assert cli.run([*command, "--config", str(tmp_path / "c.toml"), "--updates", "1", "--lr", "0.001", "--json"]) == 0
    saved = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert (saved["schedule"], saved["lr"], saved["updates"], saved["clip"]) == ("linear", 0.001, 1, 1.0)
    assert json.loads(json.dumps(saved)) == saved
