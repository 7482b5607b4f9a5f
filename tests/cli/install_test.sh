#!/usr/bin/env bash
# install_test.sh BUILD: the installed tree runs by itself, with an empty environment, and finds its configs.
set -euo pipefail
build=$1 prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT
cmake --install "$build" --prefix "$prefix" >/dev/null
cd "$prefix"
clean=(env -i PATH=/usr/bin:/bin HOME="$prefix" "$prefix/bin/moesweep")
"${clean[@]}" doctor | tee doctor.txt
grep -q "configs   $prefix/share/moesweep/configs" doctor.txt || { echo "the installed program does not find its own configs"; exit 1; }
"${clean[@]}" plan smoke | tail -n 3
"${clean[@]}" run smoke train.steps=2 evaluation.tokens=1024 --out "$prefix/run"
