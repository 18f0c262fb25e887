#!/usr/bin/env bash
# Sets up, then distils SmolLM2-135M-Instruct into a student of half its layers, on the logs in examples/logs.
# Run again: what is finished is passed over.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
sad=.venv/bin/sadstream
out=${1:-demo}

run() { printf '\n$ sadstream %s\n' "$*" >&2; "$sad" "$@"; }
run segment examples/logs --out "$out/spans" --holdout 0.25
run prune-student smollm2-135m --layers 15 --keep ends --out "$out/student"
run cache-teacher "$out/spans" --teacher smollm2-135m --out "$out/teacher"
run train "$out/teacher" --student "$out/student" --out "$out/run" --epochs 5 --batch-tokens 350 --lr 5e-4

printf '\nThe student, loaded in transformers, on runs that it was not trained on, beside the log and its teacher:\n'
.venv/bin/python -W ignore examples/say.py "$out/run/model" "$out/teacher"
cat <<END

Written: $out/spans, $out/student, $out/teacher, $out/run/model (what transformers and vLLM load),
         $out/run/curves.png (the picture), $out/run/metrics.jsonl
Next, on your own logs:
  .venv/bin/sadstream segment PATH/TO/YOUR/LOGS --out spans
  .venv/bin/sadstream inspect spans
END
