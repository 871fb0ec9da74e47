#!/usr/bin/env bash
# Lint, format and tests; makes .venv if it is missing. --drills adds the tests of
# continuous integration, --slow runs all; other arguments go to pytest.
set -euo pipefail
EXTRAS=test,judges
source "$(dirname "$0")/environment.sh"

ruff check .
ruff format --check .
# Whole suites in two processes, for compilers mostly use one core; files as they are,
# for they share what they prepare. What else is asked for, in one, as pytest is used to.
processes=(--numprocesses=2 --dist=loadfile)
for argument in "$@"; do
  case "$argument" in
    --drills | --slow | --durations=*) ;;
    *) processes=() ;;
  esac
done
python -m pytest ${processes[@]+"${processes[@]}"} "$@"
