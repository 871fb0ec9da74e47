#!/usr/bin/env bash
# Lint, format and tests; makes .venv if it is missing. --drills adds the tests with
# many processes, --slow all there are; other arguments go to pytest.
set -euo pipefail
EXTRAS=test,judges
source "$(dirname "$0")/environment.sh"

ruff check .
ruff format --check .
python -m pytest "$@"
