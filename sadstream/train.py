"""The third stage: stream teacher shards and train the student."""

import math
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from sadstream import checkpoints
from sadstream.curves import draw_curves
from sadstream.errors import ConfigError, ManifestError, ModelError, SadstreamError
from sadstream.losses import Divergence, Reduction, hard_loss, soft_loss, span_weights, token_losses, weighted_loss
from sadstream.manifest import (
    MANIFEST,
    Input,
    StageFolder,
    describe_inputs,
    read_manifest,
    verify,
    write_atomically,
    writing,
)
from sadstream.models import (
    apply_head,
    hidden_states,
    load_model,
    load_tokenizer,
    model_fingerprint,
    pick_device,
    pick_dtype,
    resolve_model,
    save_model,
    tokenizer_fingerprint,
)
from sadstream.progress import Progress
from sadstream.shards import scan_index
from sadstream.stream import Batch, Curriculum, SampleReader, collate, micro_batches, plan_updates
from sadstream.unigram import fit_unigram, unigram_kl

Objective = Literal["sad", "token-kd", "imitation"]
KdTokens = Literal["agent", "all"]
_METRICS = "metrics.jsonl"
_UNIGRAM_TOKENS = 2_000_000


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `train`. A TOML file may hold them under the same names.

    Attributes:
        shards: folder of teacher shards. student: a model, as `models.resolve_model` takes it. out: folder for the run.
        objective: `sad` (a divergence per span kind), `token-kd` (over tokens, without spans), `imitation`
            (cross-entropy on what was logged).
        kd_tokens: of `token-kd`: `agent` or `all`, which needs a cache made with `--positions all`.
        divergence, reduction, lambda_reason, lambda_act: of the loss; docs/method.md has the formulas.
        curriculum: `none`, or `complexity`: each epoch goes from easy to hard.
        alpha, beta, gamma: complexity = alpha * reason tokens + beta * act tokens + gamma * teacher's entropy (nats).
        updates: optimiser steps; 0 is as many as `epochs` take. epochs: passes over the training split.
        batch_tokens: real tokens an update. micro_batch_tokens: padded tokens side by side; 0 is one window at a time
            on a CPU, 16384 on a GPU.
        lr, warmup, weight_decay, clip: AdamW's peak rate; share of updates that it rises to it (then a cosine to 0);
            decay; largest gradient norm.
        save_every: updates between checkpoints, of which the last two are kept.
    """

    shards: str
    student: str
    out: str
    objective: Objective = "sad"
    kd_tokens: KdTokens = "agent"
    divergence: Divergence = "forward-kl"
    reduction: Reduction = "sum"
    lambda_reason: float = 1.0
    lambda_act: float = 1.0
    curriculum: Curriculum = "none"
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    updates: int = 0
    epochs: int = 1
    batch_tokens: int = 8192
    micro_batch_tokens: int = 0
    lr: float = 1e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    save_every: int = 200


def read_config(file: str, overrides: dict[str, Any]) -> TrainConfig:
    """Options from a TOML file (if named), with those given by flag on top.

    Raises:
        ConfigError: no such file, not TOML, an unknown key (near misses are named) or a value of the wrong type.
    """
    values: dict[str, Any] = {}
    if file:
        try:
            values = tomllib.loads(Path(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}", hint="check the path") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: not TOML: {error}", hint="key = value, a line each") from error
        _refuse_unknown(file, values)
    try:
        return msgspec.convert({**values, **overrides}, TrainConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file or 'options'}: {error}", hint="see `sadstream train --help`") from error


def _refuse_unknown(file: str, values: dict[str, Any]) -> None:
    import difflib

    for key in values:
        if key not in TrainConfig.__struct_fields__:
            near = difflib.get_close_matches(key, TrainConfig.__struct_fields__, 3, 0.6)
            raise ConfigError(
                f"{file}: unknown key {key!r}",
                hint=f"did you mean {' or '.join(near)}?" if near else "`sadstream train --help` lists them",
            )


class _Data(NamedTuple):
    """A split of the teacher shards."""

    reader: SampleReader
    n_tokens: NDArray[np.int64]
    everything: bool
    vocab_size: int

    def batches(self, samples: list[int], budget: int, device: torch.device) -> Iterator[Batch]:
        for numbers in micro_batches(samples, self.n_tokens, budget):
            batch = collate([self.reader.read(i) for i in numbers], everything=self.everything)
            # Two heads over one tokenizer may be padded to different sizes.
            if len(batch.position_N) and int(batch.targets["topk_ids"].max()) >= self.vocab_size:
                raise ModelError(
                    f"{', '.join(batch.keys[:3])}: the teacher's ids reach {int(batch.targets['topk_ids'].max())}, "
                    f"and the student's head has {self.vocab_size}",
                    hint="a student with as many outputs as the teacher is wanted",
                )
            yield batch.to(device)


def train(config: TrainConfig, progress: Progress) -> dict[str, Any]:
    """Train a student on teacher shards; continue an interrupted run; leave a finished one as it is.

    Returns:
        The summary: keys as `sadstream train --json` prints them.
    Raises:
        SadstreamError: folder, student or options are not as they should be, or the loss is not a number.
    """
    begin = time.monotonic()
    _check(config)
    shards, out = Path(config.shards), Path(config.out)
    manifest = read_manifest(shards, "cache-teacher")
    everything = config.objective == "token-kd" and config.kd_tokens == "all"
    if everything and manifest.config["positions"] != "all":
        raise ConfigError(
            f"--kd-tokens all: {shards} holds the teacher's word on supervised tokens only",
            hint="make a cache for it: sadstream cache-teacher SPANS --teacher MODEL --positions all --out DIR",
        )
    student_path = resolve_model(config.student, lambda note: progress(0, None, "updates", note))
    tokenizer = load_tokenizer(student_path)
    if tokenizer_fingerprint(tokenizer) != manifest.config["tokenizer_fingerprint"]:
        raise ModelError(
            f"{config.student}: its tokenizer is not the one that {shards} was made with "
            f"({len(tokenizer)} tokens here, the teacher was {manifest.config['teacher']})",
            hint="teacher and student must share a tokenizer; `sadstream prune-student` makes such a student",
        )
    options = msgspec.to_builtins(config)
    decisive = {k: v for k, v in options.items() if k not in ("shards", "out", "student", "save_every")}
    decisive["student_fingerprint"] = model_fingerprint(student_path)
    folder = StageFolder(
        out, "train", decisive, describe_inputs([Input(f"{shards.name}/{MANIFEST}", shards / MANIFEST)], out)
    )
    if folder.done is not None:
        return {**folder.done.totals, "model": str(out / "model"), "already_done": True}
    damaged = verify(shards, manifest, lambda name: progress(0, None, "updates", f"verifying, {name}"))
    if damaged:
        raise ManifestError(f"{shards}: {damaged[0]}", hint="make the folder again, or copy it whole")

    device = pick_device(config.device)
    compute_dtype = pick_dtype(config.dtype, device)
    budget = config.micro_batch_tokens or (1 if device.type == "cpu" else 16_384)
    progress(0, None, "updates", "loading the student")
    model = load_model(student_path, device, torch.float32)
    index = scan_index(shards).collect()
    vocab_size = int(model.get_output_embeddings().weight.shape[0])
    training, held_out = (_split(shards, index, split, everything, vocab_size) for split in ("train", "holdout"))
    if not len(training.n_tokens):
        raise ConfigError(f"{shards}: no sample in the training split", hint="segment with a smaller --holdout")
    updates = _plan(config, index)
    write_atomically(out / "config.toml", _toml(options).encode())

    unigram = _unigram_kl(training, held_out, vocab_size) if len(held_out.n_tokens) else None
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.lr,
        weight_decay=config.weight_decay,
        betas=(0.9, 0.95),
        fused=device.type == "cuda",
    )
    state = checkpoints.load_last(out / "checkpoints", model, optimizer)
    if state is None:
        progress(0, len(updates), "updates", "measuring the held-out split")
        before = _evaluate(model, held_out, budget, device, compute_dtype)
        state = checkpoints.State(update=0, n_tokens=0, n_padded=0, eval_before=before, metrics=[])
    # Lines after the checkpoint that a run continues from are dropped.
    write_atomically(out / _METRICS, b"".join(map(_line, state.metrics)))

    head = _head(model)
    loss = hard_loss if config.objective == "imitation" else soft_loss(config.divergence)
    training_begin, tokens_before = time.monotonic(), state.n_tokens
    model.train()
    for number in range(state.update, len(updates)):
        # Whatever is random inside the model depends on the update alone, so a continued run repeats it.
        torch.manual_seed(config.seed * 1_000_003 + number)
        rate = config.lr * _schedule(number, len(updates), config.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batches = list(training.batches(updates[number], budget, device))
        n_reason, n_act, n_other = _counts(batches)
        sums = torch.zeros(2, dtype=torch.float64)
        total = 0.0
        for batch in batches:
            with torch.autocast(device.type, compute_dtype, enabled=compute_dtype != torch.float32):
                hidden_NH = hidden_states(model, batch.input_ids_BT)[batch.window_N, batch.position_N]
                weights_N = _weights(config, batch, n_reason, n_act, n_other)
                value, loss_N = weighted_loss(
                    hidden_NH, weights_N, batch.targets, head=head, parameters=_head_parameters(model), loss=loss
                )
            value.backward()
            total += float(value.detach())
            sums += torch.tensor([float(loss_N[mask].double().sum()) for mask in (batch.is_reason_N, batch.is_act_N)])
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip))
        if not math.isfinite(total) or not math.isfinite(norm):
            raise SadstreamError(
                f"update {number + 1}: the loss is {total} (gradient norm {norm}); samples "
                f"{', '.join(key for batch in batches for key in batch.keys[:3])}",
                hint=f"the last checkpoint in {out / 'checkpoints'} is whole; a smaller --lr may help",
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        reason, act = (sums / torch.tensor([max(1, n_reason), max(1, n_act)])).tolist()
        n_tokens = state.n_tokens + sum(batch.n_tokens for batch in batches)
        row = {
            "update": number + 1,
            "loss": total,
            "reason_loss": reason,
            "act_loss": act,
            "lr": rate,
            "gradient_norm": norm,
            "n_tokens": n_tokens,
        }
        state = state._replace(
            update=number + 1,
            n_tokens=n_tokens,
            n_padded=state.n_padded + sum(batch.input_ids_BT.numel() for batch in batches),
            metrics=[*state.metrics, row],
        )
        with writing(out / _METRICS), (out / _METRICS).open("ab") as file:
            file.write(_line(row))
        speed = (state.n_tokens - tokens_before) / (time.monotonic() - training_begin)
        progress(number + 1, len(updates), "updates", f"reason {reason:.3f} act {act:.3f} nats, {speed:.0f} tokens/s")
        if (number + 1) % config.save_every == 0 and number + 1 < len(updates):
            checkpoints.save(out / "checkpoints", model, optimizer, state)
    seconds = time.monotonic() - training_begin

    progress(len(updates), len(updates), "updates", "measuring the held-out split")
    after = _evaluate(model, held_out, budget, device, compute_dtype)
    save_model(model, tokenizer, out / "model")
    draw_curves(state.metrics, state.eval_before, after, unigram, out / "curves.png")
    totals = {
        "n_updates": len(updates),
        "n_tokens": state.n_tokens,
        "n_train": len(training.n_tokens),
        "n_holdout": len(held_out.n_tokens),
        "eval_before": state.eval_before,
        "eval_after": after,
        "eval_unigram": unigram,
        "padding_share": round(1 - state.n_tokens / max(1, state.n_padded), 4),
    }
    files = ["config.toml", _METRICS, "curves.png", *sorted(f"model/{p.name}" for p in (out / "model").iterdir())]
    folder.finish(totals, files)
    return {
        **totals,
        "tokens_per_second": round((state.n_tokens - tokens_before) / seconds, 1) if seconds else None,
        "seconds": round(time.monotonic() - begin, 1),
        "model": str(out / "model"),
        "out": config.out,
    }


def _check(config: TrainConfig) -> None:
    for name in ("objective", "kd_tokens", "divergence", "reduction", "curriculum"):
        allowed = _ALLOWED[name]
        if getattr(config, name) not in allowed:
            flag = name.replace("_", "-")
            raise ConfigError(f"--{flag} {getattr(config, name)}: unknown", hint=f"one of: {', '.join(allowed)}")
    least = {"updates": 0, "epochs": 1, "batch_tokens": 1, "micro_batch_tokens": 0, "save_every": 1, "seed": 0}
    for name, value in least.items():
        if getattr(config, name) < value:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(config, name)}: at least {value}")
    for name in ("lr", "warmup", "weight_decay", "clip", "lambda_reason", "lambda_act"):
        number = getattr(config, name)
        if not math.isfinite(number) or number < 0 or (name == "warmup" and number > 1):
            raise ConfigError(f"--{name.replace('_', '-')} {number}: out of range", hint="see `sadstream train --help`")


_ALLOWED = {
    "objective": ("sad", "token-kd", "imitation"),
    "kd_tokens": ("agent", "all"),
    "divergence": ("forward-kl", "reverse-kl", "jsd"),
    "reduction": ("sum", "mean"),
    "curriculum": ("none", "complexity"),
}


def _split(shards: Path, index: pl.DataFrame, split: str, everything: bool, vocab_size: int) -> _Data:
    rows = index.filter(pl.col("split") == split)
    return _Data(SampleReader(shards, rows), rows["n_tokens"].to_numpy().astype(np.int64), everything, vocab_size)


def _plan(config: TrainConfig, index: pl.DataFrame) -> list[list[int]]:
    rows = index.filter(pl.col("split") == "train")
    complexity = rows.select(
        config.alpha * pl.col("n_supervised_reason")
        + config.beta * pl.col("n_supervised_act")
        + config.gamma * pl.col("entropy")
    )
    updates: list[list[int]] = []
    epoch = 0
    while len(updates) < config.updates if config.updates else epoch < config.epochs:
        updates += plan_updates(
            rows["n_tokens"].to_numpy().astype(np.int64),
            complexity.to_series().to_numpy().astype(np.float64),
            seed=config.seed,
            epoch=epoch,
            batch_tokens=config.batch_tokens,
            curriculum=config.curriculum,
        )
        epoch += 1
    return updates[: config.updates] if config.updates else updates


def _schedule(update: int, n_updates: int, warmup: float) -> float:
    """Share of the peak rate: a linear rise, then a cosine that ends at 0."""
    rise = max(1, round(n_updates * warmup))
    if update < rise:
        return (update + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (update - rise) / max(1, n_updates - rise)))


def _counts(batches: list[Batch]) -> tuple[int, int, int]:
    n_reason = sum(int(batch.is_reason_N.sum()) for batch in batches)
    n_act = sum(int(batch.is_act_N.sum()) for batch in batches)
    return n_reason, n_act, sum(len(batch.is_act_N) for batch in batches) - n_reason - n_act


def _weights(config: TrainConfig, batch: Batch, n_reason: int, n_act: int, n_other: int) -> Tensor:
    """What each token counts for: the one place where the objectives differ, beside the token's loss itself."""
    if config.objective == "token-kd":
        return torch.full_like(batch.targets["tail_mass"], 1 / max(1, n_reason + n_act + n_other))
    return span_weights(
        batch.is_reason_N,
        batch.is_act_N,
        n_reason=n_reason,
        n_act=n_act,
        reduction=config.reduction,
        lambda_reason=config.lambda_reason,
        lambda_act=config.lambda_act,
    )


def _head(model: Any) -> Any:
    return lambda hidden_NH: apply_head(model, hidden_NH)


def _head_parameters(model: Any) -> list[Tensor]:
    return [p for p in model.get_output_embeddings().parameters() if p.requires_grad]


def _evaluate(
    model: Any, data: _Data, budget: int, device: torch.device, compute_dtype: torch.dtype
) -> dict[str, float] | None:
    """Mean forward KL and cross-entropy per kind on the held-out split, and top-1 agreement with the teacher.

    None where there is no held-out split.
    """
    if not len(data.n_tokens):
        return None
    losses = {"kl": soft_loss("forward-kl"), "ce": hard_loss, "top1": _top1}
    sums: dict[str, float] = {}
    counts = {"reason": 0, "act": 0}
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for batch in data.batches(list(range(len(data.n_tokens))), budget, device):
            with torch.autocast(device.type, compute_dtype, enabled=compute_dtype != torch.float32):
                hidden_NH = hidden_states(model, batch.input_ids_BT)[batch.window_N, batch.position_N]
                values = token_losses(hidden_NH, batch.targets, head=_head(model), losses=losses)
            for kind, mask in (("reason", batch.is_reason_N), ("act", batch.is_act_N)):
                counts[kind] += int(mask.sum())
                for name, value_N in values.items():
                    sums[f"{kind}_{name}"] = sums.get(f"{kind}_{name}", 0.0) + float(value_N[mask].double().sum())
    model.train(was_training)
    return {name: value / max(1, counts[name.split("_")[0]]) for name, value in sums.items()}


def _top1(logits_NV: Tensor, targets: dict[str, Tensor]) -> Tensor:
    return (logits_NV.argmax(-1) == targets["topk_ids"][:, 0]).float()


def _unigram_kl(training: _Data, held_out: _Data, vocab_size: int) -> dict[str, float]:
    """KL of the teacher to the best unigram of each kind: fitted on the training split, measured on the held-out."""
    fitted, measured = (_tokens_by_kind(data) for data in (training, held_out))
    result = {}
    for kind in ("reason", "act"):
        unigram = fit_unigram(*fitted[kind], vocab_size)
        values = unigram_kl(unigram, *measured[kind])
        result[f"{kind}_kl"] = float(values.mean()) if len(values) else 0.0
    return result


def _tokens_by_kind(data: _Data) -> dict[str, tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    parts: dict[str, list[Any]] = {"reason": [], "act": []}
    n_tokens = 0
    for batch in data.batches(list(range(len(data.n_tokens))), 1, torch.device("cpu")):
        for kind, mask in (("reason", batch.is_reason_N), ("act", batch.is_act_N)):
            targets = {name: batch.targets[name][mask].numpy() for name in ("topk_ids", "topk_logprobs", "tail_mass")}
            parts[kind].append((targets["topk_ids"], np.exp(targets["topk_logprobs"]), targets["tail_mass"]))
        n_tokens += len(batch.is_act_N)
        if n_tokens > _UNIGRAM_TOKENS:
            break
    return {kind: tuple(np.concatenate(column) for column in zip(*rows, strict=True)) for kind, rows in parts.items()}  # type: ignore[misc]


def _line(row: dict[str, float]) -> bytes:
    return msgspec.json.encode(row) + b"\n"


def _toml(options: dict[str, Any]) -> str:
    """Flat options as TOML; its strings, numbers and booleans are written as JSON writes them, delete excepted."""
    lines = [f"{name} = {msgspec.json.encode(value).decode()}\n" for name, value in options.items()]
    return "".join(lines).replace("\x7f", "\\u007f")
