"""What each trial is in the study: its method, scope, scale and the setting it shares with the other seeds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from moesweep.results.sweep import Sweep

METHOD = "routing.balance.method"
SCOPE = "routing.balance.scope"
SELECT = "routing.select"
SEED = "seed"
PARAMETERS = "parameters_total"

#: Scopes from the smallest unit to the largest; others follow in alphabetical order.
SCOPE_ORDER = ("sequence", "micro_batch", "group", "running", "global_batch", "history")
#: Routers that choose without scores: balancing, and so its scope, means nothing to them.
WITHOUT_BALANCE = frozenset({"reference", "random", "hash", "replay", "dense"})


def scope_rank(scope: str) -> tuple[int, str]:
    """Sort key of a scope."""
    return (SCOPE_ORDER.index(scope), scope) if scope in SCOPE_ORDER else (len(SCOPE_ORDER), scope)


def value_text(value: Any) -> str:
    """A value of an axis as people write it."""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return "none"
    if isinstance(value, float | np.floating):
        return f"{float(value):g}"
    return str(value)


def _key(sweep: Sweep, path: str) -> list[Any]:
    """A config key for each trial: from its axis, else from the config; None where neither says."""
    if path in sweep.axes:
        return list(sweep.trials[path])
    values: list[Any] = []
    for trial in sweep.ids:
        try:
            values.append(sweep.config(trial)[path])
        except KeyError:
            values.append(None)
    return values


def _scales(sweep: Sweep) -> list[float]:
    """Total parameters of each trial; a trial that never counted its own has those of one with equal model axes. NaN unknown."""
    if PARAMETERS not in sweep.metrics:
        return [math.nan] * len(sweep)
    trials = sweep.trials
    axes = [[value_text(value) for value in trials[axis]] for axis in sweep.axes if axis.startswith("model.")]
    shapes = list(zip(*axes, strict=True)) if axes else [()] * len(sweep)
    known: dict[tuple[str, ...], float] = {}
    for shape, parameters in zip(shapes, trials[PARAMETERS], strict=True):
        if not math.isnan(parameters):
            known.setdefault(shape, float(parameters))
    return [
        float(parameters) if not math.isnan(parameters) else known.get(shape, math.nan)
        for shape, parameters in zip(shapes, trials[PARAMETERS], strict=True)
    ]


def describe_trials(sweep: Sweep) -> pd.DataFrame:
    """One row a trial, in the order of `sweep.trials`, with what the study compares:

    `method` (the balancing method, or the router where nothing is balanced: reference, random, ...), `scope` (None where it
    means nothing), `seed`, `parameters` and `scale` (total parameters, over those of the smallest trial; NaN unknown),
    `extra` (dict of the further axes that set trials of one method, scope, scale and seed apart), `label` (method, scope and
    extras in words) and `setting` (a number shared by the trials that differ in their seed alone).
    """
    count = len(sweep)
    selects = [value_text(v) if v is not None else "top_k" for v in _key(sweep, SELECT)]
    balances = [value_text(v) if v is not None else "none" for v in _key(sweep, METHOD)]
    scopes = _key(sweep, SCOPE)
    seeds = _key(sweep, SEED)
    parameters = _scales(sweep)
    smallest = min((p for p in parameters if not math.isnan(p)), default=math.nan)

    methods: list[str] = []
    used_scopes: list[str | None] = []
    for select, balance, scope in zip(selects, balances, scopes, strict=True):
        if select in WITHOUT_BALANCE:
            methods.append(select)
        elif select == "top_k":
            methods.append(balance)
        else:
            methods.append(select if balance == "none" else f"{select}, {balance}")
        used_scopes.append(
            None if select in WITHOUT_BALANCE or balance == "none" or scope is None else value_text(scope)
        )

    frame = pd.DataFrame(
        {
            "id": pd.Series(sweep.ids, dtype=object),
            "method": pd.Series(methods, dtype=object),
            "scope": pd.Series(used_scopes, dtype=object),
            "seed": pd.Series(seeds, dtype=object),
            "parameters": pd.Series(parameters, dtype="float64"),
            "scale": pd.Series([p / smallest for p in parameters], dtype="float64"),
        }
    )
    extras = _extra_axes(sweep, frame)
    columns = {axis: [value_text(value) for value in sweep.trials[axis]] for axis in extras}
    frame["extra"] = pd.Series([{axis: columns[axis][row] for axis in extras} for row in range(count)], dtype=object)
    described = list(zip(methods, used_scopes, parameters, frame["extra"], strict=True))
    frame["label"] = pd.Series([_label(method, scope, extra) for method, scope, _, extra in described], dtype=object)
    settings: dict[tuple[Any, ...], int] = {}
    numbers = [
        settings.setdefault((method, scope or "", str(size), tuple(sorted(extra.items()))), len(settings))
        for method, scope, size, extra in described
    ]
    frame["setting"] = pd.Series(numbers, dtype="int64")
    return frame


def _extra_axes(sweep: Sweep, frame: pd.DataFrame) -> list[str]:
    """Axes that differ between trials of equal method, scope, scale and seed."""
    cells = [
        (method, scope or "", str(parameters), value_text(seed))
        for method, scope, parameters, seed in zip(
            frame["method"], frame["scope"], frame["parameters"], frame["seed"], strict=True
        )
    ]
    void = [scope is None for scope in frame["scope"]]
    extras: list[str] = []
    for axis in sweep.axes:
        if axis in (METHOD, SCOPE, SELECT, SEED):
            continue
        seen: dict[tuple[str, ...], str] = {}
        texts = [value_text(value) for value in sweep.trials[axis]]
        for cell, text, unscoped in zip(cells, texts, void, strict=True):
            if axis.startswith("routing.balance.") and unscoped:
                continue
            if seen.setdefault(cell, text) != text:
                extras.append(axis)
                break
    return extras


def _label(method: str, scope: str | None, extra: dict[str, str]) -> str:
    parts = [method, scope] if scope else [method]
    return " · ".join(parts + [f"{axis.rsplit('.', 1)[-1]} {value}" for axis, value in extra.items()])
