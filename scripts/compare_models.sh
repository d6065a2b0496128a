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
cores=$(nproc)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > JOBS ? cores / JOBS : 1))}

compare() {  # model, seed
    local run=compare_$1_$2 settings=$TRANSFORMER
    case $1 in topdown | show_*) settings=$RECURRENT ;; esac
    both_phases "$run" "$2" 2e-3 --caption_model "$1" $settings
}

is_scored() {  # run
    [ -e "eval_results/${1}_test.json" ] && [ -e "eval_results/${1}_rl_test.json" ]
}

# Each run is a process group of its own (set -m), so that all its processes receive the signal when the script
# is stopped; the script waits for them, since they save a checkpoint first.
stop() {  # exit status
    trap - INT TERM
    echo "stopping; checkpoints are kept, start the script again to resume" >&2
    local running group
    running=$(jobs -rp)
    for group in $running; do kill -TERM -- "-$group" 2>/dev/null || true; done
    for group in $running; do
        while kill -0 -- "-$group" 2>/dev/null; do sleep 0.2; done
    done
    exit "$1"
}

prepare
mkdir -p $LOGS
set -m
trap 'stop 130' INT
trap 'stop 143' TERM
for seed in $SEEDS; do
    for model in $MODELS; do
        run=compare_${model}_$seed
        if is_scored "$run"; then continue; fi
        while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do wait -n || true; done
        say "$run, see $LOGS/$run.log"
        compare "$model" "$seed" >>"$LOGS/$run.log" 2>&1 </dev/null &
    done
done
while [ "$(jobs -rp | wc -l)" -gt 0 ]; do wait -n || true; done
trap - INT TERM

results=()
for seed in $SEEDS; do
    for model in $MODELS; do
        run=compare_${model}_$seed
        if ! is_scored "$run"; then
            echo "compare_models.sh: $run did not finish; see $LOGS/$run.log, then start the script again to resume" >&2
            exit 1
        fi
        results+=("eval_results/${run}_test.json" "eval_results/${run}_rl_test.json")
    done
done
python scripts/compare_table.py --input_json $DATA/cocotalk.json --logs $LOGS \
    --plot eval_results/compare_models.png "${results[@]}" >eval_results/compare_models.md.part
mv eval_results/compare_models.md.part eval_results/compare_models.md
cat eval_results/compare_models.md
