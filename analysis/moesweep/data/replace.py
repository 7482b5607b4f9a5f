"""The only place where `moesweep-data` removes or replaces files: the content of a token store's folder, and leftovers of a killed build.

A build may fill a folder that is absent or empty. In a folder with a token store it replaces file by file, and only names that are known:
those that the store's manifest lists and a few fixed ones. One other file, folder or link in it, and the build refuses.

A replacement that is ended at any point leaves the old store, the new store, or a folder that the next build repairs:
 1. replacing.json comes, which lists every file that is replaced or removed
 2. manifest.json goes: from here on there is no store
 3. the new files come, each by a rename; old files that are in the way no more go
 4. the new manifest.json comes: from here on the new store is whole
 5. replacing.json goes
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from moesweep.data import strict_json
from moesweep.data.errors import DataToolError, shown
from moesweep.data.manifest import Manifest, read_manifest
from moesweep.publish import kind_of

MANIFEST = "manifest.json"
MARKER = "replacing.json"
TEMPORARY = "temporary.json"
LICENCES = "licences"
FIXED = (MANIFEST, "build.json", "tokenizer.json", "inputs.sha256")

_SPLIT = re.compile(r"[0-9]{2,}-[A-Za-z0-9._-]*\.(train|validation)\.(u8|u16|u32|i16|i32|i64)")
_LICENCE = re.compile(r"licences/[A-Za-z0-9._-]*\.txt")
_MOST_BYTES = 64 << 20
_HINT = "move away what is yours, or name another folder in `store`; --force does not change this"


def is_store_name(name: str) -> bool:
    """Whether `moesweep-data` gives such a name to a file of a store: no manifest, whoever wrote it, can make it touch others."""
    return name in FIXED or bool(_SPLIT.fullmatch(name) or _LICENCE.fullmatch(name))


def names_of(manifest: Manifest) -> set[str]:
    """Files inside the store that its manifest lists."""
    listed = [entry.file for entry in manifest.splits if entry.encoding == "raw"]
    listed += [entry.licence_file for entry in manifest.inputs if entry.licence_file]
    return {name for name in listed if is_store_name(name)}


def is_interrupted(store: Path) -> bool:
    """Whether a replacement began here and did not end."""
    return os.path.lexists(store / MARKER)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """A handle of a folder that is no link: what is done by it stays in this folder, whatever its name leads to later."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError as error:
        raise DataToolError("config", "is no folder, or a link to one", str(folder), _HINT) from error
    try:
        yield handle
    finally:
        os.close(handle)


def _files(folder: int) -> Iterator[tuple[str, str]]:
    """(name, kind) of everything in an open folder; a folder `licences` is taken apart."""
    for name in sorted(os.listdir(folder)):
        kind = kind_of(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        if name == LICENCES and kind == "a folder":
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                for file in sorted(os.listdir(inner)):
                    mode = os.stat(file, dir_fd=inner, follow_symlinks=False).st_mode
                    yield f"{name}/{file}", kind_of(mode)
            finally:
                os.close(inner)
        else:
            yield name, kind


def replaceable(store: Path) -> set[str]:
    """The files of a folder that a build may replace or remove: all that are in it, or none of them and an error which names what is not ours."""
    try:
        with _opened(store) as folder:
            return _replaceable(store, folder)
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise DataToolError("io", f"cannot read: {error.strerror}", str(store)) from error


def _replaceable(store: Path, folder: int) -> set[str]:
    if os.fstat(folder).st_dev != os.stat(store.parent).st_dev:
        what = "is a mount point: files cannot be renamed into it"
        raise DataToolError("config", what, str(store), "name a folder inside it in `store`")
    found = dict(_files(folder))
    if not found and not os.listdir(folder):
        return set()
    known = _known(store, folder, found)
    for name, kind in found.items():
        if kind != "a regular file" or name not in known:
            what = f"holds `{shown(name, 200)}`, which no build wrote" if name not in known else f"has {kind} as {name}"
            raise DataToolError("config", f"{what}: nothing is replaced here", str(store), _HINT)
    return set(found)


def _known(store: Path, folder: int, found: dict[str, str]) -> set[str]:
    """Names that the manifest lists and, after an interrupted replacement, those that its marker lists."""
    known = {*FIXED, MARKER}
    marker = found.get(MARKER) == "a regular file"
    if marker:
        known |= set(_marked(store, folder))
    if found.get(MANIFEST) == "a regular file":
        try:
            known |= names_of(read_manifest(store))
        except DataToolError as error:
            hint = "remove the folder by hand if it is a damaged store, or name another one in `store`"
            raise DataToolError(error.kind, f"{error.message}: nothing is replaced here", error.where, hint) from error
    elif not marker:
        first = next(iter(found), LICENCES)
        what = f"holds `{shown(first, 200)}` and no manifest.json of a token store: nothing is replaced here"
        raise DataToolError("config", what, str(store), _HINT)
    return known


def _marked(store: Path, folder: int) -> list[str]:
    place = store / MARKER
    try:
        handle = os.open(MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        with os.fdopen(handle, "rb") as file:
            value = strict_json.parse(file.read(_MOST_BYTES).decode("utf-8"), strict=True)
        files = value["files"]
        if value["format"] == "moesweep-tokens-replacing" and all(is_store_name(name) for name in files):
            return list(files)
    except (ValueError, LookupError, TypeError):
        pass
    raise DataToolError("corrupt", "is damaged: nothing is replaced here", str(place), "remove the folder by hand")


def finish(store: Path) -> None:
    """Ends a replacement that was interrupted when the store was whole: removes its marker."""
    replaceable(store)
    with _opened(store) as folder:
        os.unlink(MARKER, dir_fd=folder)
        os.fsync(folder)


@contextlib.contextmanager
def locked(store: Path) -> Iterator[None]:
    """Only one process builds a store; a second one waits, then finds it up to date."""
    store.parent.mkdir(parents=True, exist_ok=True)
    path = store.parent / f".{store.name}.lock"
    kind = "a regular file"
    try:
        if os.path.lexists(path):
            kind = kind_of(os.lstat(path).st_mode)
        if kind == "a regular file":
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            handle = os.open(path, flags, 0o666)
            kind = kind_of(os.fstat(handle).st_mode)
    except OSError as error:
        raise DataToolError("io", f"cannot be opened: {error.strerror}", str(path)) from error
    if kind != "a regular file":
        raise DataToolError("config", f"is {kind}, where a lock file must be", str(path), "remove it by hand")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _temporary_prefix(store: Path) -> str:
    return f".{store.name}.new-"


@contextlib.contextmanager
def temporary_folder(store: Path) -> Iterator[Path]:
    """A fresh folder beside the store, in which it is made; removed at the end. Leftovers of killed builds go first. Needs the lock."""
    prefix = _temporary_prefix(store)
    for entry in sorted(os.listdir(store.parent)):
        # mkdtemp adds eight of these characters: the temporaries of a store `a` are not those of a store `a.new-b`.
        if entry.startswith(prefix) and re.fullmatch("[a-z0-9_]{8}", entry.removeprefix(prefix)):
            _remove_temporary(store.parent / entry, store)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=store.parent))
    try:
        marker = {"format": "moesweep-tokens-temporary", "store": store.name}
        (folder / TEMPORARY).write_text(json.dumps(marker), encoding="utf-8")
        yield folder
    finally:
        _remove_temporary(folder, store)


def _remove_temporary(path: Path, store: Path) -> None:
    """Removes a temporary folder of this user's builds, name by name. What is anything else stays as it is."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, DataToolError), _opened(path) as folder:
        if os.fstat(folder).st_uid != os.geteuid():
            return
        found = dict(_files(folder))
        names = {*FIXED, MARKER, TEMPORARY}
        if any(kind != "a regular file" or not (name in names or is_store_name(name)) for name, kind in found.items()):
            return
        if set(found) - {TEMPORARY}:
            handle = os.open(TEMPORARY, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            with os.fdopen(handle, "rb") as file:
                marker = strict_json.parse(file.read(4096).decode("utf-8"), strict=True)
            if marker != {"format": "moesweep-tokens-temporary", "store": store.name}:
                return
        # The marker goes last: a removal that is ended here is one that the next build goes on with.
        for name in sorted(found, key=lambda name: name == TEMPORARY):
            if name != TEMPORARY:
                os.unlink(name, dir_fd=folder)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(LICENCES, dir_fd=folder)
        if TEMPORARY in found:
            os.unlink(TEMPORARY, dir_fd=folder)
        os.rmdir(path)


def publish(temporary: Path, store: Path) -> None:
    """Moves the new store from the temporary folder into the store's; see the top of this file. Needs the lock. Signals wait meanwhile."""
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(store)
            _sync(store.parent)
        with _opened(temporary) as source, _opened(store) as target:
            _replace(source, target, _replaceable(store, target))
    except OSError as error:
        raise DataToolError(
            "io", f"cannot be written: {error.strerror}", str(store), "build again: what is half done is repaired then"
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def _replace(source: int, target: int, old: set[str]) -> None:
    new = {name for name, _ in _files(source)} - {TEMPORARY}
    _sync_files(source, new)
    old = old - {MARKER}
    _write_new(MARKER, {"format": "moesweep-tokens-replacing", "version": 1, "files": sorted(old | new)}, source)
    os.rename(MARKER, MARKER, src_dir_fd=source, dst_dir_fd=target)
    os.fsync(target)
    if MANIFEST in old:
        os.unlink(MANIFEST, dir_fd=target)
        os.fsync(target)
    with contextlib.suppress(FileExistsError):
        os.mkdir(LICENCES, dir_fd=target)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.ExitStack() as stack:
        folders = []
        for parent in (source, target):
            folders.append(os.open(LICENCES, flags, dir_fd=parent))
            stack.callback(os.close, folders[-1])
        for name in sorted(new - {MANIFEST}):
            (one, other), plain = _at(name, (source, target), (folders[0], folders[1]))
            os.rename(plain, plain, src_dir_fd=one, dst_dir_fd=other)
        for name in sorted(old - new - {MANIFEST}):
            (_, other), plain = _at(name, (source, target), (folders[0], folders[1]))
            os.unlink(plain, dir_fd=other)
        os.fsync(folders[1])
    os.fsync(target)
    os.rename(MANIFEST, MANIFEST, src_dir_fd=source, dst_dir_fd=target)
    os.fsync(target)
    os.unlink(MARKER, dir_fd=target)
    os.fsync(target)


def _at(name: str, top: tuple[int, int], licences: tuple[int, int]) -> tuple[tuple[int, int], str]:
    inner = name.removeprefix(f"{LICENCES}/")
    return (top, name) if inner == name else (licences, inner)


def _write_new(name: str, value: dict[str, Any], folder: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, 0o666, dir_fd=folder), "w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())


def _sync_files(folder: int, names: Iterable[str]) -> None:
    for name in names:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
