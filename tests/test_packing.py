import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from sadstream.models import load_model
from sadstream.packing import fill_rows, pack_rows, packed_hidden_states, takes_packed_rows
from tests import tiny
from tests.test_models import KNOWN, SIZES

CPU = torch.device("cpu")
LENGTHS = (31, 3, 17, 1, 24, 9, 30)
# OPT and Falcon's slopes count from the row's beginning, GPT-OSS's sliding mask looks back across.
LOOKS_ACROSS = {
    "OPTConfig": KNOWN["OPTConfig"],
    "GptOssConfig": {**SIZES, "head_dim": 16, "sliding_window": 16, "num_local_experts": 4},
    "FalconConfig": {
        "vocab_size": 342,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "alibi": True,
    },
}


def make(name: str, options: dict, path, dtype=torch.float32):
    return load_model(tiny.save_model(getattr(transformers, name)(**options), path), CPU, dtype)


def sequences_of(lengths) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, 340, n) for n in lengths]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 60))
def test_rows_hold_each_sequence_once_within_their_room_and_no_two_would_fit_one(lengths, row_tokens):
    rows = fill_rows(lengths, row_tokens)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    filled = [sum(lengths[i] for i in row) for row in rows]
    assert all(n <= row_tokens or len(row) == 1 for n, row in zip(filled, rows, strict=True))
    assert all(a + b > row_tokens for k, a in enumerate(filled) for b in filled[:k])


@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.integers(0, 30))
def test_sequences_are_read_back_from_where_they_were_laid(lengths, row_tokens):
    sequences = [s + 1 for s in sequences_of(lengths)]
    packed = pack_rows(sequences, fill_rows(lengths, row_tokens))
    for sequence, row, start in zip(sequences, packed.row_N, packed.start_N, strict=True):
        assert np.array_equal(packed.input_ids_BT[row, start : start + len(sequence)], sequence)
        assert np.array_equal(packed.position_ids_BT[row, start : start + len(sequence)], np.arange(len(sequence)))
    assert (packed.input_ids_BT > 0).sum() == sum(lengths)  # and nothing besides
    assert not packed.position_ids_BT[packed.input_ids_BT == 0].any()


@pytest.mark.parametrize("name", [name for name in KNOWN if name != "OPTConfig"])
def test_a_sequence_in_a_row_is_told_the_same_as_alone_beyond_sliding_windows_too(name, tmp_path):
    model = make(name, KNOWN[name], tmp_path)
    assert takes_packed_rows(model)
    sequences = sequences_of(LENGTHS)
    packed = pack_rows(sequences, fill_rows(LENGTHS, 64))
    assert len(packed.input_ids_BT) < len(sequences)
    with torch.no_grad():
        states = packed_hidden_states(model, *map(torch.from_numpy, packed[:2]))
        for sequence, row, start in zip(sequences, packed.row_N, packed.start_N, strict=True):
            alone = model.base_model(input_ids=torch.from_numpy(sequence)[None], use_cache=False).last_hidden_state[0]
            torch.testing.assert_close(states[row, start : start + len(sequence)], alone, rtol=1e-4, atol=1e-4)


def test_a_model_in_half_the_digits_takes_packed_rows(tmp_path):
    assert takes_packed_rows(make("LlamaConfig", SIZES, tmp_path, torch.bfloat16))


@pytest.mark.parametrize("name", LOOKS_ACROSS)
def test_models_that_look_across_are_found_out(name, tmp_path):
    assert not takes_packed_rows(make(name, LOOKS_ACROSS[name], tmp_path))
    assert not takes_packed_rows(make(name, LOOKS_ACROSS[name], tmp_path, torch.bfloat16))


def test_a_model_whose_answer_would_not_show_it_is_not_packed(tmp_path):
    model = make("LlamaConfig", SIZES, tmp_path)
    for layer in model.base_model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
    assert not takes_packed_rows(model)
