#!/usr/bin/env bash
# A real Slurm of N nodes on one machine, without systemd or munge, for tests of job scripts. Needs root, slurmctld and slurmd.
#   cluster.sh start DIR [N]      then: export SLURM_CONF=DIR/slurm.conf
#   cluster.sh stop DIR
# Each slurmd has a mount namespace of its own, so that the nodes' spool and PMIx folders do not meet.
set -euo pipefail
command=${1:?start or stop} dir=$(realpath -m "${2:?folder}") nodes=${3:-2}
host=$(hostname -s)
export PATH=$PATH:/usr/sbin:/sbin

free_port() { # the first of COUNT consecutive ports that nobody listens on
  python3 - "$1" <<'PY'
import random, socket, sys
count = int(sys.argv[1])
while True:
    first = random.randrange(20000, 32000)
    try:
        sockets = []
        for port in range(first, first + count):
            sockets.append(socket.socket())
            sockets[-1].bind(("127.0.0.1", port))
        print(first)
        break
    except OSError:
        continue
    finally:
        for one in sockets:
            one.close()
PY
}

stop() {
  [[ -f $dir/pids ]] || return 0
  export SLURM_CONF=$dir/slurm.conf
  timeout 10 scancel --user root 2>/dev/null || true
  # Daemons last started are stopped first; those that stay are killed, by the process ids that start wrote down.
  local pid
  while read -r pid; do kill "$pid" 2>/dev/null || true; done < <(tac "$dir/pids")
  for _ in $(seq 50); do
    local left=0
    while read -r pid; do [[ ! -d /proc/$pid ]] || grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null || left=1; done < "$dir/pids"
    [[ $left == 1 ]] || break
    sleep 0.2
  done
  while read -r pid; do kill -9 "$pid" 2>/dev/null || true; done < "$dir/pids"
  # Step daemons of this cluster outlive their slurmd: they are known by their working files.
  for pid in $(pgrep -x slurmstepd || true); do
    { tr '\0' '\n' < "/proc/$pid/environ" | grep -qxF "SLURM_CONF=$dir/slurm.conf" && kill -9 "$pid"; } 2>/dev/null || true
  done
  rm -f "$dir/pids"
}

start() {
  local port memory
  port=$(free_port $((nodes + 2)))
  memory=$(($(awk '/^MemTotal/ {print $2}' /proc/meminfo) / 1024 / nodes / 2))
  mkdir -p "$dir"/{state,log,spool,pmix}
  cat > "$dir/slurm.conf" <<CONF
ClusterName=moesweep
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=pmix
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=batch_sched_delay=1,sched_interval=2
NodeName=n[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))] CPUs=2 RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=n[1-$nodes] Default=YES MaxTime=INFINITE State=UP
CONF
  echo "PMIxCliTmpDirBase=$dir/pmix" > "$dir/mpi.conf"
  export SLURM_CONF=$dir/slurm.conf
  slurmctld -D -c -f "$dir/slurm.conf" > "$dir/log/slurmctld.out" 2>&1 &
  echo $! > "$dir/pids"
  for _ in $(seq 50); do timeout 5 scontrol ping 2>/dev/null | grep -q UP && break; sleep 0.2; done
  for node in $(seq "$nodes"); do
    unshare -m sh -c "mount -t tmpfs none '$dir/spool' && mount -t tmpfs none '$dir/pmix' && exec slurmd -D -N n$node -f '$dir/slurm.conf'" \
      > "$dir/log/slurmd.n$node.out" 2>&1 &
    echo $! >> "$dir/pids"
  done
  for _ in $(seq 60); do
    if sinfo -h -t idle -o %D 2>/dev/null | grep -qx "$nodes"; then return; fi
    sleep 0.5
  done
  echo "the nodes did not become idle:" >&2
  tail -n 5 "$dir"/log/* >&2
  stop
  exit 1
}

case $command in
  start) start ;;
  stop) stop ;;
  *) sed -n '2,5p' "$0"; exit 2 ;;
esac
