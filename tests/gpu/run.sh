#!/usr/bin/env bash
# Everything that needs a GPU, in one command and without a network.
#
#   bash tests/gpu/run.sh [FOLDER_OF_PEER_WHEELS]
#
# Needs torch 2.11 or so, nvcc of the same CUDA major, pytest, timm and transformers. Peers, and packages that the
# training tests need, are installed from the folder into a place of their own where they are not there already; what is
# found in neither is left out by name. Results: $OUT (default: a new folder).
set -u
cd "$(dirname "$0")/../.."
OUT=${OUT:-$(mktemp -d)}
export DINO_NB_HOME="$OUT/home" PYTHONPATH="$PWD:$OUT/peers${PYTHONPATH:+:$PYTHONPATH}"
PYTHON=${PYTHON:-python3}
failed=0

for package in torch_ms_deform_attn deformops pycocotools scipy defusedxml tqdm; do
  "$PYTHON" -c "import $package" 2>/dev/null && continue
  wheels=$(ls "${1:-/nonexistent}"/${package}-*.whl 2>/dev/null)
  if [ -n "$wheels" ] && "$PYTHON" -m pip install -q --no-index --no-deps --find-links "$1" --target "$OUT/peers" $package; then
    echo "installed: $package"
  else
    echo "left out, being neither installed nor in the folder: $package"
  fi
done

step() { # NAME COMMAND...: runs it, keeps its output, notes result and time
  local name=$1 start=$SECONDS result
  shift
  if "$@" > "$OUT/$name.txt" 2>&1; then result=passed; else result=FAILED failed=1; tail -n 30 "$OUT/$name.txt"; fi
  printf '%-12s %-8s %4d s   %s\n' "$name" "$result" $((SECONDS - start)) \
    "$(grep -E 'passed|failed|built in' "$OUT/$name.txt" | tail -n 1)" >> "$OUT/table.txt"
}

: > "$OUT/table.txt"
nvidia-smi --query-gpu=name,driver_version,compute_cap --format=csv,noheader || { echo "no GPU here"; exit 1; }
step build "$PYTHON" -m dino_nb build-ops --force
step tests "$PYTHON" -m pytest -m gpu tests/gpu
step emulation "$PYTHON" -m pytest tests/ops/test_cuda_emulated.py
step benchmark "$PYTHON" -m tests.benchmarks.op --device cuda --repeat 20
step model "$PYTHON" -m dino_nb bench --device cuda
step training "$PYTHON" -m tests.benchmarks.train_step --device cuda --steps 5 --batch 2

cat "$OUT/benchmark.txt"
tail -n 4 "$OUT/model.txt"
cat "$OUT/training.txt"
echo
cat "$OUT/table.txt"
exit $failed
