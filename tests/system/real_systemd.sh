#!/usr/bin/env bash
# Boot a real systemd as PID 1 of its own namespaces, over a throw-away
# copy-on-write view of this machine's root, and run commands in it.
#
#   real_systemd.sh up                 boot (about 0.6 s); prints how long it took
#   real_systemd.sh run CMD...         run CMD inside (systemctl, journalctl, curl, ...)
#   real_systemd.sh push SRC... DEST   copy host files inside (cp -a; DEST absolute)
#   real_systemd.sh down               end it; nothing it wrote remains
#
# Needs root, overlayfs, and the Debian packages systemd and util-linux: no
# debootstrap, nspawn, image or network. Inside, it has its own network (only lo),
# /tmp, /run, /dev, hostname, journal; everything else of / is seen copy-on-write.
#
# LAB         state directory, one per lab (default /tmp/optictl-lab)
# LAB_CGROUP  v2 (default): IPAddressDeny= and friends are enforced, but MemoryMax=,
#             TasksMax=, CPUQuota= only where the host's controllers are on v2;
#             v1: MemoryMax= and TasksMax= are enforced on a host with v1 controllers
set -euo pipefail

export LAB=${LAB:-/tmp/optictl-lab} LAB_CGROUP=${LAB_CGROUP:-v2}
SELF=$(readlink -f "${BASH_SOURCE[0]}")
NAME=$(basename "$LAB")
SYSTEMD=/usr/lib/systemd/systemd
V1="cpu cpuacct memory pids devices freezer blkio"

# Units that would reach the real machine's kernel, clock or devices, or only
# cost time here. Whatever the host has enabled is dropped as well (see inner).
MASK=(
  systemd-sysctl.service systemd-modules-load.service systemd-binfmt.service
  systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket
  systemd-udev-trigger.service systemd-udev-settle.service systemd-hwdb-update.service
  systemd-random-seed.service systemd-timesyncd.service systemd-pstore.service
  systemd-firstboot.service systemd-machine-id-commit.service systemd-remount-fs.service
  systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-logind.service
  systemd-network-generator.service systemd-networkd.service systemd-resolved.service
  kmod-static-nodes.service proc-sys-fs-binfmt_misc.automount proc-sys-fs-binfmt_misc.mount
  dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount
  sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount
  systemd-journald-audit.socket systemd-initctl.socket getty.target getty-static.service
  console-getty.service remote-fs.target e2scrub_reap.service
)

die() { printf 'real_systemd: %s\n' "$*" >&2; exit 1; }

init_pid() {                            # host pid of the lab's PID 1
  local outer; outer=$(cat "$LAB/unshare.pid" 2>/dev/null) || die "not up ($LAB)"
  awk '{ print $1 }' "/proc/$outer/task/$outer/children" 2>/dev/null
}

cgroups() {                             # the cgroup directories this lab owns
  local at here c
  if [ "$LAB_CGROUP" = v1 ]; then
    for c in $V1 name=systemd; do
      at=$(awk -v o="$c" '$3 == "cgroup" && ("," $4 ",") ~ ("," o ",") { print $2; exit }' /proc/mounts)
      here=$(awk -F: -v o="$c" '("," $2 ",") ~ ("," o ",") { print $3 }' /proc/self/cgroup)
      [ -z "$at" ] || printf '%s/%s\n' "$at${here%/}" "$NAME"
    done
  fi
  at=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
  [ -z "$at" ] || printf '%s/%s\n' "$at" "$NAME"
}

# ---------------------------------------------------------------- inner stage
# Runs as PID 1 of the new namespaces; ends by becoming systemd.
inner() {
  local root=$LAB/root n
  mount --make-rprivate /
  mount -t tmpfs -o mode=755 lab "$LAB/cow"
  mkdir "$LAB/cow/upper" "$LAB/cow/work"
  mount -t overlay lab -o "lowerdir=/,upperdir=$LAB/cow/upper,workdir=$LAB/cow/work" "$root"

  mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
  mount --bind "$root/proc/sys" "$root/proc/sys"             # no sysctl leaks out
  mount -o remount,bind,ro "$root/proc/sys"
  mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
  if [ "$LAB_CGROUP" = v1 ]; then
    mount -t tmpfs -o mode=755,nosuid,nodev,noexec tmpfs "$root/sys/fs/cgroup"
    for n in $V1; do
      mkdir "$root/sys/fs/cgroup/$n"
      mount -t cgroup -o "nosuid,nodev,noexec,$n" cgroup "$root/sys/fs/cgroup/$n"
    done
    mkdir "$root/sys/fs/cgroup/systemd"
    mount -t cgroup -o nosuid,nodev,noexec,none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
  else
    mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
  fi
  mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$root/run"
  mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/tmp"
  mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev"
  for n in null zero full random urandom tty; do
    touch "$root/dev/$n"; mount --bind "/dev/$n" "$root/dev/$n"
  done
  mkdir "$root/dev/pts" "$root/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
  mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
  ln -s pts/ptmx "$root/dev/ptmx"
  ln -s /proc/self/fd "$root/dev/fd"
  for n in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${n%%:*}" "$root/dev/${n#*:}"; done

  rm -rf "$root/etc/systemd/system"                          # nothing of the host's starts
  mkdir -p "$root/etc/systemd/system" "$root/etc/systemd/journald.conf.d"
  for n in "${MASK[@]}"; do ln -s /dev/null "$root/etc/systemd/system/$n"; done
  printf '[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\nForwardToSyslog=no\n' \
    > "$root/etc/systemd/journald.conf.d/lab.conf"
  : > "$root/etc/fstab"
  printf '%s\n' "$NAME" > "$root/etc/hostname"

  mkdir -p "$root/.host"
  cd "$root"
  pivot_root . .host
  umount -l /.host
  mount --make-rshared /        # in a container systemd leaves this to us; LoadCredential= needs it
  exec env -i container=optictl-lab PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    setpriv --bounding-set -sys_module,-sys_time,-sys_rawio,-sys_boot,-mknod,-audit_control,-mac_admin,-mac_override \
    "$SYSTEMD" --system --unit=multi-user.target --log-target=journal --show-status=0 < /dev/null
}

# --------------------------------------------------------------------- verbs
up() {
  [ "$(id -u)" = 0 ] || die "needs root"
  [ -x "$SYSTEMD" ] || die "no $SYSTEMD (apt-get install systemd)"
  [ ! -e "$LAB/unshare.pid" ] || die "already up ($LAB); run down first"
  local outer state='' began=${EPOCHREALTIME/./}
  mkdir -p "$LAB/root" "$LAB/cow"
  cgroups > "$LAB/cgroups"
  [ -s "$LAB/cgroups" ] || die "no cgroup mounts"
  # Join the new cgroups before unsharing, so that they are the namespace's roots.
  setsid bash -c 'while read -r d; do mkdir -p "$d"; echo $$ > "$d/cgroup.procs"; done < "$LAB/cgroups"
    exec unshare --fork --kill-child --pid --mount --uts --ipc --net --cgroup bash "$1" __inner' _ "$SELF" \
    > "$LAB/console.log" 2>&1 < /dev/null &
  outer=$!
  echo "$outer" > "$LAB/unshare.pid"
  for _ in $(seq 200); do
    kill -0 "$outer" 2>/dev/null || { cat "$LAB/console.log" >&2; down; die "PID 1 died"; }
    state=$(enter systemctl is-system-running 2>/dev/null) || true
    case $state in running|degraded) break ;; esac
    sleep 0.1
  done
  printf 'lab %s: %s after %d ms (pid 1 is host pid %s)\n' "$NAME" "${state:-no answer}" \
    $(( (${EPOCHREALTIME/./} - began) / 1000 )) "$(init_pid)"
  [ "$state" = running ] || [ "$state" = degraded ] || die "did not boot"
}

enter() {                               # run CMD in the lab, in its own cgroup
  local pid; pid=$(init_pid); [ -n "$pid" ] || return 1
  bash -c 'while read -r d; do echo $$ > "$d/cgroup.procs"; done < "$LAB/cgroups"
    exec nsenter --target "$1" --mount --uts --ipc --net --pid --cgroup --root --wdns=/ -- "${@:2}"' \
    _ "$pid" "$@"
}

push() {
  local dest=${*: -1}
  cp -a -- "${@:1:$#-1}" "/proc/$(init_pid)/root$dest"
}

down() {
  local outer d; outer=$(cat "$LAB/unshare.pid" 2>/dev/null) || { echo "not up"; return 0; }
  kill -KILL "$outer" 2>/dev/null || true                    # --kill-child takes PID 1 and all below
  while read -r d; do
    for _ in $(seq 50); do
      [ -d "$d" ] || break
      find "$d" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
    done
  done < "$LAB/cgroups"
  rm -f "$LAB/unshare.pid" "$LAB/console.log" "$LAB/cgroups"
  rmdir "$LAB/root" "$LAB/cow" "$LAB" 2>/dev/null || true
}

case ${1:-} in
  up) up ;;
  run) shift; enter "$@" ;;
  push) shift; push "$@" ;;
  down) down ;;
  __inner) inner ;;
  *) sed -n '2,19s/^# \{0,1\}//p' "$SELF"; exit 2 ;;
esac
