#!/bin/sh
# Everything that must hold before a commit lands: format, lint, types and tests.
# Makes its own environment in .venv-check, so that it runs on a machine where nothing was prepared.
#   sh tests/check.sh              what every change must pass; under 15 minutes on two cores, with the installation
#   sh tests/check.sh all          also what takes minutes and guards what seldom changes: benchmarks, every Keras family
#   sh tests/check.sh fast         only what needs no framework, no server and no quiet machine; under 90 seconds
#   sh tests/check.sh -k decode    each of them takes options for pytest, such as --cov
#   sh tests/check.sh install      only the environment, while something else installs what is no Python package
# Where CI is set, the quick start is run too, and Node's packages must install.
set -eu
cd "$(dirname "$0")/.."
environment=.venv-check
bin="$environment/bin"
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
  echo "check: Python 3.11, 3.12 or 3.13 is needed; name one: PYTHON=python3.12 sh tests/check.sh" >&2
  exit 1
}
tier="not long and "
case "${1:-}" in
  fast) tier="not slow and not long and " && shift ;;
  all) tier="" && shift ;;
esac

# Installs when the requirements are others than last time. pip would write byte code on one core; all of them do here.
wanted=$(cat requirements.txt tests/requirements.txt benchmarks/requirements.txt | cksum)
if [ "$(cat "$environment/installed" 2>/dev/null)" != "$wanted" ]; then
  "$python" -m venv --clear "$environment"
  "$bin/python" -m pip install --quiet --disable-pip-version-check --no-compile \
    -r requirements.txt -r tests/requirements.txt -r benchmarks/requirements.txt
  "$bin/python" -m compileall -qq -j 0 "$environment/lib" || true # packages also hold templates that are no Python
  echo "$wanted" >"$environment/installed"
fi
if [ "${1:-}" = install ]; then exit; fi

install_node_packages() {
  if [ "${tier#not slow}" = "$tier" ] && command -v npm >/dev/null && [ ! -d node_modules/axe-core ]; then
    npm install --prefix . --no-save --no-audit --no-fund --loglevel=error newman@6.2.2 playwright-core@1.65.1 \
      axe-core@4.14.1 || [ -z "${CI:-}" ]
  fi
}

# Runs the tests of an expression; it is no failure that there are none (5).
run_tests() {
  expression=$1
  shift
  "$bin/python" -m pytest --durations=10 -ra -m "$expression" "$@" || [ $? -eq 5 ]
}

"$bin/ruff" format --check .
"$bin/ruff" check .
install_node_packages & # waits for the network, while mypy computes
node_packages=$!
"$bin/mypy"
if command -v shellcheck >/dev/null; then shellcheck -x get_started/*.sh tests/*.sh tests/deploy/*.sh deploy/systemd/install.sh deploy/systemd/scancer .ci/run; fi
wait "$node_packages"
# A file's tests share their fixtures in one process. Files stay in order: tests/conftest.py puts the slow ones first.
# One process more than there are cores: many tests wait for a server.
run_tests "${tier}not alone" -n "$(($(nproc 2>/dev/null || sysctl -n hw.ncpu) + 1))" --dist loadfile --no-loadscope-reorder "$@"
if [ "${tier#not slow}" = "$tier" ]; then run_tests "${tier}alone" "$@"; fi
