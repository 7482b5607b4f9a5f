#!/usr/bin/env bash
# One fuzz target of the sweep language or of a reader, built by clang with the address and undefined-behaviour sanitizers.
#   tests/fuzz/fuzz.sh build             builds all of them in build/fuzz (the preset `fuzz`)
#   tests/fuzz/fuzz.sh TARGET [SECONDS]  fuzzes from corpus/TARGET; 15 s (a reader 5 s), with MOESWEEP_FULL=1 150 s. The seed is MOESWEEP_SEED: 1, or 2
#                                        in the full form, where it is not set, and a random one where it is 0; it is printed
#   tests/fuzz/fuzz.sh keep TARGET DIR   adds to corpus/TARGET what inputs in DIR reach and the corpus does not
# What is found lies in build/fuzz/findings, and is printed. Ends with 77, "skipped: reason", where clang or its runtime is not installed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$root/build/fuzz

skip() { echo "skipped: $*"; exit 77; }
command -v clang++-14 >/dev/null || skip "clang++-14 is not installed (jobs/setup.sh packages --tests does it)"
probe=$(mktemp -d); trap 'rm -rf "$probe"' EXIT
printf '#include <cstddef>\nextern "C" int LLVMFuzzerTestOneInput(const unsigned char*, std::size_t) { return 0; }\n' >"$probe/probe.cpp"
clang++-14 -fsanitize=fuzzer,address,undefined "$probe/probe.cpp" -o "$probe/probe" 2>/dev/null ||
  skip "clang++-14 has no fuzzer runtime (libclang-rt-14-dev; jobs/setup.sh packages --tests installs it)"

if [[ ${1:-} == build ]]; then
  cd "$root"
  cmake --preset fuzz >"$probe/configure.log" 2>&1 || { cat "$probe/configure.log"; exit 1; }
  exec cmake --build "$build" -j "${MOESWEEP_JOBS:-1}"
fi
# Leaks are looked for by the replay in the preset asan; here they cost a third of the executions, a large quarantine a further part.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=16:malloc_context_size=10 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
# Readers make their files in memory, where there is such a folder.
folder=$(mktemp -d /dev/shm/moesweep-fuzz-XXXXXX 2>/dev/null || mktemp -d); trap 'rm -rf "$probe" "$folder"' EXIT
export TMPDIR=$folder
if [[ ${1:-} == keep ]]; then
  mkdir -p "$here/corpus/$2"
  "$build/tests/fuzz/fuzz_$2" -merge=1 -timeout=20 "$here/corpus/$2" "$3"
  exit
fi
target=${1:?TARGET}
case $target in
  trial | trace | aggregate | checkpoint | tensors) options=(-timeout=25 -max_len=194) briefly=5 ;;  # steps of changed_file.hpp
  journal | plan | manifest) options=(-timeout=25 -max_len=8192 -dict="$here/json.dict") briefly=5 ;;
  *) options=(-timeout=60 -max_len=4096 -dict="$here/words.dict") briefly=15 ;;
esac
[[ ${MOESWEEP_FULL:-0} == 1 ]] && seconds=${2:-150} seed=2 || seconds=${2:-$briefly} seed=1
seed=${MOESWEEP_SEED:-$seed}
mkdir -p "$build/findings" "$probe/new"
log=$build/findings/$target.log
code=0
# New inputs go to a folder of the run; the kept ones are read and left alone, in one order everywhere.
find "$here/corpus/$target" -type f | LC_ALL=C sort | paste -sd, | tr -d '\n' >"$probe/kept"
"$build/tests/fuzz/fuzz_$target" -seed="$seed" -seed_inputs=@"$probe/kept" -reload=0 -max_total_time="$seconds" "${options[@]}" -report_slow_units=60 \
  -rss_limit_mb=2048 -malloc_limit_mb=1024 -print_final_stats=1 \
  -artifact_prefix="$build/findings/$target-" ${MOESWEEP_FUZZ_NEW:+"$MOESWEEP_FUZZ_NEW"} "$probe/new" >"$log" 2>&1 || code=$?
executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
peak=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
seed=$(sed -n 's/^INFO: Seed: *//p' "$log")
covered=$(sed -n 's/.* cov: *\([0-9]*\) ft: *\([0-9]*\) .*/\1 edges and \2 features/p' "$log" | tail -n 1)
slowest=$(sed -n 's/^stat::slowest_unit_time_sec: *//p' "$log")
if [[ $code != 0 ]]; then
  echo "$target: a finding after ${executions:-?} executions with seed $seed; the input lies in $build/findings, the end of $log:"
  tail -n 60 "$log"
  exit 1
fi
[[ ${executions:-0} -gt 0 ]] || { tail -n 20 "$log"; echo "$target: nothing was executed"; exit 1; }
echo "$target: $executions executions with seed $seed in $seconds s cover ${covered:-nothing new}, no finding (slowest $slowest s, peak $peak MiB)"
