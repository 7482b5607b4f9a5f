"""Effects that the page draws with intervals: of the scope, of the router, and of each further axis, in each metric."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from moesweep.report.headline import guessing
from moesweep.report.series import finite
from moesweep.results.effects import OBJECTIVES, bootstrap_mean, effect_table, pareto_front
from moesweep.results.settings import scope_rank, value_text

#: Metrics that effects are drawn for, in both readings.
METRICS = (
    "purity_expert",
    "utilisation",
    "loss",
    "nmi",
    "purity_reference",
    "expert_entropy",
    "max_violation",
    "drop_rate",
    "tokens_per_second",
)
#: What a router is compared with: the first of these that the sweep has.
BASELINES = ("none", "random", "reference")
#: The router that is told the domain is a bound, not a choice.
BOUND = "reference"

Row = dict[str, Any]


def shown_metrics(table: pd.DataFrame) -> list[str]:
    """Those of `METRICS` that finished trials recorded and that differ between any two of them."""
    names = [prefix + name for name in METRICS for prefix in ("", "greedy.")]
    return [name for name in names if name in table.columns and table[name].nunique() > 1]


def contrasts(table: pd.DataFrame) -> list[Row]:
    """One row a comparison: what is compared with what, and for each metric `[mean, low, high, [differences]]`.

    `kind` is `scope` (against the smallest scope of the same method), `method` (against `BASELINES`) or `axis` (a value of a
    further axis against its first one, all else equal). `table` joins `describe_trials` with metrics and axes, finished trials only.
    """
    metrics = shown_metrics(table)
    if not metrics or len(table) < 2:
        return []
    return [*_scopes(table, metrics), *_methods(table, metrics), *_axes(table, metrics)]


def _groups(table: pd.DataFrame, keys: list[pd.Series[Any]]) -> Iterable[pd.DataFrame]:
    texts = pd.Series(["\0".join(value_text(v) for v in values) for values in zip(*keys, strict=True)], table.index)
    for text in sorted(set(texts)):
        yield table[texts == text]


def _without_balance(extra: dict[str, str]) -> str:
    return "\0".join(f"{k}={v}" for k, v in sorted(extra.items()) if not k.startswith("routing.balance."))


def _scopes(table: pd.DataFrame, metrics: list[str]) -> Iterable[Row]:
    scoped = table[table["scope"].notna()]
    extra = scoped["extra"].map(lambda e: str(sorted(e.items())))
    for cell in _groups(scoped, [scoped["method"], scoped["parameters"], extra]):
        scopes = sorted(set(cell["scope"]), key=scope_rank)
        base = cell[cell["scope"] == scopes[0]]
        for scope in scopes[1:]:
            yield from _row("scope", cell[cell["scope"] == scope], base, metrics, scopes[0])


def _methods(table: pd.DataFrame, metrics: list[str]) -> Iterable[Row]:
    baseline = next((method for method in BASELINES if (table["method"] == method).any()), None)
    if baseline is None:
        return
    plain = table["extra"].map(_without_balance)
    for cell in _groups(table, [table["setting"]]):
        if cell["method"].iloc[0] == baseline:
            continue
        like = (table["method"] == baseline) & (plain == plain[cell.index[0]])
        size = cell["parameters"].iloc[0]
        like &= table["parameters"].isna() if pd.isna(size) else table["parameters"] == size
        yield from _row("method", cell, table[like], metrics, baseline)


def _row(kind: str, cell: pd.DataFrame, base: pd.DataFrame, metrics: list[str], baseline: str) -> Iterable[Row]:
    difference = cell.groupby("seed")[metrics].mean() - base.groupby("seed")[metrics].mean()
    found = {metric: _interval(difference[metric].dropna().to_numpy(dtype=np.float64)) for metric in metrics}
    found = {metric: numbers for metric, numbers in found.items() if numbers is not None}
    if found:
        first = cell.iloc[0]
        yield {
            "kind": kind,
            "method": first["method"],
            "scope": first["scope"],
            "baseline": baseline,
            "parameters": finite(first["parameters"]),
            "scale": finite(first["scale"]),
            "extra": first["extra"],
            "metrics": found,
            **_warned(cell, base),
        }


def _warned(*tables: pd.DataFrame) -> dict[str, int]:
    """Of how many trials a comparison is made, and how many of them are no better than uniform guessing."""
    return {
        "trials": sum(len(table) for table in tables),
        "warned": sum(int(guessing(table).sum()) for table in tables),
    }


def _interval(differences: np.typing.NDArray[np.float64]) -> list[Any] | None:
    if len(differences) == 0:
        return None
    low, high = bootstrap_mean(differences, resamples=4000)
    return [_digits(differences.mean()), _digits(low), _digits(high), [_digits(v) for v in differences]]


def _digits(value: float) -> float | None:
    number = finite(value)
    return None if number is None else float(f"{number:.6g}")


def _axes(table: pd.DataFrame, metrics: list[str]) -> Iterable[Row]:
    extras = sorted({axis for extra in table["extra"] for axis in extra})
    axes = [axis for axis in ["parameters", *extras] if axis in table.columns and table[axis].nunique(dropna=False) > 1]
    if not axes:
        return
    router = table["method"] + "\0" + table["scope"].fillna("")
    plain = table[["seed", *metrics]].assign(**{axis: table[axis] for axis in axes}, router=router)
    effects = effect_table(plain, metrics, [*axes, "router"])
    effects = effects[effects["axis"] != "router"]
    for (axis, value), rows in effects.groupby(["axis", "value"], sort=False, dropna=False):
        baseline = rows["baseline"].iloc[0]
        compared = table[table[axis].isin([value, baseline])]
        yield {
            **_warned(compared),
            "kind": "axis",
            "axis": axis,
            "value": value_text(value),
            "baseline": value_text(baseline),
            "cells": int(rows["cells"].max()),
            "metrics": {
                row["metric"]: [_digits(row["mean"]), _digits(row["low"]), _digits(row["high"]), []]
                for _, row in rows.iterrows()
            },
        }


def front(table: pd.DataFrame) -> dict[str, Any]:
    """Settings that no other one beats in every objective at once, by their means over seeds; the reference router is left out."""
    wanted = {m: goal for m, goal in OBJECTIVES.items() if m in table.columns and table[m].notna().any()}
    if not wanted or len(table) == 0:
        return {"objectives": [], "settings": []}
    chosen = table[table["method"] != BOUND]
    means = chosen.groupby("setting")[list(wanted)].mean()
    best = pareto_front(means, wanted)
    order = means[best].sort_values(next(iter(wanted)), ascending=next(iter(wanted.values())) == "min")
    return {"objectives": list(wanted), "settings": [int(setting) for setting in order.index]}
