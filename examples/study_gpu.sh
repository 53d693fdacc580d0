#!/usr/bin/env bash
# Every study on one data-centre GPU, side by side; what does not fit into the budget is left, and the same command goes on with it.
#
#   bash examples/study_gpu.sh DATA OUTPUT [BUDGET] [ROWS]
#
# DATA    folder with cifar10-train.zip, camvid.zip and coco128.zip; those that are missing are left out
# OUTPUT  folder of the studies, new or to go on with
# BUDGET  such as 25m (the default)
# ROWS    JSON lines file that the rows are appended to at the end, such as results/study.jsonl
# DEVICE, SCALE  environment: cuda and gpu where not set; DEVICE=cpu SCALE=cpu does the small version
set -u
data=${1:?DATA is missing} output=${2:?OUTPUT is missing} budget=${3:-25m} rows=${4:-}
device=${DEVICE:-cuda} scale=${SCALE:-gpu}
mkdir -p "$output"

start() { # NAME STUDY FILE [OPTION...]
    local name=$1 study=$2 file=$data/$3
    shift 3
    [ -e "$file" ] || { echo "$name: no $file, left out"; return; }
    dualtoken study "$study" "$file" --output "$output/$name" --budget "$budget" --scale "$scale" \
        --device "$device" --workers 4 "$@" > "$output/$name.log" 2>&1 &
    pids+=($!)
}

pids=()
start ablations ablations cifar10-train.zip
start peers peers cifar10-train.zip
start segmentation dense camvid.zip
start detection dense coco128.zip --set labels=yolo --set on_bad_image=skip
trap 'kill -INT "${pids[@]}" 2> /dev/null' INT TERM # each study saves the run under way
echo "Running; follow with: tail -f $output/*.log"
wait "${pids[@]}"
wait # after Ctrl-C the first one returns at once

show() { # NAME STUDY FILE [OPTION...]
    local name=$1 study=$2 file=$data/$3
    shift 3
    [ -e "$output/$name/study.json" ] || return
    echo
    echo "$name"
    dualtoken study "$study" "$file" --output "$output/$name" --scale "$scale" --device "$device" --table "$@" \
        ${rows:+--rows "$rows"}
}

show ablations ablations cifar10-train.zip
show peers peers cifar10-train.zip
show segmentation dense camvid.zip
show detection dense coco128.zip --set labels=yolo --set on_bad_image=skip
