#!/usr/bin/env bash
# Everything that needs a GPU, in one command and without a network.
#
#   bash tests/gpu/run.sh                           all steps, most wanted first
#   bash tests/gpu/run.sh -p FOLDER bench train     these steps; peers are installed from FOLDER (wheels or sdists)
#   bash tests/gpu/run.sh --steps                   the names of the steps
#
# Needs torch, nvcc of the same CUDA major, pytest and timm. Packages that are neither installed nor in FOLDER are left
# out by name. Each step prints the end of its output when it is done, and leaves all of it in $OUT/STEP.txt (default: a
# new folder). What is built goes to $WORK (default: a temporary folder, removed at the end).
set -u
cd "$(dirname "$0")/../.."
STEPS="environment build tests bench train infer sanitize ptx"
peers=
chosen=
while [ $# -gt 0 ]; do
  case $1 in
    --steps) echo "$STEPS"; exit 0 ;;
    -p) peers=${2:?-p needs a folder}; shift ;;
    *)
      case " $STEPS " in *" $1 "*) chosen="$chosen $1" ;; *) echo "no step $1; the steps: $STEPS" >&2; exit 2 ;; esac ;;
  esac
  shift
done
OUT=${OUT:-$(mktemp -d)}
if [ -z "${WORK:-}" ]; then WORK=$(mktemp -d); trap 'rm -rf "$WORK"' EXIT; fi
PYTHON=${PYTHON:-python3}
export DINO_NB_HOME="$WORK/home" PYTHONPATH="$PWD:$WORK/peers${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONDONTWRITEBYTECODE=1 TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-}
[ -n "$TORCH_CUDA_ARCH_LIST" ] || unset TORCH_CUDA_ARCH_LIST
nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total --format=csv,noheader || { echo "no GPU here"; exit 1; }

for package in torch_ms_deform_attn deformops transformers pycocotools scipy defusedxml tqdm; do
  "$PYTHON" -c "import $package" 2>/dev/null && continue
  file=$(ls "${peers:-/nonexistent}" 2>/dev/null | grep -i "^${package//_/[-_]}-.*\(whl\|tar.gz\|zip\)$" | head -n 1)
  if [ -n "$file" ] && "$PYTHON" -m pip install -q --no-index --no-deps --no-build-isolation --target "$WORK/peers" \
      "$peers/$file" > "$WORK/pip.txt" 2>&1; then
    echo "installed: $file"
  else
    echo "left out: $package (${file:-neither installed nor given}$([ -n "$file" ] && tail -n 1 "$WORK/pip.txt" | cut -c1-200))"
  fi
done

command_of() { # STEP
  local tests="$PYTHON -m pytest -q -p no:cacheprovider --durations=0 --durations-min=5 -m gpu"
  case $1 in
    environment) echo "$PYTHON -c 'import torch, timm, sys; print(sys.version); print(torch.__version__, timm.__version__); print(torch.cuda.get_device_properties(0))' && nvcc --version | tail -n 2" ;;
    build) echo "$PYTHON -m dino_nb build-ops --force" ;;
    tests) echo "$tests tests/gpu" ;;
    bench) echo "$PYTHON -m tests.benchmarks.op --device cuda --graph --repeat 20 && $PYTHON -m tests.benchmarks.op --device cuda --repeat 5 --cases encoder decoder" ;;
    train) echo "$PYTHON -m tests.benchmarks.train_step --device cuda --steps 5 --batch 2 --variants published fp32 fp16 'fp32, recomputing'" ;;
    infer) echo "$PYTHON -m dino_nb bench --device cuda" ;;
    sanitize) echo "compute-sanitizer --tool memcheck --error-exitcode 9 $PYTHON -m tests.gpu.small && compute-sanitizer --tool racecheck --error-exitcode 9 $PYTHON -m tests.gpu.small" ;;
    # code of another architecture, as a T4 has it: the driver compiles it for this GPU
    ptx) echo "DINO_NB_CUDA_ARCHS=sm_75 $tests tests/gpu/test_op.py -k 'float64 or other_types or levels or deterministic'" ;;
  esac
}

failed=0
table=
for name in ${chosen:-$STEPS}; do
  start=$SECONDS
  if bash -c "$(command_of "$name")" > "$OUT/$name.txt" 2>&1; then result=passed; else result=FAILED; failed=1; fi
  line=$(printf '%-12s %-7s %4d s' "$name" "$result" $((SECONDS - start)))
  table="$table$line"$'\n'
  echo "== $line"
  tail -c 1200 "$OUT/$name.txt"
  echo
done
printf '%s' "$table"
echo "all output: $OUT"
exit $failed
