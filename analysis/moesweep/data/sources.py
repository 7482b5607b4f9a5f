"""The sources of a config: from `debian:PACKAGE`, paths and globs to documents, each with a key that decides its split."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import glob
import gzip
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from moesweep.data import debian, html_text
from moesweep.data.config import DataConfig
from moesweep.data.errors import DataToolError
from moesweep.data.progress import Progress

RECIPE = 1
"""Raised when the same sources would give other documents, so that stores are made anew."""

HELP_PACKAGE = "libreoffice-help-"
HELP_ORIGINAL = "libreoffice-help-en-us"
TEXT_ENDINGS = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")
DOCUMENT_BYTES = 4096  # a longer text file is cut at blank lines into documents of at least this size


@dataclasses.dataclass
class Spec:
    """One entry of `sources`, taken apart."""

    domain: str
    given: str
    kind: str  # help, debian, text, megatron or npy
    package: str = ""
    pattern: str = ""
    places: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Text:
    """What a text source gave."""

    documents: list[tuple[str, str]]  # (key, text)
    inputs: list[tuple[str, str, int]]  # (name, sha256, bytes) of each file read
    licence: str = "not stated"
    licence_text: str = ""


def parse(config: DataConfig) -> list[Spec]:
    specs = []
    for domain, given in zip(config.domains, config.sources, strict=True):
        scheme, _, rest = given.partition(":")
        if scheme == "debian":
            package, _, pattern = rest.partition(":")
            debian.check_package_name(package)
            if pattern:
                specs.append(Spec(domain, given, "debian", package, pattern))
            elif package.startswith(HELP_PACKAGE):
                specs.append(Spec(domain, given, "help", package))
            else:
                raise DataToolError(
                    "config",
                    f"`{given}` does not say which files hold the text",
                    f"{config.path}: sources",
                    f"give a glob: debian:{package}:usr/share/doc/{package}/*.html",
                )
        elif scheme in ("megatron", "npy"):
            places = rest.split(",")
            if not 1 <= len(places) <= 2 or not all(places):
                raise DataToolError(
                    "config", f"`{given}` must name one file, or two: train,validation", f"{config.path}: sources"
                )
            specs.append(Spec(domain, given, scheme, places=places))
        else:
            specs.append(Spec(domain, given, "text", places=[given]))
    return specs


def packages_of(specs: Sequence[Spec]) -> list[str]:
    """Packages to download; help in any language is compared with the English original, to drop what nobody translated."""
    packages = [spec.package for spec in specs if spec.package]
    if any(spec.kind == "help" for spec in specs):
        packages.append(HELP_ORIGINAL)
    return list(dict.fromkeys(packages))


def resolve(given: str, config: DataConfig) -> Path:
    """A path of a config: as it is, from the current folder, or beside the config file."""
    path = Path(given).expanduser()
    return path if path.is_absolute() or path.exists() else config.path.parent / path


def text_files(spec: Spec, config: DataConfig) -> list[tuple[str, Path]]:
    """(name, path) of the text files of a path, folder or glob, sorted; the name does not depend on where the folder lies."""
    given = spec.places[0]
    path = resolve(given, config)
    if path.is_dir():
        files = sorted(item for item in path.rglob("*") if item.is_file() and item.name.endswith(TEXT_ENDINGS))
        named = [(item.relative_to(path).as_posix(), item) for item in files]
    elif path.is_file():
        named = [(path.name, path)]
    else:
        pattern = given if Path(given).expanduser().is_absolute() else ""
        patterns = [pattern] if pattern else [given, str(config.path.parent / given)]
        matches = next(
            (m for m in (sorted(glob.glob(os.path.expanduser(p), recursive=True)) for p in patterns) if m), []
        )
        files = [Path(match) for match in matches if os.path.isfile(match)]
        base = Path(os.path.commonpath([item.parent for item in files])) if files else Path()
        named = [(item.relative_to(base).as_posix(), item) for item in files]
    if not named:
        endings = ", ".join(TEXT_ENDINGS)
        raise DataToolError(
            "data", f"no text files for domain `{spec.domain}`: `{given}`", "", f"a folder is searched for {endings}"
        )
    return named


def documents_of_file(name: str, data: bytes, field: str) -> Iterator[tuple[str, str]]:
    """(key, text) of the documents of one text file, given its bytes."""
    if name.endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError) as error:
            raise DataToolError("corrupt", f"is no whole gzip file: {error}", name) from error
        name = name.removesuffix(".gz")
    try:
        text = data.decode("utf-8-sig").replace("\x00", "")
    except UnicodeDecodeError as error:
        raise DataToolError("data", f"is not UTF-8 text: {error}", name) from error
    if name.endswith(".jsonl"):
        yield from _json_lines(name, text, field)
    elif len(text.encode()) <= 2 * DOCUMENT_BYTES:
        if text.strip():
            yield name, text.strip()
    else:
        yield from _cut(name, text)


def _json_lines(name: str, text: str, field: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataToolError("data", f"no JSON: {error.msg}", f"{name}:{number}:{error.colno}") from error
        if not isinstance(entry, dict) or not isinstance(entry.get(field), str):
            raise DataToolError(
                "data", f"has no text field `{field}`", f"{name}:{number}", "choose another by --text-field"
            )
        content = entry[field].replace("\x00", "").strip()
        if content:
            key = entry.get("key", entry.get("id"))
            # Without a key of its own a document is named by its text: equal texts never end up in both splits.
            yield str(key) if key is not None else hashlib.sha256(content.encode()).hexdigest(), content


def _cut(name: str, text: str) -> Iterator[tuple[str, str]]:
    part: list[str] = []
    size = number = 0
    for paragraph in re.split(r"\n[ \t\r]*\n\s*", text):
        if not paragraph.strip():
            continue
        part.append(paragraph.strip())
        size += len(part[-1].encode())
        if size >= DOCUMENT_BYTES:
            yield f"{name}#{number}", "\n\n".join(part)
            part, size, number = [], 0, number + 1
    if part:
        yield f"{name}#{number}", "\n\n".join(part)


def read_text_files(spec: Spec, config: DataConfig, field: str) -> Text:
    text = Text([], [])
    for name, path in text_files(spec, config):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataToolError("io", f"cannot read: {error.strerror}", str(path)) from error
        text.inputs.append((name, hashlib.sha256(data).hexdigest(), len(data)))
        try:
            text.documents.extend(documents_of_file(name, data, field))
        except DataToolError as error:
            error.where = error.where.replace(name, str(path), 1)
            raise
    folder = resolve(spec.places[0], config)
    for item in sorted(folder.iterdir()) if folder.is_dir() else []:
        if re.fullmatch(r"(LICEN[CS]E|COPYING|copyright)([.-].*)?", item.name, re.IGNORECASE) and item.is_file():
            text.licence_text = item.read_text(encoding="utf-8", errors="replace")
            text.licence = text.licence_text.strip().partition("\n")[0].strip() or "not stated"
            break
    return text


HelpPages = dict[str, html_text.Paragraphs]


def read_help(deb: Path, package: str) -> tuple[HelpPages, str, str]:
    """(pages by path below the language's text folder, copyright text, sha256 of the package) of a LibreOffice help package."""
    pages: HelpPages = {}
    copyright_text = ""
    for path, data in debian.files_in(
        deb, ["usr/share/libreoffice/help/*/text/*.html", debian.copyright_path(package)]
    ):
        if path.endswith(".html"):
            pages[path.split("/text/", 1)[1]] = html_text.help_paragraphs(data.decode("utf-8", "replace"))
        else:
            copyright_text = data.decode("utf-8", "replace")
    if not pages:
        raise DataToolError("data", "holds no help pages (usr/share/libreoffice/help/*/text/)", str(deb))
    return pages, copyright_text, _digest(deb)


def read_package(deb: Path, package: str, pattern: str) -> Text:
    """Documents from the files of any package that match the glob: HTML by its paragraphs, everything else as text."""
    copyright_file = debian.copyright_path(package)
    text = Text([], [(deb.name, _digest(deb), deb.stat().st_size)])
    pages: list[tuple[str, html_text.Paragraphs]] = []
    for path, data in debian.files_in(deb, [pattern, copyright_file]):
        if path == copyright_file:
            text.licence_text = data.decode("utf-8", "replace")
        elif path.endswith((".html", ".htm", ".html.gz")):
            page = gzip.decompress(data) if path.endswith(".gz") else data
            pages.append((path, html_text.plain_paragraphs(page.decode("utf-8", "replace"))))
        else:
            text.documents.extend(documents_of_file(path, data, "text"))
    text.documents.extend(html_text.without_duplicates(pages))
    text.licence = debian.licence_name(text.licence_text)
    return text


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_all(
    specs: Sequence[Spec], debs: dict[str, Path], config: DataConfig, field: str, progress: Progress
) -> dict[str, Text]:
    """The text of every text source, by domain; packages are read by as many processes as there are processors."""
    texts: dict[str, Text] = {}
    pages: dict[str, tuple[HelpPages, str, str]] = {}
    help_packages = packages_of([spec for spec in specs if spec.kind == "help"])
    others = [spec for spec in specs if spec.kind == "debian"]
    total = len(help_packages) + len([spec for spec in specs if spec.kind in ("debian", "text")])
    workers = min(len(os.sched_getaffinity(0)), max(1, len(help_packages) + len(others)))
    done = 0
    with concurrent.futures.ProcessPoolExecutor(workers) as pool:
        read_pages = {pool.submit(read_help, debs[package], package): package for package in help_packages}
        read_others = {pool.submit(read_package, debs[s.package], s.package, s.pattern): s.domain for s in others}
        for spec in specs:
            if spec.kind == "text":
                texts[spec.domain] = read_text_files(spec, config, field)
                progress.update(done := done + 1, total, spec.domain)
        for page_future in concurrent.futures.as_completed(read_pages):
            pages[read_pages[page_future]] = page_future.result()
            progress.update(done := done + 1, total)
        for text_future in concurrent.futures.as_completed(read_others):
            texts[read_others[text_future]] = text_future.result()
            progress.update(done := done + 1, total)
    for spec in specs:
        if spec.kind == "help":
            texts[spec.domain] = _help_text(spec, pages, debs)
    return texts


def _help_text(spec: Spec, pages: dict[str, tuple[HelpPages, str, str]], debs: dict[str, Path]) -> Text:
    own, copyright_text, digest = pages[spec.package]
    deb = debs[spec.package]
    inputs = [(deb.name, digest, deb.stat().st_size)]
    if spec.package != HELP_ORIGINAL:
        original, _, original_digest = pages[HELP_ORIGINAL]
        own = html_text.translated_only(own, original)
        inputs.append((debs[HELP_ORIGINAL].name, original_digest, debs[HELP_ORIGINAL].stat().st_size))
    documents = html_text.without_duplicates(sorted(own.items()))
    return Text(documents, inputs, debian.licence_name(copyright_text), copyright_text)


def in_validation(key: str, share: float) -> bool:
    """Whether the document belongs to the validation split: by a hash of its key, so parallel documents of all domains go together."""
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    return number < share * 2**64
