"""One teacher asked three ways: transformers, vLLM in this process, and vLLM's server. Prints how far they agree.

Run by scripts/real_vllm.sh. Fails where top ids differ in more than a few tokens in a hundred, or logprobs by more than
bfloat16 explains. The teacher is made to take just one token more than a window, which is what vLLM needs.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sadstream import SegmentConfig, iter_samples, segment_logs
from sadstream.codec import decode_teacher_sample
from sadstream.model_files import resolve_model
from sadstream.progress import silent
from sadstream.teacher import CacheConfig, cache_teacher

LOGS = Path(__file__).parent.parent / "examples" / "logs" / "hotpotqa_fireact.json"
TOP_K = 32
MAX_LENGTH = 512
SERVER_SECONDS = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher", nargs="?", default="smollm2-135m")
    parser.add_argument("--windows", type=int, default=4)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = limited(resolve_model(args.teacher, say), Path(folder) / "limited")
        spans = Path(folder) / "spans"
        segment_logs(SegmentConfig(logs=(str(LOGS),), out=str(spans)), silent)

        def cached(name: str, **options: Any) -> list[dict[str, Any]]:
            out = Path(folder) / name
            config = CacheConfig(
                spans=str(spans),
                teacher=str(path),
                out=str(out),
                top_k=TOP_K,
                limit=args.windows,
                **options,
            )
            say(f"asking {name} ...")
            begin = time.monotonic()
            summary = cache_teacher(config, silent)
            say(f"{name}: {summary['n_tokens']} tokens in {time.monotonic() - begin:.0f} s, start-up included")
            return [decode_teacher_sample(data) for _, data in iter_samples(out)]

        here = {"max_length": MAX_LENGTH}
        exact = cached("transformers-float32", dtype="float32", **here)
        agreed = [compare("transformers, bfloat16", exact, cached("transformers-bfloat16", dtype="bfloat16", **here))]
        with serving(path) as url:
            agreed.append(compare("vLLM's server", exact, cached("served", backend="openai", endpoint=url)))
        agreed.append(compare("vLLM, offline", exact, cached("vllm", backend="vllm")))
    sys.exit(0 if all(agreed) else 1)


def limited(teacher: Path, path: Path) -> Path:
    """The same teacher, which says of itself that it takes MAX_LENGTH tokens and one more."""
    path.mkdir()
    for file in teacher.iterdir():
        (path / file.name).symlink_to(file.resolve())
    config = json.loads((teacher / "config.json").read_text())
    (path / "config.json").unlink()
    (path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": MAX_LENGTH + 1}))
    return path


def compare(name: str, exact: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    """Prints how far two caches agree. Returns whether that is within bfloat16's error."""
    names = ("topk_ids", "topk_logprobs", "tail_mass", "token_logprobs")
    ours, theirs = (
        {name: np.concatenate([sample[name] for sample in samples]) for name in names} for samples in (exact, other)
    )
    same_top = (ours["topk_ids"][:, 0] == theirs["topk_ids"][:, 0]).mean()
    shared = np.mean([len(set(a) & set(b)) / TOP_K for a, b in zip(ours["topk_ids"], theirs["topk_ids"], strict=True)])
    logged = np.abs(ours["token_logprobs"] - theirs["token_logprobs"])
    tail = np.abs(ours["tail_mass"] - theirs["tail_mass"])
    print(
        f"{name}: likeliest id the same at {same_top:.1%} of {len(logged)} tokens, {shared:.1%} of the top {TOP_K} "
        f"shared; logged token's logprob off by {logged.mean():.4f} nats on average, "
        f"{np.quantile(logged, 0.99):.4f} at p99; "
        f"tail mass by {tail.mean():.4f}",
        flush=True,
    )
    return bool(same_top > 0.95 and shared > 0.95 and logged.mean() < 0.05)


@contextlib.contextmanager
def serving(path: Path) -> Iterator[str]:
    """vLLM's server on loopback, while it is asked."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(path), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--dtype", "bfloat16", "--enforce-eager", "--gpu-memory-utilization", "0.3"]
    command += ["--max-model-len", str(MAX_LENGTH + 1), "--max-logprobs", str(TOP_K)]
    say("starting vLLM's server ...")
    with tempfile.NamedTemporaryFile("w+") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "VLLM_LOGGING_LEVEL": "WARNING"})
        url = f"http://127.0.0.1:{port}/v1"
        try:
            give_up = time.monotonic() + SERVER_SECONDS
            while not is_up(url):
                if server.poll() is not None or time.monotonic() > give_up:
                    sys.exit(f"vLLM's server did not start:\n{Path(log.name).read_text()[-2000:]}")
                time.sleep(1)
            yield url
        finally:
            server.terminate()
            server.wait()


def is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/models", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def say(note: str) -> None:
    print(note, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
