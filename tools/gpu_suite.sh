#!/usr/bin/env bash
# Every check and measurement that needs a GPU, in two calls of under ten minutes, without a network.
#
#   tools/gpu_suite.sh OUT_FOLDER                        the most valuable figures first; then a verdict on the targets
#   tools/gpu_suite.sh OUT_FOLDER more                   the rest: small views, tricks, compilation, ranks, the sweep
#   CCLSLR_DRY_RUN=1 tools/gpu_suite.sh OUT_FOLDER       the same commands, tiny, on a CPU
#
# Each section writes NAME.json and NAME.log into OUT_FOLDER as soon as it measures, and suite.json is made anew after
# each: whatever kills the suite, what was measured is there. A section that fails or runs out of time is recorded as
# such and the suite goes on; it exits with 1 if there was one.
# Settings: PYTHON (default: .venv/bin/python, else python3), SUITE_SECONDS (default 580; 3600 dry), SUITE_CLIPS (default
# 128), SUITE_BATCH (default 16 clips a step).
set -uo pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ] || [ "${1#-}" != "$1" ] || { [ $# -eq 2 ] && [ "$2" != more ]; }; then
    sed -n '2,14s/^# \{0,1\}//p' "$0"
    exit 2
fi
OUT=$(mkdir -p "$1" && cd "$1" && pwd) PART=${2:-first}
cd "$(dirname "$0")/.." || exit 2
if [ -z "${PYTHON:-}" ]; then
    PYTHON=$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)
fi
DRY=${CCLSLR_DRY_RUN:-}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
DEADLINE=$((SECONDS + ${SUITE_SECONDS:-$([ -n "$DRY" ] && echo 3600 || echo 580)}))
CORES=$(nproc)
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
[ "$PART" = more ] || : > "$OUT/sections.tsv"
touch "$OUT/sections.tsv"

# section NAME SECONDS COMMAND…: run it within its own limit and the suite's; book the result.
section() {
    local name=$1 limit=$2 left=$((DEADLINE - SECONDS)) began=$SECONDS code
    shift 2
    [ -z "$DRY" ] || limit=$((10 * limit))  # a dry run may share a small machine
    echo "=== $name"
    rm -f "$OUT/$name.json" "$OUT/$name.log"
    if [ "$left" -lt 5 ]; then
        code=skipped
    else
        printf '%s\trunning\t0\n' "$name" >> "$OUT/sections.tsv"
        timeout --kill-after=5 $((left < limit ? left : limit)) "$@" > "$OUT/$name.log" 2>&1
        code=$?
    fi
    printf '%s\t%s\t%s\n' "$name" "$code" "$((SECONDS - began))" >> "$OUT/sections.tsv"
    echo "    $code after $((SECONDS - began)) s"
    "$PYTHON" -m cclslr.bench.suite "$OUT" > "$OUT/verdict.txt" 2>&1
    FAILED=$?
}

# The paper's shape on one GPU, in BatchNorm groups of 8.
SHAPE=(--config configs/pretrain.yaml run.device=cuda data.workers="$CORES" views.mask_alpha=0
    optim.batch="${SUITE_BATCH:-16}")
TIMES=(--steps 10 --warmup 3 --repeats 5)  # of what the project promises
SHORT=(--steps 4 --warmup 2 --repeats 3)   # of the rest
COMPILED=() BATCHES=500 FAILED=0
RANKS=$(for ranks in 1 2 4 8; do [ "$ranks" -gt "$(nvidia-smi -L 2>/dev/null | wc -l)" ] || echo "$ranks"; done | paste -sd,)
SIZE=256 SMALLER=128 FRAMES=(60 80) CLIPS=${SUITE_CLIPS:-128} STEPS=30 DEVICE=cuda PLACE=gpu VIDEO=h264 FLOW=advflow
SMALL=(views.size=112 views.rgb_frames=16 views.pose_frames=32 optim.batch=64 optim.micro_batch=32)
if [ -n "$DRY" ]; then
    SMALL=(views.size=16 views.rgb_frames=8 views.pose_frames=4)
    SHAPE=(--config configs/pretrain.yaml run.device=cpu data.workers=2 views.mask_alpha=0 model.rgb=r3d10_narrow
        model.gcn_width=16 model.transformer_blocks=1 model.transformer_heads=2 model.transformer_width=32
        views.rgb_frames=16 views.size=32 views.pose_frames=8 objective.bank_size=64 optim.batch=8 optim.micro_batch=4)
    TIMES=(--steps 1 --warmup 0 --repeats 3) SHORT=("${TIMES[@]}") BATCHES=200 RANKS=1,2
    COMPILED=("model.modalities=[rgb]" objective.spm=false objective.cross=false)  # a CPU compiles slowly
    SIZE=64 SMALLER=32 FRAMES=(16 24) CLIPS=16 STEPS=2 DEVICE=cpu PLACE=cpu VIDEO=vp9 FLOW=tiny  # vp9: what DALI decodes on a CPU
fi
data() { echo "data.shards=[$WORK/$1]"; }
train() { "$PYTHON" -m cclslr bench train "${SHAPE[@]}" "${TIMES[@]}" "$@"; }  # of an option given twice the last counts
views() {
    "$PYTHON" -m cclslr bench views "$WORK/$1" "${SHAPE[@]:2}" --batches 2 --one data.backend=numba \
        --other data.backend=dali --other data.decode=dali --other data.device="$PLACE" "${@:2}"
}
memory() { "$PYTHON" -m cclslr bench memory "$WORK/$1" --batches "$BATCHES" data.backend=dali data.decode=dali "${@:2}"; }

pack() {
    local codec
    for codec in "$VIDEO" jpeg; do
        "$PYTHON" -m cclslr pack synthetic --out "$WORK/$codec" --codec "$codec" --size "$SIZE" --classes 4 \
            --clips-per-class $((CLIPS / 4)) 1 1 --frames "${FRAMES[@]}" --workers "$CORES" || return
    done
}
masks() {
    "$PYTHON" -m cclslr bench masks --preset "$FLOW" --device "$DEVICE" --out "$OUT/masks.json" || return
    "$PYTHON" -m cclslr masks "$WORK/jpeg" --device "$DEVICE" && touch "$WORK/masked"
}
small_views() {  # the first phase of configs/pretrain_progressive.yaml, from frames of half the size
    "$PYTHON" -m cclslr pack --from "$WORK/jpeg" --out "$WORK/two_sizes" --smaller "$SMALLER" --workers "$CORES" || return
    train "${SHORT[@]}" "$(data two_sizes)" --json "$OUT/small_views.json" "${SMALL[@]}"
}
one_step_trace() {
    train --steps 1 --warmup 1 --repeats 3 "data.shards=[]" --trace "$WORK/trace.json" --json "$OUT/trace.json" || return
    gzip -c "$WORK/trace.json" > "$OUT/one_step.trace.json.gz"
}
one_trick() { train "${SHORT[@]}" "data.shards=[]" --json "$OUT/$1.json" --tricks "$1" "${COMPILED[@]}"; }
short_run() {
    local alpha=0
    if [ -e "$WORK/masked" ]; then alpha=0.2; else echo "no masks were made: it trains without"; fi
    "$PYTHON" -m cclslr train "${SHAPE[@]}" "$(data jpeg)" views.mask_alpha="$alpha" run.dir="$WORK/run" \
        run.max_steps="$1" run.log_every=5 run.knn_every=0 run.seed=1 || return
    "$PYTHON" - "$WORK/run/metrics.jsonl" "$OUT/short_run.json" <<'PY'
import json, math, sys

lines = [json.loads(line) for line in open(sys.argv[1])]
losses = [line["loss"] for line in lines if "loss" in line]
assert losses and all(map(math.isfinite, losses)), f"losses {losses}"
json.dump(lines, open(sys.argv[2], "w"))
PY
}
export -f data train views memory pack masks small_views one_step_trace one_trick short_run
export OUT WORK PYTHON SIZE SMALLER CLIPS DEVICE PLACE CORES VIDEO FLOW BATCHES

# step NAME SECONDS FUNCTION…: a section that is a function of this file.
step() {
    local name=$1 limit=$2
    shift 2
    section "$name" "$limit" bash -c "$(declare -p SHAPE TIMES SHORT SMALL COMPILED FRAMES); $(printf '%q ' "$@")"
}

section environment 20 "$PYTHON" -c "
import json, sys
from cclslr.environment import describe
about = describe()
json.dump(about, open(sys.argv[1], 'w'))
print(about)
if '$DEVICE' == 'cuda':
    assert about['gpus'], 'torch sees no GPU'
    import nvidia.dali
" "$OUT/environment.json"

if [ "$PART" = first ]; then
    step step 45 train "data.shards=[]" --json "$OUT/step.json"
    step pack 70 pack
    step train_numba 45 train --json "$OUT/train_numba.json" data.backend=numba data.device=cpu "$(data "$VIDEO")"
    step train_jpeg_gpu 40 train --json "$OUT/train_jpeg_gpu.json" \
        data.backend=dali data.decode=dali data.device="$PLACE" "$(data jpeg)"
    step train_video_libav 40 train --json "$OUT/train_video_libav.json" \
        data.backend=dali data.decode=libav data.device="$PLACE" "$(data "$VIDEO")"
    step train_video_nvdec 40 train --json "$OUT/train_video_nvdec.json" \
        data.backend=dali data.decode=dali data.device="$PLACE" "$(data "$VIDEO")"
    step plain 45 train "${SHORT[@]}" "data.shards=[]" --plain --json "$OUT/plain.json"
    step masks 50 masks
    step trace 30 one_step_trace
    section gpu_tests 35 "$PYTHON" -m pytest -q -rs tests/test_rgb_dali.py -k on_a_gpu
    step views_jpeg 20 views jpeg --json "$OUT/views_jpeg.json"
    step views_video 20 views "$VIDEO" --json "$OUT/views_video.json"
    step short_run 30 short_run "$STEPS"
    step memory_video 20 memory "$VIDEO" data.device="$PLACE" --json "$OUT/memory_video.json"
    step memory_jpeg 20 memory jpeg data.device="$PLACE" --json "$OUT/memory_jpeg.json"
    section plan 10 "$PYTHON" -m cclslr plan --table --train "$OUT/step.json" --json "$OUT/plan.json"
else
    step pack_again 70 pack
    step small_views 45 small_views
    step tricks 100 train "${SHORT[@]}" "data.shards=[]" --json "$OUT/tricks.json" --tricks \
        channels_last,fused_momentum_update,fused_optimizer,shared_similarity,mixed_precision,cudnn_benchmark
    section loaders 50 "$PYTHON" -m cclslr bench loader "$WORK/jpeg" "${SHAPE[@]:2}" --loaders cclslr \
        --clips "$CLIPS" --json "$OUT/loaders.json"
    step cuda_graphs 90 one_trick cuda_graphs
    step compile 90 one_trick compile
    step ranks 40 train "${SHORT[@]}" "$(data jpeg)" --json "$OUT/ranks.json" --ranks "$RANKS"
    step sweep 75 train "${SHORT[@]}" --json "$OUT/sweep.json" --sweep "data.shards=[$WORK/jpeg,$WORK/$VIDEO]"
fi
cat "$OUT/verdict.txt"
exit "$FAILED"
