"""`moesweep bench` on tiny sizes: what it tells, and what it leaves out and why. No times are judged."""
import json
import os
import subprocess
import tempfile
import unittest

PROGRAM = os.environ["MOESWEEP_PROGRAM"]
TINY = ["bench", "routing", "--tokens", "64", "--repeats", "2"]


class Bench(unittest.TestCase):
    def call(self, *arguments, code=0):
        done = subprocess.run([PROGRAM, *arguments], check=False, capture_output=True, text=True, timeout=100)
        self.assertEqual(done.returncode, code, f"{arguments}\n{done.stdout}\n{done.stderr}")
        return done.stderr if code else done.stdout

    def test_some_routers(self):
        bench = json.loads(self.call(*TINY, "--experts", "4,8", "--router", "top_k,sinkhorn,moepp", "--json"))
        self.assertEqual([bench[key] for key in ("tokens", "threads", "dtype")], [64, 1, "fp32"])
        self.assertIn("moesweep", bench["version"])
        self.assertEqual([(row["router"], row["experts"]) for row in bench["strategies"]], [("top_k", 4), ("sinkhorn", 4), ("top_k", 8), ("sinkhorn", 8)])
        self.assertEqual([(row["router"], row["experts"]) for row in bench["skipped"]], [("moepp", 4), ("moepp", 8)])
        for row in bench["skipped"]:
            self.assertIn("routing.extra_experts", row["reason"])
        for row in bench["strategies"]:
            self.assertEqual(set(row), {"router", "experts", "top_k", "repeats", "forward_nanoseconds_per_token", "backward_nanoseconds_per_token",
                                        "plain_nanoseconds_per_token", "ratio", "tensor_bytes_per_logit"})
            self.assertEqual((row["top_k"], row["repeats"]), (4, 2))
            for key in ["forward_nanoseconds_per_token", "backward_nanoseconds_per_token", "plain_nanoseconds_per_token", "ratio", "tensor_bytes_per_logit"]:
                self.assertGreater(row[key], 0, (row, key))
        self.assertEqual([row["experts"] for row in bench["plain_top_k"]], [4, 8])
        for row in bench["plain_top_k"]:
            self.assertEqual(set(row), {"experts", "top_k", "nanoseconds_per_token", "eager_nanoseconds_per_token", "speedup"})
            self.assertAlmostEqual(row["speedup"], row["eager_nanoseconds_per_token"] / row["nanoseconds_per_token"])

    def test_every_preset_is_measured_or_skipped_with_a_reason(self):
        names = self.call(*TINY, "--router", "nosuch", code=2).split("known presets: ")[1].strip().split(", ")
        bench = json.loads(self.call(*TINY, "--experts", "32", "--json"))
        rows = bench["strategies"] + bench["skipped"]
        self.assertEqual(sorted(row["router"] for row in rows), sorted(names))
        self.assertGreaterEqual(len(bench["strategies"]), 40)
        self.assertIn("replay", [row["router"] for row in bench["skipped"]])
        for row in bench["skipped"]:
            self.assertTrue(row["reason"], row)

    def test_calibrate(self):
        """Two ranks write a file; `plan` takes its times from it and says so. A damaged one is named with the mend."""
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "own folder", "machine.json")
            environment = {**os.environ, "MOESWEEP_MACHINE": file}
            command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2", PROGRAM, "bench", "calibrate", "--small",
                       "--json"]
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100, env=environment)
            self.assertEqual(done.returncode, 0, done.stderr)
            machine = json.loads(done.stdout)
            with open(file, encoding="utf-8") as written:
                self.assertEqual(json.load(written), machine)
            self.assertEqual((machine["format"], machine["threads"], machine["exchange"]["measured"]), ("moesweep-machine", 1, True))
            for dtype in ("fp32", "bf16"):
                self.assertEqual([(p["rows"], p["width"]) for p in machine[dtype]["products"]], [(16, 32), (16, 64), (64, 32), (64, 64)])
                for product in machine[dtype]["products"]:
                    self.assertGreater(product["flops_per_second"], 0)

            def plan(code=0):
                done = subprocess.run([PROGRAM, "plan", "smoke", "--json"], check=False, capture_output=True, text=True, timeout=100, env=environment)
                self.assertEqual(done.returncode, code, done.stderr)
                return done.stderr if code else json.loads(done.stdout)

            measured = plan()
            self.assertEqual(measured["speed"], f"time by {file}, measured on {machine['cpu_model']}")
            for speed in machine["fp32"]["products"]:
                speed["flops_per_second"] /= 10
            with open(file, "w", encoding="utf-8") as slower:
                json.dump(machine, slower)
            self.assertGreater(plan()["seconds"], measured["seconds"])
            with open(file, "w", encoding="utf-8") as damaged:
                damaged.write("{")
            error = plan(code=5)
            self.assertIn(file, error)
            self.assertIn("moesweep bench calibrate", error)
            os.remove(file)
            self.assertIn("there is no such file", plan(code=4))

    def test_as_a_table(self):
        text = self.call(*TINY, "--experts", "8", "--router", "top_k,longcat")
        self.assertRegex(text, r"(?m)^top_k +8 +4 ")
        self.assertIn("skipped: longcat with 8 experts: ", text)

    def test_comm(self):
        """Two ranks, experts over both against sequences alone: bytes are counted and predicted; times are there and not judged."""
        tiny = ["model.width=32", "model.experts=8", "model.expert_width=16", "data.sequence_length=32", "train.batch_sequences=16"]
        command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2", PROGRAM, "bench", "comm", "--steps", "2",
                   "--repeats", "1", "--json", "routing.select=hash", "routing.balance.method=none", *tiny]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
        self.assertEqual(done.returncode, 0, done.stderr)
        bench = json.loads(done.stdout)
        self.assertEqual(bench["ranks"], 2)
        self.assertEqual([row["bytes"] for row in bench["exchanges"]], [1024 * 4**i for i in range(8)])
        self.assertTrue(all(row["seconds"] > 0 for row in bench["exchanges"]))
        self.assertGreater(bench["bytes_per_second"], 0)
        self.assertGreater(bench["tokens_per_second_of_experts_over_sequences"], 0)
        experts, sequences = bench["layouts"]
        self.assertEqual([(row["expert"], row["data"]) for row in bench["layouts"]], [(2, 1), (1, 2)])
        self.assertEqual((sequences["sent_bytes"], sequences["predicted_sent_bytes"], sequences["wait_seconds"]), (0, 0, 0))
        # A row of 32 floats there and back, forward and backward, for each remote slot: 256 tokens a rank, top-4, 2 layers, about half of them remote.
        self.assertEqual(experts["predicted_sent_bytes"], 256 * 4 * 2 * 0.5 * 32 * 4 * 4)
        self.assertAlmostEqual(experts["sent_bytes"] / experts["predicted_sent_bytes"], 1, delta=0.1)
        # Half of it in bf16.
        done = subprocess.run([*command, "train.dtype=bf16"], check=False, capture_output=True, text=True, timeout=100)
        self.assertEqual(done.returncode, 0, done.stderr)
        half = json.loads(done.stdout)["layouts"][0]
        self.assertEqual(half["predicted_sent_bytes"] * 2, experts["predicted_sent_bytes"])
        self.assertAlmostEqual(half["sent_bytes"] * 2 / experts["sent_bytes"], 1, delta=0.02)
        for key in ["step_seconds", "dispatch_seconds", "wait_seconds", "compute_seconds", "exchange_seconds", "predicted_exchange_seconds"]:
            self.assertGreater(experts[key], 0, key)

    def test_errors(self):
        self.assertIn("there is no router preset 'nosuch'", self.call(*TINY, "--router", "nosuch", code=2))
        self.assertIn("subcommand", self.call("bench", "training", code=2))
        self.assertIn("subcommand", self.call("bench", code=2))
        self.assertIn("--experts", self.call(*TINY, "--experts", "0", code=2))
        self.assertIn("Example:", self.call("bench", "--help"))

    def test_store(self):
        """Fields only: times on a busy machine say nothing."""
        numbers = {"seconds", "trials_per_second", "megabytes_per_second"}
        for ranks in (1, 2):
            with tempfile.TemporaryDirectory() as name:
                folder = os.path.join(name, "bench")
                command = [PROGRAM, "bench", "store", "--trials", "20", "--folder", folder, "--json"]
                if ranks > 1:
                    command = [os.environ["MOESWEEP_MPIRUN"], "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), *command]
                done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
                self.assertEqual(done.returncode, 0, done.stderr)
                bench = json.loads(done.stdout)
                self.assertEqual((bench["ranks"], bench["trials"], bench["repeats"]), (ranks, 20, 3))
                self.assertEqual(bench["trial_file"]["datasets"], 45)
                for key in ("plain_reader", "aggregate", "aggregate_again"):
                    times = bench[key].pop("all_seconds")
                    self.assertEqual(len(times), 3)
                    self.assertEqual(bench[key]["seconds"], sorted(times)[1])
                    bench[key]["times"] = times
                self.assertEqual(bench["ratio"], sorted(bench["ratios"])[1])
                for ratio, plain, ours in zip(bench["ratios"], bench["plain_reader"].pop("times"), bench["aggregate"].pop("times"), strict=True):
                    self.assertAlmostEqual(ratio, plain / ours)
                bench["aggregate_again"].pop("times")
                self.assertEqual([row.pop("ranks") for row in bench["writes"]], [1, 2][:ranks])
                for row in [bench[key] for key in ("write", "plain_reader", "aggregate", "aggregate_again")] + bench["writes"]:
                    self.assertEqual(set(row), numbers)
                    self.assertTrue(all(value > 0 for value in row.values()), row)
                self.assertEqual(bench["again"], {"files_read": 0, "rows_kept": 20})
                self.assertEqual(bench["memory"]["few_trials"], 2)
                for key in ("few_peak_bytes", "peak_bytes", "few_own_bytes", "own_bytes"):
                    self.assertEqual(len(bench["memory"][key]), ranks)
                    self.assertTrue(all(value >= 0 for value in bench["memory"][key]))
                self.assertEqual(len(bench["memory"]["growth_bytes_per_trial"]), ranks)
                self.assertFalse(os.path.exists(os.path.join(folder, "writes")))
                self.assertGreater(bench["status"]["seconds"], 0)
                self.assertGreater(bench["status"]["journal_bytes"], 0)
                sweep = os.path.join(folder, "all", "sweep.h5")  # the folder is kept, as it was asked for
                self.assertIn("20 rows", self.call("verify", sweep))
                self.assertIn("not empty", self.call("bench", "store", "--trials", "20", "--folder", folder, code=2))
        text = self.call("bench", "store", "--trials", "4")
        self.assertIn("aggregate against the plain reader: ", text)
        self.assertIn("Example:", self.call("bench", "store", "--help"))
        self.assertIn("--trials", self.call("bench", "store", "--trials", "0", code=2))


if __name__ == "__main__":
    unittest.main()
