"""`ms-codegeex evaluate compare DIR DIR …`: several evaluations of one benchmark in one report."""

from __future__ import annotations

import argparse

from ms_codegeex.base.options import given
from ms_codegeex.base.printing import print_json, print_out
from ms_codegeex.commands.evaluate_options import ComparisonOptions


def run(arguments: argparse.Namespace) -> int:
    """Write comparison.json and comparison.html, and say how the evaluations differ."""
    settings = given(ComparisonOptions, arguments)
    from ms_codegeex.base.files import atomic_file, write_json
    from ms_codegeex.evaluation.output_directory import sole_writer
    from ms_codegeex.evaluation.reports import comparison, comparison_page
    from ms_codegeex.evaluation.reports.published_rows import read_published

    evaluations = comparison.read_evaluations(arguments.compared)
    found = comparison.compare(evaluations, settings.verdicts, read_published(settings.published))
    page = comparison_page.render(found, evaluations, settings.most_answers)
    with sole_writer(arguments.output):
        write_json(arguments.output / "comparison.json", found)
        with atomic_file(arguments.output / "comparison.html") as temporary:
            temporary.write_text(page, encoding="utf-8")
    if arguments.json:
        print_json(found)
    else:
        print_out("\n".join([*comparison.lines(found), f"report: {arguments.output / 'comparison.html'}"]))
    return 0
