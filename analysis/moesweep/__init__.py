"""Python side of moesweep: text to token stores, sweep results to frames, plots and a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moesweep.results import Sweep, SweepError, open_sweep

__all__ = ["Sweep", "SweepError", "open_sweep"]


def __getattr__(name: str) -> Any:
    # pandas and h5py load only when results are asked for, so that the text tools start quickly.
    if name in __all__:
        from moesweep import results

        return getattr(results, name)
    raise AttributeError(f"module 'moesweep' has no attribute {name!r}")
