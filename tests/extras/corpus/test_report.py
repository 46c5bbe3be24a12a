import copy
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ms_codegeex.extras.corpus.report import render

EXAMPLE = {"source": "src/a.py", "detail": "mean line 312.5", "excerpt": "x = 1\ny = 2"}
BROKEN = {"source": "a.jsonl:17", "detail": "expected ',' at column 9", "excerpt": ""}
REPORT = {
    "format": "ms-codegeex report",
    "version": 1,
    "input": {"files": 7, "documents": 1234567, "bytes": 4_500_000},
    "kept": {"documents": 900, "bytes": 3_000_000, "tokens": 987654},
    "splits": {
        "train": {"documents": 850, "bytes": 2_900_000, "tokens": 900000},
        "validation": {"documents": 50, "bytes": 100_000, "tokens": 87654},
    },
    "languages": {
        "C++": {"documents": 300, "bytes": 1_000_000, "tokens": 300000},
        "Python": {"documents": 600, "bytes": 2_000_000, "tokens": 600000},
    },
    "lengths": {"edges": [0, 16, 32, 64], "documents": [10, 40, 20]},
    "dropped": {"long lines": {"documents": 3, "bytes": 700, "examples": [EXAMPLE]}},
    "problems": {"invalid JSON": {"documents": 1, "bytes": 30, "examples": [BROKEN]}},
    "redacted": {"email": 12, "secrets": 0},
    "settings": {"reading": {"languages": ["Python"], "rules": {"max_mean_line": 100}}, "seed": 0},
}


class Words(HTMLParser):
    """The page as a browser's parser takes it: tags, attributes and visible text."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text.append(data)


def tree(page):
    return ElementTree.fromstring(page.split("\n", 1)[1])


def rows(page, title):
    section = next(s for s in tree(page).iter("section") if s[0].text == title)
    return [["".join(cell.itertext()) for cell in row] for row in section.iter("tr")]


def test_what_the_tables_say():
    page = render(REPORT)
    assert rows(page, "Summary") == [
        ["", "files", "documents", "bytes", "tokens"],
        ["read", "7", "1,234,567", "4.5 MB", ""],
        ["kept", "", "900", "3.0 MB", "987,654"],
        ["train", "", "850", "2.9 MB", "900,000"],
        ["validation", "", "50", "100.0 kB", "87,654"],
    ]
    assert rows(page, "Languages")[1:] == [
        ["Python", "600", "2.0 MB", "600,000", "66.7%"],
        ["C++", "300", "1.0 MB", "300,000", "33.3%"],
    ]
    assert rows(page, "Dropped by filters")[1] == ["long lines", "3", "700 bytes"]
    assert rows(page, "Problems in the input")[1] == ["invalid JSON", "1", "30 bytes"]
    assert rows(page, "Redactions")[1:] == [["email", "12"], ["secrets", "0"]]
    assert rows(page, "Settings")[1:] == [
        ["reading.languages", '["Python"]'],
        ["reading.rules.max_mean_line", "100"],
        ["seed", "0"],
    ]
    text = " ".join(Words(page).text)
    assert "a.jsonl:17" in text and "expected ',' at column 9" in text and "x = 1\ny = 2" in text


def test_bars_are_as_long_as_the_numbers():
    svg = "{http://www.w3.org/2000/svg}"
    figures = {figure.find("figcaption").text: figure for figure in tree(render(REPORT)).iter("figure")}
    assert list(figures)[:3] == [f"{name} per language" for name in ("documents", "bytes", "tokens")]
    for name in ("documents", "bytes", "tokens"):
        widths = [float(bar.get("width")) for bar in figures[f"{name} per language"].iter(f"{svg}rect")]
        assert widths[0] == pytest.approx(2 * widths[1], abs=0.1)
    lengths = figures["documents by number of tokens, end token included"]
    widths = [float(bar.get("width")) for bar in lengths.iter(f"{svg}rect")]
    assert widths == pytest.approx([widths[1] / 4, widths[1], widths[1] / 2], abs=0.1)


def poisoned(value):
    """`REPORT` with every text and every key from the corpus replaced by `value`."""
    report = copy.deepcopy(REPORT)
    report["languages"][value] = report["languages"].pop("C++")
    for name in ("dropped", "problems"):
        entry = {"documents": 1, "bytes": 1, "examples": [{"source": value, "detail": value, "excerpt": value}]}
        report[name][value] = entry
    report["redacted"][value] = 3
    report["settings"][value] = {"a": [value]}
    report["splits"][value] = {"documents": 1}
    return report


@example("<script>alert(1)</script>")
@example('"><img src=x onerror=alert(1)>')
@example("'&lt;&#60;<!--")
@example("\ud800\x00\x1b[31m\u202etxt.exe")
@given(st.text(st.characters(exclude_categories=()), min_size=1))
def test_nothing_of_the_corpus_becomes_markup(value):
    clean, page = Words(render(poisoned("plain"))), render(poisoned(value))
    words = Words(page)
    assert (words.tags, words.attributes) == (clean.tags, clean.attributes)
    assert "script" not in words.tags and page.encode("utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e\ud800-\udfff]", page)
    tree(page)
    if value.isprintable():
        assert " ".join(words.text).count(value) >= 9


def test_nothing_is_loaded_from_elsewhere():
    page = render(REPORT)
    addresses = set(re.findall(r"https?://[^\"' ]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name space, not a link
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page
    assert not {"link", "script", "img", "iframe"} & set(Words(page).tags)


@pytest.mark.parametrize("report", [{}, {"languages": {"": {}}, "lengths": {"edges": [], "documents": []}}])
def test_an_empty_report_is_a_page_too(report):
    assert "Nothing was dropped." in render(report)
    tree(render(report))


def test_prompts_that_were_cut_are_reported():
    assert "Truncated prompts: 1,234." in render({**REPORT, "truncated": 1234})
    assert "cut to fit" not in render({**REPORT, "truncated": 0})


def test_an_open_last_range():
    assert render({"lengths": {"edges": [0, 16], "documents": [3, 4]}}).count("<rect") == 2
