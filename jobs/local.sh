#!/usr/bin/env bash
# Runs any sweep on this machine with mpirun alone: trials, aggregate, report. Run it again to go on where it was.
#   jobs/local.sh SWEEP [--ranks N] [--out DIR] [key=value ...]      e.g. jobs/local.sh smoke --ranks 2 train.steps=20
# SWEEP is a file, or the name of one in configs/sweeps. Default: one rank a core, folder runs/NAME.
# Environment: MOESWEEP_PROGRAM (default build/release/moesweep), MOESWEEP_DATA (default build/data).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
program=${MOESWEEP_PROGRAM:-$root/build/release/moesweep}
export MOESWEEP_DATA=${MOESWEEP_DATA:-$root/build/data} OMP_NUM_THREADS=1
[[ $# -gt 0 && $1 != -* ]] || { sed -n '2,5p' "$0"; exit 2; }
[[ -x $program ]] || { echo "[local] $program is not built: bash jobs/setup.sh packages && bash jobs/setup.sh build" >&2; exit 2; }

sweep=$1; shift
ranks=$(nproc) out="" overrides=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --ranks) ranks=${2:?--ranks needs a number}; shift 2 ;;
    --out) out=${2:?--out needs a folder}; shift 2 ;;
    *) overrides+=("$1"); shift ;;
  esac
done
if [[ -z $out ]]; then
  plan=$("$program" plan "$sweep" "${overrides[@]}" --json) || exit
  out=runs/$(python3 -I -c 'import json, sys; print(json.load(sys.stdin)["name"])' <<<"$plan")  # -I: no json.py of this folder
fi

mpi=(mpirun --oversubscribe --bind-to none)
[[ $(id -u) != 0 ]] || mpi+=(--allow-run-as-root)
mpi+=(-n "$ranks")
# Ranks that share a core must not spin while they wait.
[[ $ranks -le $(nproc) ]] || export OMPI_MCA_mpi_yield_when_idle=${OMPI_MCA_mpi_yield_when_idle:-1}

# A world that died (exit 6, or a signal) is started again: its trials go on from their checkpoints. Exit 1: some trials failed, which is a result.
for try in 1 2 3; do
  code=0
  "${mpi[@]}" "$program" run "$sweep" "${overrides[@]}" --out "$out" || code=$?
  [[ $code == 6 || $code -ge 128 ]] || break
  echo "[local] the run ended with code $code (try $try of 3)" >&2
done
# An mpirun that was stopped by a signal may itself end with 1: a trial that waits or was stopped tells.
if [[ $code == 1 ]] && "$program" status "$out" --json | grep -Eq '"(pending|preempted|running)": *[1-9]'; then code=75; fi
if [[ $code != 0 && $code != 1 ]]; then
  echo "[local] the run stopped with code $code; the message is above, the same command goes on" >&2
  exit "$code"
fi

"${mpi[@]}" "$program" aggregate "$out"
"$program" verify "$out/sweep.h5"
if [[ -x $root/.venv/bin/moesweep-report ]]; then
  "$root/.venv/bin/moesweep-report" html "$out/sweep.h5" || { echo "[local] the report failed; $out/sweep.h5 is sound" >&2; exit 70; }
fi
exit "$code"
