"""The studies of configs/sweeps on two ranks: what the quickstart must show for any seed, and the scale study, shortened."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

PROGRAM = os.environ["MOESWEEP_PROGRAM"]
SOURCE = pathlib.Path(os.environ["MOESWEEP_SOURCE_DIR"])
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2"]
FULL = os.environ.get("MOESWEEP_FULL") == "1"

ONE_SEED = """
sweep: quickstart
base: sweeps/quickstart.yaml
blocks:
  - points: [{routing: routers/reference.yaml}, {routing: routers/random.yaml}]
  - points: [{routing.balance.method: aux_loss, routing.balance.weight: 0.1}]
    grid: {routing.balance.scope: [sequence, micro_batch, global_batch]}
seed: 1
"""


class Study(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.scratch.name)
        os.environ.setdefault("MOESWEEP_DATA", str(SOURCE / "build" / "data"))

    def tearDown(self):
        self.scratch.cleanup()

    def call(self, *arguments, ranks=True):
        command = [*(MPIRUN if ranks else []), PROGRAM, *map(str, arguments)]
        done = subprocess.run(command, cwd=self.folder, check=False, capture_output=True, text=True, timeout=1700)
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def results(self, sweep, *overrides):
        """Runs, aggregates, verifies; gives the rows of `moesweep results`."""
        self.call("run", sweep, "--out", "out", *overrides)
        self.call("aggregate", "out")
        self.call("verify", "out/sweep.h5", ranks=False)
        return json.loads(self.call("results", "out/sweep.h5", "--json", ranks=False))


class Quickstart(Study):
    def test_the_scope_decides_for_any_seed(self):
        if not (pathlib.Path(os.environ["MOESWEEP_DATA"]) / "languages8" / "manifest.json").exists():
            print("skipped: the text of configs/data/languages8.yaml is not here (moesweep-data build configs/data/languages8.yaml)")
            sys.exit(77)
        sweep = "quickstart"
        if not FULL:
            sweep = self.folder / "one_seed.yaml"
            sweep.write_text(ONE_SEED)
        rows = self.results(sweep)
        self.assertEqual(len(rows), 27 if FULL else 5)
        cells = {}
        for row in rows:
            self.assertEqual(row["state"], "done")
            axes, metrics = row["axes"], row["metrics"]
            select = axes["routing.select"]
            if select == "top_k" and axes["routing.balance.method"] != "aux_loss":
                continue
            cells[axes.get("seed", 1), select if select != "top_k" else axes["routing.balance.scope"]] = metrics
        for seed in (1, 2, 3) if FULL else (1,):
            purity = {name: cells[seed, name]["purity_expert"] for name in ("reference", "random", "sequence", "micro_batch", "global_batch")}
            print(f"seed {seed}:", {name: round(value, 3) for name, value in purity.items()})
            self.assertEqual(purity["reference"], 1.0)
            self.assertLess(abs(purity["random"] - 1 / 8), 0.02)
            self.assertGreaterEqual(purity["global_batch"], 0.38)
            self.assertGreaterEqual(purity["global_batch"] - purity["micro_batch"], 0.15)
            self.assertGreaterEqual(purity["micro_batch"] - purity["sequence"], 0.015)
            for scope in ("sequence", "micro_batch", "global_batch"):
                self.assertGreaterEqual(cells[seed, scope]["utilisation"], 0.9)
                self.assertIn("gap_to_reference.greedy.loss", cells[seed, scope])


class Scale(Study):
    def test_the_study_runs_at_both_sizes(self):
        rows = self.results("scale35x", "train.steps=3", "seed=1", "evaluation.tokens=1024", "data=data/synthetic8.yaml", "data.vocabulary=1024")
        self.assertEqual(len(rows), 8)
        totals = sorted({row["metrics"]["parameters_total"] for row in rows})
        self.assertEqual(len(totals), 2)
        self.assertGreaterEqual(totals[1] / totals[0], 35)
        for row in rows:
            self.assertEqual(row["state"], "done")
        report = os.environ["MOESWEEP_REPORT"]
        if os.path.exists(report):
            subprocess.run([report, "html", "out/sweep.h5"], cwd=self.folder, check=True, capture_output=True)
            self.assertIn("35.3", (self.folder / "out" / "report.html").read_text())


if __name__ == "__main__":
    unittest.main(verbosity=2)
