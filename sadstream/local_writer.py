"""A checkpoint that writes: many episodes as one batch, what it has read of each kept from turn to turn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from sadstream.errors import ConfigError, ModelError
from sadstream.model_files import window_length
from sadstream.models import apply_head, load_model, load_tokenizer, pick_device, pick_dtype
from sadstream.policies import Answer, Prompt, decision_stop

# Rows whose unread parts are of similar length are read together, for which the shorter ones read again what they had
# read: at most so many tokens a row added. Without an accelerator each token costs, and a further pass hardly does.
_READ_AGAIN = {"cpu": 48}
_READ_AGAIN_ELSEWHERE = 1024
_CHOICES_AT_ONCE = 32
# A common beginning of so many tokens is read once and copied.
_WORTH_SHARING = 16

Ids = NDArray[np.int64]


class _Room(DynamicLayer):
    """Keys and values of a layer in room made once: appending copies only what is new."""

    def __init__(self, keys: Tensor | None, values: Tensor | None, n_tokens: int, n_room: int) -> None:
        super().__init__()
        self._n_tokens, self._n_room = n_tokens, n_room
        self._all_keys, self._all_values = keys, values
        if keys is not None and values is not None:
            self.dtype, self.device = keys.dtype, keys.device
            self.is_initialized = True
            self._show()

    def _show(self) -> None:
        assert self._all_keys is not None and self._all_values is not None
        self.keys = self._all_keys[:, :, : self._n_tokens]
        self.values = self._all_values[:, :, : self._n_tokens]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self._all_keys is None or self._all_values is None:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self._all_keys, self._all_values = (
                states.new_zeros(*states.shape[:2], self._n_room, states.shape[3])
                for states in (key_states, value_states)
            )
        start, self._n_tokens = self._n_tokens, self._n_tokens + key_states.shape[2]
        self._all_keys[:, :, start : self._n_tokens] = key_states
        self._all_values[:, :, start : self._n_tokens] = value_states
        self._show()
        return self.keys, self.values


class _Row(NamedTuple):
    """Where a model keeps what it has read of an episode: columns [start, start + len(ids)) of a row of a cache."""

    cache: Cache
    row: int
    start: int
    ids: Ids


class _Batch(NamedTuple):
    """Rows in one cache, each ending in its last column; row b begins in column `starts[b]`."""

    cache: Cache
    starts: list[int]
    n_columns: int


class LocalWriter:
    """A causal LM of transformers.

    Args:
        path: its folder. name: as reports print it.
        max_new_tokens: tokens an answer at most. context: tokens of prompt and answer at most; 0 is what it takes.
        temperature: 0 takes the likeliest token; else a token is drawn, by the seed of episode and turn.
    Raises:
        ModelError: it or its tokenizer cannot be loaded. ConfigError: limits that leave no room for a prompt.
    """

    can_choose = True

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        device: str = "auto",
        dtype: str = "auto",
        max_new_tokens: int = 128,
        context: int = 0,
        temperature: float = 0.0,
    ) -> None:
        where = pick_device(device)
        number_format = pick_dtype(dtype, where)
        self._tokenizer = load_tokenizer(path)
        self._model = load_model(path, where, number_format)
        limit = window_length(context, path)
        self._budget = limit - max_new_tokens
        if self._budget < 8:
            raise ConfigError(
                f"{max_new_tokens} tokens an answer of {limit} tokens of context leave no room for a prompt",
                hint="a smaller --max-new-tokens",
            )
        self._max_new_tokens = max_new_tokens
        self._temperature = temperature
        self._ends = _end_ids(self._model, self._tokenizer)
        self._rows: dict[int, _Row] = {}
        self.name = name
        self.facts = {"device": where.type, "dtype": str(number_format).removeprefix("torch."), "context": limit}

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, no special ones added."""
        return len(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    @torch.inference_mode()
    def write(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """An answer to each prompt, asked as one batch.

        In float32 the others in the batch change nothing but the last bits of a sum.
        """
        fitted = [self._fitted(prompt) for prompt in prompts]
        known = [self._best_row(prompt.seat, ids) for prompt, (ids, _) in zip(prompts, fitted, strict=True)]
        if prompts and prompts[0].choices is not None:
            return self._choose(prompts, fitted, known)
        known, n_shared = self._read_what_is_shared([ids for ids, _ in fitted], known)
        batch, logits_BV, n_read = self._read([ids for ids, _ in fitted], known)
        texts, n_written, cut_off = self._continue(prompts, [ids for ids, _ in fitted], batch, logits_BV)
        return [
            Answer(text, read + shared, n_tokens, n_dropped, cut)
            for text, read, shared, n_tokens, (_, n_dropped), cut in zip(
                texts, n_read, n_shared, n_written, fitted, cut_off, strict=True
            )
        ]

    def _fitted(self, prompt: Prompt) -> tuple[Ids, int]:
        """A prompt's tokens, without the oldest turns where there is no room, and how many those are.

        A quarter of the turns goes at a time, so that what follows can be kept for some turns.
        """
        n_dropped = prompt.n_dropped
        while True:
            ids = self._encoded(prompt.text(n_dropped), opens_line=not prompt.lead)
            if len(ids) <= self._budget:
                return ids, n_dropped
            n_left = len(prompt.turns) - n_dropped
            if not n_left:
                return ids[-self._budget :], n_dropped
            n_dropped += max(1, n_left // 4)

    def _encoded(self, text: str, *, opens_line: bool) -> Ids:
        """Tokens of a text as they stand in the whole transcript.

        Args:
            opens_line: whether a label is to follow at once; with one behind it, blank lines are cut into tokens as in
                training.
        """
        encoded = self._tokenizer(
            text + "T" if opens_line else text,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            verbose=False,
        )
        ids = np.array(encoded["input_ids"], np.int64)
        stops = np.array(encoded["offset_mapping"], np.int64)[:, 1]
        special = np.array(encoded["special_tokens_mask"], bool)
        # Special tokens before the text stay, as in training; one after it would end it.
        first = int(np.argmin(special)) if not special.all() else len(ids)
        keep = (np.arange(len(ids)) < first) | (~special & (stops <= len(text)))
        if opens_line and (not keep.any() or stops[keep].max(initial=0) < len(text)):
            return self._encoded(text, opens_line=False)
        return ids[keep]

    def _best_row(self, seat: int, ids: Ids) -> tuple[_Row | None, int]:
        """The row that knows most of a prompt (its own, or another with the same examples), and how many tokens.

        The last token is always read anew: what follows it is asked for.
        """
        best, most = None, 0
        candidates = [self._rows[seat]] if seat in self._rows else list(self._rows.values())
        for row in candidates:
            n = min(_n_same(row.ids, ids), len(ids) - 1)
            if n > most:
                best, most = row, n
        return best, most

    def _read_what_is_shared(
        self, prompts: list[Ids], known: list[tuple[_Row | None, int]]
    ) -> tuple[list[tuple[_Row | None, int]], list[int]]:
        """Read each beginning that several prompts have in common (examples, then a room) once.

        Returns:
            `known` with that, and how many tokens were read for it, counted on one of those that share it.
        """
        known = list(known)
        n_read = [0] * len(prompts)
        # From the beginning that most share to those that fewer do.
        while families := _families(prompts, [n for _, n in known]):
            heads = [prompts[members[0]][:common] for members, common in families]
            batch, _, n_head_read = self._read(heads, [known[members[0]] for members, _ in families])
            for place, (members, common) in enumerate(families):
                n_read[members[0]] += n_head_read[place]
                for n in members:
                    known[n] = (_Row(batch.cache, place, batch.starts[place], heads[place]), common)
        return known, n_read

    def _read(self, prompts: list[Ids], known: list[tuple[_Row | None, int]]) -> tuple[_Batch, Tensor, list[int]]:
        """All prompts in one cache, and the logits [B, V] of what follows each."""
        lengths = [len(ids) for ids in prompts]
        unread = [length - n for length, (_, n) in zip(lengths, known, strict=True)]
        again = _READ_AGAIN.get(self._model.device.type, _READ_AGAIN_ELSEWHERE)
        groups: list[list[int]] = []
        for number in sorted(range(len(prompts)), key=lambda n: unread[n]):
            if groups and (unread[number] - unread[groups[-1][-1]]) * len(groups[-1]) <= again:
                groups[-1].append(number)
            else:
                groups.append([number])
        for group in groups:
            group.sort()  # so that a single group has the prompts' own order
        rows: list[_Row | None] = [None] * len(prompts)
        logits: list[Tensor | None] = [None] * len(prompts)
        n_read = [0] * len(prompts)
        batch = None
        room = self._max_new_tokens + 1
        for group in groups:
            n_new = max(unread[n] for n in group)
            kept = [(known[n][0], max(0, lengths[n] - n_new)) for n in group]
            batch = self._gathered(kept, n_new + (room if len(groups) == 1 else 0))
            n_columns = batch.n_columns + n_new
            starts = [n_columns - lengths[n] for n in group]
            input_ids = np.zeros((len(group), n_new), np.int64)
            for place, (n, (_, n_kept)) in enumerate(zip(group, kept, strict=True)):
                tail = prompts[n][n_kept:]
                input_ids[place, n_new - len(tail) :] = tail
                n_read[n] = len(tail)
            logits_BV = self._forward(input_ids, batch.cache, starts, n_columns)
            batch = _Batch(batch.cache, starts, n_columns)
            for place, n in enumerate(group):
                rows[n] = _Row(batch.cache, place, starts[place], prompts[n])
                logits[n] = logits_BV[place]
        if len(groups) > 1:
            batch = self._gathered([(row, len(ids)) for row, ids in zip(rows, prompts, strict=True)], room)
        assert batch is not None
        return batch, torch.stack([one for one in logits if one is not None]), n_read

    def _gathered(self, rows: Sequence[tuple[_Row | None, int]], n_more: int) -> _Batch:
        """A cache of the first tokens of each row, ending together, with room for `n_more` columns."""
        n_columns = max(n for _, n in rows)
        source = next((row for row, n in rows if row is not None and n), None)
        layers = []
        n_layers = self._model.config.get_text_config().num_hidden_layers
        for number in range(n_layers):
            if source is None:
                layers.append(_Room(None, None, 0, n_columns + n_more))
                continue
            like = source.cache.layers[number]
            both = []
            for name in ("keys", "values"):
                example = getattr(like, name)
                room = example.new_zeros(len(rows), example.shape[1], n_columns + n_more, example.shape[3])
                for place, (row, n) in enumerate(rows):
                    if row is not None and n:
                        states = getattr(row.cache.layers[number], name)
                        room[place, :, n_columns - n : n_columns] = states[row.row, :, row.start : row.start + n]
                both.append(room)
            layers.append(_Room(both[0], both[1], n_columns, n_columns + n_more))
        return _Batch(Cache(layers=layers), [n_columns - n for _, n in rows], n_columns)

    def _hidden(self, input_ids: NDArray[np.int64], cache: Cache, starts: list[int], n_columns: int) -> Tensor:
        device = self._model.device
        n_new = input_ids.shape[1]
        columns = torch.arange(n_columns, device=device)
        begins = torch.tensor(starts, device=device)[:, None]
        mask = (columns >= begins).long() if any(starts) else None
        positions = (columns[n_columns - n_new :] - begins).clamp(min=0)
        output = self._model.base_model(
            input_ids=torch.from_numpy(input_ids).to(device),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        states: Tensor = output.last_hidden_state
        return states

    def _forward(self, input_ids: NDArray[np.int64], cache: Cache, starts: list[int], n_columns: int) -> Tensor:
        """Logits [B, V], float32, of what follows the last of some tokens, which end in column `n_columns`."""
        try:
            hidden_BTH = self._hidden(input_ids, cache, starts, n_columns)
        except (TypeError, AttributeError, IndexError) as error:
            raise ModelError(
                f"{self.name}: {type(self._model).__name__} does not take a cache of keys and values: {error}",
                hint="a decoder with plain attention is wanted; or serve it and give --endpoint",
            ) from error
        return apply_head(self._model, hidden_BTH[:, -1]).float()

    def _continue(
        self, prompts: Sequence[Prompt], read: list[Ids], batch: _Batch, logits_BV: Tensor
    ) -> tuple[list[str], list[int], list[bool]]:
        """Write token by token until each answer ends; what was read and written is kept for the next turn."""
        n_prompts = len(prompts)
        written: list[list[int]] = [[] for _ in prompts]
        texts, cut_off = [""] * n_prompts, [False] * n_prompts
        chances = [np.random.default_rng(prompt.seed) for prompt in prompts] if self._temperature else []
        active = list(range(n_prompts))  # prompt of each row of the batch
        over: set[int] = set()
        self._rows = {}
        cache, starts, n_columns = batch
        while True:
            tokens = self._picked(logits_BV, [chances[n] for n in active] if chances else [])
            for n, token in zip(active, tokens, strict=True):
                if n in over:
                    continue
                written[n].append(token)
                text = self._tokenizer.decode(written[n], skip_special_tokens=True)
                stop = decision_stop(prompts[n].style, text)
                is_last = len(written[n]) >= self._max_new_tokens
                if stop is not None or token in self._ends or is_last:
                    texts[n] = text if stop is None else text[:stop]
                    cut_off[n] = stop is None and token not in self._ends
                    over.add(n)
            self._keep(prompts, read, written, active, cache, starts, n_columns)
            if len(over) == n_prompts:
                return texts, [len(tokens) for tokens in written], cut_off
            left = [place for place, n in enumerate(active) if n not in over]
            if len(left) <= len(active) // 2:
                # Half of the rows are done: go on with the others alone.
                kept = [_Row(cache, place, starts[place], read[active[place]]) for place in left]
                batch = self._gathered([(row, n_columns - row.start) for row in kept], self._max_new_tokens + 1)
                cache, starts, n_columns = batch
                active, tokens = [active[place] for place in left], [tokens[place] for place in left]
            n_columns += 1
            logits_BV = self._forward(np.array(tokens, np.int64)[:, None], cache, starts, n_columns)

    def _choose(
        self, prompts: Sequence[Prompt], fitted: list[tuple[Ids, int]], known: list[tuple[_Row | None, int]]
    ) -> list[Answer]:
        """Of each prompt's choices the one with the highest probability, the line break after it included."""
        candidates: list[tuple[int, str, Ids]] = []
        for number, (prompt, (ids, n_dropped)) in enumerate(zip(prompts, fitted, strict=True)):
            for choice in prompt.choices or ():
                whole = self._encoded(prompt.text(n_dropped) + choice + "\n", opens_line=True)[-self._budget :]
                n_same = next((n for n, (a, b) in enumerate(zip(ids, whole, strict=False)) if a != b), len(ids))
                candidates.append((number, choice, whole[min(n_same, len(whole) - 1) :]))
        scores: list[float] = []
        for begin in range(0, len(candidates), _CHOICES_AT_ONCE):
            part = candidates[begin : begin + _CHOICES_AT_ONCE]
            scores += self._scored([(fitted[number][0], known[number], tail) for number, _, tail in part])
        answers = []
        for number, (_, n_dropped) in enumerate(fitted):
            own = [
                (score, place)
                for place, (score, (n, _, _)) in enumerate(zip(scores, candidates, strict=True))
                if n == number
            ]
            best = max(own, key=lambda pair: (pair[0], -pair[1]))[1]
            n_read = sum(len(candidates[place][2]) for _, place in own)
            answers.append(Answer(candidates[best][1], n_read, 0, n_dropped, False))
        return answers

    def _scored(self, rows: list[tuple[Ids, tuple[_Row | None, int], Ids]]) -> list[float]:
        """Log-probability (nats) of the tokens that follow each of some prompts."""
        whole = [np.concatenate([ids, tail[:-1]]) for ids, _, tail in rows]
        known = [(row, min(n, len(ids) - 1)) for ids, (row, n), _ in rows]
        n_new = max(len(ids) - n for ids, (_, n) in zip(whole, known, strict=True))
        kept = [(row, max(0, len(ids) - n_new)) for ids, (row, _) in zip(whole, known, strict=True)]
        batch = self._gathered(kept, n_new)
        n_columns = batch.n_columns + n_new
        input_ids = np.zeros((len(rows), n_new), np.int64)
        for place, (ids, (_, n_kept)) in enumerate(zip(whole, kept, strict=True)):
            input_ids[place, n_new - (len(ids) - n_kept) :] = ids[n_kept:]
        hidden_BTH = self._hidden(input_ids, batch.cache, [n_columns - len(ids) for ids in whole], n_columns)
        scores = []
        for place, (_, _, tail) in enumerate(rows):
            logprobs_TV = apply_head(self._model, hidden_BTH[place, -len(tail) :]).float().log_softmax(-1)
            scores.append(float(logprobs_TV.gather(1, torch.from_numpy(tail)[:, None].to(logprobs_TV.device)).sum()))
        return scores

    def _keep(
        self,
        prompts: Sequence[Prompt],
        read: list[Ids],
        written: list[list[int]],
        active: list[int],
        cache: Cache,
        starts: list[int],
        n_columns: int,
    ) -> None:
        """Remember where each row stands; of rows that are done, what they had at their end."""
        for place, n in enumerate(active):
            # The last token that was picked has not been read yet.
            known = np.concatenate([read[n], np.array(written[n][:-1], np.int64)])
            self._rows[prompts[n].seat] = _Row(cache, place, starts[place], known)

    def _picked(self, logits_BV: Tensor, chances: Sequence[np.random.Generator]) -> list[int]:
        if not chances:
            return logits_BV.argmax(-1).tolist()
        shares_BV = (logits_BV.double() / self._temperature).softmax(-1).cumsum(-1)
        drawn = torch.tensor([chance.random() for chance in chances], dtype=torch.float64, device=shares_BV.device)
        # A sum that ends below 1 by rounding must not lead beyond the last token.
        picked = torch.searchsorted(shares_BV, (drawn * shares_BV[:, -1])[:, None], right=True)[:, 0]
        return picked.clamp(max=shares_BV.shape[1] - 1).tolist()


def _families(prompts: list[Ids], n_known: list[int]) -> list[tuple[list[int], int]]:
    """Prompts that begin alike for longer than is known of them: which, and for how many tokens."""
    fresh = [n for n, ids in enumerate(prompts) if len(ids) - n_known[n] > _WORTH_SHARING]
    families: list[tuple[list[int], int]] = []
    for number in sorted(fresh, key=lambda n: prompts[n].tolist()):
        if families:
            members, common = families[-1]
            common = min(common, _n_same(prompts[members[0]], prompts[number]), len(prompts[number]) - 1)
            if common - max(n_known[n] for n in (*members, number)) > _WORTH_SHARING:
                families[-1] = ([*members, number], common)
                continue
        families.append(([number], len(prompts[number]) - 1))
    return [(members, common) for members, common in families if len(members) > 1]


def _n_same(a: Ids, b: Ids) -> int:
    """How many tokens two texts have in common from their beginning."""
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n


def _end_ids(model: Any, tokenizer: Any) -> set[int]:
    ends = getattr(model.generation_config, "eos_token_id", None)
    ids = set(ends if isinstance(ends, list) else [ends])
    ids.add(tokenizer.eos_token_id)
    return {number for number in ids if number is not None}
