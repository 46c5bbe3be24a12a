"""The tables of a reproduction, from reports whose rates are known."""

import pytest

from ms_codegeex.extras.evaluation.reports import published, reproduction, scores
from ms_codegeex.extras.evaluation.reports.reproduction import PartResult, paper

FIVE = ("python", "cpp", "java", "js", "go")


def result(name, part, passed, samples=10, **more):
    """A part's report of one problem in each language with these numbers of samples that passed."""
    by = {name: scores.score([(samples, count)], False) for name, count in passed.items()}
    every = scores.score([(samples, count) for count in passed.values()], False)
    judged = {"all": every, "by": {"language": by}}
    report = {"scores": {"strict": judged, "published": judged}, "skipped": {"rust": "needs cargo"}, "refused": {}}
    (chosen,) = paper(name, [part]).parts
    return PartResult(chosen, {**report, **more})


@pytest.mark.parametrize("name", ["codegeex", "codegen", "codegeex2", "leaderboards"])
def test_every_part_has_a_recipe_of_its_benchmark_and_the_compared_model_is_in_a_table(name):
    one = paper(name)
    listed = [table for part in one.parts for table in published.tables(part.settings(quick=False))]
    assert not one.compared or any(one.compared in table["rows"] for table in listed)
    for part in one.parts:
        recipe = part.settings(quick=True)
        assert recipe.n <= 2 and (recipe.translate_from is None) == ("from-" not in part.name)
        assert recipe.translate_from not in recipe.languages


def test_the_paper_translates_between_twenty_pairs():
    pairs = [(part.translate_from, to) for part in paper("codegeex").parts for to in part.languages]
    assert len(set(pairs)) == 20 and {each for pair in pairs for each in pair} == set(FIVE)


def test_our_row_is_beside_the_published_ones():
    one = result("codegeex", "generation", dict(zip(FIVE, range(5), strict=True)))
    first, second = reproduction.tables([one], False)[:2]
    ours = ["0.00 / 0.00 / -", *(f"{n}0.00 / 100.00 / -" for n in range(1, 5)), "20.00 / 80.00 / -"]
    assert first["rows"]["this model"] == ours
    assert next(iter(first["rows"])) == "this model" and "CodeGeeX-13B" in first["rows"]
    # no Rust, so no mean of the table with Rust
    assert second["rows"]["this model"][-2:] == ["", ""]


def test_of_several_temperatures_each_column_has_the_best():
    parts = [result("codegen", f"humaneval-t0.{i}", {"python": n}) for i, n in ((2, 5), (6, 3))]
    (table, *_) = [each for each in reproduction.tables(parts, False) if "CodeGen" in each["source"]]
    assert table["rows"]["this model"] == ["50.00", "100.00", ""]


def test_the_budget_is_a_column():
    row = {"samples": 10, "strategy": "uniform", "rate": 0.5, "split": ""}
    listed = reproduction.tables([result("codegeex", "generation", {"go": 1}, budget=[row])], False)
    (table,) = [each for each in listed if each.get("kind") == "budget"]
    assert table["columns"][0] == "this model" and table["rows"]["10 samples, uniform"][0] == "50.00"
    assert table["rows"]["10 samples, weighted"][:2] == ["", "22.17"]


def test_differences_are_in_points():
    listed = reproduction.tables([result("codegeex", "from-go", {"python": 4})], False)
    found = reproduction.differences("CodeGeeX-13B", listed)
    assert found == [["Translation from Go, pass@1 / pass@10 / pass@100", "Python", "40.00", "35.92", "+4.08"]]


def test_the_page_says_what_ran_and_what_did_not(tmp_path):
    one = paper("codegeex")
    measured = {"all": {"problems": 3, "samples": 6, "BLEU-4": {"value": 0.25, "low": 0.2, "high": 0.3}}}
    (chosen,) = paper("codegeex", ["summaries"]).parts
    done = [
        result("codegeex", "from-go", {"python": 4}),
        PartResult(one.parts[0], None, "<no> data"),
        PartResult(chosen, {"scores": {}, "measures": measured}),
    ]
    pages = []
    for quick in (True, False):
        reproduction.write(tmp_path, one, "mine", done, quick)
        pages.append((tmp_path / "index.html").read_text())
    parts = ("not run: &lt;no&gt; data", "needs cargo", "from Go", "<h2>Translation</h2>", 'href="from-go/report.html"')
    for words in (*parts, "pass@1 40.00 %", "BLEU-4 25.00 %"):
        assert all(words in shown for shown in pages), words
    assert ["A quick sample" in shown for shown in pages] == [True, False] == ["+4.08" not in shown for shown in pages]
