import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sadstream import losses
from sadstream.ask import distribution
from sadstream.errors import ConfigError, ShapeError
from sadstream.losses import (
    hard_loss,
    soft_loss,
    span_weights,
    student_buckets,
    teacher_buckets,
    token_losses,
    weighted_loss,
)
from sadstream.models import Head
from tests.strategies import Teacher, teacher_of, topk

DIVERGENCES = ("forward-kl", "reverse-kl", "jsd")


def filled_up(arrays):
    """As the codec gives rows back: an entry that names no id repeats the row's first."""
    kept = ~np.isneginf(arrays.topk_logprobs)
    return arrays._replace(topk_ids=np.where(kept, arrays.topk_ids, arrays.topk_ids[:, :1]))


def targets_of(teacher: Teacher) -> dict[str, torch.Tensor]:
    arrays = teacher.arrays
    return {
        "tokens": torch.from_numpy(arrays.token_ids[arrays.positions]),
        "topk_ids": torch.from_numpy(filled_up(arrays).topk_ids),
        "topk_logprobs": torch.from_numpy(arrays.topk_logprobs),
        "tail_mass": torch.from_numpy(np.exp(arrays.log_tail)),
    }


def student_of(teacher: Teacher, seed: int, scale: float) -> torch.Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.normal(0, scale, teacher.logits.shape))


def x_log_x_over_y(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x * log(x / y) with 0 * log 0 = 0, and gradients that are numbers there."""
    some = x > 0
    x_, y_ = torch.where(some, x, 1), torch.where(some, y, 1)
    return torch.where(some, x_ * (x_.log() - y_.log()), 0)


def tempered(probs: torch.Tensor, temperature: float) -> torch.Tensor:
    some = probs > 0
    raised = torch.where(some, torch.where(some, probs, 1) ** (1 / temperature), 0)
    return raised / raised.sum(-1, keepdim=True)


def oracle(
    divergence: str, teacher: Teacher, logits: torch.Tensor, *, temperature: float = 1.0, beta: float = 0.5
) -> torch.Tensor:
    """The divergence by its textbook formula on probabilities, from the teacher's full distribution, float64."""
    p_full = torch.from_numpy(teacher.logits).softmax(-1)
    q_full = logits.softmax(-1)
    ids = torch.from_numpy(teacher.arrays.topk_ids)
    # An entry of -inf names no id: what it would name is outside like all others.
    is_named = ~torch.from_numpy(teacher.arrays.topk_logprobs).isneginf()
    outside = torch.ones_like(p_full).scatter(-1, ids, 0).scatter_add(-1, ids, (~is_named).double())
    buckets = []
    for full in (p_full, q_full):
        rest = (full * outside).sum(-1, keepdim=True)
        buckets.append(tempered(torch.cat([full.gather(-1, ids) * is_named, rest], -1), temperature))
    p, q = buckets
    if divergence == "forward-kl":
        return temperature**2 * x_log_x_over_y(p, q).sum(-1)
    if divergence == "reverse-kl":
        # Of what the teacher holds impossible, the measure takes as little as float32 can tell from nothing.
        return temperature**2 * x_log_x_over_y(q, p.clamp_min(math.exp(-60))).sum(-1)
    m = beta * p + (1 - beta) * q
    return temperature**2 * (beta * x_log_x_over_y(p, m) + (1 - beta) * x_log_x_over_y(q, m)).sum(-1)


def gradient(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss.sum(), logits)[0] if len(logits) else torch.zeros_like(logits)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@given(teacher=topk(max_vocab=3000, max_scale=8), seed=st.integers(0, 2**32 - 1), scale=st.floats(0, 8))
def test_value_and_gradient_are_those_of_the_dense_formula(divergence, teacher, seed, scale):
    logits = student_of(teacher, seed, scale)
    exact_logits = logits.clone().requires_grad_()
    exact = oracle(divergence, teacher, exact_logits)
    ours_logits = logits.float().requires_grad_()
    ours = soft_loss(divergence)(ours_logits, targets_of(teacher))
    assert ours.dtype == torch.float32 and ours.shape == exact.shape
    torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        gradient(ours, ours_logits).double(), gradient(exact, exact_logits), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("divergence", DIVERGENCES)
@given(
    teacher=topk(max_vocab=300, max_scale=6),
    seed=st.integers(0, 2**32 - 1),
    temperature=st.floats(0.5, 8),
    beta=st.floats(0.05, 0.95),
    ce_weight=st.sampled_from([0.0, 0.25, 1.0]),
)
def test_temperature_beta_and_cross_entropy_are_those_of_the_dense_formula(
    divergence, teacher, seed, temperature, beta, ce_weight
):
    logits = student_of(teacher, seed, 3)
    targets = targets_of(teacher)
    exact_logits = logits.clone().requires_grad_()
    soft = oracle(divergence, teacher, exact_logits, temperature=temperature, beta=beta)
    hard = torch.nn.functional.cross_entropy(exact_logits, targets["tokens"], reduction="none")
    exact = (1 - ce_weight) * soft + ce_weight * hard
    ours_logits = logits.float().requires_grad_()
    ours = soft_loss(divergence, temperature=temperature, jsd_beta=beta, ce_weight=ce_weight)(ours_logits, targets)
    # The square of the temperature is a factor of float32's rounding too.
    size = max(1, temperature**2)
    torch.testing.assert_close(ours.double(), exact, rtol=2e-4, atol=1e-5 * size)
    torch.testing.assert_close(
        gradient(ours, ours_logits).double(), gradient(exact, exact_logits), rtol=2e-3, atol=1e-4 * size
    )


@pytest.mark.parametrize("n_ids", [8, 30])
def test_buckets_are_float32_whatever_comes_in_and_not_tempered_unless_asked(n_ids):
    teacher = teacher_of(np.random.default_rng(0).normal(0, 2, (6, 30)), n_ids)
    targets = targets_of(teacher)
    logprobs, tail = targets["topk_logprobs"].bfloat16(), targets["tail_mass"].bfloat16()
    ours = teacher_buckets(logprobs, tail, 30)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, teacher_buckets(logprobs.float(), tail.float(), 30, 1.0))
    logits = student_of(teacher, 1, 2).bfloat16()
    ours = student_buckets(logits, targets["topk_ids"], logprobs)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, student_buckets(logits.float(), targets["topk_ids"], logprobs.float(), 1.0))


def test_a_cut_row_does_not_depend_on_the_ids_that_fill_it_up():
    teacher = teacher_of(np.random.default_rng(0).normal(0, 2, (6, 30)), 8)
    targets = targets_of(teacher)
    targets["topk_logprobs"][:, 5:] = -torch.inf
    targets["tail_mass"] = 1 - targets["topk_logprobs"].exp().sum(-1)
    repeated = {**targets, "topk_ids": targets["topk_ids"].clone()}
    repeated["topk_ids"][:, 5:] = repeated["topk_ids"][:, :1]
    shorter = {name: value[:, :5] if value.ndim == 2 else value for name, value in targets.items()}
    logits = student_of(teacher, 1, 2).float()
    for divergence in DIVERGENCES:
        for temperature in (1.0, 3.0):
            loss = soft_loss(divergence, temperature=temperature)
            for other in (repeated, shorter):
                torch.testing.assert_close(loss(logits, targets), loss(logits, other), rtol=1e-5, atol=1e-6)


@given(topk(max_vocab=3000), st.integers(0, 2**32 - 1), st.floats(0, 40), st.sampled_from(DIVERGENCES))
def test_divergences_are_never_negative_and_numbers(teacher, seed, scale, divergence):
    logits = student_of(teacher, seed, scale).float().requires_grad_()
    values = soft_loss(divergence)(logits, targets_of(teacher))
    assert (values >= -2e-5).all() and values.isfinite().all()
    assert gradient(values, logits).isfinite().all()
    if divergence == "jsd":
        assert (values <= math.log(2) + 1e-5).all()


@given(topk(max_vocab=3000), st.sampled_from(DIVERGENCES))
def test_equal_models_give_nothing_to_learn(teacher, divergence):
    logits = torch.from_numpy(teacher.logits).float().requires_grad_()
    values = soft_loss(divergence)(logits, targets_of(teacher))
    torch.testing.assert_close(values, torch.zeros_like(values), rtol=0, atol=2e-5)
    found = gradient(values, logits)
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=2e-5)


@pytest.mark.parametrize("vocab_size", [1, 2, 50])
def test_with_the_whole_vocabulary_forward_kl_is_torchs(vocab_size):
    random = np.random.default_rng(vocab_size)
    teacher = teacher_of(random.normal(0, 3, (20, vocab_size)), vocab_size)
    logits = student_of(teacher, 1, 3).float().requires_grad_()
    ours = soft_loss("forward-kl")(logits, targets_of(teacher))
    dense = torch.nn.functional.kl_div(
        logits.log_softmax(-1),
        torch.from_numpy(teacher.logits).float().log_softmax(-1),
        reduction="none",
        log_target=True,
    ).sum(-1)
    torch.testing.assert_close(ours, dense, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(ours, logits), gradient(dense, logits), rtol=1e-4, atol=1e-6)


def test_mass_moved_out_of_the_top_k_is_not_rewarded():
    teacher = teacher_of(np.log(np.array([[0.6, 0.3, 0.05, 0.05]])), 2)
    near = torch.tensor([[0.6, 0.3, 0.05, 0.05]]).log()
    far = torch.tensor([[0.2, 0.1, 0.35, 0.35]]).log()
    loss = soft_loss("forward-kl")
    assert loss(far, targets_of(teacher)) > loss(near, targets_of(teacher)) + 0.3


def test_a_teacher_with_no_tail_is_followed_without_trouble():
    logits = np.full((3, 10), -np.inf)
    logits[:, :4] = np.random.default_rng(0).normal(0, 2, (3, 4))
    teacher = teacher_of(logits, 6)
    assert np.isneginf(teacher.arrays.log_tail).all()
    for divergence in DIVERGENCES:
        student = student_of(teacher, 0, 2).float().requires_grad_()
        values = soft_loss(divergence)(student, targets_of(teacher))
        assert values.isfinite().all() and (values > 0).all()
        assert gradient(values, student).isfinite().all()


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("size", [1e3, 1e5])
def test_extreme_logits_give_numbers(divergence, size):
    teacher = teacher_of(np.array([[0.0, 1.0, 2.0, -3.0, 0.0]]), 2)
    for sign in (1, -1):
        logits = torch.tensor([[size * sign, 0, 0, 0, -size]], requires_grad=True)
        values = soft_loss(divergence)(logits, targets_of(teacher))
        assert values.isfinite().all()
        assert gradient(values, logits).isfinite().all()


def test_a_student_that_holds_all_others_impossible_learns_of_the_named_ids_alone():
    teacher = teacher_of(np.array([[1.0, 2.0, 0.0, -1.0]]), 2)
    logits = torch.tensor([[0.5, 1.0, -torch.inf, -torch.inf]], requires_grad=True)
    found = gradient(soft_loss("forward-kl")(logits, targets_of(teacher)), logits)
    wanted = logits.detach().softmax(-1) - torch.from_numpy(teacher.logits).softmax(-1)
    torch.testing.assert_close(found[0], torch.tensor([*wanted[0, :2], 0, 0], dtype=torch.float32))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_half_precision_logits_are_computed_in_float32(divergence):
    teacher = teacher_of(np.random.default_rng(0).normal(0, 3, (8, 100)), 16)
    half = student_of(teacher, 1, 3).bfloat16()
    loss = soft_loss(divergence)
    values = loss(half, targets_of(teacher))
    assert values.dtype == torch.float32
    assert torch.equal(values, loss(half.float(), targets_of(teacher)))


def test_an_unknown_divergence_names_the_known_ones():
    with pytest.raises(ConfigError, match="--divergence kl") as error:
        soft_loss("kl")
    assert "forward-kl" in error.value.hint


MASKS = st.lists(st.sampled_from(["reason", "act", "other"]), max_size=30)


def weights_of(kinds: list[str], reduction: str, lambda_reason: float, lambda_act: float) -> torch.Tensor:
    return span_weights(
        torch.tensor([kind == "reason" for kind in kinds], dtype=torch.bool),
        torch.tensor([kind == "act" for kind in kinds], dtype=torch.bool),
        n_reason=kinds.count("reason"),
        n_act=kinds.count("act"),
        reduction=reduction,
        lambda_reason=lambda_reason,
        lambda_act=lambda_act,
    )


@given(MASKS, st.floats(0, 4, width=32), st.floats(0, 4, width=32), st.integers(0, 2**32 - 1))
def test_weighted_sum_is_the_documented_loss(kinds, lambda_reason, lambda_act, seed):
    values = np.random.default_rng(seed).exponential(1, len(kinds))
    by_kind = {kind: [v for v, k in zip(values, kinds, strict=True) if k == kind] for kind in ("reason", "act")}
    n_both = len(by_kind["reason"]) + len(by_kind["act"])
    summed = (lambda_reason * sum(by_kind["reason"]) + lambda_act * sum(by_kind["act"])) / max(1, n_both)
    mean = sum(
        weight * float(np.mean(by_kind[kind])) if by_kind[kind] else 0.0
        for kind, weight in (("reason", lambda_reason), ("act", lambda_act))
    )
    for reduction, wanted in (("sum", summed), ("mean", mean)):
        weights = weights_of(kinds, reduction, lambda_reason, lambda_act)
        assert float((weights.double() * torch.from_numpy(values)).sum()) == pytest.approx(wanted, rel=1e-5, abs=1e-6)


@given(st.lists(st.sampled_from(["reason", "act"]), min_size=1, max_size=40))
def test_sums_with_lambdas_1_weigh_each_token_alike(kinds):
    weights = weights_of(kinds, "sum", 1, 1)
    assert torch.equal(weights, torch.full((len(kinds),), 1 / len(kinds)))


def head_of(layer: torch.nn.Linear, shape=lambda logits: logits) -> Head:
    return Head(layer.weight, layer.bias, shape)


def problem(n_rows: int, *, bias: bool, seed: int = 0, hidden: int = 12, vocab: int = 40):
    """Hidden states, a head, weights and targets of some tokens."""
    torch.manual_seed(seed)
    head = torch.nn.Linear(hidden, vocab, bias=bias)
    states = torch.randn(n_rows, hidden, requires_grad=True)
    teacher = teacher_of(np.random.default_rng(seed).normal(0, 3, (n_rows, vocab)), 8)
    return head, states, torch.rand(n_rows), targets_of(teacher)


@pytest.mark.parametrize("n_rows", [0, 1, 255, 256, 257, 700])
@pytest.mark.parametrize("loss", [soft_loss("forward-kl"), soft_loss("jsd"), hard_loss], ids=["kl", "jsd", "ce"])
def test_the_chunked_loss_is_the_plain_one_in_value_and_gradient(n_rows, loss):
    head, states, weights, targets = problem(n_rows, bias=True)
    parameters = list(head.parameters())
    plain_N = loss(head(states), targets)
    plain = (weights * plain_N).sum()
    wanted = torch.autograd.grad(3 * plain, [states, *parameters])
    total, losses_N = weighted_loss(states, weights, targets, head=head_of(head), loss=loss)
    found = torch.autograd.grad(3 * total, [states, *parameters])
    torch.testing.assert_close(total, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses_N, plain_N.detach(), rtol=1e-5, atol=1e-5)
    assert not losses_N.requires_grad
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@given(n_rows=st.integers(0, 15), chunk=st.integers(1, 16), seed=st.integers(0, 1000))
def test_the_size_of_a_chunk_does_not_matter(n_rows, chunk, seed):
    head, states, weights, targets = problem(n_rows, bias=False, seed=seed)
    results = []
    for rows in (chunk, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(losses, "_CHUNK_ROWS", rows)
            total, _ = weighted_loss(states, weights, targets, head=head_of(head), loss=soft_loss("forward-kl"))
        results.append((total.detach(), *torch.autograd.grad(total, [states, head.weight])))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_logits_are_made_a_chunk_at_a_time():
    head, states, weights, targets = problem(700, bias=False)
    seen = []

    def watch(logits):
        seen.append(len(logits))
        return logits

    watched = head_of(head, watch)
    weighted_loss(states, weights, targets, head=watched, loss=hard_loss)
    token_losses(states, targets, head=watched.logits, losses={"ce": hard_loss, "kl": soft_loss("forward-kl")})
    assert max(seen) <= 256 and sum(seen) == 1400


def test_a_head_that_does_not_learn_gets_no_gradient():
    head, states, weights, targets = problem(10, bias=False)
    head.weight.requires_grad_(False)
    total, _ = weighted_loss(states, weights, targets, head=head_of(head), loss=hard_loss)
    total.backward()
    assert head.weight.grad is None and states.grad.abs().sum() > 0


def test_a_gradient_is_given_once_and_never_wrongly_again():
    head, states, weights, targets = problem(10, bias=False)
    total, _ = weighted_loss(states, weights, targets, head=head_of(head), loss=hard_loss)
    total.backward(retain_graph=True)
    before = states.grad.clone()
    with pytest.raises(RuntimeError, match="gives its gradient once"):
        total.backward()
    assert torch.equal(states.grad, before)


def test_a_tied_head_gets_both_its_gradients():
    _, _, weights, targets = problem(30, bias=False)
    table = torch.randn(40, 12, requires_grad=True)
    ids = torch.arange(30) % 40

    def total(chunked: bool) -> torch.Tensor:
        states = table[ids].tanh()
        if chunked:
            return weighted_loss(
                states, weights, targets, head=Head(table, None, lambda logits: logits), loss=hard_loss
            )[0]
        return (weights * hard_loss(states @ table.T, targets)).sum()

    found, wanted = (torch.autograd.grad(total(chunked), table)[0] for chunked in (True, False))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_bfloat16_hidden_states_keep_their_type_and_come_near():
    head, states, weights, targets = problem(300, bias=False)
    half = states.detach().bfloat16().requires_grad_()
    half_head = torch.nn.Linear(12, 40, bias=False, dtype=torch.bfloat16)
    half_head.weight.data.copy_(head.weight.data)
    total, losses_N = weighted_loss(half, weights, targets, head=head_of(half_head), loss=soft_loss("forward-kl"))
    total.backward()
    exact, _ = weighted_loss(states, weights, targets, head=head_of(head), loss=soft_loss("forward-kl"))
    assert losses_N.dtype == torch.float32 and half.grad.dtype == half_head.weight.grad.dtype == torch.bfloat16
    assert total.item() == pytest.approx(exact.item(), rel=2e-2)


@given(st.integers(0, 30), st.integers(0, 1000))
def test_sad_with_sums_and_lambdas_1_is_token_kd_on_agent_tokens(n_rows, seed):
    head, states, _, targets = problem(n_rows, bias=False, seed=seed)
    is_reason = torch.from_numpy(np.random.default_rng(seed).random(n_rows) < 0.6)
    n_reason = int(is_reason.sum())
    sad = span_weights(
        is_reason,
        ~is_reason,
        n_reason=n_reason,
        n_act=n_rows - n_reason,
        reduction="sum",
        lambda_reason=1,
        lambda_act=1,
    )
    total, _ = weighted_loss(states, sad, targets, head=head_of(head), loss=soft_loss("forward-kl"))
    token_kd = soft_loss("forward-kl")(head(states), targets).sum() / max(1, n_rows)
    torch.testing.assert_close(total, token_kd, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(
        torch.autograd.grad(total, [states, head.weight]),
        torch.autograd.grad(token_kd, [states, head.weight]),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["weights", "tokens", "topk_ids"])
def test_lengths_that_differ_are_named(name):
    head, states, weights, targets = problem(5, bias=False)
    if name == "weights":
        weights = weights[:4]
    else:
        targets[name] = targets[name][:4]
    with pytest.raises(ShapeError, match=f"^{name} has 4 tokens, hidden states 5"):
        weighted_loss(states, weights, targets, head=head_of(head), loss=hard_loss)


def test_token_losses_of_no_token_are_empty():
    head, states, _, targets = problem(0, bias=False)
    values = token_losses(states, targets, head=head, losses={"kl": soft_loss("forward-kl"), "ce": hard_loss})
    assert {name: value.shape for name, value in values.items()} == {"kl": (0,), "ce": (0,)}


@pytest.mark.parametrize("loss", [hard_loss, *(soft_loss(divergence) for divergence in DIVERGENCES)])
def test_losses_of_half_precision_logits_are_computed_in_float32(loss):
    teacher = teacher_of(np.random.default_rng(0).normal(0, 3, (50, 30)), 5)
    logits, targets = student_of(teacher, 1, 3).bfloat16(), targets_of(teacher)
    values = loss(logits, targets)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, loss(logits.float(), targets), rtol=0, atol=0)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@given(teacher=topk(max_vocab=300, max_scale=8), mass=st.floats(0.01, 0.99), seed=st.integers(0, 2**32 - 1))
def test_rows_cut_by_mass_have_the_dense_value_and_gradient_of_their_own_buckets(divergence, teacher, mass, seed):
    probs = np.exp(teacher.arrays.topk_logprobs.astype(np.float64))
    dropped = np.cumsum(probs, axis=1) - probs >= mass
    arrays = teacher.arrays._replace(
        topk_logprobs=np.where(dropped, -np.inf, teacher.arrays.topk_logprobs).astype(np.float32),
        log_tail=np.log(np.exp(teacher.arrays.log_tail) + (probs * dropped).sum(1) + 1e-300).astype(np.float32),
    )
    cut = teacher._replace(arrays=arrays)
    logits = student_of(teacher, seed, 3.0)
    exact_logits = logits.clone().requires_grad_()
    exact = oracle(divergence, cut, exact_logits)
    ours_logits = logits.float().requires_grad_()
    ours = soft_loss(divergence)(ours_logits, targets_of(cut))
    torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        gradient(ours, ours_logits).double(), gradient(exact, exact_logits), rtol=1e-3, atol=1e-4
    )


def test_drawn_targets_have_the_gradient_of_dense_cross_entropy_on_average():
    torch.manual_seed(0)
    teacher, student = torch.randn(6, 40) * 2, torch.randn(6, 40) * 2
    wanted = student.softmax(-1) - teacher.softmax(-1)
    total = torch.zeros_like(student)
    n_rounds, n_draws = 400, 50
    for number in range(n_rounds):
        ids, logprobs, log_tail, *_ = distribution(
            teacher, torch.zeros(6, dtype=torch.int64), 32, n_draws=n_draws, seed=number
        )
        assert torch.allclose(logprobs.exp().sum(-1), torch.ones(6))
        targets = {"topk_ids": ids, "topk_logprobs": logprobs, "tail_mass": log_tail.exp()}
        logits = student.clone().requires_grad_()
        found = gradient(soft_loss("forward-kl")(logits, targets), logits)
        shares = torch.zeros(6, 40).scatter_add(-1, ids, logprobs.exp())
        torch.testing.assert_close(found, student.softmax(-1) - shares, rtol=1e-4, atol=1e-5)
        total += found
    # Five standard errors of a share of draws.
    p = teacher.softmax(-1)
    assert ((total / n_rounds - wanted).abs() < 5 * (p * (1 - p) / (n_rounds * n_draws)).sqrt() + 1e-5).all()
