"""Training from logs alone: no teacher is asked, and the logged tokens are the labels."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sadstream.codec import decode_teacher_sample
from sadstream.doctor import DoctorConfig, doctor
from sadstream.errors import ConfigError
from sadstream.manifest import read_manifest
from sadstream.progress import silent
from sadstream.shards import iter_samples
from sadstream.teacher import CacheConfig, cache_teacher
from sadstream.train import TrainConfig, train


@pytest.fixture(scope="module")
def labels(tmp_path_factory, tiny_spans, tiny_teacher) -> Path:
    """A cache of hard labels, made with a tokenizer and a configuration, no weights beside them."""
    folder = tmp_path_factory.mktemp("hard-labels")
    shutil.copytree(tiny_teacher, folder / "tokenizer", ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
    config = CacheConfig(
        spans=str(tiny_spans), teacher=str(folder / "tokenizer"), out=str(folder / "labels"), backend="logs"
    )
    cache_teacher(config, silent)
    return folder / "labels"


def run(shards: Path, student: Path, out: Path, **options) -> dict[str, torch.Tensor]:
    config = TrainConfig(
        shards=str(shards), student=str(student), out=str(out), batch_tokens=600, updates=3, lr=1e-4, **options
    )
    train(config, silent)
    return load_file(out / "model" / "model.safetensors")


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-6)


def test_the_logged_token_is_the_only_label_and_the_windows_are_a_teacher_s(labels, tiny_cache):
    hard, soft = ([decode_teacher_sample(data) for _, data in iter_samples(f)] for f in (labels, tiny_cache))
    for label, told in zip(hard, soft, strict=True):
        for name in ("token_ids", "kinds", "steps", "positions"):
            np.testing.assert_array_equal(label[name], told[name])
        np.testing.assert_array_equal(label["topk_ids"][:, 0], label["token_ids"][label["positions"]])
        assert label["topk_ids"].shape[1] == 1
        for name in ("topk_logprobs", "tail_mass", "entropy", "token_logprobs"):
            assert not label[name].any()


@pytest.mark.parametrize("weights", [{}, {"reduction": "mean", "lambda_act": 0.5}], ids=str)
def test_sad_on_labels_is_sad_with_cross_entropy_alone(labels, tiny_cache, tiny_student, tmp_path, weights):
    on_labels = run(labels, tiny_student, tmp_path / "labels", **weights)
    assert_same(on_labels, run(tiny_cache, tiny_student, tmp_path / "mixed", ce_weight=1.0, **weights))
    imitation = run(tiny_cache, tiny_student, tmp_path / "imitation", objective="imitation", **weights)
    assert_same(on_labels, imitation)


def test_imitation_needs_no_teacher(labels, tiny_cache, tiny_student, tmp_path):
    with_labels = run(labels, tiny_student, tmp_path / "labels", objective="imitation")
    assert_same(with_labels, run(tiny_cache, tiny_student, tmp_path / "cache", objective="imitation"))


@pytest.mark.parametrize("option", [{"divergence": "jsd"}, {"divergence": "reverse-kl"}, {"temperature": 2.0}], ids=str)
def test_what_needs_a_distribution_is_refused(labels, tiny_student, tmp_path, option):
    with pytest.raises(ConfigError, match=f"--{next(iter(option))} .* no teacher's word"):
        run(labels, tiny_student, tmp_path / "run", **option)


def test_nothing_is_drawn_where_nobody_is_asked(labels, tiny_spans, tiny_teacher, tmp_path):
    options = {"spans": str(tiny_spans), "teacher": str(tiny_teacher), "out": str(tmp_path / "out")}
    with pytest.raises(ConfigError, match="nothing is drawn"):
        cache_teacher(CacheConfig(**options, backend="logs", mode="sample"), silent)


def test_doctor_finds_labels_in_order_and_has_no_teacher_to_ask(labels, tiny_teacher):
    found = doctor(DoctorConfig(shards=str(labels)), silent)
    assert found["ok"], found["verdicts"]
    assert read_manifest(labels, "cache-teacher").totals["teacher"] == "the logs"
    with pytest.raises(ConfigError, match="nobody was asked"):
        doctor(DoctorConfig(shards=str(labels), teacher=str(tiny_teacher)), silent)
