"""Paragraphs of text out of HTML pages, by the marks that LibreOffice's help pages carry."""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Iterable, Iterator, Mapping

MINIMUM_BYTES = 24

_CODE = re.compile(r"<(pre|code|script|style)\b", re.IGNORECASE)
_BLOCK = re.compile(r"<(p|h[1-6])\b", re.IGNORECASE)
_ANY_BLOCK = re.compile(r"<(p|h[1-6]|li|dd|dt)\b", re.IGNORECASE)
_ANY_END = r"</{}\s*>|<(?:p|h[1-6]|li|dd|dt|ul|ol|dl|table)\b"
_END = r"</{}\s*>"
_ID = re.compile(r'\bid="((?:par_|hd_)[^"]*)"')
_TAG = re.compile(r"<[^>]*>")

Paragraphs = list[tuple[str, str]]
"""(id, text) of each paragraph of a page, in order."""


@dataclasses.dataclass
class _Element:
    attributes: str
    content: str
    begin: int
    end: re.Match[str]


def _elements(page: str, opening: re.Pattern[str], end: str, end_belongs: bool = True) -> Iterator[_Element]:
    """Elements one after the other: from an opening tag to the first match of `end` with the tag's name.
    Time grows with the page's length alone; one regular expression for a whole element takes its square on tags that nothing closes."""
    ends: dict[str, re.Pattern[str]] = {}
    unclosed: set[str] = set()
    position = 0
    while tag := opening.search(page, position):
        name = tag.group(1).lower()
        position = tag.end()
        if name in unclosed:
            continue
        close = page.find(">", position)
        if close < 0:
            return  # no later tag is closed either
        if name not in ends:
            ends[name] = re.compile(end.format(name), re.IGNORECASE)
        found = ends[name].search(page, close + 1)
        if found is None:
            unclosed.add(name)
            continue
        yield _Element(page[position:close], page[close + 1 : found.start()], tag.start(), found)
        position = found.end() if end_belongs else found.start()


def _without_code(page: str) -> str:
    parts: list[str] = []
    start = 0
    for element in _elements(page, _CODE, _END):
        parts.append(page[start : element.begin])
        start = element.end.end()
    return "".join([*parts, page[start:]])


def clean(fragment: str) -> str:
    """The text of an HTML fragment: tags stripped, entities resolved, runs of blanks made one."""
    last = fragment.rfind(">") + 1  # behind it no tag is whole
    return " ".join(html.unescape(_TAG.sub("", fragment[:last]) + fragment[last:]).replace("\x00", "").split())


def help_paragraphs(page: str) -> Paragraphs:
    """Paragraphs and headings of a help page: what follows `id="DisplayArea"`, without code, with an id of text, long enough."""
    start = page.find('id="DisplayArea"')
    body = _without_code(page[start:] if start >= 0 else "")
    found: Paragraphs = []
    for block in _elements(body, _BLOCK, _END):
        mark = _ID.search(block.attributes)
        if mark is None:
            continue
        text = clean(block.content)
        if len(text.encode()) >= MINIMUM_BYTES:
            found.append((mark.group(1), text))
    return found


def plain_paragraphs(page: str) -> Paragraphs:
    """Paragraphs, headings and list items of any HTML page, without code, long enough; ids are empty."""
    texts = (clean(block.content) for block in _elements(_without_code(page), _ANY_BLOCK, _ANY_END, end_belongs=False))
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
