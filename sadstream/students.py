"""Students made ready to learn: loaded or at random, with adapters, recomputed or compiled, packed or not."""

import warnings
from pathlib import Path
from typing import Any

import torch

from sadstream.errors import ConfigError, ModelError
from sadstream.models import check_head, load_config, load_model
from sadstream.packing import takes_packed_rows
from sadstream.train_config import Packing, TrainConfig


def make_student(config: TrainConfig, path: Path, device: torch.device) -> Any:
    """A causal LM in float32, some or all of whose parameters learn; in evaluation mode.

    Args:
        path: its folder; with `init = "random"` its config.json.
    Raises:
        ModelError: it cannot be loaded or made. ConfigError: an option needs a package that is not installed.
    """
    if config.init == "random":
        model = _random_model(path, config.seed, device)
    else:
        model = load_model(path, device, torch.float32)
    if config.lora_rank:
        _add_adapters(model, config.lora_rank, config.seed)
    if config.gradient_checkpointing:
        with warnings.catch_warnings():
            # It has another name in newer versions of transformers, beside this one.
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def packs(model: Any, packing: Packing, device: torch.device, path: Path) -> bool:
    """Whether windows are laid behind one another in rows.

    Args:
        device: that `auto` looks at. path: of the model, for the message.
    Raises:
        ModelError: they are to be, and the model does not keep them apart.
    """
    if packing == "no" or (packing == "auto" and device.type == "cpu"):
        return False
    takes = takes_packed_rows(model)
    if packing == "yes" and not takes:
        raise ModelError(
            f'packing = "yes": {path}: {type(model).__name__} does not keep windows in one row apart',
            hint='"auto" pads where a model cannot pack',
        )
    return takes


def compile_body(model: Any) -> None:
    """Have torch compile what is before the head, in place, at its first call."""
    # Windows differ in length: without this, each length would be compiled anew.
    model.base_model.compile(dynamic=True)


def _random_model(path: Path, seed: int, device: torch.device) -> Any:
    from transformers import AutoModelForCausalLM

    configuration = load_config(path)
    torch.manual_seed(seed)
    try:
        model = AutoModelForCausalLM.from_config(configuration, dtype=torch.float32)
    except Exception as error:  # transformers raises many kinds for what is wrong in a configuration
        reason = str(error).split("\n")[0]
        raise ModelError(f"{path}: no model can be made of it: {reason}", hint="a causal LM's config.json") from error
    model = model.to(device).eval()
    check_head(model, path)
    return model


def _add_adapters(model: Any, rank: int, seed: int) -> None:
    """Freeze the model and put low-rank adapters into all its linear layers but the head, in place."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(f"lora_rank = {rank}: {error}", hint="pip install 'sadstream[lora]' (peft)") from error
    torch.manual_seed(seed)
    adapters = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    inject_adapter_in_model(adapters, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)


def merge_adapters(model: Any) -> None:
    """Put adapters into the weights that they adapt, in place: a plain model again. Without adapters, nothing."""
    adapted = [(name, module) for name, module in model.named_modules() if hasattr(module, "get_base_layer")]
    for name, module in adapted:
        module.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
        model._hf_peft_config_loaded = False
