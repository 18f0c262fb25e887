"""A training update against other ways to make one: paired ratios of time, peak memory, growth with each size.

    python benchmarks/training.py [--small] [--windows N] [--rounds N] [--device cpu] [--dtype float32] [--trl]
                                  [--no-growth] [--growth-only]

A random Llama, a random batch of which 40 % is supervised. Times are of forward and backward, each round all ways in
turn; the ratio is the median of the rounds' own. On a CPU it is process time, which other work on the machine disturbs
least, on a GPU wall time. Peak memory is a fresh process's (on a GPU the allocator's), above the loaded model. `--trl`
adds the steps of TRL's trainers, where it is installed.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sadstream.objective import add_gradients, count, token_loss
from sadstream.stream import Batch
from sadstream.train_config import TrainConfig


class Size(NamedTuple):
    """Of a model and a batch."""

    width: int = 576
    layers: int = 10
    vocabulary: int = 49_152
    windows: int = 2
    length: int = 512
    top_k: int = 32


def make_model(size: Size, device: torch.device) -> Any:
    """A random Llama."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.width * 8 // 3,
        num_hidden_layers=size.layers,
        num_attention_heads=size.width // 64,
        num_key_value_heads=max(1, size.width // 192),
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    return AutoModelForCausalLM.from_config(config).to(device).train()


def make_batch(size: Size, device: torch.device) -> Batch:
    """Random windows, agent and environment in turns of 10 tokens; the teacher has 0.95 of its mass in its top k."""
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(size.vocabulary, (size.windows, size.length), generator=generator)
    place_T = torch.arange(1, size.length)
    picked_T = place_T[place_T % 25 >= 15]
    window_N = torch.arange(size.windows).repeat_interleave(len(picked_T))
    at_N = picked_T.repeat(size.windows)
    n = len(at_N)
    topk_ids = torch.rand(n, size.vocabulary // 8, generator=generator).topk(size.top_k).indices * 8
    logprobs = torch.randn(n, size.top_k, generator=generator).mul(3).log_softmax(-1) + torch.tensor(0.95).log()
    batch = Batch(
        keys=["random"],
        n_tokens=ids_BT.numel(),
        input_ids_BT=ids_BT,
        window_N=window_N,
        position_N=at_N - 1,
        is_reason_N=at_N % 25 < 22,
        is_act_N=at_N % 25 >= 22,
        weight_N=torch.ones(n),
        targets={
            "tokens": ids_BT[window_N, at_N],
            "topk_ids": topk_ids,
            "topk_logprobs": logprobs.sort(descending=True).values,
            "tail_mass": torch.full((n,), 0.05),
        },
    )
    return batch.to(device)


def ways(model: Any, batch: Batch, dtype: torch.dtype) -> dict[str, Callable[[], None]]:
    """Ways to add the gradient of an update."""

    def ours(**options: Any) -> Callable[[], None]:
        config = TrainConfig(shards="-", student="-", out="-", **options)
        loss = token_loss(config)
        return lambda: (add_gradients(model, [batch], count([batch]), config, loss, dtype), None)[1]

    def all_tokens() -> None:
        with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
            value = model(input_ids=batch.input_ids_BT, labels=batch.input_ids_BT).loss
        value.backward()

    def dense_kl() -> None:
        """What span distillation costs when it is written plainly: logits and their softmax at every position."""
        with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
            logprobs = model(input_ids=batch.input_ids_BT).logits.float().log_softmax(-1)
        top = logprobs[batch.window_N, batch.position_N].gather(-1, batch.targets["topk_ids"])
        teacher = batch.targets["topk_logprobs"]
        (teacher.exp() * (teacher - top)).sum(-1).mean().backward()

    return {
        "cross-entropy, all tokens (Hugging Face)": all_tokens,
        "imitation": ours(objective="imitation"),
        "sad": ours(),
        "sad, jsd": ours(divergence="jsd"),
        "plain top-k KL, all logits": dense_kl,
    }


def trl_ways(model: Any, batch: Batch, teacher: Any) -> dict[str, Callable[[], None]]:
    """The steps of TRL's trainers: their own loss on the same windows, the same tokens labelled."""
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    labels = torch.full_like(batch.input_ids_BT, -100)
    labels[batch.window_N, batch.position_N + 1] = batch.targets["tokens"]
    inputs = {"input_ids": batch.input_ids_BT, "attention_mask": torch.ones_like(labels), "labels": labels}
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"a": 0, "<eos>": 1, "<pad>": 2}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<pad>")
    options = {
        "output_dir": tempfile.mkdtemp(),
        "report_to": [],
        "use_cpu": model.device.type == "cpu",
        "bf16": False,
        "gradient_checkpointing": False,
    }
    rows = Dataset.from_dict({"input_ids": [[0, 1]], "labels": [[0, 1]]})
    sft = SFTTrainer(
        model,
        args=SFTConfig(**options, dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    chats = Dataset.from_dict({"messages": [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}]]})
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    gkd = GKDTrainer(
        model, teacher, args=GKDConfig(**options, lmbda=0.0), train_dataset=chats, processing_class=tokenizer
    )
    prompts = {"prompts": batch.input_ids_BT[:, :1], "prompt_attention_mask": torch.ones_like(labels[:, :1])}
    return {
        "TRL SFTTrainer": lambda: sft.compute_loss(model, dict(inputs)).backward(),
        "TRL GKDTrainer (its teacher's forward included)": lambda: gkd.compute_loss(
            model, {**inputs, **prompts}
        ).backward(),
    }


def seconds_of(step: Callable[[], None], model: Any) -> float:
    """Time of a step."""
    model.zero_grad(set_to_none=True)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
        begin = time.perf_counter()
        step()
        torch.cuda.synchronize()
        return time.perf_counter() - begin
    begin = time.process_time()
    step()
    return time.process_time() - begin


def peak_bytes(device: torch.device, *, anew: bool = False) -> int:
    """Peak memory since the last call with `anew`, which gives what is taken at the moment."""
    if device.type == "cuda":
        if anew:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    if anew:
        Path("/proc/self/clear_refs").write_text("5")  # Linux
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


# Each measure of memory is taken in a process of its own, of a server that has imported what they need.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["__main__", "transformers.models.llama.modeling_llama"])


def measure_alone(size: Size, name: str, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Seconds of the second step, and peak bytes above the loaded model."""
    model, batch = make_model(size, device), make_batch(size, device)
    loaded = peak_bytes(device, anew=True)
    step = ways(model, batch, dtype)[name]
    seconds_of(step, model)
    return {"seconds": seconds_of(step, model), "n_bytes": peak_bytes(device) - loaded}


def alone(size: Size, name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """`measure_alone` in a fresh process."""
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    with _PROCESSES.Pool(1) as pool:
        return pool.apply(measure_alone, (size, name, device, dtype))


def write_row(*cells: str) -> None:
    """A line of a Markdown table."""
    sys.stdout.write(f"| {' | '.join(cells)} |\n")
    sys.stdout.flush()


def compare(size: Size, arguments: argparse.Namespace) -> None:
    """Time of each way as a share of the first's and of imitation's, memory as a share of the first's."""
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    model, batch = make_model(size, device), make_batch(size, device)
    steps = ways(model, batch, dtype)
    if arguments.trl:
        steps |= trl_ways(model, batch, make_model(size, device).eval())
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(arguments.rounds + 1):
        for name, step in steps.items():
            seconds = seconds_of(step, model)
            if number:  # the first round warms up
                times[name].append(seconds)
    first, imitation, *_ = times
    sys.stdout.write(f"\n{size}, {len(batch.window_N)} of {batch.n_tokens} tokens supervised, {arguments.dtype}\n\n")
    write_row("way", "seconds", "x cross-entropy over all", "x imitation", "peak MB above the model", "x")
    write_row(*["---"] * 6)
    base = None
    for name, values in times.items():
        ratios = [
            f"{statistics.median(a / b for a, b in zip(values, times[other], strict=True)):.3f}"
            for other in (first, imitation)
        ]
        memory = ["", ""]
        if not name.startswith("TRL"):
            n_bytes = alone(size, name, arguments)["n_bytes"]
            base = base or n_bytes
            memory = [f"{n_bytes / 1e6:.0f}", f"{n_bytes / base:.2f}"]
        write_row(name, f"{statistics.median(values):.2f}", *ratios, *memory)


def grow(size: Size, arguments: argparse.Namespace) -> None:
    """Time and memory of a SAD update as one size after the other grows, beside cross-entropy over all tokens."""
    sys.stdout.write(f"\none size changed at a time, from {size}\n\n")
    write_row("changed", "sad, seconds", "sad, MB", "cross-entropy over all, seconds", "cross-entropy over all, MB")
    write_row(*["---"] * 5)
    changes: dict[str, tuple[int, ...]] = {
        "length": (256, 512, 1024, 2048),
        "vocabulary": (8_192, 32_768, 131_072, 262_144),
        "top_k": (8, 32, 128),
    }
    for name, values in changes.items():
        for value in values:
            changed = size._replace(**{name: value})
            cells = []
            for way in ("sad", "cross-entropy, all tokens (Hugging Face)"):
                found = alone(changed, way, arguments)
                cells += [f"{found['seconds']:.2f}", f"{found['n_bytes'] / 1e6:.0f}"]
            write_row(f"{name} {value:,}", *cells)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a size that takes a minute on one core")
    parser.add_argument("--windows", type=int, help="of the first table's batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--trl", action="store_true", help="TRL's trainers too")
    parser.add_argument("--no-growth", action="store_true", help="leave the second table out")
    parser.add_argument("--growth-only", action="store_true", help="leave the first table out")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda":
        size = Size(width=2048, layers=16, vocabulary=128_256, windows=4, length=2048)
        sys.stdout.write(f"{torch.cuda.get_device_name(device)}\n")
    else:
        size = Size()
        sys.stdout.write(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    small = Size(width=192, layers=4, vocabulary=16_384, windows=2, length=256)
    if not arguments.growth_only:
        chosen = small if arguments.small else size
        compare(chosen._replace(windows=arguments.windows or chosen.windows), arguments)
    if not arguments.no_growth:
        grow((small if arguments.small or device.type == "cpu" else size)._replace(windows=1), arguments)


if __name__ == "__main__":
    main()
