# Sourced by compare_models.sh and flickr8k.sh: several runs at a time, JOBS of them, each with its log in LOGS.
#
# Each run is a process group of its own (set -m), so that all its processes receive the signal when the script
# is stopped; the script waits for them, since they save a checkpoint first.
cores=$(nproc)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > JOBS ? cores / JOBS : 1))}

stop_jobs() {  # exit status
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

begin_jobs() {
    mkdir -p "$LOGS"
    set -m
    trap 'stop_jobs 130' INT
    trap 'stop_jobs 143' TERM
}

add_job() {  # name of the run, command...: waits until fewer than JOBS are running
    local run=$1
    shift
    while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do wait -n || true; done
    say "$run, see $LOGS/$run.log"
    "$@" >>"$LOGS/$run.log" 2>&1 </dev/null &
}

end_jobs() {
    while [ "$(jobs -rp | wc -l)" -gt 0 ]; do wait -n || true; done
    trap - INT TERM
}

is_scored() {  # run
    [ -e "eval_results/${1}_test.json" ] && [ -e "eval_results/${1}_rl_test.json" ]
}

# Calls a function with each of MODELS and SEEDS, as the job PREFIX_MODEL_SEED, unless that run is scored already.
# Fills the arrays `runs` and `results` (the files of scores); exits where a run did not finish.
all_runs() {  # prefix, function
    local seed model run
    begin_jobs
    runs=() results=()
    for seed in $SEEDS; do
        for model in $MODELS; do
            run=${1}_${model}_$seed
            runs+=("$run")
            results+=("eval_results/${run}_test.json" "eval_results/${run}_rl_test.json")
            is_scored "$run" || add_job "$run" "$2" "$model" "$seed"
        done
    done
    end_jobs
    for run in "${runs[@]}"; do
        if ! is_scored "$run"; then
            echo "$(basename "$0"): $run did not finish; see $LOGS/$run.log, then start the script again to resume" >&2
            exit 1
        fi
    done
}
