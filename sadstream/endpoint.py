"""An OpenAI-compatible server: requests with a key from the environment, retried while there is hope."""

import http.client
import json
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple

from sadstream.errors import EndpointError

KEY_VARIABLE = "OPENAI_API_KEY"
# What passes by itself: too many requests, a server that restarts or is overloaded.
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504}
_SHOWN = 200


class Endpoint(NamedTuple):
    """Where a model is served.

    Attributes:
        url: up to and with `/v1`.
        timeout: seconds that one answer may take.
        tries: how often a request is made before it is given up.
        wait: seconds before the second try; twice as long before each further one, at most a minute.
    """

    url: str
    timeout: float = 300.0
    tries: int = 6
    wait: float = 1.0


def served_model(endpoint: Endpoint, wanted: str = "") -> str:
    """The name under which a server serves a model: the wanted one, or the only one.

    Raises:
        EndpointError: no server there, or it serves others; they are named.
    """
    answer = request(endpoint, "/models", None)
    try:
        names = [str(model["id"]) for model in answer["data"]]
    except (KeyError, TypeError) as error:
        raise EndpointError(f"{endpoint.url}/models: no list of models in the answer: {_shown(answer)}") from error
    if wanted in names:
        return wanted
    if len(names) == 1 and not wanted:
        return names[0]
    raise EndpointError(
        f"{endpoint.url}: serves {', '.join(names) or 'no model'}" + (f", not {wanted}" if wanted else ""),
        hint="name one of them",
    )


def served_length(endpoint: Endpoint, name: str) -> int | None:
    """How many tokens a server's model takes and writes at most; None where the server does not say (vLLM's does)."""
    found = next(model for model in request(endpoint, "/models", None)["data"] if model["id"] == name)
    length = found.get("max_model_len")
    return length if isinstance(length, int) else None


def request(
    endpoint: Endpoint, path: str, payload: dict[str, Any] | None, *, sleep: Callable[[float], None] = time.sleep
) -> Any:
    """A server's JSON answer to a POST of `payload`, or to a GET where it is None.

    Raises:
        EndpointError: it refuses, answers no JSON, or does not answer though asked again and again.
    """
    url = endpoint.url.rstrip("/") + path
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(KEY_VARIABLE):
        headers["Authorization"] = f"Bearer {key}"
    body = None if payload is None else json.dumps(payload).encode()
    failure = ""
    for attempt in range(endpoint.tries):
        if attempt:
            # Spread, so that requests side by side do not come back together.
            sleep(min(60.0, endpoint.wait * 2 ** (attempt - 1)) * random.uniform(0.8, 1.2))
        try:
            asked = urllib.request.Request(url, body, headers)
            with urllib.request.urlopen(asked, timeout=endpoint.timeout) as answer:
                return _parsed(answer.read(), url)
        except urllib.error.HTTPError as error:
            said = _message(error.read())
            if error.code not in _PASSING:
                raise EndpointError(f"{url}: refused ({error.code}): {said}", hint=_hint(error.code, said)) from error
            failure = f"{error.code}: {said}"
        except (OSError, http.client.HTTPException) as error:
            # Not there, timed out, or cut off in the middle of an answer.
            failure = str(getattr(error, "reason", error)) or type(error).__name__
        except ValueError as error:
            raise EndpointError(f"{url}: not an address: {error}", hint="such as http://localhost:8000/v1") from error
    raise EndpointError(
        f"{url}: no answer after {endpoint.tries} tries: {failure}",
        hint="is the server up? what was answered so far is kept: run the same command again",
    )


def _parsed(data: bytes, url: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise EndpointError(
            f"{url}: the answer is not JSON: {_shown(data.decode('utf-8', 'replace'))}",
            hint="is this an OpenAI-compatible server? its address ends in /v1",
        ) from error


def _message(data: bytes) -> str:
    try:
        said = json.loads(data)
        error = said.get("error", said) if isinstance(said, dict) else said
        return _shown(error.get("message", error) if isinstance(error, dict) else error)
    except ValueError:
        return _shown(data.decode("utf-8", "replace"))


def _shown(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."


def _hint(code: int, said: str) -> str:
    if code in (401, 403):
        return f"the key is read from the environment variable {KEY_VARIABLE}"
    if "logprobs" in said:
        return "a server caps how many logprobs it gives: a smaller --top-k, or `vllm serve --max-logprobs 64`"
    return "see the server's own log"
