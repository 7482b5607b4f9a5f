"""What commit 69bfbb3 wrote is read and gone on with: the half-run folder ends with the golden losses. Usage: golden_test.py MOESWEEP"""

from __future__ import annotations

import json
import lzma
import os
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
PROGRAM = ""


def call(*words: str | Path, cwd: Path, code: int = 0) -> str:
    """Runs moesweep and gives its standard output; the exit code must be `code`."""
    done = subprocess.run(
        [PROGRAM, *map(str, words)],
        check=False,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode != code:
        raise AssertionError(f"{words}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def series(file: h5py.File, name: str) -> dict[str, npt.NDArray[Any]]:
    """The array `name` of each trial that has it, by id."""
    group = file[f"arrays/{name}"]
    data, offsets, shapes = group["data"][()], group["offsets"][()], group["shapes"][()]
    return {
        ident.decode(): data[offsets[i] : offsets[i + 1]].reshape(shapes[i])
        for i, ident in enumerate(file["trials/id"][()])
        if shapes[i].any()
    }


def is_like_the_golden_machine() -> bool:
    """The golden losses are bitwise those of an AMD CPU with AVX-512; on other CPUs products round in another way."""
    facts = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return "AuthenticAMD" in facts and "avx512f" in facts


class Golden(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="moesweep-golden-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "sweep.h5").write_bytes(lzma.decompress((HERE / "sweep.h5.xz").read_bytes()))
        with tarfile.open(HERE / "half.tar.xz") as archive:
            archive.extractall(self.folder)

    def test_every_file_is_sound_and_read(self) -> None:
        files = [self.folder / "sweep.h5", *sorted((self.folder / "half").rglob("*.h5"))]
        self.assertEqual({path.name for path in files}, {"sweep.h5", "trial.h5", "trace.h5", "checkpoint.h5"})
        for path in files:
            call("verify", path, cwd=self.folder)
        rows = json.loads(call("results", self.folder / "sweep.h5", "--json", cwd=self.folder))
        with h5py.File(self.folder / "sweep.h5") as file:
            losses = dict(zip((i.decode() for i in file["trials/id"][()]), file["metrics/loss"][()], strict=True))
        self.assertEqual({row["id"]: row["metrics"]["loss"] for row in rows}, losses)
        self.assertEqual({row["state"] for row in rows}, {"done"})
        standing = json.loads(call("status", "half", "--json", cwd=self.folder))
        self.assertEqual(standing["name"], "golden")

    def test_the_folder_goes_on_to_the_golden_losses(self) -> None:
        before = {path: path.read_bytes() for path in (self.folder / "half").rglob("trial.h5")}
        self.assertEqual(len(before), 5)
        call("run", HERE / "golden.yaml", "--out", "half", cwd=self.folder)
        call("aggregate", "half", cwd=self.folder)
        for path, content in before.items():
            self.assertEqual(path.read_bytes(), content, f"{path} was finished, and is another file now")
        with h5py.File(self.folder / "sweep.h5") as golden, h5py.File(self.folder / "half" / "sweep.h5") as new:
            configs = {row["id"]: row for row in json.loads(call("results", "sweep.h5", "--json", cwd=self.folder))}
            self.assertEqual({state.decode() for state in new["trials/state"][()]}, {"done"})
            for name in ("steps/loss", "steps/gradient_norm", "evaluations/loss", "evaluations/counts"):
                wanted, got = series(golden, name), series(new, name)
                self.assertEqual(list(wanted), list(got))
                for ident, values in wanted.items():
                    where = f"{name} of trial {ident}"
                    if is_like_the_golden_machine():
                        np.testing.assert_array_equal(got[ident], values, where)
                    elif name != "evaluations/counts":
                        exact = configs[ident]["axes"].get("train.dtype") == "fp64"
                        np.testing.assert_allclose(got[ident], values, rtol=1e-10 if exact else 1e-2, err_msg=where)


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main(verbosity=2)
