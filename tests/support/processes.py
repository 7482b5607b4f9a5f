"""The processes of a launch, for tests that kill one."""
import pathlib
from collections.abc import Iterator


def processes_of(session: int) -> Iterator[int]:
    """Every living process of the session: mpirun gives its ranks groups of their own, their session stays."""
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] not in "ZX":
                yield int(entry.name)
