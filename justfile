# List the recipes
default:
    @just --list

# Make .venv
setup:
    bash scripts/setup.sh

# Lint, types, import direction, tests
test *ARGS:
    bash scripts/check.sh {{ARGS}}

# Everything of `test` but the tests
lint:
    .venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && .venv/bin/lint-imports --no-cache

# Write schemas/v1 from the types
schemas:
    .venv/bin/python -m tests.golden

# Raw logs to a distilled student, on the logs in examples/logs
demo:
    bash scripts/quickstart.sh

# How fast logs are read: a folder of real logs as argument
bench LOGS:
    POLARS_MAX_THREADS=1 .venv/bin/python benchmarks/reading.py {{LOGS}}

# sdist and wheel
build:
    .venv/bin/python -m pip wheel --no-deps --wheel-dir dist .
