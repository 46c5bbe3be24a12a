"""Pages: what is not finished HTML is escaped, wherever a writer puts it."""

import xml.etree.ElementTree as ElementTree

import pytest

from ms_codegeex.base.webpage import Html, bars, charts, element, joined, lines, note, page, settings, spans, table

HOSTILE = "<script>alert(1)</script>\" onload='x' &amp;\u202e"
SERIES = {HOSTILE: [(1, 2.0), (2, 3.0)]}


@pytest.mark.parametrize(
    "part",
    [
        HOSTILE,
        note(HOSTILE),
        element("a", HOSTILE, href=HOSTILE),
        joined(HOSTILE, element("b", "x")),
        table((HOSTILE,), [[HOSTILE]], small=HOSTILE),
        table((), [], nothing=HOSTILE),
        settings({HOSTILE: {HOSTILE: [HOSTILE]}}),
        bars(HOSTILE, [(HOSTILE, 1.0, HOSTILE)]),
        lines(HOSTILE, SERIES, HOSTILE, HOSTILE, shown=lambda y: HOSTILE),
        spans(HOSTILE, [(HOSTILE, 0.0, 1.0, 0, HOSTILE)], HOSTILE, lambda x: HOSTILE),
    ],
    ids=["text", "note", "element", "joined", "table", "nothing", "settings", "bars", "lines", "spans"],
)
def test_only_finished_html_is_markup(part):
    written = page(HOSTILE, [(HOSTILE, part)], "")
    tree = ElementTree.fromstring(written.split("\n", 1)[1])
    assert "<script" not in written and "\u202e" not in written
    assert HOSTILE.removesuffix("\u202e") in "".join(tree.find("body/section/h2").itertext())
    assert not [name for each in tree.iter() for name in each.attrib if name.startswith("on")]


def test_cells_and_empty_parts():
    shown = table(("", "n"), [["a", 1234567], [Html("<b>x</b>"), None]], 1, small="s")
    assert '<td class="n">1,234,567</td>' in shown and "<td><b>x</b></td>" in shown and '<td class="n"></td>' in shown
    assert not table(("a",), [], small="s") and not note("") and not charts(bars("t", []), lines("t", {}, "x", "y"))
    assert "nothing here" not in page("t", [("nothing here", "", Html())])
