"""Files made to harm `moesweep-data`: each is an error with a place and the right exit code, in bounded memory, never a traceback."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import random
import re
import resource
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import write_config
from hypothesis import given, settings
from hypothesis import strategies as st

from moesweep.data import debian, sources, store, strict_json, tokenizer, unpack
from moesweep.data.cli import main
from moesweep.data.config import load_config
from moesweep.data.errors import DataToolError

LONG = "A sentence that is long enough to stay."
MIB = 1 << 20


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOESWEEP_DATA", str(tmp_path / "data"))
    return tmp_path


def build(config: Path, *options: str) -> int:
    return main(["build", str(config), "--quiet", *options])


def good(number: int) -> bytes:
    return json.dumps({"text": f"Document number {number}.", "id": number}).encode() + b"\n"


GOOD = b"".join(good(number) for number in range(40))


def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small limits, so that a test needs no large file."""
    for name, value in {"LINE_BYTES": 20000, "FILE_BYTES": 200000, "RATIO_FROM_BYTES": 40000, "RATIO": 50}.items():
        monkeypatch.setattr(unpack, name, value)


PADDING = "".join(random.Random(0).choices("abcdefghij klm\n", k=300000)).encode()

TEXTS: list[tuple[str, bytes, int, str]] = [
    ("a.jsonl", GOOD + b'{"text": "\\ud800"}\n', 7, "a.jsonl:41: field `text` holds half of a surrogate pair"),
    ("a.jsonl", GOOD + b'{"text": "x \\udfff y"}\n', 7, "a.jsonl:41: field `text` holds half of a surrogate pair"),
    ("a.jsonl", GOOD + b'{"text": "x", "key": "\\ud800"}\n', 7, "a.jsonl:41: its key or id holds half of a surrogate"),
    ("a.jsonl", GOOD + b"[" * 10000 + b"\n", 7, "a.jsonl:41:65: no JSON: nested deeper than 64"),
    ("a.jsonl", GOOD + b'{"text": "x", "a": ' + b'{"a":' * 2000 + b"\n", 7, "no JSON: nested deeper than 64"),
    ("a.jsonl", GOOD + b'{"text": "' + b"x" * 30000 + b'"}\n', 7, "a.jsonl:41: a line of more than 19.5 KiB"),
    ("a.jsonl", b"x" * 30000, 7, "a.jsonl:1: a line of more than 19.5 KiB"),
    ("a.jsonl", GOOD + b'{"text": "x", "n": ' + b"9" * 10000 + b"}\n", 7, "a.jsonl:41:1: no JSON: a number has 10,000"),
    ("a.jsonl", GOOD + b'{"text": "\xff"}\n', 7, "a.jsonl:41: is not UTF-8 text"),
    ("a.jsonl", GOOD + b'{"text": "x\n', 7, "a.jsonl:41:10: no JSON"),
    ("a.jsonl", GOOD + b'{"text": "x" "\x1b[31m"}', 7, "a.jsonl:41:14: no JSON"),
    ("a.txt", PADDING[:10000] + b"\n\xc3\x28", 7, ": is not UTF-8 text"),
    ("a.txt", b"one\n\n" + b"x\n" * 15000, 7, "a.txt:3: a paragraph of more than 19.5 KiB begins here"),
    ("a.txt", PADDING, 7, "a.txt: holds more than 195 KiB of text"),
    ("a.txt.gz", gzip.compress(PADDING), 7, "a.txt.gz: holds more than 195 KiB of text"),
    ("a.txt.gz", gzip.compress(b"x\n\n" * 30000), 7, "a.txt.gz: unpacks to more than 50 times its size"),
    ("a.jsonl.gz", gzip.compress(GOOD + b"\0" * 30000), 7, "a.jsonl.gz:41: a line of more than 19.5 KiB"),
    ("a.jsonl.gz", gzip.compress(GOOD)[:-9], 5, "a.jsonl.gz: is no whole gzip file"),
    ("a.jsonl.gz", gzip.compress(GOOD)[:60] + b"\xff" * 80, 5, "a.jsonl.gz: is no whole gzip file"),
    ("a.jsonl.gz", gzip.compress(GOOD)[:-8] + b"\0" * 8, 5, "a.jsonl.gz: is no whole gzip file"),
    ("a.jsonl.gz", gzip.compress(GOOD) + b"more", 5, "a.jsonl.gz: is no whole gzip file"),
    ("a.jsonl.gz", gzip.compress(GOOD + b"[" * 100), 7, "a.jsonl.gz:41:65: no JSON: nested deeper than 64"),
]


@pytest.mark.parametrize("given_as", ["file", "folder"])
@pytest.mark.parametrize(("name", "data", "code", "message"), TEXTS)
def test_hostile_text(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given_as: str,
    name: str,
    data: bytes,
    code: int,
    message: str,
) -> None:
    limited(monkeypatch)
    (folder / "texts").mkdir()
    (folder / "texts" / name).write_bytes(data)
    source = f"texts/{name}" if given_as == "file" else "texts"
    assert build(write_config(folder, ["en"], [source])) == code
    error = capsys.readouterr().err
    assert str(folder / "texts") in error and message in error and "\x1b" not in error
    assert not (folder / "data" / "made").exists()


def special(kind: str, path: Path) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "dangling":
        path.symlink_to(path.parent / "none")


@pytest.mark.parametrize("given", ["texts", "texts/x.txt", "texts/*.txt", "npy:texts/x.txt", "megatron:texts/m"])
@pytest.mark.parametrize("kind", ["fifo", "device", "dangling"])
def test_sources_are_regular_files(folder: Path, capsys: pytest.CaptureFixture[str], kind: str, given: str) -> None:
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("some text")
    for name in ("x.txt", "m.idx", "m.bin"):
        special(kind, folder / "texts" / name)
    code = build(write_config(folder, ["en"], [given]))
    error = capsys.readouterr().err
    if kind == "dangling":
        assert code == 4 and "cannot read: No such file or directory" in error
    else:
        assert code == 7 and "only regular files are read" in error


@pytest.mark.parametrize("name", [b"a\xff.txt", b"a\nb.txt", b"a\x1b[31m.txt"])
def test_file_names_that_no_list_can_hold(folder: Path, capfd: pytest.CaptureFixture[str], name: bytes) -> None:
    (folder / "texts").mkdir()
    Path(os.fsdecode(os.fsencode(folder / "texts") + b"/" + name)).write_text("some text")
    assert build(write_config(folder, ["en"], ["texts"])) == 7
    error = capfd.readouterr().err
    assert "not UTF-8 or holds a control character" in error and "\x1b" not in error
    assert error.count("\n") == 2


def test_a_folder_that_cannot_be_listed_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "texts" / "sub").mkdir(parents=True)
    (folder / "texts" / "a.txt").write_text("some text")
    scan = os.scandir

    def refused(path: Any = ".") -> Any:
        if os.fspath(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert build(write_config(folder, ["en"], ["texts"])) == 4
    assert "texts/sub: cannot be listed: Permission denied" in capsys.readouterr().err


def cut_as_before(name: str, text: str) -> list[tuple[str, str]]:
    """The documents of a .txt file by their definition, on the whole text at once."""
    text = text.removeprefix("\ufeff").replace("\x00", "")
    if len(text.encode()) <= 8192:
        return [(name, text.strip())] if text.strip() else []
    documents: list[tuple[str, str]] = []
    part: list[str] = []
    for paragraph in re.split(r"\n[ \t\r]*\n\s*", text):
        if paragraph.strip():
            part.append(paragraph.strip())
            if sum(len(p.encode()) for p in part) >= 4096:
                documents.append((f"{name}#{len(documents)}", "\n\n".join(part)))
                part = []
    return documents + ([(f"{name}#{len(documents)}", "\n\n".join(part))] if part else [])


@given(st.lists(st.sampled_from([*"ab \n\n\n\t\r\x00\u3000\x0b\u2028é", "x" * 700, "語" * 400, "\n \n"]), max_size=120))
@settings(deadline=None, max_examples=300)
def test_text_read_as_a_stream_gives_the_documents_of_the_whole(parts: list[str]) -> None:
    for text in ("".join(parts), "\ufeff" + "".join(parts)):
        assert list(sources.documents_of_file("a.txt", text.encode(), "text")) == cut_as_before("a.txt", text)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_lines_do_not_depend_on_the_pieces(data: bytes, size: int) -> None:
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert [line for _, line in unpack.lines(pieces, "a")] == data.split(b"\n")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab[]{},"\\\n', max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='[{"\\', max_size=4), inner, max_size=3)
    ),
)


@given(JSON, st.integers(0, 2))
def test_json_depth_is_counted_outside_texts(value: Any, extra: int) -> None:
    def depth(item: Any) -> int:
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    wanted = strict_json.DEPTH - depth(value) + extra
    text = "[" * wanted + json.dumps(value) + "]" * wanted
    if extra:
        with pytest.raises(strict_json.JsonError, match="nested deeper than 64"):
            strict_json.parse(text)
    else:
        inner = strict_json.parse(text)
        for _ in range(wanted):
            (inner,) = inner
        assert inner == value


def test_json_of_too_many_values() -> None:
    assert strict_json.parse("[" + "0," * 900_000 + "0]")[0] == 0
    assert strict_json.parse('["' + "," * 2_000_000 + '"]') == ["," * 2_000_000]
    with pytest.raises(strict_json.JsonError, match="more than 1,000,000 values"):
        strict_json.parse("[" + "0," * 1_100_000 + "0]")


def test_text_in_all_is_bounded_by_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack.Budget.__init__, "__defaults__", (5000,))
    (folder / "a.jsonl").write_bytes(GOOD)
    config = load_config(write_config(folder, ["en"], ["a.jsonl"]))
    with pytest.raises(DataToolError, match="all text together needs more than 4.88 KiB"):
        sources.read_text_files(sources.parse(config)[0], config, "text")


MEASURED = """
import resource, sys
from moesweep.data import unpack
from moesweep.data.cli import main
unpack.FILE_BYTES = int(sys.argv[2])
code = main(["build", sys.argv[1], "--quiet"])
print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def measured(config: Path, file_bytes: int = 4 << 30) -> tuple[int, int, str]:
    """(exit code, peak memory in MiB, standard error) of a build in its own process, which may take 2 GiB of addresses."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2048 * MIB, 2048 * MIB))

    run = subprocess.run(
        [sys.executable, "-c", MEASURED, str(config), str(file_bytes)],
        capture_output=True,
        text=True,
        timeout=200,
        preexec_fn=limit,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    code, peak = run.stdout.split()[-2:]
    return int(code), int(peak), run.stderr


def bomb(path: Path, size: int) -> None:
    with gzip.open(path, "wb") as file:
        for _ in range(size // MIB):
            file.write(b"x" * (MIB - 2) + b"\n\n")


def endless(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.txt.gz", lambda path: bomb(path, 1024 * MIB), "unpacks to more than 256 times its size"),
        ("a.txt", lambda path: endless(path, 3 << 30), "a.txt:1: a line of more than 64 MiB"),
        ("a.jsonl", lambda path: endless(path, 3 << 30), "a.jsonl:1: a line of more than 64 MiB"),
        ("a.jsonl", lambda path: path.write_bytes(b"[" * (60 * MIB)), "a.jsonl:1:65: no JSON: nested deeper than 64"),
        ("a.jsonl", lambda path: path.write_bytes(b"[" + b"[]," * (15 * MIB)), "more than 1,000,000 values"),
    ],
)
def test_memory_stays_bounded(folder: Path, name: str, make: Callable[[Path], object], message: str) -> None:
    make(folder / name)
    code, peak, error = measured(write_config(folder, ["en"], [name]))
    assert code == 7 and message in error and "Traceback" not in error
    assert peak < 600


def packed(members: list[tuple[tarfile.TarInfo, bytes]], raw: bytes = b"") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for member, data in members:
            archive.addfile(member, io.BytesIO(data) if data else None)
    return raw + file.getvalue()


def member(name: str, data: bytes, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(f"./{name}")
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def deb_of(path: Path, data: bytes, name: str = "data.tar.xz", declared: int | None = None) -> Path:
    content = b"!<arch>\n"
    for part, payload in (("debian-binary", b"2.0\n"), (name, data)):
        size = len(payload) if declared is None or part == "debian-binary" else declared
        content += (
            f"{part:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{size:<10}`\n".encode() + payload + b"\n" * (len(payload) % 2)
        )
    path.write_bytes(content)
    return path


PAGE = "usr/share/d/a.html"
SOUND = packed([member(PAGE, f"<p>{LONG}</p>".encode())])


def zeros_xz(size: int, before: bytes) -> bytes:
    packer = lzma.LZMACompressor(preset=0)
    return packer.compress(before) + b"".join(packer.compress(bytes(MIB)) for _ in range(size // MIB)) + packer.flush()


DEBS: list[tuple[str, Callable[[], tuple[bytes, str]], int, str]] = [
    ("a file of 8 EiB", lambda: (lzma.compress(header(PAGE, (8 << 60) - 1)), "data.tar.xz"), 7, "larger than 64 MiB"),
    (
        "a file longer than the archive",
        lambda: (lzma.compress(header(PAGE, 50 * MIB)), "data.tar.xz"),
        5,
        "cannot be read",
    ),
    (
        "a bomb before the file",
        lambda: (zeros_xz(256 * MIB, header("x", (256 << 20) - 512)), "data.tar.xz"),
        5,
        "unpacks to more than 200 MiB",
    ),
    (
        "a name of 100 MiB",
        lambda: (zeros_xz(100 * MIB, header("././@LongLink", 100 * MIB, tarfile.GNUTYPE_LONGNAME)), "data.tar.xz"),
        5,
        "bytes where at most 65,536 are read",
    ),
    (
        "a PAX header of 100 MiB",
        lambda: (zeros_xz(100 * MIB, header("x", 100 * MIB, tarfile.XHDTYPE)), "data.tar.xz"),
        5,
        "bytes where at most 65,536 are read",
    ),
    (
        "names of names",
        lambda: (
            lzma.compress((header("././@LongLink", 2, tarfile.GNUTYPE_LONGNAME) + b"a".ljust(512, b"\0")) * 5000),
            "data.tar.xz",
        ),
        5,
        "cannot be read",
    ),
    (
        "a sparse file",
        lambda: (lzma.compress(header(PAGE, 0, tarfile.GNUTYPE_SPARSE)), "data.tar.xz"),
        7,
        "is sparse or larger",
    ),
    (
        "packed as nobody reads it",
        lambda: (SOUND, "data.tar.zst"),
        5,
        "`data.tar.zst` is packed in a way that is not read",
    ),
    ("cut short", lambda: (lzma.compress(SOUND)[:80], "data.tar.xz"), 5, "it is cut short"),
    ("not xz", lambda: (b"no xz" * 100, "data.tar.xz"), 5, "cannot be read"),
    ("not gzip", lambda: (b"no gzip" * 100, "data.tar.gz"), 5, "cannot be read"),
    ("a flaw inside deflate", lambda: (gzip.compress(SOUND)[:60] + b"\xff" * 100, "data.tar.gz"), 5, "cannot be read"),
    ("not bzip2", lambda: (b"no bzip2" * 100, "data.tar.bz2"), 5, "cannot be read"),
    (
        "a packed page that is a bomb",
        lambda: (lzma.compress(packed([member(PAGE + ".gz", gzip.compress(bytes(100 * MIB)))])), "data.tar.xz"),
        7,
        "a.html.gz: holds more than 64 MiB of text",
    ),
    (
        "a packed page that is damaged",
        lambda: (lzma.compress(packed([member(PAGE + ".gz", b"no gzip")])), "data.tar.xz"),
        5,
        "a.html.gz: is no whole gzip file",
    ),
    (
        "a text with a surrogate",
        lambda: (lzma.compress(packed([member("usr/share/d/a.jsonl", b'{"text": "\\ud800"}')])), "data.tar.xz"),
        7,
        "a.jsonl:1: field `text` holds half",
    ),
]


@pytest.mark.parametrize(("make", "code", "message"), [row[1:] for row in DEBS], ids=[row[0] for row in DEBS])
def test_hostile_packages(folder: Path, make: Callable[[], tuple[bytes, str]], code: int, message: str) -> None:
    (folder / "data" / "downloads").mkdir(parents=True)
    deb = deb_of(folder / "data" / "downloads" / "some-doc_1_all.deb", *make())
    found, peak, error = measured(write_config(folder, ["en"], ["debian:some-doc:usr/share/d/*"]), 200 * MIB)
    assert (found, message in error, str(deb) in error) == (code, True, True), error
    assert "Traceback" not in error and peak < 600


@pytest.mark.parametrize(
    ("pack", "name"), [(lzma.compress, "data.tar.xz"), (gzip.compress, "data.tar.gz"), (bytes, "data.tar")]
)
def test_sound_packages_of_each_packing_are_read(tmp_path: Path, pack: Callable[[bytes], bytes], name: str) -> None:
    long = "usr/share/d/" + "n" * 300 + ".html"
    data = packed(
        [
            member("usr/share/other", bytes(3 * MIB)),
            member(PAGE, f"<p>{LONG}</p>".encode()),
            member("usr/share/d/empty", b""),
        ]
        + [member(long, b"x" * 512), member("usr/share/d/z", b"z" * (2 * MIB + 7))]
    )
    deb = deb_of(tmp_path / "some-doc_1_all.deb", pack(data), name)
    found = dict(debian.files_in(deb, ["usr/share/d/*"]))
    assert found == {
        PAGE: f"<p>{LONG}</p>".encode(),
        "usr/share/d/empty": b"",
        long: b"x" * 512,
        "usr/share/d/z": b"z" * (2 * MIB + 7),
    }


YAML: list[tuple[bytes, str]] = [
    (b"domains: " + b"[" * 100000, ":1:73: nested deeper than 64"),
    (b"".join(b" " * i + b"a:\n" for i in range(300)), "nested deeper than 64"),
    (b"kind: store\nstore: " + b"x" * (2 * MIB), ": is larger than 1,048,576 bytes"),
    (b"domains: [" + b"a," * 200000 + b"]", "more than 100,000 values"),
    (b'kind: store\nstore: "a\\ud800b"', ":2:8: `store` holds a control character or half of a surrogate pair"),
    (b'kind: store\nstore: "a\\0b"', ":2:8: `store` holds a control character or half of a surrogate pair"),
    (b'kind: store\ndomains: [a, "b\\ud800"]', ":2:14: `domains` holds a control character or half"),
    (b'kind: store\nstore: "a\\UFFFFFFFFb"', ":2:"),
    (b"kind: store\nstore: a\x00b", ":2:9: no valid YAML: special characters are not allowed"),
    (b"kind: store\nstore: \xff\n", ":2:8: is not UTF-8 text"),
    (b"kind: store\nstore: \xc3\xa9\xff\n", ":2:9: is not UTF-8 text"),
    (b"data: {kind: store}\ndata: {kind: store}", ":2:1: `data` is given twice"),
    (b"? [a, b]\n: c\n", ":1:3: a key must be a name"),
    (b"\x22\\e[31m\x22: 1\n", ":1:1: unknown key `\\x1b[31m`"),
    (b"x" * 1000 + b": 1\n", ":1:1: unknown key `" + "x" * 80 + "...`"),
    (b"kind: store\nvocabulary: " + b"9" * 5000, ":2:13: `vocabulary` must be a number, not `9999"),
    (b"kind: store\nstore: s\ndomains: [a]\nsources: [b]\nvocabulary: " + b"9" * 400, "vocabulary must be between"),
    (b"kind: store\nvalidation_share: nan\nstore: s\ndomains: [a]\nsources: [b]\n", "validation_share must be above 0"),
    (b"a: &a [x, x]\nb: &b [*a, *a]\ndomains: &c [*b, *b]\n", ":1:1: unknown key `a`"),
    (b"domains: &a [*a, *a]\n", ":1:10: `domains` must be a list of texts"),
    (b"domains: *none\n", ":1:10: no valid YAML: found undefined alias"),
    (b"--- a\n--- b\n", "no valid YAML: but found another document"),
    (
        b"kind: store\nstore: s\ndomains: [a]\nsources: [~nobody-of-this-name/x]\ntokenizer: bytes\n",
        "~nobody-of-this-name/x",
    ),
]


@pytest.mark.parametrize(("data", "message"), YAML)
def test_hostile_configs(folder: Path, capsys: pytest.CaptureFixture[str], data: bytes, message: str) -> None:
    path = folder / "c.yaml"
    path.write_bytes(data)
    assert build(path) == 3
    error = capsys.readouterr().err
    assert error.startswith(f"moesweep-data: {path}") and message in error
    assert "\x1b" not in error and len(error) < 3000


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_a_config_is_a_regular_file(folder: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    (folder / "c.yaml").mkdir() if kind == "folder" else special(kind, folder / "c.yaml")
    assert build(folder / "c.yaml") == 3
    assert "only regular files are read" in capsys.readouterr().err


@pytest.mark.parametrize("error", [RecursionError, MemoryError, OverflowError, KeyError, ZeroDivisionError, OSError])
def test_what_nobody_expected_is_no_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: type[Exception]
) -> None:
    def fail(*_: Any) -> None:
        raise error("odd\x1b")

    monkeypatch.setattr(store, "build", fail)
    config = write_config(folder, ["en"], ["en"])
    code = {MemoryError: 4, OSError: 4, RecursionError: 7, OverflowError: 7}.get(error, 70)
    assert build(config) == code
    text = capsys.readouterr().err
    assert str(config) in text and "Traceback" not in text and "\x1b" not in text
    if code == 70:
        assert f"a defect of moesweep-data, {error.__name__} at test_data_hostile.py:" in text


Change = Callable[[dict[str, Any]], object]


def setting(*path: Any, value: Any) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


def removed(*path: Any) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]

    return change


FIELDS: list[tuple[str, Change]] = [
    ("`splits[1].text_bytes` is -7, not between", setting("splits", 1, "text_bytes", value=-7)),
    ("`splits[0].tokens` is -1", setting("splits", 0, "tokens", value=-1)),
    ("`splits[0].tokens` is 0", setting("splits", 0, "tokens", value=0)),
    ("`splits[0].tokens` is no integer", setting("splits", 0, "tokens", value="12")),
    ("`splits[0].tokens` is no integer", setting("splits", 0, "tokens", value=True)),
    ("`splits[0].tokens` is no integer", setting("splits", 0, "tokens", value=1e3)),
    ("`splits[0].first` is 1", setting("splits", 0, "first", value=10**40)),
    ("`splits[0].offset_bytes` is missing", removed("splits", 0, "offset_bytes")),
    ("`splits[0].documents` is -2", setting("splits", 0, "documents", value=-2)),
    ("`splits[0].dtype` is `f32`, not one of", setting("splits", 0, "dtype", value="f32")),
    ("`splits[0].encoding` is no text", setting("splits", 0, "encoding", value=None)),
    ("`splits[0].split` is `test`", setting("splits", 0, "split", value="test")),
    ("`splits[0].domain` `xx` is none of the domains", setting("splits", 0, "domain", value="xx")),
    ("`splits[0].file` `../../x` names no file inside the store", setting("splits", 0, "file", value="../../x")),
    ("`splits[0].file` `/etc/passwd` names no file inside", setting("splits", 0, "file", value="/etc/passwd")),
    ("`splits[0].file` `.` names no file inside", setting("splits", 0, "file", value=".")),
    ("`splits[0].file` holds a zero byte or half", setting("splits", 0, "file", value="a\x00b")),
    ("`splits[0].file` holds a zero byte or half", setting("splits", 0, "file", value="\ud800")),
    ("`splits[0].sha256` is no SHA-256", setting("splits", 0, "sha256", value="0" * 63)),
    ("`splits[0]` is no object", setting("splits", 0, value=[])),
    ("`splits` is no list", setting("splits", value={})),
    ("`splits` is no list", setting("splits", value=3)),
    ("`splits` does not have each domain's train and validation", removed("splits", 1)),
    ("`splits` is missing", removed("splits")),
    ("`inputs` does not have each domain once", setting("inputs", value=[])),
    ("`inputs[0].bytes` is -1", setting("inputs", 0, "bytes", value=-1)),
    ("`inputs[0].licence` is no text", setting("inputs", 0, "licence", value=7)),
    ("`inputs[0].licence_file` `../x` names no file", setting("inputs", 0, "licence_file", value="../x")),
    ("`domains` is empty", setting("domains", value=[])),
    ("`domains[0]` is no text", setting("domains", 0, value={})),
    ("`sources` has 0 entries for 1 domains", setting("sources", value=[])),
    ("`validation_share` is no number", setting("validation_share", value="0.3")),
    ("`validation_share` is 1.5", setting("validation_share", value=1.5)),
    ("`validation_share` is 10000", setting("validation_share", value=10**390)),
    ("is no JSON: NaN is no JSON number", setting("validation_share", value=float("nan"))),
    ("is no JSON: Infinity is no JSON number", setting("validation_share", value=float("inf"))),
    ("`vocabulary` is 0", setting("vocabulary", value=0)),
    ("`recipe` is no integer", setting("recipe", value=None)),
    ("`tokenizer` is no object", setting("tokenizer", value="bytes")),
    ("`tokenizer.pieces` is 100000", setting("tokenizer", "pieces", value=10**6)),
    ("`tokenizer.end_of_document` is -1", setting("tokenizer", "end_of_document", value=-1)),
    ("`tokenizer.file` `/dev/zero` names no file", setting("tokenizer", "file", value="/dev/zero")),
]


@pytest.mark.parametrize(("message", "change"), FIELDS)
def test_manifests_with_a_wrong_field(
    folder: Path, capsys: pytest.CaptureFixture[str], message: str, change: Change
) -> None:
    (folder / "a.jsonl").write_bytes(GOOD)
    config = write_config(folder, ["en"], ["a.jsonl"])
    assert build(config) == 0
    path = folder / "data" / "made" / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    assert main(["verify", str(config), "--quiet"]) == 5
    error = capsys.readouterr().err
    assert message in error and str(path) in error
    assert build(config) == 5  # nor does a build replace what it cannot read
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        (b"", 5, "manifest.json:1:1: is no JSON"),
        (b"\xff", 5, "is not UTF-8 text"),
        (b"[" * 100000, 5, "manifest.json:1:65: is no JSON: nested deeper than 64"),
        (b'{"format": "moesweep-tokens", "format": "x"}', 5, "the key `format` is given twice"),
        (b'{"format": "moesweep-tokens", "version": 2}', 7, "is no moesweep-tokens manifest of version 1"),
        (b"null", 7, "is no moesweep-tokens manifest of version 1"),
    ],
)
def test_manifests_that_are_none(
    folder: Path, capsys: pytest.CaptureFixture[str], data: bytes, code: int, message: str
) -> None:
    (folder / "data" / "made").mkdir(parents=True)
    (folder / "data" / "made" / "manifest.json").write_bytes(data)
    config = write_config(folder, ["en"], ["a.jsonl"])
    assert main(["verify", str(config), "--quiet"]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["manifest.json", "00-en.train.u16"])
@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_verify_waits_for_no_fifo(folder: Path, capsys: pytest.CaptureFixture[str], kind: str, name: str) -> None:
    (folder / "a.jsonl").write_bytes(GOOD)
    config = write_config(folder, ["en"], ["a.jsonl"])
    assert build(config) == 0
    (folder / "data" / "made" / name).unlink()
    special(kind, folder / "data" / "made" / name)
    assert main(["verify", str(config), "--quiet"]) in (5, 7)
    assert "only regular files are read" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"\xff", b"[" * 100000, b'{"seen": []}'])
def test_a_damaged_build_json_leads_to_a_new_build(folder: Path, content: bytes) -> None:
    (folder / "a.jsonl").write_bytes(GOOD)
    config = write_config(folder, ["en"], ["a.jsonl"])
    assert build(config) == 0
    path = folder / "data" / "made" / "build.json"
    path.write_bytes(content)
    assert build(config) == 0
    assert json.loads(path.read_text())["text_field"] == "text"


def npy(header: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def index(
    lengths: list[int], starts: list[int], positions: list[int] | None = None, sequences: int | None = None
) -> bytes:
    if positions is None:
        positions = [2 * sum(lengths[:number]) for number in range(len(lengths))]
    count = len(lengths) if sequences is None else sequences
    return (
        (b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, count, len(starts)))
        + np.array(lengths, "<i4").tobytes()
        + np.array(positions, "<i8").tobytes()
        + np.array(starts, "<i8").tobytes()
    )


TOKENS: list[tuple[str, bytes, int, str]] = [
    ("x.npy", npy(b"{'descr': '<u2', 'fortran_order': False, 'shape': (99999999999999,), }"), 5, "its header names"),
    ("x.npy", npy(b"{'descr': '<u2', 'fortran_order': False, 'shape': (-1,), }"), 7, "must be a one-dimensional"),
    ("x.npy", npy(b"(" * 5000), 7, "is no readable .npy file"),
    (
        "x.npy",
        npy(b"{'descr': 'O', 'fortran_order': False, 'shape': (3,), }", b"cos\nsystem\n"),
        7,
        "must be a one-dim",
    ),
    ("x.npy", b"PK\x03\x04" + bytes(100), 7, "is no readable .npy file"),
    ("x.npy", b"\x93NUMPY\x09\x00", 7, "is no readable .npy file"),
    ("x.idx", index([5, 5], [0, 1, 7]), 5, "a document that begins outside"),
    ("x.idx", index([5, 5], [0, 1, -7]), 5, "a document that begins outside"),
    ("x.idx", index([15, -5], [0, 1, 2]), 5, "has a negative length"),
    ("x.idx", index([5, 5], [0, 1, 2], [0, 0]), 7, "places its sequences elsewhere"),
    ("x.idx", index([5, 5], [0, 1, 2], sequences=2**63), 5, "is cut short"),
]


@pytest.mark.parametrize(("name", "data", "code", "message"), TOKENS)
def test_hostile_token_files(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes, code: int, message: str
) -> None:
    (folder / name).write_bytes(data)
    (folder / "x.bin").write_bytes(bytes(20))
    source = "npy:x.npy" if name == "x.npy" else "megatron:x"
    assert build(write_config(folder, ["en"], [source])) == code
    assert message in capsys.readouterr().err


def tokenizer_json(folder: Path, change: Change) -> None:
    pieces = tokenizer.train_bpe([["some words of text " * 9]], 300)
    value = json.loads(pieces.to_str())
    change(value)
    (folder / "own.json").write_text(json.dumps(value))


def test_token_ids_above_the_vocabulary_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ids may have gaps: the number of pieces is no bound, and 70,000 would become 4,464 in two bytes."""
    (folder / "a.jsonl").write_bytes(GOOD)

    def gap(value: dict[str, Any]) -> None:
        vocabulary = value["model"]["vocab"]
        vocabulary["D"] = 70000

    tokenizer_json(folder, gap)
    config = write_config(folder, ["en"], ["a.jsonl"], tokenizer="own.json", vocabulary=300)
    assert build(config) == 3
    assert "the tokenizer gives token 70000, vocabulary is 300" in capsys.readouterr().err


def test_a_tokenizer_does_not_cut_documents(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(GOOD)
    counts = []
    for change in (
        setting("truncation", value=None),
        setting("truncation", value={"max_length": 2, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}),
    ):
        tokenizer_json(folder, change)
        config = write_config(folder, ["en"], ["a.jsonl"], tokenizer="own.json", vocabulary=300)
        assert build(config, "--force") == 0
        manifest = json.loads((folder / "data" / "made" / "manifest.json").read_text())
        counts.append([entry["tokens"] for entry in manifest["splits"]])
    assert counts[0] == counts[1]


@pytest.mark.parametrize("content", [b"", b"[" * 100000, b"\xff", b"{}", b'{"model": {"type": "BPE"}}'])
def test_hostile_tokenizers(folder: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    (folder / "a.jsonl").write_bytes(GOOD)
    (folder / "own.json").write_bytes(content)
    assert build(write_config(folder, ["en"], ["a.jsonl"], tokenizer="own.json", vocabulary=300)) == 3
    assert "own.json: is no readable tokenizer.json" in capsys.readouterr().err


def test_licences_whose_names_become_alike_are_both_kept(folder: Path) -> None:
    for name in ("a b", "a_b"):
        (folder / name).mkdir()
        (folder / name / "LICENSE").write_text(f"licence of {name}")
        for number in range(30):
            (folder / name / f"{number}.txt").write_text(f"text {number}")
    assert build(write_config(folder, ["a b", "a_b"], ["a b", "a_b"])) == 0
    made = folder / "data" / "made"
    manifest = json.loads((made / "manifest.json").read_text())
    assert [(made / entry["licence_file"]).read_text() for entry in manifest["inputs"]] == [
        "licence of a b",
        "licence of a_b",
    ]
