#!/usr/bin/env bash
# Lint, format and tests; makes .venv if it is missing. --drills adds the tests of
# continuous integration, --slow runs the slow ones alone; other arguments go to pytest.
set -euo pipefail
EXTRAS=test,judges
source "$(dirname "$0")/environment.sh"

ruff check .
ruff format --check .
# The slow ones in two processes, for compilers mostly use one core; files whole, for
# their tests share what they prepare.
processes=()
case " $* " in *" --slow "*) processes=(--numprocesses=2 --dist=loadfile) ;; esac
python -m pytest ${processes[@]+"${processes[@]}"} "$@"
