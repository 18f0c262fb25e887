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

# Speed, as ratios against peers: segment LOGS, caching, stream, environments, training, acting, reading LOGS
bench WHAT *ARGS:
    OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 .venv/bin/python benchmarks/{{WHAT}}.py {{ARGS}}

# Break modules on purpose; see whether their tests notice (segment, cut, labels, utf8, score, tokens, losses)
mutate *ARGS:
    nice .venv/bin/python scripts/mutate.py {{ARGS}}

# Compare with the real thing, each in a venv of its own: alfworld, vllm, serve
real WHAT *ARGS:
    bash scripts/real_{{WHAT}}.sh {{ARGS}}

# The closed circle on ALFWorld, two on-policy rounds: collect, segment, cache, train, evaluate, collect again
circle *ARGS:
    bash scripts/circle.sh {{ARGS}}

# The training benchmark in bfloat16 on this machine's GPU
gpu *ARGS:
    bash scripts/gpu.sh {{ARGS}}

# A run killed ten times at random against one left alone
long-crash *ARGS:
    .venv/bin/python scripts/long_crash.py {{ARGS}}

# cache-teacher killed ten times at random against one left alone
cache-crash *ARGS:
    .venv/bin/python scripts/cache_crash.py {{ARGS}}

# Teacher shards behind a real S3 server and a plain web server, which break on the way
remote *ARGS:
    .venv/bin/python scripts/remote_shards.py {{ARGS}}

# sdist and wheel
build:
    .venv/bin/python -m pip wheel --no-deps --wheel-dir dist .
