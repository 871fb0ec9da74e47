# Sourced by demo.sh and test.sh: goes to the project's root, and makes .venv there if
# it is missing, from nothing but a python3 of version 3.11 or newer. Set EXTRAS first.
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stamp=.venv/podgcm-$(cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)-$EXTRAS
if [ ! -e "$stamp" ]; then
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "podgcm needs Python 3.11 or newer; python3 is $(python3 --version)" >&2
    exit 1
  }
  echo "installing into .venv (a few minutes) ..." >&2
  [ -x .venv/bin/python ] || python3 -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --constraint constraints.txt --editable ".${EXTRAS:+[$EXTRAS]}"
  touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
# Large arrays are kept rather than returned to the system page by page.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184
