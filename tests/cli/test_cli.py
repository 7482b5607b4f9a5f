"""The program `moesweep` and jobs/local.sh from the outside: every subcommand, exit codes, messages, resume after SIGKILL."""
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from processes import processes_of

PROGRAM = os.environ["MOESWEEP_PROGRAM"]  # jobs/local.sh reads it too
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n"]
SUBCOMMANDS = ["doctor", "schema", "routers", "plan", "run", "train", "status", "aggregate", "results", "diff", "verify", "route", "bench", "retry", "submit", "cancel"]


# A trial whose weights take several seconds to be drawn, and 1.6 GB.
LARGE = """
base: models/testbed-tiny.yaml
data: data/synthetic8.yaml
model: {width: 512, heads: 4, expert_width: 1024}
train: {steps: 3, batch_sequences: 8, micro_batch_sequences: 8, warmup_steps: 1}
evaluation: {every_steps: 0, tokens: 1024}
"""


class Case(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.scratch.name)

    def tearDown(self):
        self.scratch.cleanup()

    def call(self, *arguments, ranks=0, code=0):
        """Runs the program in the scratch folder; gives standard output and error, and checks the exit code."""
        command = [*MPIRUN, str(ranks)] * (ranks > 0) + [PROGRAM, *map(str, arguments)]
        done = subprocess.run(command, cwd=self.folder, check=False, capture_output=True, text=True, timeout=200)
        self.assertEqual(done.returncode, code, f"{command}\n{done.stdout}\n{done.stderr}")
        return done.stdout, done.stderr

    def journal(self, folder):
        events = []
        for file in sorted((folder / "journal").glob("*.jsonl")):
            for line in file.read_text().splitlines():
                events.append(json.loads(line))
        return events


class Asking(Case):
    """What can be asked without running anything."""

    def test_help_of_each_subcommand_is_a_screen_with_an_example(self):
        self.assertIn("Exit codes", self.call("--help")[0])
        for name in SUBCOMMANDS:
            text = self.call(name, "--help")[0]
            self.assertIn("Example:", text, name)
            self.assertIn("moesweep " + name, text)
            self.assertLessEqual(len(text.splitlines()), 46, name)

    def test_version(self):
        self.assertRegex(self.call("--version")[0], r"^moesweep \d+\.\d+\.\d+ \(.+\)\n$")

    def test_doctor_names_build_and_machine(self):
        text = self.call("doctor")[0]
        for topic in ["libtorch", "hdf5", "mpi", "cpu", "gpus", "slurm", "configs", "data"]:
            self.assertIn(topic, text)
        findings = {finding["topic"]: finding for finding in json.loads(self.call("doctor", "--json")[0])}
        self.assertIn("parallel", findings["hdf5"]["text"])
        for finding in findings.values():
            self.assertEqual(finding["state"] == "ok", finding["mend"] == "", finding)

    def test_doctor_looks_for_data_where_run_does(self):
        for name in ["CMakeLists.txt", "configs/x", "build/data/words/manifest.json", "deep/x"]:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).touch()
        self.folder /= "deep"
        findings = {finding["topic"]: finding for finding in json.loads(self.call("doctor", "--json")[0])}
        self.assertTrue(findings["data"]["text"].endswith("build/data: words"), findings["data"])

    def test_schema_and_reference(self):
        schema = json.loads(self.call("schema")[0])
        self.assertIn("2020-12", schema["$schema"])
        self.assertIn("routing", self.call("schema", "--markdown")[0])

    def test_routers(self):
        lines = self.call("routers")[0].splitlines()
        names = [line.split()[0] for line in lines]
        self.assertIn("reference", names)
        self.assertIn("random", names)
        for name in names:
            self.assertIn(f"routing: routers/{name}.yaml", self.call("routers", "--explain", name)[0])

    def test_plan_counts_sizes_and_estimates(self):
        plan = json.loads(self.call("plan", "smoke", "seed=[1,2,2]", "--json")[0])
        self.assertEqual(plan["count"], 8)
        self.assertEqual(plan["duplicates_dropped"], 4)
        self.assertEqual(len({trial["id"] for trial in plan["trials"]}), 8)
        for trial in plan["trials"]:
            self.assertEqual(trial["training_tokens"], 10 * 16 * 64)
            self.assertGreater(trial["parameters_total"], trial["parameters_active"])
            self.assertGreater(trial["seconds"], 0)
            self.assertGreater(trial["memory_bytes"], 0)
        text = self.call("plan", "smoke")[0]
        self.assertIn("smoke: 4 trials (0 duplicates dropped, 0 excluded)", text)
        for trial in plan["trials"][:1]:
            self.assertIn("routing.balance.method", trial["axes"])

    def test_plan_of_a_part(self):
        plan = json.loads(self.call("plan", "quickstart", "--only", "seed == 1", "--skip", "routing.select == random", "--json", "train.steps=9")[0])
        self.assertEqual((plan["count"], len(plan["trials"]), plan["passed_over"]), (8, 8, 19))
        ids = [trial["id"] for trial in plan["trials"]]
        again = json.loads(self.call("plan", "quickstart", "train.steps=9", "--json", *(f"--only={i[:10]}" for i in ids))[0])
        self.assertEqual([trial["id"] for trial in again["trials"]], ids)
        self.assertIn("8 trials (0 duplicates dropped, 0 excluded, 19 passed over)",
                      self.call("plan", "quickstart", "--only=seed == 1", "--skip=routing.select == random")[0])

    def test_plan_lists_a_thousand_or_all(self):
        seeds = "seed={range: [1, 600, 1]}"  # of two routers
        (self.folder / "many.yaml").write_text("data.domains: [a, b]\ngrid: {routing.select: [top_k, random], seed: [1]}\n")
        text = self.call("plan", "many.yaml", seeds)[0]
        self.assertIn("... and 200 more: --all or --json lists them", text)
        self.assertIn("many: 1200 trials", text)
        plan = json.loads(self.call("plan", "many.yaml", seeds, "--json")[0])
        ids = [trial["id"] for trial in plan["trials"]]
        self.assertEqual((plan["count"], len(set(ids))), (1200, 1200))
        everything = self.call("plan", "many.yaml", seeds, "--all")[0]
        self.assertNotIn("more:", everything)
        words = [line.split()[0] for line in everything.splitlines() if line]
        self.assertEqual([word for word in words if word in set(ids)], ids)
        self.assertEqual([word for word in (line.split()[0] for line in text.splitlines() if line) if word in set(ids)], ids[:1000])

    def test_plan_tells_the_ratio_of_sizes(self):
        plan = json.loads(self.call("plan", "scale35x", "--json")[0])
        totals = [trial["parameters_total"] for trial in plan["trials"]]
        self.assertAlmostEqual(plan["parameter_ratio"], max(totals) / min(totals))
        self.assertGreaterEqual(plan["parameter_ratio"], 35)
        self.assertIn("a ratio of 35.", self.call("plan", "scale35x")[0])
        self.assertNotIn("ratio", self.call("plan", "smoke")[0])

    def test_plan_on_ranks(self):
        one, four = (json.loads(self.call("plan", "quickstart", "--ranks", n, "--json")[0])["seconds"] for n in (1, 4))
        self.assertLess(four, one)
        skipped = json.loads(self.call("plan", "smoke", "parallel.data=2", "--ranks", 1, "--json")[0])["skipped"]
        self.assertEqual(len(skipped), 4)
        self.assertIn("needs 2 ranks", skipped[0]["reason"])

    def test_plan_of_a_job_array(self):
        array = json.loads(self.call("plan", "quickstart", "--ranks", 2, "--shards", 3, "--max-array-size", 3, "--json")[0])["array"]
        self.assertEqual([(chunk["first"], chunk["last"], chunk["indices"]) for chunk in array["chunks"]], [(0, 1, "0-1"), (2, 2, "0-0")])
        self.assertEqual((array["jobs"], array["ranks"], array["requeues"]), (27, 2, False))
        self.assertRegex(array["walltime"], r"^\d\d:\d\d:00$")
        text = self.call("plan", "quickstart", "--ranks", 2, "--time-limit", "2min")[0]
        self.assertIn("chosen: ", text)
        self.assertIn("elements will be requeued", text)

    def test_plan_simulates(self):
        command = ["plan", "quickstart", "--simulate", "--ranks", 8, "--worlds", 2, "--noise", 0.3, "--crash", 0.05, "--failures-per-rank-hour", 1, "--walltime", "1h"]
        text = self.call(*command)[0]
        self.assertIn("simulated on 8 ranks in 2 worlds", text)
        self.assertEqual(text, self.call(*command)[0])
        result = json.loads(self.call(*command, "--json")[0])["simulation"]
        self.assertEqual(result["jobs_run"] + result["jobs_crashed"], 27)
        self.assertGreaterEqual(result["claims"], 27)
        calm = json.loads(self.call("plan", "quickstart", "--simulate", "--ranks", 8, "--json")[0])["simulation"]
        self.assertEqual((calm["jobs_run"], calm["claims"], calm["collisions"]), (27, 27, 0))
        self.assertGreaterEqual(calm["ratio"], 1)

    def test_plan_names_gangs_that_fit_the_memory(self):
        plan = json.loads(self.call("plan", "smoke", "--json")[0])
        self.assertNotIn("over_memory", plan)
        most = max(trial["memory_bytes"] for trial in plan["trials"])
        self.assertEqual(json.loads(self.call("plan", "smoke", "--memory-per-rank", str(int(most) + 1), "--json")[0])["over_memory"], [])
        tight = json.loads(self.call("plan", "smoke", "--memory-per-rank", str(int(most * 0.8)), "--json")[0])["over_memory"]
        self.assertTrue(tight)
        for trial in tight:
            self.assertGreater(trial["memory_bytes"], most * 0.8)
            self.assertLessEqual(trial["gang"]["memory_bytes"], most * 0.8)
        self.assertIn("no gang would do", self.call("plan", "smoke", "--memory-per-rank", "1K")[0])


class Errors(Case):
    """One message, where, what next; the documented exit code; nothing on standard output."""

    TABLE = (
        ([], 2, "subcommand"),
        (["frobnicate"], 2, "there is no subcommand 'frobnicate'"),
        (["plan"], 2, "SWEEP is required"),
        (["plan", "smoke", "--frob"], 2, "--frob"),
        (["plan", "smoke", "--ranks", "0"], 2, "--ranks"),
        (["plan", "smoke", "--time-limit", "soon", "--ranks", "1"], 2, "'soon' is no time"),
        (["plan", "smoke", "--simulate", "--ranks", "2", "--worlds", "9"], 2, "between one world and one for each rank"),
        (["plan", "smoke", "--memory-per-rank", "much"], 2, "--memory-per-rank"),
        (["plan", "nosuch"], 3, "nosuch"),
        (["plan", "smoke", "train.stesp=3"], 3, "train.steps"),
        (["plan", "smoke", "--only", "sede == 1"], 3, "--only: in the condition"),
        (["plan", "smoke", "--skip", "ffffffffffff"], 3, "--skip: no trial's id begins with ffffffffffff"),
        (["run", "smoke", "--skip", "seed > 0"], 3, "none of 4 trials is left"),
        (["plan", "smoke", "train.steps=1 / (${seed} - 1)"], 3, "division by zero"),
        (["plan", "smoke", "seed={range: [1, 900000, 1]}", "train.steps={range: [1, 100, 1]}"], 3, "more than 10000000 combinations"),
        (["plan", "smoke", "routing.top_k=99"], 3, "routing.top_k = 99"),
        (["routers", "--explain", "nosuch"], 2, "known presets: "),
        (["run", "smoke", "--shard", "2/2"], 2, "'2/2' is no shard"),
        (["run", "nosuch"], 3, "nosuch"),
        (["run", "smoke", "--out", "/proc/nowhere"], 4, "cannot make the sweep folder"),
        (["train", "nosuch.yaml"], 3, "nosuch.yaml"),
        (["status", "."], 4, "there is no plan.json"),
        (["aggregate", "."], 4, "there is no plan.json"),
        (["results", "nosuch.h5"], 4, "nosuch.h5"),
        (["verify", "nosuch.h5"], 4, "nosuch.h5"),
        (["diff", "nosuch.h5", "a", "b"], 4, "nosuch.h5"),
        (["diff", "nosuch.h5", "a"], 2, "OTHER is required"),
        (["status", ".", "--watch"], 4, "there is no plan.json"),
    )

    def test_table(self):
        for arguments, code, message in self.TABLE:
            with self.subTest(arguments=arguments):
                out, err = self.call(*arguments, code=code)
                self.assertEqual(out, "")
                self.assertIn(message, err)
                self.assertEqual(len(re.findall(r"^moesweep: \w+ error: ", err, re.MULTILINE)), 1, err)

    def test_several_ranks_say_it_once(self):
        _, err = self.call("run", "smoke", "routing.top_k=99", ranks=2, code=3)
        self.assertEqual(err.count("routing.top_k = 99"), 1, err)
        self.assertNotIn("[Rank", err)

    def test_data_that_is_not_there(self):
        _, err = self.call("run", "smoke", "data=data/languages8.yaml", "data.store=/nowhere", code=7)
        self.assertIn("moesweep-data build", err)

    def test_damaged_file_is_corrupt(self):
        file = self.folder / "sweep.h5"
        file.write_bytes(b"no HDF5 file at all")
        for name in ["results", "verify"]:
            _, err = self.call(name, file, code=5)
            self.assertIn(str(file), err)

    def test_world_too_small_skips_with_a_reason(self):
        out, err = self.call("run", "smoke", "parallel.data=3", ranks=2, code=1)
        self.assertIn("4 skipped", out)
        self.assertIn("needs 3 ranks (parallel.expert * parallel.data), this world has 2", err)
        out, _ = self.call("status", "runs/smoke", code=1)
        self.assertIn("this world has 2", out)

    def test_one_rank_world_in_a_slurm_step_of_several(self):
        os.environ["SLURM_STEP_NUM_TASKS"] = "2"
        try:
            _, err = self.call("run", "smoke", code=6)
        finally:
            del os.environ["SLURM_STEP_NUM_TASKS"]
        self.assertIn("srun --mpi=pmix", err)

    def test_a_full_standard_output_is_an_error(self):
        with open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run([PROGRAM, "plan", "smoke"], check=False, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        self.assertEqual(done.returncode, 4)
        self.assertIn("standard output", done.stderr)


class Data(Case):
    """A token store of two domains: it is trained on only as its manifest says it is."""

    def setUp(self):
        super().setUp()
        self.store = self.folder / "data/tiny"
        self.store.mkdir(parents=True)
        splits = []
        for domain, low in (("digits", 48), ("letters", 97)):
            for split, count in (("train", 6000), ("validation", 3000)):
                tokens = bytes(byte for i in range(count) for byte in (low + i * i % 7, 0))
                name = f"{domain}.{split}.u16"
                (self.store / name).write_bytes(tokens)
                splits.append({"domain": domain, "split": split, "file": name, "encoding": "raw", "dtype": "u16", "offset_bytes": 0, "first": 0,
                               "tokens": count, "documents": 1, "text_bytes": count, "sha256": hashlib.sha256(tokens).hexdigest()})
        manifest = {"format": "moesweep-tokens", "version": 1, "domains": ["digits", "letters"], "sources": ["d.txt", "l.txt"],
                    "tokenizer": {"name": "bytes", "file": None, "sha256": None, "pieces": 256, "end_of_document": 0}, "vocabulary": 256,
                    "validation_share": 0.05, "splits": splits}
        (self.store / "manifest.json").write_text(json.dumps(manifest))
        (self.folder / "tiny.yaml").write_text(
            "kind: store\nstore: tiny\ndomains: [digits, letters]\nsources: [d.txt, l.txt]\ntokenizer: bytes\nvocabulary: 256\nsequence_length: 64\n"
        )
        (self.folder / "sweep.yaml").write_text(
            "sweep: tiny\nbase: models/testbed-tiny.yaml\ndata: tiny.yaml\nmodel: {width: 32, heads: 2, expert_width: 16}\n"
            "train: {steps: 2, batch_sequences: 16, micro_batch_sequences: 2, warmup_steps: 1}\nevaluation: {every_steps: 2, tokens: 1024}\n"
            "points: [{routing: routers/reference.yaml}]\n"
        )
        self.before = {name: os.environ.get(name) for name in ("MOESWEEP_DATA", "XDG_CACHE_HOME")}
        os.environ["MOESWEEP_DATA"] = str(self.folder / "data")
        os.environ["XDG_CACHE_HOME"] = str(self.folder / "cache")

    def tearDown(self):
        for name, value in self.before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        super().tearDown()

    def change(self):
        path = self.store / "digits.train.u16"
        tokens = bytearray(path.read_bytes())
        tokens[100] ^= 1  # still a token of the vocabulary
        path.write_bytes(tokens)
        return path

    def expect_refusal(self, path, *arguments, **options):
        _, err = self.call(*arguments, code=5, **options)
        self.assertIn(str(path), err)
        self.assertIn("has another digest than the manifest says", err)
        self.assertIn("moesweep-data verify", err)

    def test_tokens_that_changed_after_the_build_are_not_trained_on(self):
        path = self.change()
        self.expect_refusal(path, "run", "sweep.yaml")
        self.expect_refusal(path, "run", "sweep.yaml", ranks=2)
        self.assertFalse(list(self.folder.glob("runs/tiny/trials/*/*")))

    def test_digests_are_remembered_unless_asked_for(self):
        time.sleep(2.2)  # what changed less than 2 s ago is not remembered
        out, _ = self.call("run", "sweep.yaml", ranks=2)
        self.assertIn("1 done", out)
        (cache,) = (self.folder / "cache/moesweep").glob("digests-*.json")
        remembered = json.loads(cache.read_text())
        self.assertEqual(len(remembered["files"]), 4)
        path = self.change()
        state = path.stat()
        entry = remembered["files"][path.name]
        for key, time_ns in (("modified", state.st_mtime_ns), ("changed", state.st_ctime_ns)):
            entry[key] = list(divmod(time_ns, 10**9))
        cache.write_text(json.dumps(remembered))
        config = next(self.folder.glob("runs/tiny/trials/*/*/config.yaml"))
        self.call("run", "sweep.yaml", "--out", "runs/believed")
        self.expect_refusal(path, "run", "sweep.yaml", "--out", "runs/verified", "--verify-data")
        out, _ = self.call("train", config, "--out", "runs/one", "--verify-data", code=1)
        self.assertIn("has another digest than the manifest says", json.loads(out)["reason"])

    def test_a_manifest_with_an_impossible_number_is_corrupt(self):
        manifest = json.loads((self.store / "manifest.json").read_text())
        manifest["splits"][1]["text_bytes"] = -7
        (self.store / "manifest.json").write_text(json.dumps(manifest))
        _, err = self.call("run", "sweep.yaml", code=5)
        self.assertIn(str(self.store / "manifest.json"), err)
        self.assertIn("splits[1].text_bytes: expected an integer from 0 to", err)


class Running(Case):
    def test_a_part_first_and_the_rest_later(self):
        ids = [trial["id"] for trial in json.loads(self.call("plan", "smoke", "--json")[0])["trials"]]
        chosen = {ids[1], ids[3]}
        self.call("run", "smoke", *(f"--only={name}" for name in sorted(chosen)), ranks=2)
        folder = self.folder / "runs/smoke"
        self.assertEqual({event["trial"] for event in self.journal(folder) if event["event"] == "started"}, chosen)
        self.call("run", "smoke", ranks=2)
        started = [event["trial"] for event in self.journal(folder) if event["event"] == "started"]
        self.assertEqual(sorted(started), sorted(ids))
        self.assertEqual(json.loads(self.call("status", folder, "--json")[0])["states"], {"done": 4})

    def test_run_twice_then_everything_after_it(self):
        out, err = self.call("run", "smoke", ranks=2)
        self.assertEqual(out, "runs/smoke: 4 done\n")
        folder = self.folder / "runs/smoke"
        for name in ["sweep.yaml", "plan.json"]:
            self.assertTrue((folder / name).is_file())
        out, err = self.call("run", "smoke", ranks=2)
        self.assertIn("nothing to do: all 4 trials", err)
        self.assertEqual(sum(event["event"] == "started" for event in self.journal(folder)), 4)

        status = json.loads(self.call("status", folder, "--json")[0])
        self.assertEqual(status["states"], {"done": 4})
        self.assertEqual({trial["step"] for trial in status["trials"]}, {10})

        self.call("aggregate", folder)
        self.assertIn("sound", self.call("verify", folder / "sweep.h5")[0])
        rows = json.loads(self.call("results", folder / "sweep.h5", "--json")[0])
        self.assertEqual([row["state"] for row in rows], ["done"] * 4)
        self.assertEqual([row["id"] for row in rows], sorted(row["id"] for row in rows))
        reference = next(row for row in rows if row["axes"]["routing.select"] == "reference")
        self.assertEqual(reference["metrics"]["purity_expert"], 1.0)
        for row in rows:
            metrics = row["metrics"]
            self.assertAlmostEqual(metrics["gap_to_reference.loss"], metrics["loss"] - reference["metrics"]["loss"], places=12)
            self.assertIn("greedy.loss", metrics)
        best = json.loads(self.call("results", folder / "sweep.h5", "--top", "loss")[0])
        self.assertEqual([row["id"] for row in best], [row["id"] for row in sorted(rows, key=lambda row: row["metrics"]["loss"])])
        purest = json.loads(self.call("results", folder / "sweep.h5", "--top", "purity_expert")[0])
        self.assertEqual(purest[0]["id"], reference["id"])
        _, err = self.call("results", folder / "sweep.h5", "--top", "beauty", code=2)
        self.assertIn("known metrics: ", err)

        # Two trials side by side, by a beginning of their ids.
        one, other = rows[0], rows[1]
        short = [next(row["id"][:n] for n in range(1, 17) if sum(r["id"].startswith(row["id"][:n]) for r in rows) == 1) for row in (one, other)]
        diff = json.loads(self.call("diff", folder / "sweep.h5", *short, "--json")[0])
        self.assertEqual([trial["id"] for trial in diff["trials"]], [one["id"], other["id"]])
        self.assertEqual(diff["config"], {axis: [one["axes"][axis], other["axes"][axis]] for axis in one["axes"] if one["axes"][axis] != other["axes"][axis]})
        for name in set(one["metrics"]) | set(other["metrics"]):
            self.assertEqual(diff["metrics"][name], [one["metrics"].get(name), other["metrics"].get(name)])
        text = self.call("diff", folder / "sweep.h5", *short)[0]
        for word in [one["id"], other["id"], "purity_expert", *diff["config"]]:
            self.assertIn(word, text)
        self.assertIn("the configs are equal", self.call("diff", folder / "sweep.h5", one["id"], one["id"])[0])
        _, err = self.call("diff", folder / "sweep.h5", "nosuch", one["id"], code=2)
        self.assertIn("there is no trial 'nosuch'", err)
        _, err = self.call("diff", folder / "sweep.h5", "", one["id"], code=2)
        self.assertIn("is the beginning of 4 trials", err)

        # A trial's own config.yaml reproduces it, bit by bit on the same layout.
        trial = rows[1]["id"]
        again = json.loads(self.call("train", folder / "trials" / trial[:2] / trial / "config.yaml", "--out", "again")[0])
        self.assertEqual(again["id"], trial)
        self.assertEqual(again["state"], "done")
        self.assertEqual(again["metrics"]["loss"], rows[1]["metrics"]["loss"])
        _, err = self.call("train", folder / "trials" / trial[:2] / trial / "config.yaml", "--out", "again")
        self.assertIn("nothing to do", err)

    def test_top_of_metrics_of_capacity(self):
        self.call("run", "smoke", "train.steps=2", "routing.capacity.factor=[0.5,1.0]")
        self.call("aggregate", "runs/smoke")
        for metric, sign in [("drop_rate", 1), ("overflow_rate", 1), ("greedy.drop_rate", 1), ("causal", -1), ("utilisation", -1)]:
            rows = json.loads(self.call("results", "runs/smoke/sweep.h5", "--top", metric)[0])
            values = [sign * row["metrics"][metric] for row in rows if row["metrics"].get(metric) is not None]
            self.assertEqual(values, sorted(values), metric)
            self.assertGreater(len(values), 0)

    def test_watch_shows_a_running_trial_until_all_have_ended(self):
        command = [PROGRAM, "run", "smoke", "train.steps=150", "--progress-seconds", "0.05"]
        launch = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.time() + 60
        while time.time() < deadline and not (self.folder / "runs/smoke/plan.json").exists():
            time.sleep(0.02)
        out, _ = self.call("status", "runs/smoke", "--watch", "--json", "--interval", "0.05")
        self.assertEqual(launch.wait(timeout=60), 0)
        seen = [json.loads(line) for line in out.splitlines()]
        self.assertEqual(seen[-1]["states"], {"done": 4})
        self.assertTrue(seen[-1]["all_ended"])
        self.assertEqual([status["all_ended"] for status in seen[:-1]], [False] * (len(seen) - 1))
        running = [trial for status in seen for trial in status["trials"] if trial["state"] == "running" and trial["tokens_per_second"]]
        self.assertTrue(running, "no running trial told its speed")
        for trial in running:
            self.assertGreater(trial["step"], 0)
            self.assertLessEqual(trial["step"], trial["steps"])
            self.assertGreater(trial["loss"], 0)
        self.assertTrue([status for status in seen if status["seconds_left"] and status["tokens_per_second"] > 0])
        self.assertIn("4 done", self.call("status", "runs/smoke", "--watch")[0])

    def test_a_signal_ends_the_watch_with_the_code_of_now(self):
        self.call("run", "smoke", "train.steps=2", "train.loss_limit=1e-6", code=1)
        for file in (self.folder / "runs/smoke/journal").glob("*.jsonl"):
            lines = file.read_text().splitlines(keepends=True)
            file.write_text("".join(lines[:2]))  # one has diverged, the others wait
        command = [PROGRAM, "status", "runs/smoke", "--watch", "--interval", "60"]
        watch = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        text = ""
        while "what went wrong" not in text:
            text += watch.stdout.readline()
        self.assertIn("3 pending", text)
        watch.send_signal(signal.SIGTERM)
        self.assertEqual(watch.wait(timeout=10), 1)
        watch.stdout.close()

    def test_failed_trial_is_a_row(self):
        out, _ = self.call("run", "smoke", "train.loss_limit=1e-6", code=1)
        self.assertIn("4 diverged", out)
        self.call("status", "runs/smoke", code=1)
        self.call("aggregate", "runs/smoke", ranks=2)
        rows = json.loads(self.call("results", "runs/smoke/sweep.h5")[0])
        for row in rows:
            self.assertEqual(row["state"], "diverged")
            self.assertIn("loss", row["reason"])

    def test_shards_cover_the_sweep_and_share_the_folder(self):
        for shard in ["0/2", "1/2"]:
            self.call("run", "smoke", "--shard", shard)
        started = [event["trial"] for event in self.journal(self.folder / "runs/smoke") if event["event"] == "started"]
        self.assertEqual(len(started), 4)
        self.assertEqual(len(set(started)), 4)

    def test_gang_of_two_ranks_which_stays_until_another_is_given(self):
        out, _ = self.call("run", "smoke", "parallel.data=2", ranks=2)
        self.assertIn("4 done", out)
        for overrides, ranks in [([], 2), (["parallel.data=1"], 1)]:
            out, _ = self.call("run", "smoke", *overrides)
            self.assertIn("4 done", out)
            plan = json.loads((self.folder / "runs/smoke/plan.json").read_text())
            self.assertEqual({trial["cost"]["ranks"] for trial in plan["trials"]}, {ranks}, overrides)
        self.assertEqual({trial["earlier_layouts"][0]["data"] for trial in plan["trials"]}, {2})

    def test_names_that_a_shell_would_take_apart(self):
        name = "a b;$(touch hit)'\"ü"
        out, _ = self.call("run", "smoke", "train.steps=2", "train.warmup_steps=1", "--out", name)
        self.assertIn("4 done", out)
        self.assertTrue((self.folder / name / "plan.json").is_file())
        self.assertFalse((self.folder / "hit").exists())

    def test_local_script_runs_a_sweep_to_its_aggregate(self):
        script = pathlib.Path(__file__).resolve().parents[2] / "jobs/local.sh"
        command = ["bash", script, "smoke", "--ranks", "2", "train.steps=2", "train.warmup_steps=1"]
        (self.folder / "json.py").write_text("open('OWNED', 'w')\nraise SystemExit('not a module of this folder')\n")
        for _ in range(2):
            done = subprocess.run(command, cwd=self.folder, check=False, capture_output=True, text=True, timeout=200)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn("runs/smoke/sweep.h5: sound", done.stdout)
            self.assertFalse((self.folder / "OWNED").exists(), "a json.py of the person's folder was run")
        self.assertIn("nothing to do", done.stderr)
        broken = subprocess.run([*command[:3], "train.stesp=1"], cwd=self.folder, check=False, capture_output=True, text=True, timeout=60)
        self.assertEqual(broken.returncode, 3, broken.stderr)
        self.assertIn("train.steps", broken.stderr)


class Killing(Case):
    SWEEP = ("smoke", "train.steps=120", "seed=[1,2,3]")

    def start(self, ranks):
        command = [*MPIRUN, str(ranks), PROGRAM, "run", *self.SWEEP]
        return subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def wait_for_files(self, count):
        deadline = time.time() + 100
        while time.time() < deadline:
            files = list(self.folder.glob("runs/smoke/trials/*/*/trial.h5"))
            running = list(self.folder.glob("runs/smoke/trials/*/*/attempt-1"))
            if len(files) >= count and len(running) > len(files):
                return {file.parent.name: file.stat().st_mtime_ns for file in files}
            time.sleep(0.02)
        self.fail("the sweep did not come that far")

    def test_kill_9_then_run_again_loses_nothing_and_repeats_nothing(self):
        launch = self.start(2)
        finished = self.wait_for_files(3)
        for process in list(processes_of(launch.pid)):
            os.kill(process, signal.SIGKILL)
        launch.wait()
        out, _ = self.call("run", *self.SWEEP, ranks=2)
        self.assertIn("12 done", out)
        for trial, when in finished.items():
            file = self.folder / "runs/smoke/trials" / trial[:2] / trial / "trial.h5"
            self.assertEqual(file.stat().st_mtime_ns, when, "a finished trial was made again")
        events = self.journal(self.folder / "runs/smoke")
        done = [event["trial"] for event in events if event["event"] == "ended" and event["state"] == "done"]
        self.assertEqual(len(done), 12)
        self.assertEqual(len(set(done)), 12)
        crashed = [event for event in events if event["event"] == "ended" and event["state"] == "crashed"]
        self.assertLessEqual(len(crashed), 2)
        # The same numbers as an undisturbed run.
        self.call("aggregate", "runs/smoke")
        self.call("run", *self.SWEEP, "--out", "undisturbed")
        self.call("aggregate", "undisturbed")
        disturbed, undisturbed = (json.loads(self.call("results", file)[0]) for file in ["runs/smoke/sweep.h5", "undisturbed/sweep.h5"])
        for one, other in zip(disturbed, undisturbed):
            for name in ["loss", "purity_expert", "greedy.loss"]:
                self.assertEqual(one["metrics"][name], other["metrics"][name], one["id"])

    def test_signal_stops_with_75_and_the_next_run_goes_on(self):
        command = [PROGRAM, "run", *self.SWEEP, "train.steps=2000"]
        launch = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.time() + 60
        while time.time() < deadline and not list(self.folder.glob("runs/smoke/trials/*/*/attempt-1")):
            time.sleep(0.05)
        time.sleep(1.0)
        launch.send_signal(signal.SIGTERM)
        self.assertEqual(launch.wait(timeout=60), 75)
        states = [event["state"] for event in self.journal(self.folder / "runs/smoke") if event["event"] == "ended"]
        self.assertEqual(states[-1], "preempted")
        self.assertTrue(list(self.folder.glob("runs/smoke/trials/*/*/checkpoint.h5")))


    def test_a_signal_ends_the_making_of_a_large_model(self):
        (self.folder / "large.yaml").write_text("sweep: large\n" + LARGE)
        (self.folder / "alone.yaml").write_text(LARGE)
        for command, log in [(["run", "large.yaml"], "runs/large/trials/*/*/log.txt"), (["train", "alone.yaml", "--out", "alone"], "alone/log.txt")]:
            launch = subprocess.Popen([PROGRAM, *command], cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                deadline = time.time() + 100
                while time.time() < deadline and not list(self.folder.glob(log)):
                    time.sleep(0.01)
                launch.send_signal(signal.SIGTERM)
                self.assertEqual(launch.wait(timeout=150), 75)
            finally:
                launch.kill()
                launch.wait()
            text = next(iter(self.folder.glob(log))).read_text()
            self.assertIn("preempted", text)
            self.assertIn("while the model was made, before any step", text)
            self.assertNotIn("step 1/", text)
        self.assertFalse(list(self.folder.glob("**/checkpoint.h5")), "a model that was never trained needs none")
        ended = [event for event in self.journal(self.folder / "runs/large") if event["event"] == "ended"]
        self.assertEqual([event["state"] for event in ended], ["preempted"])


class Named(Case):
    """Files of other trials that a sweep names and that cannot be used: their trials pay alone. Warnings about numbers."""

    FILE = """
base: models/testbed-tiny.yaml
data: data/synthetic8.yaml
model: {width: 32, heads: 2, expert_width: 16}
train: {steps: 40, batch_sequences: 16, micro_batch_sequences: 2, warmup_steps: 1}
evaluation: {every_steps: 0, tokens: 1024}
points:
  - {seed: 1}
  - {seed: 2, train.init_from: missing.h5}
  - {seed: 3, train.init_from: text.h5}
  - {seed: 4, routing.learning: imported, routing.import_from: cut.h5}
  - {seed: 5, routing.select: replay, routing.replay_from: text.h5}
  - {seed: 6}
"""

    def setUp(self):
        super().setUp()
        (self.folder / "named.yaml").write_text("sweep: named\n" + self.FILE)
        (self.folder / "text.h5").write_text("no HDF5 at all")
        (self.folder / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(1000))  # looks like one until it is read

    def test_plan_and_run_tell_before_anything_runs(self):
        plan = json.loads(self.call("plan", "named.yaml", "--json")[0])
        ids = {trial["axes"]["seed"]: trial["id"] for trial in plan["trials"]}
        expected = [("routing.replay_from", "text.h5", "is no HDF5 file", 5), ("train.init_from", "missing.h5", "is not there", 2), ("train.init_from", "text.h5", "is no HDF5 file", 3)]
        self.assertEqual(plan["problems"], [{"key": key, "file": file, "problem": problem, "trials": 1, "ids": [ids[seed]]} for key, file, problem, seed in expected])
        sentences = [f"{key} names a file that {problem}: {file} (1 trial: {ids[seed]})" for key, file, problem, seed in expected]
        text = self.call("plan", "named.yaml")[0]
        for sentence in sentences:
            self.assertIn("warning: " + sentence + "\n", text)
        _, err = self.call("run", "named.yaml", "train.steps=1", "--only=seed == 2", code=1)
        self.assertIn("train.init_from names a file that is not there: missing.h5 (1 trial: ", err)
        self.assertNotIn("text.h5", err)
        self.assertEqual(json.loads(self.call("plan", "smoke", "--json")[0])["problems"], [])

    def expect_states(self, *overrides, ranks):
        out, _ = self.call("run", "named.yaml", "train.steps=2", *overrides, ranks=ranks, code=1)
        self.assertIn("2 done, 4 failed", out)
        ended = [event for event in self.journal(self.folder / "runs/named") if event["event"] == "ended"]
        self.assertEqual(len(ended), 6)
        reasons = sorted(event["reason"] for event in ended if event["state"] == "failed")
        self.assertRegex(reasons[0], r"^cut\.h5: routing\.import_from names a file that cannot be used: ")
        self.assertEqual(reasons[1], "missing.h5: train.init_from names a file that is not there")
        self.assertEqual(reasons[2:], [f"text.h5: {key} names a file that is no HDF5 file" for key in ["routing.replay_from", "train.init_from"]])
        # They are over: nothing is tried again, and nothing else is lost.
        out, _ = self.call("run", "named.yaml", "train.steps=2", *overrides, ranks=ranks, code=1)
        self.assertIn("2 done, 4 failed", out)
        self.assertEqual(len([event for event in self.journal(self.folder / "runs/named") if event["event"] == "ended"]), 6)

    def test_their_trials_fail_alone(self):
        self.expect_states(ranks=0)

    def test_their_trials_fail_alone_on_every_rank_of_a_gang(self):
        self.expect_states("parallel.data=2", ranks=2)

    def test_train_warns_of_a_loss_that_guesses_have_too(self):
        (self.folder / "one.yaml").write_text(self.FILE.split("points:")[0])
        trained = json.loads(self.call("train", "one.yaml", "--out", "trained")[0])
        self.assertEqual(trained["warnings"], [], trained["metrics"]["loss"])
        guessing = ["train", "one.yaml", "train.steps=1", "train.learning_rate=1e-12", "--out", "guessing"]
        for _ in range(2):  # made, then found
            guesses = json.loads(self.call(*guessing)[0])
            self.assertEqual((guesses["state"], guesses["warnings"]), ("done", ["no_better_than_uniform"]), guesses["metrics"]["loss"])


class Gangs(Case):
    """One trial whose experts are spread over ranks: a rank that fails leaves no other one hanging."""

    FILE = """
sweep: gang
base: models/testbed-tiny.yaml
data: data/synthetic8.yaml
routing: {balance: {method: expert_bias, rate: 2e-2, scope: global_batch}, score: sigmoid}
train: {steps: 150, warmup_steps: 10, batch_sequences: 16, micro_batch_sequences: 4}
evaluation: {every_steps: 50, tokens: 2048}
checkpoint: {every_steps: 25}
parallel: {expert: 2}
"""
    SWEEP = ("gang.yaml",)

    def setUp(self):
        super().setUp()
        (self.folder / "gang.yaml").write_text(self.FILE)

    def disturb(self, number):
        """Runs the trial, sends one rank the signal once it trains, and gives exit code and messages when all have ended."""
        command = [*MPIRUN, "2", PROGRAM, "run", *self.SWEEP, "comm.timeout_seconds=2", "--progress-seconds", "0"]
        with open(self.folder / "messages", "w", encoding="utf-8") as messages:
            launch = subprocess.Popen(command, cwd=self.folder, stdout=messages, stderr=messages, start_new_session=True)
        deadline = time.time() + 100
        while not any(event["event"] == "progress" for event in self.journal(self.folder / "runs/gang")):
            self.assertTrue(launch.poll() is None and time.time() < deadline, (self.folder / "messages").read_text())
            time.sleep(0.02)
        ranks = [process for process in processes_of(launch.pid) if process != launch.pid]
        os.kill(max(ranks), number)
        code = launch.wait(timeout=100)
        # A process that was killed may need a moment to be gone on a loaded machine.
        deadline = time.time() + 20
        while list(processes_of(launch.pid)) and time.time() < deadline:
            time.sleep(0.1)
        self.assertEqual(list(processes_of(launch.pid)), [], "somebody was left behind")
        return code, (self.folder / "messages").read_text()

    def resume(self):
        self.call("run", *self.SWEEP, ranks=2)
        self.call("run", *self.SWEEP, "--out", "undisturbed", ranks=2)
        found = []
        for folder in ["runs/gang", "undisturbed"]:
            self.call("aggregate", folder)
            found.append(json.loads(self.call("results", folder + "/sweep.h5", "--json")[0])[0]["metrics"])
        for name in ["loss", "purity_expert", "greedy.loss"]:
            self.assertEqual(found[0][name], found[1][name], name)

    def test_a_killed_rank_ends_all_and_the_resume_tells_where_they_were(self):
        code, _ = self.disturb(signal.SIGKILL)
        self.assertNotEqual(code, 0)
        self.resume()
        reasons = [event["reason"] for event in self.journal(self.folder / "runs/gang") if event["event"] == "ended" and event["state"] == "crashed"]
        self.assertEqual(len(reasons), 1, reasons)
        self.assertRegex(reasons[0], r"process \d+ on .* is gone; rank 0 was (in|past) '.+', its collective number \d+; rank 1 was (in|past) '")

    def test_a_stopped_rank_is_named_by_the_one_that_waits(self):
        code, messages = self.disturb(signal.SIGSTOP)
        self.assertEqual(code, 6, messages)
        self.assertRegex(messages, r"\[Rank [01]/2\] waited longer than 2 s in the collective '.+': another rank is gone or stuck")
        self.assertTrue(any(event["event"] == "watchdog" for event in self.journal(self.folder / "runs/gang")))
        self.resume()

    def test_an_aborted_rank_ends_all(self):
        code, messages = self.disturb(signal.SIGABRT)
        self.assertNotEqual(code, 0, messages)
        self.resume()

    def test_experts_that_cannot_be_spread_alike(self):
        _, err = self.call("plan", "gang.yaml", "parallel.expert=5", code=3)
        self.assertIn("parallel.expert = 5 must divide model.experts", err)


class Faults(Case):
    """Trials that die, hang, fail, leak or take too long among healthy ones: only they pay, and the others lose nothing."""

    SWEEP = ("smoke", "train.steps=30", "checkpoint.every_steps=5")

    def setUp(self):
        super().setUp()
        plan = json.loads(self.call("plan", *self.SWEEP, "--json")[0])
        self.ids = [trial["id"] for trial in plan["trials"]]

    def run_until_it_ends(self, *options, ranks=2):
        """Starts the sweep again, as a job script does, while its step dies. Gives the last exit code, how often it was started, all messages."""
        messages = ""
        for starts in range(1, 12):
            command = [*MPIRUN, str(ranks), PROGRAM, "run", *self.SWEEP, *map(str, options)]
            done = subprocess.run(command, cwd=self.folder, check=False, capture_output=True, text=True, timeout=100)
            messages += done.stdout + done.stderr
            if done.returncode != 6 and done.returncode < 128:
                return done.returncode, starts, messages
        self.fail("it was started eleven times\n" + messages)

    def states(self):
        trials = json.loads(self.call("status", "runs/smoke", "--json", code=None)[0])["trials"]
        return {self.ids.index(trial["id"]): trial for trial in trials}

    def call(self, *arguments, ranks=0, code=0):
        if code is not None:
            return super().call(*arguments, ranks=ranks, code=code)
        done = subprocess.run([PROGRAM, *map(str, arguments)], cwd=self.folder, check=False, capture_output=True, text=True, timeout=100)
        return done.stdout, done.stderr

    def assert_culprit(self, culprit, state):
        standing = self.states()
        self.assertEqual({number: trial["state"] for number, trial in standing.items()},
                         {number: state if number == culprit else "done" for number in range(len(self.ids))})
        return "" if culprit is None else standing[culprit]["reason"]

    def test_a_trial_that_kills_its_step_pays_alone(self):
        code, starts, messages = self.run_until_it_ends("--inject", "kill@trial=1,step=8")
        self.assertEqual(code, 1, messages)
        # Beside others it is a suspect, for nothing; alone (or when the others ended before the step did) it has a budget of two further attempts.
        self.assertIn(starts, (4, 5), messages)
        self.assertIn("its log ends:", self.assert_culprit(1, "crashed"))
        self.assertIn("nothing to do", self.call("run", *self.SWEEP, code=1)[1])
        self.assertIn("1 trial is pending again", self.call("retry", "runs/smoke", "--state", "crashed")[0])
        self.call("run", *self.SWEEP)
        self.assert_culprit(None, "done")

    def test_one_crash_costs_nothing_but_time(self):
        code, starts, messages = self.run_until_it_ends("--inject", "abort@trial=2,step=8,attempt=1")
        self.assertEqual((code, starts), (0, 2), messages)
        # Its numbers are those of an undisturbed run.
        self.call("run", *self.SWEEP, "--out", "undisturbed")
        found = []
        for folder in ["runs/smoke", "undisturbed"]:
            self.call("aggregate", folder)
            found.append({row["id"]: row["metrics"]["loss"] for row in json.loads(self.call("results", folder + "/sweep.h5", "--json")[0])})
        self.assertEqual(*found)

    def test_a_trial_that_aborts_names_itself(self):
        code, starts, messages = self.run_until_it_ends("--inject", "abort@trial=1,step=8")
        self.assertEqual((code, starts), (1, 4), messages)  # three that count, however many others ran beside it
        reason = self.assert_culprit(1, "crashed")
        self.assertIn("died of SIGABRT", reason)
        self.assertIn("its log ends:", reason)
        self.assertFalse([event for event in self.journal(self.folder / "runs/smoke") if event.get("suspect")])

    def test_a_hanging_trial_is_named_and_the_others_go_on(self):
        code, starts, messages = self.run_until_it_ends("--inject", "hang@trial=1,step=8", "--stall-timeout", "4")
        self.assertEqual((code, starts), (1, 2), messages)
        self.assertIn("no sign of life for 4 s", self.assert_culprit(1, "timed_out"))
        innocent = [event for event in self.journal(self.folder / "runs/smoke") if event["event"] == "ended" and event["state"] == "preempted"]
        for event in innocent:
            self.assertFalse(event["charged"])

    def test_a_hanging_rank_of_a_gang(self):
        code, _, messages = self.run_until_it_ends("parallel.data=2", "--inject", "hang@trial=1,step=8,rank=1", "--stall-timeout", "4")
        self.assertEqual(code, 1, messages)
        self.assert_culprit(1, "timed_out")

    def test_an_exception_and_numbers_that_are_none(self):
        code, starts, messages = self.run_until_it_ends("--inject", "exception@trial=0,step=8", "--inject", "nan@trial=3,step=8")
        self.assertEqual((code, starts), (1, 1), messages)
        states = self.states()
        self.assertEqual((states[0]["state"], states[0]["reason"]), ("failed", "injected exception"))
        self.assertEqual(states[3]["state"], "diverged")
        self.assertEqual([states[1]["state"], states[2]["state"]], ["done", "done"])

    def test_a_fault_in_a_single_trial(self):
        self.call("run", *self.SWEEP, "train.steps=5", "--only", self.ids[0][:8], code=3)  # another length is another trial
        plan = json.loads(self.call("plan", *self.SWEEP, "train.steps=5", "--json")[0])["trials"][0]["id"]
        self.call("run", *self.SWEEP, "train.steps=5", "--only", plan)
        config = next(self.folder.glob("runs/smoke/trials/*/*/config.yaml"))
        out, _ = self.call("train", config, "--out", "one", "--inject", "nan@step=3", code=1)
        self.assertEqual((json.loads(out)["id"], json.loads(out)["state"]), (plan, "diverged"))
        self.assertEqual(json.loads(self.call("train", config, "--out", "two")[0])["state"], "done")

    def test_a_leak_ends_at_the_limit(self):
        code, starts, messages = self.run_until_it_ends("--inject", "leak@trial=1,step=8", "--memory-limit", "2GiB")
        self.assertEqual((code, starts), (1, 1), messages)
        self.assert_culprit(1, "out_of_memory")

    def test_a_slow_trial_is_timed_out_with_a_checkpoint(self):
        options = ("--inject", "slow@trial=1,seconds=0.5", "--trial-timeout", "4")
        code, starts, messages = self.run_until_it_ends(*options)
        self.assertEqual((code, starts), (1, 1), messages)
        self.assertIn("--trial-timeout", self.assert_culprit(1, "timed_out"))
        trial = self.folder / "runs/smoke/trials" / self.ids[1][:2] / self.ids[1]
        self.assertTrue((trial / "checkpoint.h5").exists())
        self.call("retry", "runs/smoke", "--state", "timed_out")
        self.call("run", *self.SWEEP)
        self.assert_culprit(None, "done")

    def test_a_disk_that_is_full_costs_no_trial_anything(self):
        code, _, messages = self.run_until_it_ends("--inject", "full_disk@trial=1,step=4,attempt=1", ranks=1)
        self.assertEqual(code, 4, messages)
        self.assertIn("run the same command again", messages)
        self.call("run", *self.SWEEP, "--retries", "crashed=0")
        self.assert_culprit(None, "done")

    def test_too_many_failures_end_the_sweep(self):
        faults = [word for number in range(4) for word in ("--inject", f"exception@trial={number},step=2")]
        out, err = self.call("run", *self.SWEEP, *faults, "--max-failures", "1", code=1)
        self.assertIn("too many trials failed", err)
        self.assertIn("2 failed, 2 pending", out)

    def test_a_deadline_stops_with_75_and_the_next_run_goes_on(self):
        out, _ = self.call("run", *self.SWEEP, "train.steps=100000", "--deadline", "4", code=75)
        self.assertIn("preempted", out)
        self.assertNotIn("failed", out)

    def test_words_that_are_no_limits(self):
        for option, word in [("--deadline", "soon"), ("--trial-timeout", "-1"), ("--stall-timeout", "1:99"), ("--memory-limit", "2 horses"),
                             ("--retries", "done=1"), ("--inject", "explode"), ("--max-failures", "-1")]:
            _, err = self.call("run", "smoke", option, word, code=2)
            self.assertIn(option, err, option)
        self.call("retry", "nowhere", code=4)


class Trust(Case):
    """A sweep folder into which others wrote, or of which a file cannot be read just now."""

    ONE = ["run", "smoke", "train.steps=4", "evaluation.every_steps=4"]

    def sweep(self, *more, code=0, **options):
        return self.call(*self.ONE, *more, code=code, **options)

    def setUp(self):
        super().setUp()
        self.sweep()
        self.runs = self.folder / "runs/smoke"
        self.trials = sorted(file.parent for file in self.runs.glob("trials/*/*/trial.h5"))
        self.assertGreaterEqual(len(self.trials), 1)

    def test_an_unreadable_file_is_left_alone_and_the_run_ends_with_4(self):
        victim = self.trials[0] / "trial.h5"
        whole = victim.read_bytes()
        victim.unlink()
        victim.symlink_to("trial.h5")  # to itself: nobody can open it
        journal = self.journal(self.runs)
        out, err = self.sweep(code=4)
        self.assertIn("1 unreadable", out)
        self.assertIn("moesweep: io error: 1 trial was left alone", err)
        self.assertIn(f"{victim.relative_to(self.folder)}: ", err)
        self.assertTrue(victim.is_symlink())
        self.assertEqual(self.journal(self.runs), journal)
        # Others run: a trial that is added ends well.
        out, err = self.sweep("seed=[1,2]", code=4)
        self.assertIn("1 unreadable", out)
        self.assertEqual(len(list(self.runs.glob("trials/*/*/config.yaml"))), 2 * len(self.trials))
        states = json.loads(self.call("status", self.runs, "--json", code=1)[0])["states"]
        self.assertEqual(states, {"done": 2 * len(self.trials) - 1, "unreadable": 1})
        self.assertIn("unreadable", self.call("status", self.runs, code=1)[0])
        self.assertIn(str(victim.relative_to(self.folder)), self.call("aggregate", "runs/smoke", code=4)[1])
        self.assertFalse((self.runs / "sweep.h5").exists())
        victim.unlink()
        victim.write_bytes(whole)
        self.sweep("seed=[1,2]")
        self.assertEqual(victim.read_bytes(), whole)

    def test_on_two_ranks_too(self):
        victim = self.trials[0] / "trial.h5"
        victim.unlink()
        victim.symlink_to("trial.h5")
        err = self.sweep("seed=[1,2,3]", ranks=2, code=4)[1]
        self.assertEqual(err.count("moesweep: io error"), 1)
        self.assertTrue(victim.is_symlink())

    def test_a_damaged_file_is_kept_and_the_trial_runs_again(self):
        victim = self.trials[0] / "trial.h5"
        victim.write_bytes(b"torn")
        self.sweep()
        self.assertEqual((self.trials[0] / "trial.h5.damaged").read_bytes(), b"torn")
        self.call("verify", victim)

    def test_lines_and_files_of_others_in_the_journal_are_listed(self):
        trial = self.trials[0].name
        lines = [{"event": "started", "trial": trial, "attempt": 2, "owner": {"process": "x"}},
                 {"event": "ended", "trial": trial, "attempt": 2147483648, "state": "preempted"},
                 {"event": "ended", "trial": trial, "attempt": "many", "state": "preempted"}]
        (self.runs / "journal/foreign.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "x\n" * 5)
        os.mkfifo(self.runs / "journal/pipe.jsonl")
        (self.runs / "journal/zero.jsonl").symlink_to("/dev/zero")
        text = self.call("status", "runs/smoke")[0]
        self.assertIn("journal: 10 problems", text)
        self.assertIn("foreign.jsonl:1: ", text)
        self.assertIn("and 5 more: --json lists them", text)
        told = json.loads(self.call("status", "runs/smoke", "--json")[0])
        self.assertEqual(len(told["problems"]), 10)
        self.assertEqual(told["states"], {"done": len(self.trials)})
        self.assertIn("journal: ", self.sweep()[1])
        self.call("aggregate", "runs/smoke")

    def test_attempts_made_by_hand_hide_nothing(self):
        for name in ["attempt-2147483647", "attempt-999999999999"]:
            (self.trials[0] / name).mkdir()
        before = (self.trials[0] / "trial.h5").read_bytes()
        self.assertIn("nothing to do", self.sweep()[1])
        self.assertEqual((self.trials[0] / "trial.h5").read_bytes(), before)

    def test_a_plan_whose_ids_leave_the_folder_renames_nothing(self):
        outside = self.folder / "outside"
        outside.mkdir()
        (outside / "trial.h5").write_text("precious")
        plan = json.loads((self.runs / "plan.json").read_text())
        plan["trials"][0]["id"] = "../../../../outside"
        (self.runs / "plan.json").write_text(json.dumps(plan))
        (self.runs / "trials/..").mkdir(exist_ok=True)
        (self.runs / "journal/foreign.jsonl").write_text(
            json.dumps({"event": "ended", "trial": "../../../../outside", "attempt": 1, "state": "diverged"}) + "\n")
        for arguments in [["retry", "runs/smoke", "--state", "diverged"], ["status", "runs/smoke"], ["aggregate", "runs/smoke"]]:
            self.assertIn("runs/smoke/plan.json: trials[0].id: expected the 16 hexadecimal digits of a trial", self.call(*arguments, code=5)[1])
        self.assertEqual((outside / "trial.h5").read_text(), "precious")

    def test_no_better_than_uniform_is_said_wherever_the_trial_is_shown(self):
        out, err = self.call("run", "smoke", "train.steps=2", "evaluation.every_steps=2", "train.learning_rate=1e-9", "--out", "runs/idle")
        self.assertIn("warning: no_better_than_uniform", err)
        self.assertIn("no_better_than_uniform", self.call("status", "runs/idle")[0])
        told = json.loads(self.call("status", "runs/idle", "--json")[0])
        self.assertEqual({tuple(trial["warnings"]) for trial in told["trials"]}, {("no_better_than_uniform",)})
        self.call("aggregate", "runs/idle")
        rows = json.loads(self.call("results", "runs/idle/sweep.h5")[0])
        self.assertEqual({tuple(row["warnings"]) for row in rows}, {("no_better_than_uniform",)})
        self.call("aggregate", "runs/smoke")
        for row in json.loads(self.call("results", "runs/smoke/sweep.h5")[0]):
            self.assertIsInstance(row["warnings"], list)


class Aggregating(Case):
    def test_any_number_of_ranks_gives_the_same_digest(self):
        self.call("run", "smoke", "train.steps=2", ranks=2)
        digests = set()
        for ranks in [0, 1, 2, 3]:
            file = f"sweep{ranks}.h5"
            self.call("aggregate", "runs/smoke", "--out", file, ranks=ranks)
            digests.add(re.search(r"digest (\w{64})", self.call("verify", file)[0]).group(1))
        self.assertEqual(len(digests), 1)

    def test_fewer_trials_than_ranks(self):
        sweep = ["sweep: one", "base: models/testbed-tiny.yaml", "data: data/synthetic8.yaml", "train: {steps: 2}", "evaluation: {tokens: 1024}"]
        (self.folder / "one.yaml").write_text("\n".join(sweep))
        self.call("run", "one.yaml")
        self.call("aggregate", "runs/one", ranks=3)
        self.assertEqual(len(json.loads(self.call("results", "runs/one/sweep.h5")[0])), 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
