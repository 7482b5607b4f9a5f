"""kill -9 at random moments of a run on 2 ranks, each followed by a resume, until so many kills have fallen.

No finished trial is lost, none is made twice, the aggregate is valid, and its numbers are bitwise those of an undisturbed run. At least half of
the kills fall while a trial trains, checkpoints or publishes. MOESWEEP_FULL=1: 200 kills, else 20; MOESWEEP_SEED chooses other moments.
"""
import collections
import functools
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import h5py
import numpy

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from processes import processes_of

PROGRAM = os.environ["MOESWEEP_PROGRAM"]
KILLS = 200 if os.environ.get("MOESWEEP_FULL") == "1" else 20
SEED = int(os.environ.get("MOESWEEP_SEED", "20260731"))
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2"]
SWEEP = ["smoke", "seed=[1,2]", "train.steps=48", "evaluation.every_steps=12", "checkpoint.every_steps=6"]
TRIALS = 8
KILLS_OF_A_SWEEP = 10  # at most; then it is left to come to its end
LAYOUTS = ["parallel.data=1", "parallel.data=2"]  # two trials at a time; one trial on both ranks
TIMED = ("seconds", "tokens_per_second")  # what may differ between two runs
# What a kill aims at, and how often. "any": any moment of the launch; "trial": any moment since a trial of this launch has started; the others:
# the moment at which such a file begins to be written, and some milliseconds more.
AIMS = {"any": 2, "trial": 4, "checkpoint": 2, "publish": 2}
WATCHED = {"checkpoint": ".checkpoint.h5.", "publish": ".trial.h5."}
AIMED_PHASES = ("training", "checkpointing", "publishing")


class Launch:
    """`mpirun -n 2 moesweep run` on a folder, to be killed."""

    def __init__(self, folder, layout):
        self.folder = folder
        self.events_before = len(journal(folder))
        self.temporary_before = {entry.name for trial in trial_folders(folder) for entry in os.scandir(trial)}
        command = [*MPIRUN, PROGRAM, "run", *SWEEP, layout, "--out", str(folder)]
        self.log = folder.with_name(folder.name + ".log")
        self.start = time.monotonic()
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        self.processes = []

    def ended(self):
        return self.process.poll() is not None

    def wait(self, seconds):
        """Waits so long, or until the launch has ended by itself."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.ended():
            time.sleep(min(0.002, max(0.0, end - time.monotonic())))

    def wait_for(self, condition, seconds, pause):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.ended():
            if len(self.processes) < 3:
                self.processes = list(processes_of(self.process.pid))
            if condition():
                return
            time.sleep(pause)

    def has_started_a_trial(self):
        return any(event["event"] == "started" for event in journal(self.folder)[self.events_before:])

    def is_writing(self, aim):
        beginning = WATCHED[aim]
        for trial in trial_folders(self.folder):
            for entry in os.scandir(trial):
                if entry.name.startswith(beginning) and entry.name not in self.temporary_before:
                    return True
        return False

    def kill(self):
        """False when it ended before."""
        # The ranks first, which are known where the moment counts; then whatever else there is.
        for processes in (reversed(self.processes), processes_of(self.process.pid)):
            for process in processes:
                try:
                    if os.getsid(process) == self.process.pid:  # a number may be another's by now
                        os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        return self.process.wait() == -signal.SIGKILL

    def text(self):
        return self.log.read_text()

    def phase(self):
        """What it was doing when it was killed, by what it left behind: the most telling of what its ranks did."""
        events = journal(self.folder)
        mine = events[self.events_before:]
        ended = {(event["trial"], event["attempt"]) for event in events if event["event"] == "ended"}
        started = [event for event in mine if event["event"] == "started"]
        phases = set()
        for event in started:
            if (event["trial"], event["attempt"]) in ended:
                continue
            folder = self.folder / "trials" / event["trial"][:2] / event["trial"]
            fresh = {entry.name for entry in os.scandir(folder)} - self.temporary_before
            log = (folder / "log.txt").read_text() if (folder / "log.txt").exists() else ""
            log = log[log.rfind(" trial " + event["trial"]):]
            if (folder / "trial.h5").exists() or any(name.startswith(WATCHED["publish"]) for name in fresh):
                phases.add("publishing")
            elif any(name.startswith(WATCHED["checkpoint"]) for name in fresh):
                phases.add("checkpointing")
            elif any(word in log for word in (" step ", " evaluation at ", " checkpoint at ")):
                phases.add("training")
            else:
                phases.add("starting a trial")
        for phase in ("publishing", "checkpointing", "training", "starting a trial"):
            if phase in phases:
                return phase
        return "between trials" if started else "launching"


def trial_folders(folder):
    return [path for path in folder.glob("trials/*/*") if path.is_dir()]


def journal(folder):
    events = []
    for file in sorted((folder / "journal").glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns):
        for line in file.read_text().splitlines():
            try:
                events.append(json.loads(line))
            except json.JSONDecodeError:
                pass  # torn by the kill
    return events


def finished(folder):
    """trial.h5 of each trial that has one, as the very file it is."""
    found = {}
    for file in folder.glob("trials/*/*/trial.h5"):
        status = file.stat()
        found[file.parent.name] = (status.st_ino, status.st_mtime_ns, status.st_size)
    return found


def call(*arguments):
    done = subprocess.run([PROGRAM, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def numbers_of(folder):
    """Every number of the aggregate that does not tell of time, as bytes."""
    call("aggregate", folder)
    assert ": sound" in call("verify", folder / "sweep.h5")
    rows = json.loads(call("results", folder / "sweep.h5", "--json"))
    assert [row["state"] for row in rows] == ["done"] * TRIALS, rows
    numbers = {}
    with h5py.File(folder / "sweep.h5") as file:
        def take(name, item):
            if isinstance(item, h5py.Dataset) and name.split("/")[0] in ("trials", "axes", "metrics", "arrays") and not any(t in name for t in TIMED):
                numbers[name] = numpy.asarray(item[()]).tobytes()
        file.visititems(take)
    assert any(name.startswith("arrays/steps/loss/") for name in numbers)
    return numbers


def check_whole_sweep(folder, undisturbed):
    numbers = numbers_of(folder)
    assert numbers.keys() == undisturbed.keys(), numbers.keys() ^ undisturbed.keys()
    different = [name for name, value in numbers.items() if value != undisturbed[name]]
    assert not different, f"not the numbers of an undisturbed run: {different}"
    done, last = collections.Counter(), collections.Counter()
    events = journal(folder)
    for event in events:
        if event["event"] == "ended" and event["state"] == "done":
            done[event["trial"]] += 1
            last[event["trial"]] = event["attempt"]
    assert len(done) == TRIALS and set(done.values()) == {1}, f"not each trial was done once: {done}"
    for event in events:
        if event["event"] == "started":
            assert event["attempt"] <= last[event["trial"]], f"{event['trial']} was started after it was done"
    left = [str(path) for path in folder.glob("trials/*/*/.*.h5.*.tmp")]
    assert not left, f"half-written files were left: {left}"


def main():
    rng = random.Random(SEED)
    phases, aims, rounds = collections.Counter(), collections.Counter(), 0
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        undisturbed, seconds = {}, {}
        for layout in LAYOUTS:
            folder = scratch / f"undisturbed-{layout}"
            launch = Launch(folder, layout)
            launch.wait(200)
            assert launch.process.returncode == 0, launch.text()
            seconds[layout] = time.monotonic() - launch.start
            undisturbed[layout] = numbers_of(folder)
        kills = 0
        while kills < KILLS:
            layout = LAYOUTS[rounds % len(LAYOUTS)]
            folder = scratch / f"round-{rounds}"
            rounds += 1
            known, fallen = {}, 0
            while True:
                aim = rng.choices(list(AIMS), list(AIMS.values()))[0] if kills < KILLS and fallen < KILLS_OF_A_SWEEP else "nothing"
                launch = Launch(folder, layout)
                length = seconds[layout]
                if aim == "nothing":
                    launch.wait(200)
                elif aim == "any":
                    launch.wait(rng.uniform(0, length))
                else:
                    launch.wait_for(launch.has_started_a_trial, 60, 0.005)
                    launch.wait(rng.uniform(0, length / 3))
                    if aim in WATCHED:
                        launch.wait_for(functools.partial(launch.is_writing, aim), 10, 0)
                        launch.wait(rng.uniform(0, 0.004))
                killed = launch.kill()
                now = finished(folder)
                for trial, file in known.items():
                    assert now.get(trial) == file, f"the finished trial {trial} was lost or made again"
                known = now
                if not killed:
                    assert launch.process.returncode == 0, launch.text()
                    break
                kills, fallen = kills + 1, fallen + 1
                aims[aim] += 1
                phases[launch.phase()] += 1
            check_whole_sweep(folder, undisturbed[layout])
    inside = sum(phases[phase] for phase in AIMED_PHASES)
    print(f"{kills} kills in {rounds} sweeps of {TRIALS} trials on 2 ranks, seed {SEED}")
    print("by phase: " + ", ".join(f"{count} {phase}" for phase, count in phases.most_common()))
    print("by aim: " + ", ".join(f"{count} {aim}" for aim, count in aims.most_common()))
    print(f"{inside} of {kills} ({100 * inside / kills:.0f} %) fell while a trial trained, checkpointed or published")
    assert inside * 2 >= kills, "too few kills fell inside a trial"


main()
