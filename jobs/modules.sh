#!/usr/bin/env bash
# Builds moesweep with a cluster's own software, where there is no apt: loads modules, makes the Python environment, builds.
#   jobs/modules.sh MODULE...      e.g. jobs/modules.sh gcc/12 cmake/3.26 ninja openmpi/4.1 hdf5/1.12-mpi yaml-cpp fmt spdlog python/3.11
# What no module gives is named by the configure step: give its place by CMAKE_PREFIX_PATH and run the same again. Jobs need the same modules:
# the lines for a site profile (configs/profiles/example.yaml, `moesweep submit --profile`) are printed at the end.
set -euo pipefail
[[ $# -gt 0 && $1 != -* ]] || { sed -n '2,5p' "$0"; exit 2; }
cd "$(dirname "$0")/.."

if ! type module >/dev/null 2>&1; then
  for init in "${MODULESHOME:+$MODULESHOME/init/bash}" "${LMOD_PKG:+$LMOD_PKG/init/bash}" /etc/profile.d/modules.sh /etc/profile.d/lmod.sh; do
    [[ -n $init && -f $init ]] || continue
    [[ -z $(find -L "$init" -prune -perm -o+w) ]] ||
      { echo "[modules] $init can be written by everybody, so it is not run: \`chmod o-w\` it, or load its modules in your shell" >&2; exit 2; }
    # shellcheck disable=SC1090
    set +u; source "$init"; set -u; break
  done
fi
type module >/dev/null 2>&1 || { echo "[modules] there is no command 'module' here: on Debian use jobs/setup.sh, elsewhere start a login shell" >&2; exit 2; }

for name in "$@"; do
  set +u
  module load "$name" || { echo "[modules] module load $name failed: \`module avail\` lists what there is" >&2; exit 2; }
  set -u
done
MOESWEEP_NO_APT=1 bash jobs/setup.sh packages
MOESWEEP_NO_APT=1 bash jobs/setup.sh build
printf '[modules] built; for the site profile:\nmodules: [%s]\n' "$(printf '"%s", ' "$@" | sed 's/, $//')"
