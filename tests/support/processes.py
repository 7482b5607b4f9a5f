"""The processes of a launch, for tests that kill one."""
import pathlib


def processes_of(session):
    """Every process of the session: mpirun gives its ranks groups of their own, their session stays."""
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == session:
                yield int(entry.name)
