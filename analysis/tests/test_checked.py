"""Files that were made to deceive: storage, links, sizes, digests and texts that no sweep of moesweep has are refused, with their place."""

from __future__ import annotations

import glob
import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from results_writer import LIBVER, Trial, changed, put, put_bytes, put_texts, seal, study, text_of, write_sweep

import moesweep
from moesweep.report.cli import main
from moesweep.results import CorruptSweep, NotASweep, UnreadableSweep, checked
from moesweep.results.file import parse_object

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.h5"
    write_sweep(path, study(seeds=1)[:3])
    return path


def read_all(path: Path) -> None:
    """Everything that a reader can ask for."""
    with moesweep.open_sweep(path) as sweep:
        _ = sweep.trials, sweep.steps, sweep.evaluations, sweep.routing, sweep.by_expert()
        for trial in sweep.ids:
            sweep.config(trial).as_dict()
            sweep.provenance(trial)
            sweep.domains(trial)
            sweep.counts(trial)


def refused(path: Path, *words: str) -> None:
    with pytest.raises(CorruptSweep) as caught:
        read_all(path)
    for word in (str(path), *words):
        assert word in str(caught.value), (word, str(caught.value))


# Storage and links ----------------------------------------------------------------------------------------------------


def replace(file: h5py.File, path: str, **options: Any) -> h5py.Dataset:
    """The dataset again, stored otherwise."""
    values, attributes = file[path][()], dict(file[path].attrs)
    del file[path]
    node = file.create_dataset(path, **({"data": values} | options))
    for name, value in attributes.items():
        node.attrs[name] = value
    return node


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=file["metrics/loss"].shape, dtype="f8")
    layout[:] = h5py.VirtualSource(file.filename, "metrics/nmi", shape=layout.shape)
    attributes = dict(file["metrics/loss"].attrs)
    del file["metrics/loss"]
    node = file.create_virtual_dataset("metrics/loss", layout)
    for name, value in attributes.items():
        node.attrs[name] = value


def external(file: h5py.File) -> None:
    replace(file, "trials/reason", external=[("/etc/passwd", 0, 3 * file["trials/reason"].dtype.itemsize)])


def contiguous(file: h5py.File) -> None:
    replace(file, "metrics/loss")


def compact(file: h5py.File) -> None:
    values, attributes = file["metrics/loss"][()], dict(file["metrics/loss"].attrs)
    del file["metrics/loss"]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple(values.shape)
    node = h5py.h5d.create(file["metrics"].id, b"loss", h5py.h5t.IEEE_F64LE, space, properties)
    node.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
    for name, value in attributes.items():
        h5py.Dataset(node).attrs[name] = value


def soft_link(file: h5py.File) -> None:
    del file["metrics/loss"]
    file["metrics/loss"] = h5py.SoftLink("/metrics/causal")


def dangling_link(file: h5py.File) -> None:
    file["metrics/more"] = h5py.SoftLink("/nothing")


def external_link(file: h5py.File) -> None:
    del file["header/resolved"]
    file["header/resolved"] = h5py.ExternalLink("other.h5", "/header/resolved")


def second_hard_link(file: h5py.File) -> None:
    file["metrics/more"] = file["metrics/loss"]


def loop(file: h5py.File) -> None:
    file["arrays/steps/again"] = file["arrays"]


def deep(file: h5py.File) -> None:
    file.create_group("/".join("abcdefghijkl"))


def huge_and_empty(file: h5py.File) -> None:
    shape = (1 << 33,)
    replace(file, "arrays/steps/loss/data", data=None, shape=shape, dtype="f8", chunks=(1 << 20,), fletcher32=True)


def huge_chunk(file: h5py.File) -> None:
    """One chunk of 2 GB, of which 100 bytes are stored."""
    node = replace(
        file,
        "texts/config/data",
        data=None,
        shape=(1 << 31,),
        dtype="u1",
        chunks=(1 << 31,),
        compression=1,
        fletcher32=True,
    )
    node.id.write_direct_chunk((0,), bytes(100))


def overflowing(file: h5py.File) -> None:
    """2^62 elements of 8 bytes are 2^65 bytes, which is 0 in 64 bits."""
    shape = (1 << 31, 1 << 31)
    replace(
        file, "arrays/steps/loss/shapes", data=None, shape=shape, dtype="i8", chunks=(1 << 12, 1 << 12), fletcher32=True
    )


def without_checksum(file: h5py.File) -> None:
    replace(file, "metrics/loss", chunks=(3,))


def shuffled(file: h5py.File) -> None:
    replace(file, "metrics/loss", chunks=(3,), shuffle=True, fletcher32=True)


def missing_chunk(file: h5py.File) -> None:
    node = replace(file, "metrics/loss", data=None, shape=(3,), dtype="f8", chunks=(1,), fletcher32=True)
    node[0] = 1.0


def texts_of_any_length(file: h5py.File) -> None:
    replace(
        file,
        "trials/reason",
        data=["a", "b", "c"],
        dtype=h5py.string_dtype(),
        chunks=(3,),
        maxshape=(None,),
        fletcher32=False,
    )


def compound(file: h5py.File) -> None:
    replace(file, "metrics/loss", data=np.zeros(3, dtype=[("a", "f8"), ("b", "i4")]), chunks=(3,), fletcher32=True)


def big_endian(file: h5py.File) -> None:
    replace(file, "metrics/loss", data=np.zeros(3, dtype=">f8"), chunks=(3,), fletcher32=True)


def named_type(file: h5py.File) -> None:
    file["metrics/more"] = np.dtype("f8")


def scalar(file: h5py.File) -> None:
    replace(file, "metrics/loss", data=1.0)


def name_not_utf8(file: h5py.File) -> None:
    h5py.h5g.create(file["metrics"].id, b"lo\xffss")


ATTACKS: dict[Callable[[h5py.File], None], tuple[str, str]] = {
    virtual: ("metrics/loss", "virtual storage"),
    external: ("trials/reason", "storage where chunks should be"),
    contiguous: ("metrics/loss", "contiguous storage"),
    compact: ("metrics/loss", "compact storage"),
    soft_link: ("metrics/loss", "is a link"),
    dangling_link: ("metrics/more", "is a link"),
    external_link: ("header/resolved", "is a link"),
    second_hard_link: ("metrics/", "more than one hard link"),
    loop: ("arrays", "more than one hard link"),
    deep: ("a/b/c/d/e/f/g/h", "deeper than 8 groups"),
    huge_and_empty: ("arrays/steps/loss/data", "has 0 chunks where its shape [8589934592] needs 8192"),
    huge_chunk: ("texts/config/data", "what it stores makes at most"),
    overflowing: ("arrays/steps/loss/shapes", "has 0 chunks"),
    without_checksum: ("metrics/loss", "filters"),
    shuffled: ("metrics/loss", "filters"),
    missing_chunk: ("metrics/loss", "has 1 chunks where its shape [3] needs 3"),
    texts_of_any_length: ("trials/reason", "a type that no moesweep file has"),
    compound: ("metrics/loss", "a type that no moesweep file has"),
    big_endian: ("metrics/loss", "a type that no moesweep file has"),
    named_type: ("metrics/more", "neither a group nor a dataset"),
    scalar: ("metrics/loss", "has no dimension"),
    name_not_utf8: ("metrics/lo\\xffss", "not UTF-8"),
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_storage_that_no_file_of_ours_has(sweep_file: Path, attack: Callable[[h5py.File], None]) -> None:
    with h5py.File(sweep_file, "a", libver=LIBVER) as file:
        attack(file)
    refused(sweep_file, *ATTACKS[attack])


def test_datasets_that_store_more_than_the_file_has(sweep_file: Path) -> None:
    """As when the indices of two datasets name the same chunks."""
    with h5py.File(sweep_file) as file:
        stored = sum(file[f"arrays/steps/{name}/data"].id.get_storage_size() for name in ("loss", "seconds"))
        assert checked.walk(file.id, sweep_file.stat().st_size)
        with pytest.raises(checked.Refused, match="store more bytes than the file has"):
            checked.walk(file.id, stored)


# Digests --------------------------------------------------------------------------------------------------------------


def test_content_of_what_is_shown_is_checked(sweep_file: Path) -> None:
    with h5py.File(sweep_file, "a", libver=LIBVER) as file:
        file["metrics/loss"][1] += 1e-9
    with (
        moesweep.open_sweep(sweep_file) as sweep,
        pytest.raises(CorruptSweep, match="metrics/loss does not have the content"),
    ):
        _ = sweep.trials


@pytest.mark.parametrize("lazy_bytes", [0, 1 << 26])
def test_content_of_an_array_read_in_part_is_checked(
    sweep_file: Path, lazy_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(sweep_file, "a", libver=LIBVER) as file:
        file["arrays/evaluations/counts/data"][-1] += 1
    monkeypatch.setattr("moesweep.results.file.LAZY_BYTES", lazy_bytes)
    with (
        moesweep.open_sweep(sweep_file) as sweep,
        pytest.raises(CorruptSweep, match="arrays/evaluations/counts/data does not have the content"),
    ):
        sweep.counts(sweep.ids[0])


def test_the_file_s_digest_is_checked_from_the_attributes(sweep_file: Path) -> None:
    with h5py.File(sweep_file, "a", libver=LIBVER) as file:
        file["metrics/loss"].attrs["unit"] = np.bytes_("bit")
    refused(sweep_file, "the file's digest is not that of its attributes and datasets")


def test_earlier_files_are_checked_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "sweep.h5"
    write_sweep(path, study(seeds=1)[:3], content=False)
    read_all(path)
    with moesweep.open_sweep(path) as sweep:
        assert list(sweep.trials["warnings"]) == [""] * 3
    with h5py.File(path, "a", libver=LIBVER) as file:
        file["metrics/loss"][1] += 1e-9
    refused(path, "the file's digest")


def test_content_of_some_datasets_only(sweep_file: Path) -> None:
    with h5py.File(sweep_file, "a", libver=LIBVER) as file:
        del file["metrics/loss"].attrs["content"]
    refused(sweep_file, "metrics/loss has no attribute `content`")


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_content_is_the_digest_of_blocks(size: int) -> None:
    import hashlib

    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    blocks = [data[first : first + (1 << 20)].tobytes() for first in range(0, size, 1 << 20)]
    expected = hashlib.sha256("".join(hashlib.sha256(block).hexdigest() for block in blocks).encode()).hexdigest()
    assert checked.content_of(data) == expected
    digest = checked.ContentDigest()
    for first in range(0, size, 700_001):
        digest.add(data[first : first + 700_001])
    assert digest.hexdigest() == expected


# What the numbers and texts say ---------------------------------------------------------------------------------------


def numbers(file: h5py.File, path: str, values: Any, dtype: str) -> None:
    del file[path]
    put(file, path, np.array(values, dtype=dtype))


def texts(file: h5py.File, path: str, values: list[bytes]) -> None:
    del file[path]
    put(file, path, np.array(values, dtype=f"S{max(len(v) for v in values) or 1}"))


def json_text(file: h5py.File, kind: str, row: int, text: bytes) -> None:
    offsets, data = file[f"texts/{kind}/offsets"][()], file[f"texts/{kind}/data"][()].tobytes()
    parts = [data[a:b] for a, b in pairwise(offsets)]
    parts[row] = text
    numbers(file, f"texts/{kind}/offsets", np.cumsum([0, *map(len, parts)]), "i8")
    numbers(file, f"texts/{kind}/data", np.frombuffer(b"".join(parts), dtype=np.uint8), "u1")


IDS = [b"0123456789abcdef", b"1123456789abcdef", b"2123456789abcdef"]
DATA, OFFSETS, SHAPES = (f"arrays/evaluations/counts/{part}" for part in ("data", "offsets", "shapes"))
MEANINGS: dict[str, tuple[Callable[[h5py.File], None], tuple[str, ...]]] = {
    "an id twice": (lambda f: texts(f, "trials/id", [IDS[0], IDS[0], IDS[1]]), ("trials/id", "twice")),
    "ids out of order": (lambda f: texts(f, "trials/id", IDS[::-1]), ("trials/id", "order")),
    "an empty id": (lambda f: texts(f, "trials/id", [b"", *IDS[1:]]), ("trials/id", "row 0")),
    "an id with an escape": (lambda f: texts(f, "trials/id", [IDS[0], b"1\x1b[2J", IDS[2]]), ("trials/id", "row 1")),
    "an id not UTF-8": (lambda f: texts(f, "trials/id", [IDS[0], b"1\xff", IDS[2]]), ("trials/id", "row 1", "UTF-8")),
    "ids as numbers": (lambda f: numbers(f, "trials/id", [1, 2, 3], "i8"), ("trials/id", "the type i64")),
    "states as numbers": (lambda f: numbers(f, "trials/state", [0, 1, 0], "i8"), ("trials/state", "the type i64")),
    "an unknown state": (lambda f: texts(f, "trials/state", [b"done", b"fine", b"done"]), ("trials/state", "'fine'")),
    "a state not UTF-8": (lambda f: texts(f, "trials/state", [b"done", b"d\xc3", b"done"]), ("trials/state", "row 1")),
    "one state too few": (lambda f: texts(f, "trials/state", [b"done", b"done"]), ("trials/state", "another length")),
    "a reason with a zero byte": (lambda f: texts(f, "trials/reason", [b"", b"a\0b", b""]), ("trials/reason", "row 1")),
    "warnings of no words": (lambda f: texts(f, "trials/warnings", [b"", b"<b>!", b""]), ("trials/warnings", "<b>!")),
    "one warning too few": (lambda f: texts(f, "trials/warnings", [b"", b""]), ("trials/warnings", "2 values for 3")),
    "warnings as numbers": (lambda f: numbers(f, "trials/warnings", [0, 1, 0], "i8"), ("trials/warnings", "i64")),
    "an axis named id": (lambda f: put_texts(f, "axes/id", ["a", "b", "c"]), ("axes/id", "another column")),
    "a metric named as an axis": (lambda f: put(f, "metrics/seed", np.zeros(3)), ("metrics/seed", "another column")),
    "a metric of integers": (lambda f: numbers(f, "metrics/loss", [1, 2, 3], "i8"), ("metrics/loss", "the type i64")),
    "a metric of two columns": (lambda f: numbers(f, "metrics/loss", [[1.0]] * 3, "f8"), ("metrics/loss", "[3, 1]")),
    "two metrics of one last name": (lambda f: twice(f), ("loss", "gives the metric loss, and so does")),
    "a group for a dataset": (lambda f: put(f, "trials/reason/x", np.zeros(3)) if f.pop("trials/reason") else None,
                              ("trials/reason", "is a group")),
    "offsets beyond the end": (lambda f: numbers(f, OFFSETS, [0, 1, 2, 1 << 62], "i8"), (OFFSETS, "does not cut")),
    "offsets that go back": (lambda f: numbers(f, OFFSETS, [0, 1 << 62, -(1 << 62), len(f[DATA])], "i8"), (OFFSETS, "cut")),
    "negative offsets": (lambda f: numbers(f, OFFSETS, [0, -8, 8, len(f[DATA])], "i8"), (OFFSETS, "does not cut")),
    "offsets as floats": (lambda f: numbers(f, OFFSETS, f[OFFSETS][()], "f8"), (OFFSETS, "the type f64")),
    "too few offsets": (lambda f: numbers(f, OFFSETS, [0, len(f[DATA])], "i8"), (OFFSETS, "shape [2]")),
    "shapes whose product overflows": (lambda f: overflow(f), (SHAPES, "no array can have")),
    "negative dimensions": (lambda f: numbers(f, SHAPES, -f[SHAPES][()], "i8"), (SHAPES, "no array can have")),
    "shapes of three dimensions": (lambda f: numbers(f, SHAPES, [[4, 2, 256]] * 3, "i8"), (SHAPES, "3 dimensions where 4")),
    "negative counts": (lambda f: numbers(f, DATA, -f[DATA][()], "i8"), (DATA, "negative counts")),
    "steps as floats": (lambda f: numbers(f, "arrays/steps/step/data", f["arrays/steps/step/data"][()], "f8"),
                        ("arrays/steps/step/data", "whole numbers")),
    "a config not UTF-8": (lambda f: json_text(f, "config", 1, b'{"a": "\xff"}'), ("texts/config/data", "row 1")),
    "a config of half a surrogate": (lambda f: json_text(f, "config", 2, b'{"a": "\\ud800"}'), ("row 2", "surrogate")),
    "a config too deep": (lambda f: json_text(f, "config", 0, b'{"a":' * 101 + b"1" + b"}" * 101), ("row 0", "100 levels")),
    "a provenance far too deep": (lambda f: json_text(f, "provenance", 0, b"[" * 100_000 + b"]" * 100_000),
                                  ("texts/provenance/data", "row 0", "100 levels")),
    "a config that is a list": (lambda f: json_text(f, "config", 0, b"[1]"), ("row 0", "no object")),
    "a config with NaN": (lambda f: json_text(f, "config", 0, b'{"a": NaN}'), ("row 0", "NaN")),
    "a header that is no JSON": (lambda f: put_bytes(f, "header/resolved", "{") if f.pop("header/resolved") else None,
                                 ("header/resolved", "no valid JSON")),
    "a name not UTF-8": (lambda f: numbers(f, "header/name", list(b"a\xff"), "u1"), ("header/name", "UTF-8")),
}  # fmt: skip


def twice(file: h5py.File) -> None:
    for part in ("data", "offsets", "shapes"):
        source = file[f"arrays/evaluations/loss/{part}"]
        extra = {"metric": 1} if part == "data" else {}
        put(file, f"arrays/summary/loss/{part}", source[()], **extra)


def overflow(file: h5py.File) -> None:
    """4 times 2^62 is 2^64, which is 0 in 64 bits; each of the others has its elements."""
    shapes = file[SHAPES][()]
    offsets = file[OFFSETS][()]
    offsets[1] = 0
    shapes[0] = (4, 1 << 62, 1, 1)
    numbers(file, OFFSETS, offsets, "i8")
    numbers(file, SHAPES, shapes, "i8")


@pytest.mark.parametrize("meaning", MEANINGS)
def test_meanings_that_no_aggregate_has(sweep_file: Path, meaning: str) -> None:
    """Every digest is right: only what the file says is wrong."""
    attack, words = MEANINGS[meaning]
    with changed(sweep_file) as file:
        attack(file)
    refused(sweep_file, *words)


def test_version_zero_is_no_version(tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep.h5", [], version=0)
    refused(tmp_path / "sweep.h5", "`version`")


def test_json_as_deep_as_a_config_may_be() -> None:
    text = b'{"a":' * 100 + b"1" + b"}" * 100
    assert parse_object(text)
    assert parse_object(b'{"\\u00e9": "\\ud83d\\ude00"}') == {"é": "😀"}


# The child process ----------------------------------------------------------------------------------------------------


def with_child(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """The child runs this code where it would check the file, with the limits that it always has."""
    head = "import json, sys\nfile, search, *arguments = json.loads(sys.argv[1])\nsys.path[:] = search\nimport os, runpy, signal\n"
    limits = 'print("begun", flush=True)\nrunpy.run_path(file, run_name="checked")["set_limits"](os.stat(arguments[0]).st_size)\n'
    monkeypatch.setattr(checked, "CHILD", head + limits + code)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended with signal 11"),
        ("os.abort()", "ended with signal 6"),
        ("bytearray(32 << 30)", "ended with code 1"),
        ("os._exit(0)", "ended with code 0"),
    ],
)
def test_death_of_the_child_is_a_damaged_file(
    sweep_file: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    with_child(monkeypatch, code)
    refused(sweep_file, words)
    assert not list(sweep_file.parent.glob("core*"))


def test_a_check_that_does_not_end(sweep_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_child(monkeypatch, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass")
    monkeypatch.setattr(checked, "WALL_SECONDS", 3)
    refused(sweep_file, "had not ended after 3 s")


def test_the_child_has_limits(sweep_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import resource\nprint(json.dumps({'refused': ['io', str([resource.getrlimit(r)[0] for r in (4, 0, 9)]), '']}))"
    with_child(monkeypatch, code)
    with pytest.raises(UnreadableSweep) as caught:
        moesweep.open_sweep(sweep_file)
    core, cpu, memory = (int(n) for n in re.findall(r"\d+", str(caught.value).split("[")[1].split("]")[0]))
    assert core == 0
    assert 0 < cpu < 100
    assert 0 < memory < 8 << 30


def test_a_child_that_can_t_start_says_nothing_of_the_file(sweep_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked, "CHILD", "import no_such_module")
    with pytest.raises(UnreadableSweep, match="no_such_module"):
        moesweep.open_sweep(sweep_file)
    assert main(["html", str(sweep_file)]) == 4


def test_a_file_is_checked_once_until_it_changes(sweep_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    run = subprocess.run

    def counted(*arguments: Any, **options: Any) -> Any:
        started.append(1)
        return run(*arguments, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    for _ in range(3):
        moesweep.open_sweep(sweep_file).close()
    assert len(started) == 1
    os.utime(sweep_file, ns=(1, 1))
    moesweep.open_sweep(sweep_file).close()
    assert len(started) == 2


def test_the_child_does_not_look_into_the_current_folder(
    sweep_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "h5py.py").write_text("import os; os._exit(7)")
    (tmp_path / "numpy.py").write_text("import os; os._exit(7)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    moesweep.open_sweep(sweep_file).close()


def test_only_regular_files_are_opened(sweep_file: Path, tmp_path: Path) -> None:
    """A FIFO without a writer would hang."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(NotASweep, match="no regular file"):
            moesweep.open_sweep(path)
    (tmp_path / "link.h5").symlink_to(sweep_file)
    moesweep.open_sweep(tmp_path / "link.h5").close()


@pytest.mark.skipif(os.geteuid() == 0, reason="skipped: root may read any file")
def test_a_file_without_permission_may_be_sound(sweep_file: Path) -> None:
    sweep_file.chmod(0)
    with pytest.raises(UnreadableSweep, match="can't be opened"):
        moesweep.open_sweep(sweep_file)
    assert main(["html", str(sweep_file)]) == 4


def test_a_disk_that_fails_says_nothing_of_the_file(sweep_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", failing)
    with pytest.raises(UnreadableSweep, match="Input/output error"):
        moesweep.open_sweep(sweep_file)


# Files for HDF5 1.10 --------------------------------------------------------------------------------------------------

#: Reads every dataset named in its arguments through the C library: the sum of its bytes as numbers of 8 bytes.
READER = """
import ctypes, sys
h = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
for name in ("H5Fopen", "H5Dopen2", "H5Dget_space", "H5Dget_type"): getattr(h, name).restype = ctypes.c_int64
h.H5open()
version = [ctypes.c_uint() for _ in range(3)]
h.H5get_libversion(*map(ctypes.byref, version))
file = h.H5Fopen(sys.argv[2].encode(), 0, ctypes.c_int64(0))
assert file >= 0, "can't be opened"
for name in sys.argv[3:]:
    node = h.H5Dopen2(ctypes.c_int64(file), name.encode(), ctypes.c_int64(0))
    assert node >= 0, name
    size = 1 << 20
    data = ctypes.create_string_buffer(size)
    kind = h.H5Dget_type(ctypes.c_int64(node))
    assert h.H5Dread(ctypes.c_int64(node), ctypes.c_int64(kind), ctypes.c_int64(0), ctypes.c_int64(0), ctypes.c_int64(0), data) >= 0, name
    print(name, sum(data.raw))
print("HDF5", ".".join(str(v.value) for v in version))
"""


def old_library() -> str | None:
    """HDF5 1.10 of the system."""
    found = sorted(glob.glob("/usr/lib/*/libhdf5*.so.103*")) + sorted(glob.glob("/usr/lib*/libhdf5*.so.103*"))
    return next((path for path in found if re.search(r"libhdf5(_serial|_openmpi|_mpich)?\.so", path)), None)


def test_hdf5_1_10_reads_what_we_write(sweep_file: Path) -> None:
    library = old_library()
    if library is None:
        print("skipped: no HDF5 1.10 on this machine")
        pytest.skip("skipped: no HDF5 1.10 on this machine")
    names = ["metrics/loss", "trials/id", "arrays/steps/drop_rate/shapes"]
    done = subprocess.run(
        [sys.executable, "-c", READER, library, sweep_file, *names],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "HDF5 1.10" in done.stdout
    with h5py.File(sweep_file) as file:
        for name in names:
            assert f"{name} {sum(file[name][()].tobytes())}" in done.stdout
    # What `latest` means to HDF5 2 is what 1.10 can't read.
    if h5py.version.hdf5_version_tuple >= (2, 0, 0):
        with h5py.File(sweep_file.with_name("latest.h5"), "w", libver="latest") as file:
            put(file, "a", np.arange(9))
        command = [sys.executable, "-c", READER, library, sweep_file.with_name("latest.h5"), "a"]
        assert subprocess.run(command, capture_output=True, timeout=100, check=False).returncode != 0


def test_the_program_takes_what_we_write_for_sound(sweep_file: Path) -> None:
    program = ROOT / "build" / "release" / "moesweep"
    if not program.exists():
        print(f"skipped: {program} is not built")
        pytest.skip(f"skipped: {program} is not built")
    done = subprocess.run([program, "verify", sweep_file], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


def test_every_writer_of_ours_asks_for_1_10() -> None:
    """Each h5py.File that is opened to write names LIBVER, or ('v110', 'v110') itself."""
    call = re.compile(r"h5py\.File\((?:[^()]|\([^()]*\))*\)")
    wrong = []
    for folder in ("analysis", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            for found in call.findall(path.read_text(encoding="utf-8")):
                writes = re.search(r"""["'](w|a|r\+|w-|x)["']""", found)
                told = re.search(r"libver=(forge\.)?LIBVER", found) or 'libver=("v110", "v110")' in found
                shown = path.name == "test_checked.py" and "latest.h5" in found  # what goes wrong without it
                if writes and not told and not shown:
                    wrong.append(f"{path}: {found}")
    assert wrong == []


def test_the_writer_s_digest_is_that_of_the_reference(sweep_file: Path) -> None:
    """tests/store/reference.py reads FORMAT.md on its own."""
    sys.path.insert(0, str(ROOT / "tests" / "store"))
    try:
        import reference
    finally:
        sys.path.pop(0)
    with h5py.File(sweep_file) as file:
        assert reference.digest(file) == text_of(file.attrs["digest"])
    with h5py.File(sweep_file, "a", libver=LIBVER) as file:
        seal(file, content=False)
        assert reference.digest(file) == text_of(file.attrs["digest"])


def test_trials_without_a_name_or_a_number(tmp_path: Path) -> None:
    """No trial, no axis, no metric, no array: a sound file."""
    write_sweep(tmp_path / "none.h5", [])
    read_all(tmp_path / "none.h5")
    write_sweep(tmp_path / "bare.h5", [Trial("0" * 16, "pending")])
    read_all(tmp_path / "bare.h5")
