"""Attacks moesweep on purpose and from outside: hostile files, paths, numbers and names, all made here. See README.md beside this file.

Usage: attack.py PROGRAM ANALYSIS [NAME ...]   PROGRAM: moesweep; ANALYSIS: the folder of the Python package; NAME: Point4, Point4.test_results ...

Each method is an attack, and says what it did before the mend. Every call is checked: the exit code, no defect, no traceback, no death by a signal,
an end in time, bounded memory, nothing that commands a terminal; and after every method a person's folder is as it was.
"""
import base64
import concurrent.futures
import contextlib
import functools
import gzip
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Callable, Iterable
from typing import Any

import forge
import h5py
import numpy as np

PROGRAM, ANALYSIS = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
SUPPORT = pathlib.Path(__file__).resolve().parents[1] / "support"
DATA_TOOL = [sys.executable, "-m", "moesweep.data.cli"]
REPORT = [sys.executable, "-m", "moesweep.report.cli"]
SECONDS = 120  # of one call: what hangs, hangs for ever
MEMORY = 3 << 20  # KiB of data that a call may map; libtorch alone maps much of it
NOBODY = 65534
# C0 but for line break and tab, DEL, C1, marks that turn the direction of text, line separators.
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202egnp\u2066\x9b31m\x7f"
DEFECTS = ("Traceback", "defect", "terminate called", "HDF5-DIAG", "Segmentation", "std::bad_alloc", "AssertionError")
SMALL = ["train.steps=2", "train.warmup_steps=1"]
RICH = """sweep: rich
base: models/testbed-tiny.yaml
data: data/synthetic8.yaml
model: {width: 32, heads: 2, expert_width: 16}
train: {steps: 4, batch_sequences: 16, micro_batch_sequences: 2, warmup_steps: 2}
evaluation: {every_steps: 2, tokens: 1024, trace_tokens: 64}
checkpoint: {keep: final}
routing: {record: true}
points:
"""
RICH_SWEEP = RICH + "  - {routing.balance.method: expert_bias, routing.score: sigmoid, routing.balance.rate: 2e-2}\n"

ROOT = pathlib.Path(tempfile.mkdtemp(prefix="moesweep-attack-"))


def snapshot(folder: pathlib.Path) -> dict[str, Any]:
    """Names, kinds, modes, times and contents of all below a folder."""
    found: dict[str, Any] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        about = path.lstat()
        what: Any = about.st_rdev
        if path.is_symlink():
            what = os.readlink(path)
        elif path.is_file():
            what = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(folder))] = (stat.filemode(about.st_mode), about.st_size if path.is_file() else 0, about.st_mtime_ns, what)
    return found


def environment_of(folder: pathlib.Path) -> dict[str, str]:
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "MOESWEEP"))}
    for name in ("home", "tmp", "data", "cache"):
        (folder / name).mkdir(exist_ok=True)
    return {**keep, "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "XDG_CACHE_HOME": str(folder / "cache"),
            "MOESWEEP_DATA": str(folder / "data"), "MOESWEEP_PROGRESS": "none", "PYTHONPATH": str(ANALYSIS), "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}


def limited(command: Iterable[Any], memory: int = MEMORY) -> list[Any]:
    """The command in a process that may map so many KiB of data."""
    words = [word if isinstance(word, bytes) else str(word) for word in command]
    return ["/bin/sh", "-c", 'ulimit -c 0; ulimit -d "$0"; exec "$@"', str(memory), *words]


@functools.cache
def made(name: str) -> pathlib.Path:
    """A sound sweep folder, made once by the program itself; attacks take copies."""
    folder = ROOT / "sound"
    folder.mkdir(exist_ok=True)
    (folder / "rich.yaml").write_text(RICH_SWEEP)
    sweep = {"smoke": ["smoke", *SMALL], "rich": ["rich.yaml"]}[name]
    for command in [["run", *sweep, "--out", name], ["aggregate", name]]:
        done = subprocess.run([PROGRAM, *command], cwd=folder, env=environment_of(folder), capture_output=True, text=True, check=False, timeout=300)
        if done.returncode != 0:
            raise AssertionError(f"a sound sweep cannot be made: {command}\n{done.stdout}\n{done.stderr}")
    return folder / name


class Case(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=ROOT))
        self.environment = environment_of(self.folder)
        self.person = self.folder / "person"
        (self.person / "photos").mkdir(parents=True)
        (self.person / "thesis.tex").write_text("three years of work\n")
        (self.person / "thesis.tex").chmod(0o640)
        (self.person / "photos" / "cat.jpg").write_bytes(bytes(range(256)))
        (self.person / "newest").symlink_to("photos/cat.jpg")
        self.secret = forge.make_secrets(self.person)
        self.user: int | None = None
        self.guarded: dict[pathlib.Path, dict[str, Any]] = {}
        self.guard(self.person)

    def guard(self, *folders: pathlib.Path) -> None:
        """What must be as it is now when the method ends."""
        for folder in folders:
            self.guarded[folder] = snapshot(folder)

    def check_guarded(self) -> None:
        for folder, before in list(self.guarded.items()):
            after = self.guarded[folder] = snapshot(folder)  # told once
            changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
            self.assertEqual(changed, [], f"changed, gone or new in {folder}: {[(name, before.get(name), after.get(name)) for name in changed][:4]}")

    def tearDown(self) -> None:
        try:
            self.check_guarded()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    # Calls ------------------------------------------------------------------------------------------------------------------------------------

    def call(self, *arguments: Any, code: int | tuple[int, ...] | None = 0, says: tuple[str, ...] = (), command: list[Any] | None = None,
             seconds: float = SECONDS, memory: int = MEMORY, cwd: pathlib.Path | None = None, **environment: str) -> tuple[str, str]:
        words = [*(command or [PROGRAM]), *arguments]
        shown = " ".join(map(str, words[-8:]))
        as_user: dict[str, Any] = {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": []}
        with subprocess.Popen(limited(words, memory), cwd=cwd or self.folder, env=self.environment | environment, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **as_user) as process:
            try:
                out, err = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                self.fail(f"{shown}: no end within {seconds} s")
        return self.judged(shown, process.returncode, out, err, code, says)

    def judged(self, shown: str, returncode: int, raw_out: bytes, raw_err: bytes, code: int | tuple[int, ...] | None,
               says: tuple[str, ...] = ()) -> tuple[str, str]:
        """What every end of a command must be like."""
        out, err = raw_out.decode(errors="surrogateescape"), raw_err.decode(errors="surrogateescape")
        about = f"{shown}\nended with {returncode}\n{out[-1500:]}\n{err[-1500:]}"
        self.assertGreaterEqual(returncode, 0, about)
        for word in DEFECTS:
            self.assertNotIn(word, out + err, about)
        self.assertNotIn(returncode, (70, 134, 135, 137, 139), about)
        self.assertNotRegex(out + err, HIDDEN, about)
        self.assertNotRegex(out + err, "[\ud800-\udfff]", f"what it writes is no UTF-8: {about!r}")
        self.assertNotIn(forge.MARK, out + err, about)
        if code is not None:
            self.assertIn(returncode, (code,) if isinstance(code, int) else code, about)
        for word in says:
            self.assertIn(word, out + err, about)
        return out, err

    def data_tool(self, *arguments: Any, **options: Any) -> tuple[str, str]:
        return self.call(*arguments, command=DATA_TOOL, **options)

    def report(self, *arguments: Any, **options: Any) -> tuple[str, str]:
        return self.call(*arguments, command=REPORT, **options)

    def each(self, work: Callable[..., Any], cases: Iterable[tuple[Any, ...]]) -> None:
        """All cases, two at a time; each that fails is told by its first value."""
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for case, future in [(case, pool.submit(work, *case)) for case in cases]:
                with self.subTest(case=str(case[0])):
                    future.result()

    # Files ------------------------------------------------------------------------------------------------------------------------------------

    def copy(self, name: str, to: str = "a/b/sweep") -> pathlib.Path:
        """A copy of a sound sweep folder, deep enough below this method's folder that `../../..` stays inside."""
        folder = self.folder / to
        shutil.copytree(made(name), folder)
        return folder

    def trials(self, sweep: pathlib.Path) -> list[pathlib.Path]:
        return sorted(path.parent for path in sweep.glob("trials/*/*/config.yaml"))

    def unfinished(self, name: str, to: str = "a/b/sweep") -> pathlib.Path:
        """A copy of a sweep whose trials have no results: they wait to be run."""
        sweep = self.copy(name, to)
        shutil.rmtree(sweep / "journal")
        for trial in self.trials(sweep):
            (trial / "trial.h5").unlink(missing_ok=True)
            for attempt in trial.glob("attempt-*"):
                shutil.rmtree(attempt)
        return sweep

    def events(self, sweep: pathlib.Path) -> list[dict[str, Any]]:
        events = []
        for file in sorted(sweep.glob("journal/*.jsonl")):
            if file.is_file() and not file.is_symlink():
                for line in file.read_text(errors="replace").splitlines():
                    with contextlib.suppress(json.JSONDecodeError):
                        events.append(json.loads(line))
        return events

    def states(self, sweep: pathlib.Path, code: int | None = None) -> dict[str, dict[str, Any]]:
        """What `status` says of each trial."""
        status = json.loads(self.call("status", sweep, "--json", code=code)[0])
        return {trial["id"]: trial for trial in status["trials"]}

    def check_done(self, sweep: pathlib.Path, trials: int) -> None:
        states = self.states(sweep, code=None)
        self.assertEqual([trial["state"] for trial in states.values()], ["done"] * trials, states)

    def metrics(self, file: pathlib.Path) -> dict[str, Any]:
        rows = json.loads(self.call("results", file, "--json")[0])
        return {row["id"]: (row["state"], {name: value for name, value in row["metrics"].items() if "second" not in name}) for row in rows}

    def hostile(self, file: pathlib.Path, name: str, harm: forge.Harm, path: str) -> pathlib.Path:
        """A copy of a file that is harmed at `path`, with right digests, in a folder of its own."""
        folder = self.folder / "hostile" / base64.b16encode(hashlib.sha256(f"{name}{file}".encode()).digest()[:6]).decode()
        folder.mkdir(parents=True)
        shutil.copy(file, folder / file.name)
        self.harm(folder / file.name, harm, path)
        return folder / file.name

    def harm(self, file: pathlib.Path, harm: forge.Harm, path: str) -> None:
        about = self.secret.stat()
        with LOCK, forge.forged(file) as opened:
            harm(opened, path, self.secret)
        os.utime(self.secret, ns=(about.st_atime_ns, about.st_mtime_ns))  # HDF5 opens the target of an external link for writing too

    def nodes(self) -> dict[str, pathlib.Path]:
        """What may stand where an output is meant and is no regular file; a device of one's own where that can be made."""
        (self.folder / "nodes" / "folder").mkdir(parents=True)
        places = {name: self.folder / "nodes" / name for name in ("folder", "pipe", "link", "dangling", "full", "zero")}
        (self.folder / "nodes" / "folder" / "note").write_text("mine")
        os.mkfifo(places["pipe"])
        places["link"].symlink_to(self.person / "thesis.tex")
        places["dangling"].symlink_to(self.person / "nothing")
        for name, minor in [("full", 7), ("zero", 5)]:
            try:
                os.mknod(places[name], stat.S_IFCHR | 0o666, os.makedev(1, minor))
            except PermissionError as error:
                del places[name]
                print(f"skipped: a device `{name}` of one's own: {error}")
        return places


LOCK = threading.RLock()  # HDF5 of this process: one thread at a time


def text_sources(folder: pathlib.Path, documents: int = 60) -> pathlib.Path:
    """A config of a token store with two domains of text beside it."""
    for name, words in [("en", "the cat sat on the mat and looked"), ("de", "der Hund liegt vor dem Haus und schaut")]:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(documents):
            (folder / name / f"{number}.txt").write_text(f"{words} {number}. " * 12)
    return write_config(folder)


def write_config(folder: pathlib.Path, store: str = "made", domains: tuple[str, ...] = ("en", "de"), sources: tuple[str, ...] = ("en", "de"), *,
                 name: str = "config.yaml", vocabulary: int = 256) -> pathlib.Path:
    lines = ["kind: store", f"store: {json.dumps(store)}", "tokenizer: bytes", f"vocabulary: {vocabulary}", "validation_share: 0.3", "sequence_length: 16",
             f"domains: {json.dumps(domains)}", f"sources: {json.dumps(sources)}"]
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def as_somebody(test: Callable[..., None]) -> Callable[..., None]:
    """For a user whom permissions bind; as root the calls are made by another."""

    @functools.wraps(test)
    def wrapped(self: Case) -> None:
        if os.geteuid() == 0:
            try:
                subprocess.run([PROGRAM, "--version"], check=True, capture_output=True, timeout=SECONDS, user=NOBODY, group=NOBODY, extra_groups=[])
            except (OSError, subprocess.SubprocessError) as error:
                print(f"skipped: another user cannot be set or cannot run {PROGRAM}: {error}")
                return
            self.user = NOBODY
            ROOT.chmod(0o755)
            self.folder.chmod(0o755)
        test(self)

    return wrapped


class Point1(Case):
    """Nothing is deleted or replaced that is not ours: `moesweep-data build` and outputs onto files of others.

    No attack names a place outside the attack's own folder: a defect must not cost the machine that finds it.
    """

    def setUp(self) -> None:
        super().setUp()
        self.texts = self.folder / "texts"
        text_sources(self.texts)
        self.guard(self.texts)

    def build(self, store: str, name: str, *options: str, code: int = 3) -> str:
        config = write_config(self.folder / "data" / "configs", store, sources=(str(self.texts / "en"), str(self.texts / "de")), name=f"{name}.yaml")
        return self.data_tool("build", config, "--quiet", *options, code=code)[1]

    def test_store_that_is_somebodys_place(self) -> None:
        """`build` deleted the folder that `store:` names, whatever it held: a person's, a folder of source texts, the whole data folder; code 0."""
        data = self.folder / "data"
        (data / "configs").mkdir()
        (data / "notes.txt").write_text("mine too\n")
        (data / "link").symlink_to(self.person)
        (data / "into").symlink_to(self.texts)
        (data / "thesis").mkdir()
        (data / "thesis" / "chapter1.tex").write_text("It was a dark and stormy night.\n")
        self.guard(data / "thesis")
        places = [str(self.person), str(self.texts), str(self.texts / "en"), str(self.texts / "en" / "made"), ".", "./", "..", "../..", "a/..", "thesis",
                  str(data), str(self.folder), str(self.folder / "home"), "link", "link/photos", "into/en", "configs", "../person/photos"]
        known = {path.name: path for path in data.iterdir()}

        def attack(number: int, place: str, force: list[str]) -> None:
            self.build(place, f"c{number}", *force)
            self.assertEqual((data / "notes.txt").read_text(), "mine too\n", place)
            self.assertLessEqual(known.keys(), {path.name for path in data.iterdir()}, place)
            self.check_guarded()

        self.each(lambda _, number, place, force: attack(number, place, force),
                  [(f"{place} {force}", 2 * n + len(force), place, force) for n, place in enumerate(places) for force in ([], ["--force"])])

    def test_one_unknown_file_in_a_store(self) -> None:
        """A note that somebody left in a store went with it when the store was built anew."""
        data = self.folder / "data"
        (data / "configs").mkdir()
        self.build("made", "one", code=0)
        note = data / "made" / "note.txt"
        note.write_text("do not lose this\n")
        (self.texts / "en" / "0.txt").write_text("another text, so that the store is made anew. " * 9)
        self.guard(self.texts, data / "made")
        for force in ([], ["--force"]):
            self.assertIn("note.txt", self.build("made", "one", *force))
        note.unlink()
        self.guarded.pop(data / "made")
        self.build("made", "one", code=0)

    def test_manifest_that_claims_files_of_a_person(self) -> None:
        """A manifest.json with the names of a person's files made them the store's own."""
        data = self.folder / "data"
        (data / "configs").mkdir()
        self.build("made", "one", code=0)
        manifest = json.loads((data / "made" / "manifest.json").read_text())
        for split, name in zip(manifest["splits"], ["thesis.tex", "../person/thesis.tex", "photos/cat.jpg", str(self.person / "thesis.tex")], strict=False):
            split["file"] = name
        mine = data / "mine"
        shutil.copytree(self.person, mine, symlinks=True)
        (mine / "manifest.json").write_text(json.dumps(manifest))
        self.guard(mine)
        for force in ([], ["--force"]):
            self.build("mine", "two", *force, code=(3, 5))  # type: ignore[arg-type]

    def test_outputs_onto_files_of_a_person(self) -> None:
        """`run --out` replaced a person's sweep.yaml, `train --out` a config.yaml, `aggregate --out`, `route --output` and reports any file."""
        sweep = self.copy("smoke")
        mine = self.folder / "mine"
        mine.mkdir()
        for name in ("sweep.yaml", "config.yaml", "notes.h5", "report.html", "log.txt"):
            (mine / name).write_text("of a person: not to be replaced\n")
        (mine / "tables").mkdir()
        (mine / "tables" / "trials.csv").write_text("my,own,table\n")
        with LOCK, h5py.File(self.folder / "logits.h5", "w", libver=forge.LIBVER) as file:
            file["logits"] = np.random.default_rng(1).normal(size=(16, 8))
        self.guard(mine)
        trial = self.trials(sweep)[0] / "config.yaml"
        self.each(lambda command, tool: self.call(*command, command=tool, code=4, says=(str(mine),)) and self.check_guarded(), [
            (["run", "smoke", *SMALL, "--out", mine], [PROGRAM]),
            (["train", trial, "--out", mine], [PROGRAM]),
            (["aggregate", sweep, "--out", mine / "notes.h5"], [PROGRAM]),
            (["route", "--router", "top_k", "--input", self.folder / "logits.h5", "--output", mine / "notes.h5"], [PROGRAM]),
            (["html", sweep / "sweep.h5", "--out", mine / "report.html"], REPORT),
            (["export", sweep / "sweep.h5", "--out", mine / "tables"], REPORT),
        ])


class Point2(Case):
    """A finished trial that cannot be read just now is no damaged one."""

    def prepare(self) -> tuple[pathlib.Path, list[pathlib.Path]]:
        sweep = self.unfinished("smoke")
        trials = self.trials(sweep)
        for trial in trials[:2]:
            original = made("smoke") / "trials" / trial.parent.name / trial.name
            shutil.copy2(original / "trial.h5", trial / "trial.h5")
        if self.user is not None:
            for path in [*self.folder.rglob("*"), self.folder]:
                if not path.is_relative_to(self.person):
                    os.chown(path, self.user, self.user, follow_symlinks=False)
        return sweep, trials

    @as_somebody
    def test_file_without_permission(self) -> None:
        """A valid trial.h5 of mode 000 was taken for damaged: the trial ran again and its file was replaced; code 0."""
        sweep, trials = self.prepare()
        file = trials[0] / "trial.h5"
        before = (file.read_bytes(), file.stat().st_ino, file.stat().st_mtime_ns)
        file.chmod(0)
        self.call("run", "smoke", *SMALL, "--out", sweep, code=4, says=(trials[0].name,))
        self.assertEqual((file.stat().st_ino, file.stat().st_mtime_ns, stat.S_IMODE(file.stat().st_mode)), (*before[1:], 0))
        file.chmod(0o644)
        self.assertEqual(file.read_bytes(), before[0])
        for trial in trials[1:]:
            self.call("verify", trial / "trial.h5")
        self.call("run", "smoke", *SMALL, "--out", sweep)
        self.check_done(sweep, 4)
        self.assertEqual((file.read_bytes(), file.stat().st_ino), before[:2])

    @as_somebody
    def test_folder_without_permission(self) -> None:
        """A folder of a trial that may not be looked into ended the whole launch, and the other trials did not run."""
        sweep, trials = self.prepare()
        content = (trials[0] / "trial.h5").read_bytes()
        trials[0].chmod(0)
        self.call("run", "smoke", *SMALL, "--out", sweep, code=4, says=(trials[0].name,))
        trials[0].chmod(0o755)
        self.assertEqual((trials[0] / "trial.h5").read_bytes(), content)
        for trial in trials[1:]:
            self.call("verify", trial / "trial.h5")

    @as_somebody
    def test_commands_that_read(self) -> None:
        """`aggregate` told of a file that cannot be opened as if the trial had not run."""
        sweep, trials = self.prepare()
        self.call("run", "smoke", *SMALL, "--out", sweep)
        file = trials[0] / "trial.h5"
        (sweep / "sweep.h5").unlink()  # it could give the trial's row without the file
        file.chmod(0)
        self.call("status", sweep, code=None)
        self.call("verify", file, code=4, says=("ermission denied",))
        self.call("aggregate", sweep, code=4, says=(str(file),))
        file.chmod(0o644)
        self.call("verify", file)


class Point3(Case):
    """Ids, devices, links, modes and secrets."""

    HOSTILE_IDS = ("../../../person", "../../person", "PERSON", "..", ".", "", "0123456789abcde", "0123456789abcdeg", "0123456789ABCDEF",
                   "0123456789abcdef0", "a/b", "\x1b[2J", "..//..//..//person")

    def test_retry_of_ids_that_are_paths(self) -> None:
        """`retry` renamed a file outside the sweep: DIR/../../../person/trial.h5."""
        (self.person / "trial.h5").write_bytes(b"mine")
        (self.person / "attempt-1").mkdir()
        self.guard(self.person)

        def attack(name: str, number: int, where: str) -> None:
            name = name.replace("PERSON", str(self.person))
            sweep = self.copy("smoke", f"{number}{where}/b/sweep")
            plan = json.loads((sweep / "plan.json").read_text())
            known = plan["trials"][0]["id"]
            if where == "plan":
                plan["trials"][0]["id"] = name
                (sweep / "plan.json").write_text(json.dumps(plan))
            event = {"event": "ended", "time": "2030-01-01T00:00:00.000Z", "trial": name, "attempt": 1, "state": "failed", "reason": "x", "final": True}
            (sweep / "journal" / "zz.jsonl").write_text(json.dumps(event) + "\n")
            code = 5 if where == "plan" else 0
            for command in [["retry", sweep], ["status", sweep], ["aggregate", sweep], ["run", "smoke", *SMALL, "--out", sweep]]:
                self.call(*command, code=code if command[0] != "run" else None)
            self.assertTrue(list(sweep.glob(f"trials/*/{known}/trial.h5")))
            self.check_guarded()

        self.each(attack, [(name, number, where) for number, name in enumerate(self.HOSTILE_IDS) for where in ("plan", "journal")
                           if where == "plan" or number in (0, 4, 9, 11)])

    def test_outputs_onto_what_is_no_file(self) -> None:
        """`--output /dev/full` replaced the device by a file; a link was replaced, and a FIFO waited for."""
        sweep = self.copy("smoke")
        with LOCK, h5py.File(self.folder / "logits.h5", "w", libver=forge.LIBVER) as file:
            file["logits"] = np.random.default_rng(1).normal(size=(16, 8))
        places = self.nodes()
        self.guard(self.folder / "nodes")
        commands: list[tuple[str, list[Any], list[Any]]] = []
        for name, place in places.items():
            commands += [(f"aggregate {name}", ["aggregate", sweep, "--out", place], [PROGRAM]),
                         (f"route {name}", ["route", "--router", "top_k", "--input", "logits.h5", "--output", place], [PROGRAM])]
            if name != "zero":
                commands.append((f"html {name}", ["html", sweep / "sweep.h5", "--out", place], REPORT))
            if name not in ("folder", "zero"):
                commands += [(f"export {name}", ["export", sweep / "sweep.h5", "--out", place], REPORT)] if name != "link" else []
                commands += [(f"run {name}", ["run", "smoke", *SMALL, "--out", place], [PROGRAM])] if name not in ("link", "dangling") else []
        self.each(lambda _, command, tool: self.call(*command, command=tool, code=4) and self.check_guarded(), commands)

    def test_parts_that_are_links(self) -> None:
        """A `.part` beside the report that is a link to a person's file had that file overwritten."""
        sweep = self.copy("smoke")
        (sweep / "tables").mkdir()
        for name in ["report.html.part", ".report.html.part", "sweep.h5.part", "sweep.h5.tmp", "trial.h5.tmp",
                     *(f"tables/{table}.{ending}" for table in ("trials", "steps", "evaluations", "routing") for ending in ("csv.part", "parquet.part"))]:
            (sweep / name).symlink_to(self.person / "thesis.tex")
        self.report("html", sweep / "sweep.h5")
        self.report("export", sweep / "sweep.h5")
        self.call("aggregate", sweep)
        self.assertFalse((sweep / "report.html").is_symlink())
        self.check_guarded()

    def test_files_of_a_sweep_that_are_links(self) -> None:
        """Journal, log and plan of a sweep folder were written through links that lie in it."""
        sweep = self.unfinished("smoke")
        trial = self.trials(sweep)[0]
        targets = self.folder / "targets"
        targets.mkdir()
        for name in ("log.txt", "trial.h5", "checkpoint.h5", "config.yaml"):
            (targets / name).write_text("of somebody\n")
            (trial / name).unlink(missing_ok=True)
            (trial / name).symlink_to(targets / name)
        (sweep / "sweep.h5").unlink()
        (targets / "sweep.h5").write_text("of somebody\n")
        (sweep / "sweep.h5").symlink_to(targets / "sweep.h5")
        self.guard(targets)
        self.call("run", "smoke", *SMALL, "--out", sweep, code=4)
        self.call("aggregate", sweep, code=4)
        self.check_guarded()
        for other in self.trials(sweep):
            if other != trial:
                self.call("verify", other / "trial.h5")

    def slurm(self) -> None:
        tools, state = self.folder / "bin", self.folder / "slurm"
        tools.mkdir()
        state.mkdir()
        for name in ("sbatch", "squeue", "scontrol", "scancel"):
            (tools / name).symlink_to(SUPPORT / "fake_slurm.py")
        self.environment |= {"PATH": f"{tools}:{self.environment['PATH']}", "FAKE_SLURM": str(state)}

    def test_scripts_keep_the_umask_and_hold_no_secret(self) -> None:
        """Job scripts were readable by everybody whatever the umask, and a token could reach a job only by standing in them."""
        self.slurm()
        secret = "s3cret-of-the-site"
        (self.folder / "site.yaml").write_text("inherit: [SITE_TOKEN]\nreport: none\n")
        submit = ["submit", "smoke", *SMALL, "--out", "sweep", "--shards", "2", "--profile", "site.yaml"]
        self.call(command=["/bin/sh", "-c", 'umask 077; exec "$@"', "sh", PROGRAM, *submit], SITE_TOKEN=secret)
        files = [path for path in (self.folder / "sweep").rglob("*") if path.is_file()]
        self.assertTrue([path for path in files if path.suffix == ".sbatch" or "slurm" in path.parts])
        for path in files:
            self.assertNotIn(secret.encode(), path.read_bytes(), path)
            self.assertEqual(stat.S_IMODE(path.stat().st_mode) & 0o077, 0, path)
        jobs = json.loads((self.folder / "slurm" / "state.json").read_text())["jobs"]
        self.assertEqual({job["environment"].get("SITE_TOKEN") for job in jobs}, {secret})
        self.assertNotIn(secret, "".join(job["script"] for job in jobs) + (self.folder / "slurm" / "calls.jsonl").read_text())


SWEEP_AT, TRIAL_AT = "metrics/loss", "steps/loss"


class Point4(Case):
    """HDF5 files whose digests are right and whose storage, links, sizes or types are none that moesweep writes."""

    def kinds(self, path: str, kinds: dict[str, forge.Harm] = forge.OF_OURS) -> list[tuple[str, forge.Harm, str]]:
        return [(name, harm, path) for name, harm in kinds.items()]

    def test_sound_files_of_the_attack_are_taken(self) -> None:
        """The control: a file that the attack writes anew with its own digests is sound, so what is refused below is what was changed."""
        sweep, rich = made("smoke"), made("rich")
        trial = self.trials(rich)[0]
        for file in [sweep / "sweep.h5", trial / "trial.h5", trial / "checkpoint.h5", trial / "trace.h5"]:
            same = self.hostile(file, "same", lambda opened, path, _: forge.replace(opened, path, opened[path][...]) and None,
                                {"sweep.h5": "metrics/loss", "trial.h5": "steps/loss", "checkpoint.h5": "record/steps/loss", "trace.h5": "trace/loss"}[file.name])
            self.call("verify", same)
            if file.name == "sweep.h5":
                self.call("results", same)
                self.report("html", same)

    def test_results(self) -> None:
        """SIGSEGV, hangs, gigabytes, numbers of other files with code 0."""
        self.each(lambda name, harm, path: self.call("results", self.hostile(made("smoke") / "sweep.h5", name, harm, path), code=5),
                  self.kinds(SWEEP_AT))

    def test_verify_of_an_aggregate(self) -> None:
        """An out-of-bounds write by the shape of an array; `sound` for links, virtual arrays and chunks that were never stored."""
        self.each(lambda name, harm, path: self.call("verify", self.hostile(made("smoke") / "sweep.h5", name, harm, path), code=5),
                  self.kinds("arrays/steps/loss/data"))

    def test_verify_of_a_trial(self) -> None:
        """A petabyte of zeros was digested for hours; `sound` for most of the others."""
        file = self.trials(made("smoke"))[0] / "trial.h5"
        self.each(lambda name, harm, path: self.call("verify", self.hostile(file, name, harm, path), code=5), self.kinds(TRIAL_AT))

    def test_route(self) -> None:
        """Another file's numbers were routed, 64 GB were asked for, a cycle of groups had no end."""
        with LOCK, h5py.File(self.folder / "logits.h5", "w", libver=forge.LIBVER) as file:
            file["more/logits"] = np.random.default_rng(1).normal(size=(16, 8))
            file["logits"] = np.random.default_rng(1).normal(size=(16, 8))

        def attack(name: str, harm: forge.Harm, path: str, code: int) -> None:
            folder = self.folder / f"route-{hashlib.sha256((name + path).encode()).hexdigest()[:12]}"
            folder.mkdir()
            shutil.copy(self.folder / "logits.h5", folder / "in.h5")
            with LOCK, h5py.File(folder / "in.h5", "r+", libver=forge.LIBVER) as file:
                harm(file, path, self.secret)
            self.call("route", "--router", "top_k", "--input", folder / "in.h5", "--output", folder / "out.h5", code=code)
            self.assertEqual((folder / "out.h5").exists(), code == 0, name)

        kinds = {name: harm for name, harm in forge.FOR_ALL.items() if name != "virtual"}
        self.each(attack, [(name, harm, "logits", 5) for name, harm in kinds.items()])
        self.each(attack, [(name, forge.FOR_OURS[name], "logits", 0) for name in ("contiguous", "compact", "no checksum", "shuffled")])

    def test_aggregate_of_hostile_trials(self) -> None:
        """`aggregate` died of one trial's file, or took its numbers. Now it names the file, and the earlier sweep.h5 stays."""

        def attack(name: str, harm: forge.Harm, path: str) -> None:
            sweep = self.copy("smoke", f"{name.replace(' ', '-')}/b/sweep")
            before = (sweep / "sweep.h5").read_bytes()
            file = self.trials(sweep)[1] / "trial.h5"
            self.harm(file, harm, path)
            self.call("aggregate", sweep, code=5, says=(str(file),))
            self.assertEqual((sweep / "sweep.h5").read_bytes(), before)

        self.each(attack, self.kinds(TRIAL_AT))

    def test_aggregate_beside_a_hostile_earlier_one(self) -> None:
        """An earlier sweep.h5 was believed when its digest was right: SIGSEGV, or its numbers in the new one."""
        sound = self.metrics(made("smoke") / "sweep.h5")
        few = [name for name in forge.FOR_ALL if "small" not in name] + ["contiguous", "compound"]

        def attack(name: str) -> None:
            sweep = self.copy("smoke", f"{few.index(name)}/b/sweep")
            self.harm(sweep / "sweep.h5", forge.OF_OURS[name], "arrays/steps/loss/data")
            self.call("aggregate", sweep)
            self.assertEqual(self.metrics(sweep / "sweep.h5"), sound)

        self.each(attack, [(name,) for name in few])

    def test_run_over_hostile_trials_and_checkpoints(self) -> None:
        """`run` died of a trial.h5 or a checkpoint.h5, or believed it; TERM was ignored while it hung. Each such trial is trained, the others stay."""
        names = list(forge.OF_OURS)

        def attack(first: int) -> None:
            sweep = self.copy("smoke", f"{first}/b/sweep")
            trials = self.trials(sweep)
            kept = (trials[3] / "trial.h5").stat().st_mtime_ns
            for trial, name in zip(trials[:3], names[first : first + 3], strict=False):
                self.harm(trial / "trial.h5", forge.OF_OURS[name], TRIAL_AT)
            for journal in sweep.glob("journal/*.jsonl"):
                journal.unlink()
            self.call("run", "smoke", *SMALL, "--out", sweep)
            self.check_done(sweep, 4)
            self.assertEqual((trials[3] / "trial.h5").stat().st_mtime_ns, kept)
            for trial in trials:
                self.call("verify", trial / "trial.h5")

        self.each(attack, [(first,) for first in range(0, len(names), 3)])

    def test_hostile_checkpoints(self) -> None:
        """A checkpoint of a trial with virtual, linked or huge arrays was read, or ended the launch. It is set aside, and the trial trained anew."""
        few = ["a product that overflows", "declared, huge and empty", "declared and empty", "external", "virtual", "a soft link", "an external link",
               "a group inside itself", "contiguous", "compound"]

        def attack(name: str) -> None:
            sweep = self.unfinished("rich", f"{few.index(name)}/b/sweep")
            trial = self.trials(sweep)[0]
            self.harm(trial / "checkpoint.h5", forge.OF_OURS[name], "record/steps/loss")
            self.call("run", sweep / "sweep.yaml", "--out", sweep)
            self.check_done(sweep, 1)
            self.call("verify", trial / "trial.h5")
            self.call("verify", trial / "checkpoint.h5")

        self.each(attack, [(name,) for name in few])

    def test_reports(self) -> None:
        """The report showed another file's text; 5 GB and 30 s for a file of 190 KB; tracebacks."""
        few = ["a product that overflows", "declared, huge and empty", "declared, 5 GB and empty", "a chunk of 2 GiB of which little is stored", "external",
               "virtual", "a soft link", "an external link", "a group inside itself", "contiguous", "compound", "texts of any length"]

        def attack(name: str, number: int) -> None:
            file = self.hostile(made("smoke") / "sweep.h5", name, forge.OF_OURS[name], SWEEP_AT if name != "external" else "header/name")
            self.report(*(["html"] if number % 3 else ["export"]), file, code=5)
            for path in file.parent.rglob("*"):
                self.assertTrue(path == file or path.is_dir() or forge.MARK.encode() not in path.read_bytes(), path)

        self.each(attack, [(name, number) for number, name in enumerate(few)])


def overwrite(path: str, change: Callable[[Any], Any]) -> forge.Harm:
    """Other values of the same dataset."""

    def harm(file: h5py.File, _: str, __: pathlib.Path) -> None:
        values = file[path][...].copy()
        changed = change(values)
        forge.put(file, path, values if changed is None else changed, (values if changed is None else np.asarray(changed)).dtype.str)

    return harm


def at(index: Any, value: Any) -> Callable[[Any], None]:
    def change(values: Any) -> None:
        values[index] = value

    return change


def json_of(kind: str, value: bytes) -> forge.Harm:
    return lambda file, _, __: forge.put_json(file, kind, 0, value)


def twice(file: h5py.File, _: str, __: pathlib.Path) -> None:
    """Two arrays that give the metric of one name."""
    for part in ("data", "offsets", "shapes"):
        source = file[f"arrays/evaluations/loss/{part}"]
        forge.put(file, f"arrays/other/loss/{part}", source[...], source.dtype.str)
    file["arrays/other/loss/data"].attrs.create("metric", np.int64(1))


OFFSETS, SHAPES = "arrays/steps/loss/offsets", "arrays/steps/loss/shapes"
MEANINGS: dict[str, forge.Harm] = {
    "offsets beyond the end": overwrite(OFFSETS, at(-1, 1 << 60)),
    "offsets that go back": overwrite(OFFSETS, at(1, -(1 << 62))),
    "offsets in the wrong order": overwrite(OFFSETS, at(1, 1 << 40)),
    "a shape beyond its data": overwrite(SHAPES, at((0, 0), 1 << 50)),
    "a negative shape": overwrite(SHAPES, at((0, 0), -1)),
    "states that are numbers": overwrite("trials/state", lambda v: np.arange(float(len(v)))),
    "states as bytes": overwrite("trials/state", lambda v: np.arange(len(v), dtype="u1")),
    "a state that is none": overwrite("trials/state", at(0, b"ok")),
    "ids twice": overwrite("trials/id", lambda v: np.full_like(v, v[0])),
    "too few ids": overwrite("trials/id", lambda v: v[:-1]),
    "text offsets beyond the end": overwrite("texts/config/offsets", at(-1, 1 << 60)),
    "a provenance too deep": json_of("provenance", b"[" * 100_000 + b"]" * 100_000),
    "a provenance that is not Unicode": json_of("provenance", b'{"a": "\xff\xfe"}'),
    "a config of half a surrogate": json_of("config", b'{"a": "\\ud800"}'),
    "two metrics of one last name": twice,
    "whole that is no number": overwrite("trials/whole", lambda v: np.full(len(v), b"yes")),
}


class Point5(Case):
    """Files whose storage is as it should be, whose digests are right, and which lie."""

    def test_meanings_of_an_aggregate(self) -> None:
        """Offsets and shapes out of range: SIGSEGV; states of a wrong type: `verify` said sound, `results` showed them."""

        def attack(name: str) -> None:
            file = self.hostile(made("smoke") / "sweep.h5", name, MEANINGS[name], "")
            self.call("verify", file, code=5)
            self.call("results", file, code=(0, 5))  # of arrays it shows nothing

        self.each(attack, [(name,) for name in MEANINGS])

    def test_earlier_aggregates(self) -> None:
        """SIGSEGV by offsets; states of a wrong type: all states lost with code 0."""
        sound = self.metrics(made("smoke") / "sweep.h5")

        def attack(name: str, number: int) -> None:
            sweep = self.copy("smoke", f"{number}/b/sweep")
            self.harm(sweep / "sweep.h5", MEANINGS[name], "")
            self.call("aggregate", sweep)
            self.assertEqual(self.metrics(sweep / "sweep.h5"), sound)

        self.each(attack, [(name, number) for number, name in enumerate(MEANINGS)])

    def test_reports_of_such_aggregates(self) -> None:
        """Tracebacks, and a report of wrong states."""
        few = ["offsets beyond the end", "a negative shape", "states that are numbers", "a state that is none", "a provenance too deep",
               "a provenance that is not Unicode", "two metrics of one last name"]
        self.each(lambda name: self.report("html", self.hostile(made("smoke") / "sweep.h5", name, MEANINGS[name], ""), code=5), [(name,) for name in few])

    def test_trials_that_lie(self) -> None:
        """A provenance of 100,000 brackets or of no Unicode, two metrics of one last name: `aggregate` died, or mixed them up."""

        def two_metrics(file: h5py.File, _: str, __: pathlib.Path) -> None:
            forge.put(file, "other/loss", file["evaluations/loss"][...], "f8", metric=np.int64(1))

        def bytes_at(path: str, value: bytes) -> forge.Harm:
            return lambda file, _, __: forge.put(file, path, np.frombuffer(value, dtype="u1"), "u1")

        harms = [bytes_at("header/provenance", b"[" * 100_000 + b"]" * 100_000), bytes_at("header/provenance", b'{"a": "\xff\xfe"}'),
                 bytes_at("header/config", b'{"a": "\\ud800"}'), two_metrics, bytes_at("header/config", b"[" * 100_000), bytes_at("header/provenance", b"7")]
        for number, harm in enumerate(harms):
            sweep = self.copy("smoke", f"{number}/b/sweep")
            before = (sweep / "sweep.h5").read_bytes()
            file = self.trials(sweep)[2] / "trial.h5"
            self.harm(file, harm, "")
            self.call("aggregate", sweep, code=5, says=(str(file),))
            self.assertEqual((sweep / "sweep.h5").read_bytes(), before)

    def test_checkpoint_headers(self) -> None:
        """`step: 10^17` was `done` at once; a header that is no JSON made the trial `failed` for ever."""

        def header(change: Callable[[dict[str, Any]], Any]) -> forge.Harm:
            def harm(file: h5py.File, _: str, __: pathlib.Path) -> None:
                fields = json.loads(bytes(file["header/checkpoint"][...]))
                changed = change(fields)
                text = changed if isinstance(changed, bytes) else json.dumps(fields).encode()
                forge.put(file, "header/checkpoint", np.frombuffer(text, dtype="u1"), "u1")

            return harm

        cases = {"step 10^17": header(lambda f: f.update(step=10**17)), "step 10^30": header(lambda f: f.update(step=10**30)),
                 "a negative step": header(lambda f: f.update(step=-1)), "a step that is a text": header(lambda f: f.update(step="4")),
                 "no JSON": header(lambda f: b"step: 4"), "JSON without an end": header(lambda f: b"[" * 100_000),
                 "another trial": header(lambda f: f.update(trial="../../../person")), "no step": header(lambda f: f.pop("step")),
                 "a router of NaN": overwrite("state/layers.0.bias", lambda v: v * np.nan),
                 "a state of a wrong type": overwrite("state/layers.0.bias", lambda v: v.astype("i4")),
                 "negative slots": overwrite("record/assignments/slots", at(3, -1)),
                 "experts that are NaN": overwrite("record/assignments/expert", lambda v: np.full(len(v), np.nan))}

        def attack(name: str) -> None:
            sweep = self.unfinished("rich", f"{list(cases).index(name)}/b/sweep")
            trial = self.trials(sweep)[0]
            self.harm(trial / "checkpoint.h5", cases[name], "")
            self.call("run", sweep / "sweep.yaml", "--out", sweep)
            self.check_done(sweep, 1)
            with LOCK, h5py.File(trial / "trial.h5") as file:
                self.assertEqual(list(file["steps/step"]), [1, 2, 3, 4], name)
                self.assertTrue(np.isfinite(file["steps/loss"][...]).all(), name)
            self.assertTrue(list(trial.glob("checkpoint.h5.damaged*")), name)

        self.each(attack, [(name,) for name in cases])

    def test_recordings(self) -> None:
        """Negative slots: SIGSEGV; experts that are NaN passed. The arm that replays them fails, the others are done."""
        source = self.trials(made("rich"))[0] / "trial.h5"
        harms = {"negative slots": overwrite("assignments/slots", at(3, -1)), "endless slots": overwrite("assignments/slots", at(3, 2**31 - 1)),
                 "experts that are NaN": overwrite("assignments/expert", lambda v: np.full(len(v), np.nan)),
                 "an expert that is none": overwrite("assignments/expert", at(3, 10**6)), "a negative layer": overwrite("assignments/key", at((0, 1), -5)),
                 "keys that are too few": overwrite("assignments/key", lambda v: v[:, :3])}
        text = RICH + "  - {routing.balance.method: none}\n"
        for name, harm in harms.items():
            text += f"  - {{routing.select: replay, routing.replay_from: {json.dumps(str(self.hostile(source, name, harm, '')))}}}\n"
        text += f"  - {{routing.select: replay, routing.replay_from: {json.dumps(str(source))}}}\n"
        (self.folder / "replay.yaml").write_text(text)
        self.call("run", "replay.yaml", "--out", "sweep", code=1)
        states = self.states(self.folder / "sweep", code=1)
        self.assertEqual(sorted(trial["state"] for trial in states.values()), ["done"] * 2 + ["failed"] * len(harms))
        for trial in states.values():
            if trial["state"] == "failed":
                self.assertIn("trial.h5", trial["reason"])

    def test_manifests(self) -> None:
        """`text_bytes: -7` gave negative bits per byte with code 0."""
        config = text_sources(self.folder / "texts")
        self.data_tool("build", config, "--quiet")
        sound = json.loads((self.folder / "data" / "made" / "manifest.json").read_text())
        changes: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
            ("text_bytes", lambda m: m["splits"][0].update(text_bytes=-7)), ("tokens", lambda m: m["splits"][0].update(tokens=10**30)),
            ("offset_bytes", lambda m: m["splits"][0].update(offset_bytes=-1)), ("first", lambda m: m["splits"][1].update(first="0")),
            ("file", lambda m: m["splits"][1].update(file="../../person/thesis.tex")), ("sha256", lambda m: m["splits"][1].update(sha256=7)),
            ("splits", lambda m: m.update(splits={"a": 1})), ("vocabulary", lambda m: m.update(vocabulary=-1))]
        texts = [(word, json.dumps(changed)) for word, change in changes for changed in [json.loads(json.dumps(sound))] if change(changed) or True]
        texts += [("manifest.json", "[" * 100_000), ("manifest.json", '{"format": "\ud800"}'.encode("utf-8", "surrogatepass").decode("latin-1"))]
        (self.folder / "store.yaml").write_text(
            "sweep: store\nbase: models/testbed-tiny.yaml\ndata: {kind: store, store: made, tokenizer: bytes, vocabulary: 256, validation_share: 0.3, "
            "sequence_length: 16, domains: [en, de], sources: [en, de]}\nmodel: {width: 16, heads: 2, expert_width: 8}\n"
            "train: {steps: 1, batch_sequences: 4, micro_batch_sequences: 2, warmup_steps: 1}\nevaluation: {tokens: 64}\n")

        def attack(word: str, text: str) -> None:
            number = [each for _, each in texts].index(text)
            data = self.folder / f"data{number}"
            shutil.copytree(self.folder / "data", data)
            (data / "made" / "manifest.json").write_text(text)
            self.call("run", "store.yaml", "--out", f"sweep{number}", code=(5, 7), says=("manifest.json",) if word == "manifest.json" else (word,),
                      MOESWEEP_DATA=str(data))
            self.data_tool("verify", config, "--quiet", code=(5, 7), MOESWEEP_DATA=str(data))

        self.each(attack, texts)

    def test_token_ids(self) -> None:
        """Token ids far beyond the vocabulary went into the hash of `route`, and into a store."""
        with LOCK, h5py.File(self.folder / "in.h5", "w", libver=forge.LIBVER) as file:
            file["logits"] = np.random.default_rng(1).normal(size=(16, 8))
            file["token"] = np.array([0, 1 << 62, -5, *range(13)], dtype="i8")
        self.call("route", "--router", "hash_random", "--input", "in.h5", "--output", "out.h5", code=(5, 7), says=("token",))
        (self.folder / "texts").mkdir()
        for name, values in [("above", np.array([1, 2, 300] * 100, dtype="i4")), ("below", np.array([1, -2, 3] * 100, dtype="i4"))]:
            np.save(self.folder / "texts" / f"{name}.npy", values)
            config = write_config(self.folder / "texts", domains=("en",), sources=(f"npy:{self.folder}/texts/{name}.npy",), name=f"{name}.yaml")
            self.data_tool("build", config, "--quiet", code=(5, 7), says=(name,))


class Point6(Case):
    """Token files that change after the build."""

    def setUp(self) -> None:
        super().setUp()
        self.config = text_sources(self.folder / "texts", 200)
        self.data_tool("build", self.config, "--quiet")
        self.store = self.folder / "data" / "made"
        (self.folder / "store.yaml").write_text(
            "sweep: store\nbase: models/testbed-tiny.yaml\ndata: {kind: store, store: made, tokenizer: bytes, vocabulary: 256, validation_share: 0.3, "
            "sequence_length: 16, domains: [en, de], sources: [en, de]}\nmodel: {width: 16, heads: 2, expert_width: 8}\n"
            "train: {steps: 1, batch_sequences: 4, micro_batch_sequences: 2, warmup_steps: 1}\nevaluation: {tokens: 64}\n")

    def test_one_token_changed(self) -> None:
        """Trained silently under the old digest, also when size and time of the file are what they were."""
        self.call("run", "store.yaml", "--out", "before")
        file = min(self.store.glob("*.train.u16"))
        about = file.stat()
        content = bytearray(file.read_bytes())
        content[100] ^= 1
        file.write_bytes(content)
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
        self.call("run", "store.yaml", "--out", "after", code=5, says=(file.name,))
        self.call("run", "store.yaml", "--out", "again", "--verify-data", code=5, says=(file.name,))
        self.data_tool("verify", self.config, code=5, says=(file.name,))

    def test_cut_short_while_it_is_used(self) -> None:
        """SIGBUS: token files were mapped into memory."""
        command = ["run", "store.yaml", "--out", "sweep", "train.steps=200000", "train.warmup_steps=1", "evaluation.every_steps=100000"]
        with subprocess.Popen(limited([PROGRAM, *command]), cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, start_new_session=True) as process:
            try:
                end = time.monotonic() + SECONDS
                while not list(self.folder.glob("sweep/trials/*/*/attempt-1")) and time.monotonic() < end and process.poll() is None:
                    time.sleep(0.05)
                time.sleep(1)
                for file in self.store.glob("*.train.u16"):
                    os.truncate(file, 0)
                out, err = process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                self.fail("it went on without its data")
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        self.judged("a token file cut short", process.returncode, out, err, 4, (".train.u16",))


class Point7(Case):
    """Journals of others, and text that is none."""

    def hostile_lines(self, trial: str) -> list[str]:
        ended = {"event": "ended", "trial": trial, "attempt": 1, "state": "done"}
        lines = [json.dumps(ended | change) for change in [
            {"trial": 5}, {"trial": None}, {"trial": ["a"]}, {"trial": "../../../person"}, {"attempt": "1"}, {"attempt": 1.5}, {"attempt": -1}, {"attempt": 2**31},
            {"attempt": 10**18, "state": "preempted"}, {"attempt": 10**30}, {"state": 7}, {"state": {"a": 1}}, {"reason": 8}, {"seconds": "long"},
            {"seconds": -1}, {"step": [], "event": "progress"}, {"step": 10**40, "event": "progress"}, {"loss": "nan", "event": "progress"}, {"final": "yes"},
            {"charged": 3}, {"owner": 7, "event": "started"}, {"owner": {"process": "x"}, "event": "started"}, {"launch": {}}, {"event": 9}, {"event": None},
            {"ranks": 2**40, "event": "started"}, {"first_rank": -5, "event": "started"}, {"warnings": 7}, {"file": "x"}]]
        return [*lines, "7", "[]", "null", '"x"', "{", "[" * 100_000, '{"event": "\\ud800"}', "\x00\x01", '{"event": "ended", "trial": "' + "x" * 100_000 + '"}']

    def check_all(self, sweep: pathlib.Path, says: tuple[str, ...]) -> None:
        trials = [json.loads(line) for line in [json.dumps(trial) for trial in json.loads((sweep / "plan.json").read_text())["trials"]]]
        self.call("status", sweep)
        self.call("status", sweep, "--json", says=says)
        self.check_done(sweep, len(trials))
        self.call("run", "smoke", *SMALL, "--out", sweep)
        self.call("retry", sweep)
        self.call("aggregate", sweep)
        rows = json.loads(self.call("results", sweep / "sweep.h5", "--json")[0])
        self.assertEqual([row["state"] for row in rows], ["done"] * len(trials))

    def test_fields_of_a_wrong_type(self) -> None:
        """One field of a wrong type made the whole folder unusable, as `a defect of moesweep`."""
        sweep = self.copy("smoke")
        lines = self.hostile_lines(self.trials(sweep)[0].name)
        (sweep / "journal" / "zz.jsonl").write_text("\n".join(lines) + "\n")
        self.check_all(sweep, ("zz.jsonl:1", f"zz.jsonl:{len(lines)}"))

    def test_bytes_that_are_no_text(self) -> None:
        """Control characters of a journal reached the terminal; zero bytes and half a character ended `status`."""
        sweep = self.copy("smoke")
        hostile = json.dumps({"event": ESCAPE, "trial": ESCAPE, "reason": ESCAPE}, ensure_ascii=False).encode()
        (sweep / "journal" / "zz.jsonl").write_bytes(hostile + b"\n\xff\xfe\n" + bytes(100) + b"\n" + b'{"event": "ended", "trial": "\xc3"}\n' + os.urandom(500) + b"\n")
        self.check_all(sweep, ("zz.jsonl:",))

    def test_absurd_attempts(self) -> None:
        """Attempt 2^31 overflowed and 10^18 made a done trial `preempted`, in the journal and as a folder."""
        sweep = self.copy("smoke")
        trial = self.trials(sweep)[0]
        lines = [json.dumps({"event": "ended", "trial": trial.name, "attempt": number, "state": "preempted", "reason": "", "final": False})
                 for number in (2**31, 2**31 - 1, 2**32 + 1, 10**18, 2**63 - 1, -1, 2**64)]
        (sweep / "journal" / "zz.jsonl").write_text("\n".join(lines) + "\n")
        for number in ("2147483648", "1000000000000000000", "-1", "99999999999999999999999", "x"):
            (trial / f"attempt-{number}").mkdir()
        self.check_all(sweep, ("zz.jsonl:1",))

    def test_pipes_and_devices(self) -> None:
        """A FIFO in the journal's folder was waited for without end; /dev/zero was read into 2 GB."""
        sweep = self.copy("smoke")
        places = self.nodes()
        os.mkfifo(sweep / "journal" / "pipe.jsonl")
        (sweep / "journal" / "zero.jsonl").symlink_to("/dev/zero")
        (sweep / "journal" / "mine.jsonl").symlink_to(self.person / "secret.txt")
        (sweep / "journal" / "folder.jsonl").mkdir()
        if "zero" in places:
            os.rename(places["zero"], sweep / "journal" / "node.jsonl")
        with open(sweep / "journal" / "endless.jsonl", "wb") as file:
            file.truncate(64 << 30)
        self.check_all(sweep, ("pipe.jsonl", "zero.jsonl"))

    def test_plans(self) -> None:
        """A plan.json of another type was a defect; one that is a FIFO was waited for."""
        plan = json.loads((made("smoke") / "plan.json").read_text())
        first = plan["trials"][0]
        texts: list[Any] = [plan | {"trials": 7}, plan | {"trials": [7]}, plan | {"version": "1"}, plan | {"format": 7}, plan | {"name": []},
                            plan | {"trials": [first, first]}, plan | {"trials": [first | {"cost": 7}]}, plan | {"trials": [first | {"steps": -1}]},
                            plan | {"trials": [first | {"steps": 10**30}]}, plan | {"trials": [first | {"config": 7}]}, plan | {"provenance": 7}, 7, []]

        def attack(number: int, text: str) -> None:
            sweep = self.copy("smoke", f"{number}/b/sweep")
            (sweep / "plan.json").write_text(text)
            for command in [["status"], ["retry"], ["aggregate"]]:
                self.call(*command, sweep, code=(0, 5))
            self.assertEqual(len(list(sweep.glob("trials/*/*/trial.h5"))), 4)

        self.each(attack, enumerate([*map(json.dumps, texts), "[" * 100_000, "", "{", '{"format": "\\ud800"}']))
        sweep = self.copy("smoke", "pipe/b/sweep")
        (sweep / "plan.json").unlink()
        os.mkfifo(sweep / "plan.json")
        for command in [["status", sweep], ["aggregate", sweep], ["retry", sweep], ["run", "smoke", *SMALL, "--out", sweep]]:
            self.call(*command, code=4)

    def test_claims(self) -> None:
        """A claim.json of wrong types, a FIFO or a device in its place ended or held up the launch."""
        sweep = self.unfinished("smoke")
        trials = self.trials(sweep)
        for trial in trials[:3]:
            (trial / "attempt-1").mkdir()
        (trials[0] / "attempt-1" / "claim.json").write_text('{"launch": 7, "process": "x", "host": []}')
        os.mkfifo(trials[1] / "attempt-1" / "claim.json")
        (trials[2] / "attempt-1" / "claim.json").symlink_to("/dev/zero")
        self.call("run", "smoke", *SMALL, "--out", sweep, code=4)
        self.call("verify", trials[3] / "trial.h5")

    def test_hostile_text_for_a_store(self) -> None:
        """Surrogates, deep JSON and gzip bombs: tracebacks, and all memory."""
        texts = self.folder / "texts"
        texts.mkdir()
        member = gzip.compress(b"x\n\n" * 700_000)  # 2 MiB
        files = {"half.jsonl": b'{"text": "fine"}\n{"text": "\\ud800"}\n', "deep.jsonl": b'{"text": "fine"}\n' + b"[" * 200_000 + b"\n",
                 "key.jsonl": b'{"text": "fine"}\n{"text": "x", "key": "\\udfff"}\n', "number.jsonl": b'{"text": "x", "n": ' + b"9" * 100_000 + b"}\n",
                 "bomb.jsonl.gz": gzip.compress(b'{"text": "' + b"x" * (1 << 20), 1) + gzip.compress(b"x" * (1 << 22), 1) * 512,
                 "bomb.txt.gz": member * 700, "bytes.jsonl": b'{"text": "\xff\xfe"}\n', "torn.jsonl.gz": gzip.compress(b'{"text": "x"}\n' * 99)[:-9]}
        lines = {"half.jsonl": "half.jsonl:2", "deep.jsonl": "deep.jsonl:2", "key.jsonl": "key.jsonl:2", "number.jsonl": "number.jsonl:1"}

        def attack(name: str) -> None:
            (texts / name).write_bytes(files[name])
            config = write_config(texts, domains=("en",), sources=(name,), name=f"{name}.yaml", store=f"store-{name}")
            self.data_tool("build", config, "--quiet", code=(5, 7), says=(lines.get(name, name),), memory=1 << 20)

        self.each(attack, [(name,) for name in files])

    def test_sources_that_are_no_files(self) -> None:
        """A FIFO among the sources was waited for, a device read without end."""
        texts = self.folder / "texts"
        texts.mkdir()
        os.mkfifo(texts / "pipe.txt")
        (texts / "zero.txt").symlink_to("/dev/zero")
        with open(texts / "endless.txt", "wb") as file:
            file.truncate(200 << 30)

        def attack(name: str) -> None:
            config = write_config(texts, domains=("en",), sources=(name,), name=f"{name}.yaml", store=f"store-{name}")
            self.data_tool("build", config, "--quiet", code=(4, 7), says=(name,), memory=1 << 20)

        self.each(attack, [("pipe.txt",), ("zero.txt",), ("endless.txt",)])

    def test_hostile_configs(self) -> None:
        """Deep or endless YAML, aliases that double, half a surrogate: tracebacks and all memory, of both programs."""
        aliases = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
        cases: dict[str, bytes] = {"deep": b"domains: " + b"[" * 100_000, "deeper": b"a: " * 20_000 + b"\n" + b"- " * 50_000, "aliases": aliases.encode(),
                                   "surrogate": b'store: "\\ud800"\nkind: store\n', "bytes": b"store: \xff\xfe\n", "zeros": bytes(1000),
                                   "escape": b'store: "\\UFFFFFFFF"\n', "long": b"store: " + b"x" * (8 << 20) + b"\n", "empty": b"",
                                   "controls": f"{json.dumps(ESCAPE)}: 1\n".encode(), "mapping": b"{" * 50_000}

        def attack(name: str) -> None:
            (self.folder / f"{name}.yaml").write_bytes(cases[name])
            self.data_tool("build", f"{name}.yaml", "--quiet", code=3, memory=1 << 20)
            self.call("plan", f"{name}.yaml", code=3)

        self.each(attack, [(name,) for name in cases])
        os.mkfifo(self.folder / "pipe.yaml")
        for place in ["pipe.yaml", "/dev/zero"]:
            self.data_tool("build", place, "--quiet", code=3, memory=1 << 20)
            self.call("plan", place, code=3)


class Point8(Case):
    """One bad arm pays alone."""

    def test_bad_arms_beside_healthy_ones(self) -> None:
        """Code 4 each time: the launch ended at the first bad arm, the healthy trials never finished, `status` said that the process is gone."""
        rich = made("rich")
        trial = self.trials(rich)[0]
        damaged = self.folder / "damaged.h5"
        damaged.write_bytes((trial / "checkpoint.h5").read_bytes()[:20_000])
        (self.folder / "words.h5").write_text("no HDF5 at all\n")
        os.mkfifo(self.folder / "pipe.h5")
        hostile = self.hostile(trial / "checkpoint.h5", "virtual", forge.virtual, "record/steps/loss")
        files = [self.folder / "missing.h5", damaged, self.folder / "words.h5", self.folder / "pipe.h5", pathlib.Path("/dev/zero"), self.folder, hostile]
        arms = []
        for file in files:
            arms += [f"{{routing.learning: imported, routing.import_from: {json.dumps(str(file))}}}",
                     f"{{routing.select: replay, routing.replay_from: {json.dumps(str(file))}}}", f"{{train.init_from: {json.dumps(str(file))}}}"]
        healthy = ["{routing.balance.method: none}", "{routing.balance.method: expert_bias, routing.score: sigmoid}",
                   f"{{train.init_from: {json.dumps(str(trial / 'checkpoint.h5'))}}}"]
        text = RICH.replace("steps: 4", "steps: 2") + "".join(f"  - {arm}\n" for arm in [*healthy[:1], *arms, *healthy[1:]])
        (self.folder / "arms.yaml").write_text(text)
        out, err = self.call("plan", "arms.yaml")
        for key in ("import_from", "replay_from", "init_from"):
            self.assertIn(key, out + err)
        self.assertIn("missing.h5", out + err)
        self.call("run", "arms.yaml", "--out", "sweep", code=1)
        states = self.states(self.folder / "sweep", code=1)
        self.assertEqual(sorted(each["state"] for each in states.values()), ["done"] * len(healthy) + ["failed"] * len(arms))
        for each in states.values():
            if each["state"] == "failed":
                self.assertRegex(each["reason"], r"import_from|replay_from|init_from")
                self.assertTrue(any(str(file) in each["reason"] for file in files), each["reason"])
        self.call("aggregate", "sweep", code=(0, 1))
        self.call("run", "arms.yaml", "--out", "sweep", code=1)

    def test_no_better_than_uniform(self) -> None:
        """A trial that learned nothing looked like any other: its loss is that of guessing every token alike."""
        self.call("run", "smoke", *SMALL, "train.learning_rate=1e-9", "--out", "sweep", code=0)
        self.call("aggregate", "sweep")
        word = "no_better_than_uniform"
        for command in [["status", "sweep", "--json"], ["results", "sweep/sweep.h5", "--json"], ["status", "sweep"]]:
            self.assertIn(word if "--json" in command else "uniform", self.call(*command)[0])
        rows = json.loads(self.call("results", "sweep/sweep.h5", "--json")[0])
        self.assertTrue(all(word in row["warnings"] for row in rows), rows)
        self.report("html", "sweep/sweep.h5")
        self.assertIn("no better than uniform guessing", (self.folder / "sweep" / "report.html").read_text())
        self.report("export", "sweep/sweep.h5")
        self.assertIn(word, (self.folder / "sweep" / "tables" / "trials.csv").read_text())

    def test_term_while_a_large_model_is_made(self) -> None:
        """TERM waited until all weights of a large model were made; then came a step and a checkpoint of gigabytes."""
        model = ["model.width=512", "model.experts=256", "model.expert_width=768", "model.layers=2", "model.heads=8", "train.batch_sequences=8",
                 "train.micro_batch_sequences=8", "evaluation.tokens=512", "train.steps=2", "train.warmup_steps=1"]
        command = ["train", "models/testbed-tiny.yaml", "data=data/synthetic8.yaml", *model, "--out", "large"]
        with subprocess.Popen(limited([PROGRAM, *command], 16 << 20), cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, start_new_session=True) as process:
            try:
                end = time.monotonic() + SECONDS
                while not (self.folder / "large" / "log.txt").exists() and time.monotonic() < end and process.poll() is None:
                    time.sleep(0.02)
                time.sleep(0.3)
                process.send_signal(signal.SIGTERM)
                out, err = process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                self.fail("TERM was ignored")
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        self.judged("TERM", process.returncode, out, err, 75)
        self.assertEqual([path.name for path in (self.folder / "large").rglob("*.h5")], [], "it was trained before it stopped")


class Point9(Case):
    """Numbers, names and permissions: usage or i/o errors, none a defect."""

    def test_numbers(self) -> None:
        """`--deadline 1e17`, `--ranks 10000000`, `--memory-limit 1K`, `--progress-seconds nan`: defects, or nonsense that was taken."""
        run, plan = ["run", "smoke"], ["plan", "smoke"]
        cases = [[*run, "--deadline", value] for value in ("1e17", "nan", "-1", "inf", "", "1e400")]
        cases += [[*plan, "--ranks", value] for value in ("10000000", "0", "-1", "99999999999999999999", "nan", "1.5")]
        cases += [[*run, "--memory-limit", value] for value in ("1K", "0", "nan", "1e300T", "-5G")]
        cases += [[*run, "--progress-seconds", value] for value in ("nan", "-1", "inf", "1e10")]
        cases += [[*run, "--trial-timeout", "1e17"], [*run, "--stall-timeout", "nan"], [*run, "--shard", "0/100000000000"], [*run, "--shard", "nan/2"],
                  [*run, "--max-failures", "99999999999999999999"], [*run, "--retries", "crashed=99999999999999999999"],
                  [*run, "--inject", "slow@seconds=1e300"], [*plan, "--shards", "10000000"], [*plan, "--time-limit", "1e17s"], [*plan, "--noise", "nan"],
                  [*plan, "--memory-per-rank", "1e400"], ["submit", "smoke", "--dry-run", "--nodes", "10000000"], ["status", ".", "--interval", "nan"],
                  ["submit", "smoke", "--dry-run", "--patience", "nan"], ["route", "--router", "top_k", "--input", "a", "--output", "b", "--step", "10000000000"],
                  ["bench", "routing", "--tokens", "1000000000000"]]
        self.each(lambda command: self.call(*command, code=2, says=(command[-2],)), [(command,) for command in cases])

    def test_maxima_are_named(self) -> None:
        """`expected integer >= 1 but found 1000000000000`: the bound that was exceeded was not told."""
        for key, value in [("train.steps", "1000000000000"), ("model.experts", "1000000000000"), ("model.width", "99999999999"),
                           ("seed", "99999999999999999999"), ("data.vocabulary", "1000000000")]:
            _, err = self.call("plan", "smoke", f"{key}={value}", code=3)
            self.assertRegex(err, r"<= \d+|at most|\d+ to \d+", err)

    @as_somebody
    def test_folders_without_permission(self) -> None:
        """A trial's or a sweep's folder without permission was `a defect of moesweep`."""
        sweep = self.copy("smoke")
        if self.user is not None:
            for path in [self.folder, *self.folder.rglob("*")]:
                if not path.is_relative_to(self.person):
                    os.chown(path, self.user, self.user, follow_symlinks=False)
        commands = [["status", sweep], ["aggregate", sweep], ["retry", sweep], ["run", "smoke", *SMALL, "--out", sweep], ["verify", sweep / "sweep.h5"],
                    ["results", sweep / "sweep.h5"], ["cancel", sweep]]
        for place in [self.trials(sweep)[0], sweep / "trials", sweep / "journal", sweep]:
            mode = stat.S_IMODE(place.stat().st_mode)
            place.chmod(0)
            for command in commands:
                with self.subTest(place=place.name, command=command[0]):
                    self.call(*command, code=(0, 1, 4))
            place.chmod(mode)

    def test_control_characters(self) -> None:
        """Names of files, keys, domains and trials reached the terminal as they are."""
        words = [ESCAPE, os.fsencode("a\rmoesweep: all is well"), b"\xff\x9b31m\x1b[2J"]
        for word in words:
            for command, code in [([word], 2), (["plan", word], 3), (["plan", "smoke", word], 3), (["results", word], 4), (["verify", word], 4),
                                  (["status", word], 4), (["run", "smoke", "--shard", word], 2), (["submit", "smoke", "--profile", word, "--dry-run"], 3),
                                  (["routers", "--explain", word], 2)]:
                with self.subTest(command=command):
                    self.call(*command, code=code)
            for tool, command in [(DATA_TOOL, ["build", word]), (REPORT, ["html", word]), (REPORT, [word])]:
                with self.subTest(command=command):
                    self.call(*command, command=tool, code=(2, 3, 4))

    def evil(self) -> pathlib.Path:
        """An aggregate of a sweep whose axes have names and values that do harm."""
        values = json.dumps(["\x1b[2Ja", "b\n\x9b31m\u202e"]), json.dumps(["c\x7f", "=cmd|'/C calc'!A0", "../../x"])
        (self.folder / "evil.yaml").write_text(
            "sweep: evil\nbase: models/testbed-tiny.yaml\ndata: data/synthetic8.yaml\ntrain: {steps: 2, warmup_steps: 1, batch_sequences: 12, "
            "micro_batch_sequences: 6}\nmodel: {width: 16, heads: 2, expert_width: 8}\nevaluation: {tokens: 768}\n"
            f"sets:\n  texts:\n    one: {{data.domains: {values[0]}}}\n    two: {{data.domains: {values[1]}}}\ngrid:\n  texts: [one, two]\n")
        self.call("run", "evil.yaml", "--out", "a/b/evil")
        self.call("aggregate", "a/b/evil")
        return self.folder / "a/b/evil"

    def test_names_in_a_sweep(self) -> None:
        """Domains with escapes reached the terminal, and cells of exported tables were formulas."""
        evil = self.evil()
        for command in [["plan", "evil.yaml"], ["status", evil], ["results", evil / "sweep.h5"], ["verify", evil / "sweep.h5"]]:
            self.call(*command)
        self.guard(self.folder / "home", self.folder / "data")
        for form in ("csv", "tensorboard"):
            self.report("export", evil / "sweep.h5", "--format", form)
        self.report("html", evil / "sweep.h5")
        self.assertEqual({path.name for path in (self.folder / "a" / "b").iterdir()}, {"evil"})
        for file in (evil / "tables").glob("*.csv"):
            self.assertNotRegex(file.read_text(), r'(?m)(^|,)"?[=@]')

    def test_export_of_hostile_ids(self) -> None:
        """The run folders of TensorBoard were named by ids: `../../../x` lay outside."""
        outside = self.folder / "outside"
        for name, value in [("paths", b"../../../x"), ("absolute", os.fsencode(outside)), ("escape", b"\x1b[2J")]:
            file = self.hostile(made("smoke") / "sweep.h5", name, overwrite("trials/id", at(0, value)), "")
            self.report("export", file, "--format", "tensorboard", code=(0, 5))
            self.assertEqual([path for path in self.folder.rglob("events.*") if self.folder / "hostile" not in path.parents], [])
            self.assertFalse(outside.exists())


def main() -> int:
    program = unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2, exit=False)
    shutil.rmtree(ROOT, ignore_errors=True)
    return 0 if program.result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
