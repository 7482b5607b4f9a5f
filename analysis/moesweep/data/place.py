"""Where a token store may lie. A build replaces files in that folder, so a folder that holds anything else is never taken."""

from __future__ import annotations

import fnmatch
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from moesweep.data import sources
from moesweep.data.config import DataConfig
from moesweep.data.errors import DataToolError

HINT = "name another folder in `store`, one that holds nothing but this store, such as languages8"


def downloads_folder(data: Path) -> Path:
    return data / "downloads"


def store_folder(config: DataConfig, data: Path) -> Path:
    return data / config.store


def checked_store(config: DataConfig, data: Path) -> Path:
    """The folder of the store, without links or `..` on the way to it. A `config` error when a store may not lie there.
    Looks at names alone: reads and changes nothing."""
    given = store_folder(config, data)

    def refuse(what: str) -> DataToolError:
        return DataToolError("config", f"{config.path}: `store` names {what}", str(given), HINT)

    if os.path.islink(given):
        raise refuse("a link")
    store = Path(os.path.realpath(given))
    for name, place in _protected(config, data):
        real = Path(os.path.realpath(place))
        for above in (real, *real.parents):
            if above == store or _same(above, store):
                raise refuse(f"{name}, {place}" if above == real else f"a folder above {name}, {place}")
    downloads = Path(os.path.realpath(downloads_folder(data)))
    for above in store.parents:
        if above == downloads or _same(above, downloads):
            raise refuse(f"a folder inside the downloads, {downloads}")
    for folder in _source_folders(config):
        for above in store.parents:
            if above == folder or _same(above, folder):
                raise refuse(f"a folder inside a source, {folder}: the store would become text of itself")
    for pattern in _source_globs(config):
        if _enters(pattern, store):
            raise refuse(
                f"a folder in which the source {pattern} looks for text: the store would become text of itself"
            )
    return store


def _same(one: Path, other: Path) -> bool:
    """Whether two names lead to one folder, also over a bind mount or where case does not count."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _protected(config: DataConfig, data: Path) -> Iterator[tuple[str, Path]]:
    """What a store may neither be nor lie above, each with its name in a message."""
    yield "the root of the file system", Path("/")
    yield "the data folder", data
    yield "the folder of downloads", downloads_folder(data)
    yield "the current folder", Path.cwd()
    yield "the folder of the config", config.path.absolute().parent
    yield "the config", config.path.absolute()
    homes = [os.environ.get("HOME", "")]
    try:
        homes.append(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        pass
    for home in homes:
        if os.path.isabs(home):
            yield "the home folder", Path(home)
    for spec in sources.parse(config):
        for place in spec.places:
            path = sources.resolve(place, config).absolute()
            yield "a source", path
            if spec.kind == "megatron":
                yield "a source", Path(f"{path}.bin")
                yield "a source", Path(f"{path}.idx")
            if spec.kind == "text" and not path.exists():
                for _, file in _files_or_none(spec, config):
                    yield "a source", file.absolute()
    if config.tokenizer not in ("bytes", "bpe"):
        yield "the tokenizer", sources.resolve(config.tokenizer, config).absolute()


def _files_or_none(spec: sources.Spec, config: DataConfig) -> list[tuple[str, Path]]:
    try:
        return sources.text_files(spec, config)
    except DataToolError:
        return []  # the build says what is wrong with it


def _source_folders(config: DataConfig) -> Iterator[Path]:
    for spec in sources.parse(config):
        if spec.kind == "text" and (path := sources.resolve(spec.places[0], config)).is_dir():
            yield Path(os.path.realpath(path))


def _source_globs(config: DataConfig) -> Iterator[Path]:
    for spec in sources.parse(config):
        if spec.kind == "text" and not sources.resolve(spec.places[0], config).exists():
            for pattern in sources.glob_patterns(spec.places[0], config):
                parts = Path(os.path.expanduser(pattern)).absolute().parts
                plain = next((i for i, part in enumerate(parts) if any(letter in part for letter in "*?[")), len(parts))
                yield Path(os.path.realpath(Path(*parts[:plain])), *parts[plain:])


def _enters(pattern: Path, store: Path) -> bool:
    """Whether a glob can match files inside the store."""
    for number, part in enumerate(pattern.parts):
        if part == "**" or number >= len(store.parts):
            return True
        if not fnmatch.fnmatchcase(store.parts[number], part):
            return False
    return False
