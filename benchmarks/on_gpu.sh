#!/usr/bin/env bash
# What needs a GPU, in steps of at most $SECONDS_A_STEP, without the network. A step writes its results as it goes: what was measured
# before it was ended from outside is in $RESULTS.
#
#   benchmarks/on_gpu.sh STEP…              on a machine with a GPU
#   benchmarks/on_gpu.sh                    all steps but corel5k and networks, one after another
#   benchmarks/on_gpu.sh --dry-run STEP…    small sizes, on any machine: what needs a GPU says so and is counted
#
# Steps: environment (versions and the GPU tests), trunk (variants × batches), kernels (nearest centre by each method, VLAD, K-means,
# against flash-kmeans and others), after-trunk (transform, word sums, ranking), end-to-end, decode, profile, scaling; corel5k, networks.
#
# It needs torch for CUDA, CuPy, pytest and this package's other requirements; cuML where PCA and K-means should use it; faiss-gpu,
# fastkmeans, flash-kmeans and matplotlib where the benchmarks should compare with them and draw.
# Environment: PYTHON (python3), RESULTS (benchmarks/results), SECONDS_A_STEP (470), CUML_BUNDLE (cuML packed for a machine that cannot
# install it: benchmarks/cuml_bundle.py), CUML_FOLDER (where it is unpacked), WHEELS (folder of wheels of requirements that it lacks),
# COREL5K (folder of the data set), NETWORKS (fixed or all).
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
export RESULTS=${RESULTS:-$PWD/benchmarks/results}
SECONDS_A_STEP=${SECONDS_A_STEP:-470}
STEPS=(environment trunk kernels after-trunk end-to-end decode profile scaling)
quick=() once=()
[ "${1:-}" = "--dry-run" ] && quick=(--quick) once=(--repeats 1) && shift
[ $# -gt 0 ] && STEPS=("$@")
mkdir -p "$RESULTS"
failed=0
waiting=0

run() { # run NAME COMMAND…: exit code 3 means that there is no GPU, 124 that the step's time was over
    local name=$1 code=0
    shift
    echo "== $name: $*"
    timeout --kill-after=10 "$SECONDS_A_STEP" "$@" || code=$?
    if [ "$code" = 3 ] && [ ${#quick[@]} -gt 0 ]; then
        waiting=$((waiting + 1))
        echo "-- $name: waits for a GPU"
    elif [ "$code" = 124 ]; then
        failed=$((failed + 1))
        echo "-- $name: not done in $SECONDS_A_STEP s; what was measured is kept"
    elif [ "$code" != 0 ]; then
        failed=$((failed + 1))
        echo "-- $name: FAILED ($code)"
    fi
}

benchmarks() { # benchmarks STEP NAME…
    local step=$1
    shift
    run "$step" "$PYTHON" -m benchmarks --device cuda ${quick[@]+"${quick[@]}"} ${once[@]+"${once[@]}"} --only "$@" --write "$machine-$step"
}

gpu_tests() {
    local report="$RESULTS/$machine-tests.txt"
    # A test module whose import needs a package that is not there is reported, and keeps no other from running.
    local always=(-m gpu --continue-on-collection-errors)
    if [ ${#quick[@]} -gt 0 ]; then
        "$PYTHON" -m pytest "${always[@]}" -q ${TESTS:-} | tee "$report"
    else
        # Warnings of other versions of torch, CuPy or cuML than those of CI are shown, not errors.
        FAIL_WITHOUT_CUDA=1 "$PYTHON" -m pytest "${always[@]}" -v -W default ${TESTS:-} | tee "$report"
    fi
}

one_step() {
    case $1 in
        environment)
            run environment "$PYTHON" -m gpuannot info
            export -f gpu_tests
            export PYTHON TESTS machine
            run tests bash -c "set -o pipefail; quick=(${quick[*]+"${quick[*]}"}); gpu_tests"
            ;;
        trunk) benchmarks trunk trunk ;;
        kernels) benchmarks kernels nearest_center vlad codebook ;;
        after-trunk) benchmarks after-trunk descriptors words ranking ;;
        end-to-end) benchmarks end-to-end end_to_end ;;
        scaling) benchmarks scaling scaling ;;
        decode) run decode "$PYTHON" -m benchmarks.bench_decode_gpu ${quick[@]+"${quick[@]}"} ${once[@]+"${once[@]}"} --write "$machine-decode" ;;
        profile) run profile "$PYTHON" -m benchmarks.profile_annotate ${quick[@]+"${quick[@]}"} --write "$machine-profile" ;;
        corel5k)
            run corel5k "$PYTHON" -m gpuannot reproduce corel5k --data "${COREL5K:?}" --seeds 5 --device cuda \
                -o "$RESULTS/corel5k-paper-embedded-cuda.json"
            ;;
        networks) # takes hours: raise SECONDS_A_STEP
            run networks "$PYTHON" -m gpuannot reproduce corel5k --data "${COREL5K:?}" --table --networks "${NETWORKS:-fixed}" \
                --only pixels --device cuda -o "$RESULTS/corel5k-networks-cuda.json"
            ;;
        *)
            echo "no step '$1'; there are environment, trunk, kernels, after-trunk, end-to-end, decode, profile, scaling, corel5k, networks"
            exit 2
            ;;
    esac
}

if [ -n "${WHEELS:-}" ]; then
    wheels=$(mktemp -d)
    "$PYTHON" -m pip install -q --no-index --no-deps --target "$wheels" "$WHEELS"/*.whl || exit 1
    export PYTHONPATH="$wheels${PYTHONPATH:+:$PYTHONPATH}"
fi
# kernels/ becomes gpuannot.kernels by installing: from the checkout, with what is there.
device_name() {
    "$PYTHON" -c 'import gpuannot.kernels, torch
print("gpu-" + torch.cuda.get_device_name(0).replace(" ", "-").lower() if torch.cuda.is_available() else "no-gpu")'
}
machine=$(device_name 2>/dev/null)
if [ -z "$machine" ]; then
    "$PYTHON" -m pip install -q --no-deps --no-build-isolation -e . && machine=$(device_name) || exit 1
fi
if [ -n "${CUML_BUNDLE:-}" ]; then
    found=$("$PYTHON" -m benchmarks.cuml_bundle "$CUML_BUNDLE" "${CUML_FOLDER:-${TMPDIR:-/tmp}/gpuannot-cuml}") || exit 1
    export PYTHONPATH="$found${PYTHONPATH:+:$PYTHONPATH}"
fi
for step in "${STEPS[@]}"; do
    one_step "$step"
done
echo "== done: $failed failed, $waiting waiting for a GPU"
exit $((failed > 0))
