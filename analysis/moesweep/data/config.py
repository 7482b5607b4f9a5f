"""Reads a YAML data section (such as configs/data/languages8.yaml) into a DataConfig, with errors at file:line:column."""

from __future__ import annotations

import dataclasses
import difflib
import unicodedata
from pathlib import Path

import yaml  # type: ignore[import-untyped, unused-ignore]

from moesweep.data.errors import DataToolError, at, is_utf8, shown
from moesweep.data.files import read_limited


@dataclasses.dataclass
class DataConfig:
    """The fields of `data` in a sweep file that decide what a token store holds; see configs/README.md."""

    kind: str = "synthetic"
    store: str = ""
    domains: list[str] = dataclasses.field(default_factory=list)
    sources: list[str] = dataclasses.field(default_factory=list)
    tokenizer: str = "bpe"
    vocabulary: int = 256
    sequence_length: int = 64
    validation_share: float = 0.05
    path: Path = Path()  # the file it came from: relative sources may lie beside it


KNOWN_KEYS = [field.name for field in dataclasses.fields(DataConfig) if field.name != "path"] + ["synthetic"]


MOST_BYTES = 1 << 20
MOST_DEPTH = 64
MOST_NODES = 100_000


def load_config(path: Path) -> DataConfig:
    """The data section in `path`: the whole file, or its `data` key. A `config` error says what is wrong and where."""
    data = read_limited(path, MOST_BYTES, "config")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start)
        column = len(data[data.rfind(b"\n", 0, error.start) + 1 : error.start].decode("utf-8"))
        where = f"{path}:{line + 1}:{column + 1}"
        raise DataToolError("config", f"is not UTF-8 text: {error.reason}", where) from error
    with at(path, "config"):
        root = _compose(text, path)
        if not isinstance(root, yaml.MappingNode):
            raise DataToolError(
                "config", "is no data section: a mapping with kind, store, domains ... is needed", str(path)
            )
        sections = [(key, value) for key, value in root.value if key.value == "data"]
        if len(sections) > 1:
            raise DataToolError("config", "`data` is given twice", _where(path, sections[1][0]))
        if sections and isinstance(sections[0][1], yaml.MappingNode):
            root = sections[0][1]
        return _check(_read_section(root, path), path)


def _compose(text: str, path: Path) -> yaml.Node | None:
    """The nodes of a YAML text whose depth and size are checked first, event by event: the composer of PyYAML calls itself."""
    loader = yaml.SafeLoader("")
    try:
        loader = yaml.SafeLoader(text)
        depth = 0
        for number, event in enumerate(iter(loader.get_event, None)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH or number > MOST_NODES:
                what = f"nested deeper than {MOST_DEPTH}" if depth > MOST_DEPTH else f"more than {MOST_NODES:,} values"
                raise DataToolError("config", what, _at_mark(path, event.start_mark))
        loader = yaml.SafeLoader(text)
        return loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        where = f"{path}:{line}:{error.position - text.rfind(chr(10), 0, error.position)}"
        raise DataToolError("config", f"no valid YAML: {error.reason}", where) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = _at_mark(path, mark) if mark else str(path)
        raise DataToolError("config", f"no valid YAML: {error.problem}", where) from error
    except (ValueError, OverflowError) as error:  # an escape such as "\UFFFFFFFF"
        raise DataToolError("config", f"no valid YAML: {error}", _at_mark(path, loader.get_mark())) from error


def _at_mark(path: Path, mark: yaml.Mark) -> str:
    return f"{path}:{mark.line + 1}:{mark.column + 1}"


def _where(path: Path, node: yaml.Node) -> str:
    return _at_mark(path, node.start_mark)


def _read_section(root: yaml.MappingNode, path: Path) -> DataConfig:
    config = DataConfig(path=path)
    seen: set[str] = set()
    for key, value in root.value:
        if not isinstance(key, yaml.ScalarNode):
            raise DataToolError("config", "a key must be a name", _where(path, key))
        name = key.value
        if name not in KNOWN_KEYS:
            near = difflib.get_close_matches(name[:80], KNOWN_KEYS, 1)
            hint = f"did you mean `{near[0]}`?" if near else "known keys: " + ", ".join(KNOWN_KEYS)
            raise DataToolError("config", f"unknown key `{shown(name)}`", _where(path, key), hint)
        if name in seen:
            raise DataToolError("config", f"`{name}` is given twice", _where(path, key))
        seen.add(name)
        if name != "synthetic":
            setattr(config, name, _value(name, value, path))
    return config


def _value(name: str, node: yaml.Node, path: Path) -> str | int | float | list[str]:
    # Scalars are taken as written: YAML 1.1 would read the language `no` as a boolean.
    if name in ("domains", "sources"):
        if not isinstance(node, yaml.SequenceNode) or not all(isinstance(item, yaml.ScalarNode) for item in node.value):
            raise DataToolError("config", f"`{name}` must be a list of texts", _where(path, node))
        return [_text(name, item, path) for item in node.value]
    if not isinstance(node, yaml.ScalarNode):
        raise DataToolError("config", f"`{name}` must be a single value", _where(path, node))
    text = _text(name, node, path)
    try:
        if name in ("vocabulary", "sequence_length"):
            return int(text)
        if name == "validation_share":
            return float(text)
    except ValueError as error:
        raise DataToolError("config", f"`{name}` must be a number, not `{shown(text)}`", _where(path, node)) from error
    return text


def _text(name: str, node: yaml.ScalarNode, path: Path) -> str:
    text = str(node.value)
    if not is_utf8(text) or any(unicodedata.category(letter) == "Cc" for letter in text):
        raise DataToolError(
            "config", f"`{name}` holds a control character or half of a surrogate pair", _where(path, node)
        )
    return text


def _check(config: DataConfig, path: Path) -> DataConfig:
    def refuse(text: str, hint: str = "") -> DataToolError:
        return DataToolError("config", text, str(path), hint)

    if config.kind not in ("store", "synthetic"):
        raise refuse(f"kind must be store or synthetic, not `{shown(config.kind)}`")
    if config.kind == "synthetic":
        return config
    if not config.store:
        raise refuse("kind: store needs `store`, the folder of the token store")
    if not config.domains:
        raise refuse("domains is empty: name at least one domain")
    if len(set(config.domains)) != len(config.domains):
        raise refuse("a domain is named twice")
    if len(config.sources) != len(config.domains):
        raise refuse(
            f"sources has {len(config.sources)} entries for {len(config.domains)} domains: give one per domain"
        )
    if not 0 < config.validation_share <= 0.5:
        raise refuse(f"validation_share must be above 0 and at most 0.5, not {config.validation_share}")
    if not 2 <= config.vocabulary <= 4194304:
        raise refuse(f"vocabulary must be between 2 and 4194304, not {shown(config.vocabulary)}")
    if config.tokenizer == "bytes" and config.vocabulary < 256:
        raise refuse(f"tokenizer: bytes needs a vocabulary of at least 256, not {shown(config.vocabulary)}")
    if config.tokenizer == "bpe" and config.vocabulary < 257:
        raise refuse(
            f"tokenizer: bpe needs a vocabulary of at least 257 (all bytes and the end of a document), not {shown(config.vocabulary)}"
        )
    return config
