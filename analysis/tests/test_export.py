"""Tables and event files read back by their own libraries: csv, pyarrow, tensorboard."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import example as example_of
from hypothesis import strategies as st
from results_writer import Trial, example, fail, make_trial, study, write_sweep
from tensorboard.backend.event_processing import event_accumulator, plugin_event_multiplexer

import moesweep
from moesweep.report.cli import main
from moesweep.report.export import export_csv, export_parquet, export_tensorboard
from moesweep.results.sweep import Sweep

KINDS = ["empty", "one", "failed"]


def opened(tmp_path: Path, trials: list[Trial]) -> Sweep:
    write_sweep(tmp_path / "sweep.h5", trials, name="a study")
    return moesweep.open_sweep(tmp_path / "sweep.h5")


def same(left: pd.DataFrame, right: pd.DataFrame) -> None:
    assert list(left.columns) == list(right.columns)
    assert len(left) == len(right)
    for column in left.columns:
        if column == "config":
            assert [json.loads(text) for text in left[column]] == [config.as_dict() for config in right[column]]
            continue
        for a, b in zip(left[column], right[column], strict=True):
            missing = pd.isna(b) or b == ""
            assert (pd.isna(a) or a == "") if missing else a == b, (column, a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_parquet_is_the_frames(tmp_path: Path, kind: str) -> None:
    sweep = opened(tmp_path, example(kind)[:6])
    for path, rows in export_parquet(sweep, tmp_path / "tables"):
        frame = getattr(sweep, path.stem)
        table = pyarrow.parquet.read_table(path)
        assert table.num_rows == rows == len(frame)
        assert table.schema.metadata[b"moesweep.sweep"] == b"a study"
        assert table.schema.metadata[b"moesweep.digest"] == sweep.digest.encode()
        if rows:
            same(table.to_pandas().head(3000), frame.head(3000))
            same(table.to_pandas().tail(500), frame.tail(500))
    if len(sweep.steps):
        schema = pyarrow.parquet.read_schema(tmp_path / "tables" / "steps.parquet")
        assert schema.field("loss").metadata[b"description"] == b"test"
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == [
        "evaluations.parquet", "routing.parquet", "steps.parquet", "trials.parquet",
    ]  # fmt: skip


def test_large_tables_are_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first pieces are without routing counts, and domains differ from trial to trial.
    trials = [make_trial("aux_loss", "sequence", s, {"seed": str(s)}, domains=2 + s % 3, steps=8) for s in range(9)]
    for trial in sorted(trials, key=lambda t: t.id)[:4]:
        trial.arrays = {}
    sweep = opened(tmp_path, trials)
    monkeypatch.setattr("moesweep.report.export.PIECE", 2)
    written = dict(export_parquet(sweep, tmp_path / "tables")) | dict(export_csv(sweep, tmp_path / "tables"))
    order = ["id", "reading", "evaluation", "layer", "domain", "expert"]
    whole = sweep.routing.astype({"id": str, "reading": str, "domain": str}).sort_values(order, ignore_index=True)
    for ending, read in (("parquet", pd.read_parquet), ("csv", pd.read_csv)):
        path = tmp_path / "tables" / f"routing.{ending}"
        back = read(path)
        assert written[path] == len(back) == len(whole)
        back = back.astype({"id": str, "reading": str, "domain": str}).sort_values(order, ignore_index=True)
        pd.testing.assert_frame_equal(back, whole, check_dtype=False)


# Anything that a text may hold but a zero byte and lone surrogates, which no file of the sweep has either.
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.tuples(TEXTS, st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=4))
@example_of([("\r", 0.0), ("a\r\nb", 1.0)])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_and_number_survives_csv_and_parquet(tmp_path: Path, values: list[tuple[str, float]]) -> None:
    trials = [
        Trial(f"{i:016x}", "failed", text, "", {"seed": str(i)}, {"loss": number}, {"note": text})
        for i, (text, number) in enumerate(values)
    ]
    with opened(tmp_path, trials) as sweep:
        list(export_csv(sweep, tmp_path))
        list(export_parquet(sweep, tmp_path))
    table = pyarrow.parquet.read_table(tmp_path / "trials.parquet").to_pylist()
    with (tmp_path / "trials.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    for (text, number), row, line in zip(values, table, lines, strict=True):
        assert row["reason"] == text
        assert row["loss"] == number
        assert json.loads(row["config"]) == {"note": text}
        # A text that a spreadsheet would run, and one that begins with ', has a ' before it.
        assert line["reason"].removeprefix("'").replace("\r\n", "\n") == text.replace("\r\n", "\n")
        assert float(line["loss"]) == number


def test_tensorboard_reads_every_scalar(tmp_path: Path) -> None:
    trials = example("failed")[:5]
    sweep = opened(tmp_path, trials)
    out = dict(export_tensorboard(sweep, tmp_path / "runs"))
    assert len(out) == sum(bool(trial.arrays) for trial in trials)
    multiplexer = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "runs"))
    multiplexer.Reload()
    assert len(multiplexer.Runs()) == len(out)
    for path, scalars in out.items():
        trial = next(trial for trial in trials if path.parent.name.endswith("-" + trial.id[:12]))
        events = event_accumulator.EventAccumulator(str(path.parent), size_guidance={"scalars": 0})
        events.Reload()
        loss = events.Scalars("steps/loss")
        assert [event.step for event in loss] == list(trial.arrays["steps/step"])
        assert [event.value for event in loss] == [float(np.float32(x)) for x in trial.arrays["steps/loss"]]
        # The clock is the trial's: seconds since its start.
        elapsed = np.array([event.wall_time for event in loss]) - events.FirstEventTimestamp()
        assert np.allclose(elapsed, np.cumsum(trial.arrays["steps/seconds"]), rtol=1e-6)
        purity = trial.arrays["evaluations/greedy.purity_expert"]
        for layer in range(purity.shape[1]):
            shown = [event.value for event in events.Scalars(f"evaluations/greedy/purity_expert/layer {layer}")]
            assert shown == [float(np.float32(x)) for x in purity[:, layer]]
        by_domain = events.Scalars("evaluations/training/loss_by_domain/de")
        assert [e.value for e in by_domain] == pytest.approx(trial.arrays["evaluations/loss_by_domain"][:, 1])
        assert sum(len(events.Scalars(tag)) for tag in events.Tags()["scalars"]) == scalars
        assert "hparams" in {
            events.SummaryMetadata(tag).plugin_data.plugin_name for tag in events.Tags()["tensors"]
        } | {events.summary_metadata[tag].plugin_data.plugin_name for tag in events.summary_metadata}
    # A second export replaces the first.
    again = dict(export_tensorboard(sweep, tmp_path / "runs"))
    assert again == out
    assert sum(path.is_file() for path in (tmp_path / "runs").rglob("*")) == len(out)


def test_every_export_carries_the_warnings(tmp_path: Path) -> None:
    trials = study(seeds=1)[:3]
    trials[0].warnings = "no_better_than_uniform"
    sweep = opened(tmp_path, trials)
    list(export_csv(sweep, tmp_path / "tables"))
    list(export_parquet(sweep, tmp_path / "tables"))
    expected = {trial.id: trial.warnings for trial in trials}
    for read, name in ((pd.read_csv, "trials.csv"), (pd.read_parquet, "trials.parquet")):
        back = read(tmp_path / "tables" / name)
        assert dict(zip(back["id"].astype(str), back["warnings"].fillna(""), strict=True)) == expected
    for path, _ in export_tensorboard(sweep, tmp_path / "runs"):
        marked = b"no_better_than_uniform" in path.read_bytes()
        assert marked == path.parent.name.endswith("-" + trials[0].id[:12])


def test_nothing_finished_exports_to_nothing(tmp_path: Path) -> None:
    sweep = opened(tmp_path, [fail(trial, "failed", "why") for trial in study(seeds=1)[:2]])
    assert list(export_tensorboard(sweep, tmp_path / "runs")) == []
    assert [rows for _, rows in export_parquet(sweep, tmp_path / "tables")] == [2, 0, 0, 0]


def test_command_exports_in_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path / "sweep.h5", study(seeds=1)[:2])
    assert main(["export", str(tmp_path / "sweep.h5")]) == 0
    assert main(["export", str(tmp_path / "sweep.h5"), "--format", "parquet"]) == 0
    assert main(["export", str(tmp_path / "sweep.h5"), "--format", "tensorboard"]) == 0
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {
        f"{table}.{ending}" for table in ("trials", "steps", "evaluations", "routing") for ending in ("csv", "parquet")
    }
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert "trials.parquet: 2 rows" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    for kind in ("csv", "parquet", "tensorboard"):
        assert main(["export", str(tmp_path / "sweep.h5"), "--format", kind, "--out", str(tmp_path / "file")]) == 4


def test_throughput_is_tokens_over_time(tmp_path: Path) -> None:
    trials = study(seeds=1)[:3]
    del trials[2].metrics["training_seconds"]
    for trial in trials[:2]:
        trial.metrics |= {"training_tokens": 3000.0, "training_seconds": 2.0}
    trials[1].metrics["training_seconds"] = 0.0
    frame = opened(tmp_path, trials).trials.set_index("id")
    assert frame.loc[trials[0].id, "tokens_per_second"] == 1500.0
    assert math.isnan(frame.loc[trials[1].id, "tokens_per_second"])
    assert math.isnan(frame.loc[trials[2].id, "tokens_per_second"])
