"""The third stage: train a student on teacher shards.

Options, checks and what is written; the loop itself is in `loop`. Imports no torch until there is something to train,
so a finished run is recognised at once.
"""

import time
from pathlib import Path
from typing import Any

import msgspec

from sadstream.doctor import check_before_training
from sadstream.errors import ConfigError, ManifestError, ModelError
from sadstream.manifest import (
    MANIFEST,
    Input,
    StageFolder,
    describe_inputs,
    read_manifest,
    sha256_of,
    verify_without_reading_shards,
    write_atomically,
)
from sadstream.model_files import model_fingerprint, resolve_config, resolve_model, tokenizer_fingerprint
from sadstream.progress import Progress, silent
from sadstream.ranks import joined
from sadstream.train_config import METRICS, TrainConfig, check, is_over_everything, read_config, to_toml

# Options that may change between a run and its continuation: they decide nothing about the weights.
_PASSING = ("shards", "out", "student", "save_every", "keep", "spike", "tensorboard")

__all__ = ["TrainConfig", "read_config", "train"]


def train(config: TrainConfig, progress: Progress) -> dict[str, Any]:
    """Train a student on teacher shards; continue an interrupted run; leave a finished one as it is.

    Returns:
        The summary: keys as `sadstream train --json` prints them. Empty on all ranks but the first, where
        `torchrun` started several.
    Raises:
        SadstreamError: folder, student or options are not as they should be, or the loss is not a number or leaps.
    """
    begin = time.monotonic()
    check(config)
    with joined() as ranks:
        folder = ranks.first_does(lambda: _open(config, progress))
        if any(ranks.add_up([folder is not None and folder.done is not None])):
            if folder is None or folder.done is None:
                return {}
            return {
                **folder.done.totals,
                "model": str(folder.path / "model"),
                "out": config.out,
                "already_done": True,
            }
        progress = progress if ranks.is_first else silent
        progress(0, None, "updates", "loading torch and the student")
        from sadstream.loop import run_updates

        totals, tokens_per_second = run_updates(config, _student(config, progress), folder, progress, ranks)
    if folder is None:
        return {}
    models = sorted(f"model/{p.name}" for p in (folder.path / "model").iterdir())
    folder.finish(totals, ["config.toml", METRICS, "curves.png", *models])
    return {
        **totals,
        "tokens_per_second": tokens_per_second,
        "seconds": round(time.monotonic() - begin, 1),
        "model": str(folder.path / "model"),
        "out": config.out,
    }


def _student(config: TrainConfig, progress: Progress) -> Path:
    if config.init == "random":
        return resolve_config(config.student)
    return resolve_model(config.student, lambda note: progress(0, None, "updates", note))


def _open(config: TrainConfig, progress: Progress) -> StageFolder:
    """The run's folder, after all checks that need no torch."""
    shards, out = Path(config.shards), Path(config.out)
    manifest = read_manifest(shards, "cache-teacher")
    if is_over_everything(config) and manifest.config["positions"] != "all":
        raise ConfigError(
            f"--kd-tokens all: {shards} holds the teacher's word on supervised tokens only",
            hint="make a cache for it: sadstream cache-teacher SPANS --teacher MODEL --positions all --out DIR",
        )
    if manifest.config.get("mode") == "sample" and config.divergence != "forward-kl":
        raise ConfigError(
            f"--divergence {config.divergence}: {shards} holds drawn ids, whose shares are right on average only",
            hint="forward-kl has the right gradient on average; the others need a cache of --mode top-k",
        )
    if manifest.config.get("backend") == "logs" and config.objective != "imitation":
        _check_labels(config, shards, manifest.totals.get("labels", {}))
    is_random, student = config.init == "random", _student(config, progress)
    if not is_random and tokenizer_fingerprint(student) != manifest.config["tokenizer_fingerprint"]:
        raise ModelError(
            f"{config.student}: its tokenizer is not the one that {shards} was made with "
            f"(the teacher was {manifest.totals['teacher']})",
            hint="teacher and student must share a tokenizer; `sadstream prune-student` makes such a student",
        )
    options = msgspec.to_builtins(config)
    decisive = {name: value for name, value in options.items() if name not in _PASSING}
    decisive["student_fingerprint"] = sha256_of(student)[:16] if is_random else model_fingerprint(student)
    folder = StageFolder(out, "train", decisive, describe_inputs([Input(MANIFEST, shards / MANIFEST)], out))
    if folder.done is not None:
        return folder
    damaged = verify_without_reading_shards(shards, manifest)
    if damaged:
        raise ManifestError(f"{shards}: {damaged[0]}", hint="make the folder again, or copy it whole")
    check_before_training(shards, manifest)
    write_atomically(out / "config.toml", to_toml(options).encode())
    return folder


def _check_labels(config: TrainConfig, shards: Path, labels: dict[str, int]) -> None:
    """Refuse what needs a teacher's distribution where labels are hard.

    Args:
        labels: how many are the logs' own distributions, and how many are hard and why.
    """
    n_hard, n_labels = sum(labels.values()) - labels.get("n_logged", 0), sum(labels.values())
    if labels.get("n_logged"):
        if config.divergence == "reverse-kl" and n_hard:
            raise ConfigError(
                f"--divergence reverse-kl: {n_hard:,} of {n_labels:,} labels in {shards} are hard: no bound there",
                hint="forward-kl and jsd have one",
            )
        return
    for name, given, only in (
        ("--divergence", config.divergence, "forward-kl"),
        ("--temperature", config.temperature, 1.0),
    ):
        if given != only:
            raise ConfigError(
                f"{name} {given}: {shards} holds the logs' own tokens, and no teacher's word on others",
                hint=f"{only}, which is cross-entropy then; or ask a teacher: `sadstream cache-teacher`",
            )
