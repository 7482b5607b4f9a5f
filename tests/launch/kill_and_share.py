"""Kills a launch with SIGKILL and starts it again; starts two launches on one folder; lets one rank of a gang fail alone.

Nothing may be lost, nothing may run twice.
"""
import collections
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from processes import processes_of

PROGRAM = sys.argv[1]
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]


def start(ranks, folder, marks, trials, milliseconds, *more):
    command = [*MPIRUN, "-n", str(ranks), PROGRAM, str(folder), str(marks), str(trials), str(milliseconds), *map(str, more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def read(marks):
    counts = collections.defaultdict(collections.Counter)
    for file in marks.iterdir():
        for line in file.read_text().splitlines():
            counts[file.name][line.split()[0]] += 1
    return counts


def killed_launch_is_resumed(ranks):
    with tempfile.TemporaryDirectory() as name:
        folder, marks, trials = pathlib.Path(name) / "sweep", pathlib.Path(name) / "marks", 12
        first = start(ranks, folder, marks, trials, 500)
        deadline = time.time() + 30
        while time.time() < deadline:
            counts = read(marks).values() if marks.exists() else []
            ended, begun = sum(c["end"] for c in counts), sum(c["begin"] for c in counts)
            if ended >= 3 and begun > ended:  # one is in the middle
                break
            time.sleep(0.02)
        for process in list(processes_of(first.pid)):
            os.kill(process, signal.SIGKILL)
        first.communicate()
        before = read(marks)
        finished = sum(1 for c in before.values() if c["end"])
        assert 3 <= finished < trials, f"the kill came too late or too early: {finished} finished"
        second = start(ranks, folder, marks, trials, 10)
        output, _ = second.communicate(timeout=60)
        assert second.returncode == 0, output
        after = read(marks)
        assert len(after) == trials, "a trial was lost"
        again = 0
        for trial, counts in after.items():
            assert counts["end"] >= 1, f"{trial} never ended"
            # Publishing comes after `end`: a trial killed in between runs again; one with its file does not.
            if counts["begin"] > 1:
                again += 1
                assert before[trial]["begin"] == 1
        assert 1 <= again <= 2 * ranks, f"{again} trials ran again for {ranks} ranks"
        print(f"killed on {ranks} ranks with {finished} of {trials} finished: all there, {again} ran again")


def two_launches_share_a_folder():
    with tempfile.TemporaryDirectory() as name:
        folder, marks, trials = pathlib.Path(name) / "sweep", pathlib.Path(name) / "marks", 16
        launches = [start(2, folder, marks, trials, 150), start(1, folder, marks, trials, 150)]
        outputs = [launch.communicate(timeout=60)[0] for launch in launches]
        counts = read(marks)
        assert len(counts) == trials, outputs
        for trial, count in counts.items():
            assert count["begin"] == 1 and count["end"] == 1, f"{trial} ran {count['begin']} times"
        processes = {line.split()[1] for file in marks.iterdir() for line in file.read_text().splitlines()}
        assert len(processes) == 3, f"the launches did not share: {processes}"
        print(f"two launches shared {trials} trials, each ran once")


def rank_that_fails_alone_ends_the_world_and_is_named():
    with tempfile.TemporaryDirectory() as name:
        folder, marks, trials, failing = pathlib.Path(name) / "sweep", pathlib.Path(name) / "marks", 5, 3
        first = start(2, folder, marks, trials, 10, 2, failing)
        output, _ = first.communicate(timeout=60)
        assert first.returncode == 6, f"exit code {first.returncode}\n{output}"
        assert "[Rank 1/2] a rank of its own mind" in output, output
        # The same command goes on: the culprit is a row, the others are done.
        second = start(2, folder, marks, trials, 10, 2, failing)
        output, _ = second.communicate(timeout=60)
        assert second.returncode == 1, output
        assert len(read(marks)) == trials
        ended = collections.Counter()
        for file in (folder / "journal").glob("*.jsonl"):
            for line in file.read_text().splitlines():
                event = json.loads(line)
                if event["event"] == "ended":
                    ended[event["state"]] += 1
                    assert event["state"] == "done" or event["reason"] == "[Rank 1/2] a rank of its own mind", event
        assert ended == {"done": trials - 1, "failed": 1}, ended
        print("a rank that failed alone ended the world with code 6, is a row, and the rest went on")


killed_launch_is_resumed(1)
killed_launch_is_resumed(2)
two_launches_share_a_folder()
rank_that_fails_alone_ends_the_world_and_is_named()
