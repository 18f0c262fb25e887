from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sadstream import SegmentConfig, segment_logs
from sadstream.ask import Kept, ask
from sadstream.codec import TeacherArrays
from sadstream.models import load_model, load_tokenizer
from sadstream.progress import silent
from sadstream.teachers import LocalTeacher, batches_of
from sadstream.windows import Job, Plan, plan_windows
from tests.test_models import KNOWN, make
from tests.test_packing import LOOKS_ACROSS

FLOATS = ("topk_logprobs", "log_tail", "entropy", "token_logprobs")


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 90), st.sampled_from([0, 20, 60]))
def test_batches_take_each_window_once_within_what_is_allowed_when_padded(lengths, batch_tokens, row_tokens):
    batches = list(batches_of(lengths, batch_tokens, row_tokens))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        n_tokens = sum(lengths[i] for i in batch)
        widest = max(lengths[i] for i in batch)
        if row_tokens:
            assert n_tokens <= max(batch_tokens, row_tokens, widest)
        else:
            assert len(batch) == 1 or len(batch) * widest <= batch_tokens


def windows(spans: Path, model: Path, limit: int) -> list[Job]:
    plan = Plan(load_tokenizer(model), None, "text", 512, "supervised", limit)
    return list(plan_windows(spans, plan))


def assert_the_same_but_for_digits(packed: list[TeacherArrays], alone: list[TeacherArrays]) -> None:
    for one, other in zip(packed, alone, strict=True):
        assert np.array_equal(one.positions, other.positions) and np.array_equal(one.token_ids, other.token_ids)
        for name in FLOATS:
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-4)
        differ = one.topk_ids != other.topk_ids
        # Two ids of nearly the same probability may change places.
        gaps = np.abs(np.diff(other.topk_logprobs, axis=1, append=-99.0))
        assert (np.minimum(gaps, np.roll(gaps, 1, axis=1))[differ] < 1e-3).all()


@pytest.fixture(scope="module")
def real_spans(tmp_path_factory) -> Path:
    logs = Path(__file__).resolve().parents[1] / "examples" / "logs"
    out = tmp_path_factory.mktemp("real") / "spans"
    segment_logs(SegmentConfig(logs=(str(logs),), out=str(out)), silent)
    return out


@pytest.mark.parametrize("name", ["LlamaConfig", "Qwen3Config", "GPT2Config"])
def test_real_runs_are_told_the_same_in_packed_rows_as_one_at_a_time(name, real_spans, tmp_path):
    sizes = {**KNOWN[name], "n_positions" if name == "GPT2Config" else "max_position_embeddings": 512}
    path = make(name, sizes, tmp_path / "model")
    jobs = windows(real_spans, path, 8)
    assert len({len(job.token_ids) for job in jobs}) > 2
    model, kept = load_model(path, torch.device("cpu"), torch.float32), Kept(8, len(load_tokenizer(path)))
    packed = ask(model, jobs, kept, row_tokens=1500)
    assert_the_same_but_for_digits(packed, [ask(model, [job], kept)[0] for job in jobs])


def local(path: Path, **options) -> LocalTeacher:
    usual = {"device": "cpu", "dtype": "float32", "batch_tokens": 0, "packing": "auto"}
    return LocalTeacher(path, n_named=300, top_k=4, top_p=1.0, n_draws=0, trust=False, **{**usual, **options})


def test_a_teacher_says_how_it_takes_windows(tiny_teacher, tmp_path):
    def told(path=tiny_teacher, **options) -> tuple:
        teacher = local(path, **options)
        return teacher.batches, teacher.batch_tokens, teacher.row_tokens

    assert told() == told(packing="off") == ("one window at a time", 1, 0)
    assert told(batch_tokens=900) == ("padded, sorted by length", 900, 0)
    assert told(packing="on") == ("packed in rows of 512 tokens", 512, 512)
    assert told(packing="on", batch_tokens=300) == ("packed in rows of 300 tokens", 300, 300)
    assert told(packing="on", batch_tokens=9000) == ("packed in rows of 512 tokens", 9000, 512)
    looks_across = make("OPTConfig", LOOKS_ACROSS["OPTConfig"], tmp_path / "model")
    why = "this model does not keep packed windows apart"
    assert told(looks_across, packing="on") == (f"one window at a time; {why}", 1, 0)
    assert told(looks_across, packing="on", batch_tokens=900) == (f"padded, sorted by length; {why}", 900, 0)


@pytest.mark.parametrize("name", LOOKS_ACROSS)
def test_a_model_that_looks_across_is_told_one_window_at_a_time(name, tiny_spans, tmp_path):
    sizes = {"max_position_embeddings": 512} if name != "FalconConfig" else {}
    path = make(name, {**LOOKS_ACROSS[name], **sizes}, tmp_path / "model")
    teacher, jobs = local(path, packing="on"), windows(tiny_spans, path, 3)
    alone = [local(path, packing="off").ask([job])[0] for job in jobs]
    batches = list(batches_of([len(job.token_ids) for job in jobs], teacher.batch_tokens, teacher.row_tokens))
    assert_the_same_but_for_digits([teacher.ask([jobs[i] for i in batch])[0] for batch in sorted(batches)], alone)
