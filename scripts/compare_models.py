"""A model's logprobs of fixed texts, by vLLM and by transformers.

Prints how far vLLM's are from transformers' in float32, next to how far transformers' own in bfloat16 are. Fails where
vLLM's are further off than twice that.

Run by scripts/real_vllm.sh on the model of a run and on the pruned student that it began as.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from sadstream import SegmentConfig, segment_logs
from sadstream.models import load_tokenizer
from sadstream.progress import silent
from sadstream.served_teachers import VllmTeacher
from sadstream.teachers import LocalTeacher, Teacher
from sadstream.windows import Job, Plan, plan_windows

LOGS = Path(__file__).parent.parent / "examples" / "logs" / "hotpotqa_fireact.json"
MAX_LENGTH = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--windows", type=int, default=4)
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.model)
    with tempfile.TemporaryDirectory() as folder:
        spans = Path(folder) / "spans"
        segment_logs(SegmentConfig(logs=(str(LOGS),), out=str(spans)), silent)
        plan = Plan(tokenizer, None, "text", MAX_LENGTH, "all", args.windows)
        jobs = list(plan_windows(spans, plan))
    named, top_k = len(tokenizer), 1

    def local(dtype: str) -> Teacher:
        options = {"top_p": 1.0, "n_draws": 0, "device": "cpu", "trust": False, "batch_tokens": 0, "packing": "off"}
        return LocalTeacher(args.model, n_named=named, top_k=top_k, dtype=dtype, **options)

    exact, rounded = logprobs(local("float32"), jobs), logprobs(local("bfloat16"), jobs)
    vllm = VllmTeacher(args.model, n_named=named, top_k=top_k, max_length=MAX_LENGTH, dtype="bfloat16", trust=False)
    off = {
        "transformers in bfloat16": np.abs(rounded - exact),
        f"{vllm.facts['backend']} in bfloat16": np.abs(logprobs(vllm, jobs) - exact),
    }
    print(f"{args.model}: {len(exact)} tokens' logprobs, off from those of transformers in float32 by (nats)")
    for name, values in off.items():
        print(f"  {name}: {values.mean():.4f} on average, {np.quantile(values, 0.99):.4f} at p99", flush=True)
    own, other = off.values()
    close = other.mean() <= 2 * own.mean() and np.quantile(other, 0.99) <= 2 * np.quantile(own, 0.99)
    if not close:
        print("  that is more than twice transformers' own error", flush=True)
    sys.exit(0 if close else 1)


def logprobs(teacher: Teacher, jobs: list[Job]) -> np.ndarray:
    """What a teacher gives to each token but the windows' first."""
    return np.concatenate([arrays.token_logprobs for arrays in teacher.ask(jobs)])


if __name__ == "__main__":
    main()
