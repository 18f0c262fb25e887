"""Options of `train`: from flags and TOML, and whether they make sense."""

import difflib
import math
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from sadstream.errors import ConfigError

Objective = Literal["sad", "token-kd", "imitation"]
KdTokens = Literal["agent", "all"]
Divergence = Literal["forward-kl", "reverse-kl", "jsd"]
Reduction = Literal["sum", "mean"]
Curriculum = Literal["none", "complexity", "depth"]
Schedule = Literal["cosine", "linear", "wsd"]
Init = Literal["pretrained", "random"]
Packing = Literal["auto", "yes", "no"]
METRICS = "metrics.jsonl"


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `train`. A TOML file may hold them under the same names.

    Attributes:
        shards: folder of teacher shards. out: folder for the run.
        student: a model, as `model_files.resolve_model` takes it; a config.json, or a folder with one, if `init` is
            `random`: then the weights are drawn by `seed`, and the tokenizer is the teacher's.
        objective: `sad` (a divergence per span kind), `token-kd` (over tokens, without spans), `imitation`
            (cross-entropy on what was logged).
        kd_tokens: of `token-kd`: `agent` or `all`, which needs a cache made with `--positions all`.
        divergence, reduction, lambda_reason, lambda_act: of the loss; docs/method.md has the formulas.
        temperature, jsd_beta, ce_weight: of the divergence's buckets; the teacher's share in `jsd`; the share of
            cross-entropy that is mixed in. docs/method.md says more.
        curriculum: `none`; `complexity`: each epoch goes from easy to hard; `depth`: later steps carry loss later on.
        alpha, beta, gamma: complexity = alpha * reason tokens + beta * act tokens + gamma * teacher's entropy (nats).
        mix: how often an epoch takes a sample, `VALUE=WEIGHT` each; values are those of the index's column `mix_by`.
        weight_by: a column of the index (`reward`, say): what each sample's tokens count for; "" is 1 for all.
        updates: optimiser steps; 0 is as many as `epochs` take. epochs: passes over the training split.
        batch_tokens: real tokens an update. micro_batch_tokens: padded tokens side by side; 0 is one window at a time
            on a CPU, 16384 on a GPU.
        lr, warmup, weight_decay, clip: AdamW's peak rate; share of updates that it rises to it; decay; largest
            gradient norm (0: any).
        schedule, decay: how the rate falls after that: `cosine`, `linear`, or `wsd`, which stays at the peak until
            the last `decay` share of updates.
        spike: an update whose loss is above so many times the median of the 32 before it stops the run (0: none does).
        save_every, keep: updates between checkpoints; how many of the last are kept.
        eval_every: updates between measures of the held-out split, of which the best has its checkpoint kept; 0 is
            before and after training only.
        packing: lay windows one behind the other in rows, each as if it stood alone: `yes` (a model that cannot is
            refused), `no`, or `auto`, on a GPU where the model can.
        gradient_checkpointing: recompute activations: less memory, a third more time.
        compile: by torch.compile; the first updates take minutes.
        lora_rank: of adapters in all linear layers but the head, merged into the model at the end; 0 is none: all
            parameters learn.
        tensorboard: write the metrics for TensorBoard too, into the run's folder `tensorboard`.
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
    temperature: float = 1.0
    jsd_beta: float = 0.5
    ce_weight: float = 0.0
    curriculum: Curriculum = "none"
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    mix: tuple[str, ...] = ()
    mix_by: str = "format"
    weight_by: str = ""
    updates: int = 0
    epochs: int = 1
    batch_tokens: int = 8192
    micro_batch_tokens: int = 0
    lr: float = 1e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    schedule: Schedule = "cosine"
    decay: float = 0.2
    spike: float = 10.0
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    save_every: int = 200
    keep: int = 2
    eval_every: int = 0
    init: Init = "pretrained"
    packing: Packing = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False
    lora_rank: int = 0
    tensorboard: bool = False


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
    for key in values:
        if key not in TrainConfig.__struct_fields__:
            near = difflib.get_close_matches(key, TrainConfig.__struct_fields__, 3, 0.6)
            raise ConfigError(
                f"{file}: unknown key {key!r}",
                hint=f"did you mean {' or '.join(near)}?" if near else "`sadstream train --help` lists them",
            )


def is_over_everything(config: TrainConfig) -> bool:
    """Whether prompt and observations are learnt too."""
    return config.objective == "token-kd" and config.kd_tokens == "all"


def mix_weights(config: TrainConfig) -> dict[str, float]:
    """How often an epoch takes a sample, by its value in the column `mix_by`.

    Raises:
        ConfigError: not VALUE=WEIGHT, or named twice.
    """
    weights: dict[str, float] = {}
    for text in config.mix:
        name, _, weight = text.rpartition("=")
        try:
            number = float(weight)
        except ValueError:
            number = -1.0
        if not name or name in weights or not 0 <= number < math.inf:
            raise ConfigError(f"--mix {text}: not VALUE=WEIGHT, each value once", hint="for example --mix alpaca=2")
        weights[name] = number
    return weights


def check(config: TrainConfig) -> None:
    """Refuse options out of range.

    Raises:
        ConfigError: names the first.
    """
    for name, allowed in _ALLOWED.items():
        if getattr(config, name) not in allowed:
            raise ConfigError(f"{_option(name)} {getattr(config, name)}: unknown", hint=f"one of: {', '.join(allowed)}")
    for name, least in _LEAST.items():
        if getattr(config, name) < least:
            raise ConfigError(
                f"{_option(name)} {getattr(config, name)}: at least {least}", hint="leave it out for the default"
            )
    for name, (low, high) in _BETWEEN.items():
        number = getattr(config, name)
        if not math.isfinite(number) or not low <= number <= high:
            raise ConfigError(f"{_option(name)} {number}: out of range", hint="see `sadstream train --help`")
    for name in ("alpha", "beta", "gamma"):
        if not math.isfinite(getattr(config, name)):
            raise ConfigError(f"{name} {getattr(config, name)}: not a number", hint="1.0 is the default")
    if config.seed >= 2**31:
        raise ConfigError(f"--seed {config.seed}: below {2**31}", hint="any small number will do")
    mix_weights(config)
    _refuse_contradictions(config)


def _refuse_contradictions(config: TrainConfig) -> None:
    """Options that another one makes meaningless are mistakes, and would be found out late."""
    spans_weigh = (config.reduction, config.lambda_reason, config.lambda_act) != ("sum", 1.0, 1.0)
    for wrong, message, hint in (
        (
            config.objective == "token-kd" and spans_weigh,
            "--objective token-kd knows no spans: --reduction and --lambda-... mean nothing to it",
            "leave them out, or take --objective sad",
        ),
        (
            config.objective != "token-kd" and config.kd_tokens == "all",
            f"--kd-tokens all goes with --objective token-kd, not with {config.objective}",
            "prompt and observations carry no loss in the others",
        ),
        (
            config.objective == "imitation" and config.divergence != "forward-kl",
            "--objective imitation is cross-entropy: --divergence means nothing to it",
            "leave it out",
        ),
        (
            config.objective == "imitation" and (config.temperature != 1 or config.ce_weight != 0),
            "--objective imitation is cross-entropy: --temperature and --ce-weight mean nothing to it",
            "leave them out",
        ),
        (
            config.divergence != "jsd" and config.jsd_beta != 0.5,
            f"jsd_beta goes with --divergence jsd, not with {config.divergence}",
            "leave it out",
        ),
        (
            config.schedule != "wsd" and config.decay != 0.2,
            f'decay goes with schedule = "wsd", not with {config.schedule}',
            "leave it out",
        ),
        (
            config.init == "random" and config.lora_rank > 0,
            'lora_rank goes with a student that knows something, not with init = "random"',
            "leave one of them out",
        ),
        (
            config.lambda_reason == 0 and config.lambda_act == 0,
            "--lambda-reason 0 and --lambda-act 0: nothing is left to learn",
            "at least one above 0",
        ),
    ):
        if wrong:
            raise ConfigError(message, hint=hint)


_ALLOWED = {
    "objective": get_args(Objective),
    "kd_tokens": get_args(KdTokens),
    "divergence": get_args(Divergence),
    "reduction": get_args(Reduction),
    "curriculum": get_args(Curriculum),
    "schedule": get_args(Schedule),
    "init": get_args(Init),
    "packing": get_args(Packing),
}
_LEAST = {
    "updates": 0,
    "epochs": 1,
    "batch_tokens": 1,
    "micro_batch_tokens": 0,
    "save_every": 1,
    "keep": 1,
    "eval_every": 0,
    "lora_rank": 0,
    "seed": 0,
}
# What a float can be: low and high, both included. A temperature below 1/100 would leave float32.
_BETWEEN = {
    "lr": (0, math.inf),
    "warmup": (0, 1),
    "decay": (0, 1),
    "weight_decay": (0, math.inf),
    "clip": (0, math.inf),
    "spike": (0, math.inf),
    "lambda_reason": (0, math.inf),
    "lambda_act": (0, math.inf),
    "temperature": (0.01, 100),
    "jsd_beta": (0.001, 0.999),
    "ce_weight": (0, 1),
}
# Rarer options have no flag: a TOML file sets them.
ONLY_IN_FILES = (
    "alpha",
    "beta",
    "gamma",
    "mix_by",
    "weight_by",
    "jsd_beta",
    "warmup",
    "weight_decay",
    "clip",
    "schedule",
    "decay",
    "spike",
    "keep",
    "init",
    "packing",
    "gradient_checkpointing",
    "compile",
    "lora_rank",
    "tensorboard",
)


def _option(name: str) -> str:
    return name if name in ONLY_IN_FILES else f"--{name.replace('_', '-')}"


def to_toml(options: dict[str, Any]) -> str:
    """Flat options as TOML; its strings, numbers and booleans are written as JSON writes them, delete excepted."""
    lines = [f"{name} = {msgspec.json.encode(value).decode()}\n" for name, value in options.items()]
    return "".join(lines).replace("\x7f", "\\u007f")
