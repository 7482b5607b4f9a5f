"""`moesweep submit` and `cancel` against a Slurm that is made up: busy, silent, refusing, talking nonsense; and the scripts, run with a made-up srun."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

PROGRAM = os.environ["MOESWEEP_PROGRAM"]
FAKE = pathlib.Path(__file__).resolve().parents[1] / "support" / "fake_slurm.py"
HOSTILE = "a b';$(touch OWNED)`touch OWNED`\"%a é#&|*"


class Case(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.scratch.name)
        self.slurm = self.folder / "slurm-state"
        self.bin = self.folder / "bin"
        for folder in (self.slurm, self.bin, self.folder / "work"):
            folder.mkdir()
        for name in ["sbatch", "squeue", "scontrol", "scancel"]:
            (self.bin / name).symlink_to(FAKE)
        self.environment = dict(os.environ, FAKE_SLURM=str(self.slurm), PATH=f"{self.bin}:{os.environ['PATH']}", MOESWEEP_DATA=str(self.folder / "data"))
        for name in list(self.environment):
            if name.startswith(("SLURM_", "SBATCH_")):
                del self.environment[name]

    def tearDown(self):
        self.assertEqual(list(self.folder.rglob("OWNED")), [], "a name reached a shell")
        self.scratch.cleanup()

    def call(self, *arguments, code=0):
        command = [PROGRAM, *map(str, arguments)]
        done = subprocess.run(command, cwd=self.folder / "work", env=self.environment, check=False, capture_output=True, text=True, timeout=200)
        self.assertEqual(done.returncode, code, f"{command}\n{done.stdout}\n{done.stderr}")
        return done.stdout, done.stderr

    def submit(self, *arguments, code=0, out="runs/s", call_timeout=20):
        return self.call("submit", "smoke", "--out", out, "--call-timeout", call_timeout, *arguments, code=code)

    def state(self, **changes):
        file = self.slurm / "state.json"
        state = json.loads(file.read_text()) if file.exists() else {"jobs": []}
        if changes:
            state.update(changes)
            file.write_text(json.dumps(state))
        return state

    def jobs(self):
        return self.state()["jobs"]

    def calls(self, name, *, real=True):
        lines = [json.loads(line) for line in (self.slurm / "calls.jsonl").read_text().splitlines()]
        return [words for words in lines if words[0] == name and not (real and "--test-only" in words)]

    def records(self, out="runs/s"):
        lines = (self.folder / "work" / out / "slurm" / "submissions.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


class Submitting(Case):
    def test_array_aggregate_and_report_wait_for_one_another(self):
        report = self.bin / "moesweep-report"
        report.write_text("#!/bin/sh\n")
        report.chmod(0o755)
        text, _ = self.submit("--shards", 2, "--ranks", 4, "--nodes", 2, "--time", "2h", "--throttle", 1, "--after", 77)
        for part in ["4 of 4 trials open", "2 shards of 4 ranks", "02:00:00", "0-1%1", "2030-01-02T03:04:05", "moesweep status runs/s"]:
            self.assertIn(part, text)
        kinds = [words for words in self.calls("sbatch")]
        self.assertEqual(len(kinds), 3)
        self.assertIn("--dependency=afterany:77", kinds[0])
        self.assertIn("--dependency=afterany:101", kinds[1])
        self.assertIn("--dependency=afterany:102", kinds[2])
        array = self.jobs()[0]
        self.assertEqual(array["array"], "0-1%1")
        for line in ["#SBATCH --ntasks=4\n", "#SBATCH --nodes=2\n", "#SBATCH --time=02:00:00\n", "#SBATCH --signal=USR2@300\n", "#SBATCH --requeue\n"]:
            self.assertIn(line, array["script"])
        events = [record["event"] for record in self.records()]
        self.assertEqual(events, ["submission", "submitted", "submitted", "submitted"])
        self.assertEqual(json.loads(self.call("status", "runs/s", "--json")[0])["queue"][0]["pending"], 2)
        self.assertIn("array 101: 2 pending (Priority), start about 2030-01-02T03:04:05", self.call("status", "runs/s")[0])

    def test_a_dry_run_writes_nothing(self):
        text, _ = self.submit("--dry-run", "--shards", 2)
        self.assertIn("#SBATCH --array=0-1\n", text)
        self.assertIn("sbatch --parsable", text)
        self.assertEqual(list((self.folder / "work").iterdir()), [])
        self.assertEqual(self.calls("sbatch"), [])
        for name in ["sbatch", "squeue", "scontrol", "scancel"]:
            (self.bin / name).unlink()
        self.environment["PATH"] = str(self.bin) + ":/nowhere"
        self.assertIn("at most 1001 elements are assumed", self.submit("--dry-run")[1])
        self.assertIn("no program", self.submit(code=4)[1])

    def test_shards_beyond_an_array_are_chunks(self):
        self.state(max_array_size=5)
        self.submit("--shards", 12)
        arrays = [job for job in self.jobs() if job["array"]]
        seen = []
        for job in arrays:
            first, last = map(int, job["array"].split("-"))
            self.assertEqual(first, 0)
            self.assertLess(last, 5)
            offset = int(job["script"].split("\nfirst=")[1].split()[0])
            self.assertIn("shards=12 ", job["script"])
            seen += range(offset, offset + last + 1)
        self.assertEqual(seen, list(range(12)))
        ids = ":".join(job["id"] for job in arrays)
        self.assertIn(f"--dependency=afterany:{ids}", self.calls("sbatch")[len(arrays)])

    def test_twice_is_refused_and_again_is_not(self):
        self.submit()
        count = len(self.jobs())
        self.assertIn("is in the queue already", self.submit(code=2)[1])
        self.assertEqual(len(self.jobs()), count)
        self.submit("--again")
        self.assertEqual(len(self.jobs()), 2 * count)
        names = [job["name"] for job in self.jobs()]
        self.assertEqual(len(set(names)), len(names))

    def test_nothing_open_submits_nothing(self):
        self.call("run", "smoke", "train.steps=2", "--out", "runs/s")
        before = (self.folder / "work/runs/s/plan.json").read_bytes()
        text, _ = self.submit("train.steps=2")
        self.assertIn("nothing to submit: all 4 trials have ended", text)
        self.assertEqual((self.folder / "work/runs/s/plan.json").read_bytes(), before)
        self.assertFalse((self.slurm / "calls.jsonl").exists() and self.calls("sbatch"))

    def test_a_profile_is_followed_and_its_slips_are_told(self):
        text, _ = self.submit("--dry-run", "--profile", "example", "--ranks", 4)
        for line in ["#SBATCH --partition=main\n", "#SBATCH --account=moe\n", "#SBATCH --mem-per-cpu=2G\n", "module load 'gcc/12'", "'--cpu-bind=cores'",
                     "#SBATCH --time=04:00:00\n", "#SBATCH --ntasks-per-node=4\n"]:
            self.assertIn(line, text)
        (self.folder / "work/site.yaml").write_text("acount: x\n")
        self.assertIn("site.yaml:1:1: unknown key 'acount' in a profile: did you mean 'account'?", self.submit("--profile", "site.yaml", code=3)[1])

    def test_slips_on_the_command_line(self):
        for arguments, words in [(["--time", "soon"], "soon"), (["--after", "x;y"], "is no job id"), (["--time", "1", "--signal-seconds", "60"], "signal"),
                                 (["--retries", "x=1"], "x"), (["--memory-limit", "much"], "--memory-limit")]:
            self.assertIn(words, self.submit(*arguments, code=2)[1])
        self.assertFalse((self.slurm / "state.json").exists() and self.jobs())


class Files(Case):
    """Scripts keep the umask, replace nothing but themselves, and go through no link."""

    def submit_with(self, umask, **options):
        before = os.umask(umask)
        try:
            return self.submit(**options)
        finally:
            os.umask(before)

    def test_the_umask_is_kept(self):
        for umask in [0o077, 0o027, 0o022, 0o002]:
            self.submit_with(umask, out=f"runs/{umask:03o}")
            folder = self.folder / f"work/runs/{umask:03o}/slurm"
            modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
            for name in ["array.sbatch", "aggregate.sbatch", "logs"]:
                self.assertEqual(oct(modes[name]), oct(0o777 & ~umask), f"{name} at umask {umask:03o}")
            self.assertEqual(oct(modes["submissions.jsonl"]), oct(0o666 & ~umask))
            self.assertEqual(oct(folder.stat().st_mode & 0o777), oct(0o777 & ~umask))
            for script in folder.glob("*.sbatch"):
                self.assertNotIn("umask", script.read_text())

    def test_a_file_that_is_not_ours_stays(self):
        folder = self.folder / "work/runs/s/slurm"
        folder.mkdir(parents=True)
        mine = folder / "array.sbatch"
        mine.write_text("#!/bin/bash\n# my own\n")
        self.assertIn("a file that it did not make", self.submit(code=4)[1])
        self.assertEqual(mine.read_text(), "#!/bin/bash\n# my own\n")
        self.assertEqual([], self.calls("sbatch"))
        mine.unlink()
        self.submit()
        self.submit("--again")  # what a submission wrote is replaced

    def test_nothing_is_written_through_a_link(self):
        target = self.folder / "target"
        target.mkdir()
        (target / "kept").write_text("#!/bin/bash\n# Written by moesweep 1\n# Written by moesweep 1\n")
        slurm = self.folder / "work/runs/s/slurm"
        for name in ["array.sbatch", "submissions.jsonl", ".lock", "logs", ""]:
            with self.subTest(name=name):
                link = slurm / name if name else slurm
                shutil.rmtree(slurm, ignore_errors=True)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(target if name in ("logs", "") else target / "kept" if name == "array.sbatch" else target / "new")
                self.assertIn(str(link), self.submit(code=4)[1])
                self.assertEqual([path.name for path in target.iterdir()], ["kept"])
                link.unlink()
        self.submit()

    def test_a_pipe_in_the_place_of_the_record_is_an_error(self):
        slurm = self.folder / "work/runs/s/slurm"
        slurm.mkdir(parents=True)
        os.mkfifo(slurm / "submissions.jsonl")
        self.assertIn("submissions.jsonl", self.submit(code=4)[1])

    def test_a_record_with_fields_of_another_kind_is_passed_over_with_its_line(self):
        self.submit()
        record = self.folder / "work/runs/s/slurm/submissions.jsonl"
        first = json.loads(record.read_text().splitlines()[0])
        odd = [first | {"shards": "two"}, first | {"jobs": 7}, first | {"inherit": [1]}, {"event": "submitted", "name": first["jobs"][0]["name"], "job": "-x"},
               {"event": ["x"]}, [1], first | {"jobs": [first["jobs"][0] | {"script": "--wrap=touch OWNED"}]}]
        count = len(record.read_text().splitlines())
        with open(record, "a") as file:
            file.writelines(json.dumps(line) + "\n" for line in odd)
            file.write('{"a":' * 100000 + "\n")
        error = self.call("status", "runs/s")[1]
        for number in range(count + 1, count + len(odd) + 2):
            self.assertIn(f"submissions.jsonl:{number}: no record of a submission", error)
        self.assertIn("is in the queue already", self.submit(code=2)[1])
        self.assertIn("cancelled: array 101", self.call("cancel", "runs/s")[0])


class Trouble(Case):
    def test_a_busy_controller_is_asked_again(self):
        self.state(faults={"sbatch": ["busy", "busy"], "scontrol": ["busy"]})
        _, error = self.submit()
        self.assertIn("Unable to contact slurm controller", error)
        names = [job["name"] for job in self.jobs()]
        self.assertEqual(len(set(names)), len(names))
        self.assertEqual(len([job for job in self.jobs() if job["array"]]), 1)

    def test_one_that_stays_busy_is_given_up_and_gone_on_with(self):
        self.state(faults={"sbatch": ["", "busy", "busy", "busy", "busy"]})
        _, error = self.submit("--patience", 1, code=4)
        self.assertIn("submitted until then, and recorded: array 101", error)
        self.assertEqual(len(self.jobs()), 1)
        self.state(faults={})
        text, error = self.submit()
        self.assertIn("going on with the submission", error)
        self.assertIn("aggregate", text)
        kinds = [job["name"].rsplit("-", 1)[-1] for job in self.jobs()]
        self.assertEqual(kinds.count("aggregate"), 1)
        self.assertEqual(len([job for job in self.jobs() if job["array"]]), 1)
        self.assertIn("--dependency=afterany:101", self.calls("sbatch")[-len(self.jobs()) + 1])

    def test_a_call_without_an_answer_is_not_made_twice(self):
        self.state(faults={"sbatch": ["late"]})
        self.submit(call_timeout=3)
        arrays = [job for job in self.jobs() if job["array"]]
        self.assertEqual(len(arrays), 1)
        submitted = [record for record in self.records() if record["event"] == "submitted"]
        self.assertEqual(submitted[0]["job"], arrays[0]["id"])

    def test_a_call_that_never_came_through_is_made_again(self):
        self.state(faults={"sbatch": ["never"]})
        self.submit(call_timeout=3)
        self.assertEqual(len([job for job in self.jobs() if job["array"]]), 1)

    def test_killed_between_two_calls(self):
        self.state(faults={"sbatch": ["", "never"]})
        process = subprocess.Popen([PROGRAM, "submit", "smoke", "--out", "runs/s"], cwd=self.folder / "work", env=self.environment, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT)
        for _ in range(1000):
            if (self.slurm / "calls.jsonl").exists() and len(self.calls("sbatch")) == 2:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        self.assertEqual(len(self.jobs()), 1)
        self.submit()
        self.assertEqual(len([job for job in self.jobs() if job["array"]]), 1)
        self.assertEqual(len([job for job in self.jobs() if job["name"].endswith("-aggregate")]), 1)

    def test_a_refusal_is_told_at_once_and_leaves_the_next_call_free(self):
        self.state(faults={"sbatch": ["refused"]})
        _, error = self.submit(code=3)
        self.assertIn("invalid partition specified: nowhere", error)
        self.assertIn("hint: `partition` of the site profile", error)
        self.assertEqual(len(self.calls("sbatch")), 1)
        self.submit("--shards", 3)
        self.assertEqual(self.jobs()[0]["array"], "0-2")

    def test_garbage(self):
        self.state(faults={"sbatch": ["garbage"]})
        self.assertIn("sbatch gave no job id: 'Welcome to the cluster! <html>'", self.submit(code=4)[1])
        self.assertEqual(self.jobs(), [])
        self.state(faults={"scontrol": ["garbage"]})
        self.assertIn("MaxArraySize", self.submit(code=4, out="runs/t")[1])
        self.state(faults={})
        self.submit()
        self.state(faults={"squeue": ["garbage"]})
        self.assertIn("queue: none of its jobs", self.call("status", "runs/s")[0])

    def test_status_without_slurm_leaves_the_queue_out(self):
        self.submit()
        self.state(faults={"squeue": ["busy"]})
        self.assertNotIn("queue", self.call("status", "runs/s")[0])
        for name in ["squeue"]:
            (self.bin / name).unlink()
        self.environment["PATH"] = str(self.bin)
        self.assertIsNone(json.loads(self.call("status", "runs/s", "--json")[0])["queue"])

    def test_a_record_that_was_cut_is_passed_over(self):
        self.submit()
        with open(self.folder / "work/runs/s/slurm/submissions.jsonl", "a") as file:
            file.write('{"event": "submitted", "na')
        self.submit(code=2)
        self.call("cancel", "runs/s")
        self.assertEqual(self.records_that_read()[-1]["event"], "cancelled")

    def records_that_read(self):
        records = []
        for line in (self.folder / "work/runs/s/slurm/submissions.jsonl").read_text().splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return records


class Cancelling(Case):
    def test_all_of_it_once(self):
        self.submit("--shards", 2)
        text, _ = self.call("cancel", "runs/s")
        self.assertIn("cancelled: array 101", text)
        self.assertEqual({job["state"] for job in self.jobs()}, {"CANCELLED"})
        cancelled = [words[1] for words in self.calls("scancel")]
        self.assertEqual(cancelled[-1], "101", "the array goes last, so that what waits for it does not begin")
        self.assertIn("none of its jobs is in the queue", self.call("cancel", "runs/s")[0])
        self.assertEqual(len(self.calls("scancel")), len(cancelled))
        self.submit()

    def test_the_aggregate_may_stay(self):
        self.submit()
        self.call("cancel", "runs/s", "--keep-aggregate")
        states = {job["name"].rsplit("-", 1)[-1]: job["state"] for job in self.jobs()}
        self.assertEqual(states.pop("aggregate"), "PENDING")
        self.assertEqual(self.jobs()[0]["state"], "CANCELLED")

    def test_a_folder_that_is_none(self):
        self.assertIn("no sweep folder", self.call("cancel", "nowhere", code=4)[1])


class Inheriting(Case):
    """Values that jobs take from the environment of submit: all jobs see them, no file holds them."""

    SECRET = "s3cret-value-of-the-token $(touch OWNED)"

    def inherit(self, *lines):
        first = [f"report: {self.bin}/moesweep-report", "inherit: [MOESWEEP_TEST_TOKEN]"]
        (self.folder / "work/site.yaml").write_text("".join(f"{line}\n" for line in [*first, *lines]))
        self.environment |= {"MOESWEEP_TEST_TOKEN": self.SECRET, "MOESWEEP_TEST_OTHER": "other"}
        report = self.bin / "moesweep-report"
        report.write_text('#!/bin/bash\nprintenv MOESWEEP_TEST_TOKEN > "$FAKE_SLURM/report-saw"\n')
        report.chmod(0o755)
        # srun as 22.05: ranks get what SLURM_EXPORT_ENV says.
        srun = self.bin / "srun"
        srun.write_text("""#!/usr/bin/python3
import json, os, pathlib
export = os.environ.get("SLURM_EXPORT_ENV", "ALL")
ranks = {name: value for name, value in os.environ.items() if export == "ALL" or name in export.split(",")}
pathlib.Path(os.environ["FAKE_SLURM"], "ranks").write_text(json.dumps(ranks))
""")
        srun.chmod(0o755)

    def run_job(self, job, code=0):
        """With the environment that Slurm gives it: what was exported, and this test's tools."""
        script = self.folder / "script.sbatch"
        script.write_text(job["script"])
        environment = job["environment"] | {name: self.environment[name] for name in ("PATH", "FAKE_SLURM")}
        environment |= {"SLURM_ARRAY_JOB_ID": "101", "SLURM_ARRAY_TASK_ID": "0"}
        done = subprocess.run(["bash", script], env=environment, check=False, capture_output=True, text=True, timeout=100)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stderr

    def ranks(self):
        return json.loads((self.slurm / "ranks").read_text())

    def files_with(self, text):
        return [str(path) for path in (self.folder / "work").rglob("*") if path.is_file() and text.encode() in path.read_bytes()]

    def test_an_inherited_value_reaches_all_jobs_and_no_file(self):
        for number, (site, names) in enumerate([("", "ALL"), ("sbatch: [--export=NONE]", "MOESWEEP_TEST_TOKEN"),
                                                ("sbatch: [--mem=1G, '--export MOESWEEP_TEST_OTHER']", "MOESWEEP_TEST_OTHER,MOESWEEP_TEST_TOKEN")]):
            with self.subTest(site=site):
                self.inherit(site)
                out = f"runs/{number}"
                text, _ = self.submit("--profile", "site.yaml", "--dry-run", out=out)
                self.assertIn(f"sbatch --parsable --export={names} ", text)
                error_and_text = text + "".join(self.submit("--profile", "site.yaml", "--shards", 2, "--json", out=out))
                jobs = self.jobs()[-3:]
                calls = [" ".join(words) for words in self.calls("sbatch")[-3:]]
                for call in calls:
                    self.assertIn(f"--export={names}", call)
                self.assertEqual([job["environment"].get("MOESWEEP_TEST_TOKEN") for job in jobs], [self.SECRET] * 3)
                self.assertEqual(jobs[0]["environment"].get("MOESWEEP_TEST_OTHER"), "other" if "NONE" not in site else None)
                self.run_job(jobs[0])
                self.assertEqual(self.ranks()["MOESWEEP_TEST_TOKEN"], self.SECRET)
                self.assertIn("MOESWEEP_DATA", self.ranks(), "what the script sets reaches the ranks too")
                (self.slurm / "ranks").unlink()
                self.run_job(jobs[1], code=4)  # there is nothing to verify: no rank has aggregated
                self.assertEqual(self.ranks()["MOESWEEP_TEST_TOKEN"], self.SECRET)
                self.run_job(jobs[2])
                self.assertEqual((self.slurm / "report-saw").read_text().strip(), self.SECRET)
                for part in (error_and_text, *calls, *(job["script"] for job in jobs)):
                    self.assertNotIn("s3cret", part)
                self.call("status", out, "--json")
                self.assertEqual(self.files_with("s3cret"), [])

    def test_an_inherited_variable_that_is_not_set(self):
        self.inherit()
        del self.environment["MOESWEEP_TEST_TOKEN"]
        for more in [[], ["--dry-run"]]:
            error = self.submit("--profile", "site.yaml", *more, code=2)[1]
            self.assertIn("MOESWEEP_TEST_TOKEN is not set: `inherit` of the site profile", error)
            self.assertIn("site.yaml", error)
        self.assertFalse((self.folder / "work/runs").exists())
        self.environment["MOESWEEP_TEST_TOKEN"] = ""  # set, to nothing
        self.submit("--profile", "site.yaml")
        # Without `submit`, the script says what it lacks.
        job = self.jobs()[0]
        del job["environment"]["MOESWEEP_TEST_TOKEN"]
        self.assertIn("MOESWEEP_TEST_TOKEN is not set in this job", self.run_job(job, code=2))

    def test_a_submission_that_was_cut_goes_on_with_its_names(self):
        self.inherit("sbatch: [--export=NONE]")
        self.state(faults={"sbatch": ["", "busy", "busy", "busy"]})
        self.submit("--profile", "site.yaml", "--patience", 1, code=4)
        self.state(faults={})
        token = self.environment.pop("MOESWEEP_TEST_TOKEN")
        self.assertIn("MOESWEEP_TEST_TOKEN is not set", self.submit(code=2)[1])
        self.environment["MOESWEEP_TEST_TOKEN"] = token
        self.submit()
        self.assertEqual([job["environment"].get("MOESWEEP_TEST_TOKEN") for job in self.jobs()], [token] * 3)

    def test_what_sbatch_is_told_by_others_holds_no_value(self):
        self.inherit()
        self.environment["SBATCH_EXPORT"] = "ALL,OTHER_TOKEN=s3cret"
        error = self.submit("--profile", "site.yaml", code=3)[1]
        self.assertIn("$SBATCH_EXPORT gives --export a value", error)
        self.assertNotIn("s3cret", error)
        self.environment["SBATCH_EXPORT"] = "NONE"
        self.submit("--profile", "site.yaml")
        self.assertIn("--export=MOESWEEP_TEST_TOKEN", self.calls("sbatch")[0])

    def test_what_the_results_tell_is_not_inherited(self):
        (self.folder / "work/site.yaml").write_text("inherit: [OMP_PLACES]\n")
        self.environment["OMP_PLACES"] = "cores"
        self.assertIn("inherit: the value of OMP_PLACES is written into the results", self.submit("--profile", "site.yaml", code=3)[1])

    def test_a_site_that_exports_nothing_starts_its_ranks(self):
        self.inherit()
        (self.folder / "work/site.yaml").write_text("sbatch: [--export=NONE]\nenvironment: {SITE_VARIABLE: here}\n")
        self.submit("--profile", "site.yaml")
        self.assertFalse([word for word in self.calls("sbatch")[0] if word.startswith("--export")])
        self.run_job(self.jobs()[0])
        self.assertEqual(self.ranks()["SITE_VARIABLE"], "here")


class Scripts(Case):
    """The array's script, run by bash with a made-up srun."""

    def setUp(self):
        super().setUp()
        self.codes = self.folder / "codes"
        srun = self.bin / "srun"
        srun.write_text('#!/bin/bash\nprintf \'%s\\0\' "$@" >> "$FAKE_SLURM/argv"; printf "\\n" >> "$FAKE_SLURM/argv"\n'
                        'read -r code rest < "$FAKE_SLURM/codes"; sed -i 1d "$FAKE_SLURM/codes"; $rest\nexit "${code:-0}"\n')
        squeue = self.bin / "squeue-in-job"
        squeue.write_text('#!/bin/bash\necho "squeue $*" >> "$FAKE_SLURM/asked"; cat "$FAKE_SLURM/answer"\n')
        scontrol = self.bin / "scontrol-in-job"
        scontrol.write_text('#!/bin/bash\necho "scontrol $*" >> "$FAKE_SLURM/asked"; cat "$FAKE_SLURM/denied" >&2 2>/dev/null && exit 1; kill "$PPID"; exit 0\n')
        for file in (srun, squeue, scontrol):
            file.chmod(0o755)

    def script(self, *arguments, out="runs/s"):
        """The script of a submission; the queue's commands become those of a job."""
        self.submit(*arguments, out=out)
        for name in ["squeue", "scontrol"]:
            (self.bin / name).unlink()
            (self.bin / name).symlink_to(f"{name}-in-job")
        return self.folder / "work" / out / "slurm" / "array.sbatch"

    def run_script(self, script, codes, code, answer="RUNNING 10:00\n"):
        (self.slurm / "codes").write_text("".join(f"{each}\n" for each in codes))
        (self.slurm / "answer").write_text(answer)
        if not (self.bin / "sleep").exists():
            (self.bin / "sleep").symlink_to("/bin/true")
        environment = dict(self.environment, SLURM_ARRAY_JOB_ID="101", SLURM_ARRAY_TASK_ID="1")
        done = subprocess.run(["bash", str(script)], env=environment, check=False, capture_output=True, text=True, timeout=200)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stderr

    def asked(self):
        file = self.slurm / "asked"
        return file.read_text().splitlines() if file.exists() else []

    def steps(self):
        return [line.split("\0")[:-1] for line in (self.slurm / "argv").read_text().split("\0\n") if line]

    def test_hostile_names_reach_the_program_as_they_are(self):
        only = 'train.init_from == "none" and seed != 99 and (routing.top_k >= 1)'
        script = self.script(f"train.init_from={HOSTILE}", "--shards", 2, "--skip", "seed == 98;$(touch OWNED)" if False else "seed == 98", out=f"runs/{HOSTILE}")
        self.assertEqual(subprocess.run(["bash", "-n", str(script)], check=False).returncode, 0)
        self.assertTrue(only)
        self.run_script(script, [0], 0)
        words = (self.slurm / "argv").read_text().split("\0")
        folder = str(self.folder / "work/runs" / HOSTILE)
        self.assertIn(f"{folder}/sweep.yaml", words)
        self.assertEqual(words[words.index("--out") + 1], folder)
        self.assertIn("--skip=seed == 98", words)
        self.assertEqual(words[words.index("--shard") + 1], "1/2")
        self.assertIn("%%a", script.read_text())
        self.assertEqual(sorted(p.name for p in (self.folder / "work").iterdir()), ["runs"])
        self.assertEqual([p.name for p in (self.folder / "work/runs").iterdir()], [HOSTILE])

    def test_the_resolved_sweep_has_the_same_trials(self):
        for name, arguments in [("scale35x", ["parallel.expert=2", "seed=[1,2]"]), ("granularity", []), ("smoke", ["--router", "mixtral", "+seed=9"]),
                                ("smoke", ["evaluation.every_steps=3", "routing.layers={0: routers/hash_random.yaml}"])]:
            out = f"runs/{len(list((self.folder / 'work').glob('runs/*')))}"
            self.call("submit", name, "data=data/synthetic8.yaml", *arguments, "--out", out)
            wanted = json.loads(self.call("plan", name, "data=data/synthetic8.yaml", *arguments, "--json")[0])["trials"]
            made = json.loads(self.call("plan", f"{out}/sweep.yaml", "--json")[0])["trials"]
            self.assertEqual([(t["id"], t["axes"], t["ranks"]) for t in made], [(t["id"], t["axes"], t["ranks"]) for t in wanted])

    def test_a_line_break_in_a_path_is_refused(self):
        self.assertIn("Slurm cannot take this path", self.submit(out="runs/a\nb", code=3)[1])
        self.assertEqual(list((self.folder / "work").iterdir()), [])

    def test_ordinary_endings_are_passed_on(self):
        script = self.script("--shards", 2)
        for code in [0, 1, 4, 2, 70]:
            self.run_script(script, [code], code)
        self.assertEqual(self.asked(), [])

    def test_a_step_that_died_is_started_again(self):
        script = self.script("--shards", 2)
        error = self.run_script(script, [6, 137, 139, 253, 1], 1)
        self.assertEqual(error.count("the step died"), 4)
        error = self.run_script(script, [137] * 60, 137)
        self.assertIn("giving up", error)
        self.assertEqual(error.count("; start "), 50)

    def test_a_stopped_element_goes_back_into_the_queue_alone(self):
        script = self.script("--shards", 2)
        self.run_script(script, [75], 75)
        self.assertEqual(self.asked()[-1], "scontrol requeue 101_1")

    def test_where_requeue_is_switched_off(self):
        script = self.script("--shards", 2)
        (self.slurm / "denied").write_text("Requested operation is presently disabled for job 101\n")
        self.assertIn("requeue switched off", self.run_script(script, [75], 75))
        self.assertEqual(len([line for line in self.asked() if line.startswith("scontrol")]), 1)

    def test_what_was_cancelled_stays_so(self):
        script = self.script("--shards", 2)
        for answer in ["COMPLETING 19:53\n", "CANCELLED 1:00\n", ""]:
            self.assertIn("not put back", self.run_script(script, [75], 75, answer))
        self.assertEqual([line for line in self.asked() if line.startswith("scontrol")], [])

    def test_a_signal_to_the_shell_waits_for_the_step(self):
        script = self.script("--shards", 2)
        # The step signals its shell twice, goes on, and ends by itself; its own code counts.
        helper = self.bin / "nudge"
        helper.write_text('#!/bin/bash\nparent=$(awk \'{print $4}\' /proc/$PPID/stat)\nkill -USR2 $parent; /bin/sleep 0.3; kill -TERM $parent; /bin/sleep 0.5\n')
        helper.chmod(0o755)
        self.run_script(script, ["1 nudge"], 1)
        self.assertEqual(self.asked(), [])
        self.run_script(script, ["75 nudge"], 75)
        self.assertEqual(self.asked()[-1], "scontrol requeue 101_1")
        # A step that is killed while its job ends is not started again.
        self.assertNotIn("; start ", self.run_script(script, ["143 nudge", 0], 75))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        suite = unittest.defaultTestLoader.loadTestsFromName(sys.argv.pop(1), sys.modules["__main__"])
        sys.exit(not unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful())
    unittest.main()
