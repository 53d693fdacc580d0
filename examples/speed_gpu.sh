#!/usr/bin/env bash
# How fast T and S train and predict on a GPU beside networks of their size: some twenty minutes, a row each.
#
#   bash examples/speed_gpu.sh ROWS
#
# ROWS    JSON lines file that rows are appended to, such as results/gpu_rate.jsonl
# DEVICE, SIZES, BATCH, TURNS  environment: cuda, "128 224", 256 and 15 where not set
set -eu
rows=${1:?ROWS is missing}
networks=${NETWORKS:-dualtoken_vit_t_mix dualtoken_vit_s_mix deit_tiny_patch16_224 edgenext_small pvt_v2_b0 mobilenetv4_conv_small}

rate() { # WAY...
    echo "== $*"
    # shellcheck disable=SC2086 # lists of words
    python -m dualtoken.lab.training_rate $networks --device "${DEVICE:-cuda}" --image-size ${SIZES:-128 224} \
        --batch-size "${BATCH:-256}" --turns "${TURNS:-15}" --output "$rows" --how "$@" || echo "left out: $*"
}

for what in "" infer; do
    # shellcheck disable=SC2086
    for way in "" "bf16" "bf16 channels_last" "bf16 compiled" "bf16 graphs"; do rate $what $way; done
done
