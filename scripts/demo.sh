#!/usr/bin/env bash
# The whole way once: checkpoint -> INT4 bundle -> verified -> simulated arm -> film and figures.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1/bin demo=$2 task=$3

"$bin/python" -m sim.gl --install
rm -rf "$demo"
mkdir -p "$demo"
"$bin/molmoact-quantize" build checkpoints/nano "$demo/bundle" --recipe int4
"$bin/molmoact-quantize" verify "$demo/bundle"
exec "$bin/molmoact-edge" run "$demo/bundle" --profile sim --task "$task" --depth incremental \
  --seconds 20 --report "$demo/report.json" --record "$demo" --black-box "$demo/run.box"
