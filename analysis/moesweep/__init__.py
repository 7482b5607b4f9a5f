"""Python side of moesweep: text to token stores, sweep results to frames, plots and a report."""
