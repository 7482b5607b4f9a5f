"""Token files of other programs, used where they lie: Megatron's .bin with .idx, and .npy arrays of integers."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moesweep.data.errors import DataToolError

IntArray = npt.NDArray[Any]

MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
MEGATRON_TYPES = {1: "u1", 2: "i1", 3: "i2", 4: "i4", 5: "i8", 8: "u2"}
STORE_TYPES = {"u1": "u8", "u2": "u16", "u4": "u32", "i2": "i16", "i4": "i32", "i8": "i64"}
"""Names of element types in a manifest."""


@dataclasses.dataclass
class TokenFile:
    """A file of tokens, and where its documents begin (token offsets, the last is the end; only the two ends when unknown)."""

    path: Path
    encoding: str  # npy or megatron
    dtype: str  # u8, u16, i16, u32, i32 or i64
    offset_bytes: int
    tokens: IntArray
    documents: IntArray


def open_npy(path: Path) -> TokenFile:
    try:
        array: IntArray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataToolError("data", f"is no readable .npy file: {error}", str(path)) from error
    kind = array.dtype.str.lstrip("<|")
    if array.ndim != 1 or kind not in STORE_TYPES or not isinstance(array, np.memmap):
        raise DataToolError(
            "data",
            f"must be a one-dimensional little-endian integer array, not {array.dtype.str} of shape {array.shape}",
            str(path),
        )
    return TokenFile(path, "npy", STORE_TYPES[kind], int(array.offset), array, np.array([0, len(array)]))


def open_megatron(prefix: Path) -> TokenFile:
    """`PREFIX.bin` and `PREFIX.idx`: magic, version 1, element type, counts, then lengths, positions in bytes and document starts."""
    binary, index = Path(f"{prefix}.bin"), Path(f"{prefix}.idx")
    try:
        header = index.read_bytes()
        size = binary.stat().st_size
    except OSError as error:
        raise DataToolError("io", f"cannot read: {error.strerror}", str(error.filename)) from error
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
    starts = np.frombuffer(header, "<i8", documents, 34 + 12 * sequences)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    if ends[-1] * kind.itemsize != size:
        raise DataToolError(
            "corrupt", f"holds {size} bytes, its index names {ends[-1]} tokens of {kind.itemsize} bytes", str(binary)
        )
    bounds = np.unique(np.concatenate([[0], ends[starts], [ends[-1]]]))
    tokens: IntArray = np.memmap(binary, kind, "r") if size else np.zeros(0, kind)
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
                f"token {file.tokens[place]} at {place} is outside the vocabulary of {vocabulary}",
                str(file.path),
            )
        show(min(start + step, len(file.tokens)), len(file.tokens))
    digest = hashlib.sha256()
    with open(file.path, "rb") as handle:
        while piece := handle.read(1 << 24):
            digest.update(piece)
    return digest.hexdigest()
