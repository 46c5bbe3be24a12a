"""What the report says: numbers of the verdicts, published tables next to them, nothing foreign as markup."""

import re
import xml.etree.ElementTree as ElementTree
from itertools import combinations

import pytest
from fake_task import Doubling
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ms_codegeex.base.shipped import shipped_names
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.extras.evaluation.reports import published, scores
from ms_codegeex.extras.evaluation.reports.page import render
from ms_codegeex.extras.evaluation.sampling.recipes import load

SVG = "{http://www.w3.org/2000/svg}"


def rows_of(verdicts):
    """{task_id: "pf"} (passed, failed) -> rows of results.jsonl; the published judge is lenient."""
    return [
        {
            "task_id": name,
            "completion_id": number,
            "verdicts": {"strict": "passed" if letter == "p" else "timeout", "published": "passed"},
            "seconds": float(number),
            "stderr": "Traceback\n    assert f(1) == 2\n    ^^^^^^^^\nAssertionError\n",
        }
        for name, letters in verdicts.items()
        for number, letter in enumerate(letters)
    ]


def built(verdicts, task=None):
    task = task or Doubling()
    rows = rows_of(verdicts)
    samples = [{**row, "finish": "eos", "generation": f"\n\tif x:\n\t\treturn {n}\n"} for n, row in enumerate(rows)]
    return scores.build(task, task.problems, samples, rows)


VERDICTS = {"python/0": "pppf", "python/1": "ffff", "cpp/0": "fppf", "cpp/2": "pfff"}


def full(name="python", text="plain"):
    found = built(VERDICTS)
    for mode in found["scores"].values():
        mode["by"]["language"][name] = mode["by"]["language"].pop("python")
    found["verdicts"]["strict"][name] = found["verdicts"]["strict"].pop("python")
    return found | {
        "settings": {"model": {"path": text}, "recipe": {"stops": [text], name: text}},
        "skipped": {name: text},
        "refused": {"go": text},
        "references": {name: {"passed": 1, "total": 3, "defects": {text: text}, "failing": {"a/1": text}}},
        "known_defects": {text: text},
        "perplexity": {text: 3.25},
        "published": published.tables(Recipe("humaneval-x")),
    }


def tree(page):
    return ElementTree.fromstring(page.split("\n", 1)[1])


def section(page, title):
    return next(each for each in tree(page).iter("section") if each[0].text == title)


def rows(page, title):
    return [["".join(cell.itertext()) for cell in row] for row in section(page, title).iter("tr")]


def test_scores_are_those_of_the_verdicts():
    scores = built(VERDICTS)["scores"]["strict"]
    every = scores["all"]
    assert (every["problems"], every["samples"], every["passed"], every["solved"]) == (4, 16, 6, 3)
    assert every["pass_at"]["1"]["value"] == pytest.approx(6 / 16)
    two = [sum("p" in draw for draw in combinations(letters, 2)) / 6 for letters in VERDICTS.values()]
    assert every["curve"][1] == pytest.approx(sum(two) / 4) and len(every["curve"]) == 4
    assert scores["by"]["language"]["cpp"]["pass_rate"]["value"] == pytest.approx(3 / 8)
    assert built(VERDICTS)["verdicts"]["strict"]["python"] == {"passed": 3, "timeout": 5}
    first = {"task_id": "python/0", "labels": {"language": "python"}, "samples": 4}
    assert built(VERDICTS)["by_problem"][0] == {**first, "passed": {"strict": 3, "published": 4}}


def test_samples_of_different_cases_are_not_draws():
    class Cases(Doubling):
        def samples_per_problem(self, n):
            return 2 * n

    found = built(VERDICTS, Cases())
    assert found["scores"]["strict"]["all"]["pass_rate"]["value"] == pytest.approx(6 / 16)
    assert "pass_at" not in found["scores"]["strict"]["all"]
    assert scores.lines(found)[0].startswith("strict, all: pass rate 37.50 % (")
    assert "strict: pass rate" in rows(render(found), "Scores")[0]


def test_lines_for_people():
    lines = scores.lines(built({"python/0": "p", "cpp/0": "f"}))
    assert lines[0] == "strict, all: pass@1 50.00 % (9.5 to 90.5) of 2 problems"
    assert lines[1] == "strict, python: pass@1 100.00 % (20.7 to 100.0) of 1 problems"
    assert lines[6:] == ["failed cpp/0: timeout: AssertionError; its answer ends: return 1"]
    every = scores.lines(built({f"{name}/{n}": "ff" for name in ("python", "cpp") for n in range(12)}, Doubling(12)))
    assert sum(line.startswith("failed ") for line in every) == 10 and every[-1] == "... and 14 more failed problems"


def test_a_failed_problem_has_the_end_of_its_answer_and_error():
    """Only python/1 has no answer that passes."""
    assert rows(render(full()), "Failed problems")[1:] == [
        ["python/1", "4", "timeout", "    assert f(1) == 2\nAssertionError", "if x:\n    return 4"]
    ]
    row, long = rows_of({"python/0": "f"})[0], "y" * 999
    found = scores.build(Doubling(), Doubling().problems, [{**row, "finish": "eos", "generation": long * 9}], [row])
    assert found["failed"][0]["answer"] == "y" * 120
    row |= {"generation": "", "finish": "eos"}
    row["stderr"] = "    os.kill()\nTypeError: 'NoneType' object is not callable\n"
    found = scores.build(Doubling(), Doubling().problems, [row], [row])
    said = "TypeError: 'NoneType' object is not callable: the guard of the published runner has taken os.kill away"
    assert scores.lines(found)[-1] == f"failed python/0: timeout: {said}; its answer is empty"


def test_both_modes_stand_side_by_side():
    page = render(full())
    heads, every, *rest = rows(page, "Scores")
    assert heads == ["", "problems", "samples", "strict: pass@1", "published: pass@1"]
    assert every[:3] == ["all", "4", "16"] and every[3].startswith("37.50 % (") and every[4].startswith("100.00 % (")
    assert [row[0] for row in rest] == ["language: C++", "language: Python"]
    assert "a problem has 4 samples, pass@10 needs 10 of each" in "".join(section(page, "Scores").itertext())
    verdicts = rows(page, "Verdicts")
    assert verdicts[0] == ["", "passed", "wrong", "error", "compile error", "timeout", "memory", "killed"]
    assert ["strict: Python", "3", "", "", "", "5", "", ""] in verdicts


@pytest.mark.parametrize(
    "model, expected",
    [
        ({"model": "gpt-5", "path": "elsewhere"}, "mtpb: gpt-5"),
        ({"path": "runs/<one>/checkpoints/step-00000020"}, "mtpb: runs/<one>/checkpoints/step-00000020"),
        ({"samples": "some.jsonl"}, "mtpb: some.jsonl"),
        ({}, "mtpb"),
    ],
)
def test_the_title_names_benchmark_and_model(model, expected):
    page = tree(render({"task": "mtpb", "settings": {"model": model}}))
    assert [next(page.iter(tag)).text for tag in ("title", "h1")] == [expected] * 2


def test_a_sandbox_with_holes_is_reported():
    layers = {"namespaces": "active", "seccomp": "missing: old kernel"}
    page = render(full() | {"settings": {"machine": {"sandbox": layers}}})
    assert ["sandbox", "without seccomp"] in rows(page, "Summary")
    page = render(full() | {"settings": {"machine": {"sandbox": {"namespaces": "active"}}}})
    assert ["sandbox", "all layers active"] in rows(page, "Summary")


def test_charts_show_the_scores():
    figures = {figure.find("figcaption").text: figure for figure in section(render(full()), "Charts").iter("figure")}
    kinds = ("pass@1 by language", "pass@k")
    assert list(figures) == [f"{mode}: {kind}" for mode in ("strict", "published") for kind in kinds]
    widths = [float(bar.get("width")) for bar in figures["strict: pass@1 by language"].iter(f"{SVG}rect")]
    assert widths == pytest.approx([300 * 3 / 8, 300 * 3 / 8], abs=0.1)
    lines = list(figures["strict: pass@k"].iter(f"{SVG}polyline"))
    points = [tuple(map(float, point.split(","))) for point in lines[0].get("points").split()]
    curve = built(VERDICTS)["scores"]["strict"]["all"]["curve"]
    heights = [(10 + 220 - y) / 220 for _, y in points]
    assert len(lines) == 3 and heights == pytest.approx(curve, abs=1e-3)
    assert [x for x, _ in points] == pytest.approx([80, 190, 300, 410])


def test_published_numbers_stand_next_to_them():
    text = "".join(section(render(full()), "Published results").itertext())
    assert "22.89 / 39.57 / 60.92" in text and "10 samples, weighted" in text and "~ 19.41 / 30.29 / 49.63" in text
    assert "Translation" not in text


UNPUBLISHED = {"humaneval_x_summary"}  # recipes of tasks without published figures


@pytest.mark.parametrize("name", sorted({*shipped_names("evaluation")} - UNPUBLISHED))
def test_every_recipe_has_published_tables_of_whole_rows(name):
    tables = published.tables(load(name))
    assert tables
    for table in tables:
        assert all(len(cells) == len(table["columns"]) for cells in table["rows"].values()) and table["source"]


def test_translation_has_the_tables_of_its_source():
    (table,) = published.tables(Recipe("humaneval-x", translate_from="java"))
    assert table["title"].startswith("Translation from Java") and table["rows"]["CodeGeeX-13B-FT"][2] == ""
    assert table["rows"]["CodeGeeX-13B-FT"][0] == "75.03 / 87.71 / 95.13"


def tags(page):
    return [element.tag for element in tree(page).iter()]


@settings(max_examples=20)
@example("<script>alert(1)</script>")
@example('"><img src=x onerror=alert(1)>')
@example("\ud800\x00\u202e")
@given(st.text(st.characters(exclude_categories=()), min_size=1))
def test_nothing_foreign_becomes_markup(value):
    report = full(value, value)
    report["failed"][0] |= dict.fromkeys(("task_id", "error", "answer"), value)
    page = render(report)
    assert tags(page) == tags(render(full()))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e\ud800-\udfff]", page) and page.encode("utf-8")
    assert "default-src 'none'" in page and "<script" not in page


def test_an_empty_report_is_a_page_too():
    assert "Nothing has been judged." in render({})
    empty = built({})
    assert "Nothing has been judged." in render(empty) and scores.lines(empty) == []
