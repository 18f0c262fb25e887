import copy
import re
import shutil
from collections import Counter
from itertools import islice, takewhile
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from sadstream import decode_teacher_sample, iter_samples, scan_index
from sadstream.errors import ConfigError, ModelError, ShardError
from sadstream.order import Order, Position
from sadstream.sample_stream import SampleStream
from sadstream.samples import SampleFolder
from sadstream.stream import Batch, Collate, Split, TeacherDataset, collate
from sadstream.tokens import ACT, REASON

ORDERS = [
    Order(batch_tokens=300),
    Order(batch_tokens=300, block_rows=3, seed=1),
    Order(batch_tokens=300, curriculum="complexity", split=""),
    Order(batch_tokens=200, curriculum="depth", block_rows=5, unlock_epochs=1.5),
    Order(batch_tokens=300, mix={"transcript": 1.5}),
]


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


@given(samples(), st.integers(0, 5))
def test_a_limit_leaves_out_its_step_and_those_behind_it(made, limit):
    for _, arrays in made:
        arrays["steps"] = np.arange(len(arrays["token_ids"]), dtype=np.int32) // 2 - 1
    batch = collate(made, everything=True, limit=limit)
    for row, (_, arrays) in enumerate(made):
        at = arrays["positions"]
        mine = batch.position_N[batch.window_N == row].numpy() + 1
        assert mine.tolist() == at[arrays["steps"][at] < limit].tolist()


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


def stream_of(folder: Path, order: Order, **options) -> SampleStream[list[Batch]]:
    return SampleStream(SampleFolder(folder), order, Collate(micro_tokens=200), **options)


def same_batch(one: Batch, other: Batch) -> bool:
    tensors = [
        (a, b)
        for left, right in ((one._asdict(), other._asdict()), (one.targets, other.targets))
        for a, b in zip(left.values(), right.values(), strict=True)
        if isinstance(a, torch.Tensor)
    ]
    return one.keys == other.keys and len(tensors) > 8 and all(torch.equal(a, b) for a, b in tensors)


def same_data(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(map(same_batch, one, other))


def keys(data: list[Batch]) -> list[str]:
    return [key for batch in data for key in batch.keys]


def rows_of(folder: Path, order: Order) -> pl.DataFrame:
    index = scan_index(folder)
    return (index.filter(pl.col("split") == order.split) if order.split else index).collect()


@pytest.mark.parametrize("order", ORDERS[:4], ids=str)
def test_an_epoch_gives_each_sample_of_the_split_once(tiny_shards, order):
    stream = stream_of(tiny_shards, order, epochs=1)
    given_keys = [key for update in stream for key in keys(update.data)]
    assert sorted(given_keys) == sorted(rows_of(tiny_shards, order)["key"])


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_continued_at_any_position_it_is_as_if_never_interrupted(tiny_shards, order):
    begin = stream_of(tiny_shards, order, epochs=2).state_dict()
    whole = list(stream_of(tiny_shards, order, epochs=2))
    assert stream_of(tiny_shards, order).count_updates(2) == len(whole) > 9
    states = [begin, *(update.after for update in whole)]
    for number, state in enumerate(states):
        state = msgspec.json.decode(msgspec.json.encode(state))
        stream = stream_of(tiny_shards, order, epochs=2, ahead=number % 3)
        stream.load_state_dict(state)
        rest = list(stream if number % 5 == 0 else islice(stream, 2))
        wanted = whole[number:] if number % 5 == 0 else whole[number : number + 2]
        assert len(rest) == len(wanted)
        for one, other in zip(rest, wanted, strict=True):
            assert one.after == other.after and one.epoch == other.epoch and same_data(one.data, other.data)


def test_a_stream_knows_what_was_given_and_not_what_was_read_ahead(tiny_shards):
    stream = stream_of(tiny_shards, ORDERS[0], ahead=3)
    whole = list(islice(stream_of(tiny_shards, ORDERS[0]), 7))
    first = list(islice(stream, 3))
    assert stream.state_dict() == first[-1].after
    assert all(map(same_data, [u.data for u in first + list(islice(stream, 4))], [u.data for u in whole]))


def test_a_continued_stream_reads_the_index_of_its_block_and_no_sample_before(tiny_shards, monkeypatch):
    folder = SampleFolder(tiny_shards)
    order = Order(batch_tokens=300, block_rows=3)
    whole = list(islice(stream_of(tiny_shards, order), 12))
    read: Counter[str] = Counter()
    rows, samples = SampleFolder.rows, SampleFolder.read_many

    def count_rows(self, shard, columns):
        read["rows"] += 1
        return rows(self, shard, columns)

    def count_samples(self, places):
        read["samples"] += len(places)
        return samples(self, places)

    monkeypatch.setattr(SampleFolder, "rows", count_rows)
    monkeypatch.setattr(SampleFolder, "read_many", count_samples)
    stream = SampleStream(folder, order, Collate(micro_tokens=200), ahead=0)
    stream.load_state_dict(whole[10].after)
    update = next(iter(stream))
    assert same_data(update.data, whole[11].data)
    assert read["samples"] == len(keys(update.data)) and read["rows"] <= 2


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("world_size", [2, 3, 50])
def test_all_ranks_together_give_the_updates_of_one(tiny_shards, order, world_size):
    whole = list(islice(stream_of(tiny_shards, order), 6))
    streams = [stream_of(tiny_shards, order, rank=rank, world_size=world_size, ahead=0) for rank in range(world_size)]
    for update, *parts in zip(whole, *streams, strict=False):
        assert sorted(k for part in parts for k in keys(part.data)) == sorted(keys(update.data))
        assert all(part.after == update.after for part in parts)
        n_learnt = [sum(len(batch.window_N) for batch in part.data) for part in (update, *parts)]
        assert n_learnt[0] == sum(n_learnt[1:])
    # A state of one world size serves any other.
    lonely = stream_of(tiny_shards, order)
    lonely.load_state_dict(streams[1].state_dict())
    assert lonely.state_dict() == whole[-1].after


@pytest.mark.parametrize("n_workers", [0, 1, 2])
def test_a_dataset_gives_the_same_order_with_any_number_of_workers(tiny_shards, n_workers):
    order = ORDERS[3]
    whole = list(stream_of(tiny_shards, order, epochs=2))
    for begin in (0, 5):
        dataset = TeacherDataset(tiny_shards, order, micro_tokens=200, epochs=2)
        if begin:
            dataset.load_state_dict(whole[begin - 1].after)
        loader = DataLoader(dataset, batch_size=None, num_workers=n_workers)
        got = list(loader) if n_workers < 2 or not begin else list(islice(loader, 4))
        assert len(got) > 3
        for one, other in zip(got, whole[begin:], strict=len(got) > 4):
            assert one.after == other.after and same_data(one.data, other.data)


@pytest.mark.parametrize(("world_size", "n_workers"), [(2, 2), (3, 1)])
def test_ranks_with_workers_each_give_the_updates_of_one_reader(tiny_shards, world_size, n_workers):
    order = ORDERS[1]
    whole = list(stream_of(tiny_shards, order, epochs=1))
    loaders = [
        DataLoader(
            TeacherDataset(tiny_shards, order, rank=rank, world_size=world_size), batch_size=None, num_workers=n_workers
        )
        for rank in range(world_size)
    ]
    for update, *parts in zip(whole, *loaders, strict=True):
        assert sorted(k for part in parts for k in keys(part.data)) == sorted(keys(update.data))
        assert all(part.after == update.after for part in parts)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_draft_says_of_each_sample_what_its_row_says(tiny_shards, rank):
    order = Order(batch_tokens=300, curriculum="depth", unlock_epochs=1.0, weight_by="n_supervised_act", block_rows=5)
    rows = {row["key"]: row for row in scan_index(tiny_shards).collect().to_dicts()}
    stream = SampleStream(SampleFolder(tiny_shards), order, lambda draft: draft, rank=rank, world_size=2, epochs=1)
    blocks = takewhile(lambda block: block.at.epoch == 0, stream.blocks(Position()))
    limits = [limit for block in blocks for limit in block.limits]
    drafts = [update.data for update in stream]
    assert [draft.limit for draft in drafts] == limits and len(set(limits)) > 2
    for draft in drafts:
        found = [rows[key] for key, _ in draft.samples]
        assert draft.n_tokens == [row["n_tokens"] for row in found]
        assert draft.weights == [row["n_supervised_act"] for row in found]


def test_a_dataset_without_workers_knows_where_it_stands(tiny_shards):
    dataset = TeacherDataset(tiny_shards, ORDERS[0])
    updates = list(islice(iter(dataset), 4))
    assert dataset.state_dict() == updates[-1].after
    assert all(len(update.data) == 1 for update in updates), "an update is one batch unless it is cut"


def test_locked_steps_carry_no_loss_and_the_rest_all(tiny_shards):
    order = Order(batch_tokens=200, curriculum="depth", unlock_epochs=1.0)
    arrays = {key: decode_teacher_sample(data) for key, data in iter_samples(tiny_shards)}
    n_locked = 0
    for epoch in (1, 2):
        for update in stream_of(tiny_shards, order, epochs=epoch):
            for batch in update.data:
                for row, key in enumerate(batch.keys):
                    at = arrays[key]["positions"]
                    learnt = batch.position_N[batch.window_N == row].numpy() + 1
                    left_out = np.setdiff1d(at, learnt)
                    steps = arrays[key]["steps"]
                    assert not len(left_out) or not len(learnt) or steps[left_out].min() > steps[learnt].max()
                    n_locked += len(left_out)
                    if update.epoch == 1:
                        assert not len(left_out)
    assert n_locked > 50


@pytest.mark.parametrize("change", [{"seed": 5}, {"batch_tokens": 301}, {"curriculum": "depth"}, {"block_rows": 7}])
def test_a_state_of_another_order_is_refused(tiny_shards, change):
    state = stream_of(tiny_shards, ORDERS[0]).state_dict()
    with pytest.raises(ConfigError, match="over other shards, or in another order"):
        stream_of(tiny_shards, msgspec.structs.replace(ORDERS[0], **change)).load_state_dict(state)
    with pytest.raises(ConfigError, match="not a stream's state"):
        stream_of(tiny_shards, ORDERS[0]).load_state_dict({**state, "epoch": "first"})


def test_a_rank_that_is_none_is_refused(tiny_shards):
    with pytest.raises(ConfigError, match="rank 2 of 2"):
        stream_of(tiny_shards, ORDERS[0], rank=2, world_size=2)


def test_a_split_gives_its_samples_in_order_and_counts_them(tiny_shards):
    index = scan_index(tiny_shards).collect()
    for name in ("train", "holdout", "absent"):
        split = Split(SampleFolder(tiny_shards), name, Collate(micro_tokens=1))
        rows = index.filter(pl.col("split") == name)
        assert len(split) == len(rows) and split.n_tokens == rows["n_tokens"].sum()
        assert sorted(keys(list(split.batches(torch.device("cpu"))))) == sorted(rows["key"])


def test_ids_beyond_the_students_head_are_refused(tiny_shards):
    make = Collate(micro_tokens=1, vocab_size=100)
    with pytest.raises(ModelError, match=r"the teacher's ids reach \d+, and the student's head has 100"):
        list(SampleStream(SampleFolder(tiny_shards), ORDERS[0], make, epochs=1))


def test_damage_is_raised_where_the_update_would_have_come(tiny_shards, tmp_path):
    whole = list(stream_of(tiny_shards, ORDERS[0], epochs=1))
    key = keys(whole[4].data)[0]
    shutil.copytree(tiny_shards, tmp_path / "copy")
    row = scan_index(tiny_shards).filter(pl.col("key") == key).collect().row(0, named=True)
    tar = bytearray((tmp_path / "copy" / row["shard"]).read_bytes())
    tar[row["offset"] + 700] ^= 1
    (tmp_path / "copy" / row["shard"]).write_bytes(tar)
    good = []
    with pytest.raises(ShardError, match=rf"{row['shard']} at byte {row['offset']}: sample {key} is not what"):
        for update in stream_of(tmp_path / "copy", ORDERS[0]):
            good.append(update)
    assert len(good) == 4 and all(same_data(a.data, b.data) for a, b in zip(good, whole, strict=False))


def test_a_stream_survives_being_copied_and_sent_to_a_worker(tiny_shards):
    stream = stream_of(tiny_shards, ORDERS[1])
    updates = list(islice(stream, 3))
    again = copy.deepcopy(stream)
    assert again.state_dict() == updates[-1].after
    assert same_data(next(iter(again)).data, next(iter(stream)).data)


PAGE = (Path(__file__).parent.parent / "docs" / "stream.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("snippet", re.findall(r"```python\n(.*?)```", PAGE, re.S), ids=["loop", "bytes", "webdataset"])
def test_the_pages_examples_run_as_they_stand(tiny_shards, tmp_path, monkeypatch, capsys, snippet):
    (tmp_path / "teacher").symlink_to(tiny_shards)
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    printed = capsys.readouterr().out
    index = scan_index(tiny_shards).collect()
    if "__key__" in snippet:
        assert sorted(line.split()[0] for line in printed.splitlines()) == sorted(index["key"])
    else:
        assert len(printed.splitlines()) > 4
