#!/usr/bin/env bash
# Rehearse the flash on a booted Debian: real systemd, sshd and sudo in a container, and there the
# unit's rights, watchdog and limit of starts, a second release, the way back, and a reboot.
#
#   scripts/flash_systemd.sh .venv bundle            # as root; leaves build/systemd/base for the next time
#
# Arguments: environment with molmoact-flash, bundle, the folder to work in (build/systemd), and the
# port of the container's sshd on 127.0.0.1 (22622). Installs systemd-container and debootstrap where
# they are missing. No arm, no camera, no udev.
set -euo pipefail
cd "$(dirname "$0")/.."
env=$1 bundle=$2 work=${3:-build/systemd} port=${4:-22622}
[ "$(id -u)" = 0 ] || { echo "$0: root is needed, for systemd-nspawn" >&2; exit 2; }

command -v systemd-nspawn >/dev/null && command -v debootstrap >/dev/null || {
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends systemd-container debootstrap
}
mkdir -p "$work"
work=$(realpath "$work")
base=$work/base root=$work/device unit=molmoact-edge.service
[ -f "$base/complete" ] || {
  rm -rf --one-file-system "$base"
  debootstrap --variant=minbase \
    --include=dbus,libstdc++6,openssh-server,procps,python3,sudo,systemd,systemd-sysv,udev \
    bookworm "$base" >"$work/debootstrap.log"
  touch "$base/complete"
}

rm -rf --one-file-system "$root"
cp -a --reflink=auto "$base" "$root"
for key in release_key login_key; do
  [ -f "$work/$key" ] || ssh-keygen -q -t ed25519 -N '' -C "$key" -f "$work/$key"
done
chroot "$root" useradd --create-home --shell /bin/bash robot
install -D -m 644 "$work/login_key.pub" "$root/home/robot/.ssh/authorized_keys"
chroot "$root" chown -R robot: /home/robot/.ssh
printf 'Port %s\nListenAddress 127.0.0.1\n' "$port" >"$root/etc/ssh/sshd_config.d/port.conf"
mkdir -p "$root/var/log/journal"
echo device >"$root/etc/hostname"
echo "127.0.0.1 localhost device" >"$root/etc/hosts"
: >"$root/etc/machine-id"

# In a mount namespace of its own: the container is to see cgroups of version 2 alone, as boards do.
# 133: it reboots.
setsid unshare --mount --propagation private bash -c '
  [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ] || {
    umount --lazy /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup; }
  while systemd-nspawn --quiet --directory="$1" --boot --register=no --keep-unit \
    --machine=molmoact-rehearsal --resolv-conf=off --console=pipe; [ $? = 133 ]; do :; done
' boot "$root" </dev/null >"$work/console.log" 2>&1 &
booted=$!
# The container's first process: the child of the child.
first() { pgrep -P "$(pgrep -P "$booted" -x systemd-nspawn)" | head -n 1; }
inside() { nsenter -t "$(first)" -a "$@"; }
tidy() {
  inside systemctl poweroff 2>/dev/null || true
  for _ in $(seq 60); do kill -0 "$booted" 2>/dev/null || break; sleep 0.5; done
  kill -0 "$booted" 2>/dev/null && pkill -KILL -P "$booted" # that nspawn alone
  rm -rf --one-file-system "$root"
}
trap tidy EXIT

within() { # SECONDS NAME COMMAND...: it comes to that
  local until=$((SECONDS + $1)) name=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $until ] || { echo "NOT SEEN: $name" >&2; exit 1; }
    sleep 0.5
  done
  echo "seen: $name"
}
shows() { [ "$(inside systemctl show -p "$1" --value $unit)" = "$2" ]; }
says() { flash status | grep "$1" >/dev/null; } # not -q, which breaks the pipe
main_pid() { inside systemctl show -p MainPID --value $unit; }
reach=(--port "$port" --identity "$work/login_key" --ssh-option "UserKnownHostsFile=$work/known_hosts"
  --ssh-option StrictHostKeyChecking=accept-new --ssh-option LogLevel=ERROR)
flash() { "$env/bin/molmoact-flash" "$1" robot@127.0.0.1 "${reach[@]}" "${@:2}"; }
push() { flash push --bundle "$bundle" --profile so101 --sign "$work/release_key" --name "$1" --result "$work/$1.json"; }
restarted() { [ "$(inside systemctl show -p NRestarts --value $unit)" -ge "$1" ] && shows ActiveState active; }

rm -f "$work/known_hosts"
ssh=(ssh -p "$port" -i "$work/login_key" -o BatchMode=yes -o "UserKnownHostsFile=$work/known_hosts"
  -o StrictHostKeyChecking=accept-new -o LogLevel=ERROR robot@127.0.0.1)
within 120 "systemd is up, and sshd" "${ssh[@]}" true
# Instead of the password that a person would type; gone before the first push.
echo "robot ALL=(ALL) NOPASSWD: ALL" >"$root/etc/sudoers.d/robot"
flash provision --key "$work/release_key.pub"
rm "$root/etc/sudoers.d/robot"
within 1 "sudo for nothing else" bash -c '! "$@" sudo -n true' - "${ssh[@]}"

push first
inside systemctl --version | head -n 1
within 1 "systemd-analyze verify is content" inside systemd-analyze verify /etc/systemd/system/$unit
inside systemd-analyze security --no-pager $unit | tail -n 1
inside sh -c 'grep -E "^(Uid|Groups|CapBnd|NoNewPrivs|Seccomp):" /proc/$0/status; id molmoact' "$(main_pid)"
within 1 "the stop socket's folder is everybody's" inside sh -c \
  '[ "$(stat -c %d:%i /tmp)" = "$(nsenter -t $0 -m stat -c %d:%i /tmp)" ]' "$(main_pid)"

inside kill -KILL "$(main_pid)"
within 60 "killed: started anew" restarted 1
inside kill -STOP "$(main_pid)"
within 90 "frozen: ended by systemd's watchdog, started anew" restarted 2
for _ in 1 2 3; do # the third start within twenty minutes is the last
  shows ActiveState failed && break
  inside kill -KILL "$(main_pid)" 2>/dev/null || true
  sleep 13
done
within 30 "a crash loop ends" shows ActiveState failed
within 5 "status says by what" says "failed:.*signal"

flash run --task "touch the cube" || true # for 30 s it waits for an arm's port
within 5 "a refusal is told with its reason" says "failed:.*error:.*--calibration"
within 1 "and is not tried again" shows NRestarts 0
flash run --stop
push second
flash rollback
within 5 "the first release runs" says "first running"

flash rollback --to "$(flash status | sed -n 's/^ *before *//p')" &
within 60 "a trial" grep -q '"to"' "$root/opt/molmoact-edge/state.json"
inside pkill -KILL -f '^/usr/bin/python3 -I /opt/molmoact-edge/agent.pyz session'
wait $! || true
inside systemctl reboot
within 120 "its session killed, and a reboot: the release before is back" says "first running"
flash prune --keep 1
flash status
within 1 "no unit has failed" bash -c '[ -z "$("$@")" ]' - "${ssh[@]}" systemctl --failed --plain --no-legend
