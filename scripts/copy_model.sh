#!/usr/bin/env bash
# Copy a run under a new name: bash scripts/copy_model.sh OLD_ID NEW_ID
# checkpoints/OLD_ID becomes checkpoints/NEW_ID, with the files that carry the id renamed, so that
# train.py --id NEW_ID --start_from checkpoints/NEW_ID goes on from it and the old run stays.
set -euo pipefail

if [ $# -ne 2 ] || [[ "$1$2" == *[/[:space:]]* ]] || [ -z "$1" ] || [ -z "$2" ]; then
    echo "usage: bash scripts/copy_model.sh OLD_ID NEW_ID (names of runs in checkpoints/)" >&2
    exit 2
fi
cd "$(dirname "$0")/.."
old=checkpoints/$1 new=checkpoints/$2
if [ ! -d "$old" ]; then
    echo "copy_model.sh: there is no run $old; checkpoints/ holds: $(ls checkpoints 2>/dev/null | tr '\n' ' ')" >&2
    exit 1
fi
if [ -e "$old/replacing.json" ]; then
    echo "copy_model.sh: a save of $old was interrupted, or is under way; try again when train.py is done," >&2
    echo "or go on with the run once (--start_from $old), which finishes the save" >&2
    exit 1
fi
# A training holds the lock while it lives; what a killed one left is free.
if [ -e "$old/.lock" ] && command -v flock >/dev/null && exec 9>>"$old/.lock" && ! flock -n 9; then
    echo "copy_model.sh: train.py is at work in $old; try again when it is done" >&2
    exit 1
fi
if [ ! -f "$old/model.pth" ] || [ ! -f "$old/infos_$1.pkl" ]; then
    echo "copy_model.sh: $old has no saved model (model.pth and infos_$1.pkl)" >&2
    exit 1
fi
if [ -e "$new" ]; then
    echo "copy_model.sh: $new is there already; choose another name, or move it away" >&2
    exit 1
fi

# Filled under another name first: an interrupted copy is never taken for a run.
part=$new.$$.part
trap 'rm -rf "$part"' EXIT
mkdir "$part"
for file in "$old"/*; do
    [ -f "$file" ] || continue  # checkpoints kept in iteration_N are those of the old run
    name=$(basename "$file")
    case "$name" in
        *.part | status.json) continue ;;  # the copy is neither finished nor stopped
        infos_"$1".pkl | infos_"$1"-best.pkl | histories_"$1".pkl) name=${name/"_$1"/"_$2"} ;;
    esac
    cp -p "$file" "$part/$name"
done
mv -T "$part" "$new"
echo "$old -> $new"
