"""Effects over seeds: mean and spread of each setting, differences paired by seed with bootstrap intervals, axis by axis; Pareto fronts.

Every function takes plain frames with a row a trial, such as `sweep.trials` joined with `describe_trials(sweep)`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

Numbers = npt.NDArray[np.float64]

#: What a router is wanted to be: low loss, pure and evenly used experts, fast.
OBJECTIVES: dict[str, Literal["min", "max"]] = {
    "greedy.loss": "min",
    "purity_expert": "max",
    "utilisation": "max",
    "tokens_per_second": "max",
}


def spread(values: Sequence[float] | Numbers) -> float:
    """Sample standard deviation (n - 1); NaN for fewer than two values."""
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[~np.isnan(numbers)]
    return float(np.std(numbers, ddof=1)) if len(numbers) > 1 else math.nan


def pooled_spread(groups: Sequence[Sequence[float]]) -> float:
    """Sample standard deviation within groups, pooled by their degrees of freedom; NaN when no group has two values."""
    squares, freedom = 0.0, 0
    for group in groups:
        numbers = np.asarray([v for v in group if not math.isnan(v)], dtype=np.float64)
        if len(numbers) > 1:
            squares += float(np.sum((numbers - numbers.mean()) ** 2))
            freedom += len(numbers) - 1
    return math.sqrt(squares / freedom) if freedom else math.nan


def bootstrap_mean(
    values: Sequence[float] | Numbers, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean, the same on every call. (NaN, NaN) for fewer than two values.

    With n values the interval can reach no further than the smallest and the largest of them: for three seeds read it as their range.
    """
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[~np.isnan(numbers)]
    if len(numbers) < 2:
        return math.nan, math.nan
    low, high = np.quantile(_resampled_means(numbers, seed, resamples), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled_means(numbers: Numbers, seed: int, resamples: int = 10_000) -> Numbers:
    draws = np.random.default_rng(seed).integers(0, len(numbers), size=(resamples, len(numbers)))
    return np.asarray(numbers[draws].mean(axis=1))


def seed_summary(trials: pd.DataFrame, metrics: Sequence[str], by: Sequence[str], level: float = 0.95) -> pd.DataFrame:
    """Each cell of `by` over its trials, tidy: `by` columns, `metric`, `mean`, `spread`, `low`, `high`, `count`.

    `low` and `high` are the bootstrap interval of the mean at `level`. Trials without the metric (NaN) are left out. A missing
    value of a `by` column makes a cell of its own.
    """
    rows: list[dict[str, Any]] = []
    for key, cell in trials.groupby(list(by), dropna=False, sort=True):
        for metric in metrics:
            values = cell[metric].dropna().to_numpy(dtype=np.float64)
            low, high = bootstrap_mean(values, level)
            rows.append(
                dict(zip(by, key, strict=True))
                | {
                    "metric": metric,
                    "mean": float(values.mean()) if len(values) else math.nan,
                    "spread": spread(values),
                    "low": low,
                    "high": high,
                    "count": len(values),
                }
            )
    return pd.DataFrame(rows, columns=[*by, "metric", "mean", "spread", "low", "high", "count"])


@dataclass(frozen=True)
class Comparison:
    """Two settings in one metric: `difference` is the mean of a minus that of b, `low` and `high` its bootstrap interval.

    `paired` tells whether it was taken seed by seed over `pairs` seeds; else the two groups share no seed, are resampled apart
    and `pairs` is 0. Numbers that the data does not give are NaN.
    """

    metric: str
    mean_a: float
    mean_b: float
    difference: float
    spread: float
    low: float
    high: float
    pairs: int
    paired: bool

    def __str__(self) -> str:
        how = f"paired over {self.pairs} seeds" if self.paired else "not paired"
        return f"{self.metric}: {self.difference:+.4g} ({self.low:+.4g} to {self.high:+.4g}, {how})"


def compare(
    trials: pd.DataFrame,
    metric: str,
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    pair: str = "seed",
    level: float = 0.95,
) -> Comparison:
    """Compares the trials whose columns have the values of `a` with those of `b`, paired by `pair` where they share any.

    KeyError when a column is absent, ValueError when either side selects no trial that has the metric.
    """
    sides: list[pd.DataFrame] = []
    for choice in (a, b):
        mine = trials[trials[metric].notna()]
        for column, value in choice.items():
            mine = mine[mine[column].isna() if value is None else mine[column] == value]
        if len(mine) == 0:
            raise ValueError(f"no trial with {metric} has {dict(choice)}")
        sides.append(mine)
    by_seed = [side.groupby(pair)[metric].mean() for side in sides]
    difference = (by_seed[0] - by_seed[1]).dropna().to_numpy(dtype=np.float64)
    mean_a, mean_b = (float(side[metric].mean()) for side in sides)
    if len(difference):
        low, high = bootstrap_mean(difference, level)
        middle, pairs = float(difference.mean()), len(difference)
        return Comparison(metric, mean_a, mean_b, middle, spread(difference), low, high, pairs, True)
    draws = [_resampled_means(side[metric].to_numpy(dtype=np.float64), seed) for seed, side in enumerate(sides)]
    low, high = math.nan, math.nan
    if all(len(side) > 1 for side in sides):
        low, high = (float(q) for q in np.quantile(draws[0] - draws[1], [(1 - level) / 2, (1 + level) / 2]))
    return Comparison(metric, mean_a, mean_b, mean_a - mean_b, math.nan, low, high, 0, False)


def paired_differences(
    trials: pd.DataFrame,
    metric: str,
    axis: str,
    baseline: Any,
    within: Sequence[str] = (),
    pair: str = "seed",
    level: float = 0.95,
) -> pd.DataFrame:
    """Differences of `metric` between each value of `axis` and `baseline`, paired by `pair` inside each cell of `within`.

    One row a cell and value: the `within` columns, `axis` (the value), `baseline`, `metric`, `mean` (value minus baseline),
    `spread`, `low` and `high` (bootstrap interval of the mean at `level`) and `pairs`. Trials without a partner are left out.
    """
    known = trials.dropna(subset=[metric])
    cells = known.groupby(list(within), dropna=False, sort=True) if within else [((), known)]
    rows: list[dict[str, Any]] = []
    for key, cell in cells:
        by_value = {value: group.groupby(pair)[metric].mean() for value, group in cell.groupby(axis, sort=True)}
        if baseline not in by_value:
            continue
        for value, numbers in by_value.items():
            if value == baseline:
                continue
            difference = (numbers - by_value[baseline]).dropna().to_numpy(dtype=np.float64)
            low, high = bootstrap_mean(difference, level)
            rows.append(
                dict(zip(within, key, strict=True))
                | {
                    axis: value,
                    "baseline": baseline,
                    "metric": metric,
                    "mean": float(difference.mean()) if len(difference) else math.nan,
                    "spread": spread(difference),
                    "low": low,
                    "high": high,
                    "pairs": len(difference),
                }
            )
    return pd.DataFrame(rows, columns=[*within, axis, "baseline", "metric", "mean", "spread", "low", "high", "pairs"])


def axis_effects(trials: pd.DataFrame, metric: str, axes: Sequence[str], pair: str = "seed") -> pd.DataFrame:
    """How far each axis moves the metric: for trials alike in all other axes, the range of the means over seeds, averaged over such cells.

    One row an axis, largest range first: `axis`, `metric`, `range`, `spread` (within values, pooled), `lowest` and `highest`
    (values with the lowest and highest mean over all cells) and `cells`. Axes without two comparable values are left out.
    """
    known = trials.dropna(subset=[metric])
    rows: list[dict[str, Any]] = []
    for axis in axes:
        if axis == pair:
            continue
        others = [other for other in axes if other not in (axis, pair)]
        cells = [cell for _, cell in known.groupby(others, dropna=False)] if others else [known]
        cells = [cell for cell in cells if cell[axis].nunique(dropna=False) > 1]
        if not cells:
            continue
        ranges, groups, centred = [], [], []
        for cell in cells:
            means = cell.groupby(axis, dropna=False)[metric].mean()
            ranges.append(float(means.max() - means.min()))
            groups += [list(group[metric]) for _, group in cell.groupby(axis, dropna=False)]
            centred.append(means - means.mean())
        order = pd.concat(centred).groupby(level=0, dropna=False).mean().sort_values()
        rows.append(
            {
                "axis": axis,
                "metric": metric,
                "range": float(np.mean(ranges)),
                "spread": pooled_spread(groups),
                "lowest": order.index[0],
                "highest": order.index[-1],
                "cells": len(cells),
            }
        )
    frame = pd.DataFrame(rows, columns=["axis", "metric", "range", "spread", "lowest", "highest", "cells"])
    return frame.sort_values("range", ascending=False, ignore_index=True)


def effect_table(
    trials: pd.DataFrame,
    metrics: Sequence[str],
    axes: Sequence[str],
    pair: str = "seed",
    baselines: Mapping[str, Any] | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """What each value of each axis does to each metric, against the axis' baseline, among trials alike in all other axes.

    One row an axis, value and metric: `axis`, `value`, `baseline`, `metric`, `mean` (value minus baseline), `spread`, `low`,
    `high`, `pairs` (seeds) and `cells`. In each cell of the other axes the difference is taken seed by seed; the cells of a
    seed are averaged, and seeds are what the bootstrap resamples: cells that share a seed are not independent. The baseline is
    `baselines[axis]`, else the value that sorts first. Values without a partner are left out.
    """
    rows: list[dict[str, Any]] = []
    for axis in axes:
        others = [other for other in axes if other not in (axis, pair)]
        codes, values = pd.factorize(trials[axis], use_na_sentinel=False, sort=False)
        order = sorted(range(len(values)), key=lambda i: _sortable(values[i]))
        wanted = (baselines or {}).get(axis)
        base = next((i for i in order if values[i] == wanted), order[0] if order else 0)
        keys = {f"_{n}": pd.factorize(trials[other], use_na_sentinel=False)[0] for n, other in enumerate(others)}
        frame = pd.DataFrame({"_pair": trials[pair].to_numpy(), "_value": codes, **keys})
        for metric in metrics:
            frame["_metric"] = trials[metric].to_numpy(dtype=np.float64)
            table = frame.dropna(subset=["_metric"]).groupby([*keys, "_pair", "_value"], dropna=False)["_metric"].mean()
            wide = table.unstack("_value")
            if base not in wide.columns:
                continue
            for value in order:
                if value == base or value not in wide.columns:
                    continue
                cells = (wide[value] - wide[base]).dropna()
                if len(cells) == 0:
                    continue
                seeds = cells.groupby(level="_pair", dropna=False).mean().to_numpy(dtype=np.float64)
                low, high = bootstrap_mean(seeds, level)
                rows.append(
                    {
                        "axis": axis,
                        "value": values[value],
                        "baseline": values[base],
                        "metric": metric,
                        "mean": float(seeds.mean()),
                        "spread": spread(seeds),
                        "low": low,
                        "high": high,
                        "pairs": len(seeds),
                        "cells": len(cells.index.droplevel("_pair").unique()) if keys else 1,
                    }
                )
    columns = ["axis", "value", "baseline", "metric", "mean", "spread", "low", "high", "pairs", "cells"]
    return pd.DataFrame(rows, columns=columns)


def _sortable(value: Hashable) -> tuple[int, float, str]:
    """Numbers by size, then texts, then what is missing."""
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        return (2, 0.0, "") if math.isnan(value) else (0, float(value), "")
    return (2, 0.0, "") if value is None else (1, 0.0, str(value))


def pareto_front(
    trials: pd.DataFrame, objectives: Mapping[str, Literal["min", "max"]] | None = None
) -> pd.Series[bool]:
    """Which trials no other trial beats: none is as good in every objective and better in one. True or False by the frame's index.

    Objectives default to those of `OBJECTIVES` that the frame has. A trial without a number for one of them is not on the front.
    """
    wanted = {k: v for k, v in OBJECTIVES.items() if k in trials.columns} if objectives is None else dict(objectives)
    front = np.zeros(len(trials), dtype=bool)
    if wanted:
        signs = np.array([1.0 if goal == "min" else -1.0 for goal in wanted.values()])
        points = trials[list(wanted)].to_numpy(dtype=np.float64) * signs
        rows = np.flatnonzero(~np.isnan(points).any(axis=1))
        kept = np.zeros((0, len(wanted)))
        # In lexicographic order a point is beaten only by one before it, and whoever beats that one beats it too.
        for row in rows[np.lexsort(points[rows].T[::-1])]:
            point = points[row]
            no_worse = (kept <= point).all(axis=1)
            if not (no_worse & (kept < point).any(axis=1)).any():
                kept = np.vstack([kept, point])
                front[row] = True
    return pd.Series(front, index=trials.index, name="front")
