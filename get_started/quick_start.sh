#!/usr/bin/env bash
# From a clone to two answers: checks Python, makes .venv, installs, makes a user and a manager, starts the server, sends
# an example of each model, and prints the lines to do it yourself.
#
#   bash get_started/quick_start.sh               leaves the server running
#   bash get_started/quick_start.sh --stop        stops it
#   bash get_started/quick_start.sh --port 9080   listens on 9080, 9081 and 9082 instead of 8080, 8081 and 8082
#   bash get_started/quick_start.sh --check       stops it again; ends with 0 if both models answered
#   bash get_started/quick_start.sh --full        installs PyTorch and TensorFlow too, for your own models
set -euo pipefail

cd "$(dirname "$0")/.."
user=demo
manager=demo-manager
instance=${SCANCER_INSTANCE:-instance}
check=no
stop=no
port=
requirements=requirements_serve.txt

fail() {
  printf '\nquick_start: %s\n' "$1" >&2
  exit 1
}

# The command of a process, whole: where no terminal is, ps may cut it at 80 characters, or not be installed.
tell_command() { { tr '\0' ' ' <"/proc/$1/cmdline"; } 2>/dev/null || ps -ww -o args= -p "$1" 2>/dev/null || true; }

while [ $# -gt 0 ]; do
  case "$1" in
    --check) check=yes ;;
    --full) requirements=requirements.txt ;;
    --stop) stop=yes ;;
    --port)
      port=${2:-}
      if ! [[ $port =~ ^[1-9][0-9]{0,4}$ ]] || [ "$port" -gt 65533 ]; then
        fail "--port needs a number from 1 to 65533, such as --port 9080"
      fi
      shift
      ;;
    *) fail "unknown option $1; there are --check, --full, --port and --stop" ;;
  esac
  shift
done

if [ "$stop" = yes ]; then
  server=$(cat "$instance/server.pid" 2>/dev/null) || fail "no server of a quick start runs here: there is no $instance/server.pid"
  case "$(tell_command "$server")" in
    *gunicorn*) ;;
    *) fail "the server of the quick start has ended: process $server is not gunicorn" ;;
  esac
  kill "$server"
  while kill -0 "$server" 2>/dev/null; do sleep 0.1; done
  echo "The server is stopped."
  exit
fi

if [ -n "$port" ]; then
  export SCANCER_INFERENCE_ADDRESS=127.0.0.1:$port SCANCER_MANAGEMENT_ADDRESS=127.0.0.1:$((port + 1))
  export SCANCER_METRICS_ADDRESS=127.0.0.1:$((port + 2))
fi

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
mkdir -p "$instance"
echo "Installing $requirements …"
.venv/bin/python -m pip install --disable-pip-version-check -r "$requirements" >"$instance/pip.log" 2>&1 || {
  tail -n 5 "$instance/pip.log" >&2
  fail "pip could not install $requirements. Is there a network, and does it reach a Python package index? Behind a proxy set HTTPS_PROXY and run this again."
}

# Also says so at once if a SCANCER_ variable is not allowed.
# shellcheck disable=SC2016  # the dollar sign is for the reader of the message
addresses=$(.venv/bin/python -c '
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
                     "(bash get_started/quick_start.sh --stop), or choose other ports: --port 9080")
print(settings.inference_address, settings.management_address, settings.metrics_address)
') || fail "the server cannot start with these addresses or settings; the line above says what to do."

read -r address management metrics <<<"$addresses"

make_password() { .venv/bin/python -c 'import secrets; print(secrets.token_hex(12))'; }
password=$(make_password)
manager_password=$(make_password)
printf '%s\n' "$password" | .venv/bin/flask users add "$user" --password-stdin >/dev/null
printf '%s\n' "$manager_password" | .venv/bin/flask users add "$manager" --role manage --password-stdin >/dev/null

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
Manager:  $manager
Password: $manager_password   (shown once; a new one: .venv/bin/flask users add $manager --role manage)
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
if [ "$check" = yes ]; then
  stop
  trap - EXIT
  echo "Both models answered; the server is stopped."
  exit
fi
trap - EXIT
cat <<EOF

Postman: import the two files get_started/scancer.postman_*.json, and set in the environment "Scancer API":
  base              http://$address
  management        http://$management
  metrics           http://$metrics
  user              $user
  password          $password
  manager           $manager
  manager_password  $manager_password
The same without Postman, once "npm install newman" was run here; every check must be green:
$ '$PWD/node_modules/.bin/newman' run '$PWD/get_started/scancer.postman_collection.json' -e '$PWD/get_started/scancer.postman_environment.json' --working-dir '$PWD' --env-var base=http://$address --env-var management=http://$management --env-var metrics=http://$metrics --env-var user=$user --env-var password=$password --env-var manager=$manager --env-var manager_password=$manager_password

Open http://$address, sign in as $user with the password above, open a model, and drop a picture. Guides: http://$address/guides
The server goes on running; stop it: bash get_started/quick_start.sh --stop
EOF
