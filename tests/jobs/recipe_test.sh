#!/usr/bin/env bash
# The steps of jobs/moesweep.def, taken from that file, on a bare Debian 12 that debootstrap makes; then its %test and a sweep on two ranks there.
#   recipe_test.sh SOURCE_DIR
# Takes some minutes and half a gigabyte of downloads: with MOESWEEP_FULL=1 only. Exit code 77: it cannot run here, with the reason printed.
set -euo pipefail
source=$1
skip() { echo "skipped: $1"; exit 77; }
[[ ${MOESWEEP_FULL:-0} == 1 ]] || skip "a bare system takes long to set up (tests/run.sh --full does it)"
[[ $(id -u) == 0 ]] || skip "a system of its own needs root"
command -v debootstrap >/dev/null || skip "debootstrap is not installed"
if [[ ${RECIPE_INSIDE:-0} != 1 ]]; then
  unshare -m true 2>/dev/null || skip "mount namespaces are not allowed here"
  RECIPE_INSIDE=1 exec unshare -m --propagation private bash "$0" "$source"  # its mounts end with it
fi

scratch=$(mktemp -d /tmp/moesweep-recipe-XXXXXX)
root=$scratch/system
mkdir "$root"
mounts() { awk -v root="$root/" 'index($2, root) == 1 {print $2}' /proc/mounts | sort -r; }
finish() {
  local code=$?
  for place in $(mounts); do umount -l "$place"; done
  # What is still mounted there is not ours: removing the tree would remove this machine's own files.
  if [[ -n $(mounts) ]]; then echo "$scratch is left: something is still mounted in it" >&2; exit 1; fi
  rm -rf --one-file-system "$scratch"
  exit "$code"
}
trap finish EXIT
trap 'exit 143' TERM INT HUP

mirror=$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p; s/^deb [^h]*\(http[^ ]*\) bookworm .*/\1/p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -n 1) || true
debootstrap --variant=minbase bookworm "$root" ${mirror:+"$mirror"} >"$scratch/debootstrap.log" 2>&1 || { tail -n 5 "$scratch/debootstrap.log"; skip "debootstrap failed: is the network up?"; }
echo "a bare system: $(chroot "$root" dpkg -l | grep -c ^ii) packages"

# What this machine needs to reach package servers, the new system needs too; nothing else of it is seen there.
cp -L /etc/resolv.conf "$root/etc/" 2>/dev/null || true
rm -f "$root/etc/apt/sources.list"
cp -r /etc/apt/sources.list* /etc/apt/apt.conf.d /etc/apt/trusted.gpg.d /etc/apt/auth.conf.d "$root/etc/apt/" 2>/dev/null || true
certificates=()
if [[ -f /etc/ssl/certs/ca-certificates.crt ]]; then
  mkdir -p "$root/etc/ssl" && cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/of-the-tester.crt"
  certificates=(PIP_CERT=/etc/ssl/of-the-tester.crt SSL_CERT_FILE=/etc/ssl/of-the-tester.crt)
fi
for file in /etc/pip.conf "$HOME/.config/pip/pip.conf" "$HOME/.pip/pip.conf"; do [[ ! -f $file ]] || cat "$file" >>"$root/etc/pip.conf.both"; done
if [[ -f $root/etc/pip.conf.both ]]; then
  { echo "[global]"; grep -vE '^\[|^ *cert *=' "$root/etc/pip.conf.both"; } >"$root/etc/pip.conf"
  for folder in $(grep -oE '(file://)?/[^ ]+' "$root/etc/pip.conf" | sed 's#^file://##'); do
    [[ $folder == */simple ]] && folder=$(dirname "$folder")  # an index beside its files
    [[ -d $folder ]] || continue
    mkdir -p "$root$folder" && mount --bind "$folder" "$root$folder"
  done
fi
for place in proc dev sys; do mkdir -p "$root/$place" && mount --rbind "/$place" "$root/$place"; done
mkdir -p "$root/opt/moesweep-source"
git -C "$source" archive HEAD | tar -x -C "$root/opt/moesweep-source"

section() { awk -v name="%$1" '$1 == name {inside = 1; next} /^%/ {inside = 0} inside' "$source/jobs/moesweep.def"; }
inside() { env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb "${certificates[@]}" MOESWEEP_JOBS="${MOESWEEP_JOBS:-2}" chroot "$root" bash -euo pipefail -c "$1"; }
inside "$(section post)"
inside "$(section test)"
inside "$(section environment)
  export OMPI_MCA_mpi_yield_when_idle=1
  cd /root && mpirun --allow-run-as-root --oversubscribe --bind-to none -n 2 moesweep run smoke train.steps=2 && moesweep aggregate runs/smoke && moesweep verify runs/smoke/sweep.h5"
echo "the recipe's steps lead to a sweep on a bare system"
