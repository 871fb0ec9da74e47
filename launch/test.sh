#!/usr/bin/env bash
# Lint, format and tests; makes .venv if it is missing. --drills runs the tests that
# continuous integration adds, --slow the slow ones; other arguments go to pytest.
set -euo pipefail
EXTRAS=test,judges
source "$(dirname "$0")/environment.sh"

ruff check .
ruff format --check .
# In two processes, for compilers mostly use one core; files whole, for their tests share
# what they prepare. Not so what is to print as it runs.
processes=(--numprocesses=2 --dist=loadfile)
case " $* " in *" -s "*) processes=() ;; esac
python -m pytest ${processes[@]+"${processes[@]}"} "$@"
