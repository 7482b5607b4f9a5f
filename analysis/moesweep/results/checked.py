"""What an HDF5 file of ours may be, and the check of a file in a child process before this process opens it.

The rule is in analysis/FORMAT.md, "What readers refuse". libhdf5 can crash or hang on hostile metadata, so `check` starts a child
with limits of memory and time that walks the file and reads all of it; the child's death says that the file is damaged.
The child runs this file alone: it imports nothing of moesweep.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

SIGNATURE = b"\x89HDF\r\n\x1a\n"
#: Groups inside groups; sweep.h5 has three above a dataset.
MOST_DEPTH = 8
#: Bytes of an attribute.
MOST_ATTRIBUTE_BYTES = 1 << 16
#: What deflate can make of one stored byte.
DEFLATE_RATIO = 1032
#: Content is digested in blocks of so many bytes.
DIGEST_BLOCK_BYTES = 1 << 20
#: A dataset is read in pieces of about so many bytes.
READ_BYTES = 8 << 20
#: Root attributes that the digest covers, in its order.
ROOT_ATTRIBUTES = ("format", "id", "reason", "state", "version")
HEXADECIMAL = re.compile("[0-9a-f]{64}", re.ASCII)

# Limits of the child: a part of their own, and one in proportion to the file's size.
MEMORY_BYTES, MEMORY_PER_BYTE = 512 << 20, 6
CPU_SECONDS, CPU_BYTES_PER_SECOND = 60, 10e6
WALL_SECONDS, WALL_BYTES_PER_SECOND = 120, 2e6

CONTENT_DAMAGED = "does not have the content of its digest"

AnyArray = npt.NDArray[Any]


class Refused(Exception):
    """Why a file is not used. `kind` is `io`, `foreign`, `newer` or `corrupt`; `dataset` is empty when it is about the whole file."""

    def __init__(self, kind: str, what: str, dataset: str = "") -> None:
        super().__init__(kind, what, dataset)
        self.kind, self.what, self.dataset = kind, what, dataset


@dataclass(frozen=True)
class Stored:
    """A dataset that follows the rule: `type` as in FORMAT.md (`f64`, `s16`, ...), `content` the digest of its bytes, its attributes."""

    type: str
    shape: tuple[int, ...]
    content: str
    unit: str
    description: str
    metric: bool


@dataclass(frozen=True)
class Checked:
    """A file that follows the rule: its root attributes as texts and its datasets by path. `device` and `inode` name the file."""

    root: dict[str, str]
    datasets: dict[str, Stored]
    device: int
    inode: int


# Content ------------------------------------------------------------------------------------------------------------


class ContentDigest:
    """The digest of a dataset's bytes, given piece by piece: SHA-256 over the hexadecimal SHA-256 of its blocks."""

    def __init__(self) -> None:
        self._outer = hashlib.sha256()
        self._block = hashlib.sha256()
        self._filled = 0

    def add(self, values: AnyArray) -> None:
        """The next elements, in row-major order."""
        if values.size == 0:
            return
        data: memoryview[int] = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        while len(data):
            part = data[: DIGEST_BLOCK_BYTES - self._filled]
            self._block.update(part)
            self._filled += len(part)
            data = data[len(part) :]
            if self._filled == DIGEST_BLOCK_BYTES:
                self._close_block()

    def _close_block(self) -> None:
        self._outer.update(self._block.hexdigest().encode())
        self._block, self._filled = hashlib.sha256(), 0

    def hexdigest(self) -> str:
        """64 hexadecimal digits; nothing can be added afterwards."""
        if self._filled:
            self._close_block()
        return self._outer.hexdigest()


def content_of(values: AnyArray) -> str:
    """The digest of a whole dataset's bytes."""
    digest = ContentDigest()
    digest.add(values)
    return digest.hexdigest()


def pieces(dataset: Any) -> Iterator[AnyArray]:
    """All rows of a dataset, some at a time: whole chunks, and about `READ_BYTES` of them."""
    rows = int(dataset.shape[0])
    row_bytes = max(1, math.prod(int(n) for n in dataset.shape[1:]) * int(dataset.dtype.itemsize))
    chunk_rows = int(dataset.chunks[0])
    step = max(1, READ_BYTES // (row_bytes * chunk_rows)) * chunk_rows
    for first in range(0, rows, step):
        yield np.asarray(dataset[first : first + step])


def root_digest(root: Mapping[str, str], datasets: Mapping[str, Found], contents: Mapping[str, str]) -> str:
    """The digest of a file, from its root attributes and of each dataset what is known without reading it."""
    hasher = hashlib.sha256()

    def add(field: str) -> None:
        data = field.encode("utf-8")
        hasher.update(b"%d:%s," % (len(data), data))

    for name in ROOT_ATTRIBUTES:
        if name in root:
            add(name)
            add(root[name])
    for path, one in sorted(datasets.items(), key=lambda item: item[0].encode()):
        for field in (
            path,
            one.type,
            joined(list(one.shape)),
            one.unit,
            one.description,
            one.metric,
            one.logical,
            contents[path],
        ):
            add(field)
    return hasher.hexdigest()


@dataclass(frozen=True)
class Found:
    """A dataset before its content is known; `metric` and `logical` are its attributes `metric` and `shape`, as the digest takes them."""

    type: str
    shape: tuple[int, ...]
    unit: str
    description: str
    metric: str
    logical: str
    content: str | None


# The rule -------------------------------------------------------------------------------------------------------------


def type_name(kind: Any) -> str | None:
    """Name of an HDF5 datatype in FORMAT.md; None for one that no file of ours has."""
    if kind.committed():
        return None
    numbers = {
        "f64": h5py.h5t.IEEE_F64LE,
        "f32": h5py.h5t.IEEE_F32LE,
        "i64": h5py.h5t.STD_I64LE,
        "i32": h5py.h5t.STD_I32LE,
        "u8": h5py.h5t.STD_U8LE,
    }
    for name, number in numbers.items():
        if kind.equal(number):
            return name
    if kind.get_class() != h5py.h5t.STRING or kind.is_variable_str() or kind.get_strpad() != h5py.h5t.STR_NULLPAD:
        return None
    return f"s{kind.get_size()}"


def attribute(node: Any, name: str, where: str) -> bytes | list[int] | None:
    """A text or a list of integers; None when there is none. Refuses any other kind."""
    if not h5py.h5a.exists(node, name.encode()):
        return None
    found = h5py.h5a.open(node, name.encode())
    kind, shape = found.get_type(), found.shape
    text = kind.get_class() == h5py.h5t.STRING and not kind.is_variable_str() and shape == ()
    if not text and kind.get_class() != h5py.h5t.INTEGER:
        raise Refused(
            "corrupt", f"has an attribute `{name}` that is neither a text of fixed length nor integers", where
        )
    if math.prod(int(n) for n in shape) * kind.get_size() > MOST_ATTRIBUTE_BYTES:
        raise Refused("corrupt", f"has an attribute `{name}` of more than {MOST_ATTRIBUTE_BYTES} bytes", where)
    if text:
        value = np.empty((), dtype=f"S{kind.get_size()}")
        found.read(value, mtype=kind)
        return value.tobytes().rstrip(b"\0")
    values = np.empty(shape, dtype=np.int64)
    found.read(values)
    return [int(v) for v in values.reshape(-1)]


def text_attribute(node: Any, name: str, where: str) -> str | None:
    """A text; None when there is none."""
    value = attribute(node, name, where)
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else None
    except UnicodeDecodeError as error:
        raise Refused("corrupt", f"has an attribute `{name}` that is not UTF-8", where) from error


def integers_attribute(node: Any, name: str, where: str) -> list[int] | None:
    """Integers; None when there is none."""
    value = attribute(node, name, where)
    return value if isinstance(value, list) else None


def described(node: Any, path: str, kind: str, shape: tuple[int, ...]) -> Found:
    """The dataset with its attributes."""
    unit, description = text_attribute(node, "unit", path), text_attribute(node, "description", path)
    if unit is None or description is None:
        raise Refused("corrupt", "has no text attribute `unit` or `description`", path)
    metric, logical = integers_attribute(node, "metric", path), integers_attribute(node, "shape", path)
    if metric not in (None, [0], [1]):
        raise Refused("corrupt", "has an attribute `metric` that is neither 0 nor 1", path)
    content = text_attribute(node, "content", path)
    if content is not None and not HEXADECIMAL.fullmatch(content):
        raise Refused("corrupt", "has an attribute `content` that is no digest", path)
    return Found(kind, shape, unit, description, joined(metric), joined(logical), content)


def joined(numbers: list[int] | None) -> str:
    """`3,4`; empty for None."""
    return "" if numbers is None else ",".join(map(str, numbers))


def layout(node: Any, path: str) -> tuple[str, tuple[int, ...], int]:
    """Type, shape and stored bytes of a dataset. Refuses any storage but whole, checksummed chunks; reads and allocates nothing."""
    name = type_name(node.get_type())
    if name is None:
        raise Refused("corrupt", "has a type that no moesweep file has", path)
    if node.get_space().get_simple_extent_type() != h5py.h5s.SIMPLE or node.rank == 0:
        raise Refused("corrupt", "has no dimension", path)
    shape = tuple(int(n) for n in node.shape)
    properties = node.get_create_plist()
    if properties.get_layout() != h5py.h5d.CHUNKED or properties.get_external_count() > 0:
        kinds = {h5py.h5d.COMPACT: "compact", h5py.h5d.CONTIGUOUS: "contiguous", h5py.h5d.VIRTUAL: "virtual"}
        kind = kinds.get(properties.get_layout(), "external")
        raise Refused("corrupt", f"has {kind} storage where chunks should be", path)
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    if filters not in ([h5py.h5z.FILTER_FLETCHER32], [h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32]):
        raise Refused(
            "corrupt", f"has the filters {filters} where fletcher32, or deflate and fletcher32, should be", path
        )
    chunk = tuple(int(n) for n in properties.get_chunk())
    needed = math.prod(-(-n // c) for n, c in zip(shape, chunk, strict=True)) if all(shape) else 0
    stored = int(node.get_storage_size())
    if int(node.get_num_chunks()) != needed:
        raise Refused(
            "corrupt", f"has {node.get_num_chunks()} chunks where its shape {list(shape)} needs {needed}", path
        )
    size = needed * math.prod(chunk) * int(node.get_type().get_size())
    most = stored * (DEFLATE_RATIO if len(filters) == 2 else 1)
    if size > most:
        raise Refused("corrupt", f"has chunks of {size} bytes, but what it stores makes at most {most}", path)
    return name, shape, stored


def walk(file: Any, file_bytes: int) -> dict[str, Found]:
    """Type, shape and attributes of every dataset, by path. Follows no link but the one hard link of each object."""
    found: dict[str, Found] = {}
    total = 0
    root = h5py.h5o.get_info(file, b"/").addr
    seen = {root}
    waiting: list[tuple[str, bytes]] = [("", b"/")]
    while waiting:
        path, place = waiting.pop()
        if path.count("/") >= MOST_DEPTH:
            raise Refused("corrupt", f"is deeper than {MOST_DEPTH} groups", path)
        group = h5py.h5g.open(file, place)
        for name in list(group):
            inside = place.rstrip(b"/") + b"/" + name
            try:
                inner = inside.decode("utf-8").lstrip("/")
            except UnicodeDecodeError as error:
                raise Refused(
                    "corrupt", "has a name that is not UTF-8", inside.decode("utf-8", "backslashreplace")
                ) from error
            if group.links.get_info(name).type != h5py.h5l.TYPE_HARD:
                raise Refused("corrupt", "is a link (soft, external or of another kind)", inner)
            about = h5py.h5o.get_info(group, name)
            if about.addr in seen or about.rc != 1:
                raise Refused("corrupt", "has more than one hard link", inner)
            seen.add(about.addr)
            if about.type == h5py.h5o.TYPE_GROUP:
                waiting.append((inner, inside))
                continue
            if about.type != h5py.h5o.TYPE_DATASET:
                raise Refused("corrupt", "is neither a group nor a dataset", inner)
            node = h5py.h5d.open(group, name)
            kind, shape, stored = layout(node, inner)
            total += stored
            if total > file_bytes:
                raise Refused("corrupt", "and the datasets before it store more bytes than the file has", inner)
            found[inner] = described(node, inner, kind, shape)
    return found


def root_attributes(file: Any, expected: str, newest: int) -> dict[str, str]:
    """The root attributes as the digest takes them, and `digest`. Refuses foreign and newer files."""
    root = h5py.h5o.open(file, b"/")
    try:
        kind = text_attribute(root, "format", "")
    except Refused:  # no text as we write it
        kind = None
    if kind is None:
        raise Refused("foreign", f"has no text attribute `format`, it is not a {expected} file")
    if kind != expected:
        raise Refused("foreign", f"is a {kind} file, not a {expected} file")
    version = integers_attribute(root, "version", "")
    if version is None or len(version) != 1 or version[0] < 1:
        raise Refused("corrupt", "the root attribute `version` is missing or no number above 0")
    if version[0] > newest:
        raise Refused(
            "newer", f"format version {version[0]} is newer than version {newest}, the newest this package reads"
        )
    found = {"format": kind, "version": str(version[0])}
    for name in ("id", "reason", "state", "digest"):
        text = text_attribute(root, name, "")
        if text is not None:
            found[name] = text
    if not HEXADECIMAL.fullmatch(found.get("digest", "")):
        raise Refused("corrupt", "the root attribute `digest` is missing or no digest")
    return found


def check_here(path: str, expected: str, newest: int) -> dict[str, Any]:
    """Walks the file and reads all of it in this process. What is found, as JSON values; `Refused` when it breaks the rule."""
    size = os.stat(path).st_size
    try:
        file = h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY)
    except BlockingIOError as error:
        raise Refused("io", f"can't be opened: another process writes to it ({error})") from error
    except OSError as error:
        raise Refused("io" if (error.errno or 0) > 0 else "foreign", f"can't be opened as HDF5 ({error})") from error
    at = ""
    try:
        root = root_attributes(file, expected, newest)
        found = walk(file, size)
        without = [path for path in found if found[path].content is None]
        if 0 < len(without) < len(found):
            raise Refused("corrupt", "has no attribute `content`, but other datasets have it", without[0])
        contents: dict[str, str] = {}
        for at in found:
            contents[at] = read(h5py.Dataset(h5py.h5d.open(file, at.encode())), found[at])
        at = ""
        if root_digest(root, found, contents) != root["digest"]:
            raise Refused("corrupt", "the file's digest is not that of its attributes and datasets")
    except MemoryError as error:
        raise Refused("corrupt", "asks for more memory than a file of this size needs", at) from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        errno = re.search(r"errno = ([1-9]\d*)", str(error))
        raise Refused("io" if errno else "corrupt", f"can't be read ({error})", at) from error
    return {
        "root": root,
        "datasets": {
            path: [one.type, one.shape, contents[path], one.unit, one.description, one.metric == "1"]
            for path, one in found.items()
        },
    }


def read(dataset: Any, found: Found) -> str:
    """Reads the whole dataset; its digest, which is what it says of itself where it does (each reader then compares what it shows)."""
    digest = ContentDigest()
    for values in pieces(dataset):
        if found.content is None:
            digest.add(values)
    return found.content if found.content is not None else digest.hexdigest()


# The child -------------------------------------------------------------------------------------------------------------


def set_limits(size: int) -> None:
    """Limits of this process: memory and processor time in proportion to the file's size, no core file."""
    try:
        import resource
    except ImportError:  # not on this system; the time on the wall still ends the check
        return

    def lower(which: int, wanted: int) -> None:
        _, hard = resource.getrlimit(which)
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (limit, limit))

    used = MEMORY_BYTES
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        pass
    lower(resource.RLIMIT_AS, used + MEMORY_BYTES + MEMORY_PER_BYTE * size)
    lower(resource.RLIMIT_CPU, int(CPU_SECONDS + size / CPU_BYTES_PER_SECOND))
    lower(resource.RLIMIT_CORE, 0)


def child(path: str, expected: str, newest: int) -> None:
    """What the child does: says that it has begun, checks, and writes one JSON object."""
    print("begun", flush=True)
    set_limits(os.stat(path).st_size)
    try:
        answer = check_here(path, expected, newest)
    except Refused as refused:
        answer = {"refused": [refused.kind, refused.what, refused.dataset]}
    except MemoryError:
        answer = {"refused": ["corrupt", "asks for more memory than a file of this size needs", ""]}
    print(json.dumps(answer), flush=True)


#: The child takes the search path of this process: it must find the same h5py and never look into the current folder.
CHILD = """
import json, sys
file, search, *arguments = json.loads(sys.argv[1])
sys.path[:] = search
import runpy
runpy.run_path(file, run_name="checked")["child"](*arguments)
"""

_known: dict[tuple[str, int, int, int, int], Checked] = {}


def check(path: Path, expected: str, newest: int) -> Checked:
    """Checks the file in a child process; once for a file that has not changed since. Raises `Refused`.

    Only regular files are opened. Afterwards the opener compares `device` and `inode` with the file that it has open.
    """
    size, modified, device, inode = _regular(path)
    key = (os.fspath(path.absolute()), device, inode, size, modified)
    if key not in _known:
        answer = _ask_child(path, size, expected, newest)
        if "refused" in answer:
            raise Refused(*answer["refused"])
        if _regular(path) != (size, modified, device, inode):
            raise Refused("io", "changed while it was checked")
        datasets = {
            name: Stored(kind, tuple(shape), *others) for name, (kind, shape, *others) in answer["datasets"].items()
        }
        _known[key] = Checked(answer["root"], datasets, device, inode)
    return _known[key]


def _regular(path: Path) -> tuple[int, int, int, int]:
    """Size, time of the last change in nanoseconds, device and inode; refuses what is no regular file with HDF5's signature."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a device may already do something
            raise Refused("foreign", "is no regular file")
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise Refused("io", f"can't be opened ({error.strerror})") from error
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise Refused("foreign", "is no regular file")
        try:
            first = os.read(handle, len(SIGNATURE))
        except OSError as error:
            raise Refused("io", f"can't be read ({error.strerror})") from error
    finally:
        os.close(handle)
    if first != SIGNATURE:
        raise Refused("foreign", "can't be opened as HDF5 (it does not begin as an HDF5 file does)")
    return about.st_size, about.st_mtime_ns, about.st_dev, about.st_ino


def _ask_child(path: Path, size: int, expected: str, newest: int) -> dict[str, Any]:
    if not sys.executable:
        raise Refused(
            "io", "can't be checked: this program does not know its Python interpreter (sys.executable is empty)"
        )
    search = [os.path.abspath(folder) for folder in sys.path if folder]
    arguments = json.dumps([os.path.abspath(__file__), search, os.path.abspath(path), expected, newest])
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "HDF5_PLUGIN_PRELOAD": "::"}
    seconds = WALL_SECONDS + size / WALL_BYTES_PER_SECOND
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", CHILD, arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Refused("corrupt", f"its check had not ended after {seconds:.0f} s, and was stopped") from error
    except OSError as error:
        raise Refused("io", f"can't be checked: no child process could be started ({error.strerror})") from error
    begun, _, text = done.stdout.partition(b"\n")
    if begun != b"begun":
        said = done.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
        raise Refused(
            "io", f"can't be checked: the child process could not start ({said[-1] if said else 'it said nothing'})"
        )
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
        raise Refused("corrupt", f"the process that checked it ended with {how}: its HDF5 metadata are damaged")
    return answer
