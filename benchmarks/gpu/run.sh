#!/usr/bin/env bash
# What a GPU makes of planning and training, on a machine that has nothing but Python 3.12, torch 2.11 and a GPU.
#
#   benchmarks/gpu/run.sh --pack          on a machine with a package index: gathers what else is needed
#   benchmarks/gpu/run.sh [OUT]           on the GPU machine: each section's result is in OUT when the section ends
#   benchmarks/gpu/run.sh --toy [OUT]     the same at toy size on the CPU, within seconds
#
# PYTHON chooses the interpreter; pack with the version that the GPU machine has. The limits below add up to 8 min 50 s; a section that runs past its own is stopped, and
# the next one begins. It fails at the end if any section did.
set -u
cd "$(dirname "$0")/../.." || exit 1
PYTHON=${PYTHON:-python3}
HERE=benchmarks/gpu

if [ "${1:-}" = --pack ]; then
  exec "$PYTHON" -m pip install --quiet --no-compile --upgrade --target "$HERE/site" --requirement "$HERE/requirements.txt"
fi

# The repository first; what was packed comes after what the machine has itself.
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}:$PWD/$HERE/site"

if [ "${1:-}" = --toy ]; then
  exec "$PYTHON" -m benchmarks.gpu.sections all --toy --out "${2:-results/gpu_toy}"
fi

OUT=${1:-${OUT:-results/gpu}}
mkdir -p "$OUT"
failed=""
section() {
  echo "== $1 (at most $2 s)"
  timeout --kill-after=5 "$2" "$PYTHON" -m benchmarks.gpu.sections "$1" --out "$OUT" || failed="$failed $1"
}
section machine 40
section planning 150
section compiled 110
section batch 80
section small 50
section training 100
# Stored latents against pixels, and one recipe trained and evaluated, are sections of their own once their parts exist.
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
