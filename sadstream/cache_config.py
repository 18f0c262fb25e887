"""What is asked of a teacher: the options of `cache-teacher`, who answers, and how spans become windows."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from sadstream.chat_template import read_template
from sadstream.codec import MOST_DRAWS, Mode
from sadstream.endpoint import Endpoint
from sadstream.errors import ConfigError, RenderError
from sadstream.logged_labels import LoggedLabels
from sadstream.model_files import model_fingerprint, tokenizer_fingerprint, window_length
from sadstream.served_teachers import ServedTeacher, VllmTeacher
from sadstream.teachers import Backend, LocalTeacher, Packing, Teacher
from sadstream.windows import Job, Plan, Positions, Render, plan_windows


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Options of `cache-teacher`.

    Attributes:
        spans: folder of span shards.
        teacher: a model, as `model_files.resolve_model` takes it.
        out: folder for the teacher shards.
        top_k: ids kept a token.
        top_p: of these, only those that are needed for this share of the mass.
        mode: `top-k`, or `sample`: ids drawn from the full distribution.
        draws: how many a token, where they are drawn.
        positions: `supervised`: what the agent wrote; `all`: every token, for flat token-level distillation.
        max_length: tokens a window; 0 is what the teacher can take, at most 8192. vLLM and servers need one of those
            that it takes for the token that they write.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        dtype: `auto`, `float32`, `bfloat16`, `float16`.
        render: `auto`, `text` or `chat`; see `windows.Plan`.
        backend: who answers: `transformers` or `vllm` in this process; `openai`, a server; or `logs`, nobody: each
            token is labelled by the logprobs that the log holds of it, or by itself, and `teacher` gives tokenizer and
            configuration.
        endpoint: address of the server, up to and with `/v1`; `teacher` then gives tokenizer and configuration.
        served_model: the name it serves the teacher under; "" is the only one there.
        concurrency: requests side by side.
        trust_remote_code: run what code the teacher's folder brings.
        batch_tokens: padded tokens a batch; 0 is one window or packed row at a time on a CPU, 16384 on a GPU.
        packing: `on`: windows share rows, where the teacher's attention keeps them apart; `off`; `auto`: on a GPU.
        limit: windows at most; 0 is all.
    """

    spans: str
    teacher: str
    out: str
    top_k: int = 32
    top_p: float = 1.0
    mode: Mode = "top-k"
    draws: int = 50
    positions: Positions = "supervised"
    max_length: int = 0
    device: str = "auto"
    dtype: str = "auto"
    render: Render = "auto"
    backend: Backend = "transformers"
    endpoint: str = ""
    served_model: str = ""
    concurrency: int = 8
    trust_remote_code: bool = False
    batch_tokens: int = 0
    packing: Packing = "auto"
    limit: int = 0


def check_options(config: CacheConfig) -> None:
    """Refuse options that are none, or that do not go together.

    Raises:
        ConfigError: names the first.
    """
    for name, value, least in (
        ("--top-k", config.top_k, 1),
        ("--max-length", config.max_length or 2, 2),
        ("--batch-tokens", config.batch_tokens, 0),
        ("--limit", config.limit, 0),
        ("--draws", config.draws, 1),
    ):
        if value < least:
            raise ConfigError(f"{name} {value}: at least {least}", hint="leave it out for the default")
    if config.draws > MOST_DRAWS:
        raise ConfigError(f"--draws {config.draws}: at most {MOST_DRAWS}", hint="50 are usual")
    if not 0 < config.top_p <= 1:
        raise ConfigError(f"--top-p {config.top_p}: not a share of the mass", hint="above 0, and 1 to keep all --top-k")
    for name, given, known in (
        ("--positions", config.positions, ("supervised", "all")),
        ("--mode", config.mode, ("top-k", "sample")),
        ("--render", config.render, ("auto", "text", "chat")),
        ("--backend", config.backend, ("transformers", "vllm", "openai", "logs")),
        ("--packing", config.packing, ("auto", "on", "off")),
    ):
        if given not in known:
            raise ConfigError(f"{name} {given}: unknown", hint=" or ".join(known))
    if config.mode == "sample" and config.top_p < 1:
        raise ConfigError("--top-p: what was drawn is not cut", hint="leave out --top-p or --mode sample")
    if config.backend == "logs" and config.mode == "sample":
        raise ConfigError("--backend logs: nobody is asked, so nothing is drawn", hint="leave out --mode sample")
    if config.backend != "transformers" and (config.mode == "sample" or config.top_p < 1):
        raise ConfigError(
            f"--backend {config.backend}: gives the top k alone", hint="--mode sample and --top-p go with transformers"
        )
    if bool(config.endpoint) != (config.backend == "openai"):
        raise ConfigError("--endpoint and --backend openai go together", hint="--endpoint http://localhost:8000/v1")


def decisive_options(config: CacheConfig, teacher: Path) -> dict[str, Any]:
    """The options that decide what the teacher is asked and what is kept; how it is batched does not."""
    tokenizer, is_asked = tokenizer_fingerprint(teacher), config.backend != "logs"
    decisive = {
        "teacher_fingerprint": model_fingerprint(teacher) if is_asked else tokenizer,
        "tokenizer_fingerprint": tokenizer,
        "mode": config.mode,
        "positions": config.positions,
        "max_length": window_length(config.max_length, teacher, n_written=int(config.backend in ("vllm", "openai"))),
        "device": config.device,
        "dtype": config.dtype,
        "limit": config.limit,
        "render": config.render,
        "backend": config.backend,
    }
    if not is_asked:
        return {**decisive, "top_k": config.top_k}
    kept = {"draws": config.draws} if config.mode == "sample" else {"top_k": config.top_k, "top_p": config.top_p}
    return {**decisive, **kept}


def read_tokenizer(path: Path) -> Any:
    """A teacher's tokenizer. Imports torch, so that it is asked for when something is to be done."""
    from sadstream.models import load_tokenizer

    return load_tokenizer(path)


def plan_jobs(config: CacheConfig, tokenizer: Any, max_length: int) -> Iterator[Job]:
    """The windows of the spans, in their order; errors as `windows.plan_windows`."""
    template = None
    if config.render == "chat" or (config.render == "auto" and tokenizer.chat_template):
        # `auto` takes what the template can do, and `chat` says what it cannot.
        with contextlib.suppress(*([RenderError] if config.render == "auto" else [])):
            template = read_template(tokenizer, config.teacher)
    plan = Plan(
        tokenizer=tokenizer,
        template=template,
        render=config.render,
        max_length=max_length,
        positions=config.positions,
        limit=config.limit,
    )
    return plan_windows(Path(config.spans), plan)


def make_teacher(config: CacheConfig, path: Path, tokenizer: Any, max_length: int) -> Teacher:
    """Who answers, ready to be asked.

    Args:
        path: the teacher's folder. max_length: tokens a window at most.
    Raises:
        SadstreamError: no such device, server or model.
    """
    n_named = len(tokenizer)
    if config.backend == "logs":
        return LoggedLabels(tokenizer, n_named=n_named, top_k=config.top_k)
    if config.backend == "vllm":
        return VllmTeacher(
            path,
            n_named=n_named,
            top_k=config.top_k,
            max_length=max_length,
            dtype=config.dtype,
            trust=config.trust_remote_code,
            batch_tokens=config.batch_tokens,
        )
    if config.backend == "openai":
        endpoint = Endpoint(config.endpoint)
        return ServedTeacher(
            endpoint,
            model=config.served_model,
            n_named=n_named,
            top_k=config.top_k,
            max_length=max_length,
            concurrency=config.concurrency,
            batch_tokens=config.batch_tokens,
        )
    return LocalTeacher(
        path,
        n_named=n_named,
        top_k=config.top_k,
        top_p=config.top_p,
        n_draws=n_draws(config),
        device=config.device,
        dtype=config.dtype,
        trust=config.trust_remote_code,
        batch_tokens=config.batch_tokens,
        packing=config.packing,
    )


def n_draws(config: CacheConfig) -> int:
    """Ids drawn a token; 0 where the likeliest are kept."""
    return config.draws if config.mode == "sample" else 0
