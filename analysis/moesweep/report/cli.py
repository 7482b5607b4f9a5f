"""The command `moesweep-report`: `html FILE` writes the report, `export FILE` writes the frames for other tools."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moesweep.report.export import export_csv, export_parquet, export_tensorboard
from moesweep.report.page import write_page
from moesweep.results.file import SweepError, UnreadableSweep
from moesweep.results.sweep import open_sweep
from moesweep.text import printable, say

EXPORTS = {"csv": export_csv, "parquet": export_parquet, "tensorboard": export_tensorboard}
EXIT_OK, EXIT_USAGE, EXIT_IO, EXIT_CORRUPT = 0, 2, 4, 5


class Parser(argparse.ArgumentParser):
    """Prints help and errors without control characters."""

    def _print_message(self, message: str, file: Any = None) -> None:
        lines = [printable(line) for line in (message or "").split("\n")]
        (file or sys.stderr).write("\n".join(lines))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = Parser(
        prog="moesweep-report",
        description="A report that a person reads, and tables that other tools read, from the aggregate of a sweep.",
        epilog="example: moesweep-report html runs/quickstart/sweep.h5",
    )
    commands = top.add_subparsers(dest="command", required=True)
    page = commands.add_parser("html", help="write one self-contained page (works offline)")
    page.add_argument("file", type=Path, help="sweep.h5, as `moesweep aggregate` wrote it")
    page.add_argument("--out", type=Path, help="where to write it (default: report.html beside FILE)")
    tables = commands.add_parser("export", help="write the frames for other tools")
    tables.add_argument("file", type=Path, help="sweep.h5, as `moesweep aggregate` wrote it")
    tables.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for trials, steps, evaluations and routing as tables, or for a TensorBoard run a trial"
        " (default: tables or tensorboard beside FILE)",
    )
    tables.add_argument(
        "--format",
        choices=sorted(EXPORTS),
        default="csv",
        help="csv (the default) and parquet keep full precision; tensorboard has curves as float32",
    )
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (0 ok, 2 usage, 4 io, 5 corrupt or foreign file)."""
    options = parser().parse_args(arguments)
    try:
        with open_sweep(options.file) as sweep:
            if options.command == "html":
                out = options.out or options.file.with_name("report.html")
                size = write_page(sweep, out)
                say(f"{out}: {len(sweep)} trials, {size / 1e6:.2f} MB", sys.stdout)
            else:
                out = options.out or options.file.with_name(
                    "tensorboard" if options.format == "tensorboard" else "tables"
                )
                unit = "scalars" if options.format == "tensorboard" else "rows"
                for path, rows in EXPORTS[options.format](sweep, out):
                    say(f"{path}: {rows} {unit}", sys.stdout)
    except SweepError as error:
        say(f"moesweep-report: {error}", sys.stderr)
        missing = isinstance(error, UnreadableSweep) or not os.path.exists(options.file) or os.path.isdir(options.file)
        return EXIT_IO if missing else EXIT_CORRUPT
    except OSError as error:
        say(f"moesweep-report: {error.filename or options.file}: {error.strerror or error}", sys.stderr)
        return EXIT_IO
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
