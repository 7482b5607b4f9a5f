"""The one way in which reports and tables appear: written beside under a name of their own, then renamed, and only over a file of ours."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

#: Whether an existing file, open at its beginning, was written by the same command before.
Ours = Callable[[BinaryIO], bool]


@contextmanager
def published(path: Path, ours: Ours, what: str) -> Iterator[BinaryIO]:
    """A new file to write to, which replaces `path` when the block ends without an error; with one, `path` stays as it was.

    The temporary file lies in the same folder, is opened exclusively and never through a link, and has the permissions of the
    umask. `what` names the kind of file in errors (`a report of moesweep`). OSError naming `path`: for what `check_target` refuses,
    and when the file can't be written.
    """
    check_target(path, ours, what)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        name = f".{os.fsdecode(os.fsencode(path.name)[:80])}.{secrets.token_hex(8)}.part"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(name, flags, 0o666, dir_fd=folder)
        except OSError as error:
            raise OSError(error.errno, f"can't be written ({error.strerror})", str(path)) from error
        try:
            with os.fdopen(handle, "wb") as out:
                yield out
                out.flush()
                os.fsync(out.fileno())
            check_target(path, ours, what)
            os.rename(name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException as error:
            os.unlink(name, dir_fd=folder)
            if isinstance(error, OSError) and error.filename is None:
                reason = error.strerror or str(error)
                raise OSError(error.errno or errno.EIO, f"can't be written ({reason})", str(path)) from error
            raise
        try:
            os.fsync(folder)
        except OSError:
            pass  # some file systems know no flush of a folder; the file itself is flushed
    finally:
        os.close(folder)


def check_target(path: Path, ours: Ours, what: str) -> None:
    """OSError unless `path` is free or a regular file that is `ours`: no link, folder, device or FIFO is ever replaced."""
    try:
        about = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EEXIST, f"is {kind_of(about.st_mode)}, which is not replaced; name another file", str(path))
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            same = stat.S_ISREG(os.fstat(file.fileno()).st_mode) and ours(file)
    except OSError as error:
        raise OSError(
            error.errno, f"exists and can't be read ({error.strerror}); name another file", str(path)
        ) from error
    if not same:
        raise OSError(errno.EEXIST, f"exists and is not {what}; it is not replaced: name another file", str(path))


def kind_of(mode: int) -> str:
    """What a file of that mode is, in words."""
    kinds = (
        (stat.S_ISREG, "a regular file"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISLNK, "a link"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((word for test, word in kinds if test(mode)), "a device")
