#!/usr/bin/env python3
"""No program, script or test makes a file with a foreseeable name in a folder that all users share: one of them could put a link there first.

    check_temporaries.py SOURCE_DIR

A temporary file or folder is made by mktemp, mkdtemp, mkstemp or Python's tempfile. Prints FILE:LINE: what is wrong, and ends with 1.
"""
import re
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("jobs", "tests", "cmake", ".ci", "src", "include", "analysis")
KINDS = {".sh", ".sbatch", ".def", ".py", ".cmake", ".txt", ".cpp", ".hpp", ""}
PASSED_OVER = {"corpus", "build", "__pycache__", "check_temporaries.py", "check_temporaries_test.py"}
SHARED = r"/(?:tmp|var/tmp|dev/shm)"
MADE = re.compile(r"mktemp (?!-u|--dry-run)|mktemp\)|mkd?s?temp\(|TemporaryDirectory\(|NamedTemporaryFile\(|TemporaryFile\(|XXXXXX")
RULES = [
    (re.compile(r"\bmktemp +(?:-\w+ +)*(?:-\w*u|--dry-run)"), "mktemp -u gives a name and makes nothing: another user may be faster", None),
    (re.compile(r"\b(?:tmpnam|tempnam)\(|\btempfile\.mktemp\("), "it gives a name and makes nothing: another user may be faster", None),
    (re.compile(rf"(?<![\w.}}]){SHARED}/[\w$%{{.*-]|[\"']{SHARED}/?[\"']"), "a foreseeable name in a folder that all users share", re.compile(r"glob\(")),
    (re.compile(r"temp_directory_path\(\)|gettempdir\(\)|\$\{?TMPDIR\b"), "a foreseeable name in a folder that all users share", None),
]


def files(root: Path) -> Iterator[Path]:
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in KINDS and path.is_file() and not PASSED_OVER & set(path.relative_to(root).parts):
                yield path


def violations(root: str) -> list[str]:
    found = []
    for path in files(Path(root)):
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            for pattern, sentence, allowed in RULES:
                made_safely = MADE.search(line) and sentence.startswith("a foreseeable")
                if pattern.search(line) and not made_safely and not (allowed and allowed.search(line)):
                    found.append(f"{path.relative_to(root)}:{number}: {sentence}")
    return found


def main() -> int:
    found = violations(sys.argv[1])
    print("\n".join(found) or "temporary files have names that nobody can foresee")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
