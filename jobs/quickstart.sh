#!/usr/bin/env bash
# From a fresh Debian 12 to a report: packages, build, text, 27 trials on 2 ranks, aggregate, report. Run it again to go on where it was.
#   jobs/quickstart.sh [key=value ...]      e.g. jobs/quickstart.sh train.steps=50
# Environment: MOESWEEP_NO_APT=1 never calls apt (a cluster with modules); MOESWEEP_DATA (default build/data).
set -euo pipefail
cd "$(dirname "$0")/.."
export MOESWEEP_DATA=${MOESWEEP_DATA:-$PWD/build/data}
start=$SECONDS

step() { # NAME MEND COMMAND...: runs it, shows how long it took, says what to do when it fails
  local name=$1 mend=$2 began=$SECONDS code=0; shift 2
  printf '\033[1m[quickstart]\033[0m %s\n' "$name"
  "$@" || code=$?
  if [[ $code != 0 ]]; then
    printf '[quickstart] FAILED: %s (exit code %s)\n  %s\n' "$name" "$code" "$mend" >&2
    printf '  Then run bash jobs/quickstart.sh again: it goes on where it was.\n' >&2
    exit "$code"
  fi
  printf '[quickstart] %s: done in %s s\n' "$name" $((SECONDS - began))
}

run_and_report() { # failed trials are rows of the report, not an end
  local code=0
  bash jobs/local.sh quickstart --ranks 2 --out runs/quickstart "$@" || code=$?
  [[ $code == 0 || $code == 1 ]] || return "$code"
  [[ $code == 0 ]] || echo "[quickstart] some trials failed: build/release/moesweep status runs/quickstart tells why"
}

step "1/4 packages" "The lines above name what is missing; on a cluster load modules and set MOESWEEP_NO_APT=1." bash jobs/setup.sh packages
step "2/4 build" "The first error above is the one to read; bash jobs/setup.sh build repeats this step." bash jobs/setup.sh build release moesweep
step "3/4 text in eight languages" "Is the network up? moesweep-data also works from packages that lie in $MOESWEEP_DATA/downloads." \
  .venv/bin/moesweep-data build configs/data/languages8.yaml
step "4/4 sweep, aggregate, report" \
  "build/release/moesweep doctor shows what this machine lacks; runs/quickstart/trials/*/*/log.txt hold each trial's story." \
  run_and_report "$@"
printf '[quickstart] all done in %s s. The report: %s\n' $((SECONDS - start)) "$PWD/runs/quickstart/report.html"
