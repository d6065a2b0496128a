#!/usr/bin/env bash
# The whole pipeline on the built-in data set: make and prepare the data, train spatial_pe and, for
# comparison, transformer, first with cross-entropy, then self-critically, score all on the test split
# and print a table.  Finished steps are not repeated, and an interrupted training resumes from its last
# checkpoint; remove data/demo and checkpoints/demo_* to start over.
#
# SEED=2 bash scripts/demo.sh    train with another seed, in folders of its own
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -gt 0 ]; then  # --help, or an error: there are no arguments
    sed -n '/^# /s/^# //p;/^set/q' "scripts/$(basename "$0")"
    exit $([ "$1" = --help ] || [ "$1" = -h ] || echo 2)
fi
. scripts/venv.sh
. scripts/demo_steps.sh

SEED=${SEED:-1}
prepare

results=()
for model in spatial_pe transformer; do
    run=demo_${model}_$SEED
    both_phases "$run" "$SEED" 2e-3 --caption_model $model $TRANSFORMER
    results+=("eval_results/${run}_test.json" "eval_results/${run}_rl_test.json")
done

say "scores on the test split; relations: the share of captions whose left, right, above or below is"
echo "   correct, with both shapes (_rl: after self-critical training)"
python scripts/demo_table.py --input_json $DATA/cocotalk.json "${results[@]}"
cat <<'END'

What next, after  . .venv/bin/activate  :
  python scripts/plot_history.py checkpoints/demo_* --output curves.png
  python scripts/create_report.py eval_results/demo_*_test.json --input_json data/demo/cocotalk.json --image_root data/demo/images
and docs/evaluation.md has a command for a page of captions, regions and attention ("A page to look at").
END
