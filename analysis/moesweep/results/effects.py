"""Effects over seeds: mean and spread of each setting, paired differences with bootstrap intervals, the strongest axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Numbers = npt.NDArray[np.float64]


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
    draws = np.random.default_rng(seed).integers(0, len(numbers), size=(resamples, len(numbers)))
    low, high = np.quantile(numbers[draws].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def seed_summary(trials: pd.DataFrame, metrics: Sequence[str], by: Sequence[str]) -> pd.DataFrame:
    """Mean and spread over the trials of each cell of `by`, tidy: `by` columns, `metric`, `mean`, `spread`, `count`.

    Trials without the metric (NaN) are left out. A missing value of a `by` column makes a cell of its own.
    """
    rows: list[dict[str, Any]] = []
    for key, cell in trials.groupby(list(by), dropna=False, sort=True):
        for metric in metrics:
            values = cell[metric].dropna().to_numpy(dtype=np.float64)
            mean = float(values.mean()) if len(values) else math.nan
            rows.append(
                dict(zip(by, key, strict=True))
                | {"metric": metric, "mean": mean, "spread": spread(values), "count": len(values)}
            )
    return pd.DataFrame(rows, columns=[*by, "metric", "mean", "spread", "count"])


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
