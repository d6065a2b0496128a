#!/usr/bin/env bash
# Run the tests: bash scripts/test.sh [pytest's arguments]
# Makes .venv and installs requirements.txt on the first run.  Tests on real data take the 99-image
# excerpt of COCO from $MINICOCO, and skip where it is not there.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/venv.sh
exec python -m pytest "$@"
