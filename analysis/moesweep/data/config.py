"""Reads a YAML data section (such as configs/data/languages8.yaml) into a DataConfig, with errors at file:line:column."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path

import yaml  # type: ignore[import-untyped, unused-ignore]

from moesweep.data.errors import DataToolError


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


def load_config(path: Path) -> DataConfig:
    """The data section in `path`: the whole file, or its `data` key. A `config` error says what is wrong and where."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataToolError("io", f"cannot read: {error.strerror}", str(path)) from error
    except UnicodeDecodeError as error:
        raise DataToolError("config", f"is not UTF-8 text: {error}", str(path)) from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise DataToolError("config", f"no valid YAML: {error.problem}", where) from error
    if not isinstance(root, yaml.MappingNode):
        raise DataToolError(
            "config", "is no data section: a mapping with kind, store, domains ... is needed", str(path)
        )
    for key, value in root.value:
        if key.value == "data" and isinstance(value, yaml.MappingNode):
            root = value
            break
    return _check(_read_section(root, path), path)


def _where(path: Path, node: yaml.Node) -> str:
    return f"{path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"


def _read_section(root: yaml.MappingNode, path: Path) -> DataConfig:
    config = DataConfig(path=path)
    seen: set[str] = set()
    for key, value in root.value:
        name = key.value
        if name not in KNOWN_KEYS:
            near = difflib.get_close_matches(str(name), KNOWN_KEYS, 1)
            hint = f"did you mean `{near[0]}`?" if near else "known keys: " + ", ".join(KNOWN_KEYS)
            raise DataToolError("config", f"unknown key `{name}`", _where(path, key), hint)
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
        return [item.value for item in node.value]
    if not isinstance(node, yaml.ScalarNode):
        raise DataToolError("config", f"`{name}` must be a single value", _where(path, node))
    try:
        if name in ("vocabulary", "sequence_length"):
            return int(node.value)
        if name == "validation_share":
            return float(node.value)
    except ValueError as error:
        raise DataToolError("config", f"`{name}` must be a number, not `{node.value}`", _where(path, node)) from error
    return str(node.value)


def _check(config: DataConfig, path: Path) -> DataConfig:
    def refuse(text: str, hint: str = "") -> DataToolError:
        return DataToolError("config", text, str(path), hint)

    if config.kind not in ("store", "synthetic"):
        raise refuse(f"kind must be store or synthetic, not `{config.kind}`")
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
        raise refuse(f"vocabulary must be between 2 and 4194304, not {config.vocabulary}")
    if config.tokenizer == "bytes" and config.vocabulary < 256:
        raise refuse(f"tokenizer: bytes needs a vocabulary of at least 256, not {config.vocabulary}")
    if config.tokenizer == "bpe" and config.vocabulary < 257:
        raise refuse(
            f"tokenizer: bpe needs a vocabulary of at least 257 (all bytes and the end of a document), not {config.vocabulary}"
        )
    return config
