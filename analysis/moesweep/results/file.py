"""The bytes of sweep.h5: opens it, checks it against analysis/FORMAT.md and hands out plain arrays; knows nothing of frames."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, final

import h5py
import numpy as np
import numpy.typing as npt

FORMAT = "moesweep-sweep"
VERSION = 1
#: An array above this is not held whole in memory for one trial's sake.
LAZY_BYTES = 1 << 26

AnyArray = npt.NDArray[Any]


class SweepError(Exception):
    """A sweep file that can't be used; the message names the file, what is wrong and what to do next."""


class NotASweep(SweepError):
    """The file is missing, unreadable, or something other than an aggregate."""


class NewerSweep(SweepError):
    """The file was written in a newer version of the format than this package reads."""


class CorruptSweep(SweepError):
    """The file is an aggregate, but a dataset is damaged, missing or disagrees with the others."""


@dataclass(frozen=True)
class ArrayInfo:
    """What `arrays/GROUP/NAME` says of itself."""

    path: str
    unit: str
    description: str
    metric: bool


def text_of(value: object) -> str:
    """A fixed-length HDF5 string, or an attribute of any string kind, as text."""
    if isinstance(value, np.ndarray) and value.shape == ():
        value = value[()]
    if isinstance(value, bytes | np.bytes_):
        return bytes(value).rstrip(b"\0").decode("utf-8", "replace")
    return str(value)


@final
class SweepFile:
    """An open sweep.h5. Reads whole datasets on request and closes with `close()` or as a context manager.

    Every method raises `CorruptSweep` naming file and dataset when a checksum fails or shapes disagree.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise NotASweep(f"{self.path}: no such file; `moesweep aggregate DIR` writes DIR/sweep.h5")
        if self.path.is_dir():
            inside = self.path / "sweep.h5"
            hint = f"give {inside}" if inside.exists() else f"`moesweep aggregate {self.path}` writes its sweep.h5"
            raise NotASweep(f"{self.path}: is a folder, not a sweep file; {hint}")
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise NotASweep(f"{self.path}: can't be opened as HDF5 ({error}); `moesweep verify` says more") from error
        try:
            self._check_root()
            self.trials = self._trial_count()
        except BaseException:
            self._file.close()
            raise

    def _check_root(self) -> None:
        try:
            attributes = dict(self._file.attrs)
        except (OSError, RuntimeError) as error:
            raise CorruptSweep(f"{self.path}: the root attributes can't be read ({error})") from error
        kind = text_of(attributes.get("format", ""))
        if kind != FORMAT:
            what = f"is a {kind} file" if kind else "has no `format` attribute"
            raise NotASweep(f"{self.path}: {what}, not a {FORMAT} file; `moesweep aggregate DIR` writes one")
        try:
            self.version = int(attributes["version"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptSweep(f"{self.path}: the root attribute `version` is missing or no number") from error
        if self.version > VERSION:
            raise NewerSweep(
                f"{self.path}: format version {self.version} is newer than version {VERSION}, the newest this package reads;"
                " install a newer moesweep package"
            )
        self.digest = text_of(attributes.get("digest", ""))

    def _trial_count(self) -> int:
        count = len(self.texts("trials/id"))
        for name in ("state", "reason"):
            if len(self.texts(f"trials/{name}")) != count:
                raise self.corrupt(f"trials/{name}", f"has another length than trials/id ({count})")
        return count

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> SweepFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def corrupt(self, dataset: str, what: str) -> CorruptSweep:
        return CorruptSweep(
            f"{self.path}: {dataset} {what}; `moesweep verify` checks the whole file, `moesweep aggregate` writes it again"
        )

    @contextmanager
    def _reading(self, dataset: str) -> Iterator[None]:
        try:
            yield
        except KeyError as error:
            raise self.corrupt(dataset, "is missing") from error
        except (OSError, RuntimeError) as error:
            raise self.corrupt(dataset, f"can't be read ({error})") from error

    def values(self, dataset: str) -> AnyArray:
        """The whole dataset as an array."""
        with self._reading(dataset):
            node = self._file[dataset]
            if not isinstance(node, h5py.Dataset):
                raise self.corrupt(dataset, "is a group where a dataset should be")
            return np.asarray(node[()])

    def texts(self, dataset: str) -> list[str]:
        """A dataset of fixed-length strings."""
        return [text_of(item) for item in self.values(dataset).reshape(-1)]

    def column(self, dataset: str) -> AnyArray:
        """A dataset with one value a trial."""
        values = self.values(dataset)
        if values.shape != (self.trials,):
            raise self.corrupt(dataset, f"has shape {list(values.shape)} for {self.trials} trials")
        return values

    def names(self, group: str) -> list[str]:
        """Members of a group, sorted; empty when the group is absent."""
        with self._reading(group):
            return sorted(self._file[group].keys()) if group in self._file else []

    def json(self, dataset: str) -> Any:
        """JSON kept as bytes; an empty text gives an empty object."""
        return self.parse(dataset, self.values(dataset).tobytes())

    def parse(self, dataset: str, text: bytes) -> Any:
        text = text.rstrip(b"\0")
        if not text.strip():
            return {}
        try:
            return json.loads(text.decode("utf-8"))
        except ValueError as error:
            raise self.corrupt(dataset, f"holds no valid JSON ({error})") from error

    def offsets(self, dataset: str, total: int) -> npt.NDArray[np.int64]:
        """Offsets [N+1] that cut `total` elements into one run a trial."""
        values = self.values(dataset).astype(np.int64)
        if values.shape != (self.trials + 1,) or values[0] != 0 or values[-1] != total or np.any(np.diff(values) < 0):
            raise self.corrupt(dataset, f"does not cut {total} elements into {self.trials} runs")
        return values

    def array_paths(self) -> list[str]:
        """`GROUP/NAME` of every array, sorted."""
        return [f"{group}/{name}" for group in self.names("arrays") for name in self.names(f"arrays/{group}")]

    def array_info(self, path: str) -> ArrayInfo:
        dataset = f"arrays/{path}/data"
        with self._reading(dataset):
            attributes = dict(self._file[dataset].attrs)
        return ArrayInfo(
            path=path,
            unit=text_of(attributes.get("unit", "")),
            description=text_of(attributes.get("description", "")),
            metric=bool(attributes.get("metric", 0)),
        )

    def ragged(self, path: str) -> Ragged:
        """The array `GROUP/NAME` of every trial, side by side; its elements are read when asked for."""
        base = f"arrays/{path}"
        with self._reading(f"{base}/data"):
            node = self._file[f"{base}/data"]
            dimensions, total, kind = node.ndim, int(node.shape[0]) if node.ndim else 0, np.dtype(node.dtype)
        if dimensions != 1:
            raise self.corrupt(f"{base}/data", f"has {dimensions} dimensions where 1 is expected")
        offsets = self.offsets(f"{base}/offsets", total)
        shapes = self.values(f"{base}/shapes").astype(np.int64)
        if shapes.ndim != 2 or len(shapes) != self.trials or np.any(shapes < 0):
            raise self.corrupt(f"{base}/shapes", f"has shape {list(shapes.shape)} for {self.trials} trials")
        if shapes.shape[1] > 0 and not np.array_equal(np.prod(shapes, axis=1), np.diff(offsets)):
            raise self.corrupt(f"{base}/shapes", "disagrees with the offsets beside it")
        return Ragged(path, offsets, shapes, total * kind.itemsize, partial(self.slice, f"{base}/data"))

    def slice(self, dataset: str, first: int, last: int) -> AnyArray:
        """Elements [first, last) of a dataset with one dimension."""
        with self._reading(dataset):
            return np.asarray(self._file[dataset][first:last])


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
