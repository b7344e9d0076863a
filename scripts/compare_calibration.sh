#!/usr/bin/env bash
# What calibration changes, on one checkpoint: products, and actions of whole bundles.
#
#   scripts/compare_calibration.sh .venv runs/nano/depth/checkpoint comparison data/demos data/demos_held_out
#
# Arguments: environment, checkpoint, folder for what is made, episodes to calibrate on, episodes to
# judge on. What is there already is kept, so an interrupted comparison goes on. Where
# .venv-calibration exists (make setup-calibration) optimum's ORTQuantizer is compared too.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -eq 5 ] || { sed -n 2,8p "$0" | cut -c3- >&2; exit 2; }
env=$1 checkpoint=$2 out=$3 episodes=$4 held_out=$5
quantize="$env/bin/molmoact-quantize" bench="$env/bin/molmoact-bench"
mkdir -p "$out"

build() { # name, options
  local bundle="$out/$1"
  shift
  [ -d "$bundle" ] || "$quantize" build "$checkpoint" "$bundle" "$@"
}
record() { # name, episodes, options
  local file="$out/$1.safetensors"
  [ -f "$file" ] || "$quantize" calibrate "$out/whole" "$file" --episodes "$2" "${@:3}"
}

build whole --recipe fp32
record calibration "$episodes"
record held_out "$held_out" --seed 1
calibrated=(--calibration "$out/calibration.safetensors")
static=(--set 'vision/*=int8-static' --set 'vision/patch_embedding=fp32' --set 'decoder/blocks*=int8-static')
wide=(--set 'expert/blocks*=int8-block128')
build int4 --recipe int4
build int4-calibrated --recipe int4 "${calibrated[@]}"
build int8-wide --recipe int8 "${wide[@]}"
build int8-wide-calibrated --recipe int8 "${wide[@]}" "${calibrated[@]}"
build int8 --recipe int8
build int8-calibrated --recipe int8 "${calibrated[@]}"
build int8-static --recipe int8 "${static[@]}" "${calibrated[@]}"
bundles=(int4 int4-calibrated int8-wide int8-wide-calibrated int8 int8-calibrated int8-static)
if [ -x .venv-calibration/bin/molmoact-quantize ]; then
  [ -d "$out/ort-static" ] || .venv-calibration/bin/molmoact-quantize static "$out/whole" \
    "$out/ort-static" --episodes "$episodes" --observations 32
  bundles+=(ort-static)
fi
"$quantize" compare "$out/whole" "${bundles[@]/#/$out/}" --inputs "$out/held_out.safetensors" --matrices \
  >"$out/products.txt"
sed '$d' "$out/products.txt" | grep -vE '^(vision|decoder|context|expert)/'
for name in "${bundles[@]}"; do
  [ -f "$out/$name.json" ] || "$bench" fidelity "$out/$name" --against "$out/whole" \
    --episodes "$held_out" --json "$out/$name.json" >"$out/$name.txt"
  echo "$name: $(grep 'gripper tip' "$out/$name.txt")"
done
