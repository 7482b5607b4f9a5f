"""Texts of others, such as names from a file, made fit for a terminal, a file name or a table."""

from __future__ import annotations

import re
from typing import TextIO

#: Names that Windows keeps for devices.
RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
#: A cell that a spreadsheet would run as a formula begins so; and what `cell` puts before one.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
QUOTE = "'"
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def printable(text: str) -> str:
    """The text with every control character, line end and sign of writing direction as an escape (`\\x1b`, `\\n`, `\\u202e`).

    A byte of a file name that is not UTF-8, which Python has as U+DC80 to U+DCFF, becomes `\\xff`.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else letter.encode("unicode_escape").decode("ascii")


def say(text: str, stream: TextIO) -> None:
    """Prints one line, `printable`; characters that the stream's encoding lacks are escaped."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(printable(text).encode(encoding, "backslashreplace").decode(encoding), file=stream)


def file_name(text: str, most: int = 120) -> str:
    """A name of at most `most` ASCII characters for one file or folder: letters, digits and `. = _ -`, none of `. -` in front."""
    name = re.sub(r"[^A-Za-z0-9.=-]+", "_", text)[:most]
    if not name or name[0] in ".-" or RESERVED.fullmatch(name):
        name = "_" + name[: most - 1]
    return name


def cell(text: str) -> str:
    """A text as a cell of a table that no spreadsheet takes for a formula: `'` stands before one that begins like a formula or with `'`.

    So a reader takes one `'` at the front away again, and has the text. A text that is a number stays as it is.
    """
    if text.startswith((*FORMULA, QUOTE)) and not NUMBER.fullmatch(text):
        return QUOTE + text
    return text
