"""The bytes of sweep.h5: opens it, checks it against analysis/FORMAT.md and hands out plain arrays; knows nothing of frames."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, final

import h5py
import numpy as np
import numpy.typing as npt

from moesweep.results.checked import (
    CONTENT_DAMAGED,
    ContentDigest,
    Refused,
    Stored,
    check,
    content_of,
    pieces,
)
from moesweep.text import printable

FORMAT = "moesweep-sweep"
VERSION = 1
#: An array above this is not held whole in memory for one trial's sake.
LAZY_BYTES = 1 << 26
#: Objects and lists inside each other, in JSON of a config or a provenance.
MOST_JSON_DEPTH = 100
#: Types of numbers in arrays.
ITEM_BYTES = {"f64": 8, "f32": 4, "i64": 8, "i32": 4, "u8": 1}
#: Dimensions of the arrays that are read by name.
DIMENSIONS = {
    **dict.fromkeys(
        (f"steps/{name}" for name in (
            "step", "loss", "learning_rate", "gradient_norm", "tokens_per_second", "seconds", "balance_loss", "z_loss",
        )),
        1,
    ),
    **dict.fromkeys((f"evaluations/{name}" for name in ("step", "loss", "bits_per_byte")), 1),
    **dict.fromkeys((f"evaluations/{name}" for name in ("loss_by_domain", "bits_per_byte_by_domain")), 2),
    **dict.fromkeys((f"evaluations/{name}" for name in ("loss_by_expert", "drop_rate_by_expert")), 3),
    **dict.fromkeys((f"evaluations/{name}" for name in ("counts", "counts_before_dropping")), 4),
}  # fmt: skip
#: Arrays of whole numbers, by the end of their path.
WHOLE_NUMBERS = ("steps/step", "evaluations/step", "evaluations/counts", "evaluations/greedy.counts")

AnyArray = npt.NDArray[Any]


class SweepError(Exception):
    """A sweep file that can't be used; the message names the file, what is wrong and what to do next, without control characters."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class NotASweep(SweepError):
    """The file is missing or something other than an aggregate."""


class UnreadableSweep(SweepError):
    """The file can't be read just now (permission, a failing disk, another process writes to it); it may be sound."""


class NewerSweep(SweepError):
    """The file was written in a newer version of the format than this package reads."""


class CorruptSweep(SweepError):
    """The file is an aggregate, but a dataset is damaged, missing, disagrees with the others, or is none that moesweep writes."""


@dataclass(frozen=True)
class ArrayInfo:
    """What `arrays/GROUP/NAME` says of itself."""

    path: str
    unit: str
    description: str
    metric: bool


@final
class SweepFile:
    """An open sweep.h5. Reads whole datasets on request and closes with `close()` or as a context manager.

    The file was checked as a whole before it is opened (`moesweep.results.checked`), and the content of each dataset is compared
    with its digest when it is read. Every method raises `CorruptSweep` naming file and dataset when either fails or shapes disagree.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            exists = self.path.exists()
        except OSError as error:
            raise UnreadableSweep(f"{self.path}: can't be opened ({error.strerror})") from error
        if not exists:
            raise NotASweep(f"{self.path}: no such file; `moesweep aggregate DIR` writes DIR/sweep.h5")
        if self.path.is_dir():
            inside = self.path / "sweep.h5"
            hint = f"give {inside}" if inside.exists() else f"`moesweep aggregate {self.path}` writes its sweep.h5"
            raise NotASweep(f"{self.path}: is a folder, not a sweep file; {hint}")
        try:
            checked = check(self.path, FORMAT, VERSION)
        except Refused as refused:
            raise self._refusal(refused) from refused
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise UnreadableSweep(f"{self.path}: can't be opened ({error}); try again") from error
        try:
            about = os.fstat(self._file.id.get_vfd_handle())
            if (about.st_dev, about.st_ino) != (checked.device, checked.inode):
                raise UnreadableSweep(f"{self.path}: was replaced while it was opened; try again")
            self.datasets = checked.datasets
            self.version = int(checked.root["version"])
            self.digest = checked.root["digest"]
            self._sound: set[str] = set()
            self.trials = self._trial_count()
        except BaseException:
            self._file.close()
            raise

    def _refusal(self, refused: Refused) -> SweepError:
        if refused.kind == "corrupt":
            return self.corrupt(refused.dataset, refused.what)
        if refused.kind == "newer":
            return NewerSweep(f"{self.path}: {refused.what}; install a newer moesweep package")
        if refused.kind == "foreign":
            return NotASweep(f"{self.path}: {refused.what}; `moesweep aggregate DIR` writes a sweep file")
        where = f"{refused.dataset} " if refused.dataset else ""
        return UnreadableSweep(f"{self.path}: {where}{refused.what}; try again, the file may be sound")

    def _trial_count(self) -> int:
        count = self.stored("trials/id").shape[0]
        for name in ("state", "reason"):
            if self.stored(f"trials/{name}").shape != (count,):
                raise self.corrupt(f"trials/{name}", f"has another length than trials/id ({count})")
        return count

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> SweepFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def corrupt(self, dataset: str, what: str) -> CorruptSweep:
        place = f"{dataset} {what}" if dataset else what
        return CorruptSweep(
            f"{self.path}: {place}; `moesweep verify` checks the whole file, `moesweep aggregate` writes it again"
        )

    def stored(self, dataset: str) -> Stored:
        """Type, shape and digest of a dataset."""
        if dataset not in self.datasets:
            group = any(path.startswith(dataset + "/") for path in self.datasets)
            raise self.corrupt(dataset, "is a group where a dataset should be" if group else "is missing")
        return self.datasets[dataset]

    @contextmanager
    def _reading(self, dataset: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, KeyError) as error:
            raise self.corrupt(dataset, f"can't be read ({error})") from error

    def values(self, dataset: str) -> AnyArray:
        """The whole dataset as an array."""
        stored = self.stored(dataset)
        with self._reading(dataset):
            values = np.asarray(self._file[dataset][()])
        if dataset not in self._sound:
            self._compare(dataset, stored, content_of(values))
        return values

    def _compare(self, dataset: str, stored: Stored, content: str) -> None:
        if content != stored.content:
            raise self.corrupt(dataset, CONTENT_DAMAGED)
        self._sound.add(dataset)

    def numbers(self, dataset: str, types: tuple[str, ...] = ("i64",)) -> AnyArray:
        """The whole dataset, of one of these types."""
        if self.stored(dataset).type not in types:
            raise self.corrupt(
                dataset, f"has the type {self.stored(dataset).type} where {' or '.join(types)} is expected"
            )
        return self.values(dataset)

    def texts(self, dataset: str) -> list[str]:
        """A dataset of fixed-length strings, one a trial. A text that is not UTF-8, or has a zero byte inside, is corrupt."""
        stored = self.stored(dataset)
        if not stored.type.startswith("s") or len(stored.shape) != 1:
            raise self.corrupt(
                dataset, f"has the type {stored.type}{list(stored.shape)} where a text a trial is expected"
            )
        texts: list[str] = []
        for row, item in enumerate(self.values(dataset)):
            try:
                texts.append(bytes(item).decode("utf-8"))
            except UnicodeDecodeError as error:
                raise self.corrupt(
                    dataset, f"is not UTF-8 in row {row} ({error.reason} at byte {error.start})"
                ) from error
            if "\0" in texts[-1]:
                raise self.corrupt(dataset, f"has a zero byte inside the text of row {row}")
        return texts

    def text(self, dataset: str) -> str:
        """A text kept as bytes."""
        try:
            return self.numbers(dataset, ("u8",)).tobytes().rstrip(b"\0").decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.corrupt(dataset, f"is not UTF-8 ({error.reason} at byte {error.start})") from error

    def column(self, dataset: str) -> AnyArray:
        """A dataset with one number a trial."""
        if self.stored(dataset).shape != (self.trials,):
            raise self.corrupt(dataset, f"has shape {list(self.stored(dataset).shape)} for {self.trials} trials")
        return self.numbers(dataset, ("f64",))

    def names(self, group: str) -> list[str]:
        """Members of a group, sorted; empty when the group is absent."""
        start = group + "/"
        return sorted({path[len(start) :].partition("/")[0] for path in self.datasets if path.startswith(start)})

    def json(self, dataset: str) -> dict[str, Any]:
        """A JSON object kept as bytes; an empty text gives an empty object."""
        return self.parse(dataset, self.numbers(dataset, ("u8",)).tobytes())

    def parse(self, dataset: str, text: bytes, of: str = "") -> dict[str, Any]:
        """A JSON object; `of` says whose it is, for the error."""
        try:
            return parse_object(text)
        except ValueError as error:
            raise self.corrupt(dataset, f"holds no valid JSON{of} ({error})") from error

    def offsets(self, dataset: str, total: int) -> npt.NDArray[np.int64]:
        """Offsets [N+1] that cut `total` elements into one run a trial."""
        if self.stored(dataset).shape != (self.trials + 1,):
            raise self.corrupt(dataset, f"has shape {list(self.stored(dataset).shape)} for {self.trials} trials")
        values = self.numbers(dataset).astype(np.int64)
        # Ordered from 0 to the total: each difference is then exact.
        if values[0] != 0 or values[-1] != total or np.any(values[1:] < values[:-1]):
            raise self.corrupt(dataset, f"does not cut {total} elements into {self.trials} runs")
        return values

    def array_paths(self) -> list[str]:
        """`GROUP/NAME` of every array, sorted."""
        return [f"{group}/{name}" for group in self.names("arrays") for name in self.names(f"arrays/{group}")]

    def array_info(self, path: str) -> ArrayInfo:
        """Unit and description of an array, and whether it gives a metric."""
        stored = self.stored(f"arrays/{path}/data")
        return ArrayInfo(path, stored.unit, stored.description, stored.metric)

    def ragged(self, path: str) -> Ragged:
        """The array `GROUP/NAME` of every trial, side by side; its elements are read when asked for."""
        base = f"arrays/{path}"
        stored = self.stored(f"{base}/data")
        if len(stored.shape) != 1 or stored.type not in ITEM_BYTES:
            raise self.corrupt(
                f"{base}/data", f"has the type {stored.type}{list(stored.shape)} where a row of numbers is expected"
            )
        offsets = self.offsets(f"{base}/offsets", stored.shape[0])
        at = f"{base}/shapes"
        dimensions = self.stored(at).shape
        if len(dimensions) != 2 or dimensions[0] != self.trials or not 0 < dimensions[1] <= 32:
            raise self.corrupt(at, f"has shape {list(dimensions)} for {self.trials} trials")
        shapes = self.numbers(at).astype(np.int64)
        # Products are taken in floating point first: below 2^53 they are exact there, and in integers too.
        if np.any(shapes < 0) or np.any(np.prod(np.maximum(shapes, 1).astype(np.float64), axis=1) >= 2.0**53):
            raise self.corrupt(at, "has dimensions that no array can have")
        if not np.array_equal(np.prod(shapes, axis=1), np.diff(offsets)):
            raise self.corrupt(at, "disagrees with the offsets beside it")
        wanted = expected_dimensions(path)
        if wanted is not None and dimensions[1] != wanted:
            raise self.corrupt(
                at, f"has {dimensions[1]} dimensions where {wanted} {'is' if wanted == 1 else 'are'} expected"
            )
        if path.endswith(WHOLE_NUMBERS) and stored.type not in ("i64", "i32"):
            raise self.corrupt(f"{base}/data", f"has the type {stored.type} where whole numbers are expected")
        size = stored.shape[0] * ITEM_BYTES[stored.type]
        return Ragged(path, offsets, shapes, size, partial(self.slice, f"{base}/data"))

    def slice(self, dataset: str, first: int, last: int) -> AnyArray:
        """Elements [first, last) of a dataset with one dimension. Its whole content is checked, in pieces, before the first such reading."""
        stored = self.stored(dataset)
        if (first, last) == (0, stored.shape[0]):
            return self.values(dataset)
        with self._reading(dataset):
            node = self._file[dataset]
            if dataset not in self._sound:
                digest = ContentDigest()
                for piece in pieces(node):
                    digest.add(piece)
                self._compare(dataset, stored, digest.hexdigest())
            return np.asarray(node[first:last])


def parse_object(text: bytes) -> dict[str, Any]:
    """A JSON object from bytes, empty for an empty text. ValueError when it is none, not Unicode, or deeper than `MOST_JSON_DEPTH`."""
    text = text.rstrip(b"\0")
    if not text.strip():
        return {}
    try:
        value = json.loads(text.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        value, deep = {}, True
    else:
        deep = text.count(b"[") + text.count(b"{") > MOST_JSON_DEPTH and _depth(value) > MOST_JSON_DEPTH
    if deep:
        raise ValueError(f"it is deeper than {MOST_JSON_DEPTH} levels")
    value = value if isinstance(value, dict) else None
    if value is None:
        raise ValueError("it is no object")
    if b"\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError("it has half of a surrogate pair, which is no character") from error
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON value")


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        level = inner
    return depth


def expected_dimensions(path: str) -> int | None:
    """Dimensions that FORMAT.md gives an array `GROUP/NAME`; None where it leaves them open."""
    group, _, name = path.partition("/")
    name = name.removeprefix("greedy.")
    if group == "steps" and name.startswith("losses."):
        return 1
    return DIMENSIONS.get(f"{group}/{name}")


@dataclass(frozen=True)
class Ragged:
    """One named array of every trial: trial i has `data[offsets[i]:offsets[i+1]]` in shape `shapes[i]`.

    An array of more than `LAZY_BYTES` is read trial by trial unless `data` was asked for.
    """

    path: str
    offsets: npt.NDArray[np.int64]
    shapes: npt.NDArray[np.int64]
    size_bytes: int
    _read: Callable[[int, int], AnyArray]

    @cached_property
    def data(self) -> AnyArray:
        """All elements."""
        return self._read(0, int(self.offsets[-1]))

    def run(self, first_row: int, last_row: int) -> AnyArray:
        """Elements of the trials [first_row, last_row), one after the other."""
        first, last = int(self.offsets[first_row]), int(self.offsets[last_row])
        if "data" in self.__dict__ or self.size_bytes <= LAZY_BYTES:
            return self.data[first:last]
        return self._read(first, last)

    def has(self, row: int) -> bool:
        """Whether that trial has the array, empty or not."""
        return bool(self.shapes[row].any())

    def of(self, row: int) -> AnyArray | None:
        """The array of that trial; None when it has none."""
        return self.run(row, row + 1).reshape(tuple(int(n) for n in self.shapes[row])) if self.has(row) else None

    def alike(
        self, first_row: int = 0, last_row: int | None = None
    ) -> Iterator[tuple[npt.NDArray[np.int64], AnyArray]]:
        """Trials of equal shape together: their rows [n], and their arrays [n, *shape]; trials without elements are left out."""
        last_row = len(self.shapes) if last_row is None else last_row
        lengths = np.diff(self.offsets)[first_row:last_row]
        rows = first_row + np.flatnonzero(lengths > 0)
        if len(rows) == 0:
            return
        data, start = self.run(first_row, last_row), int(self.offsets[first_row])
        shapes, group = np.unique(self.shapes[rows], axis=0, return_inverse=True)
        for number, shape in enumerate(shapes):
            mine = rows[group.reshape(-1) == number]
            size = int(np.prod(shape))
            if len(mine) * size == len(data):
                values = data
            else:
                values = data[(self.offsets[mine] - start)[:, None] + np.arange(size)]
            yield mine, values.reshape((len(mine), *(int(n) for n in shape)))
