"""Builds report.html: gathers what the page shows from a sweep into one JSON block and puts it beside its style and script."""

from __future__ import annotations

import base64
import html
import json
import math
import re
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moesweep.report.headline import headline, scope_effects
from moesweep.results.file import AnyArray
from moesweep.results.settings import describe_trials, scope_rank, value_text
from moesweep.results.sweep import READINGS, Sweep

#: Bytes that routing counts and curves may take in the page; what ranks lowest is left out, and the page says so.
HEAT_BUDGET_BYTES = 2_400_000
CURVE_BUDGET_NUMBERS = 60_000
#: What a reader looks for first among the trials' provenance.
PROVENANCE_FIRST = ["command_line", "version", "git", "host", "ranks", "start", "end", "data_digest"]


def build_page(sweep: Sweep) -> str:
    """The whole report as one HTML text, without a reference to anything outside it."""
    data = gather(sweep)
    assets = resources.files("moesweep.report") / "assets"
    text = (assets / "report.html").read_text(encoding="utf-8")
    block = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False).replace("<", "\\u003c")
    first, *rest = data["headline"]
    parts = {
        "title": html.escape(f"{sweep.name or sweep.path.stem} · moesweep"),
        "name": html.escape(sweep.name or sweep.path.stem),
        "summary": html.escape(data["summary"]),
        "headline": html.escape(first),
        "support": "".join(f"<p>{html.escape(sentence)}</p>" for sentence in rest),
        "style": (assets / "report.css").read_text(encoding="utf-8"),
        "script": (assets / "report.js").read_text(encoding="utf-8"),
        "data": block,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], text)


def write_page(sweep: Sweep, path: Path) -> int:
    """Writes the report and returns its size in bytes."""
    text = build_page(sweep).encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(text)
    temporary.replace(path)
    return len(text)


def finite(value: Any) -> float | None:
    """A number for JSON; None for NaN and infinities."""
    number = float(value)
    return number if math.isfinite(number) else None


def gather(sweep: Sweep) -> dict[str, Any]:
    """Everything the page shows, as plain JSON values."""
    trials = sweep.trials
    described = describe_trials(sweep)
    metrics = trials[sweep.metrics] if sweep.metrics else pd.DataFrame(index=trials.index)
    axes = trials[[axis for axis in sweep.axes if axis != "seed"]]
    table = pd.concat([described, trials[["state"]], axes, metrics], axis=1)
    done = table[table["state"] == "done"]
    effects = scope_effects(done)
    ranking = _ranking(table)
    domain_sets, domain_of = _domains(sweep)
    curves, bin_steps = _curves(sweep, ranking)
    heat, left_out = _heat(sweep, ranking)
    methods = _ordered_methods(described)
    counts = trials["state"].value_counts()
    return {
        "name": sweep.name,
        "headline": headline(done, trials["state"], sweep.axes, effects),
        "summary": _summary(sweep, counts, done, domain_sets),
        "methods": methods,
        "scopes": sorted({str(s) for s in described["scope"] if s is not None}, key=scope_rank),
        "trials": {
            "id": sweep.ids,
            "state": list(trials["state"]),
            "reason": list(trials["reason"]),
            "method": list(described["method"]),
            "scope": list(described["scope"]),
            "seed": [None if seed is None else value_text(seed) for seed in described["seed"]],
            "parameters": [finite(p) for p in described["parameters"]],
            "scale": [finite(s) for s in described["scale"]],
            "extra": list(described["extra"]),
            "label": list(described["label"]),
            "setting": [int(s) for s in described["setting"]],
            "domains": domain_of,
            "command": [reproduce(trial, state) for trial, state in zip(sweep.ids, trials["state"], strict=True)],
        },
        "axes": {axis: [value_text(value) for value in trials[axis]] for axis in sweep.axes},
        "metrics": {metric: [finite(value) for value in trials[metric]] for metric in sweep.metrics},
        "ranking": ranking,
        "effects": [_effect(effect) for effect in effects],
        "domains": domain_sets,
        "curves": curves,
        "bin_steps": bin_steps,
        "heat": heat,
        "heat_left_out": left_out,
        "failures": _failures(trials),
        "provenance": _provenance(sweep),
    }


def reproduce(trial: str, state: str) -> str | None:
    """The command that runs the trial again, from the sweep's folder; None for one that never started."""
    return None if state in ("pending", "skipped") else f"moesweep train trials/{trial[:2]}/{trial}/config.yaml"


def _summary(sweep: Sweep, counts: pd.Series[Any], done: pd.DataFrame, domain_sets: list[list[str]]) -> str:
    parts = [f"{len(sweep)} {'trial' if len(sweep) == 1 else 'trials'}"]
    if len(counts):
        parts[0] += ": " + ", ".join(f"{count} {state}" for state, count in counts.items())
    seeds = {value_text(seed) for seed in done["seed"] if seed is not None}
    if len(seeds) > 1:
        parts.append(f"{len(seeds)} seeds")
    sizes = sorted({p for p in done["parameters"] if not math.isnan(p)})
    if sizes:
        parts.append(
            " and ".join(f"{_engineering(p)} parameters" for p in (sizes if len(sizes) < 3 else [sizes[0], sizes[-1]]))
        )
    if len(domain_sets) == 1 and domain_sets[0]:
        parts.append(f"{len(domain_sets[0])} domains ({', '.join(domain_sets[0])})")
    return " · ".join(parts)


def _engineering(count: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.3g}"


def _ranking(table: pd.DataFrame) -> list[int]:
    """Rows from the lowest greedy loss (the training reading's where there is none) up; trials without a loss come last."""
    loss = pd.Series(math.nan, index=table.index)
    for metric in ("loss", "greedy.loss"):
        if metric in table.columns:
            loss = table[metric].where(table[metric].notna(), loss)
    order = pd.DataFrame({"done": table["state"] != "done", "loss": loss, "id": table["id"]})
    return [int(row) for row in order.sort_values(["done", "loss", "id"], na_position="last").index]


def _ordered_methods(described: pd.DataFrame) -> list[str]:
    """Balancing methods first, then what has no scope; reference and random last."""
    scoped = set(described[described["scope"].notna()]["method"])
    last = {"none": 1, "reference": 2, "random": 3}
    return sorted(set(described["method"]), key=lambda m: (m not in scoped, last.get(m, 0), m))


def _domains(sweep: Sweep) -> tuple[list[list[str]], list[int]]:
    sets: list[list[str]] = []
    of: list[int] = []
    for trial in sweep.ids:
        names = sweep.domains(trial)
        if names not in sets:
            sets.append(names)
        of.append(sets.index(names))
    return sets, of


def _thin(count: int, most: int) -> list[int]:
    """At most `most` indices of `count`, evenly spread, the last one always kept."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def _curves(sweep: Sweep, ranking: list[int]) -> tuple[dict[str, Any], int]:
    """Training loss in bins of equal width and validation loss, by row; and the widest bin in steps."""
    with_loss = [row for row in ranking if sweep.array(sweep.ids[row], "steps/loss") is not None]
    points = int(np.clip(CURVE_BUDGET_NUMBERS // max(1, len(with_loss)), 40, 160))
    curves: dict[str, Any] = {}
    widest = 1
    for row in range(len(sweep)):
        trial = sweep.ids[row]
        curve: dict[str, Any] = {}
        loss, clock = sweep.array(trial, "steps/loss"), sweep.array(trial, "steps/step")
        if loss is not None and clock is not None and len(loss) == len(clock) and len(loss):
            width = math.ceil(len(loss) / points)
            widest = max(widest, width)
            cuts = np.arange(0, len(loss), width)
            sizes = np.diff(np.append(cuts, len(loss)))
            means = np.add.reduceat(loss.astype(np.float64), cuts) / sizes
            curve["step"] = [round(float(x), 1) for x in np.add.reduceat(clock.astype(np.float64), cuts) / sizes]
            curve["loss"] = [None if not math.isfinite(y) else float(f"{y:.6g}") for y in means]
        steps = sweep.array(trial, "evaluations/step")
        if steps is not None and len(steps):
            keep = _thin(len(steps), 24 if len(sweep) > 100 else 100)
            curve["evaluation"] = [int(steps[i]) for i in keep]
            for reading, path in (("training", "evaluations/loss"), ("greedy", "evaluations/greedy.loss")):
                values = sweep.array(trial, path)
                if values is not None and len(values) == len(steps):
                    curve[reading] = [finite(values[i]) for i in keep]
        if curve:
            curves[str(row)] = curve
    return curves, widest


def _heat(sweep: Sweep, ranking: list[int]) -> tuple[dict[str, Any], int]:
    """Last evaluation's counts of each trial, exact, as base64; best-ranked trials first until the budget is used up."""
    heat: dict[str, Any] = {}
    used = left_out = 0
    for row in ranking:
        trial = sweep.ids[row]
        entry: dict[str, Any] = {}
        size = 0
        for reading in READINGS:
            counts = sweep.counts(trial, reading)
            if counts is None or counts.ndim != 4 or len(counts) == 0:
                continue
            last = counts[-1]
            kind = "<u2" if last.size == 0 or int(last.max()) < 65536 else "<u4"
            entry |= {"shape": [int(n) for n in last.shape]}
            entry[reading] = {"bytes": 2 if kind == "<u2" else 4, "data": _packed(last, kind)}
            size += len(entry[reading]["data"])
        if not entry:
            continue
        if used + size > HEAT_BUDGET_BYTES:
            left_out += 1
            continue
        used += size
        heat[str(row)] = entry
    return heat, left_out


def _packed(counts: AnyArray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(counts).astype(kind).tobytes()).decode("ascii")


def _effect(effect: Any) -> dict[str, Any]:
    return {
        "method": effect.method,
        "parameters": finite(effect.parameters),
        "scale": finite(effect.scale),
        "extra": effect.extra,
        "verdict": effect.verdict,
        "range": finite(effect.range),
        "spread": finite(effect.spread),
        "cells": [
            {"scope": c.scope, "mean": finite(c.mean), "spread": finite(c.spread), "count": len(c.values)}
            for c in effect.cells
        ],
        "contrasts": [c | {"low": finite(c["low"]), "high": finite(c["high"])} for c in effect.contrasts],
    }


def _failures(trials: pd.DataFrame) -> list[dict[str, Any]]:
    """Trials that are not done, by state and reason, the largest group first."""
    groups: dict[tuple[str, str], list[int]] = {}
    for row, (state, reason) in enumerate(zip(trials["state"], trials["reason"], strict=True)):
        if state != "done":
            groups.setdefault((state, reason), []).append(row)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [{"state": state, "reason": reason, "rows": rows} for (state, reason), rows in ordered]


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Nested JSON as dotted keys and texts."""
    if isinstance(value, dict):
        flat: dict[str, str] = {}
        for key, inner in value.items():
            flat |= _flat(inner, f"{path}.{key}" if path else str(key))
        return flat
    if isinstance(value, list):
        return {path: " ".join(v if isinstance(v, str) else json.dumps(v) for v in value)}
    return {path: value if isinstance(value, str) else json.dumps(value)}


def _provenance(sweep: Sweep) -> dict[str, Any]:
    """The aggregate's own provenance, and what the trials' say: keys alike in all, and keys that vary."""
    collected: dict[str, set[str]] = {}
    with_any = 0
    for trial in sweep.ids:
        flat = _flat(sweep.provenance(trial))
        with_any += bool(flat)
        for key, text in flat.items():
            collected.setdefault(key, set()).add(text)
    rows = []
    for key in sorted(collected, key=lambda k: (PROVENANCE_FIRST.index(k) if k in PROVENANCE_FIRST else 99, k)):
        values = sorted(collected[key])
        few = len(values) <= (2 if key in ("start", "end") else 4)
        rows.append({"key": key, "values": values if few else [values[0], values[-1]], "distinct": len(values)})
    return {
        "file": [
            ["file", sweep.path.name],
            ["format", f"moesweep-sweep, version {sweep.version}"],
            ["digest", sweep.digest],
        ]
        + [[key, text] for key, text in sorted(_flat(sweep.header).items())]
        + [["report written", datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")]],
        "trials": rows,
        "trials_with_provenance": with_any,
    }
