"""Teachers that others run: vLLM in this process, or an OpenAI-compatible server that gives prompt logprobs (vLLM's).

They give the top k and not the full distribution, so what is stored as entropy is that of top k and rest, which is at
most the true one. Imports no torch and no vLLM until a teacher is made.
"""

import atexit
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sadstream.codec import TeacherArrays
from sadstream.endpoint import Endpoint, request, served_length, served_model
from sadstream.errors import ConfigError, EndpointError, ModelError
from sadstream.prompt_logprobs import teacher_arrays
from sadstream.windows import Job

# They batch by themselves: enough to keep them busy, and little enough to show progress.
_SIDE_BY_SIDE = 65_536


class VllmTeacher:
    """A model in vLLM, offline, in this process.

    Args:
        path: the model's folder. n_named: ids from here on are never named. top_k: ids a token.
        max_length: tokens a window at most: one less than the model takes, for vLLM always writes one.
        batch_tokens: tokens handed over together; 0 is 65536.
        dtype: as vLLM names it; `auto` is the model's own on a GPU and bfloat16 on a CPU.
    Raises:
        ModelError: vLLM is not installed, or does not take the model.
    """

    def __init__(
        self, path: Path, *, n_named: int, top_k: int, max_length: int, dtype: str, trust: bool, batch_tokens: int = 0
    ) -> None:
        # Its lines would drown ours; what goes wrong is raised.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        try:
            import vllm
            from vllm.platforms import current_platform
        except ImportError as error:
            raise ModelError(
                f"--backend vllm: {error}", hint="pip install 'sadstream[vllm]' in an environment of its own"
            ) from error
        options: dict[str, Any] = {"dtype": dtype}
        if current_platform.is_cpu():
            # On a CPU it would take nearly all memory for its cache, which one pass over a prompt does not use.
            options = {"dtype": "bfloat16" if dtype == "auto" else dtype, "gpu_memory_utilization": 0.3}
            options["enforce_eager"] = True
        self._top_k, self._n_named = top_k, n_named
        try:
            self._model = vllm.LLM(
                str(path), max_model_len=max_length + 1, max_logprobs=top_k, trust_remote_code=trust, **options
            )
        except Exception as error:  # vLLM raises many kinds for what a model or a machine lacks
            reason = str(error).split("\n")[0]
            raise ModelError(
                f"{path}: vLLM cannot load it: {reason}", hint="VLLM_LOGGING_LEVEL=INFO says more"
            ) from error
        # Its processes outlive the caller's last line otherwise, and the interpreter waits for them.
        atexit.register(self._model.llm_engine.engine_core.shutdown)
        self._sampling = vllm.SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=top_k, detokenize=False)
        self.facts = {"backend": f"vllm {vllm.__version__}", "dtype": options["dtype"]}
        self.batch_tokens, self.row_tokens = batch_tokens or _SIDE_BY_SIDE, 0
        self.batches = "as vLLM batches them"

    def ask(self, jobs: Sequence[Job]) -> list[TeacherArrays]:
        """The teacher's answers to some windows, in their order."""
        prompts = [{"prompt_token_ids": job.token_ids.tolist()} for job in jobs]
        answers = self._model.generate(prompts, self._sampling, use_tqdm=False)
        return [
            teacher_arrays(job, [_values(token) for token in answer.prompt_logprobs], self._top_k, self._n_named)
            for job, answer in zip(jobs, answers, strict=True)
        ]


def _values(token: Mapping[int, Any] | None) -> dict[int, float] | None:
    return None if token is None else {number: float(found.logprob) for number, found in token.items()}


class ServedTeacher:
    """A model behind an OpenAI-compatible server that gives `prompt_logprobs`, as vLLM's does.

    Args:
        endpoint: the server. model: the name it serves the model under; "" is the only one there.
        n_named: ids from here on are never named. top_k: ids a token. max_length: tokens a window at most.
        concurrency: requests side by side. batch_tokens: tokens between two words of progress; 0 is 65536.
    Raises:
        EndpointError: no such server or model. ConfigError: it takes fewer tokens than a window has.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        model: str,
        n_named: int,
        top_k: int,
        max_length: int,
        concurrency: int,
        batch_tokens: int = 0,
    ) -> None:
        self._endpoint = endpoint
        self._top_k, self._n_named = top_k, n_named
        self._concurrency = concurrency
        self._model = served_model(endpoint, model)
        limit = served_length(endpoint, self._model)
        if limit is not None and max_length >= limit:
            raise ConfigError(
                f"{endpoint.url}: windows of {max_length} tokens, and the server takes {limit}, one of them written",
                hint=f"--max-length {limit - 1}, or a server with a larger --max-model-len",
            )
        self.facts = {"backend": "openai", "served_model": self._model}
        self.batch_tokens, self.row_tokens = batch_tokens or _SIDE_BY_SIDE, 0
        self.batches = f"{concurrency} requests side by side"

    def ask(self, jobs: Sequence[Job]) -> list[TeacherArrays]:
        """The teacher's answers to some windows, in their order."""
        with ThreadPoolExecutor(self._concurrency) as pool:
            return list(pool.map(self._ask_one, jobs))

    def _ask_one(self, job: Job) -> TeacherArrays:
        payload = {
            "model": self._model,
            "prompt": job.token_ids.tolist(),
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": self._top_k,
        }
        answer = request(self._endpoint, "/completions", payload)
        return teacher_arrays(job, self._read(answer), self._top_k, self._n_named)

    def _read(self, answer: Any) -> list[dict[int, float] | None]:
        try:
            said = answer["choices"][0]["prompt_logprobs"]
            if said is None:
                raise EndpointError(
                    f"{self._endpoint.url}: the server gives no prompt_logprobs",
                    hint="vLLM's server does; others need --backend transformers",
                )
            return [
                None if token is None else {int(number): float(found["logprob"]) for number, found in token.items()}
                for token in said
            ]
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise EndpointError(
                f"{self._endpoint.url}: an answer without prompt logprobs that can be read: {error!r}",
                hint="vLLM's server gives them; others need --backend transformers",
            ) from error
