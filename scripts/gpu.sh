#!/usr/bin/env bash
# What to type on a machine with a GPU: prints its card and runs the training benchmark in bfloat16.
# With `--device cpu --small` it goes through the same without one.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH="$PWD:$PWD/schemas:$PWD/cli"
if [ $# -eq 0 ]; then
    command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
    set -- --device cuda
fi
"$python" benchmarks/training.py --dtype bfloat16 "$@"
