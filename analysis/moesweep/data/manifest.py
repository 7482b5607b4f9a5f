"""The manifest of a token store, read from a file that anybody may have written: every field has its type, its range and its sense."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from pathlib import Path
from typing import Any

from moesweep.data import strict_json
from moesweep.data.errors import DataToolError, is_utf8, shown
from moesweep.data.files import read_limited

FORMAT = "moesweep-tokens"
VERSION = 1
SPLITS = ("train", "validation")
ENCODINGS = ("raw", "npy", "megatron")
WIDTHS = {"u8": 1, "u16": 2, "i16": 2, "u32": 4, "i32": 4, "i64": 8}
"""Bytes of a token by the name of its type."""

MOST_BYTES = 64 << 20
MOST_TOKENS = 1 << 56
MOST_VOCABULARY = 4194304
HINT = "remove the store by hand, then build it again"

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    name: str
    file: str | None
    sha256: str | None
    pieces: int
    end_of_document: int | None


@dataclasses.dataclass(frozen=True)
class Input:
    """What a domain was made from."""

    domain: str
    source: str
    files: int
    bytes: int
    sha256: str
    licence: str
    licence_file: str | None


@dataclasses.dataclass(frozen=True)
class Split:
    """Where the tokens of a domain's split lie; `documents` and `text_bytes` are None where unknown."""

    domain: str
    split: str
    file: str
    encoding: str
    dtype: str
    offset_bytes: int
    first: int
    tokens: int
    documents: int | None
    text_bytes: int | None
    sha256: str

    @property
    def raw_bytes(self) -> int:
        """The size of a file that holds this split alone."""
        return self.offset_bytes + (self.first + self.tokens) * WIDTHS[self.dtype]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A manifest that was checked whole; `digest` is the SHA-256 of its bytes, which names the store."""

    domains: list[str]
    sources: list[str]
    tokenizer: Tokenizer
    vocabulary: int
    validation_share: float
    recipe: int
    inputs: list[Input]
    splits: list[Split]
    digest: str


def read_manifest(store: Path) -> Manifest:
    """The manifest of a store. Errors: `data` when there is none or it is of another format, `corrupt` with file and field otherwise."""
    path = store / "manifest.json"
    if not os.path.lexists(path):
        raise DataToolError("data", "there is no token store here", str(store), "make it: moesweep-data build CONFIG")
    data = read_limited(path, MOST_BYTES, "corrupt")
    try:
        found = strict_json.parse(data.decode("utf-8"), strict=True)
    except UnicodeDecodeError as error:
        raise DataToolError("corrupt", f"is not UTF-8 text: {error}", str(path), HINT) from error
    except strict_json.JsonError as error:
        where = f"{path}:{error.line}:{error.column}"
        raise DataToolError("corrupt", f"is no JSON: {error.message}", where, HINT) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("version") != VERSION:
        raise DataToolError("data", f"is no {FORMAT} manifest of version {VERSION}", str(path), HINT)
    return _manifest(_Object(found, "", path), hashlib.sha256(data).hexdigest())


class _Object:
    """One JSON object of a manifest; each reading checks type and range and fails with the path of the field."""

    def __init__(self, value: Any, field: str, path: Path) -> None:
        self._field = field
        self._path = path
        if not isinstance(value, dict):
            raise self.wrong("", "is no object")
        self._value: Json = value

    def wrong(self, name: str, what: str) -> DataToolError:
        field = ".".join(part for part in (self._field, name) if part)
        return DataToolError("corrupt", f"`{shown(field)}` {what}", str(self._path), HINT)

    def get(self, name: str) -> Any:
        if name not in self._value:
            raise self.wrong(name, "is missing")
        return self._value[name]

    def inner(self, name: str) -> _Object:
        return _Object(self.get(name), f"{self._field}.{name}".lstrip("."), self._path)

    def items(self, name: str) -> list[Any]:
        value = self.get(name)
        if not isinstance(value, list):
            raise self.wrong(name, "is no list")
        return value

    def objects(self, name: str) -> list[_Object]:
        prefix = f"{self._field}.{name}".lstrip(".")
        return [_Object(item, f"{prefix}[{number}]", self._path) for number, item in enumerate(self.items(name))]

    def texts(self, name: str) -> list[str]:
        return [self._as_text(item, f"{name}[{number}]") for number, item in enumerate(self.items(name))]

    def text(self, name: str) -> str:
        return self._as_text(self.get(name), name)

    def _as_text(self, value: Any, name: str) -> str:
        if not isinstance(value, str):
            raise self.wrong(name, "is no text")
        if not is_utf8(value) or "\x00" in value:
            raise self.wrong(name, "holds a zero byte or half of a surrogate pair")
        return value

    def one_of(self, name: str, known: tuple[str, ...]) -> str:
        value = self.text(name)
        if value not in known:
            raise self.wrong(name, f"is `{shown(value)}`, not one of {', '.join(known)}")
        return value

    def integer(self, name: str, least: int, most: int) -> int:
        value = self.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(name, "is no integer")
        if not least <= value <= most:
            raise self.wrong(name, f"is {shown(value)}, not between {least} and {most}")
        return value

    def integer_or_none(self, name: str, most: int) -> int | None:
        return None if self.get(name) is None else self.integer(name, 0, most)

    def share(self, name: str) -> float:
        value = self.get(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise self.wrong(name, "is no number")
        if not 0 < value <= 0.5:  # NaN is refused before, as no JSON
            raise self.wrong(name, f"is {shown(value)}, not above 0 and at most 0.5")
        return float(value)

    def digest(self, name: str) -> str:
        value = self.text(name)
        if not re.fullmatch("[0-9a-f]{64}", value):
            raise self.wrong(name, "is no SHA-256 of 64 hexadecimal digits")
        return value

    def file_inside(self, name: str) -> str:
        value = self.text(name)
        if not value or value.startswith("/") or any(part in ("", ".", "..") for part in value.split("/")):
            raise self.wrong(name, f"`{shown(value)}` names no file inside the store")
        return value


def _manifest(top: _Object, digest: str) -> Manifest:
    domains, sources = top.texts("domains"), top.texts("sources")
    if not domains or len(set(domains)) != len(domains):
        raise top.wrong("domains", "is empty or names a domain twice")
    if len(sources) != len(domains):
        raise top.wrong("sources", f"has {len(sources)} entries for {len(domains)} domains")
    vocabulary = top.integer("vocabulary", 1, MOST_VOCABULARY)
    manifest = Manifest(
        domains=domains,
        sources=sources,
        tokenizer=_tokenizer(top.inner("tokenizer"), vocabulary),
        vocabulary=vocabulary,
        validation_share=top.share("validation_share"),
        recipe=top.integer("recipe", 0, MOST_TOKENS),
        inputs=[_input(entry, domains) for entry in top.objects("inputs")],
        splits=[_split(entry, domains) for entry in top.objects("splits")],
        digest=digest,
    )
    if sorted(entry.domain for entry in manifest.inputs) != sorted(domains):
        raise top.wrong("inputs", "does not have each domain once")
    if sorted((entry.domain, entry.split) for entry in manifest.splits) != sorted(
        (d, s) for d in domains for s in SPLITS
    ):
        raise top.wrong("splits", "does not have each domain's train and validation split once")
    return manifest


def _tokenizer(entry: _Object, vocabulary: int) -> Tokenizer:
    has_file = entry.get("file") is not None
    return Tokenizer(
        name=entry.text("name"),
        file=entry.file_inside("file") if has_file else None,
        sha256=entry.digest("sha256") if has_file else None,
        pieces=entry.integer("pieces", 1, vocabulary),
        end_of_document=entry.integer_or_none("end_of_document", vocabulary - 1),
    )


def _input(entry: _Object, domains: list[str]) -> Input:
    return Input(
        domain=_domain(entry, domains),
        source=entry.text("source"),
        files=entry.integer("files", 0, MOST_TOKENS),
        bytes=entry.integer("bytes", 0, MOST_TOKENS),
        sha256=entry.digest("sha256"),
        licence=entry.text("licence"),
        licence_file=None if entry.get("licence_file") is None else entry.file_inside("licence_file"),
    )


def _split(entry: _Object, domains: list[str]) -> Split:
    encoding = entry.one_of("encoding", ENCODINGS)
    file = entry.file_inside("file") if encoding == "raw" else entry.text("file")
    if not file:
        raise entry.wrong("file", "is empty")
    return Split(
        domain=_domain(entry, domains),
        split=entry.one_of("split", SPLITS),
        file=file,
        encoding=encoding,
        dtype=entry.one_of("dtype", tuple(WIDTHS)),
        offset_bytes=entry.integer("offset_bytes", 0, MOST_TOKENS),
        first=entry.integer("first", 0, MOST_TOKENS),
        tokens=entry.integer("tokens", 1, MOST_TOKENS),
        documents=entry.integer_or_none("documents", MOST_TOKENS),
        text_bytes=entry.integer_or_none("text_bytes", MOST_TOKENS),
        sha256=entry.digest("sha256"),
    )


def _domain(entry: _Object, domains: list[str]) -> str:
    value = entry.text("domain")
    if value not in domains:
        raise entry.wrong("domain", f"`{shown(value)}` is none of the domains")
    return value
