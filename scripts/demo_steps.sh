# Sourced by demo.sh and compare_models.sh in the project's root: the steps on the built-in data set.  flickr8k.sh
# takes `say` and `train`, and has its own settings and steps.
# Finished steps are not repeated, and an interrupted training resumes from its last checkpoint.
DATA=data/demo
EPOCHS=12          # of cross-entropy
MORE_EPOCHS=1      # of self-critical training; after two at twice the rate, captions gain
                   # reward by stating less: "there is a red star there is a blue box"
INPUTS="--input_json $DATA/cocotalk.json --input_label_h5 $DATA/cocotalk_label.h5
    --input_img_feat_dir $DATA/cocobu_att --input_grid_vec_dir $DATA/cocobu_box_vec
    --input_box_dir $DATA/cocobu_box"
TRANSFORMER="--num_layers 2 --input_encoding_size 128 --ff_size 512 --heads 4 --dropout 0.05 --drop_prob_lm 0"

say() { printf '\n== %s\n' "$*"; }

prepare() {
    say "the data set: scenes, captions, regions"
    python scripts/make_demo_data.py --output_dir $DATA
    say "preparation: labels, n-gram table, features and boxes, grid vectors"
    python scripts/prepro_labels.py --input_json $DATA/dataset_coco.json \
        --output_json $DATA/cocotalk.json --output_h5 $DATA/cocotalk
    python scripts/prepro_ngrams.py --input_json $DATA/dataset_coco.json \
        --dict_json $DATA/cocotalk.json --output_pkl $DATA/coco-train --split train
    python scripts/make_bu_data.py --downloaded_feats $DATA/bu_data --output_dir $DATA/cocobu
    python prepro_areas.py --input_dir $DATA/cocobu_box --output_dir $DATA/cocobu_box_vec --num_grids 144
}

train() {  # run, options...
    local run=$1 folder=checkpoints/$1
    shift
    if [ -e "$folder/infos_$run.pkl" ]; then set -- "$@" --start_from "$folder"; fi
    say "training $run"
    python train.py --id "$run" --checkpoint_path "$folder" $INPUTS --batch_size 20 "$@"
}

score() {  # run
    local run=$1
    say "captioning and scoring the test split with $run"
    python eval.py --model "checkpoints/$run/model.pth" --infos_path "checkpoints/$run/infos_$run.pkl" \
        $INPUTS --language_eval 1 --dump_json 0 >/dev/null
}

both_phases() {  # run, seed, learning rate, options...: cross-entropy, then RUN_rl, self-critical; both scored
    local run=$1 seed=$2 rate=$3
    shift 3
    train "$run" --seed "$seed" "$@" --max_epochs $EPOCHS --learning_rate "$rate" \
        --learning_rate_decay_start 4 --learning_rate_decay_every 1 --learning_rate_decay_rate 0.75
    score "$run"
    [ -d "checkpoints/${run}_rl" ] || bash scripts/copy_model.sh "$run" "${run}_rl"
    train "${run}_rl" --seed "$seed" "$@" --self_critical_after $EPOCHS \
        --max_epochs $((EPOCHS + MORE_EPOCHS)) --cached_tokens $DATA/coco-train-idxs \
        --learning_rate 1e-4 --learning_rate_decay_start -1
    score "${run}_rl"
}
