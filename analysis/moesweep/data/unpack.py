"""Text as a stream with limits: pieces of a file (unpacked from gzip), then lines, so that no file decides how much memory is used."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator
from typing import Protocol

from moesweep.data.errors import DataToolError
from moesweep.data.files import PIECE_BYTES

LINE_BYTES = 64 << 20
"""A line of .jsonl, a paragraph of .txt, a file inside a package."""
FILE_BYTES = 4 << 30
"""The text of one file, unpacked; also the content of one package."""
RATIO = 256
"""A gzip file may unpack to this many times what was read of it, above RATIO_FROM_BYTES."""
RATIO_FROM_BYTES = 64 << 20
DOCUMENT_COST_BYTES = 256
"""Memory that a document takes beside its text."""


def size_in_words(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} bytes"


class Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Counted:
    """A file whose bytes are counted and digested while they are read."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        self.size += len(data)
        return data

    def finish(self) -> str:
        """SHA-256 of the whole file: reads what nobody read."""
        while self.read(PIECE_BYTES):
            pass
        return self._digest.hexdigest()


class Budget:
    """All text of a build is held in memory: at most half of the machine's may be taken."""

    def __init__(self, most_bytes: int | None = None) -> None:
        self._most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if most_bytes is None else most_bytes
        self._left = self._most

    def take(self, size: int, where: str) -> None:
        self._left -= size
        if self._left < 0:
            raise DataToolError(
                "data",
                f"all text together needs more than {size_in_words(self._most)}, half of this machine's memory",
                where,
                "give less text, or build on a machine with more memory",
            )


def pieces(file: Counted, packed: bool, where: str, most_bytes: int = 0) -> Iterator[bytes]:
    """The bytes of a file, unpacked when it is `packed` by gzip. Errors: `data` above a limit, `corrupt` for a damaged gzip file."""
    most_bytes = most_bytes or FILE_BYTES
    # GzipFile wants no more of a file than `read`.
    reader: Readable = gzip.GzipFile(fileobj=file, mode="rb") if packed else file  # type: ignore[call-overload]
    size = 0
    while True:
        try:
            piece = reader.read(PIECE_BYTES)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataToolError("corrupt", f"is no whole gzip file: {error}", where) from error
        except OSError as error:
            raise DataToolError("io", f"cannot read: {error.strerror or error}", where) from error
        if not piece:
            return
        size += len(piece)
        if size > most_bytes:
            raise DataToolError(
                "data", f"holds more than {size_in_words(most_bytes)} of text", where, "split it into several files"
            )
        if packed and size > RATIO_FROM_BYTES and size > RATIO * file.size:
            raise DataToolError(
                "data", f"unpacks to more than {RATIO} times its size", where, "unpack it yourself if this is meant"
            )
        yield piece


def lines(parts: Iterable[bytes], where: str) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes without the newline) of each line; what follows the last newline is a line too, even when it is empty."""
    number, size = 1, 0
    held: list[bytes] = []

    def hold(part: bytes) -> None:
        nonlocal size
        size += len(part)
        if size > LINE_BYTES:
            raise DataToolError("data", f"a line of more than {size_in_words(LINE_BYTES)}", f"{where}:{number}")
        held.append(part)

    for piece in parts:
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            hold(piece[start:end])
            yield number, b"".join(held)
            number, size, start = number + 1, 0, end + 1
            held.clear()
        hold(piece[start:])
    yield number, b"".join(held)


def text_lines(parts: Iterable[bytes], where: str) -> Iterator[tuple[int, str]]:
    """(number, text) of each line, without a byte order mark and without byte 0. A `data` error names the line that is not UTF-8."""
    for number, line in lines(parts, where):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            yield number, line.decode("utf-8").replace("\x00", "")
        except UnicodeDecodeError as error:
            raise DataToolError("data", f"is not UTF-8 text: {error}", f"{where}:{number}") from error
