"""The one error that `moesweep-data` shows to a user, and its exit codes (the same as the moesweep program's)."""

from __future__ import annotations

EXIT_CODES = {"usage": 2, "config": 3, "io": 4, "corrupt": 5, "data": 7}


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
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  {self.hint}" if self.hint else text
