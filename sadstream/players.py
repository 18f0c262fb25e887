"""Which player a user wants: the expert, a random one, a class of the user's own, or a model here or served."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from sadstream.endpoint import Endpoint
from sadstream.environments.chosen import AGENTS, load_agent
from sadstream.environments.protocol import Agent
from sadstream.errors import ConfigError, SadstreamError
from sadstream.manifest import MANIFEST, load_manifest
from sadstream.model_files import EMBEDDED, model_fingerprint, resolve_model, tokenizer_fingerprint
from sadstream.policies import GuidedAgent, ModelAgent, PromptStyle, Writer
from sadstream_schemas import InputFile

PromptChoice = Literal["auto", "zero-shot", "few-shot"]


class ModelOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How models are asked.

    Attributes:
        endpoint: an OpenAI-compatible server up to and with `/v1`; "" loads models here. timeout: seconds an answer.
        prompt: `few-shot` puts the environment's examples before each episode; `auto` does for all models but those
            that `sadstream train` made, whose training text had none.
        constrain: choose among the actions that the environment lists.
        temperature: 0 is greedy. max_new_tokens: of one answer. context: tokens at most; 0 is what the model takes.
        seats: episodes side by side. device, dtype: as `cache-teacher` takes them.
    """

    endpoint: str = ""
    timeout: float = 300.0
    tries: int = 6
    prompt: PromptChoice = "auto"
    constrain: bool = False
    temperature: float = 0.0
    max_new_tokens: int = 128
    context: int = 0
    seats: int = 16
    device: str = "auto"
    dtype: str = "auto"


def check_model_options(options: ModelOptions) -> None:
    """Refuse options out of range.

    Raises:
        ConfigError: names the first.
    """
    if options.prompt not in ("auto", "zero-shot", "few-shot"):
        raise ConfigError(f"--prompt {options.prompt}: unknown", hint="auto, zero-shot or few-shot")
    least: dict[str, float] = {
        "temperature": 0,
        "max_new_tokens": 1,
        "context": 0,
        "seats": 1,
        "timeout": 0,
        "tries": 1,
    }
    for name, value in least.items():
        if not getattr(options, name) >= value:
            flag = name.replace("_", "-")
            raise ConfigError(
                f"--{flag} {getattr(options, name)}: at least {value:g}", hint="leave it out for the default"
            )


def is_model(name: str, options: ModelOptions) -> bool:
    """Whether a name is a model's: not a scripted player's, nor that of a class of the user's own."""
    if name in AGENTS:
        return False
    if options.endpoint or name == EMBEDDED or Path(name).exists():
        return True
    return "/" in name and ":" not in name


def load_player(
    name: str,
    environment_name: str,
    agent_options: Mapping[str, str],
    options: ModelOptions,
    on_note: Callable[[str], None],
) -> Agent:
    """A player, ready to begin.

    Args:
        name: `expert`, `random`, `module:Class`, or a model: a path, a hub name, `smollm2-135m`, or what the endpoint
            calls it.
        environment_name, agent_options: as `chosen.load_agent` takes them.
        on_note: told what takes long.
    Raises:
        SadstreamError: no such player or model, or one that cannot be used.
    """
    check_model_options(options)
    if not is_model(name, options):
        return load_agent(name, environment_name, agent_options)
    if agent_options:
        raise ConfigError(f"--agent-option: {name} is a model and takes none", hint="--prompt, --temperature, ...")
    if options.endpoint:
        return ModelAgent(_served(name, options), prompt=_prompt_style(None, options), constrain=options.constrain)
    path = resolve_model(name, on_note)
    on_note(f"loading torch and {name}")
    return ModelAgent(_local(name, path, options), prompt=_prompt_style(path, options), constrain=options.constrain)


def with_guide(player: Agent, guide: Agent, share: float) -> GuidedAgent:
    """A model with a guide that takes a share of the turns.

    Raises:
        ConfigError: the player is no model, or the share is no probability.
    """
    if not isinstance(player, ModelAgent):
        raise ConfigError("--guide: only a model is guided", hint="--agent MODEL")
    if not 0 <= share <= 1:
        raise ConfigError(f"--guide-share {share}: a probability", hint="from 0 to 1")
    return GuidedAgent(player, guide, share)


def player_facts(player: Agent, name: str, options: ModelOptions) -> dict[str, Any]:
    """What a report must say of a player: how it was asked, and for a model here which weights."""
    if not isinstance(player, ModelAgent):
        return {"agent": player.name, "privileged": player.privileged}
    facts = {"agent": player.name, "privileged": False, "prompt": player.prompt, **player.writer.facts}
    if not options.endpoint:
        facts["fingerprint"] = model_fingerprint(resolve_model(name, lambda note: None))
    return facts


def player_input(name: str, label: str, options: ModelOptions, on_note: Callable[[str], None]) -> InputFile:
    """What a stage is made from, as far as a player is: a model's weights and tokenizer, wherever they lie.

    Of others nothing is known but the name.

    Raises:
        ModelError: no such model, or it has no tokenizer.
    """
    if options.endpoint or not is_model(name, options):
        return InputFile(path=f"player/{label}", n_bytes=0, sha256=hashlib.sha256(name.encode()).hexdigest())
    path = resolve_model(name, on_note)
    both = f"{model_fingerprint(path)} {tokenizer_fingerprint(path)}"
    return InputFile(
        path=f"player/{label}",
        n_bytes=sum(file.stat().st_size for file in path.glob("*.safetensors")),
        sha256=hashlib.sha256(both.encode()).hexdigest(),
    )


def label_of(name: str) -> str:
    """A short name without path: a run's is its folder's."""
    path = Path(name)
    trained = path.name == "model" and path.resolve().parent.name
    return trained or path.resolve().name if path.exists() else name.rstrip("/").rpartition("/")[2]


def _prompt_style(path: Path | None, options: ModelOptions) -> PromptStyle:
    if options.prompt != "auto":
        return options.prompt
    return "zero-shot" if path is not None and _is_trained(path) else "few-shot"


def _is_trained(path: Path) -> bool:
    """Whether a model lies in a run of `sadstream train`."""
    parent = path.resolve().parent
    try:
        return (parent / MANIFEST).exists() and load_manifest(parent).stage == "train"
    except SadstreamError:
        return False


def _local(name: str, path: Path, options: ModelOptions) -> Writer:
    from sadstream.local_writer import LocalWriter

    return LocalWriter(
        path,
        name=label_of(name),
        device=options.device,
        dtype=options.dtype,
        max_new_tokens=options.max_new_tokens,
        context=options.context,
        temperature=options.temperature,
    )


def _served(name: str, options: ModelOptions) -> Writer:
    from sadstream.served_writer import ServedWriter

    return ServedWriter(
        Endpoint(options.endpoint, timeout=options.timeout, tries=options.tries),
        name,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        concurrency=options.seats,
    )
