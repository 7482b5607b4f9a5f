"""Progress on standard error: one rewritten line on a terminal, a line per stage in a log."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from moesweep.data.errors import printable


class Progress:
    """Stages with a count; `quiet` shows nothing."""

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._quiet = quiet
        self._terminal = self._stream.isatty()
        self._stage = ""
        self._started = 0.0
        self._shown = 0.0

    def stage(self, name: str) -> None:
        self._stage = name
        self._started = time.monotonic()
        self._shown = 0.0
        self.update(0, 0)

    def update(self, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if self._quiet or not self._terminal or (now - self._shown < 0.1 and done != total):
            return
        self._shown = now
        bar = ""
        if total > 0:
            filled = 24 * done // total
            bar = f" [{'#' * filled}{'.' * (24 - filled)}] {done}/{total}"
        self._stream.write(f"\r\x1b[K{printable(self._stage)}{bar} {printable(note)}")
        self._stream.flush()

    def finish(self, result: str) -> None:
        """Ends the stage with what it gave."""
        if self._quiet:
            return
        start = "\r\x1b[K" if self._terminal else ""
        self._stream.write(
            f"{start}{printable(self._stage)}: {printable(result)} ({time.monotonic() - self._started:.1f} s)\n"
        )
        self._stream.flush()

    def say(self, text: str) -> None:
        if self._quiet:
            return
        self._stream.write(("\r\x1b[K" if self._terminal else "") + printable(text) + "\n")
        self._stream.flush()
