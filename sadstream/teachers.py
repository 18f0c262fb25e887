"""What a teacher is that can be asked, and one of transformers in this process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from sadstream.codec import TeacherArrays
from sadstream.errors import ConfigError
from sadstream.windows import Job

Backend = Literal["transformers", "vllm", "openai"]


class Teacher(Protocol):
    """A teacher that is ready to be asked.

    Attributes:
        facts: what options such as `auto` came to mean; answers of teachers that differ in them are not mixed.
        batch_tokens: padded tokens that it takes side by side unless the user says otherwise.
    """

    facts: dict[str, Any]
    batch_tokens: int

    def ask(self, jobs: Sequence[Job]) -> list[TeacherArrays]:
        """Its answers to some windows, in their order."""
        ...


class LocalTeacher:
    """A model of transformers in this process.

    Args:
        n_named: ids from here on are no tokens of the tokenizer's and are never named.
        n_draws: if not 0, ids are drawn that many times a token.
    Raises:
        SadstreamError: no such device, or a model that cannot be loaded.
    """

    def __init__(
        self, path: Path, *, n_named: int, top_k: int, top_p: float, n_draws: int, device: str, dtype: str, trust: bool
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
        self.batch_tokens = 1 if place.type == "cpu" else 16_384

    def ask(self, jobs: Sequence[Job]) -> list[TeacherArrays]:
        from sadstream.ask import ask

        return ask(self._model, jobs, self._kept)
