"""A real Slurm of some nodes on one machine, without systemd, munge or a network. Needs root, slurmctld and slurmd.

    cluster.py start DIR [NODES]     then: export SLURM_CONF=DIR/slurm.conf
    cluster.py stop DIR

DIR is new or empty, or the folder of an earlier cluster: one that holds anything else is refused.

In a test: `with Cluster(nodes=3) as cluster`. Each slurmd has a mount namespace of its own, so that the nodes' spool and
PMIx folders do not meet; ports are free ones, so several clusters can live side by side. Whatever ends the test, a keeper
that watches it ends the cluster: every process that has this cluster's SLURM_CONF in its environment.
"""
import contextlib
import dataclasses
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

PATIENCE = 120.0  # seconds for anything that the cluster itself does
PREFIX = "moesweep-slurm-"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
TOOLS = "/usr/sbin:/sbin"
MARK = ".moesweep-cluster"  # in each folder that a cluster has made or filled: only such a folder is removed

CONFIG = """\
ClusterName=moesweep
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/none
AuthInfo=cred_expire={cred_expire}
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=1
MpiDefault=pmix
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MaxArraySize={array_size}
KillWait={kill_wait}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=2 RealMemory={memory} State=UNKNOWN
PartitionName=low Nodes=n[1-{nodes}] Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace} MaxTime=INFINITE State=UP
PartitionName=high Nodes=n[1-{nodes}] PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""


class Skipped(Exception):
    """It cannot run here; the text says why."""


def check_possible() -> None:
    if os.geteuid() != 0:
        raise Skipped("a Slurm of our own needs root")
    for tool in ("slurmctld", "slurmd", "sbatch", "srun"):
        if not shutil.which(tool, path=os.environ["PATH"] + ":" + TOOLS):
            raise Skipped(f"{tool} is not installed (slurmctld, slurmd, slurm-client)")
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        raise Skipped("mount namespaces are not allowed here")


def free_ports(count: int) -> int:
    """The first of `count` consecutive ports that nobody listens on."""
    while True:
        first = random.randrange(20000, 32000)
        with contextlib.ExitStack() as sockets:
            try:
                for port in range(first, first + count):
                    sockets.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first


def started_at(process: int) -> str:
    """With its number it tells one process from all others of this machine; empty when it is gone."""
    try:
        fields = pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def wait_until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE, pause: float = 0.2) -> Any:
    """What the condition gives when it is true at last."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(pause)
    return value


class Cluster:
    """A running Slurm in a folder of its own; used from one process."""

    def __init__(self, folder: pathlib.Path | None = None, nodes: int = 3, **settings: int) -> None:
        """Settings: array_size (Slurm's MaxArraySize), kill_wait [s] from TERM to KILL at a time limit, grace [s] of a preempted job.

        cred_expire [s]: how long a requeued job waits before it may start again, about; Slurm takes no less than 5.
        """
        self.folder = folder or pathlib.Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
        self.nodes = nodes
        self.settings = {"array_size": 1001, "kill_wait": 2, "grace": 0, "cred_expire": 5} | settings
        self.config = self.folder / "slurm.conf"
        self.mpi = self.folder / "mpi"
        # Nothing of the machine's own MPI or Slurm settings; what a killed step leaves behind stays among our files, and
        # ranks that wait give their core away.
        foreign = ("SLURM", "SBATCH", "SQUEUE", "SALLOC", "OMPI_", "PMIX")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | {
            "SLURM_CONF": str(self.config),
            "PATH": os.environ["PATH"] + ":" + TOOLS,
            "OMPI_MCA_orte_tmpdir_base": str(self.mpi),
            "OMPI_MCA_btl_vader_backing_directory": str(self.mpi),
            "OMPI_MCA_mpi_yield_when_idle": "1",
        }

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:
            print(f"{self.queue()}\nwhat was found is left in {self.folder}", flush=True)
        self.stop()
        if not kind:
            self.remove()

    # Daemons

    def start(self) -> None:
        """Until every node is idle. The calling process is the one that the keeper watches."""
        end_orphans()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(self.folder.iterdir()) and not is_own(self.folder):
            raise SystemExit(f"{self.folder} holds files that are no cluster's: give a new folder")
        (self.folder / MARK).touch()
        for part in ("state", "log", "spool", "pmix", "mpi"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        port = free_ports(self.nodes + 1)
        with open("/proc/meminfo", encoding="ascii") as lines:
            memory = int(next(lines).split()[1]) // 1024 // self.nodes // 2
        host = socket.gethostname().split(".")[0]
        ports = {"port": port, "first": port + 1, "last": port + self.nodes}
        self.config.write_text(CONFIG.format(folder=self.folder, host=host, nodes=self.nodes, memory=memory, **ports, **self.settings))
        (self.folder / "mpi.conf").write_text(f"PMIxCliTmpDirBase={self.folder}/pmix\n")
        (self.folder / "owner").write_text(f"{os.getpid()} {started_at(os.getpid())}")
        self.daemon(sys.executable, __file__, "keep", str(self.folder), log="keeper", environment=dict(os.environ))
        self.start_controller()
        for node in range(1, self.nodes + 1):
            self.start_node(f"n{node}")
        wait_until(lambda: self.node_states().count("idle") == self.nodes, "the nodes become idle")

    def daemon(self, *command: str, log: str, environment: dict[str, str] | None = None) -> None:
        with open(self.folder / "log" / f"{log}.out", "ab") as out:
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment or self.environment, start_new_session=True
            )

    def start_controller(self, fresh: bool = True) -> None:
        """Anew, or with the jobs that it knew."""
        self.daemon("slurmctld", "-D", *(["-c"] if fresh else []), "-f", str(self.config), log="slurmctld")
        wait_until(self.controller_answers, "the controller answers", pause=0.1)

    def stop_controller(self) -> None:
        """Jobs go on; whoever asks it gets an error."""
        process = int((self.folder / "slurmctld.pid").read_text())
        os.kill(process, signal.SIGTERM)
        wait_until(lambda: not started_at(process), "the controller ends", pause=0.1)

    def controller_answers(self) -> bool:
        return "UP" in self.ask("scontrol", "ping", check=False).split()

    def start_node(self, name: str) -> None:
        private = " && ".join(f"mount -t tmpfs none '{self.folder}/{part}'" for part in ("spool", "pmix"))
        node = f"{private} && exec slurmd -D -N {name} -f '{self.config}'"
        self.daemon("unshare", "-m", "sh", "-c", node, log=f"slurmd.{name}")

    def stop(self) -> None:
        """Ends every process of this cluster: daemons, steps and what they run. Twice does no harm."""
        (self.folder / "owner").unlink(missing_ok=True)  # the keeper goes too
        began = time.monotonic()
        while processes := list(self.processes()):
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    # Daemons first get a chance; steps, started again by a script that still runs, do not.
                    os.kill(process, signal.SIGTERM if time.monotonic() < began + 0.5 else signal.SIGKILL)
            time.sleep(0.1)

    def remove(self) -> None:
        """The folder with all that is in it, where it is a cluster's."""
        if is_own(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)

    def processes(self) -> Iterator[int]:
        """All that live with this cluster's SLURM_CONF; not those that this one came from."""
        mark, above = f"SLURM_CONF={self.config}".encode(), set(ancestors(os.getpid()))
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in above:
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0") and started_at(int(entry.name)):
                        yield int(entry.name)

    # Commands

    def ask(self, *command: str | pathlib.Path, check: bool = True, seconds: float = PATIENCE, folder: pathlib.Path | None = None) -> str:
        """Standard output of a command, without the last line's end; its failure is an AssertionError."""
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=self.environment, timeout=seconds, cwd=folder
        )
        assert not check or done.returncode == 0, f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.rstrip("\n")

    def node_states(self) -> list[str]:
        return self.ask("sinfo", "-h", "-N", "-p", "low", "-o", "%T", check=False).split()

    def set_node(self, name: str, state: str) -> None:
        """`down`, which ends its jobs, or `resume`."""
        self.ask("scontrol", "update", f"nodename={name}", f"state={state}", *(["reason=test"] if state == "down" else []))

    def jobs(self) -> list["Job"]:
        """Every job and array element that the controller remembers, ended ones too."""
        lines = self.ask("squeue", "-h", "-r", "-t", "all", "-o", "%A|%i|%T|%r|%N|%j", check=False).splitlines()
        return [Job(*line.split("|", 5)) for line in lines]

    def job(self, name: str) -> "Job":
        return next(job for job in self.jobs() if job.name == name)

    def restarts(self, name: str) -> int:
        """How often Slurm requeued a job."""
        found = re.search(r"Restarts=(\d+)", self.ask("scontrol", "show", "job", name))
        assert found
        return int(found[1])

    def wait_for_end(
        self, of: Callable[["Job"], bool] = lambda _: True, seconds: float = 300, watch: Callable[[list["Job"]], None] = lambda _: None
    ) -> None:
        """Until all jobs have ended, or those asked for; what is submitted meanwhile too. `watch` sees the queue again and again."""
        end = time.monotonic() + seconds
        while not (jobs := self.jobs()) or any(job.state not in ENDED for job in jobs if of(job)):
            assert time.monotonic() < end, f"jobs that do not end:\n{self.queue()}"
            watch(jobs)
            time.sleep(0.3)

    def queue(self) -> str:
        """For a person."""
        jobs = self.ask("squeue", "-r", "-t", "all", "-o", "%i %P %j %T %M %l %R %S", check=False)
        return jobs + "\n" + self.ask("sinfo", "-N", check=False)


@dataclasses.dataclass(frozen=True)
class Job:
    number: str  # its own
    name: str  # ARRAY_ELEMENT for an element, else as `number`
    state: str
    reason: str
    nodes: str
    title: str

    @property
    def array(self) -> str:
        return self.name.split("_")[0]


def is_own(folder: pathlib.Path) -> bool:
    """A folder, not a link to one, that this user's cluster has marked as its own and that no other user can write to."""
    for path, kind in ((folder, stat.S_ISDIR), (folder / MARK, stat.S_ISREG)):
        try:
            found = path.lstat()
        except OSError:
            return False
        if not kind(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH:
            return False
    return True


def ancestors(process: int) -> Iterator[int]:
    while process > 1:
        yield process
        process = int(pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])


def keep(cluster: Cluster) -> None:
    """Until the owner is gone; if that left its cluster behind, ends it."""
    owner = cluster.folder / "owner"
    while True:
        try:
            process, start = owner.read_text().split()
        except OSError:
            return  # it was stopped in order
        if started_at(int(process)) != start:
            cluster.stop()
            cluster.remove()
            return
        time.sleep(0.5)


def end_orphans() -> None:
    """Clusters whose keeper was killed too."""
    for owner in pathlib.Path("/tmp").glob(PREFIX + "*/owner"):
        if not is_own(owner.parent):  # another user's, or one that another user has made up
            continue
        with contextlib.suppress(OSError, ValueError):
            process, start = owner.read_text().split()
            if started_at(int(process)) != start:
                keep(Cluster(owner.parent))


def main() -> None:
    command, folder, *nodes = sys.argv[1:]
    cluster = Cluster(pathlib.Path(folder).resolve(), int(nodes[0]) if nodes else 3)
    if command == "start":
        cluster.start()
        (cluster.folder / "owner").unlink()  # it stays until `stop`
    elif command == "stop":
        cluster.stop()
    elif command == "keep":
        keep(cluster)


if __name__ == "__main__":
    main()
