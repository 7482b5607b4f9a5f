"""kill -9 at random moments of a run on 2 ranks, each followed by a resume, until so many kills have fallen.

No finished trial is lost, none is made twice, the aggregate is valid, and its numbers are bitwise those of an undisturbed
run. At least half of the kills fall while a trial trains, checkpoints or publishes. MOESWEEP_FULL=1: 200 kills, else 20;
MOESWEEP_KILLS: so many; MOESWEEP_SEED: other moments. Whatever fails leaves its folder, and says where.
"""
import collections
import functools
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from processes import processes_of
from sweeps import Event, Numbers, check_done_once, check_numbers, journal, numbers_of

PROGRAM = os.environ["MOESWEEP_PROGRAM"]
KILLS = int(os.environ.get("MOESWEEP_KILLS", "200" if os.environ.get("MOESWEEP_FULL") == "1" else "20"))
SEED = int(os.environ.get("MOESWEEP_SEED", "20260731"))
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2"]
TRIALS = 8
# Trials of some tenths of a second: 10 steps, 4 checkpoints, 2 evaluations.
SWEEP = [
    "smoke", "seed=[1,2]", "model.width=16", "model.experts=16", "model.expert_width=8", "routing.top_k=2", "data.sequence_length=16",
    "train.steps=10", "train.batch_sequences=8", "checkpoint.every_steps=2", "evaluation.every_steps=5", "evaluation.tokens=256",
]  # fmt: skip
KILLS_OF_A_SWEEP = 10  # at most; then it is left to come to its end
LAYOUTS = ["parallel.data=1", "parallel.data=2"]  # two trials at a time; one trial on both ranks
# What a kill aims at, and how often. "launch": any moment from the start of mpirun to the second trial's end; "trial": any
# moment of the time that a trial takes, from a trial's start on; the others: such a file has begun to be written, and some
# milliseconds more.
AIMS = {"launch": 2, "trial": 4, "checkpoint": 2, "publish": 2}
WATCHED = {"checkpoint": ".checkpoint.h5.", "publish": ".trial.h5."}
PHASES = ("publishing", "checkpointing", "training", "starting a trial")  # the most telling first
INSIDE = PHASES[:3]
PATIENCE = 900.0  # seconds for anything: no time is asserted, but nothing hangs

class Launch:
    """`mpirun -n 2 moesweep run` on a folder, to be killed."""

    last: "Launch | None" = None

    def __init__(self, folder: pathlib.Path, layout: str) -> None:
        self.folder = folder
        self.journals_before = set(folder.glob("journal/*"))
        self.files_before = {entry.name for trial in trial_folders(folder) for entry in os.scandir(trial)}
        self.ranks: list[int] = []
        self.log = folder.with_name(folder.name + ".log")
        # A kill of the whole world says nothing of a trial that ran alone: no number of them ends one.
        command = [*MPIRUN, PROGRAM, "run", *SWEEP, layout, "--out", str(folder), "--retries", "crashed=1000"]
        # What MPI leaves behind when it is killed stays among our own files. A waiting rank gives its core away: beside other
        # work a trial on both ranks is several times as fast.
        left_behind = folder.parent / "mpi"
        left_behind.mkdir(exist_ok=True)
        environment = {
            **os.environ,
            "OMPI_MCA_orte_tmpdir_base": str(left_behind),
            "OMPI_MCA_btl_vader_backing_directory": str(left_behind),
            "OMPI_MCA_mpi_yield_when_idle": "1",
        }
        self.start = time.monotonic()
        self.seconds_to_trial = 0.0
        Launch.last = self
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )

    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self, seconds: float) -> None:
        """Waits so long, or until the launch has ended by itself."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.ended():
            time.sleep(min(0.002, max(0.0, end - time.monotonic())))

    def wait_for(self, condition: Callable[[], bool], seconds: float, pause: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.ended() and not condition():
            time.sleep(pause)

    def wait_for_its_end(self) -> None:
        self.process.wait(PATIENCE)
        assert self.process.returncode == 0, f"exit code {self.process.returncode}\n{self.log.read_text()}"

    def events(self) -> list[Event]:
        """What this launch has journalled."""
        return journal(file for file in self.folder.glob("journal/*") if file not in self.journals_before)

    def has_started_a_trial(self) -> bool:
        if not any(event["event"] == "started" for event in self.events()):
            return False
        self.seconds_to_trial = time.monotonic() - self.start
        return True

    def seconds_of_trials(self) -> list[float]:
        """Of those that it has done from beginning to end."""
        return [event["seconds"] for event in self.events() if event["event"] == "ended" and event["attempt"] == 1]

    def aims_well_from_here(self) -> None:
        """Looks up now, while there is time, which processes will be killed."""
        self.ranks = [process for process in processes_of(self.process.pid) if process != self.process.pid]

    def is_writing(self, aim: str) -> bool:
        return any(
            entry.name.startswith(WATCHED[aim]) and entry.name not in self.files_before
            for trial in trial_folders(self.folder)
            for entry in os.scandir(trial)
        )

    def kill(self) -> bool:
        """Kills all of it within microseconds and waits until it is gone; False when it had ended before."""
        known = self.ranks or [p for p in processes_of(self.process.pid) if p != self.process.pid]
        self.process.kill()
        for process in known:
            self.kill_own(process)
        end = time.monotonic() + PATIENCE
        while left := list(processes_of(self.process.pid)):  # its number is ours until it is waited for
            assert time.monotonic() < end, f"processes that do not die: {left}"
            for process in left:
                self.kill_own(process)
            time.sleep(0.002)
        if self.process.wait() == -signal.SIGKILL:
            shutil.rmtree(self.folder.parent / "mpi")
            return True
        assert self.process.returncode == 0, f"exit code {self.process.returncode}\n{self.log.read_text()}"
        return False

    def kill_own(self, process: int) -> None:
        try:
            if os.getsid(process) == self.process.pid:
                os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def phase(self) -> str:
        """What it was doing when it was killed, by what it left behind: the most telling of what its ranks did."""
        mine = self.events()
        ended = {(event["trial"], event["attempt"]) for event in mine if event["event"] == "ended"}
        started = [event for event in mine if event["event"] == "started"]
        running = [event["trial"] for event in started if (event["trial"], event["attempt"]) not in ended]
        phases = {self.phase_of(trial) for trial in running}
        for phase in PHASES:
            if phase in phases:
                return phase
        return "between trials" if started else "launching"

    def phase_of(self, trial: str) -> str:
        folder = self.folder / "trials" / trial[:2] / trial
        fresh = {entry.name for entry in os.scandir(folder)} - self.files_before
        log = (folder / "log.txt").read_text() if (folder / "log.txt").exists() else ""
        log = log[log.rfind(" trial " + trial) :]
        if (folder / "trial.h5").exists() or any(name.startswith(WATCHED["publish"]) for name in fresh):
            return "publishing"
        if any(name.startswith(WATCHED["checkpoint"]) for name in fresh):
            return "checkpointing"
        if any(word in log for word in (" step ", " evaluation at ", " checkpoint at ")):
            return "training"
        return "starting a trial"


def trial_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in folder.glob("trials/*/*") if path.is_dir()]


def finished(folder: pathlib.Path) -> dict[str, tuple[Any, ...]]:
    """trial.h5 of each trial that has one, as the very file it is, with the attempts made so far."""
    found = {}
    for file in folder.glob("trials/*/*/trial.h5"):
        status = file.stat()
        attempts = sorted(path.name for path in file.parent.glob("attempt-*"))
        found[file.parent.name] = (status.st_ino, status.st_mtime_ns, status.st_size, attempts)
    return found


def call(*arguments: object) -> str:
    command = [PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE, start_new_session=True)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def numbers(folder: pathlib.Path) -> dict[str, Numbers]:
    call("aggregate", folder)
    assert ": sound" in call("verify", folder / "sweep.h5")
    rows = numbers_of(folder / "sweep.h5")
    assert all("arrays/steps/loss" in row for row in rows.values())
    return rows


def check_whole_sweep(folder: pathlib.Path, undisturbed: dict[str, Numbers]) -> None:
    found = numbers(folder)
    assert found.keys() == undisturbed.keys(), found.keys() ^ undisturbed.keys()
    check_numbers(found, undisturbed)
    check_done_once(journal(folder.glob("journal/*")), TRIALS)
    left = [str(path) for path in folder.glob("trials/*/*/.*.h5.*.tmp")]
    assert not left, f"half-written files were left: {left}"


class Pace:
    """How long a launch takes to its first trial, and a trial: as last seen, since other work may come and go."""

    def __init__(self) -> None:
        self.start = self.trial = 1.0

    def learn(self, launch: Launch) -> None:
        self.start = launch.seconds_to_trial or self.start
        self.trial = max(launch.seconds_of_trials(), default=self.trial)

    def aim(self, launch: Launch, aim: str, rng: random.Random) -> None:
        """Waits for the moment of the kill."""
        if aim == "launch":
            launch.wait(rng.uniform(0, self.start + 2 * self.trial))
            return
        launch.wait_for(launch.has_started_a_trial, PATIENCE, 0.002)
        launch.aims_well_from_here()
        launch.wait(rng.uniform(0, self.trial))
        if aim in WATCHED:
            launch.wait_for(functools.partial(launch.is_writing, aim), PATIENCE, 0.0003)
            launch.wait(rng.uniform(0, 0.004))


def prove(scratch: pathlib.Path) -> None:
    rng = random.Random(SEED)
    phases: collections.Counter[str] = collections.Counter()
    aims: collections.Counter[str] = collections.Counter()
    spent: dict[str, float] = collections.defaultdict(float)
    clock = time.monotonic()

    def lap(part: str) -> None:
        nonlocal clock
        now = time.monotonic()
        spent[part] += now - clock
        clock = now

    undisturbed, paces = {}, {}
    for layout in LAYOUTS:
        folder = scratch / layout
        launch = Launch(folder, layout)
        launch.wait_for(launch.has_started_a_trial, PATIENCE, 0.002)
        launch.wait_for_its_end()
        paces[layout] = Pace()
        paces[layout].learn(launch)
        undisturbed[layout] = numbers(folder)
        rows = json.loads(call("results", folder / "sweep.h5", "--json"))
        assert [row["state"] for row in rows] == ["done"] * TRIALS, rows
    lap("undisturbed runs")
    kills = rounds = 0
    while kills < KILLS:
        layout = LAYOUTS[rounds % len(LAYOUTS)]
        folder = scratch / f"round-{rounds}"
        known: dict[str, tuple[Any, ...]] = {}
        fallen, killed = 0, True
        while killed:
            launch = Launch(folder, layout)
            aim = "none"
            if kills < KILLS and fallen < KILLS_OF_A_SWEEP:
                # On a machine whose pace changes, moments of the launch could all fall before or after the trials.
                behind = sum(phases[phase] for phase in INSIDE) * 10 < kills * 6
                aim = rng.choices(list(AIMS), list(AIMS.values()))[0]
                if behind and aim == "launch":
                    aim = "checkpoint"
                paces[layout].aim(launch, aim, rng)
                lap("to the kills")
                killed = launch.kill()
            else:
                launch.wait_for_its_end()
                killed = False
            paces[layout].learn(launch)
            now = finished(folder)
            for trial, file in known.items():
                assert now.get(trial) == file, f"the finished trial {trial} was lost or made again: {file}, {now.get(trial)}"
            known = now
            if killed:
                kills, fallen = kills + 1, fallen + 1
                aims[aim] += 1
                phases[launch.phase()] += 1
                lap("kills")
        lap("runs to the end")
        check_whole_sweep(folder, undisturbed[layout])
        shutil.rmtree(folder)
        rounds += 1
        lap("checks")
    inside = sum(phases[phase] for phase in INSIDE)
    print(f"{kills} kills in {rounds} sweeps of {TRIALS} trials on 2 ranks, seed {SEED}")
    print("by phase: " + ", ".join(f"{count} {phase}" for phase, count in phases.most_common()))
    print("by aim: " + ", ".join(f"{count} {aim}" for aim, count in aims.most_common()))
    print(f"{inside} of {kills} ({100 * inside / kills:.0f} %) fell while a trial trained, checkpointed or published")
    print("seconds: " + ", ".join(f"{part} {time_spent:.1f}" for part, time_spent in spent.items()))
    assert inside * 2 >= kills, "too few kills fell inside a trial"


def main() -> None:
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="kills-"))
    try:
        prove(scratch)
    except BaseException:
        if Launch.last and not Launch.last.ended():  # interrupted: nothing goes on behind our back
            Launch.last.kill()
        print(f"seed {SEED}; what was found is left in {scratch}", flush=True)
        raise
    shutil.rmtree(scratch)


main()
