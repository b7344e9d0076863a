#!/usr/bin/env bash
# Every stage of training at nano size, in short: demonstrations, MolmoER, action tokens, expert,
# depth, a bundle; then whether the losses fell and what came out acts alike in LeRobot's model.
#
#   scripts/train_smoke.sh .venv smoke
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD venv=$PWD/$1 out=$2
rm -rf "$out"
mkdir "$out"
cd "$out"
"$venv/bin/python" -m sim.gl --install
started=$SECONDS
make --no-print-directory -f "$root/scripts/train_nano.mk" \
  BIN="$venv/bin" RECIPES="$root/training/recipes/nano" \
  EPISODES=12 SIZE=160x120 QUESTIONS="--train 1200 --test 60" \
  CODEC="--steps 60 --hidden 8 --stretch dataset" STEPS=60
"$venv/bin/python" "$root/scripts/check_chain.py" runs/nano data/demos
echo "all stages in $((SECONDS - started)) s; curves in $out/runs/nano/*/losses.png"
