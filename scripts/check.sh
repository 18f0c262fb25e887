#!/usr/bin/env bash
# Sets up if needed, then lint, types, import direction and the tests. What CI runs.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
bin=.venv/bin
$bin/ruff check .
$bin/ruff format --check .
$bin/mypy
$bin/lint-imports --no-cache
$bin/python -m pytest -n 2 "$@"
