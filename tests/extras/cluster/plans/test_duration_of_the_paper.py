"""The two months of CodeGeeX-13B's training beside the plan: every figure of that section of benchmarks/RESULTS.md."""

import re
from datetime import date

import pytest
from conftest import ROOT

from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.plans.planner import make_plan
from ms_codegeex.extras.cluster.plans.published import STEP_SECONDS, published_run

TITLE = "### Two months\n"
DAY = 86400
PERIOD = (date(2022, 4, 18), date(2022, 6, 22))  # the release's README


@pytest.fixture(scope="module")
def figures():
    """Name -> text, as the page has it."""
    plan = make_plan(load_config(ROOT / "configs" / "codegeex_13b.yaml"))
    run = published_run(plan.config)
    days = (PERIOD[1] - PERIOD[0]).days
    stepping = run.steps * STEP_SECONDS / DAY
    mean = days * DAY / run.steps
    return {
        "days": f"{days} days",
        "slots": f"{run.slots / 1e12:.2f} T",
        "published step": f"{STEP_SECONDS:.2f} s",
        "days of steps": f"{stepping:.1f} days",
        "planned": f"{plan.step_seconds:.1f} s",
        "planned days": f"{run.steps * plan.step_seconds / DAY:.1f} days",
        "mean step": f"{mean:.1f} s",
        "share": f"{stepping / days:.0%}".replace("%", " %"),
        "MFU of a step": f"{100 * plan.mfu_of(STEP_SECONDS):.1f} %",
        "MFU of two months": f"{100 * plan.mfu_of(mean):.1f} %",
        "filled": f"{100 * run.filled:.0f} %",
        "MFU of tokens": f"{100 * plan.mfu_of(mean) * run.filled:.1f} %",
    }


def test_every_figure_is_in_the_section_and_no_other(figures):
    text = (ROOT / "benchmarks" / "RESULTS.md").read_text().partition(TITLE)[2].partition("\n#")[0]
    text = " ".join(text.split())
    for name, figure in figures.items():
        assert figure in text, f"{name}: {figure}"
        text = text.replace(figure, "")
    given = ("CodeGeeX-13B", "54.3 G", "213,000", "850 G", "1,536", "910", "2022-04-18", "2022-06-22", "2022-05-09")
    for known in given:
        text = text.replace(known, "")
    assert re.findall(r"\d[\d.,]*\d", text) == []
