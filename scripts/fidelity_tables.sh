#!/usr/bin/env bash
# What docs/fidelity.md says of a checkpoint: success against bits, ablations, targets.
#
#   scripts/fidelity_tables.sh .venv checkpoints/nano data/skill/demos tables
#
# Arguments: environment, checkpoint, the episodes it was trained on (to calibrate with), folder for
# what is made. What is there already is kept and trials that were done are not done again, so an
# interrupted run goes on. TRIALS=300 WORKERS=2 AUTO=4MiB.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -eq 4 ] || { sed -n 2,8p "$0" | cut -c3- >&2; exit 2; }
env=$1 checkpoint=$2 episodes=$3 out=$4
trials=${TRIALS:-300} workers=${WORKERS:-2} auto=${AUTO:-4MiB}
quantize="$env/bin/molmoact-quantize" bench="$env/bin/molmoact-bench"
mkdir -p "$out"

build() { # name, options
  [ -d "$out/$1" ] || "$quantize" build "$checkpoint" "$out/$1" "${@:2}"
}
fidelity() { # report, bundle, options
  [ -f "$out/$1.json" ] || "$bench" fidelity "$out/$2" --against "$out/fp32" --json "$out/$1.json" \
    "${@:3}" >"$out/$1.txt"
}
closed=(--trials "$trials" --workers "$workers" --journal "$out/trials.jsonl")

[ -d "$out/held_out" ] || "$env/bin/molmoact-train" demos "$out/held_out" --episodes 60 --seed 40 \
  --held-out --light-only --every 5 --workers "$workers"
build fp32 --recipe fp32
[ -f "$out/calibration.safetensors" ] ||
  "$quantize" calibrate "$out/fp32" "$out/calibration.safetensors" --episodes "$episodes"
build int8 --recipe int8
build int8-int4 --recipe int8-int4
build int4 --recipe int4
build int4-calibrated --recipe int4 --calibration "$out/calibration.safetensors"
build auto --recipe auto --max-bytes "$auto" --episodes sim --against "$out/fp32"
bundles=(fp32 int4-calibrated int8 int4 int8-int4 auto)
for name in "${bundles[@]}"; do
  fidelity "$name" "$name" --episodes "$out/held_out" "${closed[@]}"
done
fidelity depth-full fp32 --against-depth full "${closed[@]}"
fidelity depth-off fp32 --against-depth off "${closed[@]}"
fidelity chunking-off fp32 --against-chunking off "${closed[@]}"
for name in "${bundles[@]}"; do
  [ -f "$out/$name.latency" ] || { "$bench" latency "$out/$name" --profile sim --cameras 2 \
    --changed 30 >"$out/$name.partial" && mv "$out/$name.partial" "$out/$name.latency"; }
done
"$env/bin/python" scripts/fidelity_tables.py "$out" "${bundles[@]}"
