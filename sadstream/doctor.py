"""Is a teacher's cache whole, aligned, and what it says: checks that end in a verdict each.

Imports no torch unless the teacher itself is to be asked.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from sadstream.codec import alike_in_width, decode_teacher_sample
from sadstream.errors import ConfigError, ManifestError, ModelError, ShardError
from sadstream.manifest import read_manifest, verify
from sadstream.model_files import model_fingerprint, resolve_model, tokenizer_fingerprint
from sadstream.progress import Progress
from sadstream.shards import iter_shard, read_index
from sadstream.tokens import ACT, OBSERVATION, REASON
from sadstream_schemas import Manifest, Shard

# A stored number beside the codes is within 1/256 nat, a code within half a level of a cube root.
_LOGPROB_STEP = 1 / 256
# A healthy cache differs from its teacher by the codec, some 2e-5 nats, and by what another batch shape changes.
_LIVE_KL = 1e-4
_NOISE_FACTOR = 4
_SHORT_OF_TOKENS = 50
# A language model foretells the right token better than its neighbours by several nats.
_MARGIN = 0.25
# Memory does not grow with the cache: all samples are checked, and so many tokens counted.
_COUNTED_TOKENS = 200_000
_TRAIN_TOKENS = 20_000
_TRUNCATIONS = (1, 2, 4, 8, 16, 32, 64, 128)
_KINDS = {"context": 0, "reason": REASON, "act": ACT, "observation": OBSERVATION}

Arrays = dict[str, NDArray[Any]]


class Verdict(msgspec.Struct, frozen=True):
    """What one check found.

    Attributes:
        check: its name. ok: whether all is well. says: the finding, in words.
    """

    check: str
    ok: bool
    says: str


class DoctorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Options of `doctor`.

    Attributes:
        shards: folder of teacher shards.
        teacher: the model to ask again, as `model_files.resolve_model` takes it; empty: none is asked.
        windows: how many windows it is asked about.
        seed: which ones.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
    """

    shards: str
    teacher: str = ""
    windows: int = 8
    seed: int = 0
    device: str = "auto"


class Shift(NamedTuple):
    """How well the cache foretells the token that stands some places further than the one it is of.

    Attributes:
        nll: mean over tokens, nats. n_tokens: how many.
    """

    nll: float
    n_tokens: int


def doctor(config: DoctorConfig, progress: Progress) -> dict[str, Any]:
    """Examine a folder of teacher shards.

    Returns:
        `ok`; `verdicts` (`check`, `ok`, `says` each); `shift_nll` (mean NLL of the tokens at -1, 0, +1, nats);
        `by_kind` (tokens, mean entropy, tail mass, share of logged tokens outside the top k); `truncation`
        (k: mean of -log of the mass of the likeliest k, nats); with a teacher `live` (`kl_mean`, `kl_p99`,
        `noise_kl_mean`, nats).
    Raises:
        SadstreamError: not a finished folder of teacher shards, or no such teacher.
    """
    folder = Path(config.shards)
    if config.windows < 1:
        raise ConfigError(f"--windows {config.windows}: at least 1", hint="8 is the default")
    manifest = read_manifest(folder, "cache-teacher")
    if config.teacher and manifest.config.get("backend") == "logs":
        raise ConfigError(
            f"--teacher: nobody was asked for {folder}: it holds the logs' own tokens", hint="leave it out"
        )
    wrong = verify(folder, manifest, lambda name: progress(0, None, "files", f"verifying {name}"))
    verdicts = [
        Verdict("files", not wrong, "; ".join(wrong) or "every file is what was written (checksums)"),
        _tokenizer_verdict(folder, manifest),
    ]
    samples: list[Arrays] = []
    faults: list[str] = []
    n_samples = n_tokens = 0
    for number, shard in enumerate(manifest.shards):
        progress(number, len(manifest.shards), "shards", "reading")
        try:
            for arrays in _checked_samples(folder, shard):
                n_samples += 1
                if n_tokens < _COUNTED_TOKENS:
                    samples.append(arrays)
                    n_tokens += len(arrays["positions"])
        except ShardError as error:
            faults.append(str(error))
    verdicts.append(
        Verdict("samples", not faults, "; ".join(faults) or f"{n_samples} samples agree with their indexes")
    )
    summary: dict[str, Any] = {}
    if samples:
        is_drawn = manifest.config.get("mode") == "sample"
        table = _Tokens.of(samples)
        verdicts += [_consistency(table), _sanity(table)]
        if not is_drawn:
            shifts = {shift: shift_nll(samples, shift) for shift in (-1, 0, 1)}
            verdicts.append(_alignment(shifts))
            summary["shift_nll"] = {str(shift): round(value.nll, 4) for shift, value in shifts.items()}
            summary["truncation"] = _truncation(table)
        summary["by_kind"] = _by_kind(table)
        if config.teacher:
            verdicts.append(_fingerprint(config, manifest, progress))
            summary["live"], live = _live(config, samples, is_drawn=is_drawn, progress=progress)
            verdicts += live
    return {
        "ok": all(verdict.ok for verdict in verdicts),
        "verdicts": msgspec.to_builtins(verdicts),
        **summary,
        "teacher": manifest.totals.get("teacher"),
        "n_samples": n_samples,
    }


def check_before_training(folder: Path, manifest: Manifest) -> None:
    """The cheap part, on the first samples: do the stored values belong to the tokens they stand at?

    Raises:
        ManifestError: they don't; training on them would teach something else.
    """
    samples: list[Arrays] = []
    n_tokens = 0
    for arrays in (arrays for shard in manifest.shards for arrays in _checked_samples(folder, shard)):
        samples.append(arrays)
        n_tokens += len(arrays["positions"])
        if n_tokens >= _TRAIN_TOKENS:
            break
    verdicts = [_consistency(_Tokens.of(samples))]
    if manifest.config.get("mode") != "sample":
        verdicts.append(_alignment({shift: shift_nll(samples, shift) for shift in (-1, 0, 1)}))
    for verdict in verdicts:
        if not verdict.ok:
            raise ManifestError(f"{folder}: {verdict.says}", hint=f"`sadstream doctor {folder}` says more")


def _checked_samples(folder: Path, shard: Shard) -> Iterator[Arrays]:
    """Arrays of a shard's samples, each compared with its row of the index.

    Raises:
        ShardError: damaged, or tar and index differ.
    """
    rows = read_index(folder, shard)
    if len(rows) != shard.n_samples:
        raise ShardError(f"{shard.name}: {len(rows)} rows in its index, and {shard.n_samples} samples")
    for row, (key, data) in zip(rows, iter_shard(folder, shard), strict=True):
        where = f"{folder / shard.name}: sample {key}"
        arrays = decode_teacher_sample(data)
        kinds = arrays["kinds"][arrays["positions"]]
        found = (key, len(arrays["token_ids"]), int((kinds == REASON).sum()), int((kinds == ACT).sum()))
        listed = (row["key"], row["n_tokens"], row["n_supervised_reason"], row["n_supervised_act"])
        if found != listed:
            raise ShardError(f"{where}: holds {found}, and its index says {listed}")
        yield arrays


class _Tokens(NamedTuple):
    """The supervised tokens of some samples, one after the other: N tokens, K ids each."""

    logged: NDArray[Any]
    kinds: NDArray[Any]
    ids: NDArray[Any]
    logprobs: NDArray[Any]
    tail: NDArray[Any]
    entropy: NDArray[Any]
    token_logprobs: NDArray[Any]

    @classmethod
    def of(cls, samples: list[Arrays]) -> "_Tokens":
        names = ("topk_ids", "topk_logprobs", "tail_mass", "entropy", "token_logprobs")
        own = [[a[name][a["positions"]] for a in samples] for name in ("token_ids", "kinds")]
        return cls(*map(np.concatenate, [*own, *(alike_in_width(name, samples) for name in names)]))

    def logprob_in_topk(self) -> NDArray[Any]:
        """What the top k say of the logged token; nan where it is not among them."""
        is_it = (self.ids == self.logged[:, None]) & np.isfinite(self.logprobs)
        return np.where(is_it.any(1), self.logprobs[np.arange(len(is_it)), is_it.argmax(1)], np.nan)


def _tokenizer_verdict(folder: Path, manifest: Manifest) -> Verdict:
    try:
        is_it = tokenizer_fingerprint(folder / "tokenizer") == manifest.config["tokenizer_fingerprint"]
    except ModelError as error:
        return Verdict("tokenizer", False, str(error))
    says = "tokenizer/ is the one that the tokens were made with"
    return Verdict("tokenizer", is_it, says if is_it else "tokenizer/ is another one than the tokens were made with")


def _consistency(table: _Tokens) -> Verdict:
    """Whether the logged tokens' logprobs are those that the top k have for the same tokens."""
    by_topk = table.logprob_in_topk()
    # In cube roots of probabilities, where a code is exact to half a level; of format 1 and of draws, looser.
    difference = np.abs(np.exp(by_topk / 3) - np.exp(table.token_logprobs / 3))
    compared = difference[np.isfinite(difference)]
    if len(compared) < _SHORT_OF_TOKENS:
        return Verdict("consistency", True, f"only {len(compared)} tokens to compare: nothing can be told")
    median = float(np.median(compared))
    ok = median < 0.02
    says = (
        f"the top k say of the logged tokens what was stored of them (median difference {median:.2g} in cube roots)"
        if ok
        else f"the top k are not those of the logged tokens (median difference {median:.2g} in cube roots): shifted?"
    )
    return Verdict("consistency", ok, says)


def _sanity(table: _Tokens) -> Verdict:
    mass = np.exp(table.logprobs.astype(np.float64)).sum(1) + table.tail
    ok = bool(
        np.abs(mass - 1).max(initial=0) < 1e-4
        and (table.entropy >= -1e-6).all()
        and (table.token_logprobs <= 1e-6).all()
        and np.isfinite(table.entropy).all()
    )
    return Verdict("numbers", ok, "probabilities sum to 1" if ok else "some probabilities or entropies are none")


def shift_nll(samples: list[Arrays], shift: int) -> Shift:
    """Mean NLL of the tokens that stand `shift` places after the supervised ones, by the cache alone.

    A token outside the top k is given an equal part of the tail: of the ids that occur in the samples.
    """
    n_outside = max(2, len(np.unique(np.concatenate([a["token_ids"] for a in samples]))))
    total, n_tokens = 0.0, 0
    for arrays in samples:
        at = arrays["positions"] + shift
        # Only what is supervised itself is compared: prompts and observations are foretold otherwise.
        inside = np.isin(at, arrays["positions"]) & np.isin(arrays["positions"] - shift, arrays["positions"])
        wanted = arrays["token_ids"][at[inside]]
        is_it = (arrays["topk_ids"][inside] == wanted[:, None]) & np.isfinite(arrays["topk_logprobs"][inside])
        best = arrays["topk_logprobs"][inside][np.arange(len(wanted)), is_it.argmax(1)]
        outside = np.log(np.maximum(arrays["tail_mass"][inside], 1e-20) / n_outside)
        total -= float(np.where(is_it.any(1), best, outside).sum())
        n_tokens += len(wanted)
    return Shift(total / max(1, n_tokens), n_tokens)


def _alignment(shifts: dict[int, Shift]) -> Verdict:
    told = ", ".join(
        f"{shift:+d}: {value.nll:.2f}" if shift else f"0: {value.nll:.2f}" for shift, value in shifts.items()
    )
    if shifts[0].n_tokens < _SHORT_OF_TOKENS:
        return Verdict("alignment", True, f"only {shifts[0].n_tokens} tokens to compare: nothing can be told")
    best = min((-1, 1), key=lambda shift: shifts[shift].nll)
    gain = shifts[best].nll - shifts[0].nll
    if abs(gain) < _MARGIN:
        return Verdict(
            "alignment", True, f"the teacher tells tokens from their neighbours too little to say (NLL at {told})"
        )
    if gain > 0:
        return Verdict("alignment", True, f"it foretells the logged tokens, not their neighbours (NLL at {told})")
    return Verdict("alignment", False, f"it foretells the token {best:+d} places off better (NLL at {told}): shifted?")


def _by_kind(table: _Tokens) -> dict[str, dict[str, float]]:
    outside = np.isnan(table.logprob_in_topk())
    return {
        name: {
            "n_tokens": int(of_kind.sum()),
            "entropy": round(float(table.entropy[of_kind].mean()), 4),
            "tail_mass": round(float(table.tail[of_kind].mean()), 4),
            "logged_outside_top_k": round(float(outside[of_kind].mean()), 4),
            "nll": round(float(-table.token_logprobs[of_kind].mean()), 4),
        }
        for name, code in _KINDS.items()
        if (of_kind := table.kinds == code).any()
    }


def _truncation(table: _Tokens) -> dict[str, float]:
    """What is lost where only k ids are kept and made to sum to 1: KL(renormalised, exact) = -log mass, mean nats."""
    mass = np.cumsum(np.exp(table.logprobs.astype(np.float64)), axis=1)
    kept = [k for k in _TRUNCATIONS if k < mass.shape[1]] + [mass.shape[1]]
    return {str(k): round(float(-np.log(np.minimum(mass[:, k - 1], 1)).mean()), 4) for k in kept}


def _fingerprint(config: DoctorConfig, manifest: Manifest, progress: Progress) -> Verdict:
    path = resolve_model(config.teacher, lambda note: progress(0, None, "windows", note))
    is_it = model_fingerprint(path) == manifest.config["teacher_fingerprint"]
    said = (
        "is the one that was asked"
        if is_it
        else f"is another than the one that was asked ({manifest.totals['teacher']})"
    )
    return Verdict("teacher", is_it, f"{config.teacher} {said} (weights and configuration)")


def _live(
    config: DoctorConfig, samples: list[Arrays], *, is_drawn: bool, progress: Progress
) -> tuple[dict[str, float], list[Verdict]]:
    """Ask the teacher again about some windows, alone and beside others, and compare with the cache."""
    from sadstream.live import bucket_logprobs
    from sadstream.models import load_model, pick_device, pick_dtype

    path = resolve_model(config.teacher, lambda note: progress(0, None, "windows", note))
    device = pick_device(config.device)
    model = load_model(path, device, pick_dtype("auto", device))
    chosen = np.random.default_rng(config.seed).permutation(len(samples))[: config.windows]
    cached, alone, beside, logged = [], [], [], []
    for number, index in enumerate(chosen.tolist()):
        progress(number, len(chosen), "windows", "asking the teacher again")
        arrays = samples[index]
        live, live_logged = bucket_logprobs(model, arrays, n_padding=0)
        alone.append(live)
        # The same forward in another shape: what differs then is not the cache's fault.
        beside.append(bucket_logprobs(model, arrays, n_padding=7)[0])
        with np.errstate(divide="ignore"):
            cached.append(np.concatenate([arrays["topk_logprobs"], np.log(arrays["tail_mass"])[:, None]], 1))
        logged.append(np.abs(live_logged - arrays["token_logprobs"]))
    off = float(np.median(np.concatenate(logged)))
    verdict = Verdict(
        "live logged tokens",
        off < 0.05,
        f"the teacher says of the logged tokens what is stored of them, to {off:.2g} nats (median)"
        if off < 0.05
        else f"the teacher gives the logged tokens other logprobs, by {off:.2g} nats (median)",
    )
    if is_drawn:
        return {"logged_median": off}, [verdict]
    kl, noise = bucket_kl(alone, cached), bucket_kl(alone, beside)
    mean, p99 = float(kl.mean()), float(np.quantile(kl, 0.99))
    bound = _LIVE_KL + _NOISE_FACTOR * float(noise.mean())
    told = f"KL to the teacher asked again {mean:.1e} nats, p99 {p99:.1e}; the teacher to itself {noise.mean():.1e}"
    live_verdict = Verdict("live", mean <= bound, told if mean <= bound else f"{told}: more than {bound:.1e}")
    facts = {"kl_mean": mean, "kl_p99": p99, "noise_kl_mean": float(noise.mean()), "logged_median": off}
    return facts, [live_verdict, verdict]


def bucket_kl(log_p: list[NDArray[Any]], log_q: list[NDArray[Any]]) -> NDArray[np.float64]:
    """KL of each row of some [N, B] log-probabilities; a bucket of nothing on the left adds nothing. float64 [N]."""
    p, q = (np.concatenate(parts).astype(np.float64) for parts in (log_p, log_q))
    some = np.isfinite(p)
    terms = np.where(some, np.exp(p) * (np.where(some, p, 0) - np.maximum(np.where(some, q, 0), -60)), 0)
    total: NDArray[np.float64] = terms.sum(1)
    return total
