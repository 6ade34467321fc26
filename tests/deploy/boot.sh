#!/bin/bash
# Boots the Debian in folder $1 with its own systemd, in namespaces of its own but on this machine's network. The project, $2,
# is at /src, read-only. Ends with the systemd; kill it to end everything.
set -eu
# shellcheck disable=SC2016  # the inner shell reads its own arguments
exec unshare --fork --pid --mount --cgroup --ipc --uts --kill-child bash -euc '
  hostname scancer-trial
  mount --make-rprivate /
  mount --bind "$1" "$1"
  cd "$1"
  mkdir -p src
  mount --bind "$2" src
  mount -o remount,ro,bind src
  mount -t proc proc proc
  mount -t sysfs -o ro sysfs sys
  mount -t cgroup2 cgroup2 sys/fs/cgroup
  mount -t tmpfs -o mode=755 tmpfs dev
  for name in null zero full random urandom tty; do
    touch "dev/$name"
    mount --bind "/dev/$name" "dev/$name"
  done
  mkdir dev/shm dev/pts
  mount -t tmpfs -o mode=1777 tmpfs dev/shm
  mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
  ln -s pts/ptmx dev/ptmx
  ln -s /proc/self/fd dev/fd
  mount -t tmpfs -o mode=755 tmpfs run
  mount -t tmpfs -o mode=1777 tmpfs tmp
  pivot_root . mnt
  umount -l /mnt
  exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 /lib/systemd/systemd --log-target=console
' boot "$1" "$2"
