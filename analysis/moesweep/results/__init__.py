"""Results of a sweep: sweep.h5 as pandas frames, and effects over seeds; figures are in `moesweep.results.plots`.

The layout read here is in analysis/FORMAT.md.
"""

from moesweep.results.effects import (
    OBJECTIVES,
    Comparison,
    axis_effects,
    bootstrap_mean,
    compare,
    effect_table,
    paired_differences,
    pareto_front,
    seed_summary,
)
from moesweep.results.file import CorruptSweep, NewerSweep, NotASweep, SweepError, UnreadableSweep
from moesweep.results.settings import describe_trials
from moesweep.results.sweep import Config, Sweep, open_sweep

__all__ = [
    "OBJECTIVES",
    "Comparison",
    "Config",
    "CorruptSweep",
    "NewerSweep",
    "NotASweep",
    "Sweep",
    "SweepError",
    "UnreadableSweep",
    "axis_effects",
    "bootstrap_mean",
    "compare",
    "describe_trials",
    "effect_table",
    "open_sweep",
    "paired_differences",
    "pareto_front",
    "seed_summary",
]
