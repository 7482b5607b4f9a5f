"""Writes the frames of a sweep as tables for other tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from moesweep.results.sweep import Sweep


def export_csv(sweep: Sweep, folder: Path) -> Iterator[tuple[Path, int]]:
    """Writes trials, steps, evaluations and routing as CSV in full precision; gives each file and its number of rows.

    In trials.csv the column `config` holds JSON. Missing numbers are empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trials = sweep.trials.copy()
    trials["config"] = [json.dumps(config.as_dict(), separators=(",", ":")) for config in trials["config"]]
    for name in ("trials", "steps", "evaluations", "routing"):
        path = folder / f"{name}.csv"
        table = trials if name == "trials" else getattr(sweep, name)
        table.to_csv(path, index=False)
        yield path, len(table)
