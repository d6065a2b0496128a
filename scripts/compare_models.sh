#!/usr/bin/env bash
# Compare all six models on the built-in data set: for each of three seeds, cross-entropy and then
# self-critical training as in demo.sh, both scored on the test split, and finally a table and a plot.
# Takes an hour or two on 2 cores.  The log of each run is checkpoints/compare_logs/RUN.log.  Scored runs are
# not repeated, and interrupted ones resume from their last checkpoint: start the script again.
# Remove checkpoints/compare_* and eval_results/compare_* to start over.
#
# JOBS=8 bash scripts/compare_models.sh                       the number of runs at a time (default: 2)
# SEEDS=1 MODELS="topdown show_tell" bash scripts/compare_models.sh    only these
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -gt 0 ]; then  # --help, or an error: there are no arguments
    sed -n '/^# /s/^# //p;/^set/q' "scripts/$(basename "$0")"
    exit $([ "$1" = --help ] || [ "$1" = -h ] || echo 2)
fi
. scripts/venv.sh
. scripts/demo_steps.sh

JOBS=${JOBS:-2}
SEEDS=${SEEDS:-1 2 3}
MODELS=${MODELS:-spatial_pe relation_transformer transformer topdown show_attend_tell show_tell}
LOGS=checkpoints/compare_logs
RECURRENT="--input_encoding_size 128 --hidden_size 256 --att_hid_size 128 --drop_prob_lm 0.1"
. scripts/jobs.sh

compare() {  # model, seed
    local run=compare_$1_$2 settings=$TRANSFORMER
    case $1 in topdown | show_*) settings=$RECURRENT ;; esac
    both_phases "$run" "$2" 2e-3 --caption_model "$1" $settings
}

prepare
all_runs compare compare
python scripts/compare_table.py --input_json $DATA/cocotalk.json --logs $LOGS \
    --plot eval_results/compare_models.png "${results[@]}" >eval_results/compare_models.md.part
mv eval_results/compare_models.md.part eval_results/compare_models.md
cat eval_results/compare_models.md
