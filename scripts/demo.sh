#!/usr/bin/env bash
# The whole way once: checkpoint -> INT4 bundle -> verified -> judged -> simulated arm -> film.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1/bin demo=$2 task=$3

"$bin/python" -m sim.gl --install
rm -rf "$demo"
mkdir -p "$demo"
"$bin/molmoact-quantize" build checkpoints/nano "$demo/bundle" --recipe int4
"$bin/molmoact-quantize" verify "$demo/bundle"
# What the arm would do is compared with full precision here, on this machine's kernels; trials,
# which take minutes, are left to `make gate`.
"$bin/molmoact-quantize" build checkpoints/nano "$demo/whole" --recipe fp32
"$bin/molmoact-quantize" gate "$demo/bundle" --against "$demo/whole" --episodes sim --trials 0 \
  --samples 30
exec "$bin/molmoact-edge" run "$demo/bundle" --profile sim --task "$task" --depth incremental \
  --seconds 20 --report "$demo/report.json" --record "$demo" --black-box "$demo/run.box"
