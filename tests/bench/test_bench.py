"""`moesweep bench` on tiny sizes: what it tells, and what it leaves out and why. No times are judged."""
import json
import os
import subprocess
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

    def test_as_a_table(self):
        text = self.call(*TINY, "--experts", "8", "--router", "top_k,longcat")
        self.assertRegex(text, r"(?m)^top_k +8 +4 ")
        self.assertIn("skipped: longcat with 8 experts: ", text)

    def test_errors(self):
        self.assertIn("there is no router preset 'nosuch'", self.call(*TINY, "--router", "nosuch", code=2))
        self.assertIn("WHAT", self.call("bench", "training", code=2))
        self.assertIn("--experts", self.call(*TINY, "--experts", "0", code=2))
        self.assertIn("Example:", self.call("bench", "--help"))


if __name__ == "__main__":
    unittest.main()
