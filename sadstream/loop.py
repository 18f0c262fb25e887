"""The training loop, from top to bottom."""

import math
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from sadstream import checkpoints
from sadstream.curves import draw_curves
from sadstream.errors import ConfigError, ManifestError, SadstreamError
from sadstream.losses import hard_loss, soft_loss, span_weights, weighted_loss
from sadstream.manifest import StageFolder, write_atomically, writing
from sadstream.measure import measure, measure_unigram
from sadstream.models import (
    head_of,
    head_parameters,
    hidden_states,
    load_model,
    load_tokenizer,
    pick_device,
    pick_dtype,
    save_model,
)
from sadstream.order import Order
from sadstream.progress import Progress
from sadstream.sample_stream import SampleStream
from sadstream.samples import SampleFolder
from sadstream.stream import Batch, Collate, Split
from sadstream.train_config import METRICS, TrainConfig, is_over_everything, mix_weights


def run_updates(
    config: TrainConfig, student: Path, folder: StageFolder, progress: Progress
) -> tuple[dict[str, Any], float | None]:
    """Train, from the last checkpoint if there is one, and write curves and model.

    Returns:
        The run's totals, and real tokens a second (None if nothing was left to train).
    Raises:
        SadstreamError: the loss is not a number; the samples are named and the last checkpoint stays.
    """
    out, shards = folder.path, SampleFolder(config.shards)
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    folder.resolve({"device": device.type, "dtype": str(dtype).removeprefix("torch.")})
    budget = config.micro_batch_tokens or (1 if device.type == "cpu" else 16_384)
    autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)

    model = load_model(student, device, torch.float32)
    vocab_size = int(model.get_output_embeddings().weight.shape[0])
    make = Collate(
        micro_tokens=budget,
        everything=is_over_everything(config),
        vocab_size=vocab_size,
        pin=device.type == "cuda",
    )
    training, held_out = (Split(shards, split, make) for split in ("train", "holdout"))
    if not len(training):
        raise ConfigError(f"{config.shards}: no sample in the training split", hint="segment with a smaller --holdout")
    stream = SampleStream(shards, order_of(config, training.n_tokens), make)
    n_updates = config.updates or stream.count_updates(config.epochs)
    loss = hard_loss if config.objective == "imitation" else soft_loss(config.divergence)
    optimizer = torch.optim.AdamW(
        model.parameters(), config.lr, (0.9, 0.95), weight_decay=config.weight_decay, fused=device.type == "cuda"
    )

    state = checkpoints.load_last(out / "checkpoints", model, optimizer)
    if state is None:
        progress(0, n_updates, "updates", "measuring the held-out split")
        before = measure(model, held_out, device=device, dtype=dtype)
        state = checkpoints.State(
            update=0, n_tokens=0, n_padded=0, n_metrics_bytes=0, eval_before=before, stream=stream.state_dict()
        )
    stream.load_state_dict(state.stream)
    metrics = out / METRICS
    _cut_back(metrics, state.n_metrics_bytes)

    begin, tokens_before = time.monotonic(), state.n_tokens
    model.train()
    for number, update in zip(range(state.update, n_updates), stream, strict=False):
        # Whatever is random inside the model depends on the update alone, so a continued run repeats it.
        torch.manual_seed(config.seed * 1_000_003 + number)
        rate = config.lr * schedule(number, n_updates, config.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate

        batches = [batch.to(device) for batch in update.data]
        n_reason, n_act, n_other = _counts(batches)
        total, reason, act = 0.0, 0.0, 0.0
        for batch in batches:
            weights_N = _weights(config, batch, n_reason, n_act, n_other)
            with autocast:
                hidden_NH = hidden_states(model, batch.input_ids_BT)[batch.window_N, batch.position_N]
                value, loss_N = weighted_loss(
                    hidden_NH,
                    weights_N,
                    batch.targets,
                    head=head_of(model),
                    parameters=head_parameters(model),
                    loss=loss,
                )
            value.backward()
            total += float(value.detach())
            reason += float(loss_N[batch.is_reason_N].double().sum()) / max(1, n_reason)
            act += float(loss_N[batch.is_act_N].double().sum()) / max(1, n_act)
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip or math.inf))
        if not math.isfinite(total) or not math.isfinite(norm):
            raise SadstreamError(
                f"update {number + 1}: the loss is {total} (gradient norm {norm}); samples "
                f"{', '.join([key for batch in batches for key in batch.keys][:3])}",
                hint="checkpoints before it are whole; try a smaller --lr, with another --out if there are any",
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        n_tokens = state.n_tokens + sum(batch.n_tokens for batch in batches)
        row = {"update": number + 1, "loss": total, "reason_loss": reason, "act_loss": act}
        row |= {"lr": rate, "gradient_norm": norm, "n_tokens": n_tokens}
        line = msgspec.json.encode(row) + b"\n"
        with writing(metrics), metrics.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        state = state._replace(
            update=number + 1,
            n_tokens=n_tokens,
            n_padded=state.n_padded + sum(batch.input_ids_BT.numel() for batch in batches),
            n_metrics_bytes=state.n_metrics_bytes + len(line),
            stream=update.after,
        )
        speed = (n_tokens - tokens_before) / (time.monotonic() - begin)
        progress(number + 1, n_updates, "updates", f"reason {reason:.3f} act {act:.3f} nats, {speed:.0f} tokens/s")
        if (number + 1) % config.save_every == 0 and number + 1 < n_updates:
            checkpoints.save(out / "checkpoints", model, optimizer, state)
    seconds = time.monotonic() - begin

    progress(n_updates, n_updates, "updates", "measuring the held-out split")
    after = measure(model, held_out, device=device, dtype=dtype)
    unigram = measure_unigram(training, held_out, vocab_size)
    save_model(model, load_tokenizer(student), out / "model")
    draw_curves(_rows(metrics), state.eval_before, after, unigram, out / "curves.png")
    totals = {
        "n_updates": n_updates,
        "n_tokens": state.n_tokens,
        "n_train": len(training),
        "n_holdout": len(held_out),
        "eval_before": state.eval_before,
        "eval_after": after,
        "eval_unigram": unigram,
        "padding_share": round(1 - state.n_tokens / max(1, state.n_padded), 4),
    }
    n_new = state.n_tokens - tokens_before
    return totals, round(n_new / seconds, 1) if n_new else None


def order_of(config: TrainConfig, n_tokens: int) -> Order:
    """The order of a run's samples; the depth curriculum has unlocked every step when half of the run is over.

    Args:
        n_tokens: of an epoch.
    """
    epochs = config.updates * config.batch_tokens / n_tokens if config.updates else config.epochs
    return Order(
        seed=config.seed,
        batch_tokens=config.batch_tokens,
        curriculum=config.curriculum,
        alpha=config.alpha,
        beta=config.beta,
        gamma=config.gamma,
        unlock_epochs=epochs / 2,
        mix=mix_weights(config),
        mix_by=config.mix_by,
    )


def schedule(update: int, n_updates: int, warmup: float) -> float:
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


def _cut_back(metrics: Path, n_bytes: int) -> None:
    """Drop what was logged after the checkpoint: it will be logged again."""
    logged = metrics.read_bytes() if metrics.exists() else b""
    if len(logged) < n_bytes:
        raise ManifestError(
            f"{metrics}: shorter than the checkpoint says", hint="delete the run's folder and train again"
        )
    write_atomically(metrics, logged[:n_bytes])


def _rows(metrics: Path) -> list[dict[str, float]]:
    return [msgspec.json.decode(line) for line in metrics.read_bytes().split(b"\n")[:-1]]
