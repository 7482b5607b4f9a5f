#!/usr/bin/env python3
"""Holds check_temporaries.py against made-up files: what is made safely passes, and each foreseeable name is found with its line."""
import tempfile
import unittest
from pathlib import Path

import check_temporaries

CLEAN = {
    "jobs/a.sh": "log=$(mktemp)\ntree=$(mktemp -d /tmp/moesweep-XXXXXX)\nprobe=$(mktemp -d); trap 'rm -rf \"$probe\"' EXIT\ncat \"$tree/tmp/x\" build/tmp/y\n",
    "tests/a.py": "folder = tempfile.mkdtemp(prefix='x-', dir=\"/tmp\")\nwith tempfile.TemporaryDirectory(dir='/tmp') as name:\n    pass\n",
    "tests/a.cpp": "std::string name = (fs::temp_directory_path() / \"moesweep-XXXXXX\").string();\n",
}
VIOLATIONS = [
    ("jobs/b.sh", "\napt-get install x >/tmp/moesweep-apt.$$ 2>&1\n", ":2:"),
    ("jobs/b.sbatch", "log=${TMPDIR:-/tmp}/log\n", ":1:"),
    ("tests/run", "name=$(mktemp -u)\n", ":1:"),
    ("tests/run.sh", "name=$(mktemp -d -u /tmp/x-XXXXXX)\n", ":1:"),
    ("cmake/a.cmake", "file(WRITE /tmp/probe.cpp \"\")\n", ":1:"),
    ("tests/b.py", "path = tempfile.mktemp()\n", ":1:"),
    ("tests/b.py", "path = pathlib.Path(tempfile.gettempdir()) / 'x'\n", ":1:"),
    ("tests/b.py", "path = pathlib.Path(\"/tmp\") / 'x'\n", ":1:"),
    ("tests/b.cpp", "const auto path = fs::temp_directory_path() / (\"moesweep-\" + std::to_string(getpid()));\n", ":1:"),
    ("src/core/b.cpp", "std::ofstream out(\"/dev/shm/moesweep\");\n", ":1:"),
]


def write(folder: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


class CheckTemporaries(unittest.TestCase):
    def test_what_is_made_safely_passes(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            write(folder, CLEAN)
            self.assertEqual(check_temporaries.violations(folder), [])

    def test_each_foreseeable_name_is_found(self) -> None:
        for name, text, line in VIOLATIONS:
            with self.subTest(file=name, text=text), tempfile.TemporaryDirectory() as folder:
                write(folder, CLEAN | {name: text})
                found = check_temporaries.violations(folder)
                self.assertTrue(found and all(each.startswith(name + line) for each in found), found)


if __name__ == "__main__":
    unittest.main()
