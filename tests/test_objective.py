"""An update's gradient is the same however it is cut up: into micro-batches, ranks, or not at all."""

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from sadstream.codec import decode_teacher_sample
from sadstream.models import load_model
from sadstream.objective import Counts, Sums, add_gradients, count, token_loss
from sadstream.order import Order
from sadstream.sample_stream import Draft, SampleStream
from sadstream.samples import SampleFolder
from sadstream.shards import iter_samples
from sadstream.stream import Batch, Collate, collate
from sadstream.train_config import TrainConfig
from tests import tiny
from tests.test_models import KNOWN

WHOLE = 1 << 40
REQUIRED = {"shards": "a", "student": "b", "out": "c"}


@pytest.fixture(scope="module")
def student(tiny_student):
    return load_model(tiny_student, torch.device("cpu"), torch.float32)


def gradient_of(model, parts: Sequence[Sequence[Batch]], config: TrainConfig) -> tuple[Sums, list[torch.Tensor]]:
    """Loss and gradient of an update whose parts lie with a rank each: the counts and gradients of all are added."""
    counts = Counts(0, 0, 0)
    for part in parts:
        counts = counts.plus(count(part))
    sums, total = np.zeros(3), [torch.zeros_like(p) for p in model.parameters()]
    for part in parts:
        rank = copy.deepcopy(model)
        sums += add_gradients(rank, part, counts, config, token_loss(config), torch.float32)
        for mine, p in zip(total, rank.parameters(), strict=True):
            mine += 0 if p.grad is None else p.grad
    return Sums(*sums), total


def same(one, other, *, share: float = 1e-6) -> None:
    """Args: share: of the largest gradient that rounding may take."""
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    size = max(float(g.abs().max()) for g in other[1])
    for a, b in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=share * size)


def an_update(shards, micro_tokens: int, *, rank: int = 0, world_size: int = 1) -> list[Batch]:
    order = Order(batch_tokens=1500, seed=3)
    make = Collate(micro_tokens=micro_tokens)
    stream = SampleStream(SampleFolder(shards), order, make, rank=rank, world_size=world_size, epochs=1, ahead=0)
    return [update.data for update in stream][2]


@pytest.mark.parametrize(
    "options",
    [
        {"lambda_act": 0.5},
        {"reduction": "mean", "lambda_reason": 2.0, "lambda_act": 0.5},
        {"objective": "imitation", "reduction": "mean"},
        {"objective": "token-kd", "divergence": "jsd", "temperature": 2.0, "ce_weight": 0.3},
    ],
    ids=str,
)
def test_one_update_cut_four_ways_has_one_gradient(student, tiny_cache, options):
    config = TrainConfig(**REQUIRED, **options)
    whole = an_update(tiny_cache, WHOLE)
    one_by_one = an_update(tiny_cache, 1)
    by_length = an_update(tiny_cache, 700)
    ranks = [an_update(tiny_cache, 400, rank=rank, world_size=3) for rank in range(3)]
    assert len(whole) == 1 and len(one_by_one) == len(whole[0].keys) > len(by_length) > 1
    assert sorted(k for part in ranks for b in part for k in b.keys) == sorted(whole[0].keys)
    assert all(len(part) > 0 for part in ranks)
    wanted = gradient_of(student, [whole], config)
    for parts in ([one_by_one], [by_length], ranks):
        same(gradient_of(student, parts, config), wanted)


def samples_of(shards, n: int):
    return [(key, decode_teacher_sample(data)) for (key, data), _ in zip(iter_samples(shards), range(n), strict=False)]


@pytest.mark.parametrize("options", [{}, {"reduction": "mean"}, {"objective": "token-kd"}], ids=str)
def test_a_sample_of_weight_2_is_a_sample_that_stands_there_twice(student, tiny_cache, options):
    config = TrainConfig(**REQUIRED, **options)
    a, b = samples_of(tiny_cache, 2)
    weighed = collate([a, b], everything=False, weights=[2.0, 1.0])
    twice = collate([a, a, b], everything=False)
    assert count([weighed]) == count([twice])
    same(gradient_of(student, [[weighed]], config), gradient_of(student, [[twice]], config))


def test_a_sample_of_weight_0_is_not_there(student, tiny_cache):
    config = TrainConfig(**REQUIRED)
    a, b = samples_of(tiny_cache, 2)
    ignored = collate([a, b], everything=False, weights=[1.0, 0.0])
    same(gradient_of(student, [[ignored]], config), gradient_of(student, [[collate([a], everything=False)]], config))


def test_an_update_without_supervised_tokens_has_no_gradient_and_is_a_number(student, tiny_cache):
    empty = collate(samples_of(tiny_cache, 1), everything=False, limit=0)
    for options in ({}, {"reduction": "mean"}, {"objective": "token-kd"}):
        sums, grads = gradient_of(student, [[empty]], TrainConfig(**REQUIRED, **options))
        assert sums == Sums(0, 0, 0)
        assert all(g.abs().max() == 0 for g in grads)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", ["LlamaConfig", "Qwen3Config", "Gemma2Config", "GPT2Config", "OPTConfig"])
def test_the_gradient_is_that_of_the_models_own_forward(tiny_cache, tmp_path, name, tied):
    """The dense way: the model's own logits everywhere, picked afterwards."""
    import transformers

    config = TrainConfig(**REQUIRED, reduction="mean", lambda_act=2.0, temperature=1.5)
    options = {**KNOWN[name], "vocab_size": 342, "tie_word_embeddings": tied}
    options |= {"n_positions": 512} if name == "GPT2Config" else {"max_position_embeddings": 512}
    if name == "GPT2Config":
        options |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    if name == "OPTConfig":
        options |= {"dropout": 0.0}
    path = tiny.save_model(getattr(transformers, name)(**options), tmp_path / "model")
    model = load_model(path, torch.device("cpu"), torch.float32).train()
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert is_tied == tied
    batch = collate(samples_of(tiny_cache, 2), everything=False)
    found = gradient_of(model, [[batch]], config)
    logits_NV = model(input_ids=batch.input_ids_BT).logits[batch.window_N, batch.position_N]
    loss_N = token_loss(config)(logits_NV, batch.targets)
    plain = loss_N[batch.is_reason_N].mean() + 2 * loss_N[batch.is_act_N].mean()
    wanted = torch.autograd.grad(plain, list(model.parameters()), allow_unused=True)
    assert found[0].loss == pytest.approx(plain.item(), rel=1e-5)
    size = max(float(g.abs().max()) for g in wanted if g is not None)
    for ours, theirs in zip(found[1], wanted, strict=True):
        theirs = torch.zeros_like(ours) if theirs is None else theirs
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5 * size)


@pytest.mark.parametrize("name", ["LlamaConfig", "Qwen3Config", "Gemma2Config", "GPT2Config", "GraniteConfig"])
def test_packed_windows_have_the_gradient_of_padded_ones(tiny_cache, tmp_path, name):
    import transformers

    options = {**KNOWN[name], "vocab_size": 342}
    options |= {"n_positions": 1024} if name == "GPT2Config" else {"max_position_embeddings": 1024}
    if name == "GPT2Config":
        options |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    path = tiny.save_model(getattr(transformers, name)(**options), tmp_path / "model")
    # Doubles: these random models blow rounding up.
    model = load_model(path, torch.device("cpu"), torch.float32).double().train()
    samples = samples_of(tiny_cache, 5)
    padded = collate(samples, everything=False, weights=[1, 2, 3, 4, 5])
    packed = collate(samples, everything=False, weights=[1, 2, 3, 4, 5], rows=[[3, 0], [1, 4, 2]])
    assert packed.input_ids_BT.shape[0] == 2 and packed.position_ids_BT is not None
    config = TrainConfig(**REQUIRED, reduction="mean")
    assert count([packed]) == count([padded])
    same(gradient_of(model, [[packed]], config), gradient_of(model, [[padded]], config), share=1e-5)
    # Looking across would show.
    across = packed._replace(position_ids_BT=None)
    assert gradient_of(model, [[across]], config)[0].loss != pytest.approx(
        gradient_of(model, [[padded]], config)[0].loss, rel=1e-4
    )


def test_an_update_is_packed_into_rows_as_long_as_its_longest_window(tiny_cache):
    order = Order(batch_tokens=100_000)
    for micro_tokens in (1, 700, WHOLE):
        batches = {}
        for packed in (True, False):
            make = Collate(micro_tokens=micro_tokens, packed=packed)
            stream = SampleStream(SampleFolder(tiny_cache), order, make, epochs=1, ahead=0)
            (update,) = stream
            batches[packed] = update.data
        longest = max(batch.input_ids_BT.shape[1] for batch in batches[False])
        assert sum(b.input_ids_BT.shape[0] for b in batches[True]) < sum(
            b.input_ids_BT.shape[0] for b in batches[False]
        )
        for batch in batches[True]:
            n_rows, n_columns = batch.input_ids_BT.shape
            assert n_columns <= longest and (n_rows == 1 or n_rows * longest <= micro_tokens)
        # The same tokens, at the same positions of their windows, with the same targets.
        found, wanted = (sorted(facts_of(batches[packed])) for packed in (True, False))
        assert found == wanted


def facts_of(batches: Sequence[Batch]) -> list[tuple]:
    facts = []
    for batch in batches:
        before = batch.input_ids_BT[batch.window_N, batch.position_N]
        if batch.position_ids_BT is None:
            position = batch.position_N
        else:
            position = batch.position_ids_BT[batch.window_N, batch.position_N]
        columns = (before, position, batch.targets["tokens"], batch.targets["tail_mass"], batch.is_act_N)
        facts += zip(*(column.tolist() for column in columns), strict=True)
    return facts


def test_weights_come_from_a_column_of_the_index(tiny_cache):
    order = Order(batch_tokens=1500, weight_by="n_supervised_act")
    drafts: list[Draft] = []

    def keep(draft: Draft) -> list[Batch]:
        drafts.append(draft)
        return Collate(micro_tokens=1)(draft)

    stream = SampleStream(SampleFolder(tiny_cache), order, keep, epochs=1, ahead=0)
    batches = [batch for update in stream for batch in update.data]
    assert drafts and all(len(draft.weights) == len(draft.samples) for draft in drafts)
    for batch in batches:
        assert (batch.weight_N == int(batch.is_act_N.sum())).all()
