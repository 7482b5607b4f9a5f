"""Writes the frames of a sweep for other tools: CSV and Parquet tables, TensorBoard event files.

Large frames are written piece by piece, files appear whole by rename, and a second export replaces the first and nothing else.
Names from the file (of sweeps, axes, metrics, domains, trials) may be hostile: those that become names of files are `file_name`s.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from moesweep.publish import Ours, check_target, kind_of, published
from moesweep.results.file import AnyArray
from moesweep.results.settings import describe_trials, value_text
from moesweep.results.sweep import READINGS, Sweep
from moesweep.text import cell, file_name, printable

TABLES = ("trials", "steps", "evaluations", "routing")
#: How many trials' routing counts are in memory at a time.
PIECE = 64

Writer = Callable[[Sweep, str, Iterator[pd.DataFrame], BinaryIO], int]


def export_csv(sweep: Sweep, folder: Path) -> Iterator[tuple[Path, int]]:
    """Writes trials, steps, evaluations and routing as CSV in full precision; gives each file and its number of rows.

    In trials.csv the column `config` holds JSON. Missing numbers are empty. A text that a spreadsheet would run as a formula, or
    that begins with `'`, has a `'` before it (`moesweep.text.cell`); numbers are untouched.
    """
    return _export(sweep, folder, "csv", _write_csv, _is_csv)


def export_parquet(sweep: Sweep, folder: Path) -> Iterator[tuple[Path, int]]:
    """Writes the same tables as Parquet; gives each file and its number of rows.

    The schema's metadata name the sweep (`moesweep.sweep`, `moesweep.digest`), a column's its `unit` and `description` where
    the sweep has them.
    """
    return _export(sweep, folder, "parquet", _write_parquet, _is_parquet)


def _export(
    sweep: Sweep, folder: Path, ending: str, write: Writer, ours: Callable[[str], Ours]
) -> Iterator[tuple[Path, int]]:
    folder.mkdir(parents=True, exist_ok=True)
    what = {name: f"the table {name} of an earlier export" for name in TABLES}
    for name in TABLES:
        check_target(folder / f"{name}.{ending}", ours(name), what[name])
    for name in TABLES:
        path = folder / f"{name}.{ending}"
        with published(path, ours(name), what[name]) as out:
            rows = write(sweep, name, _pieces(sweep, name), out)
        yield path, rows


#: The first line of each table of CSV, as this version and earlier ones write it.
HEADERS = {
    "trials": re.compile(rb"id,state,reason(,.*)?,config\r?\n", re.DOTALL),
    "steps": re.compile(rb"id,step(,.*)?\r?\n", re.DOTALL),
    "evaluations": re.compile(rb"id,evaluation,step,reading,metric,layer,domain,value\r?\n"),
    "routing": re.compile(rb"id,evaluation,step,reading,layer,domain,expert,count\r?\n"),
}
MOST_HEADER_BYTES = 1 << 22


def _is_csv(name: str) -> Ours:
    return lambda file: HEADERS[name].match(file.read(MOST_HEADER_BYTES)) is not None


def _is_parquet(name: str) -> Ours:
    def ours(file: BinaryIO) -> bool:
        import pyarrow as pa
        from pyarrow import parquet

        try:
            metadata = parquet.read_schema(file).metadata or {}
        except (pa.ArrowException, OSError):
            return False
        return bool(metadata.get(b"moesweep.table") == name.encode())

    return ours


def _pieces(sweep: Sweep, name: str) -> Iterator[pd.DataFrame]:
    if name == "routing":
        yield from sweep.iter_routing(PIECE)
    elif name == "trials":
        texts = [json.dumps(config.as_dict(), separators=(",", ":")) for config in sweep.trials["config"]]
        yield sweep.trials.assign(config=pd.Series(texts, dtype=object))
    else:
        yield getattr(sweep, name)


def _write_csv(sweep: Sweep, name: str, pieces: Iterator[pd.DataFrame], out: BinaryIO) -> int:
    rows = 0
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    try:
        for number, piece in enumerate(pieces):
            # RFC 4180 ends lines so; and a carriage return inside a text is then quoted, as a line feed is.
            _cells(piece).to_csv(text, index=False, header=number == 0, lineterminator="\r\n")
            rows += len(piece)
    finally:
        text.detach()
    return rows


def _cells(piece: pd.DataFrame) -> pd.DataFrame:
    """The frame with its texts and column names as cells that no spreadsheet runs."""
    changed: dict[str, Any] = {}
    for column in piece.columns:
        values = piece[column]
        if isinstance(values.dtype, pd.CategoricalDtype):
            changed[column] = values.cat.rename_categories([cell(str(text)) for text in values.cat.categories])
        elif not pd.api.types.is_numeric_dtype(values.dtype):
            changed[column] = values.map(lambda value: cell(value) if isinstance(value, str) else value)
    return piece.assign(**changed).rename(columns=lambda name: cell(printable(str(name))))


def _write_parquet(sweep: Sweep, name: str, pieces: Iterator[pd.DataFrame], out: BinaryIO) -> int:
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
                writer = parquet.ParquetWriter(out, schema)
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
    folder.mkdir(parents=True, exist_ok=True)
    runs: dict[str, int] = {}
    for row, name in enumerate(run_names(sweep)):
        if _series(sweep, sweep.ids[row]):
            check_run(folder / name)
            runs[name] = row
    for name, row in runs.items():
        yield _write_run(sweep, row, _series(sweep, sweep.ids[row]), folder / name)


def run_names(sweep: Sweep) -> list[str]:
    """Name of each trial's run folder: label, seed, and the beginning of its id; no two alike."""
    described = describe_trials(sweep)
    names: list[str] = []
    for trial, label, seed in zip(sweep.ids, described["label"], described["seed"], strict=True):
        text = (
            file_name(str(label) + ("" if seed is None else f"-seed {value_text(seed)}")) + "-" + file_name(trial, 12)
        )
        names.append(text)
    seen: dict[str, int] = {}
    for row, name in enumerate(names):
        # Folders of some systems do not tell capitals apart.
        seen[name.lower()] = seen.get(name.lower(), 0) + 1
        if seen[name.lower()] > 1:
            names[row] = f"{name}-{seen[name.lower()]}-of-a-name"
    return names


EVENTS = re.compile(r"events\.out\.tfevents\.-?\d+\.moesweep", re.ASCII)
WRITER = b"moesweep-report"
#: Field `source_metadata.writer` of an event, which tensorboardX leaves out: the mark of our event files.
SOURCE = b"\x52" + bytes([len(WRITER) + 2]) + b"\x0a" + bytes([len(WRITER)]) + WRITER
FIRST_RECORDS_BYTES = 1 << 16


def _is_events(file: BinaryIO) -> bool:
    """Whether an event file is of this command: it names its writer; those of earlier versions begin with the hyperparameters."""
    start = file.read(FIRST_RECORDS_BYTES)
    if len(start) < 12:
        return False
    length = struct.unpack_from("<Q", start)[0]
    first, rest = start[12 : 12 + length], start[12 + length :]
    return b"brain.Event:2" in first and (first.endswith(SOURCE) or b"_hparams_/experiment" in rest[:4096])


def _our_events(run: Path) -> list[Path]:
    found: list[Path] = []
    for path in sorted(run.iterdir()):
        if EVENTS.fullmatch(path.name):
            try:
                check_target(path, _is_events, "of an earlier export")
            except OSError:
                continue
            found.append(path)
    return found


def check_run(run: Path) -> None:
    """OSError unless the run's folder is free, empty, or has events of an earlier export."""
    try:
        mode = os.lstat(run).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        raise OSError(
            errno.EEXIST, f"is {kind_of(mode)} where a run's folder would be; name another folder with --out", str(run)
        )
    if any(run.iterdir()) and not _our_events(run):
        raise OSError(
            errno.EEXIST,
            "exists and has no events of an earlier export; it is left alone: name another folder with --out",
            str(run),
        )


Series = dict[str, tuple[AnyArray, AnyArray]]


def _series(sweep: Sweep, trial: str) -> Series:
    """Steps and values of each tag."""
    found: Series = {}
    steps, evaluations = sweep.array(trial, "steps/step"), sweep.array(trial, "evaluations/step")
    for path in sweep.array_paths:
        group, _, full_name = path.partition("/")
        full_name = printable(full_name)
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
            for number, (domain, column) in enumerate(zip(sweep.domains(trial), values.T, strict=False)):
                name = f"{tag}/{printable(domain)[:200]}"
                found[name if name not in found else f"{name} ({number})"] = clock, column
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

    trial = sweep.ids[row]
    start, times = _times(sweep, trial)
    by_step: dict[int, list[Any]] = {}
    for tag, (clock, values) in sorted(series.items()):
        for step, value in zip(clock.tolist(), values.tolist(), strict=True):
            by_step.setdefault(int(step), []).append(Summary.Value(tag=tag, simple_value=float(value)))
    trials = sweep.trials
    axes = {printable(axis): _plain(trials[axis].iloc[row]) for axis in sweep.axes}
    if trials["warnings"].iloc[row]:
        axes["warnings"] = trials["warnings"].iloc[row]
    last = {tag: float(values[-1]) for tag, (_, values) in series.items() if tag.count("/") == 2}
    about = [*summary.hparams(axes, last), summary.text("config", _config_text(sweep, trial))]

    check_run(run)
    run.mkdir(parents=True, exist_ok=True)
    path = run / f"events.out.tfevents.{int(start)}.moesweep"
    with published(path, _is_events, "of an earlier export") as out:
        _write_record(out, Event(wall_time=start, file_version="brain.Event:2").SerializeToString() + SOURCE)
        for item in about:
            _write_record(out, Event(wall_time=start, summary=item).SerializeToString())
        for step, scalars in sorted(by_step.items()):
            event = Event(wall_time=start + times.get(step, 0.0), step=step, summary=Summary(value=scalars))
            _write_record(out, event.SerializeToString())
    for old in _our_events(run):
        if old != path:
            old.unlink()
    return path, sum(len(scalars) for scalars in by_step.values())


def _write_record(out: BinaryIO, data: bytes) -> None:
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(data))
    out.write(length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data)))


def _times(sweep: Sweep, trial: str) -> tuple[float, dict[int, float]]:
    """Start of the trial in seconds since 1970 (0 unknown), and seconds from there to the end of each step."""
    try:
        start = datetime.fromisoformat(str(sweep.provenance(trial).get("start", "")).replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError, OSError):
        start = 0.0
    steps, seconds = sweep.array(trial, "steps/step"), sweep.array(trial, "steps/seconds")
    if steps is None or seconds is None or len(steps) != len(seconds):
        return start, {}
    elapsed = np.cumsum(np.nan_to_num(seconds.astype(np.float64)))
    return start, {int(step): float(time) for step, time in zip(steps, elapsed, strict=True)}


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return printable(value) if isinstance(value, str) else value


def _config_text(sweep: Sweep, trial: str) -> str:
    text = json.dumps(sweep.config(trial).as_dict(), indent=2, ensure_ascii=False)
    return "    " + text.replace("\n", "\n    ")
