#!/usr/bin/env bash
# A distillation that was begun on a CPU goes on where there is a GPU: larger batches and images, from its weights.
#
#   bash examples/distill_gpu.sh RUN OUTPUT TEACHER MINUTES IMAGES...
#
# RUN      model folder of the distillation so far
# OUTPUT   folder of the new run; if it is there already, it is continued
# TEACHER  an ONNX file, a model folder or a name of timm's registry
# MINUTES  after which the run is stopped (SIGTERM: it saves its state)
# IMAGES   zip archives of photographs
# DEVICE, BATCH, SIZE, WORKERS, PROBE  environment: cuda, 512, 128, 12 and no probe where not set
set -eu
run=${1:?RUN is missing} output=${2:?OUTPUT is missing} teacher=${3:?TEACHER is missing} minutes=${4:?MINUTES is missing}
shift 4
size=${SIZE:-128}
if [ -e "$output/train.yaml" ]; then
    set -- --resume "$output"
else
    set -- "$@" --teacher "$teacher" --model "$run" --output "$output" --epochs 100 ${PROBE:+--probe "$PROBE"} \
        --device "${DEVICE:-cuda}" --workers "${WORKERS:-12}" --batch-size "${BATCH:-512}" \
        --set image_size="$size" --set view_size="$size" --set views=0 --set images_per_epoch=65536 --set lr=3e-3
fi
timeout --signal=TERM --kill-after=120 "${minutes}m" dualtoken distill "$@" || code=$?
case ${code:-0} in 0 | 124 | 143) ;; *) exit "$code" ;; esac
echo "The model folder: $output. Go on: the same command."
