"""Writes the frames of a sweep for other tools: CSV and Parquet tables, TensorBoard event files.

Large frames are written piece by piece, files appear whole by rename, and a second export replaces the first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moesweep.results.file import AnyArray
from moesweep.results.settings import describe_trials, value_text
from moesweep.results.sweep import READINGS, Sweep

TABLES = ("trials", "steps", "evaluations", "routing")
#: How many trials' routing counts are in memory at a time.
PIECE = 64

Writer = Callable[[Sweep, str, Iterator[pd.DataFrame], Path], int]


def export_csv(sweep: Sweep, folder: Path) -> Iterator[tuple[Path, int]]:
    """Writes trials, steps, evaluations and routing as CSV in full precision; gives each file and its number of rows.

    In trials.csv the column `config` holds JSON. Missing numbers are empty.
    """
    return _export(sweep, folder, "csv", _write_csv)


def export_parquet(sweep: Sweep, folder: Path) -> Iterator[tuple[Path, int]]:
    """Writes the same tables as Parquet; gives each file and its number of rows.

    The schema's metadata name the sweep (`moesweep.sweep`, `moesweep.digest`), a column's its `unit` and `description` where
    the sweep has them.
    """
    return _export(sweep, folder, "parquet", _write_parquet)


def _export(sweep: Sweep, folder: Path, ending: str, write: Writer) -> Iterator[tuple[Path, int]]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        path = folder / f"{name}.{ending}"
        temporary = path.with_name(path.name + ".part")
        try:
            rows = write(sweep, name, _pieces(sweep, name), temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        yield path, rows


def _pieces(sweep: Sweep, name: str) -> Iterator[pd.DataFrame]:
    if name == "routing":
        yield from sweep.iter_routing(PIECE)
    elif name == "trials":
        texts = [json.dumps(config.as_dict(), separators=(",", ":")) for config in sweep.trials["config"]]
        yield sweep.trials.assign(config=pd.Series(texts, dtype=object))
    else:
        yield getattr(sweep, name)


def _write_csv(sweep: Sweep, name: str, pieces: Iterator[pd.DataFrame], path: Path) -> int:
    rows = 0
    with path.open("w", encoding="utf-8", newline="") as out:
        for number, piece in enumerate(pieces):
            # RFC 4180 ends lines so; and a carriage return inside a text is then quoted, as a line feed is.
            piece.to_csv(out, index=False, header=number == 0, lineterminator="\r\n")
            rows += len(piece)
    return rows


def _write_parquet(sweep: Sweep, name: str, pieces: Iterator[pd.DataFrame], path: Path) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    writer: Any = None
    rows = 0
    try:
        for piece in pieces:
            # Parquet keeps its own dictionaries; categories that differ from piece to piece would not fit one schema.
            texts = [c for c in piece.columns if isinstance(piece[c].dtype, pd.CategoricalDtype)]
            table = pa.Table.from_pandas(piece.astype({c: object for c in texts}), preserve_index=False)
            if writer is None:
                schema = pa.schema([_field(sweep, name, field) for field in table.schema])
                about = {"moesweep.sweep": sweep.name, "moesweep.digest": sweep.digest, "moesweep.table": name}
                schema = schema.with_metadata(about)
                writer = parquet.ParquetWriter(path, schema)
            writer.write_table(table.cast(writer.schema))
            rows += len(piece)
    finally:
        if writer is not None:
            writer.close()
    return rows


def _field(sweep: Sweep, table: str, field: Any) -> Any:
    import pyarrow as pa

    kind = field.type
    if pa.types.is_null(kind):
        # A column without a value: the type that it has where there is one.
        kind = pa.int64() if table == "routing" and field.name not in ("id", "reading", "domain") else pa.string()
    paths = [f"{table}/{field.name}", f"evaluations/{field.name}", f"summary/{field.name}"]
    found = next((p for p in paths if p in sweep.array_paths), None) if table in ("trials", "steps") else None
    info = sweep.array_info(found) if found else None
    about = {"unit": info.unit, "description": info.description} if info else None
    return pa.field(field.name, kind, metadata=about)


def export_tensorboard(sweep: Sweep, folder: Path) -> Iterator[tuple[Path, int]]:
    """Writes one run a trial that recorded anything; gives each event file and its number of scalars.

    Tags: `steps/NAME` (means over layers), `evaluations/READING/NAME` with `.../layer L` and `.../domain D` beside them; the
    trial's axes and last metrics go to the hyperparameter tab, its config to the texts. Event times are those of the trial.
    TensorBoard holds scalars as float32: Parquet and CSV keep what the sweep has.
    """
    described = describe_trials(sweep)
    folder.mkdir(parents=True, exist_ok=True)
    for row, trial in enumerate(sweep.ids):
        series = _series(sweep, trial)
        if not series:
            continue
        seed = described["seed"].iloc[row]
        name = str(described["label"].iloc[row]) + ("" if seed is None else f"-seed {value_text(seed)}")
        run = folder / (re.sub(r"[^A-Za-z0-9.=-]+", "_", name)[:120] + "-" + trial[:12])
        yield _write_run(sweep, row, series, run)


Series = dict[str, tuple[AnyArray, AnyArray]]


def _series(sweep: Sweep, trial: str) -> Series:
    """Steps and values of each tag."""
    found: Series = {}
    steps, evaluations = sweep.array(trial, "steps/step"), sweep.array(trial, "evaluations/step")
    for path in sweep.array_paths:
        group, _, full_name = path.partition("/")
        clock = {"steps": steps, "evaluations": evaluations}.get(group)
        if clock is None or full_name == "step" or len(clock) == 0:
            continue
        values = sweep.array(trial, path)
        if values is None or values.ndim > 2 or len(values) != len(clock) or values.size == 0:
            continue
        if group == "steps":
            found[f"steps/{full_name}"] = clock, values.reshape(len(values), -1).mean(axis=1)
            continue
        greedy = full_name.startswith("greedy.")
        name = full_name.removeprefix("greedy.")
        tag = f"evaluations/{READINGS[int(greedy)]}/{name}"
        if name.endswith("_by_domain"):
            for domain, column in zip(sweep.domains(trial), values.T, strict=False):
                found[f"{tag}/{domain}"] = clock, column
            continue
        found[tag] = clock, values.reshape(len(values), -1).mean(axis=1)
        if values.ndim == 2 and values.shape[1] > 1:
            for layer, column in enumerate(values.T):
                found[f"{tag}/layer {layer}"] = clock, column
    return found


def _write_run(sweep: Sweep, row: int, series: Series, run: Path) -> tuple[Path, int]:
    from tensorboardX import summary
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.record_writer import RecordWriter

    trial = sweep.ids[row]
    start, times = _times(sweep, trial)
    by_step: dict[int, list[Any]] = {}
    for tag, (clock, values) in sorted(series.items()):
        for step, value in zip(clock.tolist(), values.tolist(), strict=True):
            by_step.setdefault(int(step), []).append(Summary.Value(tag=tag, simple_value=float(value)))
    trials = sweep.trials
    axes = {axis: _plain(trials[axis].iloc[row]) for axis in sweep.axes}
    last = {tag: float(values[-1]) for tag, (_, values) in series.items() if tag.count("/") == 2}
    about = [*summary.hparams(axes, last), summary.text("config", _config_text(sweep, trial))]

    run.mkdir(parents=True, exist_ok=True)
    path = run / f"events.out.tfevents.{int(start)}.moesweep"
    temporary = run / "part"
    writer = RecordWriter(str(temporary))
    writer.write(Event(wall_time=start, file_version="brain.Event:2").SerializeToString())
    for item in about:
        writer.write(Event(wall_time=start, summary=item).SerializeToString())
    for step, scalars in sorted(by_step.items()):
        event = Event(wall_time=start + times.get(step, 0.0), step=step, summary=Summary(value=scalars))
        writer.write(event.SerializeToString())
    writer.close()
    for old in run.glob("events.out.tfevents.*.moesweep"):
        old.unlink()
    temporary.replace(path)
    return path, sum(len(scalars) for scalars in by_step.values())


def _times(sweep: Sweep, trial: str) -> tuple[float, dict[int, float]]:
    """Start of the trial in seconds since 1970 (0 unknown), and seconds from there to the end of each step."""
    try:
        start = datetime.fromisoformat(str(sweep.provenance(trial).get("start", "")).replace("Z", "+00:00")).timestamp()
    except ValueError:
        start = 0.0
    steps, seconds = sweep.array(trial, "steps/step"), sweep.array(trial, "steps/seconds")
    if steps is None or seconds is None or len(steps) != len(seconds):
        return start, {}
    elapsed = np.cumsum(np.nan_to_num(seconds.astype(np.float64)))
    return start, {int(step): float(time) for step, time in zip(steps, elapsed, strict=True)}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _config_text(sweep: Sweep, trial: str) -> str:
    text = json.dumps(sweep.config(trial).as_dict(), indent=2, ensure_ascii=False)
    return "    " + text.replace("\n", "\n    ")
