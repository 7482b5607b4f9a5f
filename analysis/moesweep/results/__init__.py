"""Results of a sweep: sweep.h5 as pandas frames, and effects over seeds. The layout read here is in analysis/FORMAT.md."""

from moesweep.results.effects import axis_effects, paired_differences, seed_summary
from moesweep.results.file import CorruptSweep, NewerSweep, NotASweep, SweepError
from moesweep.results.settings import describe_trials
from moesweep.results.sweep import Config, Sweep, open_sweep

__all__ = [
    "Config",
    "CorruptSweep",
    "NewerSweep",
    "NotASweep",
    "Sweep",
    "SweepError",
    "axis_effects",
    "describe_trials",
    "open_sweep",
    "paired_differences",
    "seed_summary",
]
