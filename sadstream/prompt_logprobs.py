"""What servers and engines say about a prompt's tokens, as a teacher's answer."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from sadstream.codec import TeacherArrays
from sadstream.errors import ModelError
from sadstream.windows import Job


def teacher_arrays(job: Job, said: Sequence[Mapping[int, float] | None], top_k: int, n_named: int) -> TeacherArrays:
    """A teacher's answer from the logprobs that were given for each token of a prompt.

    The mass outside the top k is what is missing to 1, exact as far as the logprobs are. The entropy is that of the
    top k and the rest as one bucket, which is at most that of the full distribution.

    Args:
        said: a token each: ids and logprobs in nats, of the likeliest and of the token itself; None for the first.
        top_k: ids wanted a token.
        n_named: ids from here on are padding of the teacher's head: their mass is outside.
    Raises:
        ModelError: an answer that is none: too short, too few ids, not a logprob.
    """
    where = f"{job.trajectory.id}, window {job.number}"
    if len(said) != len(job.token_ids):
        raise ModelError(f"{where}: logprobs of {len(said)} tokens were given for {len(job.token_ids)}")
    positions = np.flatnonzero(job.window.supervised)
    ids = np.zeros((len(positions), top_k), np.int64)
    logprobs = np.full((len(positions), top_k), -np.inf, np.float32)
    log_tail, entropy, token_logprobs = (np.zeros(len(positions), np.float32) for _ in range(3))
    for row, position in enumerate(positions.tolist()):
        found = said[position] or {}
        token = int(job.token_ids[position])
        # Equal logprobs by id, so that the same answer in another order gives the same bytes.
        best = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:top_k]
        best = [pair for pair in best if pair[0] < n_named]
        if len(found) < top_k or token not in found or not best:
            raise ModelError(
                f"{where}: logprobs of {len(found)} ids at token {position}, and {top_k} were asked for",
                hint="a server caps how many it gives: a smaller --top-k, or `vllm serve --max-logprobs 64`",
            )
        if not all((math.isfinite(value) and value <= 1e-3) or value == -math.inf for _, value in best):
            raise ModelError(f"{where}: what the teacher says at token {position} are no logprobs: {best[:3]}")
        values = [min(value, 0.0) for _, value in best]
        # A row with fewer ids repeats its first without any mass.
        ids[row] = best[0][0]
        ids[row, : len(best)], logprobs[row, : len(best)] = [number for number, _ in best], values
        log_tail[row], entropy[row] = tail_and_entropy(values)
        token_logprobs[row] = min(0.0, found[token])
    return TeacherArrays(
        job.token_ids, job.kinds, job.steps, positions, ids, logprobs, log_tail, entropy, token_logprobs
    )


def tail_and_entropy(logprobs: Sequence[float]) -> tuple[float, float]:
    """Of some ids the log of what their mass lacks to 1, and the entropy of these and the rest as one, nats.

    >>> tail_and_entropy([0.0])
    (-inf, 0.0)
    """
    terms = [math.exp(value) for value in logprobs]
    tail = max(0.0, 1.0 - math.fsum(terms))
    log_tail = math.log(tail) if tail > 0 else -math.inf
    entropy = -math.fsum(p * value for p, value in zip([*terms, tail], [*logprobs, log_tail], strict=True) if p > 0)
    return log_tail, entropy + 0.0
