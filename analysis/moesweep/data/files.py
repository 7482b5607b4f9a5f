"""Opens files of others: regular files alone, so that no FIFO or device is waited for, with a limit where a file is read whole."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

from moesweep.data.errors import DataToolError
from moesweep.publish import kind_of

PIECE_BYTES = 1 << 20


def open_regular(path: Path, kind: str = "data") -> BinaryIO:
    """The file, open for reading. An error of `kind` when it is no regular file, `io` when it cannot be opened."""
    try:
        # Looked at first: opening a device may already do something.
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            mode = os.fstat(handle).st_mode
            if stat.S_ISREG(mode):
                return os.fdopen(handle, "rb")
            os.close(handle)
    except OSError as error:
        raise DataToolError("io", f"cannot read: {error.strerror}", str(path)) from error
    except ValueError as error:  # a zero byte in the name
        raise DataToolError(kind, f"is no name of a file: {error}", str(path)) from error
    raise DataToolError(kind, f"is {kind_of(mode)}; only regular files are read", str(path))


def read_limited(path: Path, most_bytes: int, kind: str = "data") -> bytes:
    """The whole content of a regular file; an error of `kind` when it holds more than `most_bytes`."""
    with open_regular(path, kind) as file:
        try:
            data = file.read(most_bytes + 1)
        except OSError as error:
            raise DataToolError("io", f"cannot read: {error.strerror}", str(path)) from error
    if len(data) > most_bytes:
        raise DataToolError(kind, f"is larger than {most_bytes:,} bytes, the most that is read", str(path))
    return data


def sha256_of(path: Path) -> str:
    """SHA-256 of a regular file, as hex text; an `io` error when it cannot be read."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        try:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
        except OSError as error:
            raise DataToolError("io", f"cannot read: {error.strerror}", str(path)) from error
    return digest.hexdigest()
