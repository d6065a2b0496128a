#!/usr/bin/env bash
# Caption your own pictures with the model in data/pretrained: bash scripts/caption.sh PICTURE_OR_FOLDER [FLAGS]
# Prints a line for each picture, and writes captions/vis/index.html, a page with the captions and what the model
# looked at.  Creates .venv on the first run and installs what is missing; Java is not needed.  FLAGS are those of
# eval.py, for instance --beam_size 5, --sample_n 2 for two captions of each picture on the page, or --run
# checkpoints/mine for a model of your own; paths in them are relative to the project's folder.
# data/pretrained/README.md says what the model was trained on, and what it cannot do.
set -euo pipefail
fail() { echo "caption.sh: $1" >&2; exit "$2"; }

case ${1:-} in
    -h | --help) sed -n '/^# /s/^# //p;/^set/q' "$0"; exit 0 ;;
    '' | -*) fail "name a picture, or a folder of pictures, and then any flags; see --help" 2 ;;
esac
[ -e "$1" ] || fail "there is no picture or folder $1" 2
case ${2:--} in -*) ;; *) fail "one picture or one folder at a time: $2 is a second one; put them into a folder" 2 ;; esac
pictures=$(realpath -- "$1")
shift

cd "$(dirname "$0")/.."
[ -f data/pretrained/model.pth ] ||
    fail "$PWD/data/pretrained holds no model (model.pth and infos_ID.pkl); take a whole copy of the project" 1
WITHOUT_JAVA=1
. scripts/venv.sh
install_changed requirements-features.txt .venv/features_requirements.txt " (networks with their weights, 90 MB)" --no-deps

started=$(mktemp)
trap 'rm -f "$started"' EXIT
status=0
# In a folder of its own: vis/ of the project is the page of the last evaluation.
python eval.py --run data/pretrained --image_folder "$pictures" --dump_images 1 --output_dir captions "$@" || status=$?
# A status of 1 may mean that some pictures could not be read; the others are on the page.
[ ! captions/vis/index.html -nt "$started" ] || echo "the page, for a browser: $PWD/captions/vis/index.html" >&2
exit $status
