"""What a student says beside its teacher on held-out runs: python examples/say.py RUN/model TEACHER_SHARDS"""

import json
import sys
from itertools import pairwise
from pathlib import Path

import polars as pl
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

import sadstream
from sadstream.model_files import resolve_model

NAMES = {1: "REASON", 2: "ACT"}
OPENING = 4  # tokens: a label such as `Thought 1:`
ROOM = 24  # tokens that are written, at most
WIDTH = 90  # characters that are shown


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def held_out_windows(shards):
    """Samples of the held-out split, with the format of each."""
    index = sadstream.scan_index(shards).filter(pl.col("split") == "holdout").select("key", "format").collect()
    formats = dict(index.iter_rows())
    for key, data in sadstream.iter_samples(shards):
        if key in formats:
            yield formats[key], sadstream.decode_teacher_sample(data)


def spans_of(window):
    """Kind, start and stop of the agent's spans, in tokens; spans of one kind that touch count as one."""
    kinds = window["kinds"]
    edges = [0, *(i for i in range(1, len(kinds)) if kinds[i] != kinds[i - 1]), len(kinds)]
    return [(int(kinds[a]), a, b) for a, b in pairwise(edges) if kinds[a] in NAMES]


@torch.inference_mode()
def agreement(model, windows):
    """By kind, at a span's opening and after it: for each token, whether the model's likeliest is the teacher's."""
    found = {(kind, part): [] for kind in NAMES for part in ("opening", "rest")}
    for _, window in windows:
        ids = torch.from_numpy(window["token_ids"].astype("int64"))
        likeliest = model(ids[None]).logits[0].argmax(-1)
        teachers = dict(zip(window["positions"].tolist(), window["topk_ids"][:, 0].tolist(), strict=True))
        for kind, start, stop in spans_of(window):
            for i in range(max(start, 1), stop):
                found[kind, "opening" if i < start + OPENING else "rest"].append(int(likeliest[i - 1]) == teachers[i])
    return found


@torch.inference_mode()
def go_on(model, tokenizer, prompt):
    """The likeliest words after a prompt, to the end of the first line that holds any."""
    written = model.generate(
        prompt[None], attention_mask=torch.ones_like(prompt[None]), max_new_tokens=ROOM, do_sample=False
    )
    return line(tokenizer, written[0, len(prompt) :])


def line(tokenizer, ids):
    words = tokenizer.decode(ids, skip_special_tokens=True).strip().split("\n")[0].strip()
    return words if len(words) < WIDTH else f"{words[:WIDTH]}..."


transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
student_folder, shards = sys.argv[1:3]
teacher_name = json.loads(Path(shards, "manifest.json").read_text())["totals"]["teacher"]
tokenizer = AutoTokenizer.from_pretrained(student_folder)
student, teacher = load(student_folder), load(resolve_model(teacher_name, print))
windows = list(held_out_windows(shards))

# At the second step: the run has shown by then how its steps are written, which nobody told teacher or student.
for name, window in dict(reversed(windows)).items():
    ids = torch.from_numpy(window["token_ids"].astype("int64"))
    second = spans_of(window)[2:4]
    for kind, start, stop in second:
        if start == second[0][1]:
            print(f"\n{name}: ... {' '.join(tokenizer.decode(ids[:start], skip_special_tokens=True).split())[-WIDTH:]}")
        print(f"  {NAMES[kind]:7} log      {line(tokenizer, ids[start:stop])}")
        print(f"          teacher  {go_on(teacher, tokenizer, ids[:start])}")
        print(f"          student  {go_on(student, tokenizer, ids[:start])}")

print(f"\nLikeliest token the teacher's, {len(windows)} held-out windows, words before it as logged:")
for (kind, part), hits in agreement(student, windows).items():
    what = f"first {OPENING} tokens of a span" if part == "opening" else "all after them"
    print(f"  {NAMES[kind]:7} {what:26} {sum(hits) / max(1, len(hits)):4.0%} of {len(hits)}")
