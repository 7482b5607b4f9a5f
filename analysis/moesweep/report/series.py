"""What the page shows of arrays: curves in bins, routing counts over time and losses by expert, as much as the page's size allows.

What ranks lowest is left out first, and the page says so.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moesweep.results.file import AnyArray
from moesweep.results.sweep import READINGS, Sweep

#: Numbers that the training loss curves of all trials may take, and bytes that each of the other parts may.
CURVE_BUDGET_NUMBERS = 60_000
SERIES_BUDGET_BYTES = 700_000
HEAT_BUDGET_BYTES = 1_500_000
TIME_BUDGET_BYTES = 600_000
EXPERT_LOSS_BUDGET_BYTES = 400_000
MOST_TIMES = 10

#: Step series beside the loss, the ones most asked for first; `losses.*` stands for every loss that a strategy has.
STEP_SERIES = (
    "max_violation_global_batch",
    "drop_rate",
    "max_violation_micro_batch",
    "losses.*",
    "tokens_per_second",
    "gradient_norm",
)
EVALUATION_SERIES = (
    "expert_entropy",
    "max_violation",
    "purity_expert",
    "utilisation",
    "nmi",
    "dead_experts",
    "drop_rate",
)


def finite(value: Any) -> float | None:
    """A number for JSON; None for NaN and infinities."""
    number = float(value)
    return number if math.isfinite(number) else None


def rounded(values: AnyArray, digits: int) -> list[float | None]:
    """Numbers with that many significant digits, as short as JSON writes them."""
    numbers = (None if not math.isfinite(v) else float(f"{v:.{digits}g}") for v in values.tolist())
    return [int(v) if v is not None and v.is_integer() and abs(v) < 1e15 else v for v in numbers]


def thin(count: int, most: int) -> list[int]:
    """At most `most` indices of `count`, evenly spread, the last one always kept."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


@dataclass
class Curves:
    """`rows` holds each trial's curves by its row; clocks are numbers into `grids`, as trials share them."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    grids: list[list[float | None]] = field(default_factory=list)
    widest_bin: int = 1
    left_out: list[str] = field(default_factory=list)

    def grid(self, clock: list[float | None]) -> int:
        if clock not in self.grids:
            self.grids.append(clock)
        return self.grids.index(clock)


def curves(sweep: Sweep, order: list[int]) -> Curves:
    """Training series in bins of equal width, evaluation series as they are; `order` says whose series count most."""
    found = Curves()
    with_loss = [row for row in order if _has(sweep, "steps/loss", row)]
    points = int(np.clip(CURVE_BUDGET_NUMBERS // max(1, len(with_loss)), 40, 160))
    bins: dict[int, tuple[AnyArray, AnyArray]] = {}
    keeps: dict[int, list[int]] = {}
    most = 12 if len(sweep) > 100 else 60
    for row, trial in enumerate(sweep.ids):
        curve: dict[str, Any] = {}
        loss, clock = sweep.array(trial, "steps/loss"), sweep.array(trial, "steps/step")
        if loss is not None and clock is not None and len(loss) == len(clock) and len(loss):
            width = math.ceil(len(loss) / points)
            found.widest_bin = max(found.widest_bin, width)
            cuts = np.arange(0, len(loss), width)
            bins[row] = cuts, np.diff(np.append(cuts, len(loss)))
            curve["step"] = found.grid(rounded(_binned(clock, *bins[row]), 8))
            curve["loss"] = rounded(_binned(loss, *bins[row]), 6)
            curve["steps"] = int(_planned_steps(sweep, trial) or clock[-1])
        steps = sweep.array(trial, "evaluations/step")
        if steps is not None and len(steps):
            keeps[row] = thin(len(steps), most)
            curve["evaluation"] = found.grid([int(steps[i]) for i in keeps[row]])
            for reading, path in (("training", "evaluations/loss"), ("greedy", "evaluations/greedy.loss")):
                values = sweep.array(trial, path)
                if values is not None and len(values) == len(steps):
                    curve[reading] = [finite(values[i]) for i in keeps[row]]
        if curve:
            found.rows[str(row)] = curve
    names = _step_series(sweep)
    budget = SERIES_BUDGET_BYTES
    for number, name in enumerate(names):
        budget -= _add_step_series(sweep, found, name, bins, order, budget // (len(names) - number))
    budget = SERIES_BUDGET_BYTES
    for number, name in enumerate(EVALUATION_SERIES):
        budget -= _add_evaluation_series(sweep, found, name, keeps, order, budget // (len(EVALUATION_SERIES) - number))
    return found


def _has(sweep: Sweep, path: str, row: int) -> bool:
    values = sweep.array(sweep.ids[row], path)
    return values is not None and len(values) > 0


def _planned_steps(sweep: Sweep, trial: str) -> int | None:
    try:
        return int(sweep.config(trial)["train.steps"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _binned(values: AnyArray, cuts: AnyArray, sizes: AnyArray) -> AnyArray:
    return np.asarray(np.add.reduceat(values.astype(np.float64), cuts) / sizes)


def _step_series(sweep: Sweep) -> list[str]:
    recorded = [path.removeprefix("steps/") for path in sweep.array_paths if path.startswith("steps/")]
    names: list[str] = []
    for name in STEP_SERIES:
        names += [r for r in recorded if r.startswith(name[:-1])] if name.endswith("*") else [name] * (name in recorded)
    return names


def _add_step_series(
    sweep: Sweep, found: Curves, name: str, bins: dict[int, tuple[AnyArray, AnyArray]], order: list[int], budget: int
) -> int:
    """Adds the series' means over layers, unless it is zero throughout. Gives the bytes used."""
    added: dict[int, list[float | None]] = {}
    anything = False
    for row, cut in bins.items():
        values = sweep.array(sweep.ids[row], f"steps/{name}")
        if values is None or len(values) != int(cut[1].sum()) or values.size == 0:
            continue
        added[row] = rounded(_binned(values.reshape(len(values), -1).mean(axis=1), *cut), 4)
        anything = anything or bool(np.any(values))
    return _put(found, "series", name, added, order, budget) if anything else 0


def _add_evaluation_series(
    sweep: Sweep, found: Curves, name: str, keeps: dict[int, list[int]], order: list[int], budget: int
) -> int:
    used = 0
    for reading, prefix in zip(READINGS, ("", "greedy."), strict=True):
        added: dict[int, list[float | None]] = {}
        anything = False
        for row, keep in keeps.items():
            values = sweep.array(sweep.ids[row], f"evaluations/{prefix}{name}")
            if values is None or values.ndim > 2 or len(values) <= keep[-1] or values.size == 0:
                continue
            means = values.astype(np.float64).reshape(len(values), -1).mean(axis=1)
            added[row] = rounded(means[keep], 4)
            anything = anything or bool(np.any(values))
        used += _put(found, f"{reading}.series", name, added, order, budget // 2) if anything else 0
    return used


def _put(
    found: Curves, group: str, name: str, added: dict[int, list[float | None]], order: list[int], budget: int
) -> int:
    used = 0
    for row in order:
        if row not in added:
            continue
        size = len(str(added[row]))
        if used + size > budget:
            if name not in found.left_out:
                found.left_out.append(name)
            break
        used += size
        found.rows[str(row)].setdefault(group, {})[name] = added[row]
    return used


def by_turns(order: list[int], settings: list[int]) -> list[int]:
    """The first row of each setting, then the second ones, and so on."""
    seen: dict[int, int] = {}
    keyed: list[tuple[int, int]] = []
    for place, row in enumerate(order):
        seen[settings[row]] = seen.get(settings[row], 0) + 1
        keyed.append((seen[settings[row]], place))
    return [order[place] for _, place in sorted(keyed)]


def heat(sweep: Sweep, widely: list[int], order: list[int]) -> tuple[dict[str, Any], int]:
    """Routing counts of each trial, exact, as base64 [times, layers, domains, experts], and how many trials are left out.

    The last evaluation of every trial, `widely` (a trial of each setting, then the next), until the budget is used up; then
    earlier ones too, by `order`.
    """
    found: dict[str, Any] = {}
    budget, left_out = HEAT_BUDGET_BYTES, 0
    for row in widely:
        entry, size = _heat_entry(sweep, row, 1)
        if not entry:
            continue
        if size > budget:
            left_out += 1
            continue
        budget -= size
        found[str(row)] = entry
    budget = TIME_BUDGET_BYTES
    for row in order:
        if str(row) not in found:
            continue
        entry, size = _heat_entry(sweep, row, MOST_TIMES)
        if len(entry["steps"]) > 1 and size <= budget:
            budget -= size
            found[str(row)] = entry
    return found, left_out


def _heat_entry(sweep: Sweep, row: int, times: int) -> tuple[dict[str, Any], int]:
    trial = sweep.ids[row]
    entry: dict[str, Any] = {}
    size = 0
    clock = sweep.array(trial, "evaluations/step")
    for reading in READINGS:
        counts = sweep.counts(trial, reading)
        if counts is None or counts.ndim != 4 or counts.size == 0:
            continue
        keep = thin(len(counts), times) if times > 1 else [len(counts) - 1]
        chosen = counts[keep]
        kind = "<u2" if int(chosen.max()) < 65536 else "<u4"
        steps = [int(clock[i]) for i in keep] if clock is not None and len(clock) == len(counts) else [0] * len(keep)
        entry |= {"shape": [int(n) for n in chosen.shape[1:]], "steps": steps}
        entry[reading] = {"bytes": int(kind[-1]), "data": packed(chosen, kind)}
        size += len(entry[reading]["data"])
    return entry, size


def packed(values: AnyArray, kind: str) -> str:
    """Base64 of the array in that little-endian type."""
    return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode("ascii")


def expert_losses(sweep: Sweep, order: list[int]) -> dict[str, Any]:
    """Loss of each expert's tokens, f32 as base64 [times, layers, experts], by `order` until the budget is used up."""
    found: dict[str, Any] = {}
    budget = EXPERT_LOSS_BUDGET_BYTES
    paths = dict(zip(READINGS, ("evaluations/loss_by_expert", "evaluations/greedy.loss_by_expert"), strict=True))
    if not any(path in sweep.array_paths for path in paths.values()):
        return found
    for row in order:
        clock = sweep.array(sweep.ids[row], "evaluations/step")
        entry: dict[str, Any] = {}
        size = 0
        for reading, path in paths.items():
            values = sweep.array(sweep.ids[row], path)
            if values is None or values.ndim != 3 or values.size == 0 or clock is None or len(clock) != len(values):
                continue
            keep = thin(len(values), MOST_TIMES)
            entry |= {"shape": [int(n) for n in values.shape[1:]], "steps": [int(clock[i]) for i in keep]}
            entry[reading] = packed(values[keep], "<f4")
            size += len(entry[reading])
        if entry and size <= budget:
            budget -= size
            found[str(row)] = entry
    return found
