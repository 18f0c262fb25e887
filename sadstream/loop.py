"""The training loop, from top to bottom."""

import math
import resource
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sadstream import checkpoints
from sadstream.curves import draw_curves
from sadstream.errors import ConfigError
from sadstream.manifest import StageFolder
from sadstream.measure import measure, measure_unigram
from sadstream.models import load_tokenizer, pick_device, pick_dtype, save_model
from sadstream.objective import Counts, Sums, add_gradients, count, token_loss
from sadstream.optimise import make_optimizer, schedule
from sadstream.order import Order
from sadstream.progress import Progress
from sadstream.ranks import Ranks
from sadstream.run_log import RunLog
from sadstream.sample_stream import SampleStream
from sadstream.samples import SampleFolder
from sadstream.stopping import refuse_bad_update, watching_for_interrupt
from sadstream.stream import Collate, Split
from sadstream.students import compile_body, make_student, merge_adapters, packs
from sadstream.train_config import METRICS, TrainConfig, is_over_everything, mix_weights


def run_updates(
    config: TrainConfig, student: Path, folder: StageFolder | None, progress: Progress, ranks: Ranks
) -> tuple[dict[str, Any], float | None]:
    """Train, from the last checkpoint if there is one, and write curves and model.

    Args:
        student: the model's folder, or its config.json where it is to be made at random.
        folder: for the run; None on ranks that are not the first, which write nothing.
    Returns:
        The run's totals, and real tokens a second (None if nothing was left to train). Nothing where `folder` is None.
    Raises:
        TrainingError: the loss is not a number, or leaps; the samples are named and the last checkpoint stays.
        KeyboardInterrupt: Ctrl-C; the update that was under way is finished and saved.
    """
    out, shards = Path(config.out), SampleFolder(config.shards)
    device = ranks.device(pick_device(config.device))
    dtype = pick_dtype(config.dtype, device)

    def resolve(facts: dict[str, Any]) -> None:
        if folder is not None:
            folder.resolve_more(facts)

    ranks.first_does(partial(resolve, {"device": device.type, "dtype": str(dtype).removeprefix("torch.")}))
    budget = config.micro_batch_tokens or (1 if device.type == "cpu" else 16_384)

    model = make_student(config, student, device)
    is_packed = packs(model, config.packing, device, student)
    ranks.first_does(partial(resolve, {"packed": is_packed}))
    if config.compile:
        compile_body(model)
    vocab_size = int(model.get_output_embeddings().weight.shape[0])
    make = Collate(
        micro_tokens=budget,
        packed=is_packed,
        everything=is_over_everything(config),
        vocab_size=vocab_size,
        pin=device.type == "cuda",
    )
    training, held_out = (Split(shards, split, make) for split in ("train", "holdout"))
    if not len(training):
        raise ConfigError(f"{config.shards}: no sample in the training split", hint="segment with a smaller --holdout")
    order = order_of(config, training.n_tokens)
    stream = SampleStream(shards, order, make, rank=ranks.rank, world_size=ranks.size)
    n_updates = config.updates or stream.count_updates(config.epochs)
    loss = token_loss(config)
    optimizer = make_optimizer(model, config, device)

    state = checkpoints.load_last(out / "checkpoints", model, optimizer)
    if state is None:
        progress(0, n_updates, "updates", "measuring the held-out split")
        before = measure(model, held_out, device=device, dtype=dtype, ranks=ranks)
        state = checkpoints.State(
            update=0, n_tokens=0, n_padded=0, n_metrics_bytes=0, eval_before=before, stream=stream.state_dict()
        )
    stream.load_state_dict(state.stream)
    if ranks.add_up([state.update]) != [ranks.size * state.update]:
        raise ConfigError(f"{out}: its checkpoints are not the same on all ranks", hint="one folder for all is wanted")
    board = out / "tensorboard" if config.tensorboard else None
    log = RunLog(out / METRICS, state.n_metrics_bytes, tensorboard=board, is_written=ranks.is_first)
    losses = [row["loss"] for row in log.rows if "loss" in row]

    begin, tokens_before, padded_before = time.monotonic(), state.n_tokens, state.n_padded
    model.train()
    with watching_for_interrupt() as is_interrupted:
        for number, update in zip(range(state.update, n_updates), stream, strict=False):
            # Whatever is random inside the model depends on update and rank alone, so a continued run repeats it.
            torch.manual_seed(config.seed * 1_000_003 + number + 998_244_353 * ranks.rank)
            rate = config.lr * schedule(number, n_updates, config.warmup, config.schedule, config.decay)
            for group in optimizer.param_groups:
                group["lr"] = rate

            batches = [batch.to(device) for batch in update.data]
            counts = Counts(*ranks.add_up(count(update.data)))
            sums = Sums(*ranks.add_up(add_gradients(model, batches, counts, config, loss, dtype)))
            ranks.sum_gradients(model.parameters())
            norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip or math.inf))
            keys = [key for batch in batches for key in batch.keys]
            with ranks.said_once():
                refuse_bad_update(number + 1, sums.loss, norm, losses, config.spike, partial(ranks.gathered, keys))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

            n_real = sum(batch.n_tokens for batch in batches)
            n_slots = sum(batch.input_ids_BT.numel() for batch in batches)
            n_real, n_slots, n_interrupted = map(int, ranks.add_up([n_real, n_slots, is_interrupted()]))
            losses.append(sums.loss)
            n_tokens = state.n_tokens + n_real
            row = {"update": number + 1, "loss": sums.loss, "reason_loss": sums.reason, "act_loss": sums.act}
            log.append({**row, "lr": rate, "gradient_norm": norm, "n_tokens": n_tokens})
            state = state._replace(
                update=number + 1,
                n_tokens=n_tokens,
                n_padded=state.n_padded + n_slots,
                n_metrics_bytes=log.n_bytes,
                stream=update.after,
            )
            n_new, n_side = n_tokens - tokens_before, state.n_padded - padded_before
            note = (
                f"reason {sums.reason:.3f} act {sums.act:.3f} nats, {n_new / (time.monotonic() - begin):.0f} tokens/s"
            )
            note += f", {1 - n_new / max(1, n_side):.0%} padding, {_peak_memory(device) / 1e9:.1f} GB"
            note += ", packed" if is_packed else ", padded"
            progress(number + 1, n_updates, "updates", note)

            is_last, is_best = number + 1 == n_updates, False
            if config.eval_every and (number + 1) % config.eval_every == 0 and not is_last:
                values = measure(model, held_out, device=device, dtype=dtype, ranks=ranks)
                if values is not None:
                    log.append({"update": number + 1, "eval": values})
                    state = state._replace(n_metrics_bytes=log.n_bytes)
                    is_best = values["kl"] is not None and not (state.best_update and values["kl"] >= state.best_kl)
                if is_best:
                    state = state._replace(best_update=number + 1, best_kl=values["kl"])
            is_due = (number + 1) % config.save_every == 0 and not is_last
            if ranks.is_first and (is_due or is_best or n_interrupted):
                checkpoints.save(out / "checkpoints", model, optimizer, state, keep=config.keep)
            if n_interrupted:
                log.close()
                ranks.add_up([0])  # none leaves before the checkpoint is whole: torchrun would end the first then
                raise KeyboardInterrupt if ranks.is_first else SystemExit(130)
    seconds = time.monotonic() - begin
    log.close()

    progress(n_updates, n_updates, "updates", "measuring the held-out split")
    after = measure(model, held_out, device=device, dtype=dtype, ranks=ranks)
    if not ranks.is_first:
        return {}, None
    unigram = measure_unigram(training, held_out, vocab_size)
    merge_adapters(model)
    save_model(model, load_tokenizer(_tokenizer_of(config, student)), out / "model")
    draw_curves(log.rows, state.eval_before, after, unigram, out / "curves.png")
    totals = {
        "n_updates": n_updates,
        "n_tokens": state.n_tokens,
        "n_train": len(training),
        "n_holdout": len(held_out),
        "eval_before": state.eval_before,
        "eval_after": after,
        "eval_unigram": unigram,
        "eval_best": {"update": state.best_update, "kl": state.best_kl} if state.best_update else None,
        "packed": is_packed,
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
        weight_by=config.weight_by,
    )


def _tokenizer_of(config: TrainConfig, student: Path) -> Path:
    return Path(config.shards) / "tokenizer" if config.init == "random" else student


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU's memory, or of this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
