"""Reports and tables replace nothing that moesweep-report did not write, and names from a file reach no terminal, spreadsheet or folder."""

from __future__ import annotations

import csv
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import h5py
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from results_writer import LIBVER, Trial, make_trial, seal, study, write_sweep
from tensorboard.backend.event_processing import event_accumulator

import moesweep
from moesweep.publish import published
from moesweep.report.cli import main
from moesweep.report.export import export_csv, export_tensorboard, run_names
from moesweep.report.page import reproduce, write_page
from moesweep.text import cell, file_name, printable

PERSON = "kept for years"


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    (tmp_path / "sweep").mkdir()
    write_sweep(tmp_path / "sweep" / "sweep.h5", study(seeds=1)[:2])
    return tmp_path / "sweep" / "sweep.h5"


def anything(_: BinaryIO) -> bool:
    return True


# The mechanism --------------------------------------------------------------------------------------------------------


def test_appears_whole_with_the_permissions_of_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "out"
    old = os.umask(0o027)
    try:
        with published(path, anything, "ours") as out:
            out.write(b"one")
            assert not path.exists()
            inside = [entry for entry in tmp_path.iterdir()]
            assert len(inside) == 1
    finally:
        os.umask(old)
    assert path.read_bytes() == b"one"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("before")
    with pytest.raises(RuntimeError), published(path, anything, "ours") as out:
        out.write(b"half")
        raise RuntimeError
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="full") as caught, published(path, anything, "ours") as out:
        raise OSError(28, "the disk is full")
    assert caught.value.filename == str(path)


def test_links_devices_and_folders_stay(tmp_path: Path) -> None:
    (tmp_path / "person").write_text(PERSON)
    (tmp_path / "link").symlink_to(tmp_path / "person")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name, kind in (("link", "a link"), ("dangling", "a link"), ("folder", "a folder"), ("fifo", "a FIFO")):
        with (
            pytest.raises(OSError, match=f"is {kind}, which is not replaced") as caught,
            published(tmp_path / name, anything, "ours") as out,
        ):
            out.write(b"x")
        assert caught.value.filename == str(tmp_path / name)
    with pytest.raises(OSError, match="is a device"), published(Path("/dev/null"), anything, "ours"):
        pass
    assert (tmp_path / "person").read_text() == PERSON
    assert (tmp_path / "link").is_symlink()
    assert not (tmp_path / "nothing").exists()
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_what_comes_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with pytest.raises(OSError, match="is a link"), published(path, anything, "ours"):
        path.symlink_to(tmp_path / "person")
    assert path.is_symlink()
    assert list(tmp_path.iterdir()) == [path]


# Reports and tables ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["report.html.part", "report.html"])
def test_report_writes_through_no_link(sweep_file: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "person").write_text(PERSON)
    (sweep_file.parent / name).symlink_to(tmp_path / "person")
    code = main(["html", str(sweep_file)])
    assert (tmp_path / "person").read_text() == PERSON
    assert (sweep_file.parent / name).is_symlink()
    assert code == (4 if name == "report.html" else 0)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_are_written_through_no_link(sweep_file: Path, tmp_path: Path, ending: str) -> None:
    out = sweep_file.parent / "tables"
    out.mkdir()
    (tmp_path / "person").write_text(PERSON)
    for name in (f"steps.{ending}.part", f"evaluations.{ending}.part"):
        (out / name).symlink_to(tmp_path / "person")
    assert main(["export", str(sweep_file), "--format", ending]) == 0
    assert (tmp_path / "person").read_text() == PERSON
    assert (out / f"steps.{ending}.part").is_symlink()


FOREIGN = {
    "html": b"<!doctype html><title>my page</title><p class='eyebrow'>moesweep</p>",
    "csv": b"name,age\r\nAda,36\r\n",
    "parquet": b"PAR1 not really PAR1",
}


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["html"], "report.html"),
        (["export"], "tables/evaluations.csv"),
        (["export", "--format", "parquet"], "tables/routing.parquet"),
    ],
)
def test_files_of_others_stay(
    sweep_file: Path, capsys: pytest.CaptureFixture[str], command: list[str], name: str
) -> None:
    path = sweep_file.parent / name
    path.parent.mkdir(exist_ok=True)
    for content in (FOREIGN[path.suffix[1:]], b"", b"\0" * 100, b"<!doctype html>", b"id,step"):
        path.write_bytes(content)
        before = sorted(path.parent.iterdir())
        assert main([command[0], str(sweep_file), *command[1:]]) == 4
        error = capsys.readouterr().err
        assert str(path) in error
        assert "name another file" in error
        assert path.read_bytes() == content
        # Nothing else was begun either.
        assert sorted(path.parent.iterdir()) == before


def test_a_foreign_parquet_table_stays(sweep_file: Path) -> None:
    path = sweep_file.parent / "tables" / "trials.parquet"
    path.parent.mkdir()
    pyarrow.parquet.write_table(pa.table({"id": ["a"]}), path)
    before = path.read_bytes()
    assert main(["export", str(sweep_file), "--format", "parquet"]) == 4
    assert path.read_bytes() == before


def test_what_we_wrote_is_replaced(sweep_file: Path) -> None:
    for command in (["html"], ["export"], ["export", "--format", "parquet"], ["export", "--format", "tensorboard"]):
        for _ in range(2):
            assert main([command[0], str(sweep_file), *command[1:]]) == 0
    # Also of a sweep with other columns, and one without trials.
    write_sweep(sweep_file, [])
    for command in (["html"], ["export"], ["export", "--format", "parquet"]):
        for _ in range(2):
            assert main([command[0], str(sweep_file), *command[1:]]) == 0


def test_reports_and_tables_of_earlier_versions_are_replaced(sweep_file: Path) -> None:
    folder = sweep_file.parent
    (folder / "report.html").write_text(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>study · moesweep</title>\n<style>'
        + "x" * 20_000
        + '</style>\n</head>\n<body>\n<header class="page">\n  <p class="eyebrow">moesweep · <span id="sweep-name">study</span></p>\n'
    )
    (folder / "tables").mkdir()
    (folder / "tables" / "trials.csv").write_bytes(b"id,state,reason,seed,loss,config\r\n1,done,,1,2.0,{}\r\n")
    (folder / "tables" / "steps.csv").write_bytes(b"id,step\r\n")
    assert main(["html", str(sweep_file)]) == 0
    assert main(["export", str(sweep_file)]) == 0
    assert (folder / "tables" / "trials.csv").read_bytes().startswith(b"id,state,reason,warnings,")


def runs_of(sweep_file: Path) -> list[Path]:
    with moesweep.open_sweep(sweep_file) as sweep:
        return [sweep_file.parent / "tensorboard" / name for name in run_names(sweep)]


def test_tensorboard_leaves_the_folders_and_files_of_others(
    sweep_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = runs_of(sweep_file)
    first.mkdir(parents=True)
    (first / "thesis.txt").write_text(PERSON)
    assert main(["export", str(sweep_file), "--format", "tensorboard"]) == 4
    assert str(first) in capsys.readouterr().err
    assert not second.exists()
    (first / "thesis.txt").unlink()
    assert main(["export", str(sweep_file), "--format", "tensorboard"]) == 0
    # What is beside our events stays, with our kind of name too.
    (first / "thesis.txt").write_text(PERSON)
    (first / "events.out.tfevents.17.moesweep").write_text(PERSON)
    (first / "part").symlink_to(first / "thesis.txt")
    (first / "events.out.tfevents.18.moesweep").symlink_to(first / "thesis.txt")
    assert main(["export", str(sweep_file), "--format", "tensorboard"]) == 0
    assert (first / "thesis.txt").read_text() == PERSON
    assert (first / "events.out.tfevents.17.moesweep").read_text() == PERSON
    assert (first / "events.out.tfevents.18.moesweep").is_symlink()
    # A run's folder that is a link leads elsewhere.
    (tmp_path / "elsewhere").mkdir()
    second.rename(tmp_path / "moved")
    second.symlink_to(tmp_path / "elsewhere")
    assert main(["export", str(sweep_file), "--format", "tensorboard"]) == 4
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_events_of_an_earlier_start_and_version_go(sweep_file: Path) -> None:
    from tensorboardX import SummaryWriter, summary
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter

    run = runs_of(sweep_file)[0]
    run.mkdir(parents=True)
    writer = RecordWriter(str(run / "events.out.tfevents.5.moesweep"))
    writer.write(Event(wall_time=5, file_version="brain.Event:2").SerializeToString())
    for item in summary.hparams({"seed": 1}, {"loss": 2.0}):
        writer.write(Event(wall_time=5, summary=item).SerializeToString())
    writer.close()
    with SummaryWriter(str(run), filename_suffix=".mine") as other:
        other.add_scalar("loss", 1.0, 1)
    assert main(["export", str(sweep_file), "--format", "tensorboard"]) == 0
    names = sorted(path.name for path in run.iterdir())
    assert "events.out.tfevents.5.moesweep" not in names
    assert sum(name.endswith(".mine") for name in names) == 1
    assert sum(name.endswith(".moesweep") for name in names) == 1


# Names from a file ----------------------------------------------------------------------------------------------------

EVIL = "\x1b]0;owned\x07\x9b31m\u202e=cmd|' /C calc'!A0\r\n../../etc"
NAME = EVIL.replace("/", ".")


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[Path]:
    """A sweep whose every name is hostile, the folder's too."""
    folder = tmp_path / "a\x1b[31mb"
    folder.mkdir()
    trials = [
        make_trial(
            "aux_loss", "sequence", seed, {"seed": str(seed), "routing.balance.method": EVIL, NAME: f"={seed}"}, steps=8
        )
        for seed in (1, 2)
    ]
    for number, (trial, start) in enumerate(zip(trials, ("../..", "..\u00a0/x"), strict=True)):
        trial.id = start + "/" * number + "same-beginning-of-an-id" + str(number)
        trial.id = "".join(c for c in trial.id if c.isprintable())
        trial.reason = "@SUM(A1)"
        trial.config["data"]["domains"] = [EVIL, EVIL, *"cdefgh"]
        trial.metrics["-evil\x1b[2J"] = 1.0
        trial.arrays["steps/losses.\x1b[2J"] = trial.arrays["steps/loss"]
    write_sweep(folder / "sweep.h5", trials, name=EVIL)
    yield folder / "sweep.h5"
    assert {entry.name for entry in tmp_path.iterdir()} == {folder.name}


def controls(text: str) -> list[str]:
    return [c for c in text if not c.isprintable() and c != "\n"]


def test_no_control_characters_reach_a_terminal(evil: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["html"], ["export"], ["export", "--format", "parquet"], ["export", "--format", "tensorboard"]):
        assert main([command[0], str(evil), *command[1:]]) == 0
    with h5py.File(evil, "a", libver=LIBVER) as file:
        del file["metrics/loss"]
        file["metrics/\x1b[31m"] = h5py.SoftLink("/x")
    assert main(["html", str(evil)]) == 5
    assert main(["html", str(evil.with_name("\x1b[2J.h5"))]) == 4
    with pytest.raises(SystemExit):
        main(["html", str(evil), "\x1b[2J"])
    with pytest.raises(SystemExit):
        main(["export", str(evil), "--format", "\x1b[2J"])
    said = capsys.readouterr()
    assert "\\x1b" in said.out
    assert "\\x1b" in said.err
    assert controls(said.out + said.err) == []


def test_folders_of_hostile_names_stay_inside(evil: Path) -> None:
    out = evil.parent / "runs"
    with moesweep.open_sweep(evil) as sweep:
        written = dict(export_tensorboard(sweep, out))
        assert len(written) == 2
        for path in written:
            assert path.parent.parent == out
            assert path.parent.name.isascii()
            assert path.parent.name.isprintable()
            assert not path.parent.name.startswith((".", "-"))
        assert len({path.parent for path in written}) == 2
        for path in written:
            events = event_accumulator.EventAccumulator(str(path.parent), size_guidance={"scalars": 0})
            events.Reload()
            for tag in events.Tags()["scalars"]:
                assert controls(tag) == []
            # Two domains of one name are two series.
            domains = [
                tag for tag in events.Tags()["scalars"] if tag.startswith("evaluations/training/loss_by_domain/")
            ]
            assert len(domains) == 8


def test_cells_are_no_formulas(evil: Path) -> None:
    with moesweep.open_sweep(evil) as sweep:
        paths = [path for path, _ in export_csv(sweep, evil.parent / "tables")]
        values = sweep.trials
    for path in paths:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
        for line in lines[:500]:
            for text in line:
                assert not text.startswith(("=", "@", "\t", "\r", "\n")), (path, text)
                if text.startswith(("+", "-")):
                    float(text)
        if path.stem == "trials":
            assert controls("".join(lines[0])) == []
            column = lines[0].index("reason")
            assert [line[column] for line in lines[1:]] == ["'@SUM(A1)"] * 2
            loss = lines[0].index("loss")
            assert [float(line[loss]) for line in lines[1:]] == list(values["loss"])


def test_the_command_that_reproduces_a_trial_is_one_argument() -> None:
    assert reproduce("3fa1", "done") == "moesweep train trials/3f/3fa1/config.yaml"
    command = reproduce("a;rm -rf ~;$(x)", "done")
    assert command == "moesweep train 'trials/a;/a;rm -rf ~;$(x)/config.yaml'"


def test_page_of_hostile_names(evil: Path) -> None:
    with moesweep.open_sweep(evil) as sweep:
        write_page(sweep, evil.parent / "report.html")
    text = (evil.parent / "report.html").read_text(encoding="utf-8")
    assert "\x1b" not in text
    assert "\x9b" not in text


TEXTS = st.text(max_size=200)


@given(TEXTS)
def test_any_text_can_be_printed(text: str) -> None:
    assert printable(text).isprintable()
    assert text.isprintable() == (printable(text) == text)


@given(TEXTS, st.integers(1, 130))
def test_any_text_makes_a_file_name(text: str, most: int) -> None:
    name = file_name(text, most)
    assert 0 < len(name) <= most
    assert "/" not in name
    assert name[0] not in ".-"
    assert name.isascii()
    assert name.isprintable()


def test_names_of_devices_and_of_folders_above() -> None:
    assert [file_name(name) for name in ("..", "", "CON", "nul.txt", "-rf", "a/../b")] == [
        "_..", "_", "_CON", "_nul.txt", "_-rf", "a_.._b",
    ]  # fmt: skip


@given(st.text(st.sampled_from("=+-@\t\r\n'a1e.")) | TEXTS)
def test_any_text_comes_back_from_its_cell(text: str) -> None:
    shown = cell(text)
    assert shown.removeprefix("'") == text
    if shown.startswith(("=", "@", "\t", "\r", "\n")):
        raise AssertionError(shown)
    if shown.startswith(("+", "-")):
        float(shown)


def test_a_trial_without_a_result_exports(tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep.h5", [Trial("0" * 16, "failed", "-1")])
    with h5py.File(tmp_path / "sweep.h5", "a", libver=LIBVER) as file:
        seal(file)
    assert main(["export", str(tmp_path / "sweep.h5")]) == 0
