"""Figures of a sweep by matplotlib, for papers and notebooks. Each function gives a `Figure`; `figure.savefig(path)` writes it.

`table` is always `sweep.trials` joined with `describe_trials(sweep)`, as `joined(sweep)` gives it. Nothing here needs a display.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from moesweep.results.effects import pareto_front
from moesweep.results.settings import describe_trials, scope_rank
from moesweep.results.sweep import NO_BETTER, Sweep
from moesweep.text import printable

#: Colours that people with any colour vision tell apart (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")


def joined(sweep: Sweep, state: str | None = "done") -> pd.DataFrame:
    """A row a trial: what the study compares, its axes and its metrics; trials of one state, or all for None."""
    described = describe_trials(sweep)
    table = described.join(sweep.trials.drop(columns=["id", *(set(described.columns) & set(sweep.trials.columns))]))
    return table if state is None else table[table["state"] == state]


def _shown(text: str) -> str:
    """A name from the file as a label: control characters escaped, `$` no sign of a formula."""
    return printable(text).replace("$", r"\$")


def _label(text: str, warnings: Iterable[str]) -> str:
    """The label of trials, with the mark of those that are no better than uniform guessing."""
    guessed = [NO_BETTER in warning.split(",") for warning in warnings]
    mark = (
        ""
        if not any(guessed)
        else "\nno better than uniform guessing" + ("" if all(guessed) else f": {sum(guessed)} of {len(guessed)}")
    )
    return _shown(text) + mark


def _figure(columns: int = 1, width: float = 6.4, height: float = 4.0) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(1, columns)))
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def learning_curves(
    sweep: Sweep,
    series: str = "loss",
    settings: Sequence[int] | None = None,
    against: Literal["step", "schedule"] = "step",
    smooth: int = 1,
) -> Figure:
    """A step series of each setting, the mean over seeds with a band from the lowest to the highest seed.

    `series` is a column of `sweep.steps`; `against="schedule"` puts the share of the trial's steps below it, as for `drop_rate`;
    `smooth` averages that many steps. KeyError when no trial recorded the series.
    """
    table = joined(sweep)
    steps = sweep.steps
    if series not in steps.columns:
        raise KeyError(f"{sweep.path}: no trial recorded steps/{series}")
    figure, (axes,) = _figure()
    shown = table["setting"].unique() if settings is None else settings
    for number, setting in enumerate(shown):
        mine = table[table["setting"] == setting]
        curves = []
        for trial in mine["id"]:
            curve = steps[steps["id"] == trial].set_index("step")[series].dropna()
            if len(curve) == 0:
                continue
            curve = curve.rolling(smooth, min_periods=1).mean()
            if against == "schedule":
                curve.index = (curve.index / curve.index.max()).round(6)
            curves.append(curve)
        if not curves:
            continue
        wide = pd.concat(curves, axis=1)
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(
            wide.index,
            wide.mean(axis=1),
            color=colour,
            label=_label(mine["label"].iloc[0], mine["warnings"]),
            linewidth=1.6,
        )
        axes.fill_between(wide.index, wide.min(axis=1), wide.max(axis=1), color=colour, alpha=0.18, linewidth=0)
    info = sweep.array_info(f"steps/{series}")
    axes.set_xlabel("step" if against == "step" else "share of the schedule")
    axes.set_ylabel(
        _shown(series.replace("_", " ")) + (f" ({_shown(info.unit)})" if info.unit not in ("", "1") else "")
    )
    if axes.lines:
        axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def scope_map(table: pd.DataFrame, metric: str) -> Figure:
    """Means over seeds of a metric, methods down and scopes across; a method without a scope fills its row."""
    known = table.dropna(subset=[metric])
    scopes = sorted({str(scope) for scope in known["scope"].dropna()}, key=scope_rank) or ["any"]
    methods = list(dict.fromkeys(known["method"]))
    values = np.full((len(methods), len(scopes)), np.nan)
    guessed = np.zeros(values.shape, dtype=bool)
    for row, method in enumerate(methods):
        for column, scope in enumerate(scopes):
            mine = known[(known["method"] == method) & (known["scope"].isna() | (known["scope"] == scope))]
            values[row, column] = mine[metric].mean() if len(mine) else np.nan
            guessed[row, column] = "warnings" in mine.columns and any(
                NO_BETTER in text.split(",") for text in mine["warnings"]
            )
    figure, (axes,) = _figure(width=1.6 + 1.3 * len(scopes), height=1.0 + 0.5 * len(methods))
    image = axes.imshow(values, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(scopes)), [_shown(scope.replace("_", " ")) for scope in scopes])
    axes.set_yticks(range(len(methods)), [_shown(method.replace("_", " ")) for method in methods])
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            axes.text(
                column,
                row,
                f"{value:.3f}" + (" ⚠" if guessed[row, column] else ""),
                ha="center",
                va="center",
                color="white" if image.norm(value) > 0.55 else "black",
            )
    axes.set_title(_shown(metric) + ("\n⚠: with trials no better than uniform guessing" if guessed.any() else ""))
    return figure


def expert_map(sweep: Sweep, trial: str, layer: int = 0, evaluation: int = -1, reading: str = "training") -> Figure:
    """Where each expert's slots come from, domains down and experts across, ordered by main domain. KeyError without counts."""
    counts = sweep.counts(trial, reading)
    if counts is None:
        raise KeyError(f"{sweep.path}: trial {trial} has no routing counts ({reading} reading)")
    mine = counts[evaluation, layer].astype(np.float64)
    load = mine.sum(axis=0)
    share = mine / np.where(load > 0, load, 1)
    order = np.lexsort((-share.max(axis=0), share.argmax(axis=0)))
    figure, (axes,) = _figure(width=1.5 + 0.16 * len(load), height=1.0 + 0.28 * len(mine))
    image = axes.imshow(share[:, order], cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(len(mine)), [_shown(name) for name in sweep.domains(trial)[: len(mine)]])
    axes.set_xticks([])
    axes.set_xlabel(f"experts of layer {layer}")
    axes.set_title(_label("", [sweep.trials["warnings"].iloc[sweep.row(trial)]]).strip(), fontsize="small")
    figure.colorbar(image, ax=axes, label="share of the expert's slots")
    return figure


def load_maps(sweep: Sweep, trials: Sequence[str], layer: int = 0, reading: str = "training") -> Figure:
    """Load of each expert over an even share, evaluations down and experts across, trials side by side."""
    figure, panels = _figure(columns=max(1, len(trials)), width=3.2, height=2.6)
    labels = describe_trials(sweep).set_index("id")["label"]
    for axes, trial in zip(panels, trials, strict=False):
        counts = sweep.counts(trial, reading)
        if counts is None:
            raise KeyError(f"{sweep.path}: trial {trial} has no routing counts ({reading} reading)")
        load = counts[:, layer].sum(axis=1).astype(np.float64)
        ratio = load / np.maximum(load.mean(axis=1, keepdims=True), 1e-300)
        order = np.argsort(-ratio[-1], kind="stable")
        shown = np.log2(np.maximum(ratio[:, order], 2.0**-8))
        image = axes.imshow(shown, cmap="PuOr_r", vmin=-2, vmax=2, aspect="auto")
        row = sweep.row(trial)
        axes.set_title(_label(labels[sweep.ids[row]], [sweep.trials["warnings"].iloc[row]]), fontsize="small")
        axes.set_xlabel("experts by load")
        steps = sweep.array(trial, "evaluations/step")
        if steps is not None:
            axes.set_yticks(range(len(steps)), [str(step) for step in steps])
    if len(trials):
        bar = figure.colorbar(image, ax=panels, ticks=[-2, -1, 0, 1, 2])
        bar.ax.set_yticklabels(["¼", "½", "1", "2", "4"])
        bar.set_label("load over an even share")
    return figure


def forest(effects: pd.DataFrame, labels: Sequence[str] | None = None) -> Figure:
    """Effects with their intervals, one a line, as `effect_table` and `paired_differences` give them."""
    if labels is None:
        # What stands before `baseline`: the cell of a paired difference, or the axis, and last the value compared.
        *cell, value = [
            effects[name].astype(str) for name in list(effects.columns)[: list(effects.columns).index("baseline")]
        ]
        what = effects["baseline"].astype(str) + " → " + value
        labels = [" · ".join(texts) for texts in zip(*cell, what, strict=True)]
    figure, (axes,) = _figure(height=0.9 + 0.32 * len(effects))
    at = np.arange(len(effects))[::-1]
    mean = effects["mean"].to_numpy(dtype=np.float64)
    axes.axvline(0, color="#888888", linewidth=1)
    axes.hlines(at, effects["low"], effects["high"], color=COLOURS[0], alpha=0.4, linewidth=5)
    axes.plot(mean, at, "o", color=COLOURS[0])
    axes.set_yticks(at, [_shown(text) for text in labels])
    axes.set_ylim(-0.6, max(1, len(effects)) - 0.4)
    axes.set_xlabel(f"difference in {_shown(effects['metric'].iloc[0])}" if len(effects) else "difference")
    return figure


def trade_off(
    table: pd.DataFrame,
    x: str = "greedy.loss",
    y: str = "purity_expert",
    goals: Mapping[str, Literal["min", "max"]] | None = None,
) -> Figure:
    """Settings by two metrics, means over seeds; those that no other beats in both are ringed. `goals` defaults to min x, max y."""
    warnings = table["warnings"] if "warnings" in table.columns else pd.Series("", index=table.index)
    means = table.groupby("setting").agg({x: "mean", y: "mean", "method": "first"}).dropna()
    guessed = warnings.map(lambda text: NO_BETTER in str(text).split(",")).groupby(table["setting"]).any()
    front = pareto_front(means, goals or {x: "min", y: "max"})
    figure, (axes,) = _figure()
    for number, (method, mine) in enumerate(means.groupby("method", sort=False)):
        axes.scatter(
            mine[x], mine[y], color=COLOURS[number % len(COLOURS)], label=_shown(str(method).replace("_", " ")), s=36
        )
    none = means[guessed.reindex(means.index)]
    if len(none):
        axes.scatter(none[x], none[y], color="black", marker="x", label="no better than uniform guessing", s=60)
    best = means[front].sort_values(x)
    axes.scatter(best[x], best[y], facecolors="none", edgecolors="black", s=90, linewidths=1.4)
    axes.set_xlabel(_shown(x))
    axes.set_ylabel(_shown(y))
    if len(means):
        axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
