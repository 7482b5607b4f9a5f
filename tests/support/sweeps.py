"""What a sweep folder holds, for tests that disturb a run: its journal, and the numbers of its aggregate."""
import collections
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import h5py
import numpy

# May differ from run to run (a file's digest covers its times).
TIMED = {"training_seconds", "tokens_per_second", "digest", "seconds", "seconds_dispatch", "seconds_wait", "seconds_compute", "seconds_gradients"}
PER_TRIAL = ("trials", "axes", "metrics")  # groups of one value a trial; `arrays` holds ragged ones

Event = dict[str, Any]
Numbers = dict[str, bytes]


def journal(files: Iterable[pathlib.Path]) -> list[Event]:
    events = []
    for file in files:
        for line in file.read_text().splitlines():
            try:
                events.append(json.loads(line))
            except json.JSONDecodeError:
                pass  # torn by a kill
    return events


def numbers_of(aggregate: pathlib.Path) -> dict[str, Numbers]:
    """By trial, every number of its row that does not tell of time, as bytes. A trial that has two rows is an AssertionError."""
    with h5py.File(aggregate) as file:
        ids = [trial.decode() for trial in file["trials/id"][()]]
        assert len(set(ids)) == len(ids), f"rows of the same trial: {ids}"
        rows: dict[str, Numbers] = {trial: {} for trial in ids}
        for group in PER_TRIAL:
            for name, column in file[group].items():
                if name not in TIMED:
                    for trial, value in zip(ids, column[()], strict=True):
                        # The width of a column of texts is that of its longest.
                        rows[trial][f"{group}/{name}"] = value if isinstance(value, bytes) else value.tobytes()
        for group in file["arrays"].values():
            for name, array in group.items():
                if name in TIMED:
                    continue
                data, offsets, shapes = (array[part][()] for part in ("data", "offsets", "shapes"))
                for row, trial in enumerate(ids):
                    value = numpy.ascontiguousarray(data[offsets[row] : offsets[row + 1]])
                    rows[trial][f"{group.name.lstrip('/')}/{name}"] = shapes[row].tobytes() + value.tobytes()
    return rows


def check_numbers(found: dict[str, Numbers], undisturbed: dict[str, Numbers]) -> None:
    """Bitwise, and all that the undisturbed run has."""
    for trial, numbers in found.items():
        expected = undisturbed[trial]
        assert numbers.keys() == expected.keys(), f"trial {trial}: {numbers.keys() ^ expected.keys()}"
        different = [name for name, value in numbers.items() if value != expected[name]]
        assert not different, f"trial {trial}: not the numbers of an undisturbed run: {different}"


def check_done_once(events: list[Event], trials: int) -> None:
    """So many trials were done, each by one attempt, no attempt was made twice, none came after the one that was done."""
    started = collections.Counter((event["trial"], event["attempt"]) for event in events if event["event"] == "started")
    assert not started or max(started.values()) == 1, f"attempts that were made twice: {started}"
    verdicts: dict[tuple[str, int], set[str]] = collections.defaultdict(set)
    for event in events:
        if event["event"] == "ended":
            verdicts[event["trial"], event["attempt"]].add(event["state"])
    assert all(len(states) == 1 for states in verdicts.values()), f"attempts that ended in two ways: {verdicts}"
    done = {attempt for attempt, states in verdicts.items() if states == {"done"}}
    last = dict(done)
    assert len(done) == len(last) == trials, f"not each of {trials} trials was done once: {sorted(done)}"
    for trial, attempt in started:
        assert attempt <= last.get(trial, attempt), f"{trial} was started after it was done"
