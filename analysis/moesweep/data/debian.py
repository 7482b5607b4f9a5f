"""Debian packages as sources of text: downloads (kept, so that later builds need no network) and the files inside them."""

from __future__ import annotations

import contextlib
import fnmatch
import io
import lzma
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from moesweep.data.errors import DataToolError
from moesweep.data.progress import Progress

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")


def check_package_name(package: str) -> str:
    if not _PACKAGE.fullmatch(package):
        raise DataToolError("config", f"`{package}` is no name of a Debian package", "sources")
    return package


def cached(package: str, downloads: Path) -> Path | None:
    """The newest .deb of the package that was already downloaded, or None."""
    places = [downloads, Path("/var/cache/apt/archives")]
    for place in places:
        found = sorted(place.glob(f"{package}_*.deb"), key=lambda path: (path.stat().st_mtime, path.name))
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
        for path in Path(folder).glob("*.deb"):
            os.replace(path, downloads / path.name)


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


@contextlib.contextmanager
def _data_archive(deb: Path) -> Iterator[tarfile.TarFile]:
    """The tar inside a .deb, which is an `ar` archive of three members."""
    with open(deb, "rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise DataToolError("corrupt", "is no Debian package", str(deb), "delete it and fetch again")
        while header := file.read(60):
            name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), header[48:58].strip()
            if len(header) < 60 or not size.isdigit():
                break
            if name.startswith("data.tar"):
                with tarfile.open(fileobj=io.BytesIO(file.read(int(size))), mode="r:*") as archive:
                    yield archive
                return
            file.seek(int(size) + int(size) % 2, os.SEEK_CUR)
    raise DataToolError("corrupt", "holds no data archive", str(deb), "delete it and fetch again")


def files_in(deb: Path, patterns: Iterable[str]) -> list[tuple[str, bytes]]:
    """(path, bytes) of each regular file whose path (such as usr/share/...) matches a glob; `*` crosses folders. Sorted by path."""
    wanted = list(patterns)
    found: list[tuple[str, bytes]] = []
    try:
        with _data_archive(deb) as archive:
            for member in archive:
                path = member.name.removeprefix("./")
                if member.isfile() and any(fnmatch.fnmatchcase(path, pattern) for pattern in wanted):
                    handle = archive.extractfile(member)
                    found.append((path, handle.read() if handle else b""))
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
        raise DataToolError("corrupt", f"cannot be read: {error}", str(deb), "delete it and fetch again") from error
    return sorted(found)


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
