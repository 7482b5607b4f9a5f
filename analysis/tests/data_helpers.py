"""Made-up pages, packages and configs for the tests of moesweep.data."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path


def help_page(body: str) -> str:
    return f'<html><body><p id="par_0">A header that is long enough to be kept.</p><div id="DisplayArea">{body}</div></body></html>'


def make_deb(path: Path, files: dict[str, str]) -> Path:
    """A Debian package of these files: an `ar` archive with an odd-sized member before the data, as real ones have."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"./{name}")
            data = text.encode()
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    content = b"!<arch>\n"
    for member_name, data in (
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", b"odd"),
        ("data.tar.xz", packed.getvalue()),
    ):
        content += (
            f"{member_name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
            + data
            + b"\n" * (len(data) % 2)
        )
    path.write_bytes(content)
    return path


def write_config(
    folder: Path, domains: list[str], sources: list[str], name: str = "config.yaml", **keys: object
) -> Path:
    """A data section in `folder`; keys replace the defaults given here."""
    section = {
        "kind": "store",
        "store": "made",
        "tokenizer": "bytes",
        "vocabulary": 256,
        "validation_share": 0.3,
        **keys,
    }
    lines = [f"{key}: {value}" for key, value in section.items()]
    for key, values in (("domains", domains), ("sources", sources)):
        lines += [f"{key}:", *(f"  - '{value}'" for value in values)]
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path
