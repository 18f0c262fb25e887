import shutil

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sadstream import scan_index
from sadstream.errors import ShardError
from sadstream.stream import SampleReader, collate, micro_batches, plan_updates
from sadstream.tokens import ACT, REASON

LENGTHS = st.lists(st.integers(1, 200), max_size=60)
PLANS = {
    "lengths": LENGTHS,
    "seed": st.integers(0, 1000),
    "epoch": st.integers(0, 5),
    "batch_tokens": st.integers(1, 1000),
    "curriculum": st.sampled_from(["none", "complexity"]),
}


def plan(lengths: list[int], **options) -> list[list[int]]:
    complexity = options.pop("complexity", np.array(lengths, float) * 7 % 11)
    return plan_updates(np.array(lengths, np.int64), np.asarray(complexity, float), **options)


@given(**PLANS)
def test_a_plan_takes_each_sample_once_and_keeps_to_the_budget(lengths, batch_tokens, **options):
    updates = plan(lengths, batch_tokens=batch_tokens, **options)
    assert sorted(i for update in updates for i in update) == list(range(len(lengths)))
    for update in updates:
        assert update
        assert len(update) == 1 or sum(lengths[i] for i in update) <= batch_tokens


@given(**PLANS)
def test_a_plan_depends_on_its_arguments_alone(lengths, **options):
    first = plan(lengths, **options)
    np.random.default_rng(0).random()
    np.random.seed(0)
    assert plan(lengths, **options) == first


def test_epochs_and_seeds_give_other_orders():
    lengths = [10] * 50
    orders = {
        str(plan(lengths, seed=seed, epoch=epoch, batch_tokens=20, curriculum="none"))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=80), st.integers(0, 100), st.integers(1, 500), st.integers(0, 3)
)
def test_the_curriculum_goes_from_easy_to_hard(complexity, seed, batch_tokens, epoch):
    lengths = np.random.default_rng(seed).integers(1, 200, len(complexity)).tolist()
    updates = plan(
        lengths, complexity=complexity, seed=seed, epoch=epoch, batch_tokens=batch_tokens, curriculum="complexity"
    )
    rank = np.argsort(np.argsort(complexity, kind="stable"), kind="stable")
    tenth = [{int(rank[i]) * 10 // len(complexity) for i in update} for update in updates]
    assert all(len(tenths) == 1 for tenths in tenth)
    assert [min(t) for t in tenth] == sorted(min(t) for t in tenth)


def test_without_curriculum_complexity_does_not_matter():
    lengths = list(range(1, 60))
    plans = [
        plan(lengths, complexity=c, seed=3, epoch=0, batch_tokens=90, curriculum="none")
        for c in (np.arange(59), np.arange(59)[::-1])
    ]
    assert plans[0] == plans[1]


def test_like_lengths_share_an_update():
    lengths = np.random.default_rng(0).integers(10, 1000, 2000).tolist()
    updates = plan(lengths, seed=0, epoch=0, batch_tokens=8000, curriculum="none")
    padded = sum(len(u) * max(lengths[i] for i in u) for u in updates)
    assert padded < 1.1 * sum(lengths)


@given(LENGTHS, st.integers(1, 1000))
def test_micro_batches_take_each_sample_once_and_keep_to_the_padded_budget(lengths, budget):
    batches = micro_batches(list(range(len(lengths))), np.array(lengths, np.int64), budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@st.composite
def samples(draw):
    """Keyed arrays as a reader gives them, K and vocabulary shared."""
    made = []
    for number in range(draw(st.integers(1, 4))):
        n_tokens = draw(st.integers(2, 12))
        random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        positions = np.flatnonzero(np.append(False, random.random(n_tokens - 1) < 0.6))
        probs = random.random((len(positions), 3)).astype(np.float32) / 3
        arrays = {
            "token_ids": random.integers(1, 90, n_tokens),
            "kinds": random.integers(0, 4, n_tokens).astype(np.uint8),
            "positions": positions,
            "topk_ids": random.integers(0, 90, (len(positions), 3)),
            "topk_logprobs": np.log(probs),
            "tail_mass": 1 - probs.sum(1),
        }
        made.append((f"key{number}", arrays))
    return made


@given(samples(), st.booleans())
def test_each_target_stands_right_after_the_hidden_state_that_foretells_it(made, everything):
    batch = collate(made, everything=everything)
    for window, position, token in zip(batch.window_N, batch.position_N, batch.targets["tokens"], strict=True):
        assert batch.input_ids_BT[window, position + 1] == token


@given(samples(), st.booleans())
def test_a_batch_holds_what_its_samples_hold(made, everything):
    batch = collate(made, everything=everything)
    assert batch.keys == [key for key, _ in made]
    assert batch.n_tokens == sum(len(arrays["token_ids"]) for _, arrays in made)
    for row, (_, arrays) in enumerate(made):
        ids = arrays["token_ids"]
        assert batch.input_ids_BT[row].tolist() == [*ids, *[0] * (batch.input_ids_BT.shape[1] - len(ids))]
        kinds = arrays["kinds"][arrays["positions"]]
        kept = np.full(len(kinds), True) if everything else np.isin(kinds, [REASON, ACT])
        mine = (batch.window_N == row).numpy()
        assert (batch.position_N.numpy()[mine] + 1 == arrays["positions"][kept]).all()
        assert (batch.is_reason_N.numpy()[mine] == (kinds[kept] == REASON)).all()
        assert (batch.is_act_N.numpy()[mine] == (kinds[kept] == ACT)).all()
        for name in ("topk_ids", "topk_logprobs", "tail_mass"):
            assert np.array_equal(batch.targets[name].numpy()[mine], arrays[name][kept])
    assert not (batch.is_reason_N & batch.is_act_N).any()


def test_a_batch_with_nothing_to_learn_is_a_batch():
    arrays = {
        "token_ids": np.array([3, 4]),
        "kinds": np.array([0, 3], np.uint8),
        "positions": np.array([1]),
        "topk_ids": np.array([[1, 2]]),
        "topk_logprobs": np.zeros((1, 2), np.float32),
        "tail_mass": np.zeros(1, np.float32),
    }
    batch = collate([("key", arrays)], everything=False).to(torch.device("cpu"))
    assert len(batch.window_N) == 0 and batch.targets["topk_ids"].shape == (0, 2)


def test_a_reader_gives_each_row_of_the_index_its_sample(tiny_cache):
    index = scan_index(tiny_cache).collect().sample(fraction=1, shuffle=True, seed=0)
    reader = SampleReader(tiny_cache, index)
    for number, row in enumerate(index.iter_rows(named=True)):
        key, arrays = reader.read(number)
        kinds = arrays["kinds"][arrays["positions"]]
        assert key == row["key"] and len(arrays["token_ids"]) == row["n_tokens"]
        assert (kinds == REASON).sum() == row["n_supervised_reason"]
        assert (kinds == ACT).sum() == row["n_supervised_act"]
        assert arrays["entropy"].mean() == pytest.approx(row["entropy"], rel=1e-3)
    reader.close()


def test_a_tar_that_is_not_the_indexs_is_named(tiny_cache, tmp_path):
    shutil.copytree(tiny_cache, tmp_path / "copy")
    index = scan_index(tmp_path / "copy").collect()
    key = index["key"][0]
    swapped = index.with_columns(key=pl.col("key").reverse())
    reader = SampleReader(tmp_path / "copy", swapped)
    with pytest.raises(ShardError, match=rf"shard-000000.tar at byte 0: sample {key} stands where the index has "):
        reader.read(0)
    reader.close()


def test_a_shard_that_is_gone_or_cut_off_is_named(tiny_cache, tmp_path):
    index = scan_index(tiny_cache).collect()
    with pytest.raises(ShardError, match=r"shard-000000.tar: No such file"):
        SampleReader(tmp_path, index).read(0)
    whole = (tiny_cache / "shard-000000.tar").read_bytes()
    (tmp_path / "shard-000000.tar").write_bytes(whole[: index["n_bytes"][0] - 600])
    reader = SampleReader(tmp_path, index)
    for number in (0, 1):
        with pytest.raises(ShardError, match=rf"shard-000000.tar at byte {index['offset'][number]}"):
            reader.read(number)
    reader.close()


@given(data=st.data())
def test_flipped_bytes_are_named_or_give_a_sample_of_the_same_shape(tiny_cache, tmp_path, data):
    index = scan_index(tiny_cache).collect()
    whole = bytearray((tiny_cache / "shard-000000.tar").read_bytes())
    place = data.draw(st.integers(0, index["n_bytes"][0] - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    (tmp_path / "shard-000000.tar").write_bytes(whole)
    reader = SampleReader(tmp_path, index)
    try:
        _, arrays = reader.read(0)
        assert len(arrays["token_ids"]) == index["n_tokens"][0]
    except ShardError as error:
        assert "shard-000000.tar at byte 0" in str(error)
    finally:
        reader.close()
