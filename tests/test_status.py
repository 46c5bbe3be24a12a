"""README's table and docs/status.md say what docs/status.yaml says, and nothing else does."""

import re
import shutil
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT, load_script

from ms_codegeex.base.hardware import CHIPS
from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.plans.planner import make_plan
from ms_codegeex.planning.hardware_files import uncertain_of

MARK = r"\*\*(not verified|not seen|not run|not reproduced)\*\*"


@pytest.fixture(scope="module")
def status():
    return load_script("docs/status.py")


@pytest.fixture
def copy(tmp_path):
    """The pages and their source, to be changed."""
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/status.md", "docs/status.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_pages_agree_with_their_source():
    result = subprocess.run([sys.executable, "docs/status.py", "--check"], capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "name,old,new",
    [
        ("README.md", "several GPUs **not run**", "several GPUs tested"),
        ("docs/status.md", "real network **not verified**", "real network tested"),
        ("docs/status.md", "| NVIDIA GPU (", "| TPU ("),
        ("docs/status.md", "released weights **not seen**", "released weights"),
        ("docs/status.yaml", "HCCL and a real network: not verified", "HCCL: not verified"),
    ],
    ids=("a claim in README", "a claim of the table", "a device of the table", "a mark of the table", "the source"),
)
def test_a_change_on_one_side_is_found_and_mended(status, copy, capsys, name, old, new):
    text = (copy / name).read_text()
    assert old in text
    (copy / name).write_text(text.replace(old, new))
    assert status.main(["--check"], copy) == 1
    assert "differs from docs/status.yaml" in capsys.readouterr().out
    assert status.main([], copy) == 0
    assert status.main(["--check"], copy) == 0


def test_every_mark_is_in_a_table_and_explained():
    text = (ROOT / "docs" / "status.md").read_text()
    intro, _, tables = text.partition("## What runs where")
    assert set(re.findall(MARK, intro)) == set(re.findall(MARK, tables)) and len(re.findall(MARK, tables)) > 40


def test_the_readme_has_eight_rows_and_few_words():
    text = (ROOT / "README.md").read_text()
    assert text.partition("## Status")[2].count("\n|") == 2 + 8 and len(text.split()) <= 1300


def test_no_other_page_makes_such_a_claim():
    pages = {path: path.read_text() for path in (ROOT / "docs").glob("*.md") if path.name != "status.md"}
    assert [path.name for path, text in pages.items() if re.search(MARK, text)] == []


def test_the_page_has_the_devices_figures_without_a_source():
    page = (ROOT / "docs" / "status.md").read_text()
    for name, chip in CHIPS.items():
        row = re.search(rf"^\| {name} \| (.*) \|$", page, re.MULTILINE)[1]
        assert set(row.split(", ")) == {f"`{figure}`" for figure in uncertain_of(chip)}


@pytest.mark.parametrize(
    "change,message",
    [
        ({"unverified": {"all": "not tried"}}, "write one of not verified"),
        ({"state": "tested; **not verified**"}, "name what is not verified under `unverified`"),
        ({"unverfied": {}}, "unverfied"),
    ],
    ids=("an unknown mark", "a mark in the text", "an unknown key"),
)
def test_mistakes_in_the_source_are_one_line_and_2(status, copy, capsys, change, message):
    path = copy / "docs" / "status.yaml"
    values = yaml.safe_load(path.read_text())
    values["devices"][0] |= change
    path.write_text(yaml.safe_dump(values))
    assert status.main(["--check"], copy) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_settings_of_the_run_of_one_server_fit():
    """Each check on devices can be made as it is written."""
    tables = yaml.safe_load((ROOT / "docs" / "status.yaml").read_text())
    checks = [check["do"] for table in tables.values() for row in table for check in row.get("checks", ())]
    checks = [text for text in checks if "the run of one server" in text]
    assert len(checks) >= 7
    for text in checks:
        words = []
        for settings in re.findall(r"`((?:[a-z_.]+=[^ `]+ ?)+)`", text):
            words += settings.split()
            assert make_plan(load_config(ROOT / "configs" / "codegeex_base_8.yaml", words)).fits, words
