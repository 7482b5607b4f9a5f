"""A sweep as pandas frames: trials, steps, evaluations and routing counts, tidy, the large ones read only when asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd

from moesweep.results.file import AnyArray, ArrayInfo, Ragged, SweepFile

READINGS = ("training", "greedy")
GREEDY = "greedy."
THROUGHPUT = "tokens_per_second"
#: States of a trial.
STATES = frozenset(
    (
        "done",
        "failed",
        "diverged",
        "out_of_memory",
        "timed_out",
        "crashed",
        "preempted",
        "skipped",
        "pending",
        "running",
    )
)
#: Columns of `trials` that are neither axes nor metrics.
FIXED_COLUMNS = ("id", "state", "reason", "warnings", "config")
#: Words with commas between.
WARNINGS = re.compile(r"[a-z0-9_]+(,[a-z0-9_]+)*")
#: The warning of a trial whose validation loss is that of guessing every token alike.
NO_BETTER = "no_better_than_uniform"


class Config(Mapping[str, Any]):
    """A trial's resolved config. Parsed when first looked into; `config["routing.balance.scope"]` reaches inside sections."""

    __slots__ = ("_parsed", "_row", "_sweep")

    def __init__(self, sweep: Sweep, row: int) -> None:
        self._sweep = sweep
        self._row = row
        self._parsed: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The config as plain nested dicts; empty when the aggregate has none for the trial."""
        if self._parsed is None:
            self._parsed = self._sweep._json_text("config", self._row)
        return self._parsed

    def __getitem__(self, key: str) -> Any:
        whole = self.as_dict()
        if key in whole:
            return whole[key]
        value: Any = whole
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise KeyError(key)
            value = value[part]
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.as_dict())

    def __len__(self) -> int:
        return len(self.as_dict())

    def __repr__(self) -> str:
        return f"Config({self._sweep.ids[self._row]})"


def parse_column(texts: list[str]) -> pd.Series[Any]:
    """An axis as numbers or booleans when every value is one, as text otherwise. `none` beside numbers is NaN."""
    if texts and all(text in ("true", "false") for text in texts):
        return pd.Series([text == "true" for text in texts], dtype=bool)
    given = [text for text in texts if text not in ("", "none", "null")]
    if given:
        try:
            integers = [int(text) for text in given]
            if len(given) == len(texts) and all(str(n) == text for n, text in zip(integers, given, strict=True)):
                return pd.Series(integers, dtype="int64")
        except (ValueError, OverflowError):
            pass
        try:
            numbers = [float(text) if text not in ("", "none", "null") else math.nan for text in texts]
            return pd.Series(numbers, dtype="float64")
        except ValueError:
            pass
    return pd.Series(texts) if texts else pd.Series(texts, dtype=object)


@final
class Sweep:
    """An aggregate, read through `open_sweep`. Frames are made on first use and kept; the file stays open until `close()`.

    `name`, `resolved` (the sweep as resolved) and `header` (provenance of the aggregation) come from the file's header;
    `ids` are the trials in the file's order; `axes` and `metrics` name the columns of `trials`.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = SweepFile(path)
        try:
            self.path = self._file.path
            self.version = self._file.version
            self.digest = self._file.digest
            self.name = self._file.text("header/name")
            self.resolved: dict[str, Any] = self._file.json("header/resolved")
            self.header: dict[str, Any] = self._file.json("header/provenance")
            self.ids: list[str] = self._file.texts("trials/id")
            self.axes: list[str] = self._file.names("axes")
            self.metrics: list[str] = self._file.names("metrics")
            self._rows = {trial: row for row, trial in enumerate(self.ids)}
            self._check_names()
        except BaseException:
            self._file.close()
            raise
        self._texts: dict[str, tuple[AnyArray, AnyArray]] = {}
        self._ragged: dict[str, Ragged] = {}
        self._domains: dict[int, list[str]] = {}

    def _check_names(self) -> None:
        """Ids are printable, each once and in order; no column of `trials` has the name of another; a metric has one array."""
        for row, trial in enumerate(self.ids):
            if not trial or not trial.isprintable():
                raise self._file.corrupt("trials/id", f"has {trial!r} in row {row}, which is no trial id")
        if len(self._rows) != len(self.ids):
            raise self._file.corrupt("trials/id", "names a trial twice")
        if self.ids != sorted(self.ids):
            raise self._file.corrupt("trials/id", "is not in the order of the ids")
        taken = set(FIXED_COLUMNS)
        for group, names in (("axes", self.axes), ("metrics", self.metrics)):
            for name in names:
                if name in taken:
                    raise self._file.corrupt(f"{group}/{name}", "has the name of another column of the trials")
                taken.add(name)
        arrays: dict[str, str] = {}
        for path in self._file.array_paths():
            name = path.partition("/")[2]
            if not self._file.array_info(path).metric:
                continue
            if name in arrays:
                raise self._file.corrupt(
                    f"arrays/{path}/data", f"gives the metric {name}, and so does arrays/{arrays[name]}/data"
                )
            arrays[name] = path

    def close(self) -> None:
        """Closes the file; frames made before stay usable."""
        self._file.close()

    def __enter__(self) -> Sweep:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Sweep({self.name!r}, {len(self)} trials, {self.path})"

    # Rows ------------------------------------------------------------------------------------------------------------

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row a trial: `id`, `state`, `reason`, `warnings`, a column per axis (dotted path), one per metric, and `config` (parsed when looked into).

        `warnings` holds words with commas between, empty for none: `no_better_than_uniform` says that the trial's validation loss is
        that of guessing every token alike. Files of earlier versions have none.
        Metrics are the last evaluation's layer means: a plain name is the training reading, `greedy.NAME` the greedy one,
        `gap_to_reference.NAME` is above 0 where the trial is worse than the reference router. NaN where a trial has none.
        `tokens_per_second` is derived: training tokens over the wall time of all training steps. Losses are in nats per token,
        `training_seconds` in s; shares, purities and violations have the unit 1. A damaged file raises `SweepError`, as in all frames.
        """
        columns: dict[str, Any] = {
            "id": self.ids,
            "state": self._states(),
            "reason": self._file.texts("trials/reason"),
            "warnings": self._warnings(),
        }
        for axis in self.axes:
            texts = self._file.texts(f"axes/{axis}")
            if len(texts) != len(self):
                raise self._file.corrupt(f"axes/{axis}", f"has {len(texts)} values for {len(self)} trials")
            columns[axis] = parse_column(texts)
        for metric in self.metrics:
            columns[metric] = self._file.column(f"metrics/{metric}").astype(np.float64)
        if THROUGHPUT not in columns and {"training_tokens", "training_seconds"} <= columns.keys():
            seconds = columns["training_seconds"]
            columns[THROUGHPUT] = np.divide(
                columns["training_tokens"], seconds, out=np.full(len(self), np.nan), where=seconds > 0
            )
        columns["config"] = pd.Series([Config(self, row) for row in range(len(self))], dtype=object)
        return pd.DataFrame(columns)

    def _states(self) -> list[str]:
        states = self._file.texts("trials/state")
        for row, state in enumerate(states):
            if state not in STATES:
                raise self._file.corrupt("trials/state", f"has {state!r} for trial {self.ids[row]}, which is no state")
        return states

    def _warnings(self) -> list[str]:
        if "trials/warnings" not in self._file.datasets:
            return [""] * len(self)
        warnings = self._file.texts("trials/warnings")
        if len(warnings) != len(self):
            raise self._file.corrupt("trials/warnings", f"has {len(warnings)} values for {len(self)} trials")
        for row, text in enumerate(warnings):
            if text and not WARNINGS.fullmatch(text):
                raise self._file.corrupt(
                    "trials/warnings", f"has {text!r} for trial {self.ids[row]}, which are no words"
                )
        return warnings

    def row(self, trial: str) -> int:
        """The trial's row; a unique beginning of its id will do. KeyError when there is none, or more than one."""
        if trial in self._rows:
            return self._rows[trial]
        matches = [row for name, row in self._rows.items() if trial and name.startswith(trial)]
        if len(matches) != 1:
            raise KeyError(f"{len(matches)} trials of {self.path} begin with {trial!r}")
        return matches[0]

    def config(self, trial: str) -> Config:
        """The trial's resolved config, by id."""
        return Config(self, self.row(trial))

    def provenance(self, trial: str) -> dict[str, Any]:
        """Versions, host, command, start, end, seeds and data digest of the trial's run; empty when it never ran."""
        return self._json_text("provenance", self.row(trial))

    def domains(self, trial: str) -> list[str]:
        """Names of the trial's domains, in the order of their numbers; `domain 0`, ... where its config names too few."""
        try:
            names = [str(name) for name in self.config(trial)["data.domains"]]
        except (KeyError, TypeError):
            names = []
        ragged = self._array("evaluations/counts")
        row = self.row(trial)
        counted = ragged is not None and ragged.shapes.shape[1] == 4 and ragged.has(row)
        needed = int(ragged.shapes[row][2]) if ragged is not None and counted else len(names)
        return names[:needed] + [f"domain {i}" for i in range(len(names), needed)]

    def _json_text(self, kind: str, row: int) -> dict[str, Any]:
        if kind not in self._texts:
            data = self._file.numbers(f"texts/{kind}/data", ("u8",))
            if data.ndim != 1:
                raise self._file.corrupt(f"texts/{kind}/data", f"has {data.ndim} dimensions where 1 is expected")
            self._texts[kind] = (data, self._file.offsets(f"texts/{kind}/offsets", len(data)))
        data, offsets = self._texts[kind]
        mine = data[offsets[row] : offsets[row + 1]].tobytes()
        return self._file.parse(f"texts/{kind}/data", mine, f" in row {row}, trial {self.ids[row]}")

    # Arrays ----------------------------------------------------------------------------------------------------------

    @cached_property
    def array_paths(self) -> list[str]:
        """`GROUP/NAME` of every array in the file."""
        return self._file.array_paths()

    def array_info(self, path: str) -> ArrayInfo:
        """Unit and description of an array."""
        return self._file.array_info(path)

    def array(self, trial: str, path: str) -> AnyArray | None:
        """A trial's array `GROUP/NAME` in its own shape; None when the trial, or the whole file, has none."""
        ragged = self._array(path)
        return None if ragged is None else ragged.of(self.row(trial))

    def counts(self, trial: str, reading: str = "training") -> AnyArray | None:
        """Routing counts of a trial, [evaluations, layers, domains, experts] (token, slot) pairs; None when it has none."""
        path = f"evaluations/{_prefix(reading)}counts"
        counts = self.array(trial, path)
        if counts is not None and counts.size and counts.min() < 0:
            raise self._file.corrupt(f"arrays/{path}/data", f"has negative counts for trial {trial}")
        return counts

    def _array(self, path: str) -> Ragged | None:
        if path not in self.array_paths:
            return None
        if path not in self._ragged:
            self._ragged[path] = self._file.ragged(path)
        return self._ragged[path]

    # Frames of series ------------------------------------------------------------------------------------------------

    @cached_property
    def steps(self) -> pd.DataFrame:
        """One row a trial and training step: `id`, `step`, and a column per step array (`loss`, `learning_rate`, ...).

        Arrays with further dimensions (`max_violation_micro_batch`, ...) are averaged over them; `array` gives them whole.
        Losses are in nats per token, `seconds` in s, drop rates in shares of the (token, slot) pairs. Raises `SweepError`.
        """
        names = [path.removeprefix("steps/") for path in self.array_paths if path.startswith("steps/")]
        clock = self._array("steps/step")
        if clock is None:
            return pd.DataFrame({"id": pd.Series(dtype=object), "step": pd.Series(dtype="int64")})
        lengths = np.diff(clock.offsets)
        frame: dict[str, Any] = {
            "id": pd.Categorical.from_codes(np.repeat(np.arange(len(self)), lengths), categories=self.ids),
            "step": clock.data.astype(np.int64),
        }
        for name in names:
            if name == "step":
                continue
            ragged = self._array(f"steps/{name}")
            assert ragged is not None
            column = np.full(len(clock.data), np.nan)
            if ragged.shapes.shape[1] == 1 and np.array_equal(ragged.offsets, clock.offsets):
                column[:] = ragged.data
            else:
                for rows, values in ragged.alike():
                    wrong = rows[lengths[rows] != values.shape[1]]
                    if len(wrong):
                        raise self._file.corrupt(
                            f"arrays/steps/{name}",
                            f"has {values.shape[1]} steps for trial {self.ids[wrong[0]]}, steps/step has {lengths[wrong[0]]}",
                        )
                    where = clock.offsets[rows][:, None] + np.arange(values.shape[1])
                    column[where] = values.reshape(len(rows), values.shape[1], -1).mean(axis=2)
            frame[name] = column
        return pd.DataFrame(frame)

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """One row a trial, evaluation, reading, metric and, where the metric has them, layer or domain.

        Columns `id`, `evaluation` (0, 1, ...), `step`, `reading` (training or greedy), `metric`, `layer` (<NA> when the
        metric has no layers), `domain` (name, or missing) and `value`. Arrays by expert: see `routing` and `by_expert`.
        Losses are in nats per token, `bits_per_byte` in bits per byte, all else has the unit 1. Raises `SweepError`.
        """
        columns: dict[str, list[AnyArray]] = {
            name: [] for name in ("id", "evaluation", "step", "reading", "metric", "layer", "domain", "value")
        }
        metrics: list[str] = []
        domains: dict[str, int] = {}
        for path in self.array_paths:
            group, _, full_name = path.partition("/")
            ragged = self._array(path) if group == "evaluations" and full_name != "step" else None
            if ragged is None or ragged.shapes.shape[1] not in (1, 2):
                continue
            reading, name = _split_reading(full_name)
            if name not in metrics:
                metrics.append(name)
            by_domain = name.endswith("_by_domain")
            for rows, values in ragged.alike():
                count, evaluations = values.shape[:2]
                width = values.shape[2] if values.ndim == 3 else 1
                inner = np.arange(width)
                nothing = np.full(values.size, -1)
                whole = (count, evaluations, width)
                of_domain = nothing
                if by_domain:
                    codes = [[domains.setdefault(d, len(domains)) for d in self._domain_names(r, width)] for r in rows]
                    of_domain = np.broadcast_to(np.array(codes).reshape(count, 1, width), whole).reshape(-1)
                by_layer = values.ndim == 3 and not by_domain
                columns["id"].append(np.repeat(rows, evaluations * width))
                columns["evaluation"].append(np.broadcast_to(np.arange(evaluations)[None, :, None], whole).reshape(-1))
                columns["step"].append(np.repeat(self._steps_of(rows, evaluations, path).reshape(-1), width))
                columns["reading"].append(np.full(values.size, READINGS.index(reading)))
                columns["metric"].append(np.full(values.size, metrics.index(name)))
                columns["layer"].append(np.broadcast_to(inner, whole).reshape(-1) if by_layer else nothing)
                columns["domain"].append(of_domain)
                columns["value"].append(values.reshape(-1).astype(np.float64))
        joined = {
            name: np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64) for name, parts in columns.items()
        }
        layer = pd.Series(joined["layer"], dtype="Int64")
        return pd.DataFrame(
            {
                "id": pd.Categorical.from_codes(joined["id"], categories=self.ids),
                "evaluation": joined["evaluation"],
                "step": joined["step"],
                "reading": pd.Categorical.from_codes(joined["reading"], categories=list(READINGS)),
                "metric": pd.Categorical.from_codes(joined["metric"], categories=metrics),
                "layer": layer.mask(layer < 0),
                "domain": pd.Categorical.from_codes(joined["domain"], categories=list(domains)),
                "value": joined["value"].astype(np.float64),
            }
        )

    @cached_property
    def routing(self) -> pd.DataFrame:
        """Routing counts of every trial and evaluation, tidy; large, so read when first asked for.

        Columns `id`, `evaluation`, `step`, `reading`, `layer`, `domain`, `expert`, `count` in (token, slot) pairs.
        `iter_routing` gives the same in pieces, `counts` one trial's as an array. Raises `SweepError`.
        """
        frame = pd.concat(list(self.iter_routing(len(self) or 1)), ignore_index=True)
        return frame.astype({"domain": "category"}) if len(frame) else frame

    def iter_routing(self, trials: int = 64) -> Iterator[pd.DataFrame]:
        """The frame `routing` in pieces of that many trials, so that no more than a piece is in memory. Gives at least one piece."""
        for first in range(0, max(1, len(self)), trials):
            yield self._routing_of(first, min(len(self), first + trials))

    def by_expert(self, name: str = "loss_by_expert") -> pd.DataFrame:
        """An evaluation array [evaluations, layers, experts] of every trial, tidy: `loss_by_expert`, `drop_rate_by_expert`.

        Columns `id`, `evaluation`, `step`, `reading`, `layer`, `expert`, `value`; NaN where the expert had no tokens. No rows when
        no trial recorded it.
        """
        parts: list[pd.DataFrame] = []
        for reading in READINGS:
            path = f"evaluations/{_prefix(reading)}{name}"
            ragged = self._array(path)
            if ragged is None:
                continue
            if ragged.shapes.shape[1] != 3:
                raise self._file.corrupt(
                    f"arrays/{path}", f"has {ragged.shapes.shape[1]} dimensions where 3 are expected"
                )
            for rows, values in ragged.alike():
                trial, evaluation, layer, expert = (index.reshape(-1) for index in np.indices(values.shape))
                part: dict[str, Any] = {
                    "id": pd.Categorical.from_codes(rows[trial], categories=self.ids),
                    "evaluation": evaluation,
                    "step": self._steps_of(rows, values.shape[1], path)[trial, evaluation],
                    "reading": pd.Categorical.from_codes(
                        np.full(values.size, READINGS.index(reading)), categories=list(READINGS)
                    ),
                    "layer": layer,
                    "expert": expert,
                    "value": values.reshape(-1).astype(np.float64),
                }
                parts.append(pd.DataFrame(part))
        if not parts:
            return pd.DataFrame(columns=["id", "evaluation", "step", "reading", "layer", "expert", "value"])
        return pd.concat(parts, ignore_index=True)

    def _routing_of(self, first: int, last: int) -> pd.DataFrame:
        parts: list[pd.DataFrame] = []
        for reading in READINGS:
            path = f"evaluations/{_prefix(reading)}counts"
            ragged = self._array(path)
            if ragged is None:
                continue
            if ragged.shapes.shape[1] != 4:
                raise self._file.corrupt(
                    f"arrays/{path}", f"has {ragged.shapes.shape[1]} dimensions where 4 are expected"
                )
            for rows, counts in ragged.alike(first, last):
                trial, evaluation, layer, domain, expert = (index.reshape(-1) for index in np.indices(counts.shape))
                codes: dict[str, int] = {}
                of = [[codes.setdefault(d, len(codes)) for d in self._domain_names(r, counts.shape[3])] for r in rows]
                part: dict[str, Any] = {
                    "id": pd.Categorical.from_codes(rows[trial], categories=self.ids),
                    "evaluation": evaluation,
                    "step": self._steps_of(rows, counts.shape[1], path)[trial, evaluation],
                    "reading": pd.Categorical.from_codes(
                        np.full(counts.size, READINGS.index(reading)), categories=list(READINGS)
                    ),
                    "layer": layer,
                    "domain": np.array(list(codes), dtype=object)[np.array(of)[trial, domain]],
                    "expert": expert,
                    "count": counts.reshape(-1).astype(np.int64),
                }
                parts.append(pd.DataFrame(part))
        if not parts:
            return pd.DataFrame(columns=["id", "evaluation", "step", "reading", "layer", "domain", "expert", "count"])
        return pd.concat(parts, ignore_index=True)

    def _steps_of(self, rows: AnyArray, evaluations: int, path: str) -> AnyArray:
        """Steps of the evaluations of each of these trials, [n, evaluations]."""
        clock = self._array("evaluations/step")
        lengths = np.diff(clock.offsets)[rows] if clock is not None else np.zeros(len(rows), dtype=np.int64)
        wrong = np.flatnonzero(lengths != evaluations)
        if clock is None or len(wrong):
            found = "none" if lengths[wrong[0]] == 0 else str(lengths[wrong[0]])
            raise self._file.corrupt(
                f"arrays/{path}",
                f"has {evaluations} evaluations for trial {self.ids[rows[wrong[0]]]}, evaluations/step has {found}",
            )
        return np.asarray(clock.data[clock.offsets[rows][:, None] + np.arange(evaluations)]).astype(np.int64)

    def _domain_names(self, row: int, count: int) -> list[str]:
        if row not in self._domains:
            self._domains[row] = self.domains(self.ids[row])
        names = self._domains[row][:count]
        return names + [f"domain {i}" for i in range(len(names), count)]


def _prefix(reading: str) -> str:
    if reading not in READINGS:
        raise ValueError(f"reading is {reading!r}; it can be {' or '.join(READINGS)}")
    return GREEDY if reading == "greedy" else ""


def _split_reading(name: str) -> tuple[str, str]:
    return ("greedy", name.removeprefix(GREEDY)) if name.startswith(GREEDY) else ("training", name)


def open_sweep(path: str | Path) -> Sweep:
    """Opens an aggregate (sweep.h5) for reading.

    Raises `NotASweep` (missing or foreign file), `NewerSweep` (format newer than this package) or `CorruptSweep` (a damaged
    dataset, named), all of them `SweepError`. Large datasets are read and checked when a frame asks for them.
    """
    return Sweep(path)
