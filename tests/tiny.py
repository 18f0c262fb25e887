"""Small things made on the spot: a tokenizer, models, logs. No network, fixed seeds."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

BOS, END = "<|bos|>", "<|end|>"
N_LAYERS = 4

_NAMES = ("Ada", "Nick Park", "Grace", "Édith Piaf", "Noether", "李白", "Kepler", "Lise")
_PLACES = ("Rome", "Århus", "Lagos", "Ōsaka", "Quito", "Oslo")


def question(number: int) -> str:
    return f"Where was {_NAMES[number % len(_NAMES)]} in year {1900 + number}?"


def react_text(number: int) -> str:
    """A run in ReAct style with 1 to 3 steps, some of it not ASCII."""
    name, place = _NAMES[number % len(_NAMES)], _PLACES[number % len(_PLACES)]
    text = f"Question: {question(number)}\n"
    for step in range(1, 2 + number % 3):
        text += (
            f"Thought {step}: I look for {name} once more, try {step} 🔎.\n"
            f"Action {step}: Search[{name} {place}]\n"
            f"Observation {step}: {name} lived in {place} for {number} years.\n"
        )
    last = 2 + number % 3
    return f"{text}Thought {last}: So it is {place}.\nAction {last}: Finish[{place}]\n"


def write_logs(path: Path, n_runs: int) -> Path:
    path.write_text(
        "".join(
            json.dumps({"id": f"run-{n}", "task": question(n), "text": react_text(n)}) + "\n" for n in range(n_runs)
        ),
        encoding="utf-8",
    )
    return path


def make_tokenizer(*, n_extra: int = 0, adds_bos: bool = True, vocab_size: int = 340) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on the runs; `n_extra` further tokens make it another tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[BOS, END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([react_text(n) for n in range(24)], trainer)
    tokenizer.add_tokens([f"extra{n}" for n in range(n_extra)])
    if adds_bos:
        tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=True),
                processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]),
            ]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=END)


def save_model(config: Any, path: Path, *, seed: int = 0, tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    """A random model of a configuration; its weights are large enough that it has opinions."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.4)
    model.save_pretrained(path)
    (tokenizer or make_tokenizer()).save_pretrained(path)
    return path


def llama_config(vocab_size: int, **changes: Any) -> LlamaConfig:
    return LlamaConfig(
        **{
            "vocab_size": vocab_size,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": N_LAYERS,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": None,
            **changes,
        }
    )
