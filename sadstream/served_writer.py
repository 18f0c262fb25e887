"""A model behind an OpenAI-compatible server that writes: vLLM, llama.cpp, `transformers serve`."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sadstream.endpoint import Endpoint, request, served_model
from sadstream.errors import EndpointError
from sadstream.policies import Answer, Prompt, decision_stop, stop_strings

# What servers say of a prompt that is longer than their model takes.
_TOO_LONG = ("context", "too long", "maximum", "max_model_len", "length")


class ServedWriter:
    """A served model, asked for one completion a turn.

    Args:
        endpoint: the server. model: the name it serves the model under; "" is the only one there.
        max_new_tokens: tokens an answer at most. temperature: 0 is greedy; else the seed of episode and turn is sent.
        concurrency: requests side by side.
    Raises:
        EndpointError: no such server or model.
    """

    can_choose = False

    def __init__(
        self, endpoint: Endpoint, model: str, *, max_new_tokens: int, temperature: float, concurrency: int
    ) -> None:
        self._endpoint = endpoint
        self._model = _found(endpoint, model)
        self._max_new_tokens = max_new_tokens
        self._temperature = temperature
        self._pool = ThreadPoolExecutor(concurrency)
        self.name = self._model.rstrip("/").rpartition("/")[2]
        self.facts: dict[str, Any] = {"served": True}

    def count_tokens(self, text: str) -> int | None:
        """Not known: the server keeps the tokenizer."""
        return None

    def write(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """An answer to each prompt, asked side by side.

        An answer that is no completion counts as one that says nothing. Sampled words are as repeatable as the server
        makes them.

        Raises:
            EndpointError: no answer at all though asked again and again; or it refuses.
        """
        return list(self._pool.map(self._write, prompts))

    def _write(self, prompt: Prompt) -> Answer:
        n_dropped = prompt.n_dropped
        while True:
            try:
                answer = request(self._endpoint, "/completions", self._payload(prompt, n_dropped))
            except EndpointError as error:
                n_left = len(prompt.turns) - n_dropped
                refused = "refused (400)" in str(error) or "refused (413)" in str(error)
                if not (refused and n_left and any(word in str(error).lower() for word in _TOO_LONG)):
                    raise
                n_dropped += max(1, n_left // 4)
                continue
            return _read(answer, prompt, n_dropped)

    def _payload(self, prompt: Prompt, n_dropped: int) -> dict[str, Any]:
        payload: dict[str, Any] = {
            "model": self._model,
            "prompt": prompt.text(n_dropped),
            "max_tokens": self._max_new_tokens,
            "temperature": self._temperature,
            "stop": stop_strings(prompt.style),
        }
        if self._temperature:
            payload["seed"] = (prompt.seed[0] * 1_000_003 + prompt.seed[1]) % 2**31
        return payload


def _found(endpoint: Endpoint, model: str) -> str:
    """The name to ask a server for; a server that loads what it is asked for need not list it.

    Raises:
        EndpointError: no such server, or it does not know the model.
    """
    try:
        return served_model(endpoint, model)
    except EndpointError as unlisted:
        if not model or "serves" not in str(unlisted):
            raise
        try:
            request(endpoint, "/completions", {"model": model, "prompt": "a", "max_tokens": 1})
        except EndpointError as refused:
            raise unlisted from refused
        return model


def _read(answer: Any, prompt: Prompt, n_dropped: int) -> Answer:
    """A completion as an answer; what is none says nothing, and counts as failed."""
    try:
        choice = answer["choices"][0]
        text = choice["text"]
        if not isinstance(text, str):
            raise TypeError
    except (KeyError, IndexError, TypeError):
        return Answer("", 0, 0, n_dropped, False, failed=True)
    usage = answer.get("usage")
    n_read, n_written = (_count(usage, name) for name in ("prompt_tokens", "completion_tokens"))
    # A server may not know of `stop`, or may leave the stop string in.
    stop = decision_stop(prompt.style, text)
    cut_off = stop is None and choice.get("finish_reason") == "length"
    return Answer(text if stop is None else text[:stop], n_read, n_written, n_dropped, cut_off)


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and value >= 0 else 0
