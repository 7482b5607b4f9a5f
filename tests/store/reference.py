"""Aggregates with store_parallel_test on several rank counts and compares sweep.h5 with what h5py finds in the trial files.

An independent reading of analysis/FORMAT.md: no moesweep code. Usage: reference.py MPIRUN STORE_PARALLEL_TEST
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

TYPES = {"float64": "f64", "float32": "f32", "int64": "i64", "int32": "i32", "uint8": "u8"}


def text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    found: dict[str, h5py.Dataset] = {}
    file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    return dict(sorted(found.items(), key=lambda pair: pair[0].encode()))


def raw(dataset: h5py.Dataset) -> tuple[str, bytes]:
    """Type name and stored bytes, little-endian."""
    kind = dataset.id.get_type()
    if kind.get_class() == h5py.h5t.STRING:
        return f"s{kind.get_size()}", np.asarray(dataset[...]).tobytes()
    if kind.get_class() == h5py.h5t.FLOAT and kind.get_size() == 2:  # bf16 comes as float32: its upper half
        return "bf16", (np.asarray(dataset[...], dtype="<f4").view("<u4") >> 16).astype("<u2").tobytes()
    values = dataset[...]
    return TYPES[values.dtype.name], values.tobytes()


def digest(file: h5py.File) -> str:
    hasher = hashlib.sha256()

    def add(field: str) -> None:
        data = field.encode()
        hasher.update(b"%d:%s," % (len(data), data))

    for name in sorted(set(file.attrs) - {"digest"}):
        add(name)
        add(text(file.attrs[name]))
    for path, dataset in datasets(file).items():
        kind, data = raw(dataset)
        blocks = "".join(hashlib.sha256(data[i : i + (1 << 20)]).hexdigest() for i in range(0, len(data), 1 << 20))
        add(path)
        add(kind)
        add(",".join(map(str, dataset.shape)))
        add(text(dataset.attrs["unit"]))
        add(text(dataset.attrs["description"]))
        add(str(int(dataset.attrs["metric"])) if "metric" in dataset.attrs else "")
        add(",".join(str(n) for n in dataset.attrs["shape"]) if "shape" in dataset.attrs else "")
        add(hashlib.sha256(blocks.encode()).hexdigest())
    return hasher.hexdigest()


def check_storage(file: h5py.File) -> None:
    assert digest(file) == text(file.attrs["digest"]), f"{file.filename}: digest"
    for path, dataset in datasets(file).items():
        assert dataset.chunks is not None and dataset.fletcher32, path
        assert not dataset.id.get_type().is_variable_str() if dataset.dtype.kind == "S" else True, path


def check_sweep(folder: Path) -> str:
    rows = json.loads((folder / "rows.json").read_text())
    with h5py.File(folder / "sweep.h5") as sweep:
        check_storage(sweep)
        assert text(sweep.attrs["format"]) == "moesweep-sweep" and sweep.attrs["version"] == 1
        assert bytes(sweep["header/name"][...]) == b"a-study"
        json.loads(bytes(sweep["header/resolved"][...]))
        frame = pd.DataFrame({name: np.char.decode(sweep[f"trials/{name}"][...].astype("S"), "utf-8") for name in ("id", "state", "reason")})
        for group, decode in (("axes", True), ("metrics", False)):
            for name in sweep.get(group, ()):
                values = sweep[f"{group}/{name}"][...]
                frame[f"{group}/{name}"] = np.char.decode(values.astype("S"), "utf-8") if decode else values
        assert len(frame) == len(rows)
        expected_axes = {axis for row in rows for axis in row["axes"]}
        expected_metrics = {metric for row in rows for metric in row["metrics"]}
        assert expected_axes == set(sweep.get("axes", ()))
        assert expected_metrics == set(sweep.get("metrics", ()))
        for i, row in enumerate(rows):
            for name in ("id", "state", "reason"):
                assert frame[name][i] == row[name], (i, name)
            for axis in expected_axes:
                assert frame[f"axes/{axis}"][i] == row["axes"].get(axis, ""), (i, axis)
            for metric in expected_metrics:
                np.testing.assert_equal(frame[f"metrics/{metric}"][i], row["metrics"].get(metric, np.nan))
            for name in ("config", "provenance"):
                offsets = sweep[f"texts/{name}/offsets"][...]
                assert bytes(sweep[f"texts/{name}/data"][offsets[i] : offsets[i + 1]]).decode() == row[name]

        # The arrays, from the trial files themselves.
        arrays: dict[str, list] = {}
        for i, row in enumerate(rows):
            if not row["file"]:
                continue
            with h5py.File(folder / row["file"]) as trial:
                check_storage(trial)
                assert text(trial.attrs["id"]) == row["id"]
                for path, dataset in datasets(trial).items():
                    if not path.startswith("header/"):
                        arrays.setdefault(path, [None] * len(rows))[i] = (dataset[...], text(dataset.attrs["unit"]))
        stored = {path[len("arrays/") : -len("/data")] for path in datasets(sweep) if path.startswith("arrays/") and path.endswith("/data")}
        assert stored == set(arrays)
        for path, values in arrays.items():
            data, offsets, shapes = (sweep[f"arrays/{path}/{part}"] for part in ("data", "offsets", "shapes"))
            assert offsets.shape == (len(rows) + 1,) and offsets[0] == 0 and offsets[-1] == data.shape[0]
            for i, value in enumerate(values):
                part = data[offsets[i] : offsets[i + 1]]
                if value is None:
                    assert part.size == 0 and not shapes[i].any()
                    continue
                assert tuple(shapes[i]) == value[0].shape, (path, i)
                assert part.dtype == value[0].dtype
                np.testing.assert_array_equal(part.reshape(value[0].shape), value[0])
                assert text(data.attrs["unit"]) == value[1]
        return text(sweep.attrs["digest"])


def check_checkpoint(folder: Path) -> str:
    with h5py.File(folder / "checkpoint.h5") as checkpoint:
        check_storage(checkpoint)
        assert json.loads(bytes(checkpoint["header/checkpoint"][...])) == {"step": 7}
        router = checkpoint["parameters/layers.0.router"]
        assert tuple(router.attrs["shape"]) == (8, 33) and router.shape == (8 * 33,)
        assert "shape" not in checkpoint["state/step"].attrs
        assert "record/steps/loss" in checkpoint
        return text(checkpoint.attrs["digest"])


def main() -> None:
    mpirun, program = sys.argv[1:3]
    for trials in (0, 1, 2, 23, 90):
        digests = set()
        for ranks in (1, 2, 3, 5):
            with tempfile.TemporaryDirectory() as name:
                environment = dict(os.environ, MOESWEEP_REFERENCE_FOLDER=name, MOESWEEP_REFERENCE_TRIALS=str(trials))
                command = [program, "--gtest_filter=Reference.*"]
                if ranks > 1:
                    command = [mpirun, "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), *command]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
                assert done.returncode == 0, done.stdout + done.stderr
                assert "HDF5-DIAG" not in done.stdout + done.stderr, done.stderr
                digests.add((check_sweep(Path(name)), check_checkpoint(Path(name))))
        assert len(digests) == 1, (trials, digests)
        print(f"{trials} trials: sweep.h5 and checkpoint.h5 as expected and of one digest for 1, 2, 3 and 5 ranks")


if __name__ == "__main__":
    main()
