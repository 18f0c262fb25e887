#!/usr/bin/env bash
# The closed circle on ALFWorld: a student learns from an expert's episodes, then plays two on-policy rounds in which the
# teacher scores what the student did. `bash scripts/circle.sh --help` says how to make it larger.
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  cat <<'H'
usage: bash scripts/circle.sh [FOLDER]          (default: circle)

The closed circle on ALFWorld: collect, segment, cache-teacher, train, evaluate; then twice: collect by the student, segment,
cache-teacher, train, evaluate. It ends in one table, a line a round, with 95 % Wilson intervals: FOLDER/results. Run again:
what is finished is passed over, what was interrupted continues.

Sizes are set from outside. The defaults take a quarter of an hour of one core, and figures are low accordingly:
  GAMES=24 EPOCHS=4    the expert's episodes, and how often round 0 learns from them
  ROLLOUTS=6           the student's episodes a round, from other games each time
  TASKS=12 TURNS=20    tasks of valid_unseen to evaluate on, and turns an episode at most
  LAYERS=6             the student's, of the teacher's 30
  TEACHER=smollm2-135m a path or a hub name
  DEVICE=auto SEATS=12 where models run, episodes side by side
On a GPU: GAMES=395 EPOCHS=3 ROLLOUTS=200 TASKS=105 TURNS=50 LAYERS=15 SEATS=64 TEACHER=owner/model bash scripts/circle.sh
H
  exit
fi
cd "$(dirname "$0")/.."
sad=${SADSTREAM:-.venv/bin/sadstream}
out=${1:-circle}
teacher=${TEACHER:-smollm2-135m}
games=${GAMES:-24}
tasks=${TASKS:-12}
where=(--device "${DEVICE:-auto}")
play=(--env alfworld --max-steps "${TURNS:-20}" --max-new-tokens 64 --seats "${SEATS:-12}" "${where[@]}")
learn=(--batch-tokens 700 "${where[@]}")

run() { printf '\n$ sadstream %s\n' "$*" >&2; $sad "$@"; }
run collect --env alfworld --agent expert --limit "$games" --out "$out/expert"
run segment "$out/expert" --out "$out/spans-0"
run collect --env alfworld --agent expert --split valid_unseen --limit "$tasks" --out "$out/reference"
run segment "$out/reference" --out "$out/reference-spans"
judge=(evaluate "${play[@]}" --limit "$tasks" --reference "$out/reference-spans" --out "$out/results")

# Round 0: the expert gives no probabilities, so what it wrote is imitated. Each round is judged on the same tasks.
run prune-student "$teacher" --layers "${LAYERS:-6}" --out "$out/student"
run cache-teacher "$out/spans-0" --teacher "$teacher" "${where[@]}" --out "$out/teacher-0"
run train "$out/teacher-0" --student "$out/student" --objective imitation --epochs "${EPOCHS:-4}" --lr 1e-3 "${learn[@]}" \
  --out "$out/round-0"
run "${judge[@]}" "$out/round-0/model"

# Rounds 1 and 2: the student acts, the teacher scores what it wrote, the student learns from that. Evaluated rounds are
# named again, so that they stand beside the new one; only that one is played.
rounds=("$out/round-0/model")
for round in 1 2; do
  before=$out/round-$((round - 1))/model
  run collect --agent "$before" --keep all --limit "${ROLLOUTS:-6}" --seed "$round" "${play[@]}" --out "$out/played-$round"
  run segment "$out/played-$round" --out "$out/spans-$round"
  run cache-teacher "$out/spans-$round" --teacher "$teacher" "${where[@]}" --out "$out/teacher-$round"
  run train "$out/teacher-$round" --student "$before" --lr 1e-4 "${learn[@]}" --out "$out/round-$round"
  rounds+=("$out/round-$round/model")
  run "${judge[@]}" "${rounds[@]}"
done
printf '\nWritten: %s/results/results.json and success.png: rounds 0, 1 and 2 on the same tasks\n' "$out"
