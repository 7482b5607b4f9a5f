"""Token stores: what is written, what the tokenizers do, when a store is up to date, and every error."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from data_helpers import help_page, make_deb, write_config
from hypothesis import given, settings
from hypothesis import strategies as st

from moesweep.data import sources, store, tokenizer
from moesweep.data.cli import main
from moesweep.data.config import load_config

WORDS = {
    "en": "the cat sat on a mat and looked at me",
    "de": "der Hund liegt vor dem Haus und schläft",
    "ja": "猫は静かに庭を歩いている",
}


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders en, de, ja of forty parallel files each, and $MOESWEEP_DATA beside them."""
    monkeypatch.setenv("MOESWEEP_DATA", str(tmp_path / "data"))
    for language, words in WORDS.items():
        (tmp_path / language).mkdir()
        for number in range(40):
            (tmp_path / language / f"{number}.txt").write_text(
                f"{words} {number}. " * (3 + number % 5), encoding="utf-8"
            )
    return tmp_path


def build(config: Path, *options: str) -> int:
    return main(["build", str(config), "--quiet", *options])


def tokens_of(folder: Path, entry: dict[str, Any]) -> np.ndarray[Any, Any]:
    kind = {"u8": "<u1", "u16": "<u2", "u32": "<u4", "i32": "<i4", "i64": "<i8"}[entry["dtype"]]
    tokens = np.fromfile(folder / entry["file"], kind, offset=entry["offset_bytes"])
    return tokens[entry["first"] : entry["first"] + entry["tokens"]]


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


def test_bytes_store_holds_the_text(texts: Path) -> None:
    config = write_config(texts, list(WORDS), list(WORDS))
    assert build(config) == 0
    folder = texts / "data" / "made"
    manifest = manifest_of(folder)
    assert manifest["format"] == "moesweep-tokens" and manifest["version"] == 1
    assert [(entry["domain"], entry["split"]) for entry in manifest["splits"]] == [
        (domain, split) for domain in WORDS for split in ("train", "validation")
    ]
    for domain in WORDS:
        files = sorted((texts / domain).iterdir(), key=lambda path: path.name)
        for split in ("train", "validation"):
            entry = next(e for e in manifest["splits"] if (e["domain"], e["split"]) == (domain, split))
            chosen = [f for f in files if sources.in_validation(f.name, 0.3) == (split == "validation")]
            expected = b"".join(f.read_text(encoding="utf-8").strip().encode() + b"\0" for f in chosen)
            assert tokens_of(folder, entry).astype(np.uint8).tobytes() == expected
            assert entry["documents"] == len(chosen)
            assert entry["text_bytes"] == len(expected) - len(chosen)
            assert entry["sha256"] == hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest()
    # Parallel documents go to the same split in every domain.
    counts = {e["documents"] for e in manifest["splits"] if e["split"] == "validation"}
    assert len(counts) == 1
    listed = (folder / "inputs.sha256").read_text().split("\n")
    assert f"{hashlib.sha256((texts / 'en' / '7.txt').read_bytes()).hexdigest()}  7.txt" in listed


def test_bpe_store_decodes_to_the_text(texts: Path) -> None:
    config = write_config(texts, list(WORDS), list(WORDS), tokenizer="bpe", vocabulary=300)
    assert build(config) == 0
    folder = texts / "data" / "made"
    manifest = manifest_of(folder)
    pieces = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert pieces.get_vocab_size() == 300
    end = manifest["tokenizer"]["end_of_document"]
    assert pieces.id_to_token(end) == "<|endoftext|>"
    for entry in manifest["splits"]:
        tokens = tokens_of(folder, entry)
        assert tokens.max() < 300 and (tokens == end).sum() == entry["documents"]
        documents = [
            pieces.decode(part[part != end].tolist())
            for part in np.split(tokens, np.flatnonzero(tokens == end) + 1)[:-1]
        ]
        names = sorted((texts / entry["domain"]).iterdir(), key=lambda path: path.name)
        chosen = [n for n in names if sources.in_validation(n.name, 0.3) == (entry["split"] == "validation")]
        assert documents == [n.read_text(encoding="utf-8").strip() for n in chosen]


TINY_BPE = tokenizer.train_bpe([[" ".join(WORDS.values()) * 3]], 320)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=200))
@settings(deadline=None)
def test_bpe_round_trip_of_any_text(text: str) -> None:
    coder = tokenizer.PieceCoder(TINY_BPE)
    (tokens,) = coder.encode([text])
    assert TINY_BPE.decode(tokens.tolist()) == text
    assert coder.end_of_document not in tokens
    assert coder.bytes_of(tokens) == len(text.encode())


def test_text_that_looks_like_a_special_token_is_text() -> None:
    coder = tokenizer.PieceCoder(TINY_BPE)
    (tokens,) = coder.encode(["a<|endoftext|>b"])
    assert coder.end_of_document == 0 and 0 not in tokens


@given(st.lists(st.text(min_size=1, max_size=50), min_size=1, max_size=50), st.integers(1, 3000))
def test_training_text_has_the_bytes_asked_for(documents: list[str], most: int) -> None:
    documents = [d.encode("utf-8", "ignore").decode() for d in documents]
    total = sum(len(d.encode()) for d in documents)
    given_bytes = sum(len(d.encode()) for d in tokenizer.shortened(documents, most))
    assert given_bytes <= most
    if total <= most:
        assert given_bytes == total


def test_given_tokenizer_is_used(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    TINY_BPE.save(str(texts / "own.json"))
    assert build(write_config(texts, ["en"], ["en"], tokenizer="own.json", vocabulary=400)) == 0
    folder = texts / "data" / "made"
    assert (folder / "tokenizer.json").read_bytes() == (texts / "own.json").read_bytes()
    assert manifest_of(folder)["tokenizer"]["name"] == "own.json"
    assert build(write_config(texts, ["en"], ["en"], tokenizer="own.json", vocabulary=256)) == 3
    assert "the tokenizer has 320 pieces, vocabulary is 256" in capsys.readouterr().err


def test_wide_vocabularies_take_four_bytes(texts: Path) -> None:
    assert build(write_config(texts, ["en"], ["en"], vocabulary=70000)) == 0
    assert {entry["dtype"] for entry in manifest_of(texts / "data" / "made")["splits"]} == {"u32"}


def test_a_second_build_does_nothing_and_a_change_is_seen(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(texts, ["en", "de"], ["en", "de"])
    folder = texts / "data" / "made"

    def again(path: Path = config) -> str:
        capsys.readouterr()
        assert main(["build", str(path)]) == 0
        output = capsys.readouterr()
        return output.out.partition("\n")[0] + output.err

    assert "there is no whole store yet" in again()
    before = (folder / "manifest.json").stat().st_mtime_ns, store.digest_of(folder)
    assert again().endswith(f"up to date, digest {before[1]}")
    assert (folder / "manifest.json").stat().st_mtime_ns == before[0]
    (texts / "en" / "3.txt").write_text("Another text altogether.")
    assert "its source files have changed" in again()
    assert store.digest_of(folder) != before[1]
    os.truncate(folder / "00-en.train.u16", 10)
    assert "00-en.train.u16 is missing or has the wrong size" in again()
    assert "vocabulary was 256, is now 512" in again(write_config(texts, ["en", "de"], ["en", "de"], vocabulary=512))
    # A store that was carried to a machine without the texts stays as it is.
    for path in (texts / "en").iterdir():
        path.unlink()
    assert "up to date" in again(write_config(texts, ["en", "de"], ["en", "de"], vocabulary=512))
    assert [path.name for path in (texts / "data").iterdir() if path.name.startswith(".made.new-")] == []


def test_the_same_text_gives_the_same_digest(texts: Path) -> None:
    config = write_config(texts, list(WORDS), list(WORDS), tokenizer="bpe", vocabulary=300)
    digests = set()
    for _ in range(3):
        assert build(config, "--force") == 0
        digests.add(store.digest_of(texts / "data" / "made"))
    assert len(digests) == 1


def test_a_failed_build_leaves_the_old_store(texts: Path) -> None:
    config = write_config(texts, ["en"], ["en"])
    assert build(config) == 0
    digest = store.digest_of(texts / "data" / "made")
    (texts / "en" / "0.txt").write_bytes(b"\xff")
    assert build(config) == 7
    assert store.digest_of(texts / "data" / "made") == digest
    assert sorted(path.name for path in (texts / "data").iterdir()) == [".made.lock", "made"]


def test_packages_are_built_and_licences_noted(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = {f"{n}.html": help_page(f'<p id="par_1">A page about subject number {n}.</p>') for n in range(60)}
    files = {f"usr/share/libreoffice/help/en-US/text/{name}": page for name, page in pages.items()}
    files["usr/share/doc/libreoffice-help-en-us/copyright"] = "Files: *\nLicense: MPL-2.0\n"
    deb = make_deb(texts / "data" / "downloads" / "libreoffice-help-en-us_7_all.deb", files)
    config = write_config(texts, ["en"], ["debian:libreoffice-help-en-us"])
    assert main(["fetch", str(config)]) == 0
    assert capsys.readouterr().out.strip() == str(deb)
    assert build(config) == 0
    folder = texts / "data" / "made"
    (entry,) = manifest_of(folder)["inputs"]
    assert entry["licence"] == "MPL-2.0"
    assert (folder / entry["licence_file"]).read_text() == files["usr/share/doc/libreoffice-help-en-us/copyright"]
    assert sum(e["documents"] for e in manifest_of(folder)["splits"]) == 60
    deb.unlink()  # the store is whole: nothing is fetched again
    assert build(config) == 0


def write_megatron(prefix: Path, documents: list[list[int]], code: int = 8, kind: str = "<u2") -> None:
    """As Megatron-LM's IndexedDatasetBuilder writes it."""
    data = np.array([token for document in documents for token in document], kind)
    Path(f"{prefix}.bin").write_bytes(data.tobytes())
    lengths = np.array([len(document) for document in documents], "<i4")
    pointers = (np.cumsum(lengths) - lengths).astype("<i8") * data.itemsize
    index = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(lengths), len(lengths) + 1)
    Path(f"{prefix}.idx").write_bytes(
        index + lengths.tobytes() + pointers.tobytes() + np.arange(len(lengths) + 1, dtype="<i8").tobytes()
    )


def test_ready_tokens_are_used_in_place(texts: Path) -> None:
    documents = [[(7 * d + t) % 256 for t in range(50 + d)] for d in range(40)]
    write_megatron(texts / "mega", documents)
    tokens = np.arange(1000, dtype=np.int64) % 256
    np.save(texts / "array.npy", tokens)
    np.save(texts / "held-out.npy", tokens[:300].astype(np.uint8))
    config = write_config(
        texts,
        ["text", "m", "n", "two"],
        ["en", "megatron:mega", "npy:array.npy", "npy:array.npy,held-out.npy"],
        validation_share=0.25,
    )
    assert build(config) == 0
    folder = texts / "data" / "made"
    entries = {(entry["domain"], entry["split"]): entry for entry in manifest_of(folder)["splits"]}
    flat = [token for document in documents for token in document]
    train, validation = entries["m", "train"], entries["m", "validation"]
    assert [*tokens_of(folder, train), *tokens_of(folder, validation)] == flat
    starts = np.cumsum([0] + [len(document) for document in documents])
    assert validation["first"] in starts and train["documents"] + validation["documents"] == 40
    assert abs(validation["tokens"] / len(flat) - 0.25) < 0.02
    assert validation["text_bytes"] == validation["tokens"]  # the tokenizer is bytes
    assert list(tokens_of(folder, entries["n", "validation"])) == list(tokens[750:])
    assert entries["n", "train"]["offset_bytes"] == 128
    assert entries["two", "train"]["tokens"] == 1000 and entries["two", "validation"]["tokens"] == 300
    assert build(config) == 0
    np.save(texts / "array.npy", tokens + 1)
    assert build(config) == 7  # 256 is outside the vocabulary
    assert main(["verify", str(config), "--quiet"]) == 5


def test_bits_per_byte_of_ready_tokens_come_from_their_tokenizer(texts: Path) -> None:
    TINY_BPE.save(str(texts / "own.json"))
    text = WORDS["de"] * 100
    np.save(texts / "array.npy", np.array(TINY_BPE.encode(text).ids, np.int32))
    config = write_config(texts, ["de"], ["npy:array.npy"], tokenizer="own.json", vocabulary=320, validation_share=0.5)
    assert build(config) == 0
    entry = manifest_of(texts / "data" / "made")["splits"][1]
    folder = texts / "data" / "made"
    assert entry["text_bytes"] == len(TINY_BPE.decode(tokens_of(folder, entry).tolist()).encode())


Spoil = Callable[[Path], dict[str, Any]]


def keys(**changes: Any) -> Spoil:
    return lambda folder: changes


def bad_npy(folder: Path) -> dict[str, Any]:
    np.save(folder / "x.npy", np.zeros((3, 3)))
    return {"sources": ["npy:x.npy"]}


def bad_index(folder: Path) -> dict[str, Any]:
    write_megatron(folder / "x", [[1, 2], [3]])
    os.truncate(folder / "x.bin", 2)
    return {"sources": ["megatron:x"]}


def float_index(folder: Path) -> dict[str, Any]:
    write_megatron(folder / "x", [[1, 2], [3]], code=7)
    return {"sources": ["megatron:x"]}


def no_index(folder: Path) -> dict[str, Any]:
    write_megatron(folder / "x", [[1, 2], [3]])
    (folder / "x.idx").write_bytes(b"something else")
    return {"sources": ["megatron:x"]}


def large_token(folder: Path) -> dict[str, Any]:
    np.save(folder / "x.npy", np.array([1, 2, 999], np.int32))
    return {"sources": ["npy:x.npy"]}


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        (keys(kind="stor"), 3, "kind must be store or synthetic, not `stor`"),
        (keys(store=""), 3, "kind: store needs `store`"),
        (keys(vocabularies=3), 3, "unknown key `vocabularies`\n  did you mean `vocabulary`?"),
        (keys(vocabulary="many"), 3, "`vocabulary` must be a number, not `many`"),
        (keys(vocabulary=100), 3, "tokenizer: bytes needs a vocabulary of at least 256, not 100"),
        (keys(tokenizer="bpe"), 3, "tokenizer: bpe needs a vocabulary of at least 257"),
        (keys(tokenizer="none.json"), 3, "is no readable tokenizer.json: cannot read: No such file or directory"),
        (keys(validation_share=0.9), 3, "validation_share must be above 0 and at most 0.5, not 0.9"),
        (keys(domains=["en", "en"], sources=["en", "de"]), 3, "a domain is named twice"),
        (keys(domains=["en", "de"]), 3, "sources has 1 entries for 2 domains: give one per domain"),
        (keys(sources=["debian:--help"]), 3, "`--help` is no name of a Debian package"),
        (keys(sources=["debian:some-doc"]), 3, "`debian:some-doc` does not say which files hold the text"),
        (keys(sources=["npy:a,b,c"]), 3, "must name one file, or two"),
        (
            keys(sources=["npy:a.npy"], tokenizer="bpe", vocabulary=300),
            3,
            "tokenizer: bpe cannot be trained on ready token files",
        ),
        (keys(sources=["nothing-*.txt"]), 7, "no text files for domain `en`: `nothing-*.txt`"),
        (keys(sources=["en/1.txt"]), 7, "domain `en` has no document in its"),
        (keys(sources=["npy:en/1.txt"]), 7, "is no readable .npy file"),
        (keys(sources=["megatron:none"]), 4, "cannot read: No such file or directory"),
        (bad_npy, 7, "must be a one-dimensional little-endian integer array"),
        (bad_index, 5, "holds 2 bytes, its index names 3 tokens of 2 bytes"),
        (float_index, 7, "has version 1 and element type 7"),
        (no_index, 7, "is no Megatron index"),
        (large_token, 7, "token 999 at 2 is outside the vocabulary of 256"),
    ],
)
def test_errors(texts: Path, capsys: pytest.CaptureFixture[str], spoil: Spoil, code: int, message: str) -> None:
    changes = {"domains": ["en"], "sources": ["en"], **spoil(texts)}
    assert build(write_config(texts, **changes)) == code
    assert message in capsys.readouterr().err
    assert not (texts / "data" / "made").exists()


@pytest.mark.parametrize(
    ("text", "code", "where"),
    [
        ("kind: store\nkind: store\n", 3, ":2:1: `kind` is given twice"),
        ("kind: [store\n", 3, ":2:1: no valid YAML"),
        ("- a\n", 3, ": is no data section"),
        ("kind: store\ndomains: en\n", 3, ":2:10: `domains` must be a list of texts"),
        ("kind: {a: b}\n", 3, ":1:7: `kind` must be a single value"),
    ],
)
def test_errors_of_the_file_name_the_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, code: int, where: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert build(path) == code
    assert f"{path}{where}" in capsys.readouterr().err


def test_missing_config_and_bad_usage(tmp_path: Path) -> None:
    assert build(tmp_path / "none.yaml") == 4
    with pytest.raises(SystemExit) as stop:
        main(["bake"])
    assert stop.value.code == 2


def test_scalars_are_taken_as_written(tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path, ["no", "010"], ["a", "b"]))
    assert config.domains == ["no", "010"]


def test_a_data_section_inside_a_larger_file(tmp_path: Path) -> None:
    path = tmp_path / "trial.yaml"
    path.write_text("seed: 1\ndata:\n  kind: store\n  store: s\n  domains: [a]\n  sources: [b]\n  vocabulary: 300\n")
    assert load_config(path).vocabulary == 300


def test_verify_finds_a_flipped_bit(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(texts, ["en"], ["en"])
    assert main(["verify", str(config), "--quiet"]) == 7
    assert build(config) == 0
    assert main(["verify", str(config), "--quiet"]) == 0
    path = texts / "data" / "made" / "00-en.train.u16"
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    assert main(["verify", str(config), "--quiet"]) == 5
    assert "00-en.train.u16: has another digest" in capsys.readouterr().err


def test_synthetic_domains_need_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("kind: synthetic\ndomains: [a, b]\nsynthetic: {entropy: 2.0}\n")
    assert build(path) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_the_configs_that_come_with_moesweep_load() -> None:
    folder = Path(__file__).parents[2] / "configs" / "data"
    for path in folder.glob("*.yaml"):
        config = load_config(path)
        assert config.domains
        if config.kind == "store":
            assert len(sources.parse(config)) == len(config.domains)


def test_the_default_folder_is_build_data_of_the_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MOESWEEP_DATA", raising=False)
    (tmp_path / "configs").mkdir()
    (tmp_path / "CMakeLists.txt").touch()
    monkeypatch.chdir(tmp_path / "configs")
    assert store.data_folder() == tmp_path / "build" / "data"
    assert store.data_folder("x") == tmp_path / "configs" / "x"


def test_two_builds_at_once_make_one_store(texts: Path) -> None:
    config = write_config(texts, list(WORDS), list(WORDS), tokenizer="bpe", vocabulary=300)
    command = [sys.executable, "-m", "moesweep.data.cli", "build", str(config)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [run.communicate(timeout=60)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert sorted(("up to date" in output) for output in outputs) == [False, True]
