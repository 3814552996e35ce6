#!/usr/bin/env bash
# Everything that needs a GPU, in one go and without the network: the GPU tests, all benchmarks with the peers that are installed,
# their charts, and the Corel5k experiment where its images are. Results go to benchmarks/results (or to $RESULTS).
#
#   benchmarks/on_gpu.sh                 on a machine with a GPU
#   benchmarks/on_gpu.sh --dry-run       on any machine: every step is started; those that need a GPU say so and are counted
#
# It needs torch for CUDA, CuPy, pytest and this package's other requirements; cuML where PCA and K-means should use it; faiss-gpu,
# fastkmeans, flash-kmeans and matplotlib where the benchmarks should compare with them and draw.
# Environment: PYTHON (python3), RESULTS (benchmarks/results), COREL5K (folder of the data set; left out where unset), NETWORKS (fixed
# or all: also train the networks of the comparison on COREL5K).
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
RESULTS=${RESULTS:-benchmarks/results}
DRY_RUN=0
[ "${1:-}" = "--dry-run" ] && DRY_RUN=1
mkdir -p "$RESULTS"
failed=0
waiting=0

step() { # step NAME COMMAND…: exit code 3 means that there is no GPU
    local name=$1 code=0
    shift
    echo "== $name: $*"
    "$@" || code=$?
    if [ "$code" = 3 ] && [ "$DRY_RUN" = 1 ]; then
        waiting=$((waiting + 1))
        echo "-- $name: waits for a GPU"
    elif [ "$code" != 0 ]; then
        failed=$((failed + 1))
        echo "-- $name: FAILED ($code)"
    fi
}

gpu_tests() {
    if [ "$DRY_RUN" = 1 ]; then
        "$PYTHON" -m pytest -m gpu -q
    else
        # Warnings of other versions of torch, CuPy or cuML than those of CI are shown, not errors.
        FAIL_WITHOUT_CUDA=1 "$PYTHON" -m pytest -m gpu -q -W default
    fi
}

# kernels/ becomes gpuannot.kernels by installing: from the checkout, with what is there.
"$PYTHON" -c 'import gpuannot.kernels' 2>/dev/null || "$PYTHON" -m pip install -q --no-deps --no-build-isolation -e . || exit 1

step "environment" "$PYTHON" -m gpuannot info
step "tests" gpu_tests
if [ "$DRY_RUN" = 1 ]; then
    step "benchmarks" "$PYTHON" -m benchmarks --device cuda --quick
    step "decoding" "$PYTHON" -m benchmarks.bench_decode_gpu --quick
else
    name="gpu-$("$PYTHON" -c 'import torch; print(torch.cuda.get_device_name(0).replace(" ", "-").lower())')"
    step "benchmarks" "$PYTHON" -m benchmarks --device cuda --write "$name"
    "$PYTHON" -c 'import matplotlib' 2>/dev/null && step "charts" "$PYTHON" -m benchmarks.plot "benchmarks/results/$name.json"
    step "decoding" "$PYTHON" -m benchmarks.bench_decode_gpu --write "$name-decode"
    [ "$RESULTS" = benchmarks/results ] || cp "benchmarks/results/$name"*.json "$RESULTS/"
    if [ -n "${COREL5K:-}" ]; then
        step "corel5k" "$PYTHON" -m gpuannot reproduce corel5k --data "$COREL5K" --seeds 5 --device cuda \
            -o "$RESULTS/corel5k-paper-embedded-cuda.json"
        if [ "${NETWORKS:-none}" != none ]; then # training takes longer than all else together
            step "networks" "$PYTHON" -m gpuannot reproduce corel5k --data "$COREL5K" --table --networks "$NETWORKS" --only pixels \
                --device cuda -o "$RESULTS/corel5k-networks-cuda.json"
        fi
    fi
fi
echo "== done: $failed failed, $waiting waiting for a GPU"
exit $((failed > 0))
