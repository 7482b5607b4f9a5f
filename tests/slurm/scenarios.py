"""A sweep through one event of a cluster's life, on a Slurm of three nodes started for it.

    scenarios.py reference DIR      the undisturbed run, by mpirun; made once for all
    scenarios.py NAME DIR           one scenario, against the reference in DIR (made when it is not there)
    scenarios.py list

After each: every trial exactly once in sweep.h5, in the state that it should be in, the numbers of each trial that is done
bitwise those of the undisturbed run; and a line `table: | ...` that says what was done and what came of it.
Environment: MOESWEEP_PROGRAM; MOESWEEP_FULL=1 runs the long ones too. Exit code 77: skipped, with the reason printed.
"""
import collections
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from cluster import PREFIX, Cluster, Job, Skipped, check_possible, wait_until
from sweeps import Event, Numbers, check_done_once, check_numbers, journal, numbers_of

SOURCE = pathlib.Path(__file__).resolve().parents[2]
SWEEP = pathlib.Path(__file__).with_name("sweep.yaml")
PROGRAM = os.environ.get("MOESWEEP_PROGRAM", str(SOURCE / "build/release/moesweep"))
TRIALS = 12
LARGEST = (9, 10, 11)  # on two ranks; an element begins with one
REPORT = str(SOURCE / ".venv/bin/moesweep-report")
PATIENCE = 400.0  # seconds for anything: no time is asserted, but nothing hangs

Reference = dict[str, Numbers]  # of the undisturbed run, by trial


class Study:
    """The sweep in a folder of its own on a cluster."""

    def __init__(self, cluster: Cluster, slow: float = 0.0, inject: Sequence[str] = (), options: Sequence[str] = ()) -> None:
        """Each step takes `slow` seconds more, asleep. Options are those of `run`, which `submit` hands on."""
        self.cluster = cluster
        self.folder = cluster.folder / "runs" / "study"
        self.work = cluster.folder / "work"
        self.work.mkdir(exist_ok=True)
        faults = [f"slow@seconds={slow}"] if slow else []
        self.options = [*(part for fault in (*faults, *inject) for part in ("--inject", fault)), *options]
        self.arrays: list[str] = []
        self.profile = self.work / "profile.yaml"
        self.profile.write_text("partition: low\nreport: none\n")
        cluster.environment |= {"MOESWEEP_PROGRAM": PROGRAM, "MOESWEEP_DATA": str(SOURCE / "build/data"), "MOESWEEP_REPORT": REPORT}

    def submit(self, shards: int = 3, ranks: int = 2, time_limit: str = "00:10:00", signal_seconds: int = 20, more: Sequence[str] = ()) -> None:
        """By `moesweep submit`: arrays, aggregate, and what the profile asks for."""
        command = self.submission(shards, ranks, time_limit, signal_seconds, more)
        self.take(self.cluster.ask(*command, folder=self.work, seconds=PATIENCE))

    def submission(
        self, shards: int = 3, ranks: int = 2, time_limit: str = "00:10:00", signal_seconds: int = 20, more: Sequence[str] = ()
    ) -> list[str]:
        return [
            PROGRAM, "submit", str(SWEEP), "--out", str(self.folder), "--profile", str(self.profile), "--json", f"--shards={shards}",
            f"--ranks={ranks}", "--nodes=1", f"--time={time_limit}", f"--signal-seconds={signal_seconds}", *more, *self.options,
        ]  # fmt: skip

    def take(self, answer: str) -> None:
        """The array jobs of what `submit` printed."""
        self.arrays += [job["job"] for job in json.loads(answer)["jobs"] if job["kind"] == "array"]

    def submit_templates(self, shards: int = 3) -> None:
        """By jobs/array.sbatch and jobs/aggregate.sbatch."""
        array, aggregate = SOURCE / "jobs/array.sbatch", SOURCE / "jobs/aggregate.sbatch"
        number = self.sbatch(f"--array=0-{shards - 1}", "--ntasks=2", "--nodes=1", "--time=10", array, SWEEP, self.folder, *self.options)
        self.sbatch(f"--dependency=afterany:{number}", "--ntasks=2", "--nodes=2", aggregate, self.folder)
        self.arrays.append(number)

    def sbatch(self, *arguments: str | pathlib.Path) -> str:
        return self.cluster.ask("sbatch", "--parsable", *arguments, folder=self.work)

    # What it has come to

    def events(self) -> list[Event]:
        return journal(sorted(self.folder.glob("journal/*.jsonl")))

    def done(self) -> int:
        return sum(event["event"] == "ended" and event["state"] == "done" for event in self.events())

    def owners(self) -> collections.Counter[str]:
        """Attempts by the element that made them."""
        return collections.Counter(event["owner"]["slurm_job"] for event in self.events() if event["event"] == "started")

    def checkpoints(self) -> list[pathlib.Path]:
        return list(self.folder.glob("trials/*/*/checkpoint.h5"))

    def wait_for_work(self, checkpoints: int = 2) -> None:
        """Until trials train and so many have a checkpoint to go on from."""
        wait_until(lambda: len(self.checkpoints()) >= checkpoints, f"{checkpoints} checkpoints\n{self.story()}", PATIENCE, 0.05)

    def elements(self) -> list[Job]:
        return [job for job in self.cluster.jobs() if job.array in self.arrays]

    def story(self) -> str:
        files = [*self.work.glob("*.log"), *self.folder.glob("slurm/logs/*")]
        logs = "".join(f"--- {log}\n{log.read_text()[-4000:]}\n" for log in sorted(files))
        return f"{logs}--- queue\n{self.cluster.queue()}"

    def endings(self) -> dict[tuple[str, int], Event]:
        """By trial and attempt; of an attempt whose launch died, what a later one wrote down."""
        return {(event["trial"], event["attempt"]): event for event in self.events() if event["event"] == "ended"}

    def attempts(self) -> str:
        """How attempts ended, as text: `12 done, 4 preempted, 2 left open`."""
        endings = self.endings()
        ends = collections.Counter(event["state"] for event in endings.values())
        ends["left open"] = sum(event["event"] == "started" for event in self.events()) - len(endings)
        return ", ".join(f"{count} {end}" for end, count in ends.items() if count)


class Line:
    """A row of the table."""

    def __init__(self, name: str) -> None:
        self.name, self.began = name, time.monotonic()

    def tell(
        self, study: Study, reference: Reference, event: str, endings: Collection[str] = (), other: Mapping[str, str] | None = None
    ) -> None:
        """Checks what the study has come to; every attempt that ended did so in one of `endings`, where they are given."""
        states, compared = check(study, reference, other or {})
        found = {event["state"] for event in study.endings().values()}
        assert not endings or found <= set(endings), f"attempts ended as {found}"
        rows = f"{sum(states.values())} ({', '.join(f'{count} {state}' for state, count in states.items())})"
        jobs = collections.Counter(job.state for job in study.elements())
        elements = ", ".join(f"{count} {state}" for state, count in jobs.items())
        columns = [self.name, event, f"elements: {elements}; attempts: {study.attempts()}", rows, f"{compared} of {compared}"]
        print(f"table: | {' | '.join(columns)} | {time.monotonic() - self.began:.0f} |", flush=True)


def call(*arguments: object, code: int = 0) -> str:
    done = subprocess.run(
        [PROGRAM, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=PATIENCE, env=plain_environment()
    )
    assert done.returncode == code, f"{arguments}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def plain_environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}


def remove_reference(folder: pathlib.Path) -> None:
    """What an earlier call left: a sweep folder of SWEEP, or an empty one. Anything else is refused, and stays."""
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_symlink() or not folder.is_dir():
        raise SystemExit(f"{folder} is no folder: give another DIR")
    if any(folder.iterdir()):
        try:
            name = json.loads((folder / "plan.json").read_text())["name"]
        except (OSError, ValueError, LookupError, TypeError):
            name = None
        if name != "slurm":
            raise SystemExit(f"{folder} holds files that are no reference of these scenarios: give a new DIR")
    shutil.rmtree(folder)


def make_reference(folder: pathlib.Path) -> None:
    """Whole or not at all. Only an earlier reference is replaced."""
    remove_reference(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2"]
    with tempfile.TemporaryDirectory(prefix=folder.name + ".making-", dir=folder.parent) as scratch:
        making = pathlib.Path(scratch) / "run"
        subprocess.run([*mpirun, PROGRAM, "run", str(SWEEP), "--out", str(making)], check=True, timeout=PATIENCE, env=plain_environment())
        call("aggregate", making)
        making.rename(folder)


def check(study: Study, reference: Reference, other: Mapping[str, str]) -> tuple[collections.Counter[str], int]:
    """The aggregate that the cluster's own job made: all trials done but those in `other`, {id: state}. Gives states and rows compared."""
    aggregate = study.folder / "sweep.h5"
    assert aggregate.exists(), f"no aggregate\n{study.story()}"
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
    left = list(study.folder.glob("trials/*/*/.*.tmp"))
    assert not left, f"half-written files were left: {left}"
    return collections.Counter(states.values()), len(done)


def restarts(study: Study) -> int:
    return sum(study.cluster.restarts(job.name) for job in study.elements())


def numbered(number: int) -> str:
    """The id of a trial by its place in the plan."""
    trial: str = json.loads(call("plan", SWEEP, "--json"))["trials"][number]["id"]
    return trial


# Scenarios: each gets a line for the table and the reference's numbers.


def array(line: Line, reference: Reference) -> None:
    with Cluster() as cluster:
        study = Study(cluster)
        study.profile.write_text(f"partition: low\nreport: {REPORT}\n")
        study.submit(shards=3)
        cluster.wait_for_end()
        assert len(study.owners()) == 3, f"not every element worked: {study.owners()}"
        assert study.attempts() == f"{TRIALS} done", study.attempts()
        assert (study.folder / "report.html").stat().st_size > 10000
        line.tell(study, reference, "nothing: three shards of two ranks, aggregate, report")


def throttled(line: Line, reference: Reference) -> None:
    most = 0

    def watch(jobs: list[Job]) -> None:
        nonlocal most
        most = max(most, sum(job.array in study.arrays and job.state == "RUNNING" for job in jobs))

    with Cluster() as cluster:
        study = Study(cluster, slow=0.02)
        study.submit(shards=3, more=["--throttle=1"])
        cluster.wait_for_end(watch=watch)
        assert most == 1, f"{most} elements ran side by side"
        assert len(study.elements()) == 3
        line.tell(study, reference, "three shards, at most one at a time")


def chunked(line: Line, reference: Reference) -> None:
    with Cluster(array_size=3) as cluster:
        study = Study(cluster)
        study.submit(shards=7)
        assert len(study.arrays) >= 3, f"arrays {study.arrays} of at most three elements"
        assert len(study.elements()) == 7, study.story()
        cluster.wait_for_end()
        line.tell(study, reference, f"7 shards where MaxArraySize is 3: {len(study.arrays)} arrays")


def shared(line: Line, reference: Reference) -> None:
    with Cluster() as cluster:
        study = Study(cluster, slow=0.05)
        study.submit(shards=2)
        study.submit(shards=2, more=["--again"])
        assert len(study.arrays) == 2
        cluster.wait_for_end()
        assert study.attempts() == f"{TRIALS} done", study.attempts()
        assert len(study.owners()) >= 3, f"the second array did nothing: {study.owners()}"
        line.tell(study, reference, "two arrays on one folder")


def walltime(line: Line, reference: Reference) -> None:
    with Cluster() as cluster:
        # About 40 s of work for each rank in jobs of one minute, of which the last half may be gone: Slurm looks at times each 30 s.
        study = Study(cluster, slow=0.7)
        study.submit(shards=3, time_limit="00:01:00", signal_seconds=20)
        cluster.wait_for_end()
        again = restarts(study)
        assert again >= 1, study.story()
        line.tell(study, reference, f"time limit of 1 minute, USR2 20 s before it: {again} requeues", {"done", "preempted"})


def time_limit(line: Line, reference: Reference) -> None:
    with Cluster() as cluster:
        # Each element begins with one of the largest trials; these are deaf from step 8 of their first attempt until long after the limit.
        deaf = [f"slow@trial={trial},step=8,attempt=1,seconds=300" for trial in LARGEST]
        study = Study(cluster, inject=deaf)
        study.submit(shards=3, time_limit="00:01:00", signal_seconds=1)
        cluster.wait_for_end()
        again = restarts(study)
        event = f"time limit of 1 minute hit by deaf trials: {again} requeues"
        if study.done() < TRIALS:
            study.submit(shards=3)
            cluster.wait_for_end()
            event += ", submitted again"
        assert any(job.state == "TIMEOUT" for job in study.elements()), study.story()
        line.tell(study, reference, event)


def node_down(line: Line, reference: Reference) -> None:
    with Cluster() as cluster:
        study = Study(cluster, slow=0.3)
        study.submit(shards=3)
        study.wait_for_work()
        victim = next(job for job in study.elements() if job.state == "RUNNING" and job.nodes)
        cluster.set_node(victim.nodes, "down")
        wait_until(lambda: cluster.job(victim.name).state != "RUNNING", "the job is taken from its node")
        cluster.set_node(victim.nodes, "resume")
        cluster.wait_for_end()
        assert cluster.restarts(victim.name) == 1, study.story()
        line.tell(study, reference, f"{victim.nodes} set down under an element, then resumed")


def preemption(line: Line, reference: Reference) -> None:
    with Cluster() as cluster:
        study = Study(cluster, slow=0.3)
        study.submit(shards=3)
        study.wait_for_work()
        intruder = study.sbatch("-p", "high", "-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")
        wait_until(lambda: cluster.job(intruder).state in ("RUNNING", "COMPLETED"), "the other job runs")
        cluster.wait_for_end()
        again = restarts(study)
        assert again == 3, f"{again} elements were preempted, not 3\n{study.story()}"
        line.tell(study, reference, f"a job of a higher partition took all nodes: {again} elements preempted and requeued")


def preemption_with_grace(line: Line, reference: Reference) -> None:
    with Cluster(grace=20) as cluster:
        study = Study(cluster, slow=0.3)
        study.submit(shards=3)
        study.wait_for_work()
        intruder = study.sbatch("-p", "high", "-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")
        wait_until(lambda: cluster.job(intruder).state in ("RUNNING", "COMPLETED"), "the other job runs")
        cluster.wait_for_end()
        again = restarts(study)
        assert again == 3, f"{again} elements were requeued, not 3\n{study.story()}"
        assert "preempted" in study.attempts() and "left open" not in study.attempts(), study.attempts()
        line.tell(study, reference, f"the same with 20 s of grace: {again} elements wrote checkpoints and were requeued")


def crash_and_hang(line: Line, reference: Reference) -> None:
    with Cluster() as cluster:
        faults = ["kill@trial=4,step=5", "hang@trial=8,step=5", "abort@trial=10,step=5,rank=1,attempt=1"]
        study = Study(cluster, slow=0.05, inject=faults, options=["--stall-timeout=4", "--retries=crashed=1"])
        study.submit(shards=3)
        cluster.wait_for_end()
        expected = {numbered(4): "crashed", numbered(8): "timed_out"}
        line.tell(study, reference, "a trial that is killed at step 5 of each attempt, one that hangs there, one that aborts once", other=expected)


def controller_down(line: Line, reference: Reference) -> None:
    with Cluster() as cluster:
        study = Study(cluster, slow=0.2)
        cluster.stop_controller()
        submitting = subprocess.Popen(study.submission(), cwd=study.work, env=cluster.environment, stdout=subprocess.PIPE, text=True)
        try:
            time.sleep(4)
            assert submitting.poll() is None, "submit gave up, or did not notice"
            cluster.start_controller(fresh=False)
            answer, _ = submitting.communicate(timeout=PATIENCE)
        finally:
            submitting.kill()
        assert submitting.returncode == 0
        study.take(answer)
        study.wait_for_work()
        cluster.stop_controller()
        time.sleep(3)
        cluster.start_controller(fresh=False)
        cluster.wait_for_end()
        line.tell(study, reference, "controller stopped before submit, started 4 s later; stopped for 3 s during the run")


def cancelled(line: Line, reference: Reference) -> None:
    with Cluster() as cluster:
        study = Study(cluster, slow=0.3)
        study.submit(shards=3)
        study.wait_for_work()
        cluster.ask(PROGRAM, "cancel", study.folder, folder=study.work)
        cluster.wait_for_end()
        assert not (study.folder / "sweep.h5").exists() and study.done() < TRIALS
        assert restarts(study) == 0, f"cancelled, and in the queue again\n{study.story()}"
        study.submit(shards=3)
        cluster.wait_for_end()
        line.tell(study, reference, "cancelled, then submitted again")


def inherited(line: Line, reference: Reference) -> None:
    """A token that every rank of every step reads, also after a requeue, and that stands in no file but Slurm's own."""
    secret = f"token-{os.urandom(12).hex()} with 'quotes'"
    with Cluster() as cluster:
        study = Study(cluster, slow=0.3)
        saw = cluster.folder / "saw"
        saw.mkdir()
        # Before each rank of each step: what it sees of the variable, as a digest, and of what the job's script has set.
        probe = study.work / "probe.sh"
        probe.write_text(
            "#!/bin/bash\n"
            f'printf "%s %s %s\\n" "$(printf %s "$MOESWEEP_TEST_TOKEN" | sha256sum | cut -c1-64)" "${{MOESWEEP_DATA:+data}}" "$SLURM_JOB_NAME"'
            f" >'{saw}/'$SLURM_JOB_ID.$SLURM_STEP_ID.$SLURM_PROCID.${{SLURM_RESTART_COUNT:-0}}\n"
            'exec "$@"\n'
        )
        probe.chmod(0o755)
        report = study.work / "report.sh"
        report.write_text(f"#!/bin/bash\n'{probe}' true\nexec '{REPORT}' \"$@\"\n")
        report.chmod(0o755)
        # The site gives jobs nothing of the caller's environment but what is inherited: the harder case.
        study.profile.write_text(f"partition: low\nreport: {report}\nsbatch: [--export=NONE]\ninherit: [MOESWEEP_TEST_TOKEN]\nsrun: [{probe}]\n")
        cluster.environment["MOESWEEP_TEST_TOKEN"] = secret
        command_lines: set[str] = set()
        study.submit(shards=3)
        study.wait_for_work()
        command_lines.update(
            text.decode(errors="replace") for text in (readable(f"/proc/{process}/cmdline") for process in cluster.processes())
        )
        cluster.ask("scancel", "--signal=USR2", study.arrays[0])
        cluster.wait_for_end()
        again = restarts(study)
        assert again >= 1, f"no element was requeued\n{study.story()}"
        expected = f"{hashlib.sha256(secret.encode()).hexdigest()} data"
        lines = {path.name: path.read_text().strip() for path in saw.iterdir()}
        assert lines and all(text.startswith(expected) for text in lines.values()), f"not every rank saw it: {lines}"
        ends = collections.Counter(text.rsplit("-", 1)[-1] if text.endswith(("-aggregate", "-report")) else "array" for text in lines.values())
        assert ends["array"] >= 6 and ends["aggregate"] >= 2 and ends["report"] == 1, f"{ends}\n{study.story()}"
        assert any(name.rsplit(".", 1)[1] != "0" for name in lines), f"no rank of a requeued element saw it: {sorted(lines)}"
        holders = [path for path in study.folder.rglob("*") if path.is_file() and secret[:24].encode() in path.read_bytes()]
        holders += [path for path in study.work.rglob("*") if path.is_file() and secret[:24].encode() in path.read_bytes()]
        assert not holders, f"the value stands in {holders}"
        assert not [text for text in command_lines if secret[:24] in text], "the value stands on a command line"
        asked = [[PROGRAM, "status", study.folder], [PROGRAM, "status", study.folder, "--json"], [PROGRAM, "results", study.folder / "sweep.h5", "--json"]]
        shown = "".join(cluster.ask(*words) for words in (*asked, ["scontrol", "show", "job"]))
        assert secret[:24] not in shown, "a command shows the value"
        line.tell(study, reference, f"a token inherited by all jobs where the site exports nothing, USR2 to all elements: {again} requeues")


def readable(file: str) -> bytes:
    """Of a process that may be gone."""
    try:
        return pathlib.Path(file).read_bytes()
    except OSError:
        return b""


def template_array(line: Line, reference: Reference) -> None:
    with Cluster() as cluster:
        study = Study(cluster, slow=0.3)
        study.submit_templates(shards=3)
        study.wait_for_work()
        cluster.ask("scancel", "--signal=USR2", study.arrays[0])
        cluster.wait_for_end()
        assert "preempted" in study.attempts() and "left open" not in study.attempts(), study.attempts()
        again = restarts(study)
        assert again == 3, f"{again} elements were requeued, not 3\n{study.story()}"
        line.tell(study, reference, "jobs/array.sbatch, aggregate.sbatch; USR2 to all elements")


def template_node(line: Line, reference: Reference) -> None:
    with Cluster(nodes=1) as cluster:
        study = Study(cluster, slow=0.1)
        study.arrays.append(study.sbatch("--time=10", SOURCE / "jobs/node.sbatch", SWEEP, study.folder, *study.options))
        study.wait_for_work()
        cluster.ask("scancel", "--signal=USR2", study.arrays[0])
        cluster.wait_for_end()
        assert restarts(study) == 1 and "preempted" in study.attempts(), study.story()
        assert (study.folder / "report.html").stat().st_size > 10000
        line.tell(study, reference, "jobs/node.sbatch, USR2 to it")


SCENARIOS: list[Callable[[Line, Reference], None]] = [
    array, throttled, chunked, shared, walltime, time_limit, node_down, preemption, preemption_with_grace, crash_and_hang,
    controller_down, cancelled, inherited, template_array, template_node,
]  # fmt: skip
LONG = {"time_limit"}


def teardown() -> None:
    """Killed with SIGKILL, a test leaves no process of its cluster: not the daemons, not the job's steps."""
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir="/tmp") as folder:
        test = subprocess.Popen([sys.executable, __file__, "doomed", folder], stdout=subprocess.PIPE, text=True)
        assert test.stdout and test.stdout.readline() == "running\n"
        cluster = Cluster(pathlib.Path(folder))
        found = [pathlib.Path(f"/proc/{process}/comm").read_text().strip() for process in cluster.processes()]
        assert {"slurmctld", "slurmd", "slurmstepd", "sleep"} <= set(found), f"not all seen: {found}"
        test.kill()
        test.wait()
        wait_until(lambda: not list(cluster.processes()), "what was started ends")


def doomed(folder: pathlib.Path) -> None:
    with Cluster(folder) as cluster:
        cluster.ask("sbatch", "-n2", "-N1", "-o", "/dev/null", "--wrap", "srun sleep 1000")
        wait_until(lambda: len([job for job in cluster.jobs() if job.state == "RUNNING"]) == 1, "the job runs")
        wait_until(lambda: sum(pathlib.Path(f"/proc/{process}/comm").read_text() == "sleep\n" for process in cluster.processes()) == 2, "both ranks")
        print("running", flush=True)
        time.sleep(PATIENCE)


def main() -> int:
    name, *arguments = sys.argv[1:]
    if name == "list":
        print("\n".join(scenario.__name__ for scenario in SCENARIOS))
        return 0
    folder = pathlib.Path(arguments[0]).resolve()
    try:
        if name != "reference":
            check_possible()
        if name in LONG and os.environ.get("MOESWEEP_FULL") != "1":
            raise Skipped(f"Slurm scenario {name} is long: MOESWEEP_FULL=1 runs it")
    except Skipped as reason:
        print(f"skipped: {reason}")
        return 77
    if name == "teardown":
        teardown()
        return 0
    if name == "doomed":
        doomed(folder)
        return 0
    if name == "reference" or not (folder / "sweep.h5").exists():
        make_reference(folder)
    if name != "reference":
        scenario = next(scenario for scenario in SCENARIOS if scenario.__name__ == name)
        scenario(Line(name), numbers_of(folder / "sweep.h5"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
