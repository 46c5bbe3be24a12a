"""The tables of a reproduction, from reports whose rates are known."""

import csv
import io

import pytest

from ms_codegeex.extras.evaluation.reports import published, scores
from ms_codegeex.extras.evaluation.reproduction import page, results
from ms_codegeex.extras.evaluation.reproduction.papers import PAPERS, paper

FIVE = ("python", "cpp", "java", "js", "go")


def report(passed, samples=10, **more):
    """A report of one problem in each language with these numbers of samples that passed."""
    by = {name: scores.score([(samples, count)], False) for name, count in passed.items()}
    every = scores.score([(samples, count) for count in passed.values()], False)
    judged = {"all": every, "by": {"language": by}}
    sizes = {"judged": len(passed)}
    return {
        "scores": {"strict": judged, "published": judged},
        "verdicts": {"strict": {name: {"passed": count} for name, count in passed.items()}},
        "problems": sizes,
        "samples": sizes,
        "skipped": {"rust": "needs cargo"},
        **more,
    }


def result(name, part, *given, **more):
    (chosen,) = paper(name).chosen([part])
    return results.PartResult(chosen, report(*given, **more))


@pytest.mark.parametrize("name", PAPERS)
def test_every_part_has_a_recipe_of_its_benchmark_and_the_compared_model_is_in_a_table(name):
    one = paper(name)
    listed = [table for part in one.parts for table in published.tables(part.settings(quick=False))]
    assert any(one.compared in table["rows"] for table in listed)
    for part in one.parts:
        recipe = part.settings(quick=True)
        assert recipe.task.removesuffix("-summary").replace("-", "_") == part.data and recipe.n <= 2
        assert (recipe.translate_from is None) == ("from-" not in part.name)
        assert recipe.translate_from not in recipe.languages


def test_the_paper_translates_between_twenty_pairs():
    pairs = [(part.translate_from, to) for part in paper("codegeex").parts for to in part.languages]
    assert len(set(pairs)) == 20 and {each for pair in pairs for each in pair} == set(FIVE)


def test_our_row_is_beside_the_published_ones():
    first, second = results.tables([result("codegeex", "generation", dict(zip(FIVE, range(5), strict=True)))], False)[
        :2
    ]
    assert first["rows"]["this model"] == [
        *("0.00 / 0.00 / -", "10.00 / 100.00 / -", "20.00 / 100.00 / -", "30.00 / 100.00 / -", "40.00 / 100.00 / -"),
        "20.00 / 80.00 / -",
    ]
    assert next(iter(first["rows"])) == "this model" and "CodeGeeX-13B" in first["rows"]
    # no Rust, so no mean of the table with Rust
    assert second["rows"]["this model"][-2:] == ["", ""]


def test_of_several_temperatures_each_column_has_the_best():
    parts = [result("codegen", f"humaneval-t0.{i}", {"python": n}) for i, n in ((2, 5), (6, 3))]
    (table, *_) = [each for each in results.tables(parts, False) if "CodeGen" in each["source"]]
    assert table["rows"]["this model"] == ["50.00", "100.00", ""]


def test_the_budget_is_a_column():
    row = {"samples": 10, "strategy": "uniform", "rate": 0.5, "split": ""}
    listed = results.tables([result("codegeex", "generation", {"go": 1}, budget=[row])], False)
    (table,) = [each for each in listed if each.get("kind") == "budget"]
    assert table["columns"][0] == "this model" and table["rows"]["10 samples, uniform"][0] == "50.00"
    assert table["rows"]["10 samples, weighted"][:2] == ["", "22.17"]


def test_summaries_have_figures_and_a_section_by_language():
    share = {"value": 0.25, "low": 0.2, "high": 0.3}
    measured = {"problems": 3, "samples": 6, "BLEU-4": share, "chrF": share}
    (chosen,) = paper("codegeex").chosen(["summaries"])
    sizes = {"judged": 3}
    given = {"scores": {}, "verdicts": {}, "problems": sizes, "samples": sizes}
    one = results.PartResult(chosen, {**given, "measures": {"all": measured, "go": measured}})
    found = [(figure.group, figure.measure, figure.value, figure.samples) for figure in results.figures([one])]
    assert found[1:3] == [("all", "chrF", 0.25, 6), ("go", "BLEU-4", 0.25, 6)]
    shown = page.render(page.Reproduction(paper("codegeex"), "m", [one], results.figures([one])))
    assert "<h2>Summaries</h2>" in shown and "Go" in shown and "25.00 % (20.0 to 30.0)" in shown
    assert "compared" not in shown.partition("<h2>Summaries")[0]


def test_differences_are_in_points():
    listed = results.tables([result("codegeex", "from-go", {"python": 4})], False)
    found = results.differences(paper("codegeex"), listed)
    assert found == [["Translation from Go, pass@1 / pass@10 / pass@100", "Python", "40.00", "35.92", "+4.08"]]


def test_files_for_other_programs():
    parts = [result("codegeex", "from-go", {"python": 4})]
    rows = list(csv.DictReader(io.StringIO(results.as_csv(results.figures(parts)))))
    assert [row["measure"] for row in rows if row["group"] == "python"] == ["pass@1", "pass@10"] * 2
    assert rows[0]["part"] == "from-go" and float(rows[0]["value"]) == 0.4 and rows[0]["problems"] == "1"
    latex = results.as_latex(
        [{"title": "a_b & 5 %", "source": "~", "columns": ["C#"], "rows": {"x^2": ["1"]}, "ours": 0}]
    )
    assert r"\caption{a\_b \& 5 \%. \textasciitilde{}.}" in latex and r"x\textasciicircum{}2 & 1 \\" in latex


def test_the_page_says_what_ran_and_what_did_not():
    one = paper("codegeex")
    done = [result("codegeex", "from-go", {"python": 4}), results.PartResult(one.parts[0], None, "<no> data")]
    known, listed = results.figures(done), results.tables(done, True)
    shown = page.render(page.Reproduction(one, "mine", done, known, listed, quick=True))
    for words in (
        "not run: &lt;no&gt; data",
        "needs cargo",
        "from Go",
        "40.00",
        "A quick sample",
        'href="from-go/report',
    ):
        assert words in shown, words
    assert shown == page.render(page.Reproduction(one, "mine", done, known, listed, quick=True))


def test_sizes_are_read_from_published_names():
    assert results.parameters_in("CodeGen-Mono 350M") == ("CodeGen-Mono", 350e6)
    assert results.parameters_in("16.1B") == ("published", 16.1e9)
    assert results.parameters_in("code-davinci-002") is None


def test_pass_rates_of_several_models_over_their_sizes():
    """By hand: the best temperature of each model; perplexities are not pass rates."""
    small, large = ([result("codegen", f"humaneval-t0.{i}", {"python": n}) for i, n in rates] for rates in SIZES)
    listed = results.tables([*small, result("codegen", "mtpb-t0.2", {"python": 3})], False)
    ours = [(2_000_000, results.figures(large)), (1_000_000, results.figures(small))]
    curves = {curve["title"]: curve["series"] for curve in results.by_size(ours, listed)}
    humaneval = curves["HumanEval, pass@1"]
    assert humaneval["this model"] == [(1e6, 20.0), (2e6, 50.0)]
    assert humaneval["CodeGen-Mono"] == [(350e6, 12.76), (2.7e9, 23.7), (6.1e9, 26.13), (16.1e9, 29.28)]
    assert "GPT-J" not in humaneval  # one size is not a curve
    assert curves["MTPB, multi-turn pass rate"]["CodeGen-Multi"][0] == (350e6, 4.09)
    assert not any("perplexity" in name for series in curves.values() for name in series)


SIZES = ([(2, 1), (6, 2)], [(2, 5), (6, 4)])


def test_the_page_has_curves_perplexities_and_precisions():
    two = paper("codegeex2")
    found = {f"prompt perplexity, {group}": 3.5 for group in ("all", "solved")} | {
        "prompt perplexity, unsolved": None,
        "standard error, all": 0.25,
        "standard error, solved": None,
    }
    done = [result("codegen", "humaneval-t0.2", {"python": 3}, perplexity=found)]
    rows = [
        {"precision": "8 bits", "peak_bytes": 2_500_000_000, "tokens_per_second": 12.34, "reason": ""},
        {"precision": "4 bits", "peak_bytes": None, "tokens_per_second": None, "reason": "<too> small"},
    ]
    curve = {"title": "HumanEval, pass@1", "series": {"this model": [(1e6, 1.0)], "theirs": [(1e8, 2.0), (1e9, 3.0)]}}
    shown = page.render(page.Reproduction(two, "mine", done, curves=[curve], precisions=rows))
    for words in ("3.50 ± 0.25", "2.50 GB", "12.3", "8.2 GB", "&lt;too&gt; small", "parameters, log10"):
        assert words in shown, words
    without = page.render(page.Reproduction(two, "mine", [result("codegen", "mtpb-t0.2", {"python": 1})]))
    assert "A server does not score prompts" in without and "Measured only with --model" in without
