"""The evaluations of a paper (`papers.yaml`), and one page of them: what ran, and the paper's tables with our row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file, write_json
from ms_codegeex.base.webpage import element, note, page, table
from ms_codegeex.base.yaml_reading import read_yaml_file
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.extras.evaluation.reports import published, scores
from ms_codegeex.extras.evaluation.reports.comparison_page import matrix
from ms_codegeex.extras.evaluation.reports.page import label_of, published_table
from ms_codegeex.extras.evaluation.sampling import recipes

FILE = Path(__file__).with_name("papers.yaml")
PaperName = Literal["codegeex", "codegen", "codegeex2", "leaderboards"]
QUICK = {"n": 2, "limit": 8}  # samples of each problem, problems of each language
OURS = "this model"
MODE = "strict"  # how our rows are judged
KS = re.compile(r"pass@(\d+)")
NAMES = {"JS": "js", **{label_of(name): name for name in ("python", "cpp", "java", "js", "go", "rust")}}


@dataclass(frozen=True)
class PaperPart:
    """One evaluation of a paper. `name`: also its directory's; `recipe`: a name in configs/evaluation; `languages`: the
    targets of a translation; `perplexity`: whether the paper has that of its prompts."""

    name: str
    title: str
    recipe: str
    translate_from: str | None = None
    languages: tuple[str, ...] = ()
    perplexity: bool = False

    def settings(self, quick: bool) -> Recipe:
        """The recipe as it is drawn."""
        recipe = recipes.load(self.recipe)
        n = min(recipe.n, QUICK["n"]) if quick else None
        return recipes.over(recipe, n=n, translate_from=self.translate_from, languages=self.languages or None)


@dataclass(frozen=True)
class PartResult:
    """A part and its `report.json`; None if it did not run, for the `reason` given."""

    part: PaperPart
    report: Mapping[str, Any] | None
    reason: str = ""

    @property
    def in_words(self) -> str:
        """The rates of all its problems, or why there are none."""
        if self.report is None:
            return f"not run: {self.reason}"
        if measured := self.report.get("measures", {}).get("all"):
            return scores.measures_in_words(measured)
        judged = self.report["scores"].get(MODE)
        return scores.in_words(judged["all"]) if judged else "nothing was judged"

    @property
    def rates(self) -> dict[tuple[str, str], float]:
        """pass@k as shares, by language ("all": of all) and name."""
        judged = (self.report or {}).get("scores", {}).get(MODE, {"all": {}, "by": {}})
        groups = {"all": judged["all"], **judged["by"].get("language", {})}
        return {
            (name, f"pass@{k}"): rate["value"]
            for name, group in groups.items()
            for k, rate in group.get("pass_at", {}).items()
            if "value" in rate
        }

    @property
    def left_out(self) -> dict[str, str]:
        return {**(self.report or {}).get("skipped", {}), **(self.report or {}).get("refused", {})}


@dataclass(frozen=True)
class Paper:
    """A paper and its parts. `compared`: the published model that ours is compared with."""

    title: str
    compared: str
    parts: tuple[PaperPart, ...]


def paper(name: str, only: Sequence[str] = ()) -> Paper:
    """The paper of this name with these parts, or all. An unknown part is a `UserError`."""
    values, parts = read_yaml_file(FILE)[name], []
    for key, given in values["parts"].items():
        source = given.get("translate_from")
        targets = tuple(each for each in values.get("languages", ()) if source and each != source)
        parts.append(PaperPart(key, **{**given, "languages": targets}))
    known = [part.name for part in parts]
    if absent := [each for each in only if each not in known]:
        raise UserError(f"--only: {name} has no part {absent[0]}; choose from {', '.join(known)}")
    return Paper(values["title"], values["compared"], tuple(part for part in parts if not only or part.name in only))


def write(output: Path, shown: Paper, model: str, results: Sequence[PartResult], quick: bool) -> dict[str, Any]:
    """Write `index.html` and `reproduction.json`, whose content is returned."""
    listed = tables(results, quick)
    compared = [] if quick else differences(shown.compared, listed)
    parts = {
        each.part.name: {"ran": each.report is not None, "result": each.in_words, "left_out": each.left_out}
        for each in results
    }
    about = {"paper": shown.title, "model": model, "quick": quick}
    content = {**about, "parts": parts, "tables": listed, "differences": compared}
    write_json(output / "reproduction.json", content)
    with atomic_file(output / "index.html") as temporary:
        temporary.write_text(render(shown, model, results, listed, compared, quick), encoding="utf-8")
    return content


def render(
    shown: Paper,
    model: str,
    results: Sequence[PartResult],
    listed: Sequence[Mapping[str, Any]],
    compared: Sequence[Sequence[str]],
    quick: bool,
) -> str:
    """The page; the same results give the same bytes."""
    few = (
        f"A quick sample: {QUICK['n']} samples of the first {QUICK['limit']} problems of each language. Published rows "
        "are of whole benchmarks with up to 200 samples, so they cannot be compared yet."
    )
    rows = []
    for each in results:
        link = element("a", each.part.title, href=f"{each.part.name}/report.html") if each.report else each.part.title
        without = "; ".join(f"{label_of(key)}: {why}" for key, why in each.left_out.items())
        rows.append([link, each.in_words, without])
    best = f"Our rows: {MODE} verdicts, the best of several temperatures in each column, as in the papers."
    translated = {each.part.translate_from: each for each in results if each.part.translate_from}
    pairs = {
        source: {name: f"{100 * rate:.2f}" for (name, k), rate in each.rates.items() if k == "pass@1" and name != "all"}
        for source, each in translated.items()
    }
    heads = ("table", "column", OURS, shown.compared, "difference")
    sections = [
        ("What ran", note(few if quick else ""), table(("", f"{MODE} verdicts", "left out"), rows)),
        *([(f"Against {shown.compared}", table(heads, compared))] if shown.compared else []),
        (
            "Translation",
            matrix(pairs, f"pass@1 of {OURS} in per cent, {MODE} verdicts.") if any(pairs.values()) else "",
        ),
        ("The paper's tables", note(best), *map(published_table, listed)),
    ]
    return page(f"{shown.title}: {model}", sections)


def tables(results: Sequence[PartResult], quick: bool) -> list[dict[str, Any]]:
    """The published tables about the parts, each once, with our row where its columns are languages or pass@k. Of
    several parts, such as temperatures, our row has the best for each column, as the papers have."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for result in results:
        for entry in published.tables(result.part.settings(quick)):
            key = entry["title"], entry["source"]
            found.setdefault(key, {**entry, "rows": dict(entry["rows"]), "of": []})["of"].append(result)
    finished = []
    for entry in found.values():
        of = entry.pop("of")
        if entry.get("kind") == "budget":
            finished.append(_with_budget(entry, of))
            continue
        mine = _row(entry, of)
        finished.append({**entry, "rows": {**({OURS: mine} if any(mine) else {}), **entry["rows"]}})
    return finished


def _with_budget(entry: Mapping[str, Any], of: Iterable[PartResult]) -> dict[str, Any]:
    rows = [row for result in of for row in (result.report or {}).get("budget", ())]
    rates = {f"{row['samples']} samples, {row['strategy']}": _percent(row["rate"]) for row in rows}
    if not rates:
        return dict(entry)
    rows = {name: [rates.get(name, ""), *cells] for name, cells in entry["rows"].items()}
    return {**entry, "columns": [OURS, *entry["columns"]], "rows": rows}


def _row(entry: Mapping[str, Any], of: Iterable[PartResult]) -> list[str]:
    best: dict[tuple[str, str], float] = {}
    for result in of:
        for key, rate in result.rates.items():
            best[key] = max(best.get(key, 0.0), rate)
    columns = entry["columns"]
    if all(KS.fullmatch(column) for column in columns):
        return [_percent(best.get(("all", column))) for column in columns]
    languages = [NAMES[column] for column in columns if column in NAMES]
    if not languages:
        return []
    measures = [f"pass@{k}" for k in KS.findall(entry["title"])]

    def cell(column: str) -> str:
        if column in NAMES:
            rates = [best.get((NAMES[column], measure)) for measure in measures]
        else:  # the mean of the table's languages
            every = [[best.get((name, measure)) for name in languages] for measure in measures]
            rates = [None if None in each else sum(each) / len(each) for each in every]  # type: ignore[arg-type]
        return " / ".join(_percent(rate) or "-" for rate in rates) if any(rate is not None for rate in rates) else ""

    return [cell(column) for column in columns]


def _percent(rate: float | None) -> str:
    return "" if rate is None else f"{100 * rate:.2f}"


def differences(other: str, listed: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """Rows [table, column, ours, that of the published model `other`, difference] in per cent, where both have a first
    figure."""
    rows = []
    for entry in listed:
        if not {OURS, other} <= entry["rows"].keys():
            continue
        for column, mine, theirs in zip(entry["columns"], entry["rows"][OURS], entry["rows"][other], strict=True):
            pair = [re.match(r"~? ?(\d+(?:\.\d+)?)", text) for text in (mine, theirs)]
            if all(pair):
                first, second = (float(match[1]) for match in pair)  # type: ignore[index]
                rows.append([entry["title"], column, f"{first:.2f}", f"{second:.2f}", f"{first - second:+.2f}"])
    return rows
