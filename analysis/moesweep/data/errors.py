"""The one error that `moesweep-data` shows to a user, and its exit codes (the same as the moesweep program's)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from moesweep.text import printable as whole_printable

EXIT_CODES = {"usage": 2, "config": 3, "io": 4, "corrupt": 5, "data": 7, "internal": 70}

MOST_SHOWN = 2000
"""Characters of one part of a message; foreign text can be longer than any screen."""


def printable(text: str) -> str:
    """`text` in one line that a terminal shows as it is: control characters and broken Unicode as escapes, long text cut."""
    if len(text) > MOST_SHOWN:
        text = f"{text[:MOST_SHOWN]}... ({len(text):,} characters)"
    return whole_printable(text)


def shown(value: object, most: int = 80) -> str:
    """A foreign value inside a sentence: one line of at most `most` characters."""
    text = printable(str(value)[: most + 1])
    return text if len(text) <= most else f"{text[:most]}..."


def is_utf8(text: str) -> bool:
    """Whether the text can be written as UTF-8: it holds no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class DataToolError(Exception):
    """What happened, where (`file:line:column` or a path), and what to do next; `kind` decides the exit code."""

    def __init__(self, kind: str, message: str, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.where = where
        self.hint = hint

    def __reduce__(self) -> tuple[type[DataToolError], tuple[str, str, str, str]]:
        """Travels whole from a worker process."""
        return DataToolError, (self.kind, self.message, self.where, self.hint)

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.kind]

    def __str__(self) -> str:
        text = f"{printable(self.where)}: {printable(self.message)}" if self.where else printable(self.message)
        return f"{text}\n  {printable(self.hint)}" if self.hint else text


@contextlib.contextmanager
def at(place: str | os.PathLike[str], kind: str = "data") -> Iterator[None]:
    """While `place` is read: what Python raises for hostile content becomes a DataToolError that names the place."""
    where = os.fspath(place)
    try:
        yield
    except RecursionError as error:
        raise DataToolError(kind, "is nested too deeply", where) from error
    except MemoryError as error:
        raise DataToolError("io", "needs more memory than there is", where, "give less text, or more memory") from error
    except UnicodeError as error:
        raise DataToolError(kind, f"holds text that is no valid Unicode: {error}", where) from error
    except OverflowError as error:
        raise DataToolError(kind, f"holds a number that is too large: {error}", where) from error
    except OSError as error:
        place = where if error.filename is None else os.fsdecode(error.filename)
        raise DataToolError("io", f"cannot read: {error.strerror or error}", place) from error
