"""What a teacher is that can be asked, and one of transformers in this process."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from sadstream.codec import TeacherArrays
from sadstream.errors import ConfigError
from sadstream.packing import fill_rows, takes_packed_rows
from sadstream.windows import Job

Backend = Literal["transformers", "vllm", "openai", "logs"]
Packing = Literal["auto", "on", "off"]

# Attention is computed for the whole width of a row and masked, so wider rows cost more than their filling saves.
_ROW_TOKENS = 512
_GPU_TOKENS = 16_384


class Teacher(Protocol):
    """A teacher that is ready to be asked.

    Attributes:
        facts: what options such as `auto` came to mean; answers of teachers that differ in them are not mixed.
        batch_tokens: padded tokens that it takes side by side.
        row_tokens: windows share rows of so many tokens; 0: a row each.
        batches: the same in words.
    """

    facts: dict[str, Any]
    batch_tokens: int
    row_tokens: int
    batches: str

    def ask(self, jobs: Sequence[Job]) -> list[TeacherArrays]:
        """Its answers to some windows, in their order."""
        ...


def batches_of(lengths: Sequence[int], batch_tokens: int, row_tokens: int) -> Iterator[list[int]]:
    """Which windows are asked together: the shortest rows first, as many as are within `batch_tokens` when padded.

    A function of the lengths alone, so that a continued run asks as an undisturbed one.

    >>> list(batches_of([3, 9, 2, 5], 10, 0))
    [[0, 2], [3], [1]]
    >>> list(batches_of([3, 9, 2, 5], 10, 5))
    [[0, 2, 3], [1]]
    """
    rows = fill_rows(lengths, row_tokens)
    batch: list[list[int]] = []
    for n_tokens, _, row in sorted((sum(lengths[i] for i in row), row[0], row) for row in rows):
        if batch and (len(batch) + 1) * n_tokens > batch_tokens:
            yield sorted(i for row in batch for i in row)
            batch = []
        batch.append(row)
    if batch:
        yield sorted(i for row in batch for i in row)


class LocalTeacher:
    """A model of transformers in this process.

    Args:
        n_named: ids from here on are no tokens of the tokenizer's and are never named.
        n_draws: if not 0, ids are drawn that many times a token.
        batch_tokens: padded tokens side by side; 0: 16384 on a GPU, on a CPU one window at a time or one packed row.
        packing: whether windows share rows; `auto`: on a GPU. A model that does not take such rows gets them padded.
    Raises:
        SadstreamError: no such device, or a model that cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_named: int,
        top_k: int,
        top_p: float,
        n_draws: int,
        device: str,
        dtype: str,
        trust: bool,
        batch_tokens: int,
        packing: Packing,
    ) -> None:
        from sadstream.ask import Kept
        from sadstream.models import load_model, pick_device, pick_dtype

        place = pick_device(device)
        number = pick_dtype(dtype, place)
        self._model = load_model(path, place, number, trust_remote_code=trust)
        # Heads are padded beyond what their tokenizer knows, each to a size of its own.
        n_named = min(n_named, int(self._model.get_output_embeddings().weight.shape[0]))
        if top_k > n_named:
            raise ConfigError(f"--top-k {top_k}: the teacher's vocabulary has {n_named}", hint="32 is a good number")
        self._kept = Kept(top_k, n_named, top_p, n_draws)
        self.facts = {"device": place.type, "dtype": str(number).removeprefix("torch.")}
        on_cpu = place.type == "cpu"
        is_wanted = packing == "on" or (packing == "auto" and not on_cpu)
        takes = is_wanted and takes_packed_rows(self._model)
        self.batch_tokens = batch_tokens or (_GPU_TOKENS if not on_cpu else _ROW_TOKENS if takes else 1)
        self.row_tokens = min(_ROW_TOKENS, self.batch_tokens) if takes else 0
        if takes:
            self.batches = f"packed in rows of {self.row_tokens:,} tokens"
        else:
            self.batches = "one window at a time" if self.batch_tokens == 1 else "padded, sorted by length"
            self.batches += "; this model does not keep packed windows apart" if is_wanted else ""

    def ask(self, jobs: Sequence[Job]) -> list[TeacherArrays]:
        from sadstream.ask import ask

        return ask(self._model, jobs, self._kept, row_tokens=self.row_tokens)
