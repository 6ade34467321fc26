#!/usr/bin/env bash
# Installs Scancer API as a systemd service, or brings an installed one up to this version. Run it again at any time.
#
#   sudo bash deploy/systemd/install.sh              code, packages, models, user, unit; then starts the service
#   sudo bash deploy/systemd/install.sh --shared     also the packages for PostgreSQL and Redis
#   sudo bash deploy/systemd/install.sh --tracing    also the packages for traces; later runs keep both
#   sudo bash deploy/systemd/install.sh --rollback   back to the version before; again: forward
#   sudo bash deploy/systemd/install.sh --uninstall  stops and removes it; keeps settings, users and models
#   sudo bash deploy/systemd/install.sh --purge      removes these too, and the user
#   bash deploy/systemd/install.sh --root DIR        a trial below DIR: no root, no user, nothing is started
#
# PYTHON=python3.12 names the Python; pip's own variables hold, such as PIP_NO_INDEX=1 PIP_FIND_LINKS=/media/wheels.
set -euo pipefail
umask 022

say() { printf 'install: %s\n' "$*"; }
fail() {
  printf 'install: %s\n' "$*" >&2
  exit 1
}

source=$(cd "$(dirname "$0")/../.." && pwd)
root="" action=install extras=()
while [ "$#" -gt 0 ]; do
  case "$1" in
    --root)
      mkdir -p "${2:?--root needs a folder}"
      root=$(cd "$2" && pwd)
      shift
      ;;
    --shared | --tracing) extras+=("${1#--}") ;;
    --rollback | --uninstall | --purge) action=${1#--} ;;
    *) fail "unknown option $1; the head of this file lists them" ;;
  esac
  shift
done
[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "root is needed (sudo), or --root DIR for a trial."

home=$root/opt/scancer settings=$root/etc/scancer state=$root/var/lib/scancer
unit=$root/etc/systemd/system/scancer.service command=$root/usr/local/bin/scancer
backups=$root/var/backups/scancer
has_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

# The service may have planted links below its own folder, so what is done there has its rights alone. A session of its own
# keeps the service from typing into root's terminal. `env` is there since setpriv starts its program with root's capabilities.
become="setpriv --no-new-privs --reuid=scancer --regid=scancer --init-groups env"
as_service() {
  if [ -z "$root" ]; then
    # shellcheck disable=SC2086  # several words
    setsid --wait $become "$@"
  else
    "$@"
  fi
}

# Copies a file of this folder; below another root its paths begin there.
place() { sed -E "s#/(opt|etc|var/lib)/scancer#$root&#g" "$source/deploy/systemd/$1" >"$2"; }

point_at() {
  ln -sfn "$1" "$home/$2.new"
  mv -T "$home/$2.new" "$home/$2"
}

# Prints the real path of a Python that can make an environment; below / also one that the service can run. The unit hides
# some folders.
find_python() {
  is_fit='import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
  refused=""
  for candidate in ${PYTHON:-python3.12 python3.13 python3.11 python3 /usr/bin/python3}; do
    "$candidate" -c "$is_fit" 2>/dev/null || continue
    path=$("$candidate" -c 'import os, sys; print(os.path.realpath(sys.executable))')
    case "${path#/}" in
      root/* | home/* | run/user/* | tmp/* | var/tmp/*) [ -n "$root" ] || refused=$path ;;
      *) as_service "$path" -c "$is_fit" 2>/dev/null || refused=$path ;;
    esac
    if [ "$refused" != "$path" ]; then
      echo "$path"
      return
    fi
  done
  [ -z "$refused" ] || fail "the service cannot run $refused; name a Python that all users can run: PYTHON=/usr/bin/python3"
  fail "Python 3.11, 3.12 or 3.13 with venv is needed (Debian: apt-get install python3-venv). Or name one: PYTHON=…"
}

# What this run adds, and what the running release had.
list_extras() {
  { printf '%s\n' "${extras[@]}" && (cat "$home/current/extras" 2>/dev/null || true); } | sed '/^$/d' | sort -u
}

# A release is named by what it is made of, so the same files are installed once.
install_release() {
  cd "$source"
  python=$(find_python)
  requirements=(-r requirements_serve.txt)
  mapfile -t extras < <(list_extras)
  for each in "${extras[@]}"; do requirements+=(-r "deploy/requirements_$each.txt"); done
  # The server shows the guides.
  guides=(get_started/*.md get_started/clients/README.md models/README.md deploy/{README,upgrade,growing}.md)
  guides+=(benchmarks/{README,capacity}.md)
  parts=(wsgi.py gunicorn.conf.py requirements_serve.txt deploy/requirements_{shared,tracing}.txt "${guides[@]}")
  release=$({
    echo "$("$python" --version) $python ${extras[*]}"
    find app "${parts[@]}" -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum
  } | sha256sum | cut -c1-12)
  folder=$home/releases/$release
  if [ -e "$folder/complete" ]; then
    say "version $release is there already"
  else
    say "installing version $release into $folder, with $python"
    rm -rf "$folder"
    mkdir -p "$folder"
    # The service must read it, also of a clone that was made under umask 077.
    tar -c --mode=a+rX --exclude=__pycache__ app wsgi.py gunicorn.conf.py requirements_serve.txt "${guides[@]}" |
      tar -x --no-same-owner -C "$folder"
    "$python" -m venv "$folder/venv"
    "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile "${requirements[@]}" ||
      fail "pip could not install the packages. Without a network: see deploy/README.md, 'A machine without the internet'."
    "$folder/venv/bin/python" -m compileall -qq "$folder" || true # packages also hold templates that are no Python
    printf '%s\n' "${extras[@]}" >"$folder/extras"
    touch "$folder/complete"
  fi
  current=$(readlink "$home/current" || true)
  if [ "$current" != "releases/$release" ]; then
    if [ -n "$current" ]; then point_at "$current" previous; fi
    point_at "releases/$release" current
  fi
  for old in "$home"/releases/*; do
    case "releases/${old##*/}" in
      "$(readlink "$home/current")" | "$(readlink "$home/previous" || true)") ;;
      *) rm -rf "$old" ;;
    esac
  done
}

# A version that is there stays as it is; a new one appears as a whole, also after a run that was killed.
install_models() {
  for version in "$source"/models/*/*/; do
    name=${version#"$source/models/"}
    name=${name%/}
    [ -e "$state/models/$name" ] && continue
    arriving=$state/models/${name%/*}/.arriving
    as_service rm -rf "$arriving"
    as_service mkdir -p "$arriving"
    # The service's user may not read a clone that was made under umask 077.
    tar -c -C "$version" . | as_service tar -x --no-same-owner -C "$arriving"
    as_service mv -T "$arriving" "$state/models/$name"
    say "model $name"
  done
}

make_user() {
  getent passwd scancer >/dev/null && return
  useradd --system --user-group --home-dir /var/lib/scancer --no-create-home --shell /usr/sbin/nologin scancer
  say "user scancer"
}

install() {
  command -v curl >/dev/null || fail "curl is needed; the unit asks with it whether the models are ready."
  mkdir -p "$home/releases" "$settings" "${unit%/*}" "${command%/*}"
  if [ -z "$root" ]; then make_user; fi
  mkdir -p "$state"
  chmod 750 "$state"
  if [ -z "$root" ]; then chown scancer:scancer "$state"; fi
  as_service mkdir -p "$state/models" "$state/instance" "$state/store"
  # Root's own are left of an earlier version that did not come to its end; -h follows no link.
  if [ -z "$root" ]; then chown -h scancer:scancer "$state/models" "$state/instance" "$state/store"; fi
  as_service chmod 750 "$state/models" "$state/store"
  as_service chmod 700 "$state/instance"
  install_release
  install_models
  if [ ! -e "$settings/scancer.env" ]; then
    (umask 077 && place scancer.env "$settings/scancer.env")
    chmod 640 "$settings/scancer.env"
    if [ -z "$root" ]; then chgrp scancer "$settings/scancer.env"; fi
  fi
  place scancer "$command"
  chmod 755 "$command"
  place scancer.service "$unit"
  start
}

start() {
  if has_systemd; then
    systemctl daemon-reload
    systemctl enable --quiet scancer
    systemctl restart scancer || fail "the service did not start: journalctl -u scancer says why."
    say "the service runs; journalctl -u scancer shows its log"
  else
    starter=$become
    if [ -n "$root" ]; then starter="env"; fi
    running=""
    if [ -z "$root" ]; then running=$(list_running); fi
    if [ -n "$running" ]; then say "programs of the user scancer still run; end the server before you start this one: processes $running"; fi
    line="set -ae; . $settings/scancer.env; umask 077; cd $home/current; exec $starter venv/bin/gunicorn --pid $state/gunicorn.pid wsgi:app"
    say "systemd does not run here, so nothing was started, nothing will be at boot, and nothing confines the server. This starts it,"
    say "in a terminal of its own, where it writes its log; Ctrl-C ends it:"
    echo "env -i PATH=/usr/bin:/bin sh -c '$line'"
  fi
  say "next, make a user: $command users add NAME"
}

rollback() {
  [ -e "$home/previous/complete" ] || fail "there is no version before this one in $home."
  current=$(readlink "$home/current") previous=$(readlink "$home/previous")
  point_at "$previous" current
  point_at "$current" previous
  say "version ${previous##*/} again"
  start
}

# The numbers of the processes of the service's user; one that has ended counts no more, though nobody has asked for its end.
list_running() {
  id=$(id -u scancer 2>/dev/null) || return 0
  { grep -lsE "^Uid:.*[[:space:]]$id([[:space:]]|\$)" /proc/[0-9]*/status || true; } | while read -r status; do
    if ! grep -qsE "^State:[[:space:]]+Z" "$status"; then echo "$status"; fi
  done | tr -dc '0-9\n' | tr '\n' ' '
}

# Before anything is removed: code under a running server, or a user that userdel then refuses to take.
refuse_while_it_runs() {
  running=$(list_running)
  [ -z "$running" ] || fail "programs of the user scancer still run, so nothing was removed. End them first: processes $running"
}

uninstall() {
  if has_systemd; then systemctl disable --now --quiet scancer 2>/dev/null || true; fi
  if [ -z "$root" ]; then refuse_while_it_runs; fi
  rm -rf "$home" "$unit" "$unit.d" "$command"
  if has_systemd; then systemctl daemon-reload; fi
  if [ "$action" = purge ]; then
    rm -rf "$settings" "$state"
    # The next user that the system makes may get the number of this one.
    if [ -z "$root" ] && [ -d "$backups" ]; then chown -Rh root:root "$backups/" && chmod 700 "$backups"; fi
    # A server that was killed leaves its metrics in memory.
    if [ -z "$root" ] && getent passwd scancer >/dev/null; then
      find /dev/shm -maxdepth 1 -name 'scancer-metrics-*' -user scancer -exec rm -rf {} +
      userdel scancer
    fi
    say "removed, with settings, users and models"
    [ ! -d "$backups" ] || say "$backups stays, for root alone; it holds password hashes: rm -r $backups"
    say "what you put beside it for nginx and Prometheus stays: deploy/README.md, 'Remove', names the files"
  else
    say "removed; $settings and $state stay (--purge removes them)"
  fi
}

case "$action" in
  install) install ;;
  rollback) rollback ;;
  uninstall | purge) uninstall ;;
esac
