"""What `moesweep-data build` may touch: only files that a build wrote, whatever `store` names, whenever it is killed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_helpers import write_config

from moesweep.data import debian, store
from moesweep.data.cli import main
from moesweep.data.errors import DataToolError

WORDS = {"en": "the cat sat on a mat", "de": "der Hund liegt vor dem Haus", "ja": "猫は静かに庭を歩いている"}


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders en, de, ja of text in `tmp_path`/texts, where the config lies too, and an own data, home and current folder."""
    for name in ("data", "home", "here", "texts"):
        (tmp_path / name).mkdir()
    for language, words in WORDS.items():
        folder = tmp_path / "texts" / language
        folder.mkdir()
        (folder / "LICENSE").write_text(f"free, {language}\n")
        for number in range(20):
            (folder / f"{number}.txt").write_text(f"{words} {number}. " * 3, encoding="utf-8")
    monkeypatch.setenv("MOESWEEP_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def config_of(texts: Path, *domains: str, **keys: Any) -> Path:
    return write_config(texts / "texts", list(domains), list(domains), **keys)


def build(config: Path, *options: str) -> int:
    return main(["build", str(config), "--quiet", *options])


def everything_in(folder: Path) -> dict[str, object]:
    """Each name below a folder with its content, or where it leads."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_file():
            found[name] = path.read_bytes()
        else:
            found[name] = "folder" if path.is_dir() else "special"
    return found


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_folder_of_somebody_is_left_alone(texts: Path, capsys: pytest.CaptureFixture[str], force: list[str]) -> None:
    mine = texts / "data" / "made"
    mine.mkdir()
    (mine / "thesis.tex").write_text("three years of work")
    config = config_of(texts, "en")
    before = everything_in(texts)
    assert build(config, *force) == 3
    assert everything_in(texts) == before
    error = capsys.readouterr().err
    assert f"{mine}: holds `thesis.tex` and no manifest.json" in error and "--force does not change this" in error


PLACES: list[tuple[str, str]] = [
    (".", "the data folder"),
    ("", "the data folder"),
    ("..", "a folder above the data folder"),
    ("a/../..", "a folder above the data folder"),
    ("nothing/..", "the data folder"),
    ("/", "the root of the file system"),
    ("HOME", "the home folder"),
    ("HERE", "the current folder"),
    ("TEXTS", "the folder of the config"),
    ("TEXTS/en", "a source"),
    ("TEXTS/en/made", "a folder inside a source"),
    ("TEXTS/en/deep/er", "a folder inside a source"),
    ("downloads", "the folder of downloads"),
    ("downloads/made", "a folder inside the downloads"),
    ("link", "a link"),
    ("link/", "a link"),
    ("link/x", "a folder inside a source"),
]


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize(("given", "what"), PLACES)
def test_a_store_lies_nowhere_near_anything_else(
    texts: Path, capsys: pytest.CaptureFixture[str], given: str, what: str, force: list[str]
) -> None:
    for name in ("HOME", "HERE", "TEXTS"):
        given = given.replace(name, str(texts / name.lower()))
    (texts / "data" / "link").symlink_to(texts / "texts" / "en")
    (texts / "home" / "letter.txt").write_text("dear")
    config = config_of(texts, "en", store=json.dumps(given))
    if given == "":
        config.write_text(config.read_text().replace('store: ""', "store: ./"))
    before = everything_in(texts)
    assert build(config, *force) == 3
    assert what in capsys.readouterr().err
    assert everything_in(texts) == before


def test_a_store_inside_what_a_glob_searches_is_refused(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for pattern, place, code in (
        ("**/*.txt", "store", 3),
        ("*/*/*.txt", "store", 3),
        ("e*/*.txt", "store", 0),
        ("*/*.txt", "en/s", 0),
    ):
        where = texts / "texts" / place
        config = write_config(texts / "texts", ["en"], [pattern], store=str(where))
        assert build(config) == code, pattern
        assert build(config, "--force") == code, pattern
        if code:
            assert "would become text of itself" in capsys.readouterr().err
            assert not where.exists()
        shutil.rmtree(where, ignore_errors=True)


def test_ready_tokens_and_the_tokenizer_are_sources_too(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    mine = texts / "mine"
    mine.mkdir()
    np.save(mine / "tokens.npy", np.arange(100, dtype=np.uint8))
    (mine / "tokenizer.json").write_text("{}")
    before = everything_in(mine)
    assert build(write_config(texts / "texts", ["en"], [f"npy:{mine}/tokens.npy"], store=str(mine)), "--force") == 3
    assert "a folder above a source" in capsys.readouterr().err
    assert build(config_of(texts, "en", store=str(mine), tokenizer=f"{mine}/tokenizer.json")) == 3
    assert "a folder above the tokenizer" in capsys.readouterr().err
    assert everything_in(mine) == before


Spoil = Callable[[Path], object]


def as_link(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        target = folder.parent.parent / "home" / Path(name).name
        shutil.move(folder / name, target)
        (folder / name).symlink_to(target)

    return spoil


FOREIGN: list[tuple[str, Spoil]] = [
    ("holds `notes.md`", lambda folder: (folder / "notes.md").write_text("mine")),
    ("holds `.hidden`", lambda folder: (folder / ".hidden").write_text("mine")),
    ("holds `sub`", lambda folder: (folder / "sub").mkdir()),
    ("holds `07-xx.train.u16`", lambda folder: (folder / "07-xx.train.u16").write_text("of another store")),
    ("holds `licences/notes.txt`", lambda folder: (folder / "licences" / "notes.txt").write_text("mine")),
    ("holds `licences/sub`", lambda folder: (folder / "licences" / "sub").mkdir()),
    ("has a link as 00-en.train.u16", as_link("00-en.train.u16")),
    ("has a link as build.json", as_link("build.json")),
    ("holds `manifest.json` and no manifest", as_link("manifest.json")),
    ("has a link as licences/en.txt", as_link("licences/en.txt")),
    ("holds `licences`", as_link("licences")),
    (
        "has a FIFO as inputs.sha256",
        lambda folder: ((folder / "inputs.sha256").unlink(), os.mkfifo(folder / "inputs.sha256")),
    ),
]


@pytest.mark.parametrize(("message", "spoil"), FOREIGN)
def test_one_foreign_thing_in_a_store_stops_its_replacement(
    texts: Path, capsys: pytest.CaptureFixture[str], message: str, spoil: Spoil
) -> None:
    assert build(config_of(texts, "en")) == 0
    spoil(texts / "data" / "made")
    config = config_of(texts, "en", validation_share=0.4)
    before = everything_in(texts)
    for force in ([], ["--force"]):
        capsys.readouterr()
        assert build(config, *force) == 3
        if message.startswith("holds `manifest.json`"):
            assert "no manifest.json of a token store" in capsys.readouterr().err
        else:
            assert message in capsys.readouterr().err
        assert everything_in(texts) == before


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", 5), (b"{", 5), (b"[]", 7), (b"\xff", 5), (b'{"format": "moesweep-tokens", "version": 1}', 5)],
)
def test_a_damaged_store_is_left_to_its_owner(
    texts: Path, capsys: pytest.CaptureFixture[str], content: bytes, code: int
) -> None:
    config = config_of(texts, "en")
    assert build(config) == 0
    (texts / "data" / "made" / "manifest.json").write_bytes(content)
    before = everything_in(texts)
    for force in ([], ["--force"]):
        assert build(config, *force) == code
        assert "remove the folder by hand" in capsys.readouterr().err
        assert everything_in(texts) == before


def test_a_manifest_cannot_claim_files_that_no_build_names_so(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(texts, "en")
    assert build(config) == 0
    folder = texts / "data" / "made"
    (folder / "thesis.tex").write_text("three years of work")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"][0]["file"] = "thesis.tex"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert build(config, "--force") == 3
    assert "holds `00-en.train.u16`" in capsys.readouterr().err
    (folder / "00-en.train.u16").unlink()
    assert build(config, "--force") == 3
    assert "holds `thesis.tex`" in capsys.readouterr().err
    assert (folder / "thesis.tex").read_text() == "three years of work"


def test_an_empty_folder_is_filled_and_a_store_replaced_in_place(texts: Path) -> None:
    folder = texts / "data" / "made"
    folder.mkdir(mode=0o750)
    number = folder.stat().st_ino
    assert build(config_of(texts, "en", "de")) == 0
    assert (folder / "licences" / "de.txt").exists() and (folder / "01-de.train.u16").exists()
    assert build(config_of(texts, "ja")) == 0
    assert sorted(everything_in(folder)) == [
        *("00-ja.train.u16", "00-ja.validation.u16", "build.json", "inputs.sha256"),
        *("licences", "licences/ja.txt", "manifest.json"),
    ]
    assert folder.stat().st_ino == number and folder.stat().st_mode & 0o777 == 0o750
    assert sorted(path.name for path in (texts / "data").iterdir()) == [".made.lock", "made"]


def test_files_of_a_store_have_the_usual_permissions(texts: Path) -> None:
    old = os.umask(0o022)
    try:
        assert build(config_of(texts, "en")) == 0
    finally:
        os.umask(old)
    folder = texts / "data" / "made"
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o644}
    assert folder.stat().st_mode & 0o777 == (folder / "licences").stat().st_mode & 0o777 == 0o755


def test_what_comes_into_the_store_while_it_is_made_stays(
    texts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(texts, "en")
    assert build(config) == 0
    folder = texts / "data" / "made"
    digest = store.digest_of(folder)
    write = store._write

    def slow(*arguments: Any) -> None:
        write(*arguments)
        (folder / "notes.md").write_text("mine")

    monkeypatch.setattr(store, "_write", slow)
    assert build(config_of(texts, "en", validation_share=0.4)) == 3
    assert "holds `notes.md`" in capsys.readouterr().err
    assert (folder / "notes.md").read_text() == "mine" and store.digest_of(folder) == digest
    assert sorted(path.name for path in (texts / "data").iterdir()) == [".made.lock", "made"]


CALLS = ("rename", "unlink", "mkdir", "rmdir", "fsync")


def fail_at(number: int, failure: Callable[[], None]) -> Callable[[], int]:
    """From now on the `number`-th call, while a store is published or a temporary folder removed, fails. Gives a counter of calls."""
    from moesweep.data import replace

    done = 0
    active = False

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keys: Any) -> Any:
            nonlocal done
            if active:
                done += 1
                if done == number:
                    failure()
            return function(*arguments, **keys)

        return call

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keys: Any) -> Any:
            nonlocal active
            before, active = active, True
            try:
                return function(*arguments, **keys)
            finally:
                active = before

        return call

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    for name in ("publish", "_remove_temporary"):
        setattr(replace, name, watched(getattr(replace, name)))
    return lambda: done


def in_a_child(work: Callable[[], int]) -> int:
    """The wait status of a process that runs `work`, so that it can be killed and its changes to modules are its own."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = work()
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("failure", [kill, full])
@pytest.mark.parametrize("start", ["absent", "store"])
def test_a_build_that_ends_at_any_point_is_repaired_by_the_next(
    texts: Path, start: str, failure: Callable[[], None], capfd: pytest.CaptureFixture[str]
) -> None:
    """Old store, new store, or a folder that the next build makes whole; nothing beside it changes."""
    data, folder = texts / "data", texts / "data" / "made"
    new = config_of(texts, "en", "ja", name="new.yaml")
    assert build(new) == 0
    expected = everything_in(folder)
    new_digest = store.digest_of(folder)
    shutil.rmtree(folder)
    old_digest = ""
    if start == "store":
        assert build(config_of(texts, "en", "de")) == 0
        old_digest = store.digest_of(folder)
    (data / ".made.new-notmine").write_text("a file of somebody")
    (data / "other").mkdir()
    shutil.copytree(data, texts / "start")
    states = set()
    for number in range(1, 100):
        shutil.rmtree(data)
        shutil.copytree(texts / "start", data)

        def work(number: int = number) -> int:
            count = fail_at(number, failure)
            code = build(new)
            return 98 if code == 0 and count() < number else code

        status = in_a_child(work)
        if os.waitstatus_to_exitcode(status) == 98:
            break  # there is no call of this number any more
        # `_remove_temporary` is content with what it could remove: a full disk there does not fail the build.
        assert os.waitstatus_to_exitcode(status) in ((-signal.SIGKILL,) if failure is kill else (4, 0))
        if (folder / "manifest.json").exists():
            states.add("whole")
            assert store.digest_of(folder) in (old_digest, new_digest)
            assert main(["verify", str(new), "--quiet"]) == 0
        elif folder.exists() and any(folder.iterdir()):
            states.add("half")
            assert (folder / "replacing.json").exists()
            assert main(["verify", str(new), "--quiet"]) == 7
        else:
            states.add("none")
        assert build(new) == 0, number
        after = everything_in(folder)
        after["build.json"] = expected["build.json"]  # holds the time
        assert after == expected
        assert main(["verify", str(new), "--quiet"]) == 0
        if (
            len(list(data.iterdir())) > 4
        ):  # the build ended while it removed its temporary folder: the next that makes a store does
            assert states and build(new, "--force") == 0
        assert sorted(path.name for path in data.iterdir()) == [".made.lock", ".made.new-notmine", "made", "other"]
    else:
        pytest.fail("a build has no more than a hundred steps")
    assert number > 15
    assert states == ({"whole", "half"} if start == "store" else {"whole", "half", "none"})


def test_a_folder_with_a_foreign_marker_is_left_alone(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = texts / "data" / "made"
    folder.mkdir()
    (folder / "thesis.tex").write_text("three years of work")
    for content, code in (
        ("{", 5),
        ("[]", 5),
        ('{"format": "moesweep-tokens-replacing", "version": 1, "files": ["thesis.tex"]}', 5),
        ('{"format": "moesweep-tokens-replacing", "version": 1, "files": ["../../texts/en/0.txt"]}', 5),
        ('{"format": "moesweep-tokens-replacing", "version": 1, "files": ["build.json"]}', 3),
    ):
        (folder / "replacing.json").write_text(content)
        before = everything_in(texts / "data")
        assert build(config_of(texts, "en"), "--force") == code, content
        assert "nothing is replaced here" in capsys.readouterr().err
        assert everything_in(texts / "data") == before


@pytest.mark.parametrize("kind", ["file", "link", "dangling", "fifo", "folder"])
def test_the_lock_is_a_file_that_nobody_loses(texts: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    lock, target = texts / "data" / ".made.lock", texts / "home" / "letter.txt"
    target.write_text("dear")
    if kind == "file":
        lock.write_text("mine")
    elif kind == "fifo":
        os.mkfifo(lock)
    elif kind == "folder":
        lock.mkdir()
    else:
        lock.symlink_to(target if kind == "link" else texts / "home" / "none")
    assert build(config_of(texts, "en")) == (0 if kind == "file" else 3)
    assert target.read_text() == "dear" and not (texts / "home" / "none").exists()
    if kind == "file":
        assert lock.read_text() == "mine"
    else:
        assert "where a lock file must be" in capsys.readouterr().err


def test_temporaries_of_others_stay(texts: Path) -> None:
    data = texts / "data"
    mark = {"format": "moesweep-tokens-temporary", "store": "made"}
    for name, files in {
        ".made.new-aaaaaaaa": {"temporary.json": json.dumps(mark), "build.json": ""},  # of a killed build: goes
        ".made.new-bbbbbbbb": {},  # of a build that was killed at once: goes
        ".made.new-cccccccc": {"temporary.json": json.dumps(mark), "thesis.tex": "mine"},
        ".made.new-dddddddd": {"build.json": "mine"},
        ".made.new-eeeeeeee": {"temporary.json": json.dumps({**mark, "store": "other"}), "build.json": ""},
        f".made.{os.getpid()}.tmp": {"thesis.tex": "mine"},
    }.items():
        (data / name).mkdir()
        for file, content in files.items():
            (data / name / file).write_text(content)
    (data / ".made.new-ffffffff").symlink_to(texts / "texts")
    before = everything_in(data)
    assert build(config_of(texts, "en")) == 0
    after = everything_in(data)
    gone = {name.split("/")[0] for name in before if name not in after}
    assert gone == {".made.new-aaaaaaaa", ".made.new-bbbbbbbb"}
    assert (texts / "texts" / "en" / "0.txt").exists()


def test_a_download_replaces_nothing(tmp_path: Path) -> None:
    fresh, target = tmp_path / "fresh.deb", tmp_path / "target.deb"
    fresh.write_text("fresh")
    target.write_text("there already")
    debian._keep(fresh, target)
    assert target.read_text() == "there already"
    for kind in ("link", "folder"):
        target.unlink()
        target.symlink_to(tmp_path / "nothing") if kind == "link" else target.mkdir()
        with pytest.raises(DataToolError, match="is in the way of a download"):
            debian._keep(fresh, target)
    target.rmdir()
    debian._keep(fresh, target)
    assert target.read_text() == "fresh"
