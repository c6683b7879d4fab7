#!/usr/bin/env bash
# Every check and measurement that needs a GPU, in one call of under ten minutes, without a network.
#
#   tools/gpu_suite.sh OUT_FOLDER                        writes suite.json, suite.log, trace.json.gz into it
#   CCLSLR_DRY_RUN=1 tools/gpu_suite.sh OUT_FOLDER       the same commands, tiny, on a CPU
#
# A section that fails or runs out of time is recorded as such and the suite goes on; it exits with 1 if there was one.
# Settings: PYTHON (default: .venv/bin/python, else python3), SUITE_SECONDS (default 580; 3600 dry), SUITE_CLIPS (default
# 128), SUITE_BATCH (default 64; 16 where a step of 64 takes more than half a second).
set -uo pipefail

if [ $# -ne 1 ] || [ "${1#-}" != "$1" ]; then
    sed -n '2,10s/^# \{0,1\}//p' "$0"
    exit 2
fi
OUT=$(mkdir -p "$1" && cd "$1" && pwd)
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
: > "$OUT/suite.log"
: > "$WORK/sections.tsv"

# section NAME SECONDS COMMAND…: run it within its own limit and the suite's; book the result.
section() {
    local name=$1 limit=$2 left=$((DEADLINE - SECONDS)) began=$SECONDS code
    shift 2
    [ -z "$DRY" ] || limit=$((5 * limit))  # a dry run may share a small machine
    echo "=== $name" | tee -a "$OUT/suite.log"
    if [ "$left" -lt 5 ]; then
        code=skipped
    else
        timeout --kill-after=5 $((left < limit ? left : limit)) "$@" > "$WORK/$name.log" 2>&1
        code=$?
        cat "$WORK/$name.log" >> "$OUT/suite.log"
    fi
    printf '%s\t%s\t%s\n' "$name" "$code" "$((SECONDS - began))" >> "$WORK/sections.tsv"
    echo "    $code after $((SECONDS - began)) s"
}

# The paper's shape on one GPU: 64 clips a step in BatchNorm groups of 8.
SHAPE=(--config configs/pretrain.yaml run.device=cuda data.workers="$CORES" views.mask_alpha=0
    optim.batch="${SUITE_BATCH:-64}")
TIMES=(--steps 10 --warmup 3 --repeats 5)  # of what the project promises
SHORT=(--steps 4 --warmup 2 --repeats 3)   # of the rest
COMPILED=() BATCHES=5000
RANKS=$(for ranks in 1 2 4 8; do [ "$ranks" -gt "$(nvidia-smi -L 2>/dev/null | wc -l)" ] || echo "$ranks"; done | paste -sd,)
SIZE=256 FRAMES=(60 80) CLIPS=${SUITE_CLIPS:-128} STEPS=30 DEVICE=cuda PLACE=gpu VIDEO=h264 FLOW=advflow
if [ -n "$DRY" ]; then
    SHAPE=(--config configs/pretrain.yaml run.device=cpu data.workers=2 views.mask_alpha=0 model.rgb=r3d10_narrow
        model.gcn_width=16 model.transformer_blocks=1 model.transformer_heads=2 model.transformer_width=32
        views.rgb_frames=16 views.size=32 views.pose_frames=8 objective.bank_size=64 optim.batch=8 optim.micro_batch=4)
    TIMES=(--steps 1 --warmup 0 --repeats 3) SHORT=("${TIMES[@]}") BATCHES=200 RANKS=1,2
    COMPILED=("model.modalities=[rgb]" objective.spm=false objective.cross=false)  # a CPU compiles slowly
    SIZE=64 FRAMES=(16 24) CLIPS=16 STEPS=2 DEVICE=cpu PLACE=cpu VIDEO=vp9 FLOW=tiny  # vp9: what DALI decodes on a CPU
fi
data() { echo "data.shards=[$WORK/$1]"; }
train() { "$PYTHON" -m cclslr bench train "${SHAPE[@]}" "${TIMES[@]}" "$@"; }  # of an option given twice the last counts
views() {
    "$PYTHON" -m cclslr bench views "$WORK/$1" "${SHAPE[@]:2}" --batches 2 --one data.backend=numba \
        --other data.backend=dali --other data.decode=dali --other data.device="$PLACE" "${@:2}"
}
memory() { "$PYTHON" -m cclslr bench memory "$WORK/$1" --batches "$BATCHES" data.decode=dali "${@:2}"; }

pack() {
    local codec
    for codec in jpeg "$VIDEO"; do
        "$PYTHON" -m cclslr pack synthetic --out "$WORK/$codec" --codec "$codec" --size "$SIZE" --classes 4 \
            --clips-per-class $((CLIPS / 4)) 1 1 --frames "${FRAMES[@]}" --workers "$CORES" || return
    done
}
masks() {
    "$PYTHON" -m cclslr masks "$WORK/jpeg" --device "$DEVICE" || return
    "$PYTHON" -m cclslr bench masks --preset "$FLOW" --device "$DEVICE" --out "$WORK/masks.json"
}
short_run() {
    "$PYTHON" -m cclslr.train "${SHAPE[@]}" "$(data jpeg)" views.mask_alpha=0.2 run.dir="$WORK/run" run.max_steps="$1" \
        run.log_every=5 run.knn_every=0 run.seed=1 || return
    "$PYTHON" - "$WORK/run/metrics.jsonl" "$WORK/short_run.json" <<'PY'
import json, math, sys

lines = [json.loads(line) for line in open(sys.argv[1])]
losses = [line["loss"] for line in lines if "loss" in line]
assert losses and all(map(math.isfinite, losses)), f"losses {losses}"
json.dump(lines, open(sys.argv[2], "w"))
PY
}
export -f data train views memory pack masks short_run
export WORK PYTHON SIZE CLIPS DEVICE PLACE CORES VIDEO FLOW BATCHES

# step NAME SECONDS FUNCTION…: a section that is a function of this file.
step() {
    local name=$1 limit=$2
    shift 2
    section "$name" "$limit" bash -c "$(declare -p SHAPE TIMES FRAMES); $(printf '%q ' "$@")"
}

section environment 60 "$PYTHON" -c "
import json, sys
from cclslr.environment import describe
about = describe()
json.dump(about, open(sys.argv[1], 'w'))
print(about)
if '$DEVICE' == 'cuda':
    assert about['gpus'], 'torch sees no GPU'
    import nvidia.dali
" "$WORK/environment.json"
step pack 100 pack
section gpu_tests 60 "$PYTHON" -m pytest -q -rs tests/test_rgb_dali.py -k on_a_gpu
step views_jpeg 40 views jpeg --json "$WORK/views_jpeg.json"
step views_video 40 views "$VIDEO" --json "$WORK/views_video.json"
step train_jpeg_gpu 100 train --plain --trace "$WORK/trace.json" --json "$WORK/train_jpeg_gpu.json" \
    data.decode=dali data.device="$PLACE" "$(data jpeg)"
step train_video_libav 50 train --json "$WORK/train_video_libav.json" \
    data.decode=libav data.device="$PLACE" "$(data "$VIDEO")"
step train_video_nvdec 50 train --json "$WORK/train_video_nvdec.json" \
    data.decode=dali data.device="$PLACE" "$(data "$VIDEO")"
section loaders 60 "$PYTHON" -m cclslr bench loader "$WORK/jpeg" "${SHAPE[@]:2}" --loaders cclslr \
    --clips "$CLIPS" --json "$WORK/loaders.json"
step memory_jpeg 30 memory jpeg data.device="$PLACE" --json "$WORK/memory_jpeg.json"
step memory_video 40 memory "$VIDEO" data.device="$PLACE" --json "$WORK/memory_video.json"
step tricks 80 train "${SHORT[@]}" "data.shards=[]" --json "$WORK/tricks.json" --tricks \
    channels_last,fused_momentum_update,fused_optimizer,shared_similarity,mixed_precision,cudnn_benchmark
step masks 40 masks
step short_run 40 short_run "$STEPS"
section plan 20 "$PYTHON" -m cclslr plan --table --train "$WORK/train_jpeg_gpu.json" --json "$WORK/plan.json"
step ranks 60 train "${SHORT[@]}" "$(data jpeg)" --json "$WORK/ranks.json" --ranks "$RANKS"
step sweep 120 train "${SHORT[@]}" --json "$WORK/sweep.json" --sweep "data.shards=[$WORK/jpeg,$WORK/$VIDEO]"
for trick in compile cuda_graphs; do
    step "$trick" 110 train "${SHORT[@]}" "data.shards=[]" --json "$WORK/$trick.json" --tricks "$trick" "${COMPILED[@]}"
done

"$PYTHON" - "$WORK" "$OUT" <<'PY'
import gzip, json, pathlib, sys

work, out = map(pathlib.Path, sys.argv[1:])
sections = {}
for line in (work / "sections.tsv").read_text().splitlines():
    name, code, seconds = line.split("\t")
    result, log = work / f"{name}.json", work / f"{name}.log"
    sections[name] = {
        "status": {"0": "ok", "124": "timed out", "skipped": "no time left"}.get(code, f"failed ({code})"),
        "seconds": int(seconds),
        "result": json.loads(result.read_text()) if result.exists() else None,
        "log_end": log.read_text(errors="replace").splitlines()[-15:] if log.exists() else [],
    }
(out / "suite.json").write_text(json.dumps({"tool": "gpu_suite", "sections": sections}, indent=2) + "\n")
if (work / "trace.json").exists():
    (out / "trace.json.gz").write_bytes(gzip.compress((work / "trace.json").read_bytes(), 6))
bad = [name for name, section in sections.items() if section["status"] != "ok"]
print("all sections passed" if not bad else f"not ok: {', '.join(bad)}")
sys.exit(bool(bad))
PY
