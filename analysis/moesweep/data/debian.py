"""Debian packages as sources of text: downloads (kept, so that later builds need no network) and the files inside them."""

from __future__ import annotations

import bz2
import contextlib
import fnmatch
import gzip
import lzma
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from moesweep.data import unpack
from moesweep.data.errors import DataToolError, is_utf8
from moesweep.data.files import PIECE_BYTES, open_regular
from moesweep.data.progress import Progress

HEADER_BYTES = 1 << 16
"""The longest header (long names, PAX keys) of a member of a package."""
MOST_MEMBERS = 1_000_000
DECODER_BYTES = 256 << 20
"""Memory that unpacking .xz may take; `xz -9` needs 65 MiB."""
READ_ERRORS = (
    *(tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError),
    # tarfile raises these for hostile headers
    *(ValueError, LookupError, ArithmeticError, RecursionError),
)

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")


def check_package_name(package: str) -> str:
    if not _PACKAGE.fullmatch(package):
        raise DataToolError("config", f"`{package}` is no name of a Debian package", "sources")
    return package


def cached(package: str, downloads: Path) -> Path | None:
    """The newest .deb of the package that was already downloaded, or None."""
    places = [downloads, Path("/var/cache/apt/archives")]
    for place in places:
        files = [path for path in place.glob(f"{package}_*.deb") if path.is_file()]
        found = sorted(files, key=lambda path: (path.stat().st_mtime, path.name))
        if found:
            return found[-1]
    return None


def fetch(packages: Iterable[str], downloads: Path, progress: Progress) -> dict[str, Path]:
    """The .deb of each package, downloading those that are missing; an `io` error says how to go on without a network."""
    wanted = list(dict.fromkeys(packages))
    missing = [package for package in wanted if cached(package, downloads) is None]
    if missing:
        progress.stage(f"downloading {len(missing)} packages")
        _download(missing, downloads)
        size = sum(path.stat().st_size for package in missing if (path := cached(package, downloads)))
        progress.finish(f"{size / 1e6:.1f} MB into {downloads}")
    files: dict[str, Path] = {}
    for package in wanted:
        path = cached(package, downloads)
        if path is None:
            raise DataToolError("io", f"{package} was downloaded, but no file of it is there", str(downloads))
        files[package] = path
    return files


def _download(packages: list[str], downloads: Path) -> None:
    by_hand = (
        f"put {', '.join(f'{package}_*.deb' for package in packages)} of Debian 12 into {downloads} and build again; "
        "without any Debian packages take configs/data/synthetic8.yaml or your own text files"
    )
    if shutil.which("apt-get") is None:
        raise DataToolError("io", f"cannot download {', '.join(packages)}: there is no apt-get here", "", by_hand)
    downloads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".incoming-", dir=downloads) as folder:
        result = _apt(["download", *packages], folder)
        if result.returncode != 0:
            # The machine's package lists may be missing or old: fetch fresh ones into a folder of our own, which needs no root.
            own = _own_lists(Path(folder))
            update = _apt([*own, "update"], folder)
            if update.returncode == 0:
                result = _apt([*own, "download", *packages], folder)
        if result.returncode != 0:
            lines = [line for line in result.stderr.splitlines() if line.startswith("E:")] or ["no reason given"]
            raise DataToolError("io", f"apt-get download failed: {lines[0][2:].strip()}", "", by_hand)
        for path in sorted(Path(folder).glob("*.deb")):
            if path.is_file() and not path.is_symlink():
                _keep(path, downloads / path.name)


def _keep(path: Path, target: Path) -> None:
    """Gives a fresh download its name for good. What has that name already is never replaced; a package that came meanwhile stays."""
    try:
        os.link(path, target, follow_symlinks=False)
    except FileExistsError as error:
        if not target.is_file():
            raise DataToolError(
                "io", "is in the way of a download: it is no regular file", str(target), "remove it by hand"
            ) from error
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise
        os.rename(path, target)


def _own_lists(folder: Path) -> list[str]:
    options: list[str] = []
    for name, place in (("Dir::State::Lists", "lists"), ("Dir::Cache", "cache")):
        (folder / place / "partial").mkdir(parents=True, exist_ok=True)
        options += ["-o", f"{name}={folder / place}"]
    return options


def _apt(arguments: list[str], folder: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, LC_ALL="C", DEBIAN_FRONTEND="noninteractive")
    return subprocess.run(
        ["apt-get", "-q", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


class _Part:
    """The next `size` bytes of a file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data


class _Xz:
    """Unpacks .xz with a limit on the decoder's memory, which LZMAFile does not offer."""

    def __init__(self, part: _Part) -> None:
        self._part = part
        self._decoder: lzma.LZMADecompressor | None = None

    def read(self, size: int = -1) -> bytes:
        while True:
            if self._decoder is None or self._decoder.eof:
                data = (self._decoder.unused_data if self._decoder else b"").lstrip(b"\0") or self._part.read(65536)
                if not data:
                    return b""
                self._decoder = lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=DECODER_BYTES)
            elif self._decoder.needs_input:
                if not (data := self._part.read(65536)):
                    raise EOFError("it is cut short")
            else:
                data = b""
            if piece := self._decoder.decompress(data, size):
                return piece


class _Forward:
    """What `tarfile` reads from: an unpacked archive that is never held whole, and of which one call gets no more than `most`."""

    def __init__(self, reader: unpack.Readable) -> None:
        self._reader = reader
        self._position = 0
        self._held = b""
        self._used = 0  # of what is held
        self.most = HEADER_BYTES

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self.most:
            raise tarfile.ReadError(f"{size:,} bytes where at most {self.most:,} are read")
        parts: list[bytes] = []
        while size > 0:
            if self._used == len(self._held):
                self._held, self._used = self._reader.read(PIECE_BYTES), 0
                if not self._held:
                    break
            part = self._held[self._used : self._used + size]
            self._used += len(part)
            parts.append(part)
            size -= len(part)
            self._position += len(part)
            if self._position > unpack.FILE_BYTES:
                raise tarfile.ReadError(f"unpacks to more than {unpack.size_in_words(unpack.FILE_BYTES)}")
        return b"".join(parts)

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or position < self._position:
            raise tarfile.ReadError("its members do not follow each other")
        while self._position < position and self.read(min(self.most, position - self._position)):
            pass
        return self._position


def _unpacked(part: _Part, name: str) -> unpack.Readable:
    packing = name.removeprefix("data.tar").removeprefix(".")
    if packing in ("xz", "lzma"):
        return _Xz(part)
    if packing == "gz":
        return gzip.GzipFile(fileobj=part, mode="rb")  # type: ignore[call-overload, no-any-return]
    if packing == "bz2":
        return bz2.BZ2File(part)  # type: ignore[call-overload, no-any-return]
    if packing:
        raise tarfile.ReadError(f"`{name}` is packed in a way that is not read: gz, xz and bz2 are")
    return part


@contextlib.contextmanager
def _data_archive(deb: Path) -> Iterator[tuple[tarfile.TarFile, _Forward]]:
    """The tar inside a .deb, which is an `ar` archive of three members."""
    with open_regular(deb) as file:
        if file.read(8) != b"!<arch>\n":
            raise DataToolError("corrupt", "is no Debian package", str(deb), "delete it and fetch again")
        while header := file.read(60):
            name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), header[48:58].strip()
            if len(header) < 60 or not size.isdigit():
                break
            if name.startswith("data.tar"):
                forward = _Forward(_unpacked(_Part(file, int(size)), name))
                with tarfile.open(fileobj=forward, mode="r:") as archive:  # type: ignore[call-overload]
                    yield archive, forward
                return
            file.seek(int(size) + int(size) % 2, os.SEEK_CUR)
    raise DataToolError("corrupt", "holds no data archive", str(deb), "delete it and fetch again")


def files_in(deb: Path, patterns: Iterable[str]) -> list[tuple[str, bytes]]:
    """(path, bytes) of each regular file whose path (such as usr/share/...) matches a glob; `*` crosses folders. Sorted by path.
    A `corrupt` error when the package cannot be read, `data` when a file in it is too large."""
    wanted = list(patterns)
    found: list[tuple[str, bytes]] = []
    budget = unpack.Budget()
    try:
        with _data_archive(deb) as (archive, forward):
            for _ in range(MOST_MEMBERS):
                if (member := archive.next()) is None:
                    return sorted(found)
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps all that it has seen
                path = member.name.removeprefix("./")
                if not member.isfile() or not any(fnmatch.fnmatchcase(path, pattern) for pattern in wanted):
                    continue
                if member.size > unpack.LINE_BYTES or member.issparse():
                    most = unpack.size_in_words(unpack.LINE_BYTES)
                    raise DataToolError("data", f"is sparse or larger than {most}", f"{deb}: {path}")
                if not is_utf8(path):
                    raise DataToolError("data", "has a file name that is not UTF-8", f"{deb}: {path}")
                budget.take(member.size + unpack.DOCUMENT_COST_BYTES, str(deb))
                forward.most = unpack.LINE_BYTES
                handle = archive.extractfile(member)
                found.append((path, handle.read() if handle else b""))
                forward.most = HEADER_BYTES
            raise tarfile.ReadError(f"has more than {MOST_MEMBERS:,} members")
    except READ_ERRORS as error:
        if isinstance(error, OSError) and error.errno:  # the disk, not the content
            raise DataToolError("io", f"cannot read: {error.strerror}", str(deb)) from error
        raise DataToolError("corrupt", f"cannot be read: {error}", str(deb), "delete it and fetch again") from error


def copyright_path(package: str) -> str:
    return f"usr/share/doc/{package}/copyright"


def licence_name(copyright_text: str) -> str:
    """The short name in the `Files: *` stanza of a package's copyright file."""
    for stanza in copyright_text.split("\n\n"):
        if re.search(r"^Files: \*$", stanza, re.MULTILINE):
            name = re.search(r"^License: *(\S.*)$", stanza, re.MULTILINE)
            if name:
                return name.group(1) + (", parts Apache-2.0" if "Apache-2.0 licensed material" in stanza else "")
    return "see the copyright file" if copyright_text else "not stated"
