#!/usr/bin/env bash
# Compares our ALFWorld with the original engine, alfworld 0.4.2, in a .venv-alfworld of its own (it needs GPL-licensed
# parts, a C++ compiler, cmake and some minutes).
#   bash scripts/real_alfworld.sh [WALKTHROUGHS [RANDOM_WALKS]]      default 20 and 10; all: 500 40
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh

if ! .venv-alfworld/bin/python -c 'import alfworld, textworld' 2> /dev/null; then
  for tool in cmake c++; do
    command -v "$tool" > /dev/null || { echo "alfworld needs $tool to build" >&2; exit 1; }
  done
  echo "Setting up .venv-alfworld: alfworld 0.4.2 and what it needs ..." >&2
  .venv/bin/python -m venv .venv-alfworld
  .venv-alfworld/bin/python -m pip install --quiet --disable-pip-version-check alfworld==0.4.2
  # Ours, from .venv, after its own.
  .venv/bin/python -c 'import site; print(site.getsitepackages()[0])' \
    > "$(.venv-alfworld/bin/python -c 'import site; print(site.getsitepackages()[0])')/zz_sadstream.pth"
fi
export SADSTREAM_ALFWORLD_WALKTHROUGHS="${1:-20}" SADSTREAM_ALFWORLD_RANDOM_WALKS="${2:-10}"
.venv-alfworld/bin/python -m pytest -q tests/test_alfworld_engine.py
.venv-alfworld/bin/python benchmarks/environments.py alfworld
