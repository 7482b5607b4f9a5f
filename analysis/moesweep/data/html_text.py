"""Paragraphs of text out of HTML pages, by the marks that LibreOffice's help pages carry."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping

MINIMUM_BYTES = 24

_DROPPED = re.compile(r"<(pre|code|script|style)\b[^>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_BLOCK = re.compile(r"<(p|h[1-6])\b([^>]*)>(.*?)</\1\s*>", re.DOTALL | re.IGNORECASE)
_ANY_BLOCK = re.compile(
    r"<(p|h[1-6]|li|dd|dt)\b[^>]*>(.*?)(?=</\1\s*>|<(?:p|h[1-6]|li|dd|dt|ul|ol|dl|table)\b)", re.DOTALL | re.IGNORECASE
)
_ID = re.compile(r'\bid="((?:par_|hd_)[^"]*)"')
_TAG = re.compile(r"<[^>]*>")

Paragraphs = list[tuple[str, str]]
"""(id, text) of each paragraph of a page, in order."""


def clean(fragment: str) -> str:
    """The text of an HTML fragment: tags stripped, entities resolved, runs of blanks made one."""
    return " ".join(html.unescape(_TAG.sub("", fragment)).replace("\x00", "").split())


def help_paragraphs(page: str) -> Paragraphs:
    """Paragraphs and headings of a help page: what follows `id="DisplayArea"`, without code, with an id of text, long enough."""
    start = page.find('id="DisplayArea"')
    body = _DROPPED.sub("", page[start:] if start >= 0 else "")
    found: Paragraphs = []
    for block in _BLOCK.finditer(body):
        mark = _ID.search(block.group(2))
        if mark is None:
            continue
        text = clean(block.group(3))
        if len(text.encode()) >= MINIMUM_BYTES:
            found.append((mark.group(1), text))
    return found


def plain_paragraphs(page: str) -> Paragraphs:
    """Paragraphs, headings and list items of any HTML page, without code, long enough; ids are empty."""
    texts = (clean(block.group(2)) for block in _ANY_BLOCK.finditer(_DROPPED.sub("", page)))
    return [("", text) for text in texts if len(text.encode()) >= MINIMUM_BYTES]


def translated_only(pages: Mapping[str, Paragraphs], original: Mapping[str, Paragraphs]) -> dict[str, Paragraphs]:
    """Without the paragraphs that equal the original's paragraph of the same page and id: nobody translated those."""
    kept: dict[str, Paragraphs] = {}
    for key, paragraphs in pages.items():
        same = set(original.get(key, ()))
        kept[key] = [paragraph for paragraph in paragraphs if paragraph not in same]
    return kept


def without_duplicates(pages: Iterable[tuple[str, Paragraphs]]) -> list[tuple[str, str]]:
    """(key, text) of the pages in the order given; a paragraph that came before is dropped (pages embed each other), and so are empty pages."""
    seen: set[str] = set()
    documents: list[tuple[str, str]] = []
    for key, paragraphs in pages:
        fresh: list[str] = []
        for _, text in paragraphs:
            if text not in seen:
                seen.add(text)
                fresh.append(text)
        if fresh:
            documents.append((key, "\n".join(fresh)))
    return documents
