import shutil
from itertools import pairwise

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sadstream.errors import ConfigError, ManifestError, ModelError
from sadstream.model_files import model_fingerprint, resolve_model, tokenizer_fingerprint
from sadstream.models import (
    apply_head,
    hidden_states,
    load_model,
    load_tokenizer,
    pick_device,
    pick_dtype,
    save_model,
)
from sadstream.prune import evenly_spaced, layers_at_the_ends, prune_student
from tests import tiny

CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 342,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
}
SLIDING = {"head_dim": 16, "sliding_window": 16}
KNOWN = {
    "LlamaConfig": SIZES,
    "Gemma2Config": {**SIZES, **SLIDING, "final_logit_softcapping": 2.0},
    "Gemma3TextConfig": {**SIZES, **SLIDING},
    "GraniteConfig": {**SIZES, "logits_scaling": 4.0},
    "CohereConfig": {**SIZES, "logit_scale": 0.25},
    "Qwen3Config": {**SIZES, **SLIDING, "use_sliding_window": True, "max_window_layers": 2},
    "GPT2Config": {"vocab_size": 342, "n_embd": 32, "n_layer": 4, "n_head": 2, "n_positions": 128},
    "OPTConfig": {
        "vocab_size": 342,
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
        "word_embed_proj_dim": 24,
    },
}


def make(name: str, options: dict, path):
    import transformers

    return tiny.save_model(getattr(transformers, name)(**options), path)


def no_note(note: str) -> None:
    pass


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_head_gives_the_models_own_logits_and_its_layers_can_be_pruned(name, tmp_path):
    path = make(name, KNOWN[name], tmp_path / "teacher")
    model = load_model(path, CPU, torch.float32)
    ids = torch.arange(30)[None] * 7 % 340
    with torch.no_grad():
        torch.testing.assert_close(apply_head(model, hidden_states(model, ids)), model(input_ids=ids).logits)
    made = prune_student(str(path), str(tmp_path / "student"), layers=2, on_note=no_note)
    assert made["layers_kept"] == [0, 3]
    student = load_model(tmp_path / "student", CPU, torch.float32)
    assert student.config.num_hidden_layers == 2
    types = getattr(model.config, "layer_types", None)
    assert getattr(student.config, "layer_types", None) == (types and [types[0], types[3]])
    before, after = model.state_dict(), student.state_dict()
    for key, weight in after.items():
        parts = ["3" if part == "1" else part for part in key.split(".")]
        assert torch.equal(weight, before[".".join(parts)]), key
    assert made["n_parameters"] == sum(p.numel() for p in student.parameters())
    assert tokenizer_fingerprint(tmp_path / "student") == tokenizer_fingerprint(path)


def test_right_padding_does_not_change_what_stands_before_it(tiny_teacher):
    model = load_model(tiny_teacher, CPU, torch.float32)
    ids = torch.arange(1, 20)[None]
    with torch.no_grad():
        padded = hidden_states(model, torch.nn.functional.pad(ids, (0, 11)))[:, :19]
        torch.testing.assert_close(padded, hidden_states(model, ids))


def test_a_head_that_is_more_than_a_scaled_linear_layer_is_refused_by_name(tmp_path):
    options = {
        "vocab_size": 342,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "is_decoder": True,
    }
    path = make("BertConfig", options, tmp_path / "bert")
    with pytest.raises(ModelError, match="BertLMHeadModel changes its logits in a way that is not known here"):
        load_model(path, CPU, torch.float32)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))))
def test_kept_layers_are_evenly_spaced_with_first_and_last(case):
    n_kept, n_layers = case
    kept = evenly_spaced(n_kept, n_layers)
    assert len(kept) == len(set(kept)) == n_kept and kept == sorted(kept)
    assert kept[0] == 0 and (kept[-1] == n_layers - 1 or n_kept == 1)
    gaps = [b - a for a, b in pairwise(kept)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))))
def test_layers_kept_at_the_ends_leave_one_gap_in_the_middle(case):
    n_kept, n_layers = case
    kept = layers_at_the_ends(n_kept, n_layers)
    assert len(kept) == len(set(kept)) == n_kept and kept == sorted(kept)
    assert kept[0] == 0 and (kept[-1] == n_layers - 1 or n_kept == 1)
    gaps = [(a, b) for a, b in pairwise(kept) if b - a > 1]
    assert len(gaps) == (1 < n_kept < n_layers)
    for a, b in gaps:
        assert 0 <= (a + 1) - (n_layers - b) <= 1


@pytest.mark.parametrize(
    ("keep", "kept"), [({}, [0, 2, 3]), ({"keep": "ends"}, [0, 1, 3]), ({"keep": "even"}, [0, 2, 3])]
)
def test_which_layers_are_kept_can_be_said(tiny_teacher, tmp_path, keep, kept):
    out = tmp_path / "student"
    assert prune_student(str(tiny_teacher), str(out), layers=3, **keep, on_note=no_note)["layers_kept"] == kept
    other = "even" if keep == {"keep": "ends"} else "ends"
    with pytest.raises(ManifestError, match=r"keep was .* and is now "):
        prune_student(str(tiny_teacher), str(out), layers=3, keep=other, on_note=no_note)
    with pytest.raises(ConfigError, match="--keep first: unknown"):
        prune_student(str(tiny_teacher), str(tmp_path / "x"), layers=3, keep="first", on_note=no_note)


def test_pruning_all_layers_away_or_more_than_there_are_is_refused(tiny_teacher, tmp_path):
    for layers in (0, 5):
        with pytest.raises(ConfigError, match=f"--layers {layers}: .* has 4"):
            prune_student(str(tiny_teacher), str(tmp_path / "student"), layers=layers, on_note=no_note)
    # A slip with the number does not spoil the folder.
    assert prune_student(str(tiny_teacher), str(tmp_path / "student"), layers=4, on_note=no_note)["layers_kept"]


def test_pruning_again_does_nothing_and_pruning_otherwise_is_refused(tiny_teacher, tmp_path):
    out = tmp_path / "student"
    first = prune_student(str(tiny_teacher), str(out), layers=2, on_note=no_note)
    times = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    again = prune_student(str(tiny_teacher), str(out), layers=2, on_note=no_note)
    assert again == {**first, "already_done": True}
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == times
    with pytest.raises(ManifestError, match="layers was 2 and is now 3"):
        prune_student(str(tiny_teacher), str(out), layers=3, on_note=no_note)


def test_a_pruned_student_keeps_the_stored_number_format(tiny_teacher, tmp_path):
    model, tokenizer = load_model(tiny_teacher, CPU, torch.bfloat16), load_tokenizer(tiny_teacher)
    save_model(model, tokenizer, tmp_path / "half")
    prune_student(str(tmp_path / "half"), str(tmp_path / "student"), layers=2, on_note=no_note)
    weights = load_file(tmp_path / "student" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


def test_names_that_are_no_model_say_what_would_be(tmp_path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, message, hint in (
        ("run", "no model in it", "the trained model is in"),
        ("empty", "no model in it", "a model's own folder"),
        ("file", "a file, not a model's folder", "the folder with config.json"),
        ("absent", "no such folder", "a path, a hub name"),
    ):
        with pytest.raises(ModelError, match=message) as error:
            resolve_model(str(tmp_path / name), no_note)
        assert hint in error.value.hint
    assert resolve_model(str(tmp_path / "run" / "model"), no_note) == tmp_path / "run" / "model"


def test_pickled_weights_are_never_read(tiny_teacher, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_teacher, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(folder, CPU, torch.float32)


def test_a_damaged_model_folder_is_named(tiny_teacher, tmp_path):
    for name, content in (("model.safetensors", b"not weights"), ("config.json", b"{")):
        folder = tmp_path / name
        shutil.copytree(tiny_teacher, folder)
        (folder / name).write_bytes(content)
        with pytest.raises(ModelError, match="cannot be loaded"):
            load_model(folder, CPU, torch.float32)
        with pytest.raises(ModelError, match="cannot be loaded"):
            prune_student(str(folder), str(tmp_path / "student"), layers=2, on_note=no_note)


def test_a_model_that_says_no_numbers_is_refused(tiny_teacher, tmp_path):
    shutil.copytree(tiny_teacher, tmp_path / "broken")
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="broken: what it says is not a number"):
        load_model(tmp_path / "broken", CPU, torch.float32)


def test_a_folder_without_tokenizer_is_named(tiny_teacher, tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_teacher / name, tmp_path)
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(tmp_path)


def test_fingerprints_tell_models_and_tokenizers_apart(tiny_teacher, tiny_student, tmp_path):
    assert model_fingerprint(tiny_teacher) != model_fingerprint(tiny_student)
    shutil.copytree(tiny_teacher, tmp_path / "copy")
    assert model_fingerprint(tmp_path / "copy") == model_fingerprint(tiny_teacher)
    weights = bytearray((tiny_teacher / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "copy" / "model.safetensors").write_bytes(weights)
    assert model_fingerprint(tmp_path / "copy") != model_fingerprint(tiny_teacher)
    assert tokenizer_fingerprint(tiny_teacher) == tokenizer_fingerprint(tiny_student)
    tiny.make_tokenizer(n_extra=1).save_pretrained(tmp_path / "other")
    assert tokenizer_fingerprint(tmp_path / "other") != tokenizer_fingerprint(tiny_teacher)


def test_a_saved_model_is_the_model(tiny_teacher, tmp_path):
    model, tokenizer = load_model(tiny_teacher, CPU, torch.float32), load_tokenizer(tiny_teacher)
    save_model(model, tokenizer, tmp_path / "saved")
    again = load_model(tmp_path / "saved", CPU, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert tokenizer_fingerprint(tmp_path / "saved") == tokenizer_fingerprint(tiny_teacher)
    assert msgspec.json.decode((tmp_path / "saved" / "config.json").read_bytes())["architectures"]


def test_devices_and_number_formats_are_picked_or_refused():
    assert pick_dtype("auto", CPU) == torch.float32
    assert pick_dtype("bfloat16", CPU) == torch.bfloat16
    assert pick_device("cpu") == CPU
    with pytest.raises(ConfigError, match="--dtype float8"):
        pick_dtype("float8", CPU)
    with pytest.raises(ConfigError, match="--device warp"):
        pick_device("warp")
