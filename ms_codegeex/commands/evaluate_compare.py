"""`ms-codegeex evaluate compare DIR DIR …`: several evaluations of one benchmark in one report."""

from __future__ import annotations

import argparse
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_json, print_out

NAME = "compare"
EXAMPLES = """
  ms-codegeex evaluate compare eval-fp32 eval-int8 eval-int4 --output compared
  ms-codegeex evaluate compare before=run/eval-1000 after=run/eval-2000 --output progress --most-answers 0
  ms-codegeex evaluate compare mine quantised --published figures.yaml --output compared"""
MAXIMUM = 5  # distinct answers of a problem and evaluation


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of comparisons."""
    parser.add_argument(
        "compared", nargs="*", default=[], metavar="[NAME=]DIR", help="compare: directories of finished evaluations"
    )
    group = parser.add_argument_group("compare")
    group.add_argument(
        "--verdicts",
        choices=("strict", "published", "base"),
        help="compare: the rule by which an answer passes (default: strict; base: of evalplus)",
    )
    group.add_argument(
        "--published",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="compare: published figures in YAML or JSON: {name: {source: TEXT, pass@1: PERCENT, ...}}",
    )
    group.add_argument(
        "--most-answers",
        type=int,
        metavar="N",
        help=f"compare: distinct answers shown for each problem (default: {MAXIMUM}; 0: all)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write comparison.json and comparison.html, and say how the evaluations differ."""
    maximum = MAXIMUM if arguments.most_answers is None else arguments.most_answers
    if maximum < 0:
        raise UserError(f"--most-answers: {maximum} is out of range; give 0 (all) or more")
    from ms_codegeex.base.files import atomic_file, write_json
    from ms_codegeex.evaluation.output_directory import sole_writer
    from ms_codegeex.evaluation.reports import comparison, comparison_page
    from ms_codegeex.evaluation.reports.published_rows import read_published

    evaluations = comparison.read_evaluations(arguments.compared)
    found = comparison.compare(evaluations, arguments.verdicts or "strict", read_published(arguments.published or []))
    page = comparison_page.render(found, evaluations, maximum)
    with sole_writer(arguments.output):
        write_json(arguments.output / "comparison.json", found)
        with atomic_file(arguments.output / "comparison.html") as temporary:
            temporary.write_text(page, encoding="utf-8")
    if arguments.json:
        print_json(found)
    else:
        print_out("\n".join([*comparison.lines(found), f"report: {arguments.output / 'comparison.html'}"]))
    return 0
