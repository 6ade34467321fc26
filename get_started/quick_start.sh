#!/usr/bin/env bash
# From a clone to two answers: checks Python, makes .venv, installs, makes a user, starts the server, sends an example of
# each model, and prints the lines to do it yourself.
#
#   bash get_started/quick_start.sh           leaves the server running
#   bash get_started/quick_start.sh --check   stops it again; ends with 0 if both models answered
#   bash get_started/quick_start.sh --full    installs PyTorch and TensorFlow too, for your own models
set -euo pipefail

cd "$(dirname "$0")/.."
user=demo
check=no
requirements=requirements_serve.txt

fail() {
  printf '\nquick_start: %s\n' "$1" >&2
  exit 1
}

for argument in "$@"; do
  case "$argument" in
    --check) check=yes ;;
    --full) requirements=requirements.txt ;;
    *) fail "unknown option $argument; there are --check and --full" ;;
  esac
done

find_python() {
  for candidate in ${PYTHON:-python3.12 python3.13 python3.11 python3 python}; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "Python 3.11, 3.12 or 3.13 is needed, and none was found. Install one, or name it: PYTHON=/path/to/python3.12 bash get_started/quick_start.sh"
}

is_usable() { .venv/bin/python -c 'import pip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

command -v curl >/dev/null || fail "curl is needed to send the examples; install it with your system's package manager."
python=$(find_python)

if ! is_usable; then
  echo "Making .venv with $("$python" --version) …"
  "$python" -m venv --clear .venv || fail "Python cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"
fi
echo "Installing $requirements …"
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements" ||
  fail "pip could not install $requirements. Is there a network, and does it reach a Python package index? Behind a proxy set HTTPS_PROXY and run this again."

# Also says so at once if a SCANCER_ variable is not allowed.
# shellcheck disable=SC2016  # the dollar sign is for the reader of the message
address=$(.venv/bin/python -c '
import socket, sys
from app.config.settings import Settings
from app.errors import SettingsError
try:
    settings = Settings.from_env()
except SettingsError as error:
    sys.exit(error.message)
for address in settings.addresses:
    with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            sys.exit(f"{address} is taken ({error.strerror}). Stop what uses it, perhaps an earlier quick start "
                     "(kill $(cat instance/server.pid)), or choose others: SCANCER_INFERENCE_ADDRESS=127.0.0.1:9080 "
                     "SCANCER_MANAGEMENT_ADDRESS=127.0.0.1:9081 SCANCER_METRICS_ADDRESS=127.0.0.1:9082")
print(settings.inference_address)
') || fail "the server cannot start with these addresses or settings; the line above says what to do."

instance=$(.venv/bin/python -c "from app.config.settings import Settings; print(Settings.from_env().instance)")
mkdir -p "$instance"
password=$(.venv/bin/python -c 'import secrets; print(secrets.token_urlsafe(12))')
printf '%s\n' "$password" | .venv/bin/flask users add "$user" --password-stdin >/dev/null

echo "Starting the server …"
nohup .venv/bin/gunicorn wsgi:app --pid "$instance/server.pid" >"$instance/server.log" 2>&1 &
server=$!
is_ready() { curl --silent --noproxy "*" --fail --output /dev/null "http://$address/health/ready"; }
stop() {
  kill "$server" 2>/dev/null || true
  wait "$server" || true
}
trap stop EXIT
for _ in $(seq 1 300); do
  is_ready && break
  kill -0 "$server" 2>/dev/null || { cat "$instance/server.log" >&2; fail "the server stopped; its log is above."; }
  sleep 0.2
done
is_ready ||
  { curl --silent --noproxy "*" "http://$address/health/ready" >&2 || true; fail "not every model is ready; $instance/server.log says why."; }

cat <<EOF

Research use only. Not for diagnosis.

User:     $user
Password: $password   (shown once; a new one: .venv/bin/flask users add $user)
EOF
ask() {
  printf '\n$ curl --user %s:%s http://%s/predictions/%s -T %s\n' "$user" "$password" "$address" "$1" "$2"
  answer=$(curl --silent --show-error --noproxy "*" --user "$user:$password" "http://$address/predictions/$1" -T "$2")
  printf '%s\n' "$answer"
  case "$answer" in
    *'"class"'*) ;;
    *) fail "the example of $1 was not answered; $instance/server.log says why." ;;
  esac
}
ask pcam-classification models/pcam-classification/1.1/examples/metastatic.jpg
ask isic-classification models/isic-classification/1.1/examples/malignant.jpg
printf '\nThe models, in a browser: http://%s/models\n' "$address"

if [ "$check" = yes ]; then
  stop
  trap - EXIT
  echo "Both models answered; the server is stopped."
else
  trap - EXIT
  echo "The server goes on running; stop it: kill \$(cat $instance/server.pid)"
fi
