"""A sweep through one event of a cluster's life, on a Slurm of three nodes started for it.

    scenarios.py reference DIR      the undisturbed run, by mpirun; made once for all
    scenarios.py NAME DIR           one scenario, against the reference in DIR (made when it is not there)
    scenarios.py list

After each: every trial exactly once in sweep.h5, in the state that it should be in, the numbers of each trial that is done
bitwise those of the undisturbed run; and a line `table: | ...` that says what was done and what came of it.
Environment: MOESWEEP_PROGRAM; MOESWEEP_FULL=1 runs the long ones too. Exit code 77: skipped, with the reason printed.
"""
import collections
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from cluster import Cluster, Job, Skipped, check_possible, wait_until
from sweeps import Event, Numbers, check_done_once, check_numbers, journal, numbers_of

SOURCE = pathlib.Path(__file__).resolve().parents[2]
SWEEP = pathlib.Path(__file__).with_name("sweep.yaml")
PROGRAM = os.environ.get("MOESWEEP_PROGRAM", str(SOURCE / "build/release/moesweep"))
TRIALS = 12
STEPS = 20
PATIENCE = 400.0  # seconds for anything: no time is asserted, but nothing hangs


class Study:
    """The sweep in a folder of its own on a cluster."""

    def __init__(self, cluster: Cluster, slow: float = 0.0, inject: tuple[str, ...] = (), options: tuple[str, ...] = ()) -> None:
        """Each step takes at least `slow` seconds, asleep."""
        self.cluster = cluster
        self.folder = cluster.folder / "runs" / "study"
        self.work = cluster.folder / "work"
        self.work.mkdir(exist_ok=True)
        faults = [f"slow@seconds={slow}"] if slow else []
        self.options = [*(part for fault in (*faults, *inject) for part in ("--inject", fault)), *options]
        self.arrays: list[str] = []
        cluster.environment |= {"MOESWEEP_PROGRAM": PROGRAM, "MOESWEEP_DATA": str(SOURCE / "build/data")}

    def submit(self, shards: int = 3, ranks: int = 2, time_limit: str = "00:10:00", throttle: int = 0, signal_seconds: int = 30) -> str:
        """An array and what comes after it; gives the array's job id."""
        limit = f"%{throttle}" if throttle else ""
        array = self.cluster.ask(
            "sbatch", "--parsable", f"--array=0-{shards - 1}{limit}", f"--ntasks={ranks}", "--nodes=1", f"--time={time_limit}",
            f"--signal=USR2@{signal_seconds}", SOURCE / "jobs/array.sbatch", SWEEP, self.folder, *self.options, folder=self.work,
        )  # fmt: skip
        self.cluster.ask(
            "sbatch", "--parsable", f"--dependency=afterany:{array}", "--ntasks=2", "--nodes=2",
            SOURCE / "jobs/aggregate.sbatch", self.folder, folder=self.work,
        )  # fmt: skip
        self.arrays.append(array)
        return array

    # What it has come to

    def events(self) -> list[Event]:
        return journal(sorted(self.folder.glob("journal/*.jsonl")))

    def done(self) -> int:
        return sum(event["event"] == "ended" and event["state"] == "done" for event in self.events())

    def checkpoints(self) -> list[pathlib.Path]:
        return list(self.folder.glob("trials/*/*/checkpoint.h5"))

    def wait_for_work(self, checkpoints: int = 2) -> None:
        """Until trials train and so many have a checkpoint to go on from."""
        wait_until(lambda: len(self.checkpoints()) >= checkpoints, f"{checkpoints} checkpoints\n{self.story()}", PATIENCE, 0.05)

    def elements(self) -> list[Job]:
        return [job for job in self.cluster.jobs() if job.array in self.arrays]

    def story(self) -> str:
        logs = "".join(f"--- {log}\n{log.read_text()[-4000:]}\n" for log in sorted(self.cluster.folder.glob("**/*.log")) if log.parent.name != "log")
        return f"{logs}--- queue\n{self.cluster.queue()}"

    def attempts(self) -> str:
        """How attempts ended, as text: `12 done, 4 preempted, 2 open`."""
        events = self.events()
        ends = collections.Counter(event["state"] for event in events if event["event"] == "ended")
        ends["left open"] = sum(event["event"] == "started" for event in events) - sum(ends.values())
        return ", ".join(f"{count} {end}" for end, count in ends.items() if count)


class Line:
    """A row of the table."""

    def __init__(self, name: str) -> None:
        self.name, self.began = name, time.monotonic()

    def tell(self, event: str, ended: str, states: collections.Counter[str], compared: int) -> None:
        rows = f"{sum(states.values())} ({', '.join(f'{count} {state}' for state, count in states.items())})"
        seconds = time.monotonic() - self.began
        print(f"table: | {self.name} | {event} | {ended} | {rows} | {compared} of {compared} | {seconds:.0f} |", flush=True)


def call(*arguments: object, code: int = 0) -> str:
    done = subprocess.run(
        [PROGRAM, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=PATIENCE, env=plain_environment()
    )
    assert done.returncode == code, f"{arguments}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def plain_environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}


def make_reference(folder: pathlib.Path) -> None:
    """Whole or not at all."""
    making = folder.with_name(folder.name + ".making")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(making, ignore_errors=True)
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2"]
    subprocess.run([*mpirun, PROGRAM, "run", str(SWEEP), "--out", str(making)], check=True, timeout=PATIENCE, env=plain_environment())
    call("aggregate", making)
    making.rename(folder)


def check(study: Study, reference: dict[str, Numbers], other: dict[str, str] | None = None) -> tuple[collections.Counter[str], int]:
    """The aggregate that the cluster's own job made: all trials done but those in `other`, {id: state}. Gives states and rows compared."""
    aggregate = study.folder / "sweep.h5"
    assert aggregate.exists(), f"no aggregate\n{study.story()}"
    other = other or {}
    assert ": sound" in call("verify", aggregate)
    rows = json.loads(call("results", aggregate, "--json"))
    states = {row["id"]: row["state"] for row in rows}
    assert len(rows) == TRIALS and states.keys() == reference.keys(), f"not each trial has one row: {states}"
    expected = {trial: other.get(trial, "done") for trial in reference}
    assert states == expected, f"states {states}, expected {expected}\n{study.story()}"
    numbers = numbers_of(aggregate)
    done = {trial: numbers[trial] for trial in reference if trial not in other}
    check_numbers(done, reference)
    check_done_once(study.events(), len(done))
    assert not list(study.folder.glob("trials/*/*/.*.tmp")), "half-written files were left"
    return collections.Counter(states.values()), len(done)


def ended(study: Study) -> str:
    counts = collections.Counter(job.state for job in study.elements())
    return "elements: " + ", ".join(f"{count} {state}" for state, count in counts.items()) + "; attempts: " + study.attempts()


# Scenarios: each gets a line for the table and the reference's numbers.


def array(line: Line, reference: dict[str, Numbers]) -> None:
    with Cluster() as cluster:
        study = Study(cluster)
        study.submit(shards=3)
        cluster.wait_for_end()
        states, compared = check(study, reference)
        owners = collections.Counter(event["owner"]["slurm_job"] for event in study.events() if event["event"] == "started")
        assert len(owners) == 3, f"not every element worked: {owners}"
        assert study.attempts() == f"{TRIALS} done", study.attempts()
        line.tell("nothing: three shards of two ranks", ended(study), states, compared)


def throttled(line: Line, reference: dict[str, Numbers]) -> None:
    most = 0

    def watch(jobs: list[Job]) -> None:
        nonlocal most
        most = max(most, sum(job.array == number and job.state == "RUNNING" for job in jobs))

    with Cluster() as cluster:
        study = Study(cluster, slow=0.02)
        number = study.submit(shards=3, throttle=1)
        cluster.wait_for_end(watch=watch)
        states, compared = check(study, reference)
        assert most == 1, f"{most} elements ran side by side"
        line.tell("three shards, one at a time", ended(study), states, compared)


def node_down(line: Line, reference: dict[str, Numbers]) -> None:
    with Cluster() as cluster:
        study = Study(cluster, slow=0.2)
        number = study.submit(shards=3)
        study.wait_for_work()
        victim = next(job for job in study.elements() if job.state == "RUNNING" and job.nodes)
        cluster.set_node(victim.nodes, "down")
        wait_until(lambda: cluster.job(victim.name).state != "RUNNING", "the job is taken from its node")
        cluster.set_node(victim.nodes, "resume")
        cluster.wait_for_end()
        states, compared = check(study, reference)
        assert cluster.restarts(victim.name) == 1, cluster.queue()
        line.tell(f"{victim.nodes} set down under element {victim.name.replace(number, '')}, then resumed", ended(study), states, compared)


def preemption(line: Line, reference: dict[str, Numbers]) -> None:
    with Cluster() as cluster:
        study = Study(cluster, slow=0.2)
        study.submit(shards=3)
        study.wait_for_work()
        intruder = cluster.ask("sbatch", "--parsable", "-p", "high", "-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")
        wait_until(lambda: cluster.job(intruder).state in ("RUNNING", "COMPLETED"), "the other job runs")
        cluster.wait_for_end()
        states, compared = check(study, reference)
        restarts = [cluster.restarts(job.name) for job in study.elements()]
        assert sum(restarts) >= 1, "nobody was preempted"
        line.tell(f"a job of a higher partition took all nodes: {sum(restarts)} elements preempted", ended(study), states, compared)


SCENARIOS: dict[str, Callable[[Line, dict[str, Numbers]], None]] = {
    "array": array,
    "throttled": throttled,
    "node_down": node_down,
    "preemption": preemption,
}
LONG: set[str] = set()


def main() -> int:
    name, *arguments = sys.argv[1:]
    if name == "list":
        print("\n".join(SCENARIOS))
        return 0
    folder = pathlib.Path(arguments[0]).resolve()
    try:
        check_possible()
        if name in LONG and os.environ.get("MOESWEEP_FULL") != "1":
            raise Skipped(f"slurm scenario {name} is long: MOESWEEP_FULL=1 runs it")
    except Skipped as reason:
        print(f"skipped: {reason}")
        return 77
    if name == "reference" or not (folder / "sweep.h5").exists():
        make_reference(folder)
    if name != "reference":
        SCENARIOS[name](Line(name), numbers_of(folder / "sweep.h5"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
