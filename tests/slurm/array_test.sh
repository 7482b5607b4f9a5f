#!/usr/bin/env bash
# The quickstart sweep, shortened, through jobs/array.sbatch with two shards of two ranks on a real two-node Slurm, then jobs/aggregate.sbatch:
# every trial exactly once, both shards at work, a sound sweep.h5.
#   array_test.sh PROGRAM SOURCE_DIR
# Exit code 77: it cannot run here, with the reason printed.
set -euo pipefail
program=$1 source=$2
skip() { echo "skipped: $1"; exit 77; }
[[ $(id -u) == 0 ]] || skip "a Slurm of our own needs root"
export PATH=$PATH:/usr/sbin:/sbin
for tool in slurmctld slurmd sbatch srun; do command -v $tool >/dev/null || skip "$tool is not installed (slurmctld, slurmd, slurm-client)"; done
unshare -m true 2>/dev/null || skip "mount namespaces are not allowed here"

scratch=$(mktemp -d /tmp/moesweep-slurm-XXXXXX)
here=$(cd "$(dirname "$0")" && pwd)
finish() {
  local code=$?
  [[ $code == 0 ]] || { echo "--- logs"; tail -n 30 "$scratch"/work/*.log "$scratch"/cluster/log/slurmctld.log 2>/dev/null || true; }
  bash "$here/cluster.sh" stop "$scratch/cluster" || true
  rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 143' TERM INT
bash "$here/cluster.sh" start "$scratch/cluster" 2
export SLURM_CONF=$scratch/cluster/slurm.conf
unset SLURM_JOB_ID SLURM_STEP_ID OMPI_MCA_btl_vader_single_copy_mechanism OMPI_MCA_rmaps_base_oversubscribe

mkdir "$scratch/work" && cd "$scratch/work"
export MOESWEEP_PROGRAM=$program MOESWEEP_DATA=${MOESWEEP_DATA:-$source/build/data}
short=(train.steps=6 train.warmup_steps=2 evaluation.tokens=2048 train.batch_sequences=16 "seed=[1,2]")
if [[ -f $MOESWEEP_DATA/languages8/manifest.json ]]; then echo "on eight languages"; else
  echo "on synthetic text: there is no token store in $MOESWEEP_DATA"
  short+=(data=data/synthetic8.yaml)
fi
trials=$("$program" plan quickstart "${short[@]}" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["count"])')
[[ $trials -ge 16 ]] || { echo "only $trials trials planned"; exit 1; }

array=$(sbatch --parsable --array=0-1 --ntasks=2 --nodes=1 "$source/jobs/array.sbatch" quickstart runs/quickstart "${short[@]}")
after=$(sbatch --parsable --dependency=afterany:"$array" --ntasks=2 --nodes=2 "$source/jobs/aggregate.sbatch" runs/quickstart)
echo "array $array, aggregate $after, $trials trials"
for _ in $(seq 240); do
  [[ -n $(squeue -h -t all -j "$after" -o %T 2>/dev/null | grep -vE 'COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL') ]] || break
  sleep 0.5
done
squeue -h -t all -o '%A %i %T %r'

"$program" status runs/quickstart
"$program" verify runs/quickstart/sweep.h5
grep -l 'sound' moesweep-aggregate-"$after".log
"$program" results runs/quickstart/sweep.h5 > results.json
python3 - "$trials" "$array" <<'PY'
import collections, json, pathlib, sys
trials, array = int(sys.argv[1]), sys.argv[2]
rows = json.load(open("results.json"))
assert len(rows) == trials and len({row["id"] for row in rows}) == trials, len(rows)
assert all(row["state"] == "done" for row in rows), collections.Counter(row["state"] for row in rows)
started, tasks, ranks = collections.Counter(), collections.Counter(), collections.Counter()
for file in pathlib.Path("runs/quickstart/journal").glob("*.jsonl"):
    for line in file.read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "started":
            started[event["trial"]] += 1
            tasks[event["owner"]["slurm_job"]] += 1
            ranks[file.name] += 1
assert len(started) == trials and set(started.values()) == {1}, started
assert len(tasks) == 2, f"one element did all: {tasks}"
assert len(ranks) == 4, f"not every rank led trials: {ranks}"
print(f"{trials} trials, each started once, by job {dict(tasks)}")
PY
