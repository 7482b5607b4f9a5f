"""From HTML pages, Debian packages and text files to documents: each rule of the recipe on made-up input."""

from __future__ import annotations

import gzip
import html
import json
import pickle
import re
from pathlib import Path

import pytest
from data_helpers import help_page, make_deb, write_config
from hypothesis import given
from hypothesis import strategies as st

from moesweep.data import debian, html_text, sources
from moesweep.data.config import load_config
from moesweep.data.errors import DataToolError
from moesweep.data.progress import Progress

LONG = "A sentence that is long enough to stay."


def texts(page: str) -> list[str]:
    return [text for _, text in html_text.help_paragraphs(page)]


def test_only_what_follows_the_display_area_counts() -> None:
    page = f'<p id="par_1">Before: {LONG}</p><div id="DisplayArea"><p id="par_2">{LONG}</p></div>'
    assert html_text.help_paragraphs(page) == [("par_2", LONG)]
    assert html_text.help_paragraphs(f'<p id="par_1">{LONG}</p>') == []


@pytest.mark.parametrize("tag", ["pre", "code", "script", "style"])
def test_code_is_dropped_with_its_content(tag: str) -> None:
    assert texts(help_page(f'<p id="par_1">Keep <{tag} class="x">drop\nthis</{tag}>the rest of it, please.</p>')) == [
        "Keep the rest of it, please."
    ]
    assert texts(help_page(f'<{tag}><p id="par_1">{LONG}</p></{tag}>')) == []


def test_paragraphs_and_headings_with_a_text_id_are_kept() -> None:
    body = "".join(f'<h{n} id="hd_{n}" dir="auto">Heading {n}: {LONG}</h{n}>' for n in range(1, 7))
    body += (
        f'<p id="par_1">{LONG}</p><p id="bm_1">Bookmark: {LONG}</p><p>No id: {LONG}</p><li id="par_2">Item: {LONG}</li>'
    )
    assert texts(help_page(body)) == [f"Heading {n}: {LONG}" for n in range(1, 7)] + [LONG]


def test_tags_go_entities_are_resolved_and_blanks_collapse() -> None:
    body = '<p id="par_1"><span class="emph">Tools</span> &amp;\n\t <a href="x">Options&hellip;</a> &#8211;  for all\u00a0of you</p>'
    assert texts(help_page(body)) == ["Tools & Options… – for all of you"]


def test_length_is_counted_in_bytes() -> None:
    assert texts(help_page(f'<p id="par_1">{"x" * 23}</p><p id="par_2">{"y" * 24}</p>')) == ["y" * 24]
    assert texts(help_page(f'<p id="par_1">{"語" * 7}</p><p id="par_2">{"語" * 8}</p>')) == ["語" * 8]


def test_untranslated_paragraphs_are_dropped_by_page_and_id() -> None:
    original = {"a.html": [("par_1", "same"), ("par_2", "other")], "b.html": [("par_1", "elsewhere")]}
    own = {
        "a.html": [("par_1", "same"), ("par_2", "same"), ("par_3", "other")],
        "b.html": [("par_1", "same")],
        "c.html": [("p", "same")],
    }
    assert html_text.translated_only(own, original) == {
        "a.html": [("par_2", "same"), ("par_3", "other")],
        "b.html": [("par_1", "same")],
        "c.html": [("p", "same")],
    }


def test_exact_duplicates_are_dropped_over_all_pages() -> None:
    pages = [
        ("a", [("1", "one"), ("2", "two"), ("3", "one")]),
        ("b", [("1", "two")]),
        ("c", [("1", "two"), ("2", "three")]),
    ]
    assert html_text.without_duplicates(pages) == [("a", "one\ntwo"), ("c", "three")]


@given(st.text(alphabet=st.characters(exclude_characters="<>&\x00", exclude_categories=["Cs"]), min_size=1))
def test_any_plain_text_comes_through(text: str) -> None:
    expected = " ".join(text.split())
    found = texts(help_page(f'<p id="par_1">{text}</p>'))
    assert found == ([expected] if len(expected.encode()) >= html_text.MINIMUM_BYTES else [])


DROPPED = re.compile(r"<(pre|code|script|style)\b[^>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
BLOCK = re.compile(r"<(p|h[1-6])\b([^>]*)>(.*?)</\1\s*>", re.DOTALL | re.IGNORECASE)
ANY_BLOCK = re.compile(
    r"<(p|h[1-6]|li|dd|dt)\b[^>]*>(.*?)(?=</\1\s*>|<(?:p|h[1-6]|li|dd|dt|ul|ol|dl|table)\b)", re.DOTALL | re.IGNORECASE
)
PARTS = [
    "<p",
    "</p>",
    "</P >",
    "<h1",
    "</h1",
    "<li>",
    "</li>",
    "<pre",
    "</pre>",
    "<CODE>",
    "</code\n>",
    "<code",
    ">",
    "<",
    "</",
    "<ul>",
]
PARTS += [' id="par_1"', 'id="hd_2"', '"', " ", "x", "&amp;", f"<p id='a'>{LONG}", LONG, "<dt/>", "<pq>", "<style>"]


@given(st.lists(st.sampled_from(PARTS), max_size=40))
def test_elements_are_those_of_the_whole_expressions(parts: list[str]) -> None:
    """The recipe in three regular expressions, as an oracle: they are exact, and slow on tags that nothing closes."""
    page = "".join(parts)
    body = DROPPED.sub("", page)
    assert html_text._without_code(page) == body
    marked = [(re.search(r'\bid="((?:par_|hd_)[^"]*)"', m.group(2)), m.group(3)) for m in BLOCK.finditer(body)]
    found = [(block.attributes, block.content) for block in html_text._elements(body, html_text._BLOCK, html_text._END)]
    assert found == [(m.group(2), m.group(3)) for m in BLOCK.finditer(body)]
    assert len(html_text.help_paragraphs(f'id="DisplayArea"{page}')) <= len([mark for mark, _ in marked if mark])
    cleaned = [" ".join(html.unescape(re.sub("<[^>]*>", "", m.group(2))).split()) for m in ANY_BLOCK.finditer(body)]
    assert [text for _, text in html_text.plain_paragraphs(page)] == [t for t in cleaned if len(t.encode()) >= 24]


@pytest.mark.parametrize(
    "part", ["<p", "<pre>", "<p>x", '<p id="par_1">x', "<", "<p id=a", "<code </code ", "<li>x<pre"]
)
def test_a_page_of_unclosed_tags_takes_no_square_of_its_length(part: str) -> None:
    """A megabyte each: by whole expressions this takes an hour, and the test's time limit ends it."""
    page = part * (1_000_000 // len(part))
    assert html_text.help_paragraphs(f'id="DisplayArea"{page}') == []
    assert len(html_text.plain_paragraphs(f"<p>{page}</p>")) <= 1


def help_deb(folder: Path, language: str, pages: dict[str, str]) -> Path:
    files = {f"usr/share/libreoffice/help/{language}/text/{name}": page for name, page in pages.items()}
    files[f"usr/share/libreoffice/help/{language}/index.html"] = help_page(f'<p id="par_1">Outside: {LONG}</p>')
    files[f"usr/share/doc/libreoffice-help-{language.lower()}/copyright"] = (
        "Format: x\n\nFiles: *\nLicense: MPL-2.0\n Some files include Apache-2.0 licensed material:\n\nFiles: y\nLicense: other\n"
    )
    return make_deb(folder / f"libreoffice-help-{language.lower()}_1_all.deb", files)


def test_help_packages_become_documents_by_page(tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"
    help_deb(
        downloads,
        "en-US",
        {"a/1.html": help_page(f'<p id="par_1">{LONG}</p>'), "a/2.html": help_page(f'<p id="par_1">Two. {LONG}</p>')},
    )
    help_deb(
        downloads,
        "de",
        {
            "a/1.html": help_page(f'<p id="par_1">{LONG}</p><p id="par_2">Ein Satz, der lang genug ist.</p>'),
            "a/2.html": help_page(""),
        },
    )
    config = load_config(write_config(tmp_path, ["de"], ["debian:libreoffice-help-de"]))
    specs = sources.parse(config)
    assert sources.packages_of(specs) == ["libreoffice-help-de", "libreoffice-help-en-us"]
    debs = debian.fetch(sources.packages_of(specs), downloads, Progress(quiet=True))
    text = sources.read_all(specs, debs, config, "text", Progress(quiet=True))["de"]
    assert text.documents == [("a/1.html", "Ein Satz, der lang genug ist.")]
    assert text.licence == "MPL-2.0, parts Apache-2.0"
    assert [name for name, _, _ in text.inputs] == ["libreoffice-help-de_1_all.deb", "libreoffice-help-en-us_1_all.deb"]


def test_files_of_any_package_are_taken_by_glob(tmp_path: Path) -> None:
    make_deb(
        tmp_path / "some-doc_2_all.deb",
        {
            "usr/share/some/a.html": f"<p>{LONG}<ul><li>An item of the list, long enough.</li></ul><script>no</script>",
            "usr/share/some/deep/b.py": "x = 1\n",
            "usr/share/else/c.py": "y = 2\n",
        },
    )
    config = load_config(write_config(tmp_path, ["doc"], ["debian:some-doc:usr/share/some/*"]))
    specs = sources.parse(config)
    debs = debian.fetch(sources.packages_of(specs), tmp_path, Progress(quiet=True))
    text = sources.read_all(specs, debs, config, "text", Progress(quiet=True))["doc"]
    assert sorted(text.documents) == [
        ("usr/share/some/a.html", f"{LONG}\nAn item of the list, long enough."),
        ("usr/share/some/deep/b.py", "x = 1"),
    ]
    assert text.licence == "not stated"


def test_a_damaged_package_is_named(tmp_path: Path) -> None:
    deb = help_deb(tmp_path, "de", {"a.html": ""})
    for damage, message in ((b"nonsense", "is no Debian package"), (deb.read_bytes()[:200], "cannot be read")):
        deb.write_bytes(damage)
        with pytest.raises(DataToolError, match=message) as error:
            sources.read_help(deb, "libreoffice-help-de")
        assert error.value.kind == "corrupt" and str(deb) in str(error.value)


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataToolError) as error:
        debian.fetch(["no-such-package"], tmp_path / "downloads", Progress(quiet=True))
    assert error.value.exit_code == 4
    assert "no apt-get" in str(error.value) and "put no-such-package_*.deb" in str(error.value)


def test_text_files_of_every_kind(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("\ufeffPlain\n", encoding="utf-8")
    (folder / "b.txt.gz").write_bytes(gzip.compress(b"Packed\x00 text"))
    (folder / "deep" / "c.jsonl").write_text('{"text": "One", "id": 7}\n\n{"text": "Two"}\n{"text": " "}\n')
    (folder / "d.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": "Drei", "key": "k"}).encode()))
    (folder / "ignored.md").write_text("no")
    (folder / "LICENSE").write_text("CC0\nmore")
    config = load_config(write_config(tmp_path, ["x"], ["texts"]))
    text = sources.read_text_files(sources.parse(config)[0], config, "text")
    assert [key for key, _ in text.documents if len(key) < 64] == ["a.txt", "b.txt", "k", "7"]
    assert sorted(content for _, content in text.documents) == ["Drei", "One", "Packed text", "Plain", "Two"]
    assert text.licence == "CC0"
    globbed = load_config(write_config(tmp_path, ["x"], ["texts/**/*.jsonl*"]))
    files = sources.text_files(sources.parse(globbed)[0], globbed)
    assert [name for name, _ in files] == ["d.jsonl.gz", "deep/c.jsonl"]


def test_another_text_field(tmp_path: Path) -> None:
    assert list(sources.documents_of_file("x.jsonl", b'{"body": "B", "text": "T", "id": "i"}', "body")) == [("i", "B")]


@given(st.lists(st.text(alphabet="abc \n", min_size=1, max_size=3000), min_size=1, max_size=30))
def test_long_files_are_cut_at_blank_lines_and_lose_nothing(paragraphs: list[str]) -> None:
    text = "\n\n".join(paragraphs)
    documents = list(sources.documents_of_file("a.txt", text.encode(), "text"))
    assert "".join("".join(content for _, content in documents).split()) == "".join(text.split())
    assert len({key for key, _ in documents}) == len(documents)
    if len(documents) > 1:
        assert all(len(content.encode()) >= sources.DOCUMENT_BYTES for _, content in documents[:-1])


@pytest.mark.parametrize(
    ("name", "data", "kind", "message"),
    [
        ("a.txt", b"\xff\xfe", "data", "a.txt:1: is not UTF-8 text"),
        ("a.txt.gz", b"no gzip", "corrupt", "a.txt.gz: is no whole gzip file"),
        ("a.txt.gz", gzip.compress(b"x" * 1000)[:20], "corrupt", "a.txt.gz: is no whole gzip file"),
        ("a.jsonl", b'{"text": "x"}\n{"text"', "data", "a.jsonl:2:8: no JSON"),
        ("a.jsonl", b'{"text": 3}', "data", "a.jsonl:1: has no text field `text`"),
        ("a.jsonl", b'["text"]', "data", "a.jsonl:1: has no text field `text`"),
    ],
)
def test_bad_text_files_are_named(name: str, data: bytes, kind: str, message: str) -> None:
    with pytest.raises(DataToolError) as error:
        list(sources.documents_of_file(name, data, "text"))
    assert error.value.kind == kind
    assert str(error.value).startswith(message)


def test_the_split_goes_by_the_key_alone() -> None:
    keys = [f"page/{number}.html" for number in range(20000)]
    chosen = [key for key in keys if sources.in_validation(key, 0.05)]
    assert abs(len(chosen) - 1000) < 4 * (20000 * 0.05 * 0.95) ** 0.5
    # A larger share keeps what was in validation before.
    assert all(sources.in_validation(key, 0.2) for key in chosen)


def test_an_error_travels_whole_from_a_worker() -> None:
    error = pickle.loads(
        pickle.dumps(DataToolError("corrupt", "is no Debian package", "a.deb", "delete it and fetch again"))
    )
    assert (error.kind, error.exit_code, str(error)) == (
        "corrupt",
        5,
        "a.deb: is no Debian package\n  delete it and fetch again",
    )
