"""`moesweep route` from the outside: what it writes against formulas written here in numpy, its errors, and how it treats a file."""
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

import h5py
import numpy as np

PROGRAM = os.environ["MOESWEEP_PROGRAM"]


def softmax(x):
    p = np.exp(x - x.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def best(keys, k):
    """The k largest of each row, largest first; of equal ones the lower."""
    return np.argsort(-keys, axis=-1, kind="stable")[:, :k]


def counts_of(expert, experts):
    return np.bincount(np.ravel(expert), minlength=experts)


class Case(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)
        self.random = np.random.default_rng(7)

    def call(self, *arguments, code=0):
        """Runs the program in the scratch folder and checks the exit code; gives standard error."""
        done = subprocess.run([PROGRAM, *map(str, arguments)], cwd=self.folder, check=False, capture_output=True, text=True, timeout=100)
        self.assertEqual(done.returncode, code, f"{arguments}\n{done.stdout}\n{done.stderr}")
        return done.stderr

    def write(self, datasets):
        with h5py.File(self.folder / "in.h5", "w", libver=("v110", "v110")) as file:
            for name, values in datasets.items():
                file[name] = values

    def route(self, router, *arguments, code=0, **datasets):
        """Routes the datasets (`state_bias` stands for state/bias, `replay_expert` for replay/expert); gives what was written by name."""
        self.write({name.replace("state_", "state/").replace("replay_", "replay/"): values for name, values in datasets.items()})
        (self.folder / "out.h5").unlink(missing_ok=True)
        self.error = self.call("route", "--router", router, "--input", "in.h5", "--output", "out.h5", *arguments, code=code)
        if code != 0:
            self.assertFalse((self.folder / "out.h5").exists(), "an output in spite of an error")
            return None
        with h5py.File(self.folder / "out.h5") as file:
            self.attributes = {name: text.decode() for name, text in file.attrs.items()}
            found = {}
            file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
            return found

    def logits(self, tokens, experts, scale=1.0):
        return self.random.normal(size=(tokens, experts)) * scale

    def near(self, ours, theirs, tolerance=1e-12):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


class Slots(Case):
    def test_top_k_and_its_weights(self):
        x = self.logits(17, 6)
        x[3] = 0.5  # a row of ties: the lowest experts
        out = self.route("top_k", "routing.top_k=2", logits=x)
        expert = best(x, 2)
        np.testing.assert_array_equal(out["expert"], expert.ravel())
        np.testing.assert_array_equal(out["token"], np.repeat(np.arange(17), 2))
        np.testing.assert_array_equal(out["offsets"], np.arange(18) * 2)
        np.testing.assert_array_equal(out["dropped"], np.zeros(34))
        self.near(out["weight"], softmax(np.take_along_axis(x, expert, 1)).ravel())
        np.testing.assert_array_equal(out["counts"], counts_of(expert, 6))
        np.testing.assert_array_equal(out["kept_counts"], out["counts"])
        self.assertNotIn("losses/total", out)
        self.assertEqual(out["weight"].dtype, np.float64)

    def test_the_width_of_the_logits_is_that_of_the_arithmetic(self):
        x = self.logits(9, 5).astype(np.float32)
        out = self.route("olmoe", logits=x, upstream=np.ones((9, 4)))
        for name in ["weight", "losses/aux_loss", "gradients/weights", "gradients/z_loss"]:
            self.assertEqual(out[name].dtype, np.float32, name)
        wide = self.route("olmoe", logits=x.astype(np.float64))
        self.near(out["weight"], wide["weight"], 1e-6)
        half = self.route("olmoe", logits=x.astype(np.float16))
        self.assertEqual(half["weight"].dtype, np.float32)

    def test_counts_by_micro_batch(self):
        x = self.logits(20, 4)
        sequence = np.repeat([5, 9, 1, 0], [3, 7, 4, 6])
        out = self.route("top_k", "routing.top_k=1", "train.micro_batch_sequences=2", logits=x, sequence=sequence)
        first = best(x, 1)
        np.testing.assert_array_equal(out["counts_micro_batch"], [counts_of(first[:10], 4), counts_of(first[10:], 4)])

    def test_any_width_of_integers(self):
        x = self.logits(6, 4)
        kinds = [np.int8, ">i4", np.uint64, np.float32]
        runs = [self.route("aux_loss", "routing.balance.scope=sequence", "routing.top_k=2", logits=x,
                           sequence=np.repeat([1, 2], 3).astype(kind), mask=np.array([1, 1, 1, 1, 0, 0]).astype(kind)) for kind in kinds]
        runs.append(self.route("aux_loss", "routing.balance.scope=sequence", "routing.top_k=2", logits=x,
                               sequence=np.repeat([1, 2], 3), mask=np.array([1, 1, 1, 1, 0, 0], dtype=bool)))
        for run in runs[1:]:
            for name in run:
                np.testing.assert_array_equal(run[name], runs[0][name])

    def test_hash_goes_by_the_token(self):
        token = np.array([3, 7, 3, 0, 7, 3])
        out = self.route("hash_random", "routing.top_k=2", logits=self.logits(6, 5), token=token)
        chosen = out["expert"].reshape(6, 2)
        for i in range(6):
            self.assertNotEqual(*chosen[i])
            np.testing.assert_array_equal(chosen[i], chosen[np.flatnonzero(token == token[i])[0]])
        self.near(out["weight"], np.full(12, 0.5))
        other = self.route("hash_random", "routing.top_k=2", "data.vocabulary=100", "seed=2", logits=self.logits(60, 5), token=np.arange(60))
        self.assertTrue((counts_of(other["expert"], 5) > 0).all())

    def test_balanced_hash_gives_the_most_frequent_tokens_bins_of_their_own(self):
        token = np.repeat([4, 2, 9, 1], [8, 6, 4, 2])
        out = self.route("hash_balanced", "routing.top_k=1", logits=self.logits(20, 3), token=token)
        bins = {t: out["expert"][np.flatnonzero(token == t)[0]] for t in [4, 2, 9, 1]}
        self.assertEqual([bins[4], bins[2], bins[9], bins[1]], [0, 1, 2, 2])

    def test_expert_choice(self):
        x = self.logits(24, 4)
        out = self.route("expert_choice", "routing.top_k=2", "train.micro_batch_sequences=1", logits=x, sequence=np.repeat([0, 1], 12))
        p = softmax(x)
        chosen = np.zeros((24, 4), dtype=bool)
        for unit in (slice(0, 12), slice(12, 24)):
            for e in range(4):
                chosen[unit][best(p[unit].T, 6)[e], e] = True
        token, expert = np.nonzero(chosen)
        np.testing.assert_array_equal(out["token"], token)
        np.testing.assert_array_equal(out["expert"], expert)
        self.near(out["weight"], p[chosen])
        np.testing.assert_array_equal(np.diff(out["offsets"]), chosen.sum(axis=1))
        self.assertEqual(self.attributes["causal_training"], "false")
        self.assertEqual(self.attributes["causal_greedy"], "true")

    def test_sinkhorn_and_its_greedy_reading(self):
        x = self.logits(24, 6, 2.0)
        scaled = np.zeros_like(x)
        for unit in (slice(0, 12), slice(12, 24)):
            c = np.exp(x[unit] - x[unit].max(axis=1, keepdims=True))
            d1, change = np.ones(6), 1.0
            for _ in range(100):
                d0 = (1 / 12) / (c @ d1 + 1e-8)
                new = (1 / 6) / (c.T @ d0 + 1e-8)
                change, d1 = np.abs(new - d1).mean(), new
                if change <= 1e-4:
                    break
            scaled[unit] = d0[:, None] * c * d1
        sequence = np.repeat([0, 1, 2, 3], 6)
        out = self.route("sinkhorn", "routing.top_k=2", "train.micro_batch_sequences=2", logits=x, sequence=sequence)
        np.testing.assert_array_equal(out["expert"], best(scaled, 2).ravel())
        self.near(out["weight"], np.take_along_axis(softmax(x), best(scaled, 2), 1).ravel())
        greedy = self.route("sinkhorn", "routing.top_k=2", "--mode", "greedy", logits=x, sequence=sequence)
        np.testing.assert_array_equal(greedy["expert"], best(x, 2).ravel())
        self.assertFalse(np.array_equal(greedy["expert"], out["expert"]))

    def test_reference_goes_by_domain(self):
        domain = np.repeat([1, 0, 1], 4)
        out = self.route("reference", "routing.top_k=2", logits=self.logits(12, 6), domain=domain, sequence=np.repeat([0, 1, 2], 4))
        np.testing.assert_array_equal(out["expert"].reshape(12, 2) // 3, np.repeat(domain[:, None], 2, axis=1))
        out = self.route("reference", "routing.top_k=2", "data.domains=[a, b, c]", logits=self.logits(12, 6), domain=domain, sequence=np.repeat([0, 1, 2], 4))
        np.testing.assert_array_equal(np.sort(out["expert"].reshape(12, 2)), domain[:, None] * 2 + [0, 1])

    def test_replay_weighs_the_recorded_choices_by_the_live_gate(self):
        x = self.logits(8, 5)
        chosen = self.random.permuted(np.tile(np.arange(5), (8, 1)), axis=1)[:, :3]
        out = self.route("replay", logits=x, replay_expert=chosen, upstream=np.arange(24.0).reshape(8, 3))
        np.testing.assert_array_equal(out["expert"], chosen.ravel())
        self.near(out["weight"], softmax(np.take_along_axis(x, chosen, 1)).ravel())
        self.assertTrue((np.take_along_axis(out["gradients/weights"], chosen, 1) != 0).all())
        chosen[2, 1:] = -1
        out = self.route("replay", logits=x, replay_expert=chosen)
        np.testing.assert_array_equal(np.diff(out["offsets"]), (chosen >= 0).sum(axis=1))

    def test_noise_is_a_function_of_seed_and_step_and_only_in_training(self):
        x = self.logits(40, 6)
        run = lambda *more: self.route("gumbel", "routing.top_k=2", *more, logits=x)["expert"]
        first = run()
        np.testing.assert_array_equal(first, run())
        self.assertFalse(np.array_equal(first, run("seed=2")))
        self.assertFalse(np.array_equal(first, run("--step", "1")))
        self.assertFalse(np.array_equal(first, run("--layer", "1")))
        np.testing.assert_array_equal(run("--mode", "evaluate"), best(x, 2).ravel())

    def test_capacity_by_probability(self):
        x = self.logits(20, 4)
        out = self.route("top_k", "routing.top_k=2", "routing.capacity.factor=0.7", "routing.capacity.scope=global_batch", logits=x)
        expert = best(x, 2)
        weight = softmax(np.take_along_axis(x, expert, 1)).ravel()
        capacity = int(np.ceil(20 * 2 * 0.7 / 4 - 1e-9))
        dropped = np.zeros(40, dtype=bool)
        for e in range(4):
            own = np.flatnonzero(expert.ravel() == e)
            dropped[own[np.argsort(-weight[own], kind="stable")[capacity:]]] = True
        self.assertTrue(dropped.any())
        np.testing.assert_array_equal(out["dropped"], dropped)
        np.testing.assert_array_equal(out["kept_counts"], counts_of(expert.ravel()[~dropped], 4))
        np.testing.assert_array_equal(out["counts"], counts_of(expert, 4))
        self.near(out["weight"], weight)
        self.assertEqual(self.attributes["causal_training"], "false")

    def test_one_decision_for_a_sequence(self):
        x = self.logits(12, 5)
        out = self.route("sequence_mean", "routing.top_k=2", logits=x, sequence=np.repeat([0, 1], [5, 7]))
        expert = np.repeat(best(np.stack([x[:5].mean(axis=0), x[5:].mean(axis=0)]), 2), [5, 7], axis=0)
        np.testing.assert_array_equal(out["expert"], expert.ravel())

    def test_layers_differ(self):
        x = self.logits(10, 8)
        self.route("deepseek_v4", logits=x, code=7)
        self.assertIn("add the dataset token", self.error)
        out = self.route("deepseek_v4", "--layer", "1", logits=x)
        np.testing.assert_array_equal(out["expert"], best(np.sqrt(np.log1p(np.exp(x))), 4).ravel())


class Losses(Case):
    def aux(self, x, k, unit, weight, mask=None):
        """a E sum f P of each unit, averaged by tokens, and its gradient through P alone."""
        experts, p, expert = x.shape[1], softmax(x), best(x, k)
        counts = np.ones(len(x), dtype=bool) if mask is None else mask.astype(bool)
        value, slope = 0.0, np.zeros_like(x)
        for u in np.unique(unit):
            own = (unit == u) & counts
            if not own.any():
                continue
            f = counts_of(expert[own], experts) / (own.sum() * k)
            value += weight * experts * (f * p[own].mean(axis=0)).sum() * own.sum() / counts.sum()
            slope[own] = weight * experts * f / counts.sum()
        return value, p * (slope - (slope * p).sum(axis=1, keepdims=True))

    def test_aux_loss_at_three_scopes(self):
        x = self.logits(30, 6, 1.5)
        sequence = np.repeat([4, 0, 2, 8, 6], [5, 9, 2, 8, 6])
        order = np.repeat(np.arange(5), [5, 9, 2, 8, 6])
        units = {"sequence": order, "micro_batch": order // 2, "global_batch": np.zeros(30)}
        values = []
        for scope, unit in units.items():
            value, gradient = self.aux(x, 3, unit, 0.1)
            out = self.route("aux_loss", f"routing.balance.scope={scope}", "routing.top_k=3", "train.micro_batch_sequences=2", logits=x, sequence=sequence)
            self.near(out["losses/aux_loss"], [value])
            self.near(out["losses/total"], [value])
            self.near(out["gradients/aux_loss"], gradient)
            values.append(value)
        self.assertEqual(len({round(value, 9) for value in values}), 3)

    def test_mask_leaves_tokens_out_of_the_loss(self):
        x = self.logits(12, 4)
        mask = np.array([1, 1, 0, 1, 0, 1, 1, 1, 0, 0, 0, 0])
        value, gradient = self.aux(x, 2, np.repeat([0, 1, 2], 4), 0.1, mask)
        out = self.route("aux_loss", "routing.top_k=2", "routing.balance.scope=sequence", logits=x, mask=mask, sequence=np.repeat([0, 1, 2], 4))
        self.near(out["losses/aux_loss"], [value])
        self.near(out["gradients/aux_loss"], gradient * mask[:, None])

    def test_a_convention_is_a_factor(self):
        x = self.logits(16, 4)
        ours = self.route("mixtral", "routing.balance.convention=moesweep", logits=x)
        theirs = self.route("mixtral", logits=x)
        self.near(theirs["losses/aux_loss"], 2 * ours["losses/aux_loss"])
        self.near(theirs["gradients/aux_loss"], 2 * ours["gradients/aux_loss"])

    def test_z_loss_and_entropies(self):
        x = self.logits(15, 5)
        p = softmax(x)
        out = self.route("entropy", "routing.top_k=2", "routing.z_loss_weight=0.25", logits=x)
        largest = np.log(np.exp(x).sum(axis=1))
        self.near(out["losses/z_loss"], [0.25 * (largest**2).mean()])
        self.near(out["gradients/z_loss"], 0.25 * 2 / 15 * largest[:, None] * p)
        self.near(out["losses/token_entropy"], [-0.01 * (p * np.log(p)).sum(axis=1).mean()])
        self.near(out["losses/batch_entropy"], [0.1 * (p.mean(axis=0) * np.log(p.mean(axis=0))).sum()])
        self.near(out["losses/total"], [sum(out["losses/" + name][0] for name in ["z_loss", "token_entropy", "batch_entropy"])])

    def test_schedules_take_the_step(self):
        x = self.logits(8, 4)
        keys = ["routing.top_k=1", "routing.schedules=[{key: balance.weight, kind: linear, start: 1, end: 3, to_step: 10}]"]
        early, later = (self.route("aux_loss", *keys, "--step", step, logits=x)["losses/aux_loss"][0] for step in (0, 5))
        self.assertAlmostEqual(later / early, 2.0)

    def test_evaluations_have_no_losses(self):
        for mode in ["evaluate", "greedy"]:
            out = self.route("olmoe", "--mode", mode, logits=self.logits(8, 4), upstream=np.ones(32))
            self.assertFalse([name for name in out if name.startswith("losses")])
            self.assertIn("gradients/weights", out)

    def test_what_needs_weights_is_absent_and_said(self):
        out = self.route("simbal", logits=self.logits(8, 4))
        self.assertIn("router_orthogonality needs weights", self.error)
        self.assertEqual([name for name in out if name.startswith("losses")], ["losses/total", "losses/z_loss"])
        self.route("switch", logits=self.logits(8, 4))
        self.assertIn("jitter", self.error)


class Gradients(Case):
    """By central differences through the program itself."""

    def differences(self, value_of, x, places, step=1e-5):
        for place in places:
            up, down = x.copy(), x.copy()
            up[place] += step
            down[place] -= step
            yield place, (value_of(up) - value_of(down)) / (2 * step)

    def test_of_weights(self):
        x = self.logits(5, 4, 2.0)  # tokens are independent: a column at a time
        for router, keys in [("top_k", ["routing.top_k=2"]), ("olmoe", ["routing.top_k=2"]), ("expert_bias", ["routing.top_k=3"]),
                             ("deepseek_v4", ["routing.top_k=2", "--layer", "1"]), ("sinkhorn", ["routing.top_k=1"]), ("remoe", ["routing.top_k=2"])]:
            upstream = self.random.normal(size=self.route(router, *keys, logits=x)["expert"].shape)
            gradient = self.route(router, *keys, logits=x, upstream=upstream)["gradients/weights"]
            for e in range(4):
                sums = []
                for step in (1e-6, -1e-6):
                    moved = x.copy()
                    moved[:, e] += step
                    out = self.route(router, *keys, logits=moved)
                    sums.append(np.bincount(out["token"], upstream * out["weight"], minlength=5))
                np.testing.assert_allclose(gradient[:, e], (sums[0] - sums[1]) / 2e-6, rtol=1e-5, atol=1e-8, err_msg=router)

    def test_upstream_by_slot_or_by_token_and_choice(self):
        x, upstream = self.logits(6, 5), self.random.normal(size=(6, 3))
        square = self.route("top_k", "routing.top_k=3", logits=x, upstream=upstream)["gradients/weights"]
        flat = self.route("top_k", "routing.top_k=3", logits=x, upstream=upstream.ravel())["gradients/weights"]
        np.testing.assert_array_equal(square, flat)
        mask = np.array([1, 0, 1, 1, 0, 1])
        square = self.route("top_k", "routing.top_k=3", logits=x, upstream=upstream, mask=mask)["gradients/weights"]
        np.testing.assert_array_equal(square, flat * mask[:, None])
        self.route("top_k", "routing.top_k=3", logits=x, upstream=upstream[:, :2], code=7)
        self.assertIn("dataset upstream: its shape is [6, 2], not [18], one for each slot, nor [6, 3]", self.error)

    def test_dropped_slots_give_no_gradient(self):
        x = self.logits(12, 3)
        keys = ["routing.top_k=1", "routing.score=softmax", "routing.capacity.factor=0.5", "routing.capacity.policy=position"]
        out = self.route("top_k", *keys, logits=x, upstream=np.ones(12))
        self.assertTrue(out["dropped"].any())
        np.testing.assert_array_equal((out["gradients/weights"] != 0).any(axis=1), out["dropped"] == 0)

    def test_of_losses(self):
        x = self.logits(8, 4)
        sequence = np.repeat([0, 1], 4)
        for router, keys in [("importance_load", ["routing.top_k=2"]), ("top_p", []), ("olmoe", []), ("remoe", ["routing.relu.penalty=0.5"])]:
            every = [router, *keys, "routing.top_k=2", "train.micro_batch_sequences=1"]
            out = self.route(*every, logits=x, sequence=sequence)

            def value_of(at, every=every):
                return self.route(*every, logits=at, sequence=sequence)["losses/total"][0]

            gradient = sum(out[name] for name in out if name.startswith("gradients/"))
            for place, difference in self.differences(value_of, x, [(0, 1), (3, 2), (6, 0)]):
                self.assertAlmostEqual(gradient[place], difference, delta=1e-7, msg=(router, place))

    def test_of_learned_noise(self):
        x, noise = self.logits(6, 4), self.logits(6, 4)
        upstream = self.random.normal(size=12)
        run = lambda at: self.route("noisy_top_k", "routing.top_k=2", logits=x, noise_logits=at, upstream=upstream)
        out = run(noise)
        for place, difference in self.differences(lambda at: (run(at)["weight"] * upstream).sum(), noise, [(0, 0), (2, 3), (5, 1)]):
            self.assertAlmostEqual(out["noise_gradients/weights"][place], difference, delta=1e-7)
        for place, difference in self.differences(lambda at: run(at)["losses/importance_load"][0], noise, [(1, 0), (4, 2)]):
            self.assertAlmostEqual(out["noise_gradients/importance_load"][place], difference, delta=1e-7)


class State(Case):
    def test_expert_bias_moves_the_choice_and_is_moved(self):
        x, bias = self.logits(21, 5), self.random.normal(size=5)
        scores = sigmoid(x)
        expert = best(scores + bias, 2)
        weight = np.take_along_axis(scores, expert, 1)
        out = self.route("expert_bias", "routing.top_k=2", "routing.balance.rate=0.125", logits=x, state_bias=bias)
        np.testing.assert_array_equal(out["expert"], expert.ravel())
        self.near(out["weight"], (weight / (weight.sum(axis=1, keepdims=True) + 1e-20)).ravel())
        c = counts_of(expert, 5)
        self.near(out["state/bias"], bias + 0.125 * np.sign(c.mean() - c))
        for mode in ["evaluate", "greedy"]:
            again = self.route("expert_bias", "routing.top_k=2", "--mode", mode, logits=x, state_bias=bias)
            np.testing.assert_array_equal(again["state/bias"], bias)
            np.testing.assert_array_equal(again["expert"], out["expert"])

    def test_expert_bias_averages_the_steps_of_units(self):
        x = self.logits(24, 4)
        out = self.route("expert_bias", "routing.top_k=1", "routing.balance.scope=sequence", "routing.balance.rate=1", logits=x, sequence=np.repeat([0, 1, 2], 8))
        steps = [np.sign(2 - counts_of(best(x[i : i + 8], 1), 4)) for i in (0, 8, 16)]
        self.near(out["state/bias"], np.mean(steps, axis=0))

    def test_quantiles_move_beta(self):
        x, beta = self.logits(16, 4), self.random.normal(size=4) * 0.1
        out = self.route("quantile", "routing.top_k=2", logits=x, state_beta=beta)
        np.testing.assert_array_equal(out["expert"], best(x - beta, 2).ravel())
        alpha = np.sort(x - beta, axis=1)[:, ::-1][:, 2]
        q = np.sort(x - alpha[:, None], axis=0)[::-1][8]
        self.near(out["state/beta"], q - q.mean())

    def test_state_goes_on_from_one_file_to_the_next(self):
        x = self.logits(20, 6)
        out = self.route("trinity", "routing.top_k=2", logits=x)
        self.assertEqual({name for name in out if name.startswith("state/")}, {"state/bias", "state/bias_momentum"})
        after = self.route("trinity", "routing.top_k=2", logits=x, state_bias=out["state/bias"], state_bias_momentum=out["state/bias_momentum"])
        self.assertFalse(np.array_equal(after["state/bias_momentum"], out["state/bias_momentum"]))

    def test_a_history_is_used_from_the_next_step_on(self):
        keys = ["routing.top_k=2", "routing.balance.scope=history"]
        first = self.route("aux_loss", *keys, logits=self.logits(12, 4))
        x = self.logits(12, 4)
        alone = self.route("aux_loss", *keys, logits=x)
        second = self.route("aux_loss", *keys, "--step", "1", logits=x, state_history=first["state/history"])
        f = first["counts"] / first["counts"].sum()
        np.testing.assert_allclose(first["state/history"], f)
        self.near(second["losses/aux_loss"], [0.1 * 4 * (f * softmax(x).mean(axis=0)).sum()])
        g = second["counts"] / second["counts"].sum()
        np.testing.assert_allclose(second["state/history"], 0.9 * f + 0.1 * g)
        self.assertNotAlmostEqual(alone["losses/aux_loss"][0], second["losses/aux_loss"][0])


class Padding(Case):
    def test_a_padded_file_equals_the_shorter_one(self):
        lengths, longest = [5, 8, 3, 8], 8
        short = {"logits": self.logits(24, 4), "sequence": np.repeat(np.arange(4), lengths), "token": self.random.integers(0, 30, 24)}
        place = np.concatenate([np.arange(n) + s * longest for s, n in enumerate(lengths)])
        padded = {"logits": np.full((32, 4), 9.0), "sequence": np.repeat(np.arange(4), longest), "token": np.full(32, 31), "mask": np.zeros(32)}
        for name, values in short.items():
            padded[name][place] = values
        padded["mask"][place] = 1
        for router, keys in [("olmoe", []), ("expert_bias", []), ("expert_choice", []), ("sinkhorn", []), ("base_assignment", []), ("gshard", []),
                             ("importance_load", []), ("hash_balanced", []), ("hash_random", ["data.vocabulary=40"]), ("random", []), ("gumbel", []),
                             ("remoe", []), ("expert_threshold", []), ("expert_bias_solved", []), ("entropy", []), ("sequence_mean", []),
                             ("sequence_prefix", ["routing.pool.prefix_tokens=2"]), ("batch", []), ("top_p", []),
                             ("quantile", []), ("top_k", ["routing.capacity.factor=0.8"])]:
            keys = [*keys, "routing.top_k=2", "train.micro_batch_sequences=2", "data.vocabulary=40"]
            with self.subTest(router=router):
                upstream = self.random.normal(size=self.route(router, *keys, **short)["expert"].shape)
                expected = self.route(router, *keys, **short, upstream=upstream)
                out = self.route(router, *keys, **padded, upstream=upstream)
                self.assertEqual(set(out), set(expected))
                for name, values in expected.items():
                    if name == "token":
                        np.testing.assert_array_equal(out[name], place[values], err_msg=name)
                    elif name == "offsets":
                        np.testing.assert_array_equal(np.diff(out[name])[place], np.diff(values), err_msg=name)
                        self.assertEqual(out[name][-1], values[-1])
                    elif name.startswith("gradients/"):
                        np.testing.assert_allclose(out[name][place], values, rtol=1e-10, atol=1e-14, err_msg=name)
                        np.testing.assert_array_equal(np.delete(out[name], place, axis=0), 0, err_msg=name)
                    else:
                        np.testing.assert_allclose(out[name], values, rtol=1e-10, atol=1e-14, err_msg=name)


class Files(Case):
    def test_the_same_input_gives_the_same_bytes(self):
        datasets = {"logits": self.logits(40, 8).astype(np.float32), "upstream": self.random.normal(size=(40, 4))}
        runs = []
        for _ in range(2):
            self.route("aux_loss", **datasets)
            runs.append((self.folder / "out.h5").read_bytes())
        self.assertEqual(*runs)
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["in.h5", "out.h5"])

    def test_what_is_written_describes_itself(self):
        self.route("olmoe", "routing.top_k=3", "--step", "4", "seed=9", logits=self.logits(6, 5))
        self.assertEqual({name: self.attributes[name] for name in ("router", "mode", "step", "layer", "seed", "causal_training", "causal_greedy")},
                         {"router": "olmoe", "mode": "train", "step": "4", "layer": "0", "seed": "9", "causal_training": "true", "causal_greedy": "true"})
        self.assertEqual(json.loads(self.attributes["routing"])["top_k"], 3)
        self.assertIn("moesweep", self.attributes["version"])
        with h5py.File(self.folder / "out.h5") as file:
            file.visititems(lambda name, item: self.assertTrue(not isinstance(item, h5py.Dataset) or (item.fletcher32 and item.attrs["description"]), name))

    def test_every_preset_routes(self):
        names = self.route("nosuch", logits=self.logits(8, 32), code=2) or self.error.split("known presets: ")[1].strip().split(", ")
        self.assertGreaterEqual(len(names), 40)
        tokens = 64
        datasets = {"logits": self.logits(tokens, 32), "sequence": np.repeat(np.arange(16), 4), "domain": np.repeat(np.arange(16) % 8, 4),
                    "token": self.random.integers(0, 99, tokens), "noise_logits": self.logits(tokens, 32),
                    "replay_expert": np.argsort(self.logits(tokens, 32))[:, :4]}
        for name in names:
            with self.subTest(router=name):
                out = self.route(name, "--mode", "train", **datasets)
                self.assertEqual(out["counts"].sum(), len(out["expert"]))
                self.assertEqual(out["kept_counts"].sum(), (out["dropped"] == 0).sum())
                np.testing.assert_array_equal(out["counts_micro_batch"].sum(axis=0), out["counts"])
                np.testing.assert_array_equal(np.repeat(np.arange(tokens), np.diff(out["offsets"])), out["token"])
                for dataset, values in out.items():
                    self.assertTrue(np.isfinite(values).all(), dataset)

    def test_a_dataset_that_is_none_of_ours_is_reported(self):
        self.route("top_k", logits=self.logits(4, 4), upsteam=np.ones(4))
        self.assertIn("the dataset upsteam is none that route reads", self.error)


class Errors(Case):
    def wrong(self, code, text, router="top_k", *keys, **datasets):
        self.route(router, "routing.top_k=2", *keys, code=code, **({"logits": self.logits(6, 4)} | datasets))
        self.assertIn(text, self.error)
        self.assertEqual(len([line for line in self.error.splitlines() if "error:" in line]), 1)

    def test_the_input_is_never_overwritten(self):
        self.route("top_k", "routing.top_k=2", logits=self.logits(6, 4))
        before = (self.folder / "in.h5").read_bytes()
        self.call("route", "--router", "top_k", "--input", "in.h5", "--output", "./in.h5", code=2)
        self.assertEqual((self.folder / "in.h5").read_bytes(), before)

    def test_usage_and_config(self):
        self.call("route", code=2)
        self.wrong(2, "there is no router preset 'nosuch'", "nosuch")
        self.wrong(2, "--mode", "top_k", "--mode", "dream")
        self.wrong(3, "routing.top_k = 9", "top_k", "routing.top_k=9")
        self.wrong(3, "routing.nosuch", "top_k", "routing.nosuch=9")
        self.wrong(3, "train.nosuch", "top_k", "train.nosuch=9")
        self.wrong(7, "data.domains names 2", "top_k", "data.domains=[a, b]", domain=np.full(6, 2))
        self.wrong(3, "train.micro_batch_sequences", "top_k", "train.micro_batch_sequences=0")
        self.wrong(3, "divisible by the 4 experts", "quantile", "train.micro_batch_sequences=1", logits=self.logits(5, 4))
        self.wrong(3, "routing.extra_experts takes 16 of the 4 experts", "longcat")

    def test_files(self):
        self.call("route", "--router", "top_k", "--input", "missing.h5", "--output", "out.h5", code=4)
        (self.folder / "text.h5").write_text("these are no logits at all")
        self.assertIn("not an HDF5 file", self.call("route", "--router", "top_k", "--input", "text.h5", "--output", "out.h5", code=5))
        self.write({"logits": self.logits(6, 4)})
        self.assertIn("nowhere", self.call("route", "--router", "top_k", "--input", "in.h5", "--output", "nowhere/out.h5", code=4))
        whole = (self.folder / "in.h5").read_bytes()
        (self.folder / "in.h5").write_bytes(whole[: len(whole) // 2])
        self.call("route", "--router", "top_k", "--input", "in.h5", "--output", "out.h5", code=5)

    def test_data(self):
        nan = self.logits(6, 4)
        nan[3, 1] = np.nan
        infinite = self.logits(6, 4)
        infinite[0, 0] = np.inf
        sequence = np.repeat([0, 1], 3)
        self.wrong(7, "dataset logits: a NaN at [3, 1]", logits=nan)
        self.wrong(7, "dataset logits: an infinite", logits=infinite)
        self.wrong(7, "dataset logits: it has 1 dimensions, not 2", logits=np.ones(6))
        self.wrong(7, "dataset logits: it does not hold numbers", logits=np.array([[b"a", b"b"]]))
        self.wrong(7, "not [T, E]", logits=np.ones((0, 4)))
        self.wrong(7, "add the dataset token", "hash_random")
        self.wrong(7, "add the dataset domain", "reference")
        self.wrong(7, "add the dataset noise_logits", "noisy_top_k")
        self.wrong(7, "add the dataset replay/expert", "replay")
        self.wrong(7, "dataset mask: its shape is [5], not [6]", mask=np.ones(5))
        self.wrong(7, "dataset mask: it holds 2", mask=np.full(6, 2))
        self.wrong(7, "dataset mask: no token counts", mask=np.zeros(6))
        self.wrong(7, "dataset token: it must hold whole numbers", token=np.full(6, 0.5))
        self.wrong(7, "dataset token: it holds -1", token=np.full(6, -1))
        self.wrong(7, "dataset token: token 9 is not below data.vocabulary = 9", "hash_random", "data.vocabulary=9", token=np.full(6, 9))
        self.wrong(7, "dataset sequence: sequence 0 goes on at token 4", sequence=np.array([0, 0, 1, 1, 0, 0]))
        self.wrong(7, "dataset domain: token 1 has another domain", domain=np.array([0, 1, 0, 0, 0, 0]), sequence=sequence)
        self.wrong(7, "token 0 goes to expert 4 of 4", "replay", replay_expert=np.full((6, 1), 4))
        self.wrong(7, "token 0 goes to expert 1 twice", "replay", replay_expert=np.full((6, 2), 1))
        self.wrong(7, "divisible by the 4 experts", "quantile", logits=self.logits(6, 4), mask=np.array([1, 1, 1, 1, 1, 0]))
        self.wrong(7, "dataset state/bais: no state of this strategy", "expert_bias", state_bais=np.ones(4))
        self.assertIn("this strategy has state/bias [4]", self.error)
        self.wrong(7, "dataset state/bias: it holds 3 numbers, not 4", "expert_bias", state_bias=np.ones(3))
        self.wrong(7, "no state of this strategy", state_bias=np.ones(4))
        self.assertIn("this strategy has no state", self.error)

    def test_sizes_that_a_file_names_have_bounds(self):
        """Ids are sizes of tables: a few bytes must not ask for terabytes."""
        most = 4194304  # the largest vocabulary, and as many domains
        for name in ["token", "domain"]:
            for router in ["hash_random", "top_k"]:
                for value in [most, 2**40, 2**63 - 1]:
                    self.wrong(7, f"dataset {name}: it holds {value}, and the most is {most - 1}", router, **{"token": np.zeros(6, dtype=np.int64)} | {name: np.full(6, value)})
            self.wrong(7, f"dataset {name}: a number beyond 2^53, which is no count", **{name: np.full(6, 1e300)})
            self.wrong(7, f"dataset {name}: a number beyond 2^53, which is no count", **{name: np.full(6, np.inf)})
        self.wrong(7, "dataset mask: a number beyond 2^53", mask=np.full(6, -1e300))
        self.route("top_k", "routing.top_k=2", logits=self.logits(6, 4), token=np.full(6, most - 1), domain=np.full(6, most - 1))
        wide = self.route("hash_random", "routing.top_k=2", logits=self.logits(6, 4), token=np.full(6, most - 1))
        self.assertEqual(len(set(wide["expert"][:2])), 2)
        self.wrong(3, "a table of 4194304 token ids times routing.top_k = 70, and the most is 268435456", "hash_random", "routing.top_k=70", logits=self.logits(6, 80), token=np.full(6, most - 1))
        self.wrong(7, "and a model has at most 262144 experts", logits=np.zeros((1, 262145), dtype=np.float32))

    def test_choices_to_replay(self):
        for choices, text in [(np.full((6, 2), 2**40), f"token 0 goes to expert {2**40} of 4"), (np.full((6, 2), -2), "it holds -2, and the least is -1"), (np.full((6, 2), 0.5), "whole numbers"),
                              (np.full((6, 1), np.nan), "dataset replay/expert: a NaN at [0, 0]"), (np.full((6, 2), np.inf), "dataset replay/expert: a number beyond 2^53"),
                              (np.full((6, 5), -1), "its shape is [6, 5], more choices than the 4 experts"), (np.full((5, 2), 0), "its shape is [5, 2], not [6, k]"), (np.zeros(6), "it has 1 dimensions, not 2")]:
            self.wrong(7, text, "replay", replay_expert=choices)
        out = self.route("replay", "routing.top_k=2", logits=self.logits(6, 4), replay_expert=np.zeros((6, 0), dtype=np.int64))
        self.assertEqual(out["expert"].size, 0)

    def test_without_logits(self):
        self.route("top_k", mask=np.ones(4), code=7)
        self.assertIn("add the dataset logits: [T, E]", self.error)


if __name__ == "__main__":
    unittest.main()
