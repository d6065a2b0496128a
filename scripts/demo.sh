#!/usr/bin/env bash
# The main job on the built-in data set: make the data, prepare it, train spatial_pe and (for
# comparison) transformer, score both on the test split, print one table.  What is finished is not
# done again; remove data/demo and checkpoints/demo_* to start over.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/venv.sh

DATA=data/demo
SEED=${SEED:-1}
EPOCHS=${EPOCHS:-12}
say() { printf '\n== %s\n' "$*"; }

say "the data set: scenes, captions, regions"
python scripts/make_demo_data.py --output_dir $DATA
say "preparation, steps 1, 2, 4 and 5"
python scripts/prepro_labels.py --input_json $DATA/dataset_coco.json \
    --output_json $DATA/cocotalk.json --output_h5 $DATA/cocotalk
python scripts/prepro_ngrams.py --input_json $DATA/dataset_coco.json \
    --dict_json $DATA/cocotalk.json --output_pkl $DATA/coco-train --split train
python scripts/make_bu_data.py --downloaded_feats $DATA/bu_data --output_dir $DATA/cocobu
python prepro_areas.py --input_dir $DATA/cocobu_box --output_dir $DATA/cocobu_box_vec --num_grids 144

INPUTS="--input_json $DATA/cocotalk.json --input_label_h5 $DATA/cocotalk_label.h5
    --input_img_feat_dir $DATA/cocobu_att --input_grid_vec_dir $DATA/cocobu_box_vec"

train() {  # run, options...
    local run=$1 folder=checkpoints/$1
    shift
    if [ -e "$folder/infos_$run.pkl" ]; then set -- "$@" --start_from "$folder"; fi
    say "training $run"
    python train.py --id "$run" --checkpoint_path "$folder" $INPUTS --seed "$SEED" "$@" \
        --num_layers 2 --input_encoding_size 128 --ff_size 512 --batch_size 25
}

score() {  # run
    say "captioning and scoring the test split with $1"
    python eval.py --model "checkpoints/$1/model.pth" --infos_path "checkpoints/$1/infos_$1.pkl" \
        $INPUTS --language_eval 1 >/dev/null
}

for model in spatial_pe transformer; do
    run=demo_${model}_$SEED
    train "$run" --caption_model $model --max_epochs "$EPOCHS" --noamopt --noamopt_warmup 400 \
        --noamopt_factor 0.23
    score "$run"
done

say "scores on the test split (relation accuracy: left, right, above, below and the two shapes)"
python scripts/demo_table.py --input_json $DATA/cocotalk.json \
    eval_results/demo_spatial_pe_${SEED}_test.json eval_results/demo_transformer_${SEED}_test.json
