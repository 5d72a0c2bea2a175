#!/usr/bin/env bash
# Makes .venv with amqpq (editable) and its `dev` dependency group, or brings it up to date with pyproject.toml.
# $PYTHON names the interpreter; else the first of python3, python3.14 ... python3.11 that is new enough.
set -euo pipefail
cd "$(dirname "$0")/.."

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# The venv module comes in a package of its own on Debian and Ubuntu, and so does ensurepip.
can_make_venvs() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if is_new_enough "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  echo "missing: Python 3.11 or later; name one with PYTHON=/path/to/python3" >&2
  return 1
}

if [ ! -x .venv/bin/python ]; then
  if ! command -v python3 >/dev/null && [ -z "${PYTHON:-}" ]; then
    scripts/apt-install.sh "amqpq is written in it" python3 python3-venv
  fi
  python=$(find_python)
  if ! can_make_venvs "$python"; then
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    scripts/apt-install.sh "$version lacks the venv module" "$version-venv"
  fi
  "$python" -m venv .venv
fi

# --group needs pip 25.1; what a new venv holds is often older.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]' --group dev
touch .venv/up-to-date
