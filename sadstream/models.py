"""Teachers and students as torch modules: loading without unpickling, the way through the head, pruning."""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from sadstream.errors import ConfigError, ManifestError, ModelError
from sadstream.manifest import folder_written_atomically, writing

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def convert_gguf(file: Path, target: Path) -> None:
    """A quantised GGUF model as a folder of dense float32 safetensors, tokenizer included.

    Raises:
        ModelError: a package that reading it needs is missing.
    """
    try:
        # The reader draws bars of its own, whatever transformers was told.
        with contextlib.redirect_stderr(io.StringIO()):
            model, tokenizer = _load_gguf(file)
    except ImportError as error:
        raise ModelError(
            f"{file.name}: {error}", hint="pip install 'sadstream[embedded]' (gguf, accelerate)"
        ) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, tokenizer, target)


def _load_gguf(path: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with _quiet():
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
    return model, tokenizer


def _quiet() -> Any:
    """Keep transformers' own progress bars and advice off the terminal."""
    import transformers

    @contextlib.contextmanager
    def quietly() -> Any:
        transformers.utils.logging.disable_progress_bar()
        before = transformers.utils.logging.get_verbosity()
        transformers.utils.logging.set_verbosity_error()
        try:
            yield
        finally:
            transformers.utils.logging.set_verbosity(before)

    return quietly()


def pick_device(name: str) -> torch.device:
    """The device that a name means; `auto` is the GPU where there is one.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"--device {name}: {reason}", hint="auto, cpu, cuda or cuda:N") from error
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format that a name means; `auto` is bfloat16 on a GPU that has it, else float32.

    Raises:
        ConfigError: no such format.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    if name not in _DTYPES:
        raise ConfigError(f"--dtype {name}: unknown", hint=f"one of: auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def load_model(path: Path, device: torch.device, dtype: torch.dtype, *, trust_remote_code: bool = False) -> Any:
    """A causal language model of transformers, in evaluation mode; safetensors only.

    Args:
        trust_remote_code: run what code the folder brings; only where the user asked for it.

    Raises:
        ModelError: it cannot be loaded, or its head is not one that this version can call by itself.
    """
    from transformers import AutoModelForCausalLM

    try:
        with _quiet():
            model = AutoModelForCausalLM.from_pretrained(
                path, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
            )
    except Exception as error:  # transformers raises many kinds for what is wrong in a folder
        reason = str(error).split("\n")[0]
        raise ModelError(f"{path}: cannot be loaded: {reason}", hint="a causal LM in safetensors is wanted") from error
    model = model.to(device).eval()
    check_head(model, path)
    return model


def load_config(path: Path) -> Any:
    """A model's configuration.

    Raises:
        ModelError: none there, or of a kind that transformers does not know.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path)
    except Exception as error:  # as above
        reason = str(error).split("\n")[0]
        raise ModelError(f"{path}: cannot be loaded: {reason}", hint="a causal LM in safetensors is wanted") from error


def load_tokenizer(path: Path) -> Any:
    """A fast tokenizer (one that gives offsets).

    Raises:
        ModelError: none there, or a slow one.
    """
    from transformers import AutoTokenizer

    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # as above
        reason = str(error).split("\n")[0]
        raise ModelError(
            f"{path}: its tokenizer cannot be loaded: {reason}", hint="tokenizer.json is wanted"
        ) from error
    if not tokenizer.is_fast:
        raise ModelError(f"{path}: its tokenizer gives no offsets", hint="a fast tokenizer (tokenizer.json) is wanted")
    return tokenizer


def hidden_states(
    model: Any,
    input_ids_BT: Tensor,
    attention_mask_BT: Tensor | None = None,
    position_ids_BT: Tensor | None = None,
) -> Tensor:
    """Last hidden states before the head, [B, T, H].

    Without a mask, right padding is harmless: under causal attention no token sees what comes after it.

    Args:
        position_ids_BT: of rows that hold several windows, for models that take them (`packing`).
    """
    positions = {} if position_ids_BT is None else {"position_ids": position_ids_BT}
    states: Tensor = model.base_model(
        input_ids=input_ids_BT, attention_mask=attention_mask_BT, use_cache=False, **positions
    ).last_hidden_state
    return states


class Head(NamedTuple):
    """The way from hidden states to logits: a linear layer, and what a model does to its outputs.

    Attributes:
        weight_VH, bias_V: of the layer. shape: scaling and soft-capping, applied to what it gives.
    """

    weight_VH: Tensor
    bias_V: Tensor | None
    shape: Callable[[Tensor], Tensor]

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """Logits [N, V] of some hidden states [N, H]."""
        return self.shape(nn.functional.linear(hidden_NH, self.weight_VH, self.bias_V))


def head_of(model: Any) -> Head:
    """A model's own head."""
    layer = model.get_output_embeddings()
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None)  # Cohere
    divisor = getattr(config, "logits_scaling", None)  # Granite
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma

    def shape(logits: Tensor) -> Tensor:
        if scale is not None:
            logits = logits * scale
        if divisor is not None:
            logits = logits / divisor
        if cap is not None:
            logits = torch.tanh(logits / cap) * cap
        return logits

    return Head(layer.weight, getattr(layer, "bias", None), shape)


def apply_head(model: Any, hidden_NH: Tensor) -> Tensor:
    """Logits [N, V] of some hidden states by the model's own head, its scaling and soft-capping included."""
    return head_of(model).logits(hidden_NH)


@torch.no_grad()
def check_head(model: Any, path: Path) -> None:
    """Compare our way through the head with the model's own on a few tokens.

    Raises:
        ModelError: they differ: this architecture does something to its logits that we don't know.
    """
    ids = torch.arange(1, 9, device=model.device)[None] % model.config.get_text_config().vocab_size
    try:
        own = model(input_ids=ids, use_cache=False).logits[0].float()
        ours = apply_head(model, hidden_states(model, ids)[0]).float()
    except (AttributeError, TypeError) as error:
        raise ModelError(
            f"{path}: not a plain causal LM: {error}", hint="a decoder with one output head is wanted"
        ) from error
    if own.isnan().any():
        raise ModelError(
            f"{path}: what it says is not a number", hint="damaged weights, or float16: try bfloat16 or float32"
        )
    tolerance = 1e-4 if model.dtype == torch.float32 else 5e-2
    largest = float(own.abs().nan_to_num(posinf=0).max())
    if own.shape != ours.shape or not torch.allclose(own, ours, rtol=tolerance, atol=tolerance * largest):
        raise ModelError(
            f"{path}: {type(model).__name__} changes its logits in a way that is not known here",
            hint="a causal LM whose head is a linear layer, scaled or soft-capped, is wanted",
        )


def prune_layers(path: Path, layers: int, out: Path, choose: Callable[[int, int], list[int]]) -> dict[str, Any]:
    """Write a model with only some of its layers.

    Args:
        layers: how many. choose: gives their indices, from how many and how many there are.
    Returns:
        `layers_kept` (their indices) and `n_parameters`.
    Raises:
        ModelError: the layers are not found. ConfigError: more layers than it has.
    """
    loaded = load_model(path, torch.device("cpu"), _stored_dtype(path))
    n_layers = loaded.config.num_hidden_layers
    if not 1 <= layers <= n_layers:
        raise ConfigError(f"--layers {layers}: {path} has {n_layers}", hint=f"from 1 to {n_layers}")
    kept = choose(layers, n_layers)
    _keep_layers(loaded, kept)
    with _quiet(), writing(out), writing_tensors(out):
        loaded.save_pretrained(out)
        load_tokenizer(path).save_pretrained(out)
    return {"layers_kept": kept, "n_parameters": sum(p.numel() for p in loaded.parameters())}


def _stored_dtype(path: Path) -> torch.dtype:
    dtype = load_config(path).dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


@contextlib.contextmanager
def writing_tensors(path: Path) -> Iterator[None]:
    """Turn safetensors' own error for a failed write into one line.

    Raises:
        ManifestError: names the path and why.
    """
    try:
        yield
    except SafetensorError as error:
        raise ManifestError(
            f"{path}: cannot write: {error}", hint="make room, then run the same command again: what is finished stays"
        ) from error


def save_model(model: Any, tokenizer: Any, path: Path) -> None:
    """Write what transformers and vLLM load: weights as safetensors, configuration, tokenizer."""
    with _quiet(), folder_written_atomically(path) as folder, writing_tensors(path):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _keep_layers(model: Any, kept: list[int]) -> None:
    n_layers = model.config.num_hidden_layers
    stacks = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == n_layers
    ]
    if len(stacks) != 1:
        raise ModelError(
            f"{type(model).__name__}: {len(stacks)} stacks of {n_layers} layers in it, and one is wanted",
            hint="pruning knows decoders with one stack of layers",
        )
    parent, name = stacks[0]
    setattr(parent, name, nn.ModuleList(getattr(parent, name)[i] for i in kept))
    model.config.num_hidden_layers = len(kept)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[i] for i in kept]
