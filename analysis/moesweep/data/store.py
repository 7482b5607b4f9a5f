"""Builds token stores: documents split by key, encoded, and published as a folder with a manifest. The format is in analysis/TOKENS.md."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from moesweep.data import place, replace, sources, strict_json
from moesweep.data.config import DataConfig
from moesweep.data.errors import DataToolError, at, is_utf8, printable, shown
from moesweep.data.files import read_limited, sha256_of
from moesweep.data.manifest import FORMAT, SPLITS, VERSION, Json, read_manifest
from moesweep.data.place import downloads_folder, store_folder
from moesweep.data.progress import Progress

BUILD_BYTES = 16 << 20


def data_folder(chosen: str | None = None) -> Path:
    """--data, else $MOESWEEP_DATA, else build/data of the checkout around the current folder (or of the current folder)."""
    if chosen:
        return Path(chosen).absolute()
    if os.environ.get("MOESWEEP_DATA"):
        return Path(os.environ["MOESWEEP_DATA"]).absolute()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "CMakeLists.txt").is_file() and (folder / "configs").is_dir():
            return folder / "build" / "data"
    return here / "build" / "data"


def wanted_of(config: DataConfig) -> Json:
    """What of the config decides the content of a store; the manifest repeats it."""
    return {
        "domains": config.domains,
        "sources": config.sources,
        "tokenizer": config.tokenizer,
        "vocabulary": config.vocabulary,
        "validation_share": config.validation_share,
        "recipe": sources.RECIPE,
    }


def outdated(config: DataConfig, data: Path, field: str) -> str:
    """Why the store must be built; empty when it is whole and made by this config from these sources."""
    store = store_folder(config, data)
    try:
        manifest = read_manifest(store)
        made = strict_json.parse(read_limited(store / "build.json", BUILD_BYTES).decode("utf-8"))
    except (DataToolError, ValueError):
        return (
            "there is no whole store yet" if not (store / "manifest.json").exists() else "its manifest cannot be read"
        )
    if not isinstance(made, dict):
        return "its build.json cannot be read"
    wanted = {**wanted_of(config), "text_field": field}
    for name, value in wanted.items():
        if made.get(name) != value:
            return f"{name} was {shown(made.get(name))}, is now {shown(value)}"
    for entry in manifest.splits:
        path = store / entry.file
        if not path.is_file() or (entry.encoding == "raw" and path.stat().st_size != entry.raw_bytes):
            return f"{shown(entry.file)} is missing or has the wrong size"
    seen = _seen(config)
    return "its source files have changed" if seen and made.get("seen") != seen else ""


def _seen(config: DataConfig) -> str:
    """A digest of names, sizes and times of the files that the config names, packages aside; empty when one of them is gone."""
    rows: list[str] = []

    def add(name: str, path: Path) -> None:
        state = path.stat()
        rows.append(f"{name} {state.st_size} {state.st_mtime_ns}")

    try:
        for spec in sources.parse(config):
            if spec.kind == "text":
                for name, path in sources.text_files(spec, config):
                    add(name, path)
            for place in spec.places if spec.kind in ("megatron", "npy") else []:
                for ending in (".bin", ".idx") if spec.kind == "megatron" else ("",):
                    add(place + ending, Path(f"{sources.resolve(place, config)}{ending}"))
        if config.tokenizer not in ("bytes", "bpe"):
            add(config.tokenizer, sources.resolve(config.tokenizer, config))
    except (OSError, DataToolError):
        return ""
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


@dataclasses.dataclass
class Built:
    store: Path
    digest: str
    fresh: bool


def build(config: DataConfig, data: Path, progress: Progress, field: str = "text", force: bool = False) -> Built:
    """Makes the store unless it is there, whole and made from the same; what is missing is fetched. A `config` error, before anything
    is read, when files that no build wrote would be in the way; see replace.py and place.py."""
    if not is_utf8(field):
        raise DataToolError("usage", "is not UTF-8 text", "--text-field")
    given = store_folder(config, data)
    store = place.checked_store(config, data)
    if not force and not replace.is_interrupted(store) and not outdated(config, data, field):
        return Built(given, digest_of(store), False)
    replace.replaceable(store)
    with replace.locked(store):
        why = "asked to" if force else outdated(config, data, field)
        if not why:
            if replace.is_interrupted(store):
                replace.finish(store)
            return Built(given, digest_of(store), False)
        replace.replaceable(store)
        progress.say(f"building {given}: {why}")
        try:
            with replace.temporary_folder(store) as temporary:
                _write(config, data, temporary, progress, field)
                replace.publish(temporary, store)
        except OSError as error:
            raise DataToolError("io", f"cannot write: {error.strerror}", str(error.filename or store)) from error
    return Built(given, digest_of(store), True)


def digest_of(store: Path) -> str:
    """The digest that names a store: SHA-256 of its manifest."""
    return read_manifest(store).digest


def _write(config: DataConfig, data: Path, folder: Path, progress: Progress, field: str) -> None:
    from moesweep.data import debian

    specs = sources.parse(config)
    seen = _seen(config)
    debs = debian.fetch(sources.packages_of(specs), downloads_folder(data), progress)
    progress.stage("reading text")
    texts = sources.read_all(specs, debs, config, field, progress)
    split = _split(texts, config)
    count = sum(len(text.documents) for text in texts.values())
    size = sum(entry.text_bytes for entry in split.values())
    progress.finish(f"{count:,} documents, {size / 1e6:.1f} MB")
    manifest: Json = {"format": FORMAT, "version": VERSION, **wanted_of(config)}
    coder, manifest["tokenizer"] = _tokenizer(config, split, folder, progress)
    manifest["inputs"] = _inputs(specs, texts, folder)
    manifest["splits"] = _encode(config, coder, split, folder, progress)
    manifest["splits"] += _foreign(config, coder, specs, data, progress, manifest["inputs"])
    order = {domain: number for number, domain in enumerate(config.domains)}
    manifest["splits"].sort(key=lambda entry: (order[entry["domain"]], entry["split"]))
    _dump(folder / "manifest.json", manifest)
    import tokenizers

    made = {
        **wanted_of(config),
        "text_field": field,
        "seen": seen,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    _dump(folder / "build.json", {**made, "config": printable(str(config.path)), "tokenizers": tokenizers.__version__})


def _dump(path: Path, value: Json) -> None:
    with at(path):
        path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclasses.dataclass
class SplitText:
    documents: list[str]

    @property
    def text_bytes(self) -> int:
        return sum(len(text.encode()) for text in self.documents)


def _split(texts: dict[str, sources.Text], config: DataConfig) -> dict[tuple[str, str], SplitText]:
    split: dict[tuple[str, str], SplitText] = {}
    for domain, text in texts.items():
        parts: dict[str, list[str]] = {name: [] for name in SPLITS}
        for key, content in text.documents:
            parts[SPLITS[sources.in_validation(key, config.validation_share)]].append(content)
        for name, documents in parts.items():
            if not documents:
                raise DataToolError(
                    "data",
                    f"domain `{domain}` has no document in its {name} split: {len(text.documents)} documents, "
                    f"validation_share {config.validation_share}",
                    str(config.path),
                    "give more documents, or another validation_share",
                )
            split[domain, name] = SplitText(documents)
    return split


def _tokenizer(
    config: DataConfig, split: dict[tuple[str, str], SplitText], folder: Path, progress: Progress
) -> tuple[Any, Json]:
    from moesweep.data import tokenizer as pieces

    if config.tokenizer == "bytes":
        return pieces.ByteCoder(), {"name": "bytes", "file": None, "sha256": None, "pieces": 256, "end_of_document": 0}
    target = folder / "tokenizer.json"
    if config.tokenizer == "bpe":
        if len(split) < 2 * len(config.domains):
            raise DataToolError(
                "config",
                "tokenizer: bpe cannot be trained on ready token files",
                str(config.path),
                "name the tokenizer.json that they were made with, or bytes",
            )
        progress.stage("training the tokenizer")
        made = pieces.train_bpe([split[domain, "train"].documents for domain in config.domains], config.vocabulary)
        made.save(str(target))
        progress.finish(f"{made.get_vocab_size()} pieces")
    else:
        made, content = pieces.load_tokenizer(sources.resolve(config.tokenizer, config))
        target.write_bytes(content)
    coder = pieces.PieceCoder(made)
    if coder.size > config.vocabulary:
        raise DataToolError(
            "config",
            f"the tokenizer has {coder.size} pieces, vocabulary is {config.vocabulary}",
            str(config.path),
            f"set vocabulary: {coder.size}",
        )
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    described = {"name": config.tokenizer, "file": "tokenizer.json", "sha256": digest, "pieces": coder.size}
    return coder, {**described, "end_of_document": coder.end_of_document}


def _inputs(specs: list[sources.Spec], texts: dict[str, sources.Text], folder: Path) -> list[Json]:
    """What each domain was made from; digests of single files go to inputs.sha256, licences to licences/."""
    rows: list[str] = []
    inputs: list[Json] = []
    licences: dict[str, str] = {}
    (folder / "licences").mkdir()
    for spec in specs:
        if spec.domain not in texts:
            continue
        text = texts[spec.domain]
        own = [f"{digest}  {name}" for name, digest, _ in text.inputs]
        rows += own
        file = None
        if text.licence_text:
            file = _licence_file(spec.package or spec.domain, text.licence_text, licences)
            with at(folder / file):
                (folder / file).write_text(text.licence_text, encoding="utf-8")
        entry: Json = {"domain": spec.domain, "source": spec.given, "files": len(text.inputs)}
        entry["bytes"] = sum(size for _, _, size in text.inputs)
        entry["sha256"] = hashlib.sha256("\n".join(own).encode()).hexdigest()
        inputs.append({**entry, "licence": text.licence, "licence_file": file})
    (folder / "inputs.sha256").write_text("\n".join(dict.fromkeys(rows)) + "\n", encoding="utf-8")
    return inputs


def _licence_file(name: str, text: str, taken: dict[str, str]) -> str:
    """A name for a licence text; two domains whose names differ in odd characters alone do not share a file."""
    for number in itertools.count(1):
        file = f"licences/{_safe(name)}{f'-{number}' if number > 1 else ''}.txt"
        if taken.setdefault(file, text) == text:
            return file
    raise AssertionError


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _encode(
    config: DataConfig, coder: Any, split: dict[tuple[str, str], SplitText], folder: Path, progress: Progress
) -> list[Json]:
    from moesweep.data.tokenizer import encode_all

    if not split:
        return []
    dtype, kind = ("u16", "<u2") if config.vocabulary <= 65536 else ("u32", "<u4")
    progress.stage("encoding")
    total = sum(len(part.documents) for part in split.values())
    done = tokens_total = 0

    def show(documents: int) -> None:
        nonlocal done
        done += documents
        progress.update(done, total)

    entries: list[Json] = []
    for number, domain in enumerate(config.domains):
        for name in SPLITS:
            if (domain, name) not in split:
                continue
            part = split[domain, name]
            wide = encode_all(coder, part.documents, show)
            if len(wide) and int(wide.max()) >= config.vocabulary:
                raise DataToolError(
                    "config",
                    f"the tokenizer gives token {int(wide.max())}, vocabulary is {config.vocabulary}",
                    str(config.path),
                    "its ids have gaps: give a vocabulary above the largest id",
                )
            tokens = wide.astype(kind)
            file = f"{number:02d}-{_safe(domain)}.{name}.{dtype}"
            data = tokens.tobytes()
            (folder / file).write_bytes(data)
            tokens_total += len(tokens)
            entry: Json = {
                "domain": domain,
                "split": name,
                "file": file,
                "encoding": "raw",
                "dtype": dtype,
                "offset_bytes": 0,
                "first": 0,
            }
            entry |= {"tokens": len(tokens), "documents": len(part.documents), "text_bytes": part.text_bytes}
            entries.append({**entry, "sha256": hashlib.sha256(data).hexdigest()})
    progress.finish(f"{tokens_total:,} tokens")
    return entries


def _foreign(
    config: DataConfig, coder: Any, specs: list[sources.Spec], data: Path, progress: Progress, inputs: list[Json]
) -> list[Json]:
    """Ready token files stay where they are: the manifest points at them, and at the part of each split."""
    from moesweep.data import foreign

    entries: list[Json] = []
    for spec in specs:
        if spec.kind not in ("megatron", "npy"):
            continue
        progress.stage(f"checking the tokens of {spec.domain}")
        opener = foreign.open_npy if spec.kind == "npy" else foreign.open_megatron
        files = [opener(sources.resolve(place, config)) for place in spec.places]
        digests = [foreign.scan(file, config.vocabulary, progress.update) for file in files]
        cut = foreign.cut_for_validation(files[0], config.validation_share) if len(files) == 1 else len(files[0].tokens)
        parts = (
            [(0, 0, cut), (0, cut, len(files[0].tokens))]
            if len(files) == 1
            else [(0, 0, cut), (1, 0, len(files[1].tokens))]
        )
        for name, (which, first, last) in zip(SPLITS, parts, strict=True):
            file = files[which]
            if last <= first:
                raise DataToolError("data", f"leaves no tokens for the {name} split of `{spec.domain}`", str(file.path))
            path = os.path.abspath(file.path)
            if not is_utf8(path):
                raise DataToolError("data", "has a name that is not UTF-8", path, "rename the file or its folder")
            text_bytes = coder.bytes_of(file.tokens[first:last]) if name == "validation" else None
            documents = int(((file.documents[:-1] >= first) & (file.documents[:-1] < last)).sum())
            entry: Json = {
                "domain": spec.domain,
                "split": name,
                "file": path,
                "encoding": file.encoding,
                "dtype": file.dtype,
            }
            entry |= {"offset_bytes": file.offset_bytes, "first": first, "tokens": last - first, "documents": documents}
            entries.append({**entry, "text_bytes": text_bytes, "sha256": digests[which]})
        row: Json = {"domain": spec.domain, "source": spec.given, "files": len(files)}
        row["bytes"] = sum(file.path.stat().st_size for file in files)
        row["sha256"] = hashlib.sha256("\n".join(digests).encode()).hexdigest()
        inputs.append({**row, "licence": "not stated", "licence_file": None})
        progress.finish(f"{sum(len(file.tokens) for file in files):,} tokens")
    return entries


def verify(store: Path, progress: Progress) -> int:
    """Reads every file of a store and compares its digest; how many files there were. A `corrupt` error names the first that differs."""
    manifest = read_manifest(store)
    wanted = {entry.file: entry.sha256 for entry in manifest.splits}
    if manifest.tokenizer.file and manifest.tokenizer.sha256:
        wanted[manifest.tokenizer.file] = manifest.tokenizer.sha256
    progress.stage("verifying")
    for number, (file, expected) in enumerate(wanted.items()):
        if sha256_of(store / file) != expected:
            raise DataToolError(
                "corrupt",
                "has another digest than the manifest says",
                str(store / file),
                "build the store again with --force",
            )
        progress.update(number + 1, len(wanted))
    return len(wanted)
