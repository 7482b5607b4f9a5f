"""The report of a sweep: one self-contained HTML page, and exports of the frames. The command is `moesweep-report`."""
