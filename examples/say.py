"""Let the trained model go on from a held-out prompt: python examples/say.py RUN/model SPANS"""

import sys

import polars as pl
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

import sadstream

transformers.utils.logging.disable_progress_bar()
model_folder, spans = sys.argv[1:3]
held_out = sadstream.scan_index(spans).filter(pl.col("split") == "holdout").select("id").collect()["id"]
rows = sadstream.scan_shards(spans).filter(pl.col("id").is_in(held_out.implode())).collect()
row = rows.row(0, named=True)
prompt = row["text"][: row["spans"][0]["stop"]]

tokenizer = AutoTokenizer.from_pretrained(model_folder)
model = AutoModelForCausalLM.from_pretrained(model_folder)
inputs = tokenizer(prompt, return_tensors="pt")
with torch.inference_mode():
    written = model.generate(**inputs, max_new_tokens=48, do_sample=False, pad_token_id=tokenizer.eos_token_id)
print(f"... {prompt[-160:]}", end="")
print(f"[the student goes on] {tokenizer.decode(written[0, inputs['input_ids'].shape[1] :])}")
