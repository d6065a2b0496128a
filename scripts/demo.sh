#!/usr/bin/env bash
# The main job on the built-in data set: make the data, prepare it, train spatial_pe and (for
# comparison) transformer with cross-entropy, then self-critically, score all on the test split and
# print one table.  Data and trainings that are finished are not made again, and an interrupted training
# goes on where it was saved last; remove data/demo and checkpoints/demo_* to start over.
#
# SEED=2 bash scripts/demo.sh    another seed for the trainings (they are kept apart)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/venv.sh

DATA=data/demo
SEED=${SEED:-1}
EPOCHS=12          # of cross-entropy
MORE_EPOCHS=1      # of self-critical training; two of them at twice the rate, and
                   # captions win reward by saying less: "there is a red star there is a blue box"
say() { printf '\n== %s\n' "$*"; }

say "the data set: scenes, captions, regions"
python scripts/make_demo_data.py --output_dir $DATA
say "preparation: labels, n-gram table, features and boxes, grid vectors"
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
    python train.py --id "$run" --checkpoint_path "$folder" $INPUTS --seed "$SEED" --batch_size 20 \
        --num_layers 2 --input_encoding_size 128 --ff_size 512 --heads 4 --dropout 0.05 --drop_prob_lm 0 "$@"
}

score() {  # run
    say "captioning and scoring the test split with $1"
    python eval.py --model "checkpoints/$1/model.pth" --infos_path "checkpoints/$1/infos_$1.pkl" \
        $INPUTS --language_eval 1 >/dev/null
}

results=()
for model in spatial_pe transformer; do
    run=demo_${model}_$SEED
    train "$run" --caption_model $model --max_epochs $EPOCHS --learning_rate 2e-3 \
        --learning_rate_decay_start 4 --learning_rate_decay_every 1 --learning_rate_decay_rate 0.75
    score "$run"
    [ -d "checkpoints/${run}_rl" ] || bash scripts/copy_model.sh "$run" "${run}_rl"
    train "${run}_rl" --caption_model $model --self_critical_after $EPOCHS \
        --max_epochs $((EPOCHS + MORE_EPOCHS)) --cached_tokens $DATA/coco-train-idxs \
        --learning_rate 1e-4 --learning_rate_decay_start -1
    score "${run}_rl"
    results+=("eval_results/${run}_test.json" "eval_results/${run}_rl_test.json")
done

say "scores on the test split; relations: the share of captions whose left, right, above or below, and"
echo "   the two shapes it joins, are right (_rl: after self-critical training)"
python scripts/demo_table.py --input_json $DATA/cocotalk.json "${results[@]}"
