"""Several sequences in one row of a forward, each as if it stood alone.

transformers knows such rows by their position ids: where these do not rise by one, another sequence begins, and
attention does not look back across (`masking_utils.find_packed_sequence_indices`; sdpa, eager, flex and flash
attention). This holds without an attention mask and without a cache of keys. Models that make their masks otherwise,
or carry a state from token to token, do not heed it, so `takes_packed_rows` tries.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Lengths of the sequences that a model is tried with: two in a row, and one that leaves room beside it.
_TRIED = ((7, 5), (9,))


class PackedRows(NamedTuple):
    """Sequences side by side: B rows of T tokens, of N sequences.

    Attributes:
        input_ids_BT: int64; 0 where nothing stands.
        position_ids_BT: int64, from 0 in each sequence; 0 where nothing stands, so that padding looks at nothing.
        row_N, start_N: int64, where each sequence stands: in columns from `start_N` on of row `row_N`.
    """

    input_ids_BT: NDArray[np.int64]
    position_ids_BT: NDArray[np.int64]
    row_N: NDArray[np.int64]
    start_N: NDArray[np.int64]


def fill_rows(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Which sequences stand in which row: the longest first, each in the first row with room for it.

    A function of the lengths alone. No row is longer than `row_tokens`, but where one sequence is; 0 gives each
    sequence a row of its own, the longest first.

    >>> fill_rows([3, 9, 2, 5], 8)
    [[1], [3, 0], [2]]
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((r for r, left in enumerate(room) if lengths[index] <= left), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(row_tokens)
        rows[row].append(index)
        room[row] -= lengths[index]
    return rows


def pack_rows(sequences: Sequence[NDArray[np.int64]], rows: Sequence[Sequence[int]]) -> PackedRows:
    """Lay sequences of token ids out in rows.

    Args:
        rows: for each row the sequences that stand in it, as `fill_rows` gives them; each sequence once.
    """
    longest = max(sum(len(sequences[i]) for i in row) for row in rows)
    input_ids_BT, position_ids_BT = np.zeros((2, len(rows), longest), np.int64)
    row_N, start_N = np.zeros((2, len(sequences)), np.int64)
    for number, row in enumerate(rows):
        start = 0
        for index in row:
            stop = start + len(sequences[index])
            input_ids_BT[number, start:stop] = sequences[index]
            position_ids_BT[number, start:stop] = np.arange(stop - start)
            row_N[index], start_N[index] = number, start
            start = stop
    return PackedRows(input_ids_BT, position_ids_BT, row_N, start_N)


def packed_hidden_states(model: Any, input_ids_BT: Any, position_ids_BT: Any) -> Any:
    """Last hidden states before the head, [B, T, H], by a model that takes packed rows.

    Args:
        input_ids_BT, position_ids_BT: as `PackedRows` has them, as tensors on the model's device.
    """
    return model.base_model(input_ids=input_ids_BT, position_ids=position_ids_BT, use_cache=False).last_hidden_state


def takes_packed_rows(model: Any) -> bool:
    """Whether a causal LM of transformers says the same of sequences in one row as of each alone.

    Found by asking it about a few tokens: alone, packed, and, to see that looking across would show in what it says,
    without the positions. The model is in evaluation mode.
    """
    vocab_size = model.config.get_text_config().vocab_size
    lengths = [length for row in _TRIED for length in row]
    ids = np.arange(1, 1 + sum(lengths)) * 7919 % vocab_size
    sequences = np.split(ids, np.cumsum(lengths)[:-1])
    rows = pack_rows(sequences, [[0, 1], [2]])
    like = model.get_input_embeddings().weight.new_zeros(0).long()
    input_ids_BT, position_ids_BT = like.new_tensor(rows.input_ids_BT), like.new_tensor(rows.position_ids_BT)

    def states(input_ids_BT: Any) -> NDArray[np.float64]:
        return _array(model.base_model(input_ids=input_ids_BT, use_cache=False).last_hidden_state)

    try:
        alone_NH = np.concatenate([states(like.new_tensor(sequence[None]))[0] for sequence in sequences])
        packed_BTH = _array(packed_hidden_states(model, input_ids_BT, position_ids_BT))
        joined_BTH = states(input_ids_BT)
    except (AttributeError, TypeError, ValueError, RuntimeError):  # it takes no position ids, or not these
        return False

    def error(states_BTH: NDArray[np.float64]) -> float:
        """The largest distance of a token's state from what it is alone, as a share of its length."""
        places = zip(rows.row_N, rows.start_N, lengths, strict=True)
        states_NH = np.concatenate([states_BTH[row, start : start + n] for row, start, n in places])
        norm_N = np.linalg.norm(alone_NH, axis=1)
        return float((np.linalg.norm(states_NH - alone_NH, axis=1) / norm_N).max())

    tolerance = 1e-3 if str(model.dtype) == "torch.float32" else 0.1
    return error(packed_BTH) <= tolerance and 4 * error(packed_BTH) < error(joined_BTH)


def _array(tensor: Any) -> NDArray[np.float64]:
    array: NDArray[np.float64] = tensor.detach().double().cpu().numpy()
    return array
