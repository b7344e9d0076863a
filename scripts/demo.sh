#!/usr/bin/env bash
# The whole way once: checkpoint -> INT4 bundle -> verified -> judged against full precision ->
# simulated arm -> film and figures.
#   scripts/demo.sh VENV FOLDER [TASK...]
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1/bin demo=$2
shift 2
# On the desk of this seed no cube is in the way of another one, nor of the mark.
seed=374
if [ $# = 0 ]; then
  set -- "touch the green cube" "put the red cube in the bin" "push the blue cube to the mark"
fi
tasks=()
for task in "$@"; do
  tasks+=(--task "$task")
done

"$bin/python" -m sim.gl --install
rm -rf "$demo"
mkdir -p "$demo"
"$bin/molmoact-quantize" build checkpoints/nano "$demo/bundle" --recipe int4
"$bin/molmoact-quantize" verify "$demo/bundle"
"$bin/molmoact-quantize" build checkpoints/nano "$demo/whole" --recipe fp32
"$bin/molmoact-quantize" gate "$demo/bundle" --against "$demo/whole" --episodes sim \
  --samples 30 --trials 0
exec "$bin/molmoact-edge" run "$demo/bundle" --profile sim "${tasks[@]}" --task-seconds 20 \
  --seed "$seed" --depth incremental \
  --report "$demo/report.json" --record "$demo" --black-box "$demo/run.box"
