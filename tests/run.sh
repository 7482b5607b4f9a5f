#!/usr/bin/env bash
# Installs what is missing, builds, and passes all tests: bash tests/run.sh [--full] [--preset PRESET] [ctest arguments]
#   --full            long proofs whole (the default run does a tenth of each)
#   --preset PRESET   release (default), dev, audit or asan
# Idempotent: a second run builds and tests only.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=release full=0
while [[ $# -gt 0 ]]; do
  case $1 in
    --full) full=1; shift ;;
    --preset) preset=$2; shift 2 ;;
    -h | --help) sed -n '2,5p' "$0"; exit 0 ;;
    *) break ;;
  esac
done

step() { printf '\n\033[1m== %s\033[0m (%s)\n' "$1" "$(date -u +%H:%M:%S)"; }
failed() { printf '\ntests/run.sh: %s failed. %s\n' "$1" "$2" >&2; exit 1; }
started=$SECONDS

step "set-up"
bash jobs/setup.sh packages --tests || failed "set-up" "The lines above name what is missing; mend it and run the same command again."
step "build ($preset)"
bash jobs/setup.sh build "$preset" || failed "the build" "The first error above is the one to read; the same command goes on where it stopped."
step "text"
.venv/bin/moesweep-data build configs/data/languages8.yaml ||
  echo "tests/run.sh: the text cannot be fetched (it comes by apt-get download); the tests that need it are listed as skipped" >&2

step "tests"
export MOESWEEP_FULL=$full CTEST_OUTPUT_ON_FAILURE=1
code=0
ctest --test-dir "build/$preset" --parallel "$(nproc)" "$@" || code=$?
if reasons=$(grep -h '^skipped: ' "build/$preset/Testing/Temporary/LastTest.log"); then printf '\nskipped tests, and why:\n%s\n' "$reasons"; fi
[[ $code == 0 ]] || failed "a test" "See it again by: ctest --test-dir build/$preset --output-on-failure --rerun-failed"
printf '\nall tests passed in %d s (set-up and build included)\n' $((SECONDS - started))
