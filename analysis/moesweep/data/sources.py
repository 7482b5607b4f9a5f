"""The sources of a config: from `debian:PACKAGE`, paths and globs to documents, each with a key that decides its split."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import dataclasses
import glob
import hashlib
import io
import itertools
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from moesweep.data import debian, html_text, strict_json, unpack
from moesweep.data.config import DataConfig
from moesweep.data.errors import DataToolError, at, is_utf8
from moesweep.data.files import open_regular, read_limited, sha256_of
from moesweep.data.progress import Progress
from moesweep.publish import kind_of

RECIPE = 1
"""Raised when the same sources would give other documents, so that stores are made anew."""

HELP_PACKAGE = "libreoffice-help-"
HELP_ORIGINAL = "libreoffice-help-en-us"
TEXT_ENDINGS = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")
MOST_FILES = 1_000_000  # that a glob may match
LICENCE_BYTES = 16 << 20
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
    try:
        path = Path(given).expanduser()
    except RuntimeError as error:  # ~somebody, whom nobody knows here
        raise DataToolError("config", f"`{given}`: {error}", str(config.path)) from error
    return path if path.is_absolute() or path.exists() else config.path.parent / path


def glob_patterns(given: str, config: DataConfig) -> list[str]:
    """The patterns that a glob of a config stands for, in the order in which they are tried."""
    return [given] if os.path.isabs(os.path.expanduser(given)) else [given, str(config.path.parent / given)]


def text_files(spec: Spec, config: DataConfig) -> list[tuple[str, Path]]:
    """(name, path) of the text files of a path, folder or glob, sorted; the name does not depend on where the folder lies."""
    given = spec.places[0]
    path = resolve(given, config)
    if path.is_dir():
        named = [(item.relative_to(path).as_posix(), item) for item in sorted(_files_below(path))]
    elif path.exists():
        named = [(path.name, path)]
    else:
        files = _files_of_glob(given, config)
        base = Path(os.path.commonpath([item.parent for item in files])) if files else Path()
        named = [(item.relative_to(base).as_posix(), item) for item in files]
    if not named:
        endings = ", ".join(TEXT_ENDINGS)
        raise DataToolError(
            "data", f"no text files for domain `{spec.domain}`: `{given}`", "", f"a folder is searched for {endings}"
        )
    for name, item in named:
        # Names go into inputs.sha256, a text file with a name a line.
        if not is_utf8(name) or any(unicodedata.category(letter) == "Cc" for letter in name):
            raise DataToolError(
                "data", "has a file name that is not UTF-8 or holds a control character", str(item), "rename the file"
            )
    return named


def _files_below(folder: Path) -> Iterator[Path]:
    """Regular files with an ending of a text file. What cannot be listed or read is an error, not left out."""

    def refuse(error: OSError) -> None:
        raise DataToolError("io", f"cannot be listed: {error.strerror}", str(error.filename)) from error

    for place, _, names in os.walk(folder, onerror=refuse):
        for name in names:
            if name.endswith(TEXT_ENDINGS):
                _check_regular(item := Path(place, name))
                yield item


def _files_of_glob(given: str, config: DataConfig) -> list[Path]:
    for pattern in glob_patterns(given, config):
        found = glob.iglob(os.path.expanduser(pattern), recursive=True)
        matches = sorted(itertools.islice(found, MOST_FILES + 1))
        if len(matches) > MOST_FILES:
            raise DataToolError("data", f"`{given}` matches more than {MOST_FILES:,} files", str(config.path))
        if matches:
            files = [Path(match) for match in matches if not os.path.isdir(match)]
            for item in files:
                _check_regular(item)
            return files
    return []


def _check_regular(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DataToolError("io", f"cannot read: {error.strerror}", str(path)) from error
    if not stat.S_ISREG(mode):
        raise DataToolError("data", f"is {kind_of(mode)}; only regular files are read", str(path))


def documents_of_file(name: str, data: bytes, field: str) -> Iterator[tuple[str, str]]:
    """(key, text) of the documents of one text file, given its bytes."""
    return documents_of_stream(name, unpack.Counted(io.BytesIO(data)), field, name)


def documents_of_stream(name: str, file: unpack.Counted, field: str, where: str) -> Iterator[tuple[str, str]]:
    """(key, text) of the documents of one text file, read as a stream. Keys follow from `name`; errors name `where` and the line."""
    packed = name.endswith(".gz")
    name = name.removesuffix(".gz")
    lines = unpack.text_lines(unpack.pieces(file, packed, where), where)
    yield from _json_lines(lines, field, where) if name.endswith(".jsonl") else _text_documents(name, lines, where)


def _json_lines(lines: Iterator[tuple[int, str]], field: str, where: str) -> Iterator[tuple[str, str]]:
    for number, line in lines:
        if not line.strip():
            continue
        place = f"{where}:{number}"
        try:
            entry = strict_json.parse(line)
        except strict_json.JsonError as error:
            raise DataToolError("data", f"no JSON: {error.message}", f"{place}:{error.column}") from error
        if not isinstance(entry, dict) or not isinstance(entry.get(field), str):
            raise DataToolError("data", f"has no text field `{field}`", place, "choose another by --text-field")
        content = entry[field].replace("\x00", "").strip()
        if not is_utf8(content):
            raise DataToolError("data", f"field `{field}` holds half of a surrogate pair, which is no text", place)
        if content:
            key = entry.get("key", entry.get("id"))
            if key is not None and not is_utf8(str(key)):
                raise DataToolError("data", "its key or id holds half of a surrogate pair, which is no text", place)
            # Without a key of its own a document is named by its text: equal texts never end up in both splits.
            yield str(key) if key is not None else hashlib.sha256(content.encode()).hexdigest(), content


def _text_documents(name: str, lines: Iterator[tuple[int, str]], where: str) -> Iterator[tuple[str, str]]:
    """A short text is one document; a longer one is cut at blank lines."""
    first: list[tuple[int, str]] = []
    size = -1  # a newline between two lines
    for number, line in lines:
        first.append((number, line))
        size += len(line.encode()) + 1
        if size > 2 * DOCUMENT_BYTES:
            yield from _cut(name, itertools.chain(first, lines), where)
            return
    text = "\n".join(line for _, line in first).strip()
    if text:
        yield name, text


def _paragraphs(lines: Iterable[tuple[int, str]], where: str) -> Iterator[str]:
    """Runs of lines between lines that hold nothing but blanks, tabs and returns; stripped, without empty ones."""
    held: list[str] = []
    size = begin = 0
    for number, line in lines:
        if line.strip(" \t\r"):
            begin = begin if held else number
            held.append(line)
            size += len(line.encode()) + 1
            if size > unpack.LINE_BYTES:
                most = unpack.size_in_words(unpack.LINE_BYTES)
                raise DataToolError("data", f"a paragraph of more than {most} begins here", f"{where}:{begin}")
        elif held:
            if paragraph := "\n".join(held).strip():
                yield paragraph
            held, size = [], 0
    if paragraph := "\n".join(held).strip():
        yield paragraph


def _cut(name: str, lines: Iterable[tuple[int, str]], where: str) -> Iterator[tuple[str, str]]:
    part: list[str] = []
    size = number = 0
    for paragraph in _paragraphs(lines, where):
        part.append(paragraph)
        size += len(paragraph.encode())
        if size >= DOCUMENT_BYTES:
            yield f"{name}#{number}", "\n\n".join(part)
            part, size, number = [], 0, number + 1
    if part:
        yield f"{name}#{number}", "\n\n".join(part)


def read_text_files(spec: Spec, config: DataConfig, field: str, budget: unpack.Budget | None = None) -> Text:
    budget = budget or unpack.Budget()
    text = Text([], [])
    for name, path in text_files(spec, config):
        where = str(path)
        with at(path), open_regular(path) as handle:
            file = unpack.Counted(handle)
            for key, content in documents_of_stream(name, file, field, where):
                budget.take(len(content.encode()) + unpack.DOCUMENT_COST_BYTES, where)
                text.documents.append((key, content))
            text.inputs.append((name, file.finish(), file.size))
    folder = resolve(spec.places[0], config)
    for item in sorted(folder.iterdir()) if folder.is_dir() else []:
        if re.fullmatch(r"(LICEN[CS]E|COPYING|copyright)([.-].*)?", item.name, re.IGNORECASE) and item.is_file():
            text.licence_text = read_limited(item, LICENCE_BYTES).decode("utf-8", "replace")
            text.licence = text.licence_text.strip().partition("\n")[0].strip()[:200] or "not stated"
            break
    return text


HelpPages = dict[str, html_text.Paragraphs]


def read_help(deb: Path, package: str) -> tuple[HelpPages, str, str]:
    """(pages by path below the language's text folder, copyright text, sha256 of the package) of a LibreOffice help package."""
    pages: HelpPages = {}
    copyright_text = ""
    with at(deb, "corrupt"):
        for path, data in debian.files_in(
            deb, ["usr/share/libreoffice/help/*/text/*.html", debian.copyright_path(package)]
        ):
            if path.endswith(".html"):
                pages[path.split("/text/", 1)[1]] = html_text.help_paragraphs(data.decode("utf-8", "replace"))
            else:
                copyright_text = data.decode("utf-8", "replace")
    if not pages:
        raise DataToolError("data", "holds no help pages (usr/share/libreoffice/help/*/text/)", str(deb))
    return pages, copyright_text, sha256_of(deb)


def read_package(deb: Path, package: str, pattern: str) -> Text:
    """Documents from the files of any package that match the glob: HTML by its paragraphs, everything else as text."""
    copyright_file = debian.copyright_path(package)
    budget = unpack.Budget()
    text = Text([], [(deb.name, sha256_of(deb), deb.stat().st_size)])
    pages: list[tuple[str, html_text.Paragraphs]] = []
    with at(deb, "corrupt"):
        for path, data in debian.files_in(deb, [pattern, copyright_file]):
            place = f"{deb}: {path}"
            packed = unpack.Counted(io.BytesIO(data))
            if path == copyright_file:
                text.licence_text = data.decode("utf-8", "replace")
            elif path.endswith((".html", ".htm", ".html.gz")):
                page = b"".join(unpack.pieces(packed, path.endswith(".gz"), place, unpack.LINE_BYTES))
                pages.append((path, html_text.plain_paragraphs(page.decode("utf-8", "replace"))))
            else:
                for key, content in documents_of_stream(path, packed, "text", place):
                    budget.take(len(content.encode()) + unpack.DOCUMENT_COST_BYTES, place)
                    text.documents.append((key, content))
    text.documents.extend(html_text.without_duplicates(pages))
    text.licence = debian.licence_name(text.licence_text)
    return text


Result = TypeVar("Result")


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
    budget = unpack.Budget()

    def result_of(future: concurrent.futures.Future[Result], package: str) -> Result:
        try:
            return future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise DataToolError(
                "io", "the process that read it was ended", str(debs[package]), "most often by a lack of memory"
            ) from error

    with concurrent.futures.ProcessPoolExecutor(workers) as pool:
        read_pages = {pool.submit(read_help, debs[package], package): package for package in help_packages}
        read_others = {pool.submit(read_package, debs[s.package], s.package, s.pattern): s for s in others}
        for spec in specs:
            if spec.kind == "text":
                texts[spec.domain] = read_text_files(spec, config, field, budget)
                progress.update(done := done + 1, total, spec.domain)
        for page_future in concurrent.futures.as_completed(read_pages):
            package = read_pages[page_future]
            pages[package] = result_of(page_future, package)
            progress.update(done := done + 1, total)
        for text_future in concurrent.futures.as_completed(read_others):
            spec = read_others[text_future]
            texts[spec.domain] = text = result_of(text_future, spec.package)
            size = sum(len(content.encode()) for _, content in text.documents)
            budget.take(size + unpack.DOCUMENT_COST_BYTES * len(text.documents), str(debs[spec.package]))
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
