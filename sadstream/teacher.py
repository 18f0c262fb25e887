"""The second stage: ask the teacher, once, about every token that will be supervised.

Imports no torch until there is something to ask, so a finished folder is recognised at once.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from sadstream.cache_config import (
    CacheConfig,
    check_options,
    decisive_options,
    make_teacher,
    n_draws,
    plan_jobs,
    read_tokenizer,
)
from sadstream.errors import ConfigError, ManifestError
from sadstream.manifest import (
    MANIFEST,
    StageFolder,
    config_hash,
    folder_written_atomically,
    index_name,
    load_manifest,
    read_manifest,
)
from sadstream.model_files import resolve_model
from sadstream.progress import Progress
from sadstream.score import KINDS
from sadstream.shards import Sample, scan_index, write_shard
from sadstream.teacher_index import (
    LOGS_INDEX,
    TEACHER_INDEX,
    asked_windows,
    first_of,
    logprobs_digest,
    teacher_sample,
    teacher_totals,
    tokens_in,
    window_key,
)
from sadstream.teachers import Teacher, batches_of
from sadstream.windows import Job
from sadstream_schemas import InputFile, Manifest, Shard, Trajectory

__all__ = ["CacheConfig", "cache_teacher", "plan_cache"]

# An interrupted run loses at most one shard: some minutes of a CPU, seconds of a GPU.
_SHARD_TOKENS = 32_768
# Windows that a plan asks the teacher about, to know how long all will take.
_TIMED_WINDOWS = 3


class Question(NamedTuple):
    """A window to ask about, with its key and how many samples have that key before it."""

    job: Job
    key: str
    occurrence: int


def cache_teacher(config: CacheConfig, progress: Progress) -> dict[str, Any]:
    """Ask the teacher about the supervised tokens of span shards, and write teacher shards.

    A window that was asked about is never asked again: not of a finished shard, and not where the span folder grew or
    was made again in another order. A finished folder is left as it is.

    Returns:
        The summary: keys as `sadstream cache-teacher --json` prints them.
    Raises:
        SadstreamError: folder, teacher or options are not as they should be.
    """
    begin = time.monotonic()
    spans, out = Path(config.spans), Path(config.out)
    manifest = read_manifest(spans, "segment")
    check_options(config)
    teacher_path = resolve_model(config.teacher, lambda note: progress(0, None, "tokens", note))
    decisive = decisive_options(config, teacher_path)
    inputs, options = _span_shards(spans, manifest), config_hash(decisive)

    def check_none_is_gone(shards: list[Shard]) -> None:
        jobs = plan_jobs(config, read_tokenizer(teacher_path), decisive["max_length"])
        _check_none_is_gone(out, shards, jobs, _key_of(config, options), progress)

    finished = _finished(out, options)
    if finished is not None and finished.inputs != inputs:
        # Before the folder is opened: it stays finished if it cannot be extended.
        check_none_is_gone(finished.shards)
    folder = StageFolder(out, "cache-teacher", decisive, inputs, may_grow="by-key")
    if folder.done is not None:
        return {**folder.done.totals, "out": config.out, "already_done": True}
    if folder.extends.get("was_unfinished"):
        check_none_is_gone(folder.shards)

    progress(0, None, "tokens", "loading torch and the teacher")
    tokenizer = read_tokenizer(teacher_path)
    asked = asked_windows(out, folder.shards)
    teacher, n_named = make_teacher(config, teacher_path, tokenizer, decisive["max_length"]), len(tokenizer)
    folder.resolve(teacher.facts)
    if not (out / "tokenizer").is_dir():
        with folder_written_atomically(out / "tokenizer") as target:
            tokenizer.save_pretrained(target)
    index = LOGS_INDEX if config.backend == "logs" else TEACHER_INDEX
    n_chars = _n_chars(spans, manifest)
    n_done, n_asked = tokens_in(folder), 0
    tally: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    asking = time.monotonic()
    jobs = _tallied(plan_jobs(config, tokenizer, decisive["max_length"]), tally, refusals)
    for shard in _by_tokens(_unasked(jobs, asked, _key_of(config, options))):
        # Windows are cut while they are asked: how many tokens come is told from characters.
        total = round(tally["tokens"] * max(1.0, n_chars / max(1, tally["chars"])))
        samples: dict[int, Sample] = {}
        lengths = [len(question.job.token_ids) for question in shard]
        for batch in batches_of(lengths, teacher.batch_tokens, teacher.row_tokens):
            answers = _samples(config, teacher, n_named, [shard[i] for i in batch])
            for place, sample in zip(batch, answers, strict=True):
                samples[place] = sample
                n_asked += sample.row["n_tokens"]
            progress(n_done + n_asked, total, "tokens", f"asking the teacher, shard {len(folder.shards)}")
        write_shard(folder, [samples[i] for i in range(len(shard))], index)
    if not folder.shards:
        raise ConfigError(f"{spans}: no supervised token in it", hint="`sadstream inspect` shows what it holds")
    seconds = time.monotonic() - asking
    # Its name and not where it lies: the same teacher elsewhere gives the same folder.
    name = Path(config.teacher).resolve().name if Path(config.teacher).exists() else config.teacher
    totals = {
        "teacher": "the logs" if config.backend == "logs" else name,
        **teacher_totals(folder),
        "n_refused_by_template": dict(sorted(refusals.items())),
    }
    folder.finish(totals, sorted(f"tokenizer/{p.name}" for p in (out / "tokenizer").iterdir()))
    return {
        **totals,
        "n_tokens_asked": n_asked,
        "batches": teacher.batches if n_asked else None,
        "tokens_per_second": round(n_asked / seconds, 1) if n_asked else None,
        "seconds": round(time.monotonic() - begin, 1),
        "out": config.out,
    }


def _samples(config: CacheConfig, teacher: Teacher, n_named: int, questions: list[Question]) -> list[Sample]:
    """The answers to some questions, asked together."""
    return [
        teacher_sample(
            question.job,
            arrays,
            teacher_key=question.key,
            occurrence=question.occurrence,
            vocab_size=n_named,
            n_draws=n_draws(config),
        )
        for question, arrays in zip(questions, teacher.ask([q.job for q in questions]), strict=True)
    ]


def plan_cache(config: CacheConfig, progress: Progress) -> dict[str, Any]:
    """What `cache_teacher` would do; a few windows are asked to time them, and nothing is written.

    Returns:
        Of what is not in the folder yet: `n_windows`, `n_tokens`, `n_supervised`, `n_bytes` (on disk, from those
        asked), `tokens_per_second` (of those asked), `hours`; and `max_length`; and of all runs
        `n_refused_by_template`.
    Raises:
        SadstreamError: as `cache_teacher`.
    """
    read_manifest(Path(config.spans), "segment")
    check_options(config)
    path = resolve_model(config.teacher, lambda note: progress(0, None, "windows", note))
    decisive, tokenizer = decisive_options(config, path), read_tokenizer(path)
    options = config_hash(decisive)
    n_windows = n_tokens = n_supervised = 0
    timed: list[Question] = []
    finished = _finished(Path(config.out), options)
    asked = asked_windows(Path(config.out), finished.shards if finished else [])
    refusals: Counter[str] = Counter()
    jobs = _tallied(plan_jobs(config, tokenizer, decisive["max_length"]), Counter(), refusals)
    for question in _unasked(jobs, asked, _key_of(config, options)):
        n_windows += 1
        n_tokens += len(question.job.token_ids)
        n_supervised += int(question.job.window.supervised.sum())
        # The first of the windows, one of whatever length comes in each doubling of their number.
        if n_windows & (n_windows - 1) == 0:
            timed = [*timed, question][-_TIMED_WINDOWS:]
        progress(n_windows, None, "windows", "counting")
    summary: dict[str, Any] = {
        "n_windows": n_windows,
        "n_tokens": n_tokens,
        "n_supervised": n_supervised,
        "n_bytes": 0,
        "max_length": decisive["max_length"],
        "n_refused_by_template": dict(sorted(refusals.items())),
        "tokens_per_second": None,
        "hours": 0.0,
    }
    if not timed:
        return summary
    progress(n_windows, n_windows, "windows", f"timing the teacher on {len(timed)} of them")
    teacher, n_named = make_teacher(config, path, tokenizer, decisive["max_length"]), len(tokenizer)
    _samples(config, teacher, n_named, timed[:1])  # the first call pays for what later ones find ready
    begin = time.monotonic()
    samples = [sample for question in timed for sample in _samples(config, teacher, n_named, [question])]
    seconds = time.monotonic() - begin
    rate = sum(sample.row["n_tokens"] for sample in samples) / seconds
    n_timed = sum(int(question.job.window.supervised.sum()) for question in timed)
    a_token = sum(sample.row["n_teacher_bytes"] for sample in samples) / n_timed
    beside = sum(len(sample.data) - sample.row["n_teacher_bytes"] for sample in samples)
    # Beside the teacher's values: tokens and kinds; a tar header and padding, and a row of the index.
    n_bytes = n_supervised * a_token + n_windows * (beside / len(samples) + 1200)
    return {
        **summary,
        "n_bytes": round(n_bytes),
        "tokens_per_second": round(rate, 1),
        "hours": round(n_tokens / rate / 3600, 3),
    }


def _span_shards(spans: Path, manifest: Manifest) -> list[InputFile]:
    """Tars and indexes, as their manifest has them: an index says on which side of the holdout a run stands."""
    files = []
    for shard in manifest.shards:
        index = index_name(shard.name)
        files.append(InputFile(path=shard.name, n_bytes=shard.n_bytes, sha256=shard.sha256))
        files.append(InputFile(path=index, n_bytes=_size(spans / index), sha256=shard.index_sha256))
    return files


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0  # reading it will say that it is missing


def _n_chars(spans: Path, manifest: Manifest) -> int:
    chars = pl.sum_horizontal(f"n_chars_{kind}" for kind in KINDS)
    return int(scan_index(spans).select(chars.sum()).collect().item()) if manifest.shards else 0


def _tallied(jobs: Iterator[Job], tally: Counter[str], refusals: Counter[str]) -> Iterator[Job]:
    """The jobs as they are, counted as they pass: tokens, and characters and refusals of their trajectories."""
    last = None
    for job in jobs:
        tally["tokens"] += len(job.token_ids)
        if job.trajectory.id != last:
            tally["chars"] += len(job.trajectory.text)
            refusals.update([job.refusal] if job.refusal else [])
        last = job.trajectory.id
        yield job


def _key_of(config: CacheConfig, options: str) -> Callable[[Job], str]:
    """The key of each window. What a log says of its tokens is hashed once a trajectory: it is many times the text."""
    if config.backend != "logs":
        return partial(window_key, options=options)
    last: Trajectory | None = None
    logprobs = b""

    def key_of(job: Job) -> str:
        nonlocal last, logprobs
        if job.trajectory is not last:
            last, logprobs = job.trajectory, logprobs_digest(job.trajectory)
        return window_key(job, options, logprobs=logprobs)

    return key_of


def _unasked(jobs: Iterator[Job], asked: Counter[str], key_of: Callable[[Job], str]) -> Iterator[Question]:
    """Those windows that are not among the ones asked, as many times as they are lacking."""
    met: Counter[str] = Counter()
    for job in jobs:
        key = key_of(job)
        met[key] += 1
        if met[key] > asked[key]:
            yield Question(job, key, met[key] - 1)


def _check_none_is_gone(
    out: Path, shards: list[Shard], jobs: Iterator[Job], key_of: Callable[[Job], str], progress: Progress
) -> None:
    """Refuse to extend a cache by spans that lack some of what it holds: it would train on what was taken out.

    Raises:
        ManifestError: names the first such trajectory.
    """
    left = asked_windows(out, shards)
    for number, job in enumerate(jobs):
        left[key_of(job)] -= 1
        progress(number, None, "windows", "comparing with what was asked")
    gone = +left
    if gone:
        first = first_of(out, shards, set(gone))
        raise ManifestError(
            f"{out}: {gone.total()} of its windows are not in the spans any more, or on the other side of "
            f"--holdout; the first is of {first}",
            hint="only what is added is asked for: choose another --out, or delete this folder",
        )


def _finished(out: Path, options: str) -> Manifest | None:
    """The manifest of a finished folder of the same teacher and options, if `out` is one."""
    if not (out / MANIFEST).exists():
        return None
    manifest = load_manifest(out)
    is_it = manifest.stage == "cache-teacher" and manifest.config_hash == options and manifest.complete
    return manifest if is_it else None


def _by_tokens(questions: Iterator[Question]) -> Iterator[list[Question]]:
    shard: list[Question] = []
    n_tokens = 0
    for question in questions:
        shard.append(question)
        n_tokens += len(question.job.token_ids)
        if n_tokens >= _SHARD_TOKENS:
            yield shard
            shard, n_tokens = [], 0
    if shard:
        yield shard
