"""Figures hold the numbers of the file; they are drawn without a display."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from results_writer import example, study, write_sweep

from moesweep.results import Sweep, effect_table, open_sweep, paired_differences, plots


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweep]:
    path = tmp_path_factory.mktemp("plots") / "sweep.h5"
    write_sweep(path, example("failed"))
    with open_sweep(path) as opened:
        yield opened


def drawn(figure: Figure, folder: Path) -> Figure:
    figure.savefig(folder / "figure.png", dpi=50)
    assert (folder / "figure.png").stat().st_size > 2000
    return figure


def test_curves_are_means_over_seeds(sweep: Sweep, tmp_path: Path) -> None:
    table = plots.joined(sweep)
    setting = int(table["setting"].iloc[0])
    mine = table[table["setting"] == setting]["id"]
    axes = drawn(plots.learning_curves(sweep, settings=[setting]), tmp_path).axes[0]
    expected = np.mean([sweep.array(trial, "steps/loss") for trial in mine], axis=0)
    assert np.allclose(axes.lines[0].get_ydata(), expected)
    axes = drawn(plots.learning_curves(sweep, "drop_rate", against="schedule", smooth=5), tmp_path).axes[0]
    assert len(axes.lines) == table["setting"].nunique()
    assert max(axes.lines[0].get_xdata()) == 1
    with pytest.raises(KeyError, match="steps/nothing"):
        plots.learning_curves(sweep, "nothing")


def test_maps_hold_means_and_shares(sweep: Sweep, tmp_path: Path) -> None:
    table = plots.joined(sweep)
    figure = drawn(plots.scope_map(table, "purity_expert"), tmp_path)
    image = figure.axes[0].images[0].get_array()
    methods = list(dict.fromkeys(table["method"]))
    cell = table[(table["method"] == "aux_loss") & (table["scope"] == "micro_batch")]
    assert image[methods.index("aux_loss"), 1] == pytest.approx(cell["purity_expert"].mean())
    trial = table["id"].iloc[0]
    shares = drawn(plots.expert_map(sweep, trial, layer=1), tmp_path).axes[0].images[0].get_array()
    assert np.allclose(shares.sum(axis=0), 1)
    assert list(shares.argmax(axis=0)) == sorted(shares.argmax(axis=0))
    ratios = 2.0 ** drawn(plots.load_maps(sweep, list(table["id"][:2])), tmp_path).axes[1].images[0].get_array()
    assert np.allclose(ratios.mean(axis=1), 1)
    failed = sweep.trials[sweep.trials["state"] == "failed"]["id"].iloc[0]
    for draw in (lambda: plots.expert_map(sweep, failed), lambda: plots.load_maps(sweep, [failed])):
        with pytest.raises(KeyError, match="no routing counts"):
            draw()


def test_effects_and_trade_offs(sweep: Sweep, tmp_path: Path) -> None:
    table = plots.joined(sweep)
    scoped = table[table["scope"].notna()]
    paired = paired_differences(scoped, "purity_expert", "scope", "sequence", within=["method"])
    axes = drawn(plots.forest(paired), tmp_path).axes[0]
    assert axes.get_yticklabels()[0].get_text() == "aux_loss · sequence → global_batch"
    effects = effect_table(scoped, ["loss"], ["method", "scope"])
    assert list(drawn(plots.forest(effects), tmp_path).axes[0].lines[-1].get_xdata()) == list(effects["mean"])
    axes = drawn(plots.trade_off(table), tmp_path).axes[0]
    assert len(axes.collections[-1].get_offsets()) == 1  # the reference router is best in both


def test_losses_by_expert_are_tidy(sweep: Sweep) -> None:
    frame = sweep.by_expert()
    for trial in plots.joined(sweep)["id"][:4]:
        for reading, prefix in (("training", ""), ("greedy", "greedy.")):
            mine = frame[(frame["id"] == trial) & (frame["reading"] == reading)]
            written = sweep.array(trial, f"evaluations/{prefix}loss_by_expert")
            assert written is not None
            back = np.zeros(written.shape)
            back[mine["evaluation"], mine["layer"], mine["expert"]] = mine["value"]
            assert np.array_equal(back, written, equal_nan=True)
    assert len(sweep.by_expert("drop_rate_by_expert")) == 0


def test_an_empty_sweep_draws_empty_figures(tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep.h5", [t for t in study(seeds=1)[:1]])
    with open_sweep(tmp_path / "sweep.h5") as sweep:
        table = plots.joined(sweep, state="failed")
        assert len(table) == 0
        drawn(plots.trade_off(table), tmp_path)
        drawn(plots.forest(effect_table(table, ["loss"], ["scope"])), tmp_path)
