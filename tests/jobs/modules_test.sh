#!/usr/bin/env bash
# jobs/modules.sh with a `module` that only writes down what it is asked, and a set-up that only says how it was called.
#   modules_test.sh SOURCE_DIR
set -euo pipefail
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir "$tree/jobs"
cp "$1/jobs/modules.sh" "$tree/jobs/"
printf 'echo "set-up: $* without apt: $MOESWEEP_NO_APT"\n' >"$tree/jobs/setup.sh"
expect() { grep -qxF -- "$1" "$tree/said" || { echo "it did not say: $1"; cat "$tree/said"; exit 1; }; }

module() { [[ $2 != no-such ]] && echo "module: $*"; }
export -f module
bash "$tree/jobs/modules.sh" gcc/12 'open mpi/4.1' >"$tree/said" 2>&1
for line in "module: load gcc/12" "module: load open mpi/4.1" "set-up: packages without apt: 1" "set-up: build without apt: 1" 'modules: ["gcc/12", "open mpi/4.1"]'; do expect "$line"; done
code=0; bash "$tree/jobs/modules.sh" gcc/12 no-such >"$tree/said" 2>&1 || code=$?
[[ $code == 2 ]] || { echo "a module that is not there gave $code"; exit 1; }
expect '[modules] module load no-such failed: `module avail` lists what there is'
unset -f module
code=0; env -u MODULESHOME -u LMOD_PKG bash "$tree/jobs/modules.sh" gcc/12 >"$tree/said" 2>&1 || code=$?
[[ $code == 2 || -f /etc/profile.d/modules.sh || -f /etc/profile.d/lmod.sh ]] || { echo "without modules it gave $code"; exit 1; }
# A file of the module system that everybody can write to is not run.
mkdir "$tree/init"
echo "touch '$tree/OWNED'; module() { echo \"module: \$*\"; }" >"$tree/init/bash"
chmod o+w "$tree/init/bash"
code=0; MODULESHOME=$tree bash "$tree/jobs/modules.sh" gcc/12 >"$tree/said" 2>&1 || code=$?
[[ $code == 2 && ! -e $tree/OWNED ]] || { echo "a file that everybody can write to was run ($code)"; cat "$tree/said"; exit 1; }
expect "[modules] $tree/init/bash can be written by everybody, so it is not run: \`chmod o-w\` it, or load its modules in your shell"
chmod o-w "$tree/init/bash"
MODULESHOME=$tree bash "$tree/jobs/modules.sh" gcc/12 >"$tree/said" 2>&1
expect "module: load gcc/12"
code=0; bash "$tree/jobs/modules.sh" >"$tree/said" 2>&1 || code=$?
[[ $code == 2 ]] && grep -q 'jobs/modules.sh MODULE' "$tree/said"
echo "modules are loaded in order, then everything is built without apt"
