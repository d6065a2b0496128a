#!/usr/bin/env bash
# Run the tests: bash scripts/test.sh [pytest's arguments]
# Creates .venv and installs requirements.txt and tests/requirements.txt on the first run.  Tests on real data
# read the 99-image excerpt of COCO from $MINICOCO, tests of pages need Debian's chromium; each skips if what it
# needs is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/venv.sh
install_changed tests/requirements.txt .venv/tests_requirements.txt
exec python -m pytest "$@"
