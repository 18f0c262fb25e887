#!/usr/bin/env bash
# The closed circle on ALFWorld: a student learns from an expert's episodes, then plays two on-policy rounds in which the
# teacher scores what the student did. Sizes are small, so that it ends on two cores, and so are the figures; each can be
# set from outside. Run again: what is finished is passed over, what was interrupted continues.
set -euo pipefail
cd "$(dirname "$0")/.."
sad=${SADSTREAM:-.venv/bin/sadstream}
out=${1:-circle}
teacher=${TEACHER:-smollm2-135m}
games=${GAMES:-24}          # of the expert's, from the training split
rollouts=${ROLLOUTS:-8}     # of the student's a round, from the training split, other games a round
tasks=${TASKS:-24}          # to evaluate on, from valid_unseen
turns=${TURNS:-20}          # at most, an episode
play=(--env alfworld --max-steps "$turns" --max-new-tokens 64 --seats "${SEATS:-12}")
learn=(--batch-tokens 700)

run() { printf '\n$ sadstream %s\n' "$*" >&2; $sad "$@"; }
run collect --env alfworld --agent expert --limit "$games" --out "$out/expert"
run segment "$out/expert" --out "$out/spans-0"
run collect --env alfworld --agent expert --split valid_unseen --limit "$tasks" --out "$out/reference"
run segment "$out/reference" --out "$out/reference-spans"

# Round 0: the expert gives no probabilities, so what it wrote is imitated. Each round is judged on the same tasks.
run prune-student "$teacher" --layers "${LAYERS:-6}" --out "$out/student"
run cache-teacher "$out/spans-0" --teacher "$teacher" --out "$out/teacher-0"
run train "$out/teacher-0" --student "$out/student" --objective imitation --epochs "${EPOCHS:-4}" --lr 1e-3 "${learn[@]}" \
  --out "$out/round-0"
run evaluate "$out/round-0/model" "${play[@]}" --limit "$tasks" --reference "$out/reference-spans" --out "$out/results-0"

# Rounds 1 and 2: the student acts, the teacher scores what it wrote, the student learns from that.
for round in 1 2; do
  before=$out/round-$((round - 1))/model
  run collect --agent "$before" --keep all --limit "$rollouts" --seed "$round" "${play[@]}" --out "$out/played-$round"
  run segment "$out/played-$round" --out "$out/spans-$round"
  run cache-teacher "$out/spans-$round" --teacher "$teacher" --out "$out/teacher-$round"
  run train "$out/teacher-$round" --student "$before" --lr 1e-4 "${learn[@]}" --out "$out/round-$round"
  run evaluate "$out/round-$round/model" "$before" "${play[@]}" --limit "$tasks" --reference "$out/reference-spans" \
    --out "$out/results-$round"
done
printf '\nWritten: results.json and success.png in %s/results-0, -1 and -2\n' "$out"
