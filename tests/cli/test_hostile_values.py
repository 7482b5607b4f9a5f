"""What people type and what others wrote, chosen to do harm: numbers out of every range, files that are no files, folders without permission, text
that commands a terminal. Each ends in one clear error with its exit code, or is shown without harm; nothing is a defect of the program."""
import concurrent.futures
import contextlib
import json
import os
import pathlib
import pty
import re
import socket
import stat
import subprocess
import sys
import tempfile
import unittest

PROGRAM = os.environ["MOESWEEP_PROGRAM"]
FAKE_SLURM = pathlib.Path(__file__).resolve().parents[1] / "support" / "fake_slurm.py"
NOBODY = 65534
SECONDS = 100  # of one call, on a loaded machine; what hangs, hangs for ever

# C0 but for line break and tab, DEL, C1, marks that turn the direction of text, line separators.
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202egnp\u2066\x9b31m\x7f"


class Case(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.folder = pathlib.Path(self.scratch.name)
        self.environment = {**os.environ, "MOESWEEP_PROGRESS": "none"}
        self.user: int | None = None

    def tearDown(self):
        self.scratch.cleanup()

    def call(self, *arguments, code=0):
        """Gives standard output and error; checks the exit code, that nothing commands a terminal, and that no error is a defect."""
        words = [PROGRAM, *(word if isinstance(word, bytes) else str(word) for word in arguments)]
        as_user = {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": []}
        done = subprocess.run(words, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=SECONDS,
                              **as_user)
        out, err = self.decoded(done.stdout, words), self.decoded(done.stderr, words)
        about = f"{words}\n{out}\n{err}"
        self.assertNotIn("defect", err, about)
        if code is not None:
            self.assertEqual(done.returncode, code, about)
        self.assertNotIn(done.returncode, (70, 124, 134, 139), about)
        self.assertNotRegex(out + err, HIDDEN, about)
        return out, err

    def decoded(self, text, about):
        try:
            return text.decode()
        except UnicodeDecodeError as error:
            self.fail(f"{about}: what it writes is no UTF-8: {error}")

    def calls(self, expected):
        """Many calls, two at a time: tuples of arguments, exit code and words that the error must hold."""
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            futures = [(arguments, words, pool.submit(self.call, *arguments, code=code)) for arguments, code, words in expected]
            for arguments, words, future in futures:
                with self.subTest(arguments=arguments):
                    out, err = future.result()
                    self.assertEqual(out, "")
                    for word in words:
                        self.assertIn(word, err)
                    self.assertEqual(len(re.findall(r"^moesweep: \w+ error: ", err, re.MULTILINE)), 1, err)


BAD_NUMBERS = ["", " 1", "1 ", "-1", "nan", "inf", "1e400", "0x10", "99999999999999999999"]
BAD_TIMES = ["", " 5", "0", "-1", "nan", "inf", "1e400", "1e17", "1e300d", "99999999999:00:00", "2000000000:30", "1:2:"]


class Numbers(Case):
    """Options that take numbers: usage errors that name the option, what is allowed and what was given."""

    def refused(self, command, option, values, allowed):
        return [([*command, option, value], 2, [option, allowed, f"'{value}'"]) for value in values]

    def test_of_plan(self):
        plan, cases = ["plan", "smoke"], []
        for option, most in [("--ranks", 1000000), ("--shards", 100000), ("--worlds", 100000)]:
            cases += self.refused(plan, option, [*BAD_NUMBERS, "0", str(most + 1), "10000000"], f">= 1 and <= {most}")
        cases += self.refused(plan, "--max-array-size", ["1", "nan", "10000001"], ">= 2 and <= 10000000")
        cases += self.refused(plan, "--simulation-seed", ["-1", "", "nan", "9223372036854775808"], ">= 0 and <= 9223372036854775807")
        for option, most in [("--noise", "3"), ("--crash", "1"), ("--crash-named", "1"), ("--claim-seconds", "3600"),
                             ("--failures-per-rank-hour", "1000000")]:
            cases += self.refused(plan, option, ["", " 1", "nan", "-nan", "inf", "1e400", "-1e-9", "1e7"], f">= 0 and <= {most}")
        for option in ["--time-limit", "--walltime"]:
            cases += self.refused(plan, option, ["", " 5", "0", "-1", "nan", "inf", "1e17s", "99999999999999999999d", "999999999-00:00:00"], "at most 1000000000 s")
        cases += self.refused(plan, "--memory-per-rank", ["", "0", "-1", "nan", "inf", "1e400", "1e18T", "1 GiB"], "at most 1000000000000000000 bytes")
        self.calls(cases)

    def test_of_run_and_train(self):
        cases = []
        for command in [["run", "smoke"], ["train", "models/testbed-tiny.yaml"]]:
            for option in ["--deadline", "--trial-timeout", "--stall-timeout"]:
                times = BAD_TIMES if command[0] == "run" else ["", "nan", "1e17"]
                cases += self.refused(command, option, [word for word in times if (option, word) != ("--stall-timeout", "0")], "at most 1000000000 s")
            cases += self.refused(command, "--memory-limit", ["", "0", "-1", "nan", "1e400", "1e18T"], "at most 1000000000000000000 bytes")
            cases += self.refused(command, "--inject", ["", "kill@step=0", "kill@step=-1", "kill@step=9999999999", "kill@rank=nan", "kill@attempt=",
                                                        "slow@seconds=nan", "slow@seconds=1e300", "slow@seconds=inf", "slow@seconds=-1"], "is no fault")
        run = ["run", "smoke"]
        cases += self.refused(run, "--progress-seconds", ["", " 1", "-1", "nan", "inf", "1e400", "1e10"], ">= 0 and <= 1000000000")
        cases += self.refused(run, "--max-failures", [*BAD_NUMBERS, "1000000001"], ">= 0 and <= 1000000000")
        cases += self.refused(run, "--shard", ["", "0/100000000000", "0/100001", "0/0", "-1/2", "0/-2", "1/1", "0/nan", " 0/2", "0/2 "], "from 1 to 100000")
        cases += self.refused(run, "--retries", ["crashed=-1", "crashed=1000001", "crashed=99999999999999999999", "crashed=nan", "crashed="],
                              "from 0 to 1000000")
        cases += [([*run, "--retries", value], 2, ["--retries", "is no budget"]) for value in ["", "crashed=1,", ",crashed=1"]]
        self.calls(cases)

    def test_of_submit_cancel_and_status(self):
        submit, cases = ["submit", "smoke"], []
        for option, most in [("--shards", 100000), ("--ranks", 1000000), ("--nodes", 1000000), ("--throttle", 100000), ("--signal-seconds", 65535)]:
            cases += self.refused(submit, option, ["", "-1", "0", "nan", "1e3", str(most + 1)], f">= 1 and <= {most}")
        cases += self.refused(submit, "--time", ["", "0", "nan", "99999999999999999999d", "0:99999999999"], "at most 1000000000 s")
        cases += self.refused(submit, "--deadline", ["1e17", "nan"], "at most 1000000000 s")
        cases += [([*submit, "--after", value], 2, ["--after", "is no job id"]) for value in ["", "1 2", "afterok;rm"]]
        for command in [submit, ["cancel", "."]]:
            cases += self.refused(command, "--patience", ["", "-1", "nan", "inf", "1e300"], ">= 0 and <= 10000000")
            cases += self.refused(command, "--call-timeout", ["", "0", "nan", "inf", "1e300"], ">= 0.1 and <= 100000")
        cases += self.refused(["status", "."], "--interval", ["", "0", "-1", "nan", "inf", "1e300"], ">= 0.05 and <= 86400")
        self.calls(cases)

    def test_of_route_and_bench(self):
        route, cases = ["route", "--router", "top_k", "--input", "a.h5", "--output", "b.h5"], []
        cases += self.refused(route, "--step", ["", "-1", "nan", "1000000001"], ">= 0 and <= 1000000000")
        cases += self.refused(route, "--layer", ["", "-1", "nan", "1000001"], ">= 0 and <= 1000000")
        for kind, option, most in [("routing", "--tokens", 16777216), ("routing", "--experts", 65536), ("routing", "--repeats", 1000000),
                                   ("comm", "--steps", 1000000), ("comm", "--repeats", 1000), ("store", "--trials", 1000000), ("store", "--repeats", 1000)]:
            cases += self.refused(["bench", kind], option, ["", "0", "-1", "nan", str(most + 1)], f">= 1 and <= {most}")
        cases.append((["bench", "routing", "--tokens", "16777216", "--experts", "65536"], 2, ["--tokens", "268435456 logits"]))
        self.calls(cases)

    def test_of_results(self):
        self.call("results", ".", "--top", "nan", code=4)

    def test_a_memory_limit_in_which_nothing_lives(self):
        for command in [["run", "smoke"], ["train", "models/testbed-tiny.yaml", "data=data/synthetic8.yaml"], ["submit", "smoke", "--dry-run"]]:
            for value in ["1K", "1", "0.5", "20M"]:
                _, err = self.call(*command, "--memory-limit", value, code=2)
                self.assertRegex(err, rf"--memory-limit: '{re.escape(value)}' is less than \d+ MiB")
                self.assertRegex(err, r"a rank has \d+ MiB of private memory before the first trial")

    def test_the_least_memory_limit_that_is_taken_is_enough_to_say_so(self):
        """What is named as the least is taken: the trials then run, or end as out_of_memory."""
        _, err = self.call("run", "smoke", "train.steps=2", "--memory-limit", "1K", code=2)
        least = int(re.search(r"is less than (\d+) MiB", err).group(1))
        _, err = self.call("run", "smoke", "train.steps=2", "--memory-limit", f"{least + 2}MiB", code=None)
        self.assertNotIn("terminate", err)
        states = set(json.loads(self.call("status", "runs/smoke", "--json", code=None)[0])["states"])
        self.assertLessEqual(states, {"done", "out_of_memory"})

    def test_the_largest_values_that_are_taken(self):
        self.call("plan", "smoke", "--ranks", "1000000", "--json")
        self.call("plan", "smoke", "--ranks", "2", "--shards", "100000", "--json")
        self.call("plan", "smoke", "--ranks", "2", "--time-limit", "UNLIMITED", "--json")
        self.call("plan", "smoke", "--ranks", "2", "--time-limit", "1000000000s", "--json")
        most = "1000000000"
        self.call("run", "smoke", "train.steps=2", "--shard", "0/100000", "--deadline", most, "--trial-timeout", most, "--stall-timeout", most,
                  "--progress-seconds", most, "--max-failures", most, "--retries", "all=1000000")

    def test_the_environment_of_slurm(self):
        for end in ["9223372036854775807", "99999999999999999999999"]:
            self.environment.update(SLURM_JOB_ID="17", SLURM_JOB_END_TIME=end)
            self.call("run", "smoke", "train.steps=2", "--out", f"runs/{end}")


def without_permission(test):
    """Only for a user whom permissions bind: as root, the calls are made by another."""

    def wrapped(self):
        self.folder.chmod(0o755)
        home = self.folder / "home"
        home.mkdir()
        self.environment.update(HOME=str(home), TMPDIR=str(home))
        if os.geteuid() == 0:
            self.user = NOBODY
            os.chown(self.folder, NOBODY, NOBODY)
            os.chown(home, NOBODY, NOBODY)
            try:
                subprocess.run([PROGRAM, "--version"], check=True, capture_output=True, timeout=SECONDS, user=NOBODY, group=NOBODY, extra_groups=[])
            except (OSError, subprocess.SubprocessError) as error:
                print(f"skipped: another user cannot be set or cannot run {PROGRAM}: {error}")
                return
        test(self)

    wrapped.__name__ = test.__name__
    return wrapped


@contextlib.contextmanager
def closed(path):
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0)
    try:
        yield
    finally:
        path.chmod(mode)


class Permission(Case):
    """Folders and files that may not be read: i/o errors with their path."""

    def prepare(self):
        self.call("run", "smoke", "train.steps=2", "--out", "sweep")
        self.call("aggregate", "sweep")
        self.sweep = self.folder / "sweep"

    def commands(self):
        return {"run": ["run", "smoke", "train.steps=2", "--out", "sweep"],
                "status": ["status", "sweep"],
                "retry": ["retry", "sweep"],
                "submit": ["submit", "smoke", "train.steps=2", "--out", "sweep", "--dry-run"],
                "cancel": ["cancel", "sweep"],
                "results": ["results", "sweep/sweep.h5"],
                "verify": ["verify", "sweep/sweep.h5"],
                "diff": ["diff", "sweep/sweep.h5", "a", "b"],
                "aggregate": ["aggregate", "sweep"]}  # last: it may replace an aggregate that nobody reads

    def check(self, path, touched):
        """Each command either does not touch it, or gives an i/o error that names it or something below it."""
        with closed(path):
            for name, command in self.commands().items():
                with self.subTest(command=name, closed=path.name):
                    if name in touched:
                        _, err = self.call(*command, code=4)
                        self.assertIn(str(path.relative_to(self.folder)), err)
                        self.assertIn("ermission denied", err)
                    else:
                        self.call(*command, code=None)

    @without_permission
    def test_the_sweep_folder(self):
        self.prepare()
        self.check(self.sweep, {"run", "status", "aggregate", "retry", "submit", "cancel", "results", "verify", "diff"})

    @without_permission
    def test_its_plan(self):
        self.prepare()
        self.check(self.sweep / "plan.json", {"run", "status", "aggregate", "retry", "submit", "cancel"})

    @without_permission
    def test_its_journal(self):
        self.prepare()
        self.check(self.sweep / "journal", set())

    @without_permission
    def test_a_folder_of_trials(self):
        self.prepare()
        shard = sorted((self.sweep / "trials").iterdir())[0]
        self.check(shard, set())
        file = next(shard.glob("*/trial.h5"))
        with closed(shard):
            for command in [["verify", file], ["train", file.parent / "config.yaml"]]:
                _, err = self.call(*command, code=None)
                self.assertIn(str(shard), err)

    @without_permission
    def test_its_aggregate(self):
        self.prepare()
        self.check(self.sweep / "sweep.h5", {"results", "verify", "diff"})

    @without_permission
    def test_folders_to_write(self):
        locked = self.folder / "locked"
        locked.mkdir()
        for command in [["run", "smoke", "--out", "locked/sweep"], ["run", "smoke", "--out", "locked"],
                        ["train", "models/testbed-tiny.yaml", "data=data/synthetic8.yaml", "--out", "locked/trial"],
                        ["submit", "smoke", "--out", "locked/sweep", "--dry-run"], ["bench", "store", "--trials", "1", "--folder", "locked/bench"],
                        ["bench", "store", "--trials", "1", "--folder", "locked"], ["bench", "calibrate", "--small", "--out", "locked/machine.json"],
                        ["plan", "locked/sweep.yaml"]]:
            with self.subTest(command=command):
                locked.chmod(0)
                _, err = self.call(*command, code=None)
                locked.chmod(0o755)
                if command[0] != "submit":
                    self.assertIn("locked", err)

    @without_permission
    def test_what_the_environment_names(self):
        locked = self.folder / "locked"
        locked.mkdir(mode=0)
        for name in ["MOESWEEP_CONFIGS", "MOESWEEP_DATA", "MOESWEEP_PROFILES", "MOESWEEP_MACHINE", "XDG_CONFIG_HOME", "HOME", "TMPDIR"]:
            before = dict(self.environment)
            self.environment[name] = str(locked)
            for command in [["plan", "smoke"], ["doctor"], ["routers"]]:
                with self.subTest(name=name, command=command):
                    self.call(*command, code=None)
            self.environment = before


class Controls(Case):
    """Text of others never commands a terminal. `call` looks at each output."""

    def test_the_command_line(self):
        hostile = [ESCAPE, b"\xff\x9b31m\x1b[2J", "a\rmoesweep: ok"]
        for word in hostile:
            for command, code in [([word], 2), (["plan", "smoke", "--" + word if isinstance(word, str) else b"--" + word], 2), (["plan", word], 3), (["run", word], 3),
                                  (["plan", "smoke", word], 3), (["plan", "smoke", "--only", word], 3), (["plan", "smoke", "--ranks", word], 2),
                                  (["run", "smoke", "--deadline", word], 2), (["run", "smoke", "--inject", word], 2), (["run", "smoke", "--shard", word], 2),
                                  (["run", "smoke", "--retries", word], 2), (["verify", word], 4), (["results", word], 4), (["diff", word, word, word], 4),
                                  (["status", word], 4), (["retry", word], 4), (["cancel", word], 4), (["aggregate", word], 4), (["train", word], 3),
                                  (["routers", "--explain", word], 2), (["submit", "smoke", "--profile", word], 3), (["bench", "routing", "--router", word], 2),
                                  (["route", "--router", "top_k", "--input", word, "--output", word], 4), (["plan", "smoke", "--time-limit", word], 2)]:
                with self.subTest(command=command):
                    _, err = self.call(*command, code=code)
                    self.assertTrue(r"\x1b[2J" in err or r"\x0d" in err or r"\r" in err, err)

    def test_a_folder_of_such_a_name(self):
        for name in ["out" + ESCAPE, b"out\xff\x9b31m"]:
            out, _ = self.call("run", "smoke", "train.steps=2", "--only", "routing.balance.method == none", "--out", name, code=None)
            with self.subTest(name=name):
                for command in [["status"], ["status", "--json"], ["aggregate"], ["retry"], ["cancel", "--json"]]:
                    self.call(command[0], name, *command[1:], code=None)
                bytes_of = name if isinstance(name, bytes) else name.encode()
                for command in [["results", "--json"], ["verify"], ["diff"]]:
                    self.call(command[0], bytes_of + b"/sweep.h5", *command[1:], *(["0", "1"] if command[0] == "diff" else []), code=None)
                self.call("submit", "smoke", "--out", name, "--dry-run", "--json", code=None)

    def sweep_file(self):
        domains = json.dumps(["\x1b[2Ja", "b\n\x9b31m\u202e"])
        other = json.dumps(["c\x7f", "d\u2066\x07"])
        (self.folder / "hostile.yaml").write_text(
            "base: models/testbed-tiny.yaml\ndata: data/synthetic8.yaml\ntrain: {steps: 2}\nevaluation: {tokens: 1024}\n"
            f"sets:\n  texts:\n    one: {{data.domains: {domains}}}\n    two: {{data.domains: {other}}}\ngrid:\n  texts: [one, two]\n", encoding="utf-8")

    def test_names_in_a_sweep(self):
        self.sweep_file()
        text, _ = self.call("plan", "hostile.yaml")
        self.assertIn(r"\u001b[2Ja", text)
        plan = json.loads(self.call("plan", "hostile.yaml", "--json")[0])
        self.assertEqual({domain for trial in plan["trials"] for domain in trial["axes"]["data.domains"]},
                         {"\x1b[2Ja", "b\n\x9b31m\u202e", "c\x7f", "d\u2066\x07"})
        self.call("run", "hostile.yaml")
        self.call("aggregate", "runs/hostile")
        file = "runs/hostile/sweep.h5"
        for command in [["status", "runs/hostile"], ["status", "runs/hostile", "--json"], ["verify", file], ["diff", file, *(t["id"] for t in plan["trials"])],
                        ["diff", file, *(t["id"] for t in plan["trials"]), "--json"], ["results", file]]:
            self.call(*command)
        # As a table: on a terminal.
        terminal = self.on_a_terminal("results", file)
        self.assertIn(rb"\u001b[2Ja", terminal)
        self.assertNotRegex(terminal.decode().replace("\r\n", "\n"), HIDDEN)

    def on_a_terminal(self, *arguments):
        mine, theirs = pty.openpty()
        with subprocess.Popen([PROGRAM, *arguments], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=theirs,
                              stderr=subprocess.DEVNULL) as process:
            os.close(theirs)
            text = b""
            with contextlib.suppress(OSError):  # EIO is the end of a terminal
                while part := os.read(mine, 65536):
                    text += part
            process.wait(timeout=SECONDS)
        os.close(mine)
        return text

    def test_journals(self):
        self.call("run", "smoke", "train.steps=2", "train.loss_limit=1e-6", "--out", "sweep", code=1)
        journal = next((self.folder / "sweep" / "journal").glob("*.jsonl"))
        lines = []
        for line in journal.read_text().splitlines():
            event = json.loads(line)
            if event["event"] == "ended":
                event["reason"] = ESCAPE + "\nmoesweep: all is well"
            lines.append(json.dumps(event))
        journal.write_text("\n".join(lines) + "\n" + '{"event": "' + "\\u001b[2J" + '"}\n')
        out, _ = self.call("status", "sweep", code=1)
        self.assertIn(r"\x1b[2J", out)
        self.assertNotIn("\nmoesweep: all is well", out)
        reasons = {trial["reason"] for trial in json.loads(self.call("status", "sweep", "--json", code=1)[0])["trials"]}
        self.assertIn(ESCAPE + "\nmoesweep: all is well", reasons)
        self.call("aggregate", "sweep")
        self.call("results", "sweep/sweep.h5")
        self.assertNotRegex(self.on_a_terminal("results", "sweep/sweep.h5").decode().replace("\r\n", "\n"), HIDDEN)

    def test_the_queue(self):
        tools = self.folder / "bin"
        tools.mkdir()
        for name in ["sbatch", "squeue", "scontrol", "scancel"]:
            (tools / name).symlink_to(FAKE_SLURM)
        state = self.folder / "slurm"
        state.mkdir()
        self.environment.update(PATH=f"{tools}:{self.environment['PATH']}", FAKE_SLURM=str(state))
        self.call("submit", "smoke", "--out", "sweep", "--shards", "2")
        job = next(job for job in json.loads((state / "state.json").read_text())["jobs"] if job["array"])
        answer = f"{job['id']}_1|PENDING|{ESCAPE}|{job['name']}|{ESCAPE}\n"
        (tools / "squeue").unlink()
        (tools / "squeue").write_text("#!/bin/bash\nprintf '%b' " + "'" + "".join(f"\\x{byte:02x}" for byte in answer.encode()) + "'\n")
        (tools / "squeue").chmod(0o755)
        out, _ = self.call("status", "sweep")
        self.assertIn("1 pending", out)
        self.assertIn(r"\x1b[2J", out)
        self.call("status", "sweep", "--json")
        (tools / "sbatch").unlink()
        (tools / "sbatch").write_text("#!/bin/bash\nprintf 'sbatch: error: \\x1b[2J\\x9b31m\\xc2\\x9b' >&2; exit 1\n")
        (tools / "sbatch").chmod(0o755)
        _, err = self.call("submit", "smoke", "--out", "other", "--shards", "2", code=3)
        self.assertIn(r"\x1b[2J", err)

    def test_the_environment(self):
        for value in [ESCAPE, b"\xff\x9b31m\x1b[2J"]:
            for name, command in [("MOESWEEP_LOG", ["run", "nosuch"]), ("MOESWEEP_CONFIGS", ["plan", "nosuch"]), ("MOESWEEP_CONFIGS", ["doctor"]),
                                  ("MOESWEEP_DATA", ["doctor"]), ("MOESWEEP_DATA", ["run", "smoke", "data=data/languages8.yaml"]),
                                  ("MOESWEEP_MACHINE", ["plan", "smoke"]), ("MOESWEEP_PROGRESS", ["run", "nosuch"]), ("PATH", ["doctor"]),
                                  ("OMP_NUM_THREADS", ["doctor"]), ("MOESWEEP_PROFILES", ["submit", "smoke", "--profile", "nosuch"]),
                                  ("HOME", ["plan", "smoke"]), ("XDG_CONFIG_HOME", ["plan", "smoke"])]:
                before = dict(self.environment)
                self.environment[name] = value if isinstance(value, str) else os.fsdecode(value)
                with self.subTest(name=name, value=value, command=command):
                    self.call(*command, code=None)
                self.environment = before
        self.environment.update(SLURM_STEP_NUM_TASKS="2" + ESCAPE)
        _, err = self.call("run", "smoke", code=6)
        self.assertIn(r"\x1b[2J", err)
        del self.environment["SLURM_STEP_NUM_TASKS"]
        # What goes into provenance.
        self.environment.update(SLURM_JOB_PARTITION=os.fsdecode(b"\xff" + ESCAPE.encode()), SLURM_CLUSTER_NAME=ESCAPE)
        self.call("run", "smoke", "train.steps=2")
        self.call("aggregate", "runs/smoke")
        self.call("verify", "runs/smoke/sweep.h5")

    def test_several_ranks(self):
        mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2"]
        done = subprocess.run([*mpirun, PROGRAM, "run", "no" + ESCAPE], cwd=self.folder, capture_output=True, check=False, timeout=SECONDS)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertNotRegex(done.stderr.decode(), HIDDEN)


class Files(Case):
    """What is no file of results, where one is meant: an error at once."""

    def setUp(self):
        super().setUp()
        (self.folder / "folder").mkdir()
        os.mkfifo(self.folder / "pipe")
        (self.folder / "empty").touch()
        (self.folder / "words").write_text("no HDF5 at all\n")
        with socket.socket(socket.AF_UNIX) as listener:
            here = os.getcwd()
            os.chdir(self.folder)  # a socket's path is short
            listener.bind("socket")
            os.chdir(here)
        self.places = {"folder": 4, "pipe": 4, "socket": 4, "empty": 5, "words": 5, "/dev/zero": 4, "/dev/null": 4, "/dev/tty": 4, "no": 4, "words/below": 4}

    def test_results_verify_diff(self):
        for place, code in self.places.items():
            for command in [["results", place], ["verify", place], ["diff", place, "a", "b"]]:
                with self.subTest(command=command):
                    _, err = self.call(*command, code=code)
                    self.assertIn(place, err)

    def test_route(self):
        for place, code in self.places.items():
            with self.subTest(place=place):
                _, err = self.call("route", "--router", "top_k", "--input", place, "--output", "out.h5", code=code)
                self.assertIn(place, err)

    def test_sweep_folders(self):
        for place in self.places:
            for command in [["status", place], ["status", place, "--watch"], ["aggregate", place], ["retry", place], ["cancel", place]]:
                with self.subTest(command=command):
                    _, err = self.call(*command, code=4)
                    self.assertIn(place, err)

    def test_a_plan_that_is_no_file(self):
        for place in ["pipe", "/dev/zero", "folder", "socket"]:
            sweep = self.folder / f"sweep-{pathlib.Path(place).name}"
            sweep.mkdir()
            (sweep / "plan.json").symlink_to(self.folder / place)
            for command in [["status", sweep], ["aggregate", sweep], ["retry", sweep], ["cancel", sweep], ["run", "smoke", "--out", sweep],
                            ["submit", "smoke", "--out", sweep, "--dry-run"]]:
                with self.subTest(command=command):
                    _, err = self.call(*command, code=4)
                    self.assertIn("plan.json", err)

    def test_yaml_files(self):
        for place in self.places:
            if place in ("empty", "words"):
                continue
            for command in [["plan", place], ["run", place], ["train", place], ["submit", place], ["submit", "smoke", "--profile", place],
                            ["plan", "smoke", f"base={place}"], ["plan", "smoke", f"data={place}"]]:
                with self.subTest(command=command):
                    _, err = self.call(*command, code=3)

    def test_the_speed_of_the_machine(self):
        (self.folder / "deep").write_text("[" * 100000 + "]" * 100000)
        (self.folder / "wrong").write_text('{"format": "moesweep-machine", "version": "x"}')
        products = [{"rows": n + 1, "width": 1, "flops_per_second": 1.0} for n in range(5000)]
        speed = {"products": products, **{name: 0.0 for name in ["seconds_per_kept_byte", "seconds_per_parameter_byte", "seconds_per_layer",
                                                                "seconds_per_step", "evaluation_share"]}}
        (self.folder / "many").write_text(json.dumps({"format": "moesweep-machine", "version": 1, "moesweep": "", "date": "", "cpu_model": "", "threads": 1,
                                                      "fp32": speed, "bf16": speed, "exchange": {"measured": False, "latency_seconds": 0,
                                                                                                 "bytes_per_second": 1}}))
        for place, code in [*self.places.items(), ("deep", 5), ("wrong", 5), ("many", 5)]:
            self.environment["MOESWEEP_MACHINE"] = place
            with self.subTest(place=place):
                _, err = self.call("plan", "smoke", code=code)
                self.assertIn(place, err)


class Outputs(Case):
    """Only a regular file, or nothing, is replaced by what a command writes."""

    def setUp(self):
        super().setUp()
        (self.folder / "folder").mkdir()
        os.mkfifo(self.folder / "pipe")
        (self.folder / "target").write_text("of somebody\n")
        (self.folder / "logits").write_text("it is never read\n")
        (self.folder / "link").symlink_to("target")
        (self.folder / "dangling").symlink_to("nowhere")
        self.places = {"folder": stat.S_ISDIR, "pipe": stat.S_ISFIFO, "link": stat.S_ISLNK, "dangling": stat.S_ISLNK}
        try:
            os.mknod(self.folder / "full", stat.S_IFCHR | 0o666, os.makedev(1, 7))
            self.places["full"] = stat.S_ISCHR
        except PermissionError as error:
            print(f"skipped: no device of one's own: {error}")

    def check(self, command):
        for place, is_kind in self.places.items():
            with self.subTest(command=command, place=place):
                _, err = self.call(*command, place, code=4)
                self.assertIn(place, err)
                self.assertIn("only a regular file is replaced", err)
                self.assertTrue(is_kind((self.folder / place).lstat().st_mode), place)
        self.assertEqual((self.folder / "target").read_text(), "of somebody\n")
        self.assertFalse((self.folder / "nowhere").exists())
        self.assertEqual([path.name for path in self.folder.iterdir() if path.name.endswith(".tmp")], [])

    def test_aggregate(self):
        self.call("run", "smoke", "train.steps=2", "--out", "sweep")
        self.check(["aggregate", "sweep", "--out"])
        self.call("aggregate", "sweep", "--out", "target2")
        self.call("verify", "target2")
        os.replace(self.folder / "pipe", self.folder / "sweep" / "sweep.h5")
        self.call("aggregate", "sweep", code=4)

    def test_route(self):
        self.check(["route", "--router", "top_k", "--input", "logits", "--output"])

    def test_the_speed_of_the_machine(self):
        self.check(["bench", "calibrate", "--small", "--out"])

    def test_a_trial(self):
        for place, is_kind in self.places.items():
            if place == "folder":
                continue
            trial = self.folder / f"trial-{place}"
            trial.mkdir()
            os.rename(self.folder / place, trial / "trial.h5")
            _, err = self.call("train", "models/testbed-tiny.yaml", "data=data/synthetic8.yaml", "train.steps=2", "--out", trial, code=4)
            self.assertIn("trial.h5", err)
            self.assertTrue(is_kind((trial / "trial.h5").lstat().st_mode), place)
        self.assertEqual((self.folder / "target").read_text(), "of somebody\n")


if __name__ == "__main__":
    sys.exit(unittest.main(verbosity=2))
