#!/usr/bin/env bash
# Lint and type-check the code as CI and the pre-commit hook do: bash scripts/check.sh
# Creates .venv if it does not exist, as scripts/test.sh does.  Rules are in pyproject.toml.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/venv.sh
install_changed tests/requirements.txt .venv/tests_requirements.txt
status=0
ruff check --output-format concise || status=1
mypy || status=1
exit $status
