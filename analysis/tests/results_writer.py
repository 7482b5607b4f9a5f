"""Writes synthetic sweep.h5 files exactly as analysis/FORMAT.md lays them out: an oracle beside the C++ writer, for tests only.

Also a command: `python analysis/tests/results_writer.py OUT.h5 [quickstart|scale|large|many|failed|empty|one]`; many is 10,000 trials.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

LANGUAGES = ["en-us", "de", "fr", "es", "pl", "ru", "ja", "zh-cn"]


@dataclass
class Trial:
    id: str
    state: str = "done"
    reason: str = ""
    warnings: str = ""
    axes: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


#: HDF5 1.10 can't read a chunked file that h5py with HDF5 2 writes as `latest`: every file of ours is written so.
LIBVER = ("v110", "v110")
TYPES = {"float64": "f64", "float32": "f32", "int64": "i64", "int32": "i32", "uint8": "u8"}


def put(
    file: h5py.File, path: str, values: np.ndarray, unit: str = "1", description: str = "test", **attributes: Any
) -> None:
    values = np.asarray(values)
    chunks = tuple(max(1, n) for n in values.shape)
    maxshape = tuple(None if n == 0 else n for n in values.shape)
    text = values.dtype.kind == "S"
    node = file.create_dataset(
        path,
        data=values.astype(h5py.string_dtype("utf-8", values.dtype.itemsize)) if text else values,
        chunks=chunks,
        maxshape=maxshape,
        compression=1 if text else None,
        fletcher32=True,
    )
    node.attrs["unit"], node.attrs["description"] = np.bytes_(unit), np.bytes_(description)
    for name, value in attributes.items():
        node.attrs[name] = value


def put_texts(file: h5py.File, path: str, texts: list[str]) -> None:
    width = max([1] + [len(text.encode()) for text in texts])
    put(file, path, np.array([text.encode() for text in texts], dtype=f"S{width}"))


def put_bytes(file: h5py.File, path: str, text: str) -> None:
    put(file, path, np.frombuffer(text.encode(), dtype=np.uint8))


def content_of(dataset: h5py.Dataset) -> str:
    """SHA-256 over the hexadecimal SHA-256 of the blocks of 2^20 bytes."""
    data = dataset[()].tobytes()
    blocks = (hashlib.sha256(data[first : first + (1 << 20)]).hexdigest() for first in range(0, len(data), 1 << 20))
    return hashlib.sha256("".join(blocks).encode()).hexdigest()


def text_of(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def seal(file: h5py.File, content: bool = True) -> None:
    """Gives the file its digest, and each dataset its `content` (none of them for a file of an earlier version)."""
    hasher = hashlib.sha256()

    def add(field: str) -> None:
        data = field.encode()
        hasher.update(b"%d:%s," % (len(data), data))

    for name in ("format", "id", "reason", "state", "version"):
        if name in file.attrs:
            add(name)
            add(text_of(file.attrs[name]))
    datasets: dict[str, h5py.Dataset] = {}
    file.visititems(lambda path, item: datasets.update({path: item}) if isinstance(item, h5py.Dataset) else None)
    for path, dataset in sorted(datasets.items(), key=lambda item: item[0].encode()):
        digest = content_of(dataset)
        dataset.attrs.pop("content", None)
        if content:
            dataset.attrs["content"] = np.bytes_(digest)
        add(path)
        add(
            f"s{dataset.dtype.itemsize}"
            if dataset.dtype.kind == "S"
            else TYPES.get(dataset.dtype.name, dataset.dtype.name)
        )
        add(",".join(map(str, dataset.shape)))
        for name in ("unit", "description"):
            add(text_of(dataset.attrs[name]))
        add(str(int(dataset.attrs["metric"])) if "metric" in dataset.attrs else "")
        add(",".join(map(str, dataset.attrs["shape"])) if "shape" in dataset.attrs else "")
        add(digest)
    file.attrs["digest"] = np.bytes_(hasher.hexdigest())


@contextmanager
def changed(path: Path, content: bool = True) -> Iterator[h5py.File]:
    """A file to be changed, with the right digests again afterwards: what only its meaning can be refused for."""
    with h5py.File(path, "a", libver=LIBVER) as file:
        yield file
        seal(file, content)


def write_sweep(path: Path, trials: list[Trial], name: str = "study", version: int = 1, content: bool = True) -> None:
    """Writes sweep.h5; with `content=False` as earlier versions did: no `content`, no `trials/warnings`."""
    trials = sorted(trials, key=lambda trial: trial.id)
    with h5py.File(path, "w", libver=LIBVER) as file:
        file.attrs["format"], file.attrs["version"] = np.bytes_("moesweep-sweep"), version
        put_bytes(file, "header/name", name)
        put_bytes(file, "header/resolved", json.dumps({"sweep": name}))
        put_bytes(file, "header/provenance", json.dumps({"moesweep": "0.1.0", "git": "59ac545", "trials": len(trials)}))
        put_texts(file, "trials/id", [trial.id for trial in trials])
        put_texts(file, "trials/state", [trial.state for trial in trials])
        put_texts(file, "trials/reason", [trial.reason for trial in trials])
        if content:
            put_texts(file, "trials/warnings", [trial.warnings for trial in trials])
        for axis in sorted({axis for trial in trials for axis in trial.axes}):
            put_texts(file, f"axes/{axis}", [trial.axes.get(axis, "") for trial in trials])
        for metric in sorted({metric for trial in trials for metric in trial.metrics}):
            put(
                file,
                f"metrics/{metric}",
                np.array([trial.metrics.get(metric, math.nan) for trial in trials], dtype=np.float64),
            )
        for kind in ("config", "provenance"):
            texts = [json.dumps(getattr(trial, kind)).encode() for trial in trials]
            put(
                file,
                f"texts/{kind}/offsets",
                np.concatenate([[0], np.cumsum([len(t) for t in texts])]).astype(np.int64),
            )
            put(file, f"texts/{kind}/data", np.frombuffer(b"".join(texts), dtype=np.uint8))
        for array in sorted({array for trial in trials for array in trial.arrays}):
            present = [trial.arrays.get(array) for trial in trials]
            first = next(values for values in present if values is not None)
            sizes = [0 if values is None else values.size for values in present]
            shapes = [(0,) * first.ndim if values is None else values.shape for values in present]
            data = np.concatenate([values.reshape(-1) for values in present if values is not None])
            metric = array.startswith("summary/") or (
                array.startswith("evaluations/") and first.ndim < 3 and "_by_" not in array
            )
            put(file, f"arrays/{array}/data", data, metric=int(metric and array != "evaluations/step"))
            put(file, f"arrays/{array}/offsets", np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
            put(file, f"arrays/{array}/shapes", np.array(shapes, dtype=np.int64))
        seal(file, content)


def metrics_of_counts(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Per layer and evaluation: [V, L] from [V, L, D, E]; what the testbed metrics are by definition."""
    load = counts.sum(axis=2)
    share = load / load.sum(axis=-1, keepdims=True)
    experts = counts.shape[3]
    best = counts.max(axis=2) / np.maximum(load, 1)
    return {
        "utilisation": np.minimum(share, 1 / experts).sum(axis=-1),
        "purity_expert": (share * best).sum(axis=-1),
        "expert_entropy": -(share * np.log(np.maximum(share, 1e-300))).sum(axis=-1) / math.log(experts),
        "max_violation": load.max(axis=-1) / load.mean(axis=-1) - 1,
        "dead_experts": (load == 0).sum(axis=-1).astype(np.float64),
    }


def routing_counts(rng: np.random.Generator, domains: int, experts: int, purity: float, tokens: int) -> np.ndarray:
    """Counts [D, E] in which about `purity` of an expert's slots come from one domain."""
    own = np.arange(experts) % domains
    rng.shuffle(own)
    mix = np.full((domains, experts), (1 - purity) / max(1, domains - 1))
    mix[own, np.arange(experts)] = purity
    mix *= rng.gamma(40, 1 / 40, size=mix.shape)
    return np.stack([rng.multinomial(tokens, row / row.sum()) for row in mix]).astype(np.int64)


def make_trial(
    method: str,
    scope: str,
    seed: int,
    axes: dict[str, str],
    select: str = "top_k",
    layers: int = 2,
    domains: int = 8,
    experts: int = 32,
    steps: int = 200,
    width: int = 64,
    parameters: float = 574_000.0,
    purity: float = 0.3,
    loss: float = 4.2,
    evaluations: int = 4,
) -> Trial:
    """A finished trial with every array of FORMAT.md, its numbers drawn from its name."""
    name = hashlib.sha256(json.dumps([method, scope, seed, select, axes, width]).encode()).hexdigest()[:16]
    rng = np.random.default_rng(int(name[:8], 16))
    purity = 1.0 if select == "reference" else min(0.999, purity + 0.004 * rng.standard_normal())
    evaluation_steps = np.unique(np.linspace(steps / evaluations, steps, evaluations).astype(np.int64))
    clock = np.arange(1, steps + 1, dtype=np.int64)
    curve = loss + 2.6 * np.exp(-clock / (steps / 6))
    arrays: dict[str, np.ndarray] = {
        "steps/step": clock,
        "steps/learning_rate": 6e-3 * np.minimum(1, clock / 20),
        "steps/gradient_norm": rng.gamma(20, 0.05, steps),
        "steps/tokens_per_second": rng.normal(4e4, 2e3, steps),
        "steps/seconds": clock * 0.1,
        "steps/loss": curve + 0.04 * rng.standard_normal(steps),
        "steps/balance_loss": np.full(steps, 0.1 if method == "aux_loss" else 0.0),
        "steps/z_loss": np.zeros(steps),
        "steps/drop_rate": np.zeros((steps, layers)),
        "steps/max_violation_micro_batch": rng.gamma(4, 0.3, (steps, layers)),
        "steps/max_violation_global_batch": rng.gamma(4, 0.1, (steps, layers)),
        "evaluations/step": evaluation_steps,
    }
    if method == "aux_loss":
        arrays["steps/losses.aux_loss"] = 0.01 + 0.02 * np.exp(-clock / 30) + 0.001 * rng.standard_normal(steps)
        # A capacity that overflows early and less as the load evens out.
        arrays["steps/drop_rate"] = np.maximum(
            0,
            (0.3 if scope == "sequence" else 0.12) * np.exp(-clock / (steps / 3))[:, None]
            + 0.01 * rng.standard_normal((steps, layers)),
        )
    tokens = 16384 * 4 // domains
    for prefix in ("", "greedy."):
        values = loss + 0.05 + 2.6 * np.exp(-evaluation_steps / (steps / 6)) + 0.01 * rng.standard_normal()
        by_domain = values[:, None] + 0.3 * rng.standard_normal(domains)[None, :]
        counts = np.stack(
            [
                np.stack(
                    [
                        routing_counts(rng, domains, experts, 1 / domains + (purity - 1 / domains) * grown, tokens)
                        for _ in range(layers)
                    ]
                )
                for grown in (
                    np.ones(evaluations) if select == "reference" else 1 - np.exp(-evaluation_steps / (steps / 4))
                )[: len(evaluation_steps)]
            ]
        )
        arrays[f"evaluations/{prefix}counts"] = counts
        arrays[f"evaluations/{prefix}loss"] = values
        arrays[f"evaluations/{prefix}bits_per_byte"] = values / math.log(2) / 3.1
        arrays[f"evaluations/{prefix}loss_by_domain"] = by_domain
        for metric, numbers in metrics_of_counts(counts).items():
            arrays[f"evaluations/{prefix}{metric}"] = numbers
        by_expert = values[:, None, None] + 0.25 * np.linspace(0, 1, len(values))[:, None, None] * rng.standard_normal(
            (1, layers, experts)
        )
        by_expert[counts.sum(axis=2) == 0] = np.nan
        arrays[f"evaluations/{prefix}loss_by_expert"] = by_expert
    for metric, number in {
        "parameters_total": parameters,
        "parameters_active": parameters * 0.4,
        "training_tokens": 64.0 * 64 * steps,
        "training_seconds": 64.0 * 64 * steps / float(rng.normal(4e4 if method == "aux_loss" else 3.6e4, 500)),
        "causal": 0.0 if method == "expert_bias" and scope == "sequence" else 1.0,
    }.items():
        arrays[f"summary/{metric}"] = np.array([number])
    metrics = {
        path.split("/", 1)[1]: float(values[-1].mean())
        for path, values in arrays.items()
        if not path.startswith("steps/") and path != "evaluations/step" and "counts" not in path and "_by_" not in path
    }
    return Trial(
        id=name,
        axes=axes,
        metrics=metrics,
        arrays=arrays,
        config={
            "seed": seed,
            "model": {"width": width, "layers": layers, "experts": experts},
            "data": {"domains": (LANGUAGES if domains == 8 else [f"topic {i}" for i in range(domains)])},
            "routing": {"select": select, "balance": {"method": method, "scope": scope}},
        },
        provenance={
            "version": "0.1.0",
            "git": "59ac545",
            "host": f"node{seed % 2 + 1}",
            "command_line": ["moesweep", "run", "configs/sweeps/quickstart.yaml"],
            "slurm": {},
            "environment": {"OMP_NUM_THREADS": "1"},
            "data_digest": "9f2c" * 16,
            "start": f"2025-03-01T10:{seed:02d}:00Z",
            "end": f"2025-03-01T10:{seed + 5:02d}:30Z",
        },
    )


PURITY = {
    ("aux_loss", "sequence"): 0.17,
    ("aux_loss", "micro_batch"): 0.21,
    ("aux_loss", "global_batch"): 0.46,
    ("expert_bias", "sequence"): 0.405,
    ("expert_bias", "micro_batch"): 0.406,
    ("expert_bias", "global_batch"): 0.404,
}


def study(
    scales: dict[int, float] | None = None, seeds: int = 3, extra: dict[str, list[str]] | None = None, **options: Any
) -> list[Trial]:
    """The quickstart's 27 trials; with `scales` (width: parameters) at several sizes; with `extra` axes multiplied in."""
    trials: list[Trial] = []
    grid: list[dict[str, str]] = [{}]
    for axis, values in (extra or {}).items():
        grid = [point | {axis: value} for point in grid for value in values]
    for width, parameters in (scales or {64: 574_000.0}).items():
        for seed in range(1, seeds + 1):
            settings = [
                ("none", "global_batch", "top_k", 0.36),
                ("none", "global_batch", "reference", 1.0),
                ("none", "global_batch", "random", 0.125),
            ]
            settings += [(method, scope, "top_k", purity) for (method, scope), purity in PURITY.items()]
            for method, scope, select, purity in settings:
                for number, point in enumerate(grid):
                    axes = {
                        "routing.balance.method": method,
                        "routing.balance.scope": scope,
                        "routing.select": select,
                        "seed": str(seed),
                    } | point
                    axes["routing.score"] = "sigmoid" if method == "expert_bias" else "softmax"
                    if scales:
                        axes["model.width"] = str(width)
                    loss = 4.35 - 0.3 * purity - 0.1 * math.log(width / 64) + 0.02 * number
                    trials.append(
                        make_trial(
                            method,
                            scope,
                            seed,
                            axes,
                            select,
                            width=width,
                            parameters=parameters,
                            purity=purity,
                            loss=loss,
                            **options,
                        )
                    )
    references = {
        (t.axes.get("model.width"), t.axes["seed"]): t for t in trials if t.axes["routing.select"] == "reference"
    }
    for trial in trials:
        reference = references[(trial.axes.get("model.width"), trial.axes["seed"])]
        for metric, sign in (("loss", 1), ("purity_expert", -1), ("utilisation", -1)):
            for prefix in ("", "greedy."):
                name = prefix + metric
                trial.metrics[f"gap_to_reference.{name}"] = sign * (trial.metrics[name] - reference.metrics[name])
    return trials


def fail(trial: Trial, state: str, reason: str) -> Trial:
    """The same trial without results."""
    provenance = trial.provenance if state != "pending" else {}
    return Trial(trial.id, state, reason, "", trial.axes, {}, trial.config, provenance, {})


def with_failures(trials: list[Trial]) -> list[Trial]:
    kinds = [
        ("failed", "data.store: shard 3 of the token store is missing"),
        ("diverged", "the training loss is NaN at step 57"),
        ("out_of_memory", "the process was killed at 15.2 GiB"),
        ("failed", "data.store: shard 3 of the token store is missing"),
        ("pending", ""),
    ]
    return [fail(trial, *kinds[i % 5]) if i % 7 == 3 else trial for i, trial in enumerate(trials)]


def example(kind: str) -> list[Trial]:
    if kind == "quickstart":
        return study()
    if kind == "scale":
        return study({64: 574_000.0, 256: 20_090_000.0}, layers=2)
    if kind == "failed":
        return with_failures(study())
    if kind == "large":
        return with_failures(
            study(
                {64: 574_000.0, 256: 20_090_000.0},
                seeds=4,
                extra={
                    "routing.balance.weight": ["0.01", "0.1"],
                    "train.learning_rate": ["1e-3", "3e-3", "6e-3", "1e-2"],
                },
            )
        )[:500]
    if kind == "many":
        # 10,000 trials that share the arrays of 54, with a config of the size of a real one.
        base = study(seeds=6, steps=20, experts=8, domains=4)
        padding = {f"option_{i}": {"value": i / 7, "text": "as resolved"} for i in range(60)}
        return [
            replace(
                t := base[i % 54],
                id=hashlib.sha256(str(i).encode()).hexdigest()[:16],
                axes=t.axes | {"train.learning_rate": str(1e-4 * (1 + i // 54))},
                config=t.config | padding,
            )
            for i in range(10_000)
        ]
    if kind == "one":
        return study()[:1]
    if kind == "empty":
        return []
    raise SystemExit(f"unknown example {kind}")


if __name__ == "__main__":
    write_sweep(Path(sys.argv[1]), example(sys.argv[2] if len(sys.argv) > 2 else "quickstart"), name="quickstart")
