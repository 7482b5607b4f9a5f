#!/usr/bin/env bash
# jobs/setup.sh where packages are missing, with an apt-get that only writes down how it was called and where its output goes.
#   setup_test.sh SOURCE_DIR
# Set-up often runs as root: it writes no file whose name another user could foresee, and shows the end of apt's output when that fails.
set -euo pipefail
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir "$tree/jobs" "$tree/analysis" "$tree/.venv" "$tree/bin" "$tree/shared"
cp "$1/jobs/setup.sh" "$tree/jobs/"
echo 'name = "x"' >"$tree/analysis/pyproject.toml"
touch "$tree/.venv/.moesweep-$(cat "$tree/analysis/pyproject.toml" <(echo run) | sha256sum | cut -c1-16)"
# Nothing but these programs is seen, so that every command of `build_needs` is missing.
for program in bash cat sha256sum cut tail dirname readlink rm; do ln -s "$(command -v "$program")" "$tree/bin/"; done
printf '#!/bin/bash\necho 0\n' >"$tree/bin/id"
cat >"$tree/bin/apt-get" <<'END'
#!/bin/bash
[[ $1 == install ]] || exit 0
readlink "/proc/$$/fd/1" "/proc/$$/fd/2" >"$MADE_UP/outputs"
for number in {1..30}; do echo "line $number of apt"; done
exit "$(cat "$MADE_UP/code")"
END
chmod +x "$tree/bin/id" "$tree/bin/apt-get"
fail() { echo "$1"; cat "$tree/said"; exit 1; }
run() { # CODE: apt-get's
  echo "$1" >"$tree/code"
  code=0
  env -i PATH="$tree/bin" MADE_UP="$tree" TMPDIR="$tree/shared" "$tree/bin/bash" "$tree/jobs/setup.sh" packages >"$tree/said" 2>&1 || code=$?
}

run 0
[[ $code == 0 ]] || fail "set-up ended with $code"
[[ -s $tree/outputs ]] || fail "apt-get was not called"
! grep -v '^pipe:' "$tree/outputs" || fail "apt's output went to a file"
! grep -q 'of apt' "$tree/said" || fail "apt's output was shown although all went well"
run 100
[[ $code == 1 ]] || fail "a failure of apt-get gave $code"
grep -qx 'line 30 of apt' "$tree/said" && ! grep -qx 'line 10 of apt' "$tree/said" || fail "the last 20 lines of apt are not shown"
grep -q 'FAILED: apt-get install failed' "$tree/said" || fail "the failure is not told"
[[ -z $(ls -A "$tree/shared") ]] || fail "a temporary file was left"
echo "set-up writes no temporary file"
