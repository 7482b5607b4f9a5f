"""trace.h5 against trial.h5: what single tokens say must sum up to what the trial recorded."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import h5py
import numpy

PROGRAM = os.environ["MOESWEEP_PROGRAM"]
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2"]
TOKENS = 1024
SWEEP = ["train.steps=4", "evaluation.every_steps=2", f"evaluation.tokens={TOKENS}", "evaluation.trace_logits=true"]
# A capacity that drops, and a greedy reading that differs from the training one.
ROUTED = ["routing.capacity.factor=1.0", "routing.evaluation.temperature=0.5"]


def call(*arguments, ranks=0):
    command = [*MPIRUN] * (ranks > 1) + [PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run(folder, *overrides, ranks=0):
    call("run", "smoke", *SWEEP, *overrides, "--out", folder, ranks=ranks)
    return sorted(folder.glob("trials/*/*/trial.h5"))


def whole_validation_set(file):
    """Every token is traced: losses by domain and expert, counts and drops follow from the tokens."""
    with h5py.File(file) as trial, h5py.File(file.with_name("trace.h5")) as trace:
        assert trace.attrs["format"] == b"moesweep-trace" or trace.attrs["format"] == "moesweep-trace"
        assert trace["trace/step"][()] == 4
        for dataset in trace["trace"].values():
            assert dataset.fletcher32 and dataset.attrs["unit"] and dataset.attrs["description"], dataset.name
        config = json.loads(trace["header/config"][()].tobytes())
        assert config["evaluation"]["trace_logits"] is True
        readings = ["", "greedy."] if "greedy.token" in trace["trace"] else [""]
        for reading in readings:
            t = {name: trace[f"trace/{reading}{name}"][()] for name in
                 ("sequence", "position", "token", "target", "predicted", "domain", "loss", "expert", "weight", "dropped", "logits")}
            length = int(t["position"].max()) + 1
            assert len(t["token"]) == t["sequence"].max() * length + length
            assert (t["sequence"] * length + t["position"] == numpy.arange(len(t["token"]))).all()
            inner = t["position"] > 0
            assert (t["token"][inner] == t["target"][numpy.flatnonzero(inner) - 1]).all(), "a target is the next token"
            evaluations = trial["evaluations"]
            last = {name: evaluations[reading + name][-1] for name in ("loss", "loss_by_domain", "loss_by_expert", "counts", "drop_rate")}
            numpy.testing.assert_allclose(t["loss"].mean(), last["loss"], rtol=1e-6)
            for domain, loss in enumerate(last["loss_by_domain"]):
                numpy.testing.assert_allclose(t["loss"][t["domain"] == domain].mean(), loss, rtol=1e-6)
            layers, domains, experts = last["counts"].shape
            for layer in range(layers):
                there, kept = t["expert"][layer] >= 0, (t["expert"][layer] >= 0) & (t["dropped"][layer] == 0)
                assert (t["weight"][layer][~there] == 0).all() and (t["dropped"][layer][~there] == 0).all()
                numpy.testing.assert_allclose(1 - kept.sum() / there.sum(), last["drop_rate"][layer], atol=1e-12)
                for expert in range(experts):
                    mine = kept & (t["expert"][layer] == expert)
                    counts = [int(mine[t["domain"] == domain].sum()) for domain in range(domains)]
                    assert counts == last["counts"][layer, :, expert].tolist()
                    weight = numpy.where(mine, t["weight"][layer].astype(float), 0.0).sum(axis=1)
                    mean = (weight * t["loss"]).sum() / weight.sum() if weight.sum() > 0 else 0.0
                    numpy.testing.assert_allclose(mean, last["loss_by_expert"][layer, expert], rtol=1e-5, atol=1e-12)
            assert numpy.isfinite(evaluations[reading + "loss_by_expert"][()]).all()
            assert 0 <= t["predicted"].min() and t["predicted"].max() <= max(t["token"].max(), t["target"].max(), 255)
            if config["routing"]["select"] == "top_k" and config["routing"]["balance"]["method"] in ("none", "aux_loss"):
                chosen = numpy.sort(t["expert"], axis=2)
                best = numpy.sort(numpy.argsort(-t["logits"], axis=2)[:, :, : chosen.shape[2]], axis=2)
                assert (chosen == best).all(), "top-k takes the greatest logits"
        return readings


def main():
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        files = {}
        for layout, ranks in (("one", 1), ("two", 2)):
            files[layout] = run(scratch / layout, *ROUTED, "evaluation.trace_tokens=1000000", f"parallel.data={ranks}", ranks=ranks)
            assert len(files[layout]) == 4
            readings = [whole_validation_set(file) for file in files[layout]]
            assert ["", "greedy."] in readings
            for file in files[layout]:
                assert "sound" in call("verify", file.with_name("trace.h5"))
        for one, two in zip(files["one"], files["two"]):
            with h5py.File(one.with_name("trace.h5")) as a, h5py.File(two.with_name("trace.h5")) as b:
                for dataset in ("sequence", "position", "token", "target", "domain"):
                    assert (a["trace"][dataset][()] == b["trace"][dataset][()]).all(), "the order does not depend on the layout"
        # A part only, without logits; and nothing unless asked for. The trials are the same.
        for file in run(scratch / "part", *ROUTED, "evaluation.trace_tokens=100", "evaluation.trace_logits=false"):
            with h5py.File(file.with_name("trace.h5")) as trace:
                assert trace["trace/token"].shape == (100,) and trace["trace/expert"].shape[1] == 100
                assert "logits" not in trace["trace"]
        none = run(scratch / "none", *ROUTED)
        assert [file.parent.name for file in none] == [file.parent.name for file in files["one"]], "a trace changes no trial's id"
        assert not any(file.with_name("trace.h5").exists() for file in none)
        # Damage is found: any flipped byte is a change of what the digest covers, a failed checksum, or harmless.
        trace = files["one"][0].with_name("trace.h5")
        data = trace.read_bytes()
        found = 0
        places = range(0, len(data), len(data) // 40)
        for place in places:
            trace.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1:])
            done = subprocess.run([PROGRAM, "verify", trace], check=False, capture_output=True, text=True, timeout=60)
            assert done.returncode in (0, 5), done
            assert done.returncode == 0 or str(trace) in done.stderr, done
            found += done.returncode == 5
        assert found * 2 > len(places), "most bytes of a trace matter"
        print(f"traces on 1 and 2 ranks fit their trials; {found} of {len(places)} flipped bytes were found")


main()
sys.exit(0)
