#!/usr/bin/env bash
# Install a release on an arm64 Debian under QEMU and run its health check: the aarch64 wheels, the
# agent and the runtime, on the processor architecture of every Jetson.
#
#   scripts/flash_aarch64.sh .venv bundle            # as root; leaves build/arm64 for the next time
#
# Arguments: environment with molmoact-flash, bundle, and the folder to work in (build/arm64).
# Installs qemu-user-static and mmdebstrap where they are missing. What it prints is emulated: no
# time of it says anything about a board.
set -euo pipefail
cd "$(dirname "$0")/.."
env=$1 bundle=$2 work=${3:-build/arm64}
flash="$env/bin/molmoact-flash"
[ "$(id -u)" = 0 ] || { echo "$0: root is needed, for chroot and binfmt_misc" >&2; exit 2; }

command -v mmdebstrap >/dev/null && command -v qemu-aarch64-static >/dev/null || {
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends qemu-user-static mmdebstrap arch-test
}
binfmt=/proc/sys/fs/binfmt_misc
[ -e $binfmt/register ] || mount -t binfmt_misc binfmt_misc $binfmt
# The header of an arm64 ELF file; F opens the emulator now, so that it is found inside the chroot.
[ -e $binfmt/qemu-aarch64 ] || printf '%s' ':qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu-aarch64-static:F' >$binfmt/register

mkdir -p "$work"
work=$(realpath "$work")
root=$work/root
# Packages are unpacked and not configured: that would run a thousand programs under emulation.
[ -f "$root/complete" ] || {
  rm -rf --one-file-system "$root"
  mmdebstrap --quiet --architectures=arm64 --variant=extract \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --include=base-files,base-passwd,coreutils,dash,libc-bin,libstdc++6,openssh-client,passwd,python3 \
    bookworm "$root"
  for name in passwd group; do cp "$root/usr/share/base-passwd/$name.master" "$root/etc/$name"; done
  touch "$root/etc/shadow" "$root/complete"
}

[ -f "$work/release_key" ] || ssh-keygen -q -t ed25519 -N '' -C aarch64-trial -f "$work/release_key"
release=$work/release
rm -rf "$release"
python=$(chroot "$root" /usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$flash" build "$release" --bundle "$bundle" --profile so101 --machine aarch64 --python "$python" \
  --sign "$work/release_key"

mounted() { mountpoint -q "$root/$1"; }
mounted proc || mount -t proc proc "$root/proc"
mounted sys || mount -t sysfs -o ro sysfs "$root/sys" # onnxruntime asks it for the processors
mounted dev || mount --bind /dev "$root/dev"
tidy() {
  supervisor=$root/opt/molmoact-edge/run/supervisor.pid
  [ -f "$supervisor" ] && kill "$(cat "$supervisor")" 2>/dev/null && sleep 2
  umount --lazy "$root/dev" "$root/sys" "$root/proc"
}
trap tidy EXIT
device=(arm64 --via "chroot $root")
"$flash" provision "${device[@]}" --key "$work/release_key.pub"
"$flash" push "${device[@]}" --release "$release" --settle-s 5 --result "$work/result.json"
"$flash" status "${device[@]}"
cat "$work/result.json"
