"""Nobody is asked: what the logs hold is the teacher's word. Imports no torch."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sadstream.codec import TeacherArrays
from sadstream.logged_tokens import (
    LoggedToken,
    Placed,
    byte_places,
    logged_tokens,
    place_tokens,
    vocabulary_bytes,
)
from sadstream.prompt_logprobs import tail_and_entropy
from sadstream.teacher_index import LOGGED, NO_LOGPROBS, OTHER_TEXT, OTHER_TOKENS, UNREADABLE
from sadstream.windows import Job, Tokenised

_BATCH_TOKENS = 16_384
_KNOWN_TEXTS = 256


class LoggedLabels:
    """The distributions that logs hold of their own tokens; where they hold none, the logged token has all the mass.

    Forward KL to such a hard label is the cross-entropy of what was logged, so `sad` then trains the paper's hard-label
    form.

    Args:
        tokenizer: a fast one. n_named: ids from here on are never named. top_k: ids a token at most.
    """

    def __init__(self, tokenizer: Any, *, n_named: int, top_k: int) -> None:
        self.facts: dict[str, Any] = {}
        self.batch_tokens, self.row_tokens = _BATCH_TOKENS, 0
        self.batches = "not at all: the logs' own tokens and logprobs are the labels"
        self._vocabulary = vocabulary_bytes(tokenizer)
        self._ids: dict[bytes, int] = {}
        for number, data in enumerate(self._vocabulary[:n_named]):
            # Of ids with the same bytes the first is the one that a tokenizer writes.
            self._ids.setdefault(data, number)
        self._n_named, self._top_k = n_named, top_k
        # By the text's identity; windows of one are asked about in any order within a shard.
        self._known: dict[int, tuple[Tokenised, dict[int, LoggedToken], NDArray[np.uint8]]] = {}

    def ask(self, jobs: Sequence[Job]) -> list[TeacherArrays]:
        """The labels of some windows, in their order."""
        return [self._labels(job) for job in jobs]

    def _labels(self, job: Job) -> TeacherArrays:
        positions = np.flatnonzero(job.window.supervised)
        told, sources = self._of_text(job)
        tokens, places = job.token_ids[positions], job.window.tokens[positions]
        rows = {
            number: self._row(int(tokens[number]), told[place])
            for number, place in enumerate(places.tolist())
            if place in told
        }
        width = max(map(len, rows.values()), default=1)
        # Hard labels first: all mass on the logged token. A row with fewer ids repeats its first without any mass.
        ids = np.repeat(tokens[:, None], width, axis=1)
        logprobs = np.full((len(tokens), width), -np.inf, np.float32)
        logprobs[:, 0] = 0
        log_tail = np.full(len(tokens), -np.inf, np.float32)
        entropy, token_logprobs = np.zeros(len(tokens), np.float32), np.zeros(len(tokens), np.float32)
        for number, row in rows.items():
            ids[number] = row[0][0]
            ids[number, : len(row)], logprobs[number, : len(row)] = zip(*row, strict=True)
            log_tail[number], entropy[number] = tail_and_entropy([value for _, value in row])
            token_logprobs[number] = told[int(places[number])].logprob
        return TeacherArrays(
            job.token_ids,
            job.kinds,
            job.steps,
            positions,
            ids,
            logprobs,
            log_tail,
            entropy,
            token_logprobs,
            sources[places],
        )

    def _row(self, token: int, told: LoggedToken) -> list[tuple[int, float]]:
        """Ids and logprobs of a token's row, falling; what the tokenizer has no id for is left to the tail."""
        own = self._vocabulary[token]
        likeliest = {token: told.logprob}
        for named, logprob in told.others:
            number = named if isinstance(named, int) else token if named == own else self._ids.get(named)
            if number is not None and number < self._n_named:
                likeliest.setdefault(number, logprob)
        # Equal logprobs by id, so that the same log gives the same bytes.
        ranked = sorted(likeliest.items(), key=lambda pair: (-pair[1], pair[0]))[: self._top_k]
        return [pair for pair in ranked if np.exp(pair[1]) > 0] or ranked[:1]

    def _of_text(self, job: Job) -> tuple[dict[int, LoggedToken], NDArray[np.uint8]]:
        """Of each token of the whole text what the log tells of it, if anything, and where its row comes from."""
        known = self._known.get(id(job.tokenised))
        if known is None or known[0] is not job.tokenised:
            told, sources = tell(job.tokenised, logged_tokens(job.trajectory, self._vocabulary), self._vocabulary)
            if len(self._known) >= _KNOWN_TEXTS:
                self._known.clear()
            known = self._known[id(job.tokenised)] = (job.tokenised, told, sources)
        return known[1], known[2]


def tell(
    tokenised: Tokenised, tokens: Mapping[int, Sequence[LoggedToken]], vocabulary: Sequence[bytes]
) -> tuple[dict[int, LoggedToken], NDArray[np.uint8]]:
    """Which tokens of a text are logged ones, by the bytes where they stand, and of each token a source: uint8 [T]."""
    sources = np.full(len(tokenised.token_ids), NO_LOGPROBS, np.uint8)
    told: dict[int, LoggedToken] = {}
    if not tokens:
        return told, sources
    placed = place_tokens(tokenised.text, tokenised.written, tokens)
    at = {(one.start, one.stop): one.token for one in placed}
    known = _covered(placed)
    starts = byte_places(tokenised.text)
    begins, ends = _bytes_of_tokens(tokenised, vocabulary, starts)
    # Pieces are in order and apart: where a token begins tells which of them it can be in.
    pieces = [piece for piece in tokenised.written if piece.message in tokens]
    piece_starts = [starts[piece.start] for piece in pieces]
    for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if (begin, end) in at:
            told[number] = at[begin, end]
            sources[number] = LOGGED
        elif not known.isdisjoint(range(begin, end)):
            sources[number] = OTHER_TOKENS
        else:
            of = bisect_right(piece_starts, begin) - 1
            if of >= 0 and begin < starts[pieces[of].stop]:
                sources[number] = OTHER_TEXT if tokens[pieces[of].message] else UNREADABLE
    return told, sources


def _covered(placed: Sequence[Placed]) -> set[int]:
    return {at for one in placed for at in range(one.start, one.stop)}


def _bytes_of_tokens(
    tokenised: Tokenised, vocabulary: Sequence[bytes], starts: Sequence[int]
) -> tuple[list[int], list[int]]:
    """From where to where in the text's UTF-8 each token stands: by its bytes, since several may share a code point.

    Args:
        starts: of the text's code points, in bytes.
    """
    data = tokenised.text.encode("utf-8", "surrogatepass")
    begins, ends, before = [], [], 0
    for number, (first, last) in zip(tokenised.token_ids.tolist(), tokenised.offsets.tolist(), strict=True):
        own = vocabulary[number] if number < len(vocabulary) else b""
        # Offsets may leave out a leading blank; a token that does not go on where the last one ended stands by them.
        goes_on = own and data.startswith(own, before)
        begins.append(before if goes_on else starts[first])
        ends.append(before + len(own) if goes_on else starts[last])
        before = ends[-1]
    return begins, ends
