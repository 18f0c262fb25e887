#!/usr/bin/env bash
# `sadstream evaluate --endpoint` against a real `transformers serve` with the embedded model. Not part of the checks: it
# needs transformers[serving]. Each command can be named from outside; SERVE in an environment of its own:
#   python3 -m venv serve && serve/bin/pip install 'transformers[serving]==5.23.0' torch==2.13.0
#   SERVE=serve/bin/transformers bash scripts/real_serve.sh
set -euo pipefail
cd "$(dirname "$0")/.."
sad=${SADSTREAM:-.venv/bin/sadstream}
python=${PYTHON:-.venv/bin/python}
serve=${SERVE:-transformers}
out=${1:-served}
port=${PORT:-8123}
options=(--env alfworld --limit "${TASKS:-3}" --max-steps "${TURNS:-4}" --max-new-tokens 24 --prompt "${PROMPT:-few-shot}")

model=$($python -c 'from sadstream.model_files import resolve_model; print(resolve_model("smollm2-135m", print))' | tail -1)
# It lists what lies in the hub's cache, and fails where there is none.
mkdir -p "$out/hub"
HF_HUB_CACHE=$out/hub "$serve" serve "$model" --device cpu --dtype float32 --port "$port" &
server=$!
trap 'kill $server' EXIT
for _ in $(seq 60); do
  if "$python" -c "import urllib.request as u; u.urlopen('http://localhost:$port/health')" 2>/dev/null; then break; fi
  kill -0 $server
  sleep 2
done
$sad evaluate "$model" --endpoint "http://localhost:$port/v1" "${options[@]}" --seats 1 --out "$out/served"
$sad evaluate smollm2-135m --device cpu --dtype float32 "${options[@]}" --out "$out/local"
"$python" - "$out" "$(basename "$model")" <<'P'
import json, pathlib, sys

out, served = pathlib.Path(sys.argv[1]), sys.argv[2]
texts = []
for path in (out / "served" / served, out / "local" / "smollm2-135m"):
    lines = (path / "trajectories.jsonl").read_text(encoding="utf-8").splitlines()
    texts.append({row["task_id"]: row["text"] for row in map(json.loads, lines)})
same = sum(texts[1][task] == text for task, text in texts[0].items())
print(f"{same} of {len(texts[0])} greedy episodes are the same served and here")
sys.exit(not texts[0] or len(texts[0]) != len(texts[1]))
P
