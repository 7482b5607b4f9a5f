"""The command `moesweep-data`: text to tokenizer and token store."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from moesweep.data import sources, store
from moesweep.data.config import DataConfig, load_config
from moesweep.data.errors import DataToolError, at, printable
from moesweep.data.manifest import read_manifest
from moesweep.data.place import downloads_folder, store_folder
from moesweep.data.progress import Progress

EPILOG = """example:
  moesweep-data build configs/data/languages8.yaml      fetch, extract, train the tokenizer, write build/data/languages8
  moesweep-data verify configs/data/languages8.yaml     read everything and compare digests

sources, one per domain:
  debian:libreoffice-help-de       help pages of that language     debian:PACKAGE:GLOB   files of any package
  texts/de, texts/de.jsonl.gz, 'texts/de-*.txt'                    a folder, a file or a glob of .txt and .jsonl, also .gz
  megatron:PREFIX, npy:FILE        ready tokens, used in place; TRAIN,VALIDATION where they are two files

environment: MOESWEEP_DATA  folder of stores and downloads (default: build/data)
exit codes: 0 ok, 2 usage, 3 config, 4 reading, writing or downloading failed, 5 a file is damaged, 7 the text does not fit,
  70 a defect of moesweep-data"""


def main(arguments: Sequence[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    progress = Progress(quiet=options.quiet)
    try:
        with at(options.config):
            return _run(options, progress)
    except DataToolError as error:
        _complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted; the store is as it was, or whole and new")
        return 130
    except Exception as error:  # noqa: BLE001
        # Not expected: say where it came from in one line, for a report of the defect.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        what = f"a defect of moesweep-data, {type(error).__name__} at {place}: {error}"
        internal = DataToolError(
            "internal", what, str(options.config), "please report it with this line and the config"
        )
        _complain(internal)
        return internal.exit_code


def _complain(what: object) -> None:
    with contextlib.suppress(OSError):
        print(f"moesweep-data: {what}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="moesweep-data",
        description="Turns text into a tokenizer and a token store.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="fetch|build|verify")
    for name, text in (
        ("fetch", "download the packages that the config names"),
        ("build", "make the token store, fetching what is missing; does nothing when it is up to date"),
        ("verify", "read the whole store and compare digests"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "config", metavar="CONFIG", type=Path, help="YAML data section, such as configs/data/languages8.yaml"
        )
        command.add_argument(
            "--data", metavar="DIR", help="folder of stores and downloads (default: $MOESWEEP_DATA, else build/data)"
        )
        command.add_argument("--quiet", action="store_true", help="no progress")
        if name == "build":
            command.add_argument(
                "--text-field", default="text", metavar="NAME", help="field of .jsonl lines that holds the text"
            )
            command.add_argument(
                "--force",
                action="store_true",
                help="build again even when up to date; never touches files that no build wrote",
            )
    return parser


def _run(options: argparse.Namespace, progress: Progress) -> int:
    config = load_config(options.config)
    if config.kind == "synthetic":
        print(f"{printable(str(options.config))}: synthetic domains need no store; nothing to do")
        return 0
    data = store.data_folder(options.data)
    if options.command == "fetch":
        return _fetch(config, data, progress)
    if options.command == "verify":
        folder = store_folder(config, data)
        count = store.verify(folder, progress)
        print(f"{printable(str(folder))}: {count} files as the manifest says")
        return 0
    built = store.build(config, data, progress, options.text_field, options.force)
    print(f"{printable(str(built.store))}: {'built' if built.fresh else 'up to date'}, digest {built.digest}")
    if built.fresh:
        _summary(built.store)
    return 0


def _fetch(config: DataConfig, data: Path, progress: Progress) -> int:
    from moesweep.data import debian

    packages = sources.packages_of(sources.parse(config))
    files = debian.fetch(packages, downloads_folder(data), progress)
    for path in files.values():
        print(printable(str(path)))
    if not files:
        print(f"{printable(str(config.path))}: names no packages; nothing to fetch")
    return 0


def _summary(folder: Path) -> None:
    manifest = read_manifest(folder)
    licences = {entry.domain: entry.licence for entry in manifest.inputs}
    splits = {(entry.domain, entry.split): entry for entry in manifest.splits}
    print(f"{'domain':<12} {'train tokens':>14} {'validation':>12} {'bytes/token':>11}  licence")
    for domain in manifest.domains:
        train, validation = splits[domain, "train"], splits[domain, "validation"]
        ratio = f"{validation.text_bytes / validation.tokens:.2f}" if validation.text_bytes else "-"
        licence = printable(licences[domain])
        print(f"{printable(domain):<12} {train.tokens:>14,} {validation.tokens:>12,} {ratio:>11}  {licence}")


if __name__ == "__main__":
    sys.exit(main())
