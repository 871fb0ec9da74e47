#!/usr/bin/env bash
# Lint, format and tests; makes .venv if it is missing. --drills adds the tests of
# continuous integration, --slow runs the slow ones alone; other arguments go to pytest.
set -euo pipefail
EXTRAS=test,judges
source "$(dirname "$0")/environment.sh"

ruff check .
ruff format --check .
# In two processes, for compilers mostly use one core; files whole, for their tests share
# what they prepare. Not so the drills, which start processes of their own, nor what is
# to print as it runs.
processes=(--numprocesses=2 --dist=loadfile)
case " $* " in *" --drills "* | *" -s "*) processes=() ;; esac
python -m pytest ${processes[@]+"${processes[@]}"} "$@"
