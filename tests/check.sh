#!/bin/sh
# Everything that must hold before a commit lands: format, lint, types, tests with branch coverage.
# Makes its own environment in .venv-check, so that it runs on a machine where nothing was prepared.
#   sh tests/check.sh              all of it
#   sh tests/check.sh -k decode    the same, with these options for pytest
set -eu
cd "$(dirname "$0")/.."
environment=.venv-check
bin="$environment/bin"
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
  echo "check: Python 3.11, 3.12 or 3.13 is needed; name one: PYTHON=python3.12 sh tests/check.sh" >&2
  exit 1
}

# Installs when the requirements are others than last time.
wanted=$(cat requirements.txt tests/requirements.txt | cksum)
if [ "$(cat "$environment/installed" 2>/dev/null)" != "$wanted" ]; then
  "$python" -m venv --clear "$environment"
  "$bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt
  echo "$wanted" >"$environment/installed"
fi
if command -v npm >/dev/null && [ ! -x node_modules/.bin/newman ]; then
  npm install --prefix . --no-save --no-audit --no-fund --loglevel=error newman@6.2.2 || [ -z "${CI:-}" ]
fi

"$bin/ruff" format --check .
"$bin/ruff" check .
"$bin/mypy"
if command -v shellcheck >/dev/null; then shellcheck get_started/*.sh tests/*.sh .ci/run; fi
rm -f .coverage .coverage.*
"$bin/python" -m pytest --cov --cov-report= --durations=10 -ra "$@"
if [ "$#" -eq 0 ]; then
  "$bin/python" -m coverage report
fi
