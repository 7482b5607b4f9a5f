"""JSON of others: depth, number of values and length of numbers are bounded before Python's parser sees the text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

DEPTH = 64
VALUES = 1_000_000
DIGITS = 400

_OUTSIDE = re.compile(r'[\[\]{},"]')
_INSIDE = re.compile(r'["\\]')


class JsonError(ValueError):
    """What is wrong with a JSON text, and at which line and column of it (from 1)."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column


def parse(text: str, strict: bool = False) -> Any:
    """The value of a JSON text. `strict` also refuses NaN, Infinity and a key that is given twice in one object."""
    _check_shape(text)
    try:
        return (_STRICT if strict else _LENIENT).decode(text)
    except json.JSONDecodeError as error:
        raise JsonError(error.msg, error.lineno, error.colno) from error
    except RecursionError as error:
        raise JsonError("it is nested too deeply", 1, 1) from error
    except ValueError as error:
        raise JsonError(str(error), 1, 1) from error


def _int(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"a number has {len(text):,} digits, {DIGITS} are the most")
    return int(text)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key `{key[:80]}` is given twice")
        found[key] = value
    return found


_LENIENT = json.JSONDecoder(parse_int=_int)
_STRICT = json.JSONDecoder(parse_int=_int, parse_constant=_no_constant, object_pairs_hook=_unique)


def _check_shape(text: str) -> None:
    brackets = text.count("[") + text.count("{")
    if brackets <= DEPTH and brackets + text.count(",") <= VALUES:
        return
    depth = values = position = 0
    while match := _OUTSIDE.search(text, position):
        mark, position = match.group(), match.end()
        if mark == '"':
            while (inner := _INSIDE.search(text, position)) and inner.group() == "\\":
                position = inner.end() + 1
            if inner is None:
                return  # a text without an end: the parser says so
            position = inner.end()
            continue
        depth += (mark in "[{") - (mark in "]}")
        values += mark in "[{,"
        if depth > DEPTH or values > VALUES:
            what = f"nested deeper than {DEPTH}" if depth > DEPTH else f"more than {VALUES:,} values"
            start = match.start()
            line = text.count("\n", 0, start) + 1
            raise JsonError(what, line, start - text.rfind("\n", 0, start))
