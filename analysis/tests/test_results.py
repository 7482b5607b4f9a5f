"""The frames of a sweep against what an independent writer put into the file, and clear errors for files that are no good."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from results_writer import LANGUAGES, LIBVER, Trial, changed, example, fail, make_trial, study, write_sweep

import moesweep
from moesweep.report.cli import main
from moesweep.results import (
    CorruptSweep,
    NewerSweep,
    NotASweep,
    axis_effects,
    describe_trials,
    paired_differences,
    seed_summary,
)
from moesweep.results.effects import bootstrap_mean, pooled_spread, spread
from moesweep.results.sweep import parse_column


def ordered(trials: list[Trial]) -> list[Trial]:
    return sorted(trials, key=lambda trial: trial.id)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Trial]]:
    """Trials of different layers, domains, experts and steps side by side, some without results."""
    shapes = [(2, 8, 32, 20), (6, 4, 16, 40), (1, 2, 4, 7)]
    trials = [
        make_trial(
            "aux_loss",
            scope,
            seed,
            {"routing.balance.scope": scope, "seed": str(seed), "model.layers": str(layers)},
            layers=layers,
            domains=domains,
            experts=experts,
            steps=steps,
        )
        for seed in (1, 2)
        for scope, (layers, domains, experts, steps) in zip(
            ("sequence", "micro_batch", "global_batch"), shapes, strict=True
        )
    ]
    trials[1] = fail(trials[1], "diverged", "the training loss is NaN at step 3")
    path = tmp_path_factory.mktemp("mixed") / "sweep.h5"
    write_sweep(path, trials)
    return path, ordered(trials)


@pytest.mark.parametrize(("kind", "count"), [("empty", 0), ("one", 1), ("quickstart", 27), ("failed", 27)])
def test_trials_of_every_size(tmp_path: Path, kind: str, count: int) -> None:
    write_sweep(tmp_path / "sweep.h5", example(kind), name="a study")
    with moesweep.open_sweep(tmp_path / "sweep.h5") as sweep:
        assert sweep.name == "a study"
        assert len(sweep) == len(sweep.trials) == count
        assert list(sweep.trials["id"]) == [trial.id for trial in ordered(example(kind))]
        assert len(sweep.steps) == sum(len(trial.arrays.get("steps/step", [])) for trial in example(kind))
        assert set(sweep.evaluations.columns) == {
            "id", "evaluation", "step", "reading", "metric", "layer", "domain", "value",
        }  # fmt: skip
        assert len(describe_trials(sweep)) == count
        assert len(sweep.routing) == sum(
            values.size for trial in example(kind) for name, values in trial.arrays.items() if name.endswith("counts")
        )


def test_trials_frame_is_what_was_written(mixed: tuple[Path, list[Trial]]) -> None:
    path, trials = mixed
    frame = moesweep.open_sweep(path).trials
    assert list(frame["state"]) == [trial.state for trial in trials]
    assert list(frame["reason"]) == [trial.reason for trial in trials]
    for row, trial in enumerate(trials):
        assert frame["routing.balance.scope"][row] == trial.axes["routing.balance.scope"]
        assert frame["seed"][row] == int(trial.axes["seed"])
        for name, value in trial.metrics.items():
            assert frame[name][row] == value
        if trial.state != "done":
            assert math.isnan(frame["loss"][row])
        assert frame["config"][row]["routing.balance.scope"] == trial.axes["routing.balance.scope"]
        assert dict(frame["config"][row]) == trial.config


def test_warnings_are_a_column_of_the_trials(tmp_path: Path) -> None:
    trials = ordered(study(seeds=1)[:3])
    trials[1].warnings = "no_better_than_uniform"
    trials[2].warnings = "no_better_than_uniform,another_word"
    write_sweep(tmp_path / "sweep.h5", trials)
    with moesweep.open_sweep(tmp_path / "sweep.h5") as sweep:
        assert list(sweep.trials["warnings"]) == [trial.warnings for trial in trials]
        assert "warnings" not in sweep.metrics + sweep.axes
    write_sweep(tmp_path / "sweep.h5", trials, content=False)
    with moesweep.open_sweep(tmp_path / "sweep.h5") as sweep:
        assert list(sweep.trials["warnings"]) == ["", "", ""]


def test_steps_frame_is_what_was_written(mixed: tuple[Path, list[Trial]]) -> None:
    path, trials = mixed
    steps = moesweep.open_sweep(path).steps
    for trial in trials:
        mine = steps[steps["id"] == trial.id]
        if trial.state != "done":
            assert len(mine) == 0
            continue
        assert np.array_equal(mine["step"], trial.arrays["steps/step"])
        assert np.array_equal(mine["loss"], trial.arrays["steps/loss"])
        expected = trial.arrays["steps/max_violation_global_batch"].mean(axis=1)
        assert np.allclose(mine["max_violation_global_batch"], expected, rtol=1e-15)


def test_steps_that_lack_an_array_or_recorded_nothing(tmp_path: Path) -> None:
    trials = study(seeds=1)[:3]
    del trials[0].arrays["steps/z_loss"]
    trials[1].arrays["steps/z_loss"] = np.zeros(0)
    write_sweep(tmp_path / "sweep.h5", trials)
    steps = moesweep.open_sweep(tmp_path / "sweep.h5").steps
    missing = steps.groupby("id")["z_loss"].apply(lambda column: column.isna().all())
    assert list(missing[[trial.id for trial in trials]]) == [True, True, False]
    trials[1].arrays["steps/z_loss"] = np.zeros(7)
    write_sweep(tmp_path / "sweep.h5", trials)
    with pytest.raises(CorruptSweep, match="steps/z_loss has 7 steps"):
        _ = moesweep.open_sweep(tmp_path / "sweep.h5").steps


def test_evaluations_frame_is_what_was_written(mixed: tuple[Path, list[Trial]]) -> None:
    path, trials = mixed
    frame = moesweep.open_sweep(path).evaluations
    seen = 0
    for (trial_id, reading, metric), cell in frame.groupby(["id", "reading", "metric"], observed=True):
        trial = next(trial for trial in trials if trial.id == trial_id)
        values = trial.arrays[f"evaluations/{'greedy.' if reading == 'greedy' else ''}{metric}"]
        assert np.array_equal(cell["value"], values.reshape(-1))
        assert np.array_equal(
            cell["step"], np.repeat(trial.arrays["evaluations/step"], values.shape[1] if values.ndim == 2 else 1)
        )
        if metric.endswith("_by_domain"):
            assert list(cell["domain"][: values.shape[1]]) == trial.config["data"]["domains"]
            assert cell["layer"].isna().all()
        elif values.ndim == 2:
            assert list(cell["layer"]) == list(range(values.shape[1])) * len(values)
        else:
            assert cell["layer"].isna().all()
        seen += 1
    done = sum(trial.state == "done" for trial in trials)
    assert seen == done * 16


def test_routing_frame_is_what_was_written(mixed: tuple[Path, list[Trial]]) -> None:
    path, trials = mixed
    sweep = moesweep.open_sweep(path)
    for reading, prefix in (("training", ""), ("greedy", "greedy.")):
        for trial in trials:
            if trial.state != "done":
                assert sweep.counts(trial.id, reading) is None
                continue
            written = trial.arrays[f"evaluations/{prefix}counts"]
            assert np.array_equal(sweep.counts(trial.id, reading), written)
            mine = sweep.routing[(sweep.routing["id"] == trial.id) & (sweep.routing["reading"] == reading)]
            back = np.zeros(written.shape, dtype=np.int64)
            names = sweep.domains(trial.id)
            domains = [names.index(name) for name in mine["domain"]]
            back[mine["evaluation"], mine["layer"], domains, mine["expert"]] = mine["count"]
            assert np.array_equal(back, written)


def test_texts_and_lookups(mixed: tuple[Path, list[Trial]]) -> None:
    path, trials = mixed
    sweep = moesweep.open_sweep(path)
    trial = trials[-1]
    assert sweep.provenance(trial.id) == trial.provenance
    assert sweep.config(trial.id[:12]).as_dict() == trial.config
    assert sweep.config(trial.id)["data.domains"] == trial.config["data"]["domains"]
    with pytest.raises(KeyError):
        sweep.config(trial.id)["routing.balance.nothing"]
    with pytest.raises(KeyError, match="begin with"):
        sweep.config("no such trial")
    with pytest.raises(ValueError, match="training or greedy"):
        sweep.counts(trial.id, "neither")
    assert sweep.array_info("evaluations/loss").metric
    assert not sweep.array_info("evaluations/counts").metric


@given(
    metrics=st.lists(
        st.dictionaries(
            st.sampled_from(["loss", "nmi", "greedy.loss"]), st.floats(allow_nan=False, allow_infinity=False)
        ),
        max_size=6,
    ),
    reason=st.text(max_size=40).map(lambda text: text.replace("\0", "")),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_metrics_and_reasons_survive(tmp_path: Path, metrics: list[dict[str, float]], reason: str) -> None:
    trials = [Trial(f"{i:016x}", "failed", reason, "", {"seed": str(i)}, numbers) for i, numbers in enumerate(metrics)]
    path = tmp_path / "any.h5"
    write_sweep(path, trials)
    with moesweep.open_sweep(path) as sweep:
        for row, trial in enumerate(trials):
            assert sweep.trials["reason"][row] == reason
            for name in sweep.metrics:
                value = sweep.trials[name][row]
                assert value == trial.metrics[name] if name in trial.metrics else math.isnan(value)


SHAPES = st.tuples(*[st.integers(0, 3)] * 4)


@given(shapes=st.lists(st.one_of(st.none(), SHAPES), max_size=6), lazy=st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arrays_of_any_shapes_side_by_side(
    tmp_path: Path, shapes: list[tuple[int, int, int, int] | None], lazy: bool
) -> None:
    """Trials with any number of evaluations, layers, domains and experts, none included, whether arrays fit in memory or not."""
    rng = np.random.default_rng(0)
    trials = []
    for number, shape in enumerate(shapes):
        trial = Trial(f"{number:016x}", axes={"seed": str(number)}, config={"data": {"domains": ["a"]}})
        if shape is not None:
            evaluations, layers, _, _ = shape
            trial.arrays = {
                "evaluations/step": np.arange(evaluations) * 10,
                "evaluations/counts": rng.integers(0, 99, shape),
                "evaluations/nmi": rng.random((evaluations, layers)),
                "steps/step": np.arange(evaluations) + 1,
                "steps/drop_rate": rng.random((evaluations, layers)),
            }
        trials.append(trial)
    path = tmp_path / "any.h5"
    write_sweep(path, trials)
    with pytest.MonkeyPatch.context() as patch, moesweep.open_sweep(path) as sweep:
        if lazy:
            patch.setattr("moesweep.results.file.LAZY_BYTES", 0)
        whole = sweep.routing
        pieces = [piece for piece in sweep.iter_routing(2) if len(piece)]
        assert len(whole) == sum(len(piece) for piece in pieces)
        for trial in trials:
            counts = trial.arrays.get("evaluations/counts", np.zeros((0, 0, 0, 0), dtype=np.int64))
            mine = whole[whole["id"] == trial.id]
            assert np.array_equal(mine["count"], counts.reshape(-1))
            if any(counts.shape):
                back = sweep.counts(trial.id)
                assert back is not None
                assert np.array_equal(back, counts)
            names = ["a", "domain 1", "domain 2"]
            assert list(mine["domain"]) == [names[d] for d in np.indices(counts.shape)[2].reshape(-1)]
            nmi = trial.arrays.get("evaluations/nmi", np.zeros((0, 0)))
            frame = sweep.evaluations[sweep.evaluations["id"] == trial.id]
            assert np.array_equal(frame["value"], nmi.reshape(-1))
            assert list(frame["step"]) == list(np.repeat(np.arange(len(nmi)) * 10, nmi.shape[1]))
            if nmi.size:
                drops = sweep.steps[sweep.steps["id"] == trial.id]["drop_rate"]
                assert np.allclose(drops, trial.arrays["steps/drop_rate"].mean(axis=1), rtol=1e-15)


@given(
    st.lists(
        st.one_of(st.integers(-(10**6), 10**6), st.floats(allow_nan=False, allow_infinity=False)),
        min_size=1,
        max_size=8,
    )
)
def test_axis_texts_parse_to_the_numbers_they_came_from(values: list[float]) -> None:
    parsed = parse_column([repr(value) for value in values])
    assert list(parsed) == values
    assert parsed.dtype == ("int64" if all(isinstance(value, int) for value in values) else "float64")


def test_axis_texts_that_are_no_numbers() -> None:
    assert list(parse_column(["true", "false"])) == [True, False]
    assert list(parse_column(["softmax", "1"])) == ["softmax", "1"]
    none = parse_column(["none", "1.25"])
    assert math.isnan(none[0])
    assert none[1] == 1.25
    assert list(parse_column(["none", "none"])) == ["none", "none"]


# Errors ---------------------------------------------------------------------------------------------------------------


def test_missing_folder_foreign_and_trial_files(tmp_path: Path) -> None:
    with pytest.raises(NotASweep, match="no such file"):
        moesweep.open_sweep(tmp_path / "none.h5")
    with pytest.raises(NotASweep, match="is a folder"):
        moesweep.open_sweep(tmp_path)
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(NotASweep, match="can't be opened as HDF5"):
        moesweep.open_sweep(tmp_path / "text.h5")
    with h5py.File(tmp_path / "trial.h5", "w", libver=LIBVER) as file:
        file.attrs["format"] = np.bytes_("moesweep-trial")
    with pytest.raises(NotASweep, match="is a moesweep-trial file"):
        moesweep.open_sweep(tmp_path / "trial.h5")
    with h5py.File(tmp_path / "foreign.h5", "w", libver=LIBVER) as file:
        file.attrs["format"] = "a text of no fixed length"
    with pytest.raises(NotASweep, match="no text attribute `format`"):
        moesweep.open_sweep(tmp_path / "foreign.h5")


def test_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep.h5", study()[:2], version=2)
    with pytest.raises(NewerSweep, match="version 2 is newer than version 1"):
        moesweep.open_sweep(tmp_path / "sweep.h5")


@pytest.mark.parametrize("name", ["trials/state", "texts/config/data", "header/name", "arrays/steps/loss/data"])
def test_missing_dataset_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "sweep.h5"
    write_sweep(path, study()[:2])
    with changed(path) as file:
        del file[name]
    with pytest.raises(CorruptSweep, match=name), moesweep.open_sweep(path) as sweep:
        sweep.config(sweep.ids[0]).as_dict()
        _ = sweep.steps


def test_flipped_bytes_of_data_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "sweep.h5"
    write_sweep(path, study()[:2])
    with h5py.File(path, "r") as file:
        dataset = file["arrays/steps/loss/data"]
        chunk = dataset.id.get_chunk_info(0)
    raw = bytearray(path.read_bytes())
    raw[chunk.byte_offset + 5] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(CorruptSweep, match="arrays/steps/loss/data"), moesweep.open_sweep(path) as sweep:
        _ = sweep.steps


def test_offsets_that_disagree_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "sweep.h5"
    write_sweep(path, study()[:3])
    with changed(path) as file:
        file["arrays/steps/loss/offsets"][1] += 10**6
    with pytest.raises(CorruptSweep, match="arrays/steps/loss/offsets"), moesweep.open_sweep(path) as sweep:
        _ = sweep.steps


# Settings and effects -------------------------------------------------------------------------------------------------


def test_trials_are_described(tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep.h5", study({64: 574_000.0, 256: 20_090_000.0}))
    sweep = moesweep.open_sweep(tmp_path / "sweep.h5")
    table = describe_trials(sweep)
    assert set(table["method"]) == {"aux_loss", "expert_bias", "none", "reference", "random"}
    assert table[table["method"].isin(["none", "reference", "random"])]["scope"].isna().all()
    assert set(table["scale"]) == {1.0, 35.0}
    assert table["setting"].nunique() == 18
    assert (table.groupby("setting")["seed"].nunique() == 3).all()
    assert all(extra == {} for extra in table["extra"])  # score goes with the method, width with the scale


def test_further_axes_set_settings_apart_and_failed_trials_know_their_size(tmp_path: Path) -> None:
    trials = study({64: 574_000.0, 256: 20_090_000.0}, seeds=2, extra={"train.learning_rate": ["1e-3", "6e-3"]})
    trials = [fail(trial, "failed", "why") if i % 5 == 0 else trial for i, trial in enumerate(trials)]
    write_sweep(tmp_path / "sweep.h5", trials)
    table = describe_trials(moesweep.open_sweep(tmp_path / "sweep.h5"))
    assert table["setting"].nunique() == 36
    assert {tuple(extra) for extra in table["extra"]} == {("train.learning_rate",)}
    assert table["parameters"].notna().all()


def test_spread_and_bootstrap() -> None:
    assert spread([1.0, 2.0, 3.0]) == 1.0
    assert math.isnan(spread([1.0]))
    assert pooled_spread([[1.0, 3.0], [5.0, 5.0]]) == 1.0
    values = [0.1, 0.4, 0.2]
    assert bootstrap_mean(values) == bootstrap_mean(values)
    low, high = bootstrap_mean(values)
    assert min(values) - 1e-12 <= low <= np.mean(values) <= high <= max(values) + 1e-12


def test_bootstrap_covers_the_true_mean() -> None:
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_mean(rng.normal(1.0, 0.5, 30), resamples=500)
        hits += low <= 1.0 <= high
    assert 0.87 <= hits / 200 <= 0.99


def test_paired_differences_remove_what_seeds_share() -> None:
    base = {1: 10.0, 2: 20.0, 3: 35.0}
    rows = [
        {"seed": seed, "scope": scope, "method": method, "x": base[seed] + shift}
        for seed in base
        for method in ("a", "b")
        for scope, shift in (("small", 0.0), ("large", 2.0 if method == "a" else -1.0))
    ]
    rows.append({"seed": 9, "scope": "large", "method": "a", "x": 1e6})  # no partner
    table = paired_differences(pd.DataFrame(rows), "x", "scope", "small", within=["method"])
    assert list(table["mean"]) == [2.0, -1.0]
    assert list(table["spread"]) == [0.0, 0.0]
    assert list(table["pairs"]) == [3, 3]
    summary = seed_summary(pd.DataFrame(rows[:-1]), ["x"], ["method", "scope"])
    cell = summary[(summary["method"] == "a") & (summary["scope"] == "large")].iloc[0]
    assert cell["mean"] == pytest.approx(np.mean(list(base.values())) + 2)
    assert cell["spread"] == pytest.approx(np.std(list(base.values()), ddof=1))


def test_axis_effects_rank_the_axes() -> None:
    rows = [
        {"seed": seed, "a": a, "b": b, "x": 3.0 * a + 0.5 * b + 0.01 * seed}
        for seed in (1, 2)
        for a in (0, 1)
        for b in (0, 1)
    ]
    table = axis_effects(pd.DataFrame(rows), "x", ["a", "b", "seed"])
    assert list(table["axis"]) == ["a", "b"]
    assert list(table["range"]) == pytest.approx([3.0, 0.5])
    assert list(table["highest"]) == [1, 1]


# Export ---------------------------------------------------------------------------------------------------------------


def test_export_reads_back_in_full_precision(tmp_path: Path) -> None:
    path = tmp_path / "sweep.h5"
    trials = ordered(example("failed"))
    write_sweep(path, trials)
    assert main(["export", str(path), "--out", str(tmp_path / "tables")]) == 0
    back = pd.read_csv(tmp_path / "tables" / "trials.csv", dtype=str)
    sweep = moesweep.open_sweep(path)
    for metric in sweep.metrics:
        assert np.array_equal([float(text) for text in back[metric]], sweep.trials[metric], equal_nan=True)
    assert json.loads(back["config"][0]) == trials[0].config
    assert trials[0].config["data"]["domains"] == LANGUAGES
    evaluations = pd.read_csv(tmp_path / "tables" / "evaluations.csv", dtype=str)
    assert np.array_equal([float(text) for text in evaluations["value"]], sweep.evaluations["value"])
    assert len(pd.read_csv(tmp_path / "tables" / "routing.csv")) == len(sweep.routing)
    assert len(pd.read_csv(tmp_path / "tables" / "steps.csv")) == len(sweep.steps)


def test_command_reports_errors_by_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["html", str(tmp_path / "none.h5")]) == 4
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "text.h5").write_text("not HDF5")
    assert main(["html", str(tmp_path / "text.h5")]) == 5
    write_sweep(tmp_path / "sweep.h5", study()[:1])
    (tmp_path / "file").write_text("")
    assert main(["html", str(tmp_path / "sweep.h5"), "--out", str(tmp_path / "file" / "report.html")]) == 4
    shutil.copy(tmp_path / "sweep.h5", tmp_path / "copy.h5")
    assert main(["html", str(tmp_path / "copy.h5")]) == 0
    assert (tmp_path / "report.html").exists()
