"""Token files of other programs, used where they lie: Megatron's .bin with .idx, and .npy arrays of integers."""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moesweep.data.errors import DataToolError, at, shown
from moesweep.data.files import open_regular, read_limited, sha256_of

IntArray = npt.NDArray[Any]

MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
MEGATRON_TYPES = {1: "u1", 2: "i1", 3: "i2", 4: "i4", 5: "i8", 8: "u2"}
STORE_TYPES = {"u1": "u8", "u2": "u16", "u4": "u32", "i2": "i16", "i4": "i32", "i8": "i64"}
"""Names of element types in a manifest."""
INDEX_BYTES = 4 << 30
"""The largest Megatron index: 350 million sequences."""


class StoredTokens:
    """Tokens of a file, read part by part: a file that is cut short meanwhile is an error, not the end of the process as with a mapped one."""

    def __init__(self, path: Path, dtype: np.dtype[Any], offset_bytes: int, count: int) -> None:
        self._path = path
        self._dtype = dtype
        self._offset_bytes = offset_bytes
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, part: slice) -> IntArray:
        first, last, _ = part.indices(self._count)
        count = max(0, last - first)
        with open_regular(self._path) as file, at(self._path):
            file.seek(self._offset_bytes + first * self._dtype.itemsize)
            data = file.read(count * self._dtype.itemsize)
        if len(data) != count * self._dtype.itemsize:
            raise DataToolError("corrupt", "is cut short", str(self._path))
        return np.frombuffer(data, self._dtype)


@dataclasses.dataclass
class TokenFile:
    """A file of tokens, and where its documents begin (token offsets, the last is the end; only the two ends when unknown)."""

    path: Path
    encoding: str  # npy or megatron
    dtype: str  # u8, u16, i16, u32, i32 or i64
    offset_bytes: int
    tokens: StoredTokens
    documents: IntArray


def open_npy(path: Path) -> TokenFile:
    with open_regular(path) as file:
        try:
            version = np.lib.format.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"version {version[0]}.{version[1]} is not read, 1.0 and 2.0 are")
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file, max_header_size=10000)
        except Exception as error:  # numpy's reader of headers lets through what Python's parser raises
            raise DataToolError("data", f"is no readable .npy file: {error}", str(path)) from error
        offset, size = file.tell(), os.fstat(file.fileno()).st_size
    kind = dtype.str.lstrip("<|")
    if len(shape) != 1 or kind not in STORE_TYPES or shape[0] < 0:
        raise DataToolError(
            "data",
            f"must be a one-dimensional little-endian integer array, not {shown(dtype.str)} of shape {shown(shape)}",
            str(path),
        )
    count = int(shape[0])
    if offset + count * dtype.itemsize > size:
        raise DataToolError("corrupt", f"holds {size} bytes, its header names {count} tokens", str(path))
    tokens = StoredTokens(path, dtype, offset, count)
    return TokenFile(path, "npy", STORE_TYPES[kind], offset, tokens, np.array([0, count]))


def open_megatron(prefix: Path) -> TokenFile:
    """`PREFIX.bin` and `PREFIX.idx`: magic, version 1, element type, counts, then lengths, positions in bytes and document starts."""
    binary, index = Path(f"{prefix}.bin"), Path(f"{prefix}.idx")
    header = read_limited(index, INDEX_BYTES)
    with open_regular(binary) as file:
        size = os.fstat(file.fileno()).st_size
    if header[:9] != MEGATRON_MAGIC or len(header) < 34:
        raise DataToolError("data", "is no Megatron index (MMIDIDX)", str(index))
    version, code, sequences, documents = struct.unpack("<QBQQ", header[9:34])
    if version != 1 or code not in MEGATRON_TYPES or MEGATRON_TYPES[code] not in STORE_TYPES:
        raise DataToolError(
            "data",
            f"has version {version} and element type {code}: only version 1 of integer tokens is read",
            str(index),
        )
    if len(header) < 34 + 12 * sequences + 8 * documents:
        raise DataToolError("corrupt", "is cut short", str(index))
    kind = np.dtype("<" + MEGATRON_TYPES[code])
    lengths = np.frombuffer(header, "<i4", sequences, 34).astype(np.int64)
    positions = np.frombuffer(header, "<i8", sequences, 34 + 4 * sequences)
    starts = np.frombuffer(header, "<i8", documents, 34 + 12 * sequences)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    count = int(ends[-1])
    if (lengths < 0).any() or (starts < 0).any() or (starts > sequences).any():
        raise DataToolError("corrupt", "has a negative length, or a document that begins outside", str(index))
    if count * kind.itemsize != size:
        raise DataToolError(
            "corrupt", f"holds {size} bytes, its index names {count} tokens of {kind.itemsize} bytes", str(binary)
        )
    if not np.array_equal(positions, ends[:-1] * kind.itemsize):
        raise DataToolError(
            "data", "places its sequences elsewhere than one after the other, which is not read", str(index)
        )
    bounds = np.unique(np.concatenate([[0], ends[starts], [count]]))
    tokens = StoredTokens(binary, kind, 0, count)
    return TokenFile(binary, "megatron", STORE_TYPES[MEGATRON_TYPES[code]], 0, tokens, bounds)


def cut_for_validation(file: TokenFile, share: float) -> int:
    """The token at which the validation part begins: the end of the file, `share` of its tokens, from a document's start on."""
    wanted = round(len(file.tokens) * (1 - share))
    if len(file.documents) <= 2:
        return wanted
    inner = file.documents[1:-1]
    return int(inner[np.argmin(np.abs(inner - wanted))])


def scan(file: TokenFile, vocabulary: int, show: Callable[[int, int], None]) -> str:
    """SHA-256 of the whole file; a `data` error names the first token outside the vocabulary."""
    step = 1 << 24
    for start in range(0, len(file.tokens), step):
        part = file.tokens[start : start + step]
        bad = np.flatnonzero((part < 0) | (part >= vocabulary))
        if bad.size:
            place = start + int(bad[0])
            raise DataToolError(
                "data",
                f"token {part[bad[0]]} at {place} is outside the vocabulary of {vocabulary}",
                str(file.path),
            )
        show(min(start + step, len(file.tokens)), len(file.tokens))
    return sha256_of(file.path)
