"""docs/cluster.md and status.md: job files are the generated ones, commands are understood, samples exist."""

import re
import shlex
import subprocess

from conftest import ROOT

from ms_codegeex.cli import parse
from ms_codegeex.config.chips import driver_hardware
from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.jobs.job_files import job_file

PAGES = ("cluster.md", "status.md")
DOCUMENT = "\n".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in PAGES)


def test_the_job_file_is_the_generated_one():
    command = re.search(r"`(ms-codegeex train [^`]*--job slurm)`", DOCUMENT)
    shown = re.search(r"```bash\n(.*?)```", DOCUMENT[command.end() :], re.DOTALL)[1]
    arguments = parse(shlex.split(command[1])[1:])
    config = load_config(ROOT / arguments.config, arguments.overrides)
    assert job_file("slurm", config, ["--config", str(arguments.config)]) == shown


def commands(prefix: str) -> list[str]:
    """Commands in code blocks and in the text, more than a verb, with a number for the reader's own K."""
    blocks = re.findall(rf"^({re.escape(prefix)} [^\n]+)", DOCUMENT, re.MULTILINE)
    inline = re.findall(rf"`({re.escape(prefix)} [^`\n]+)`", DOCUMENT)
    lines = [line.split("  #")[0].replace(" K", " 0") for line in blocks + inline]
    return [line for line in lines if len(line.split()) > 2]


def test_commands_are_understood():
    lines = commands("ms-codegeex")
    assert len(lines) >= 9
    for line in lines:
        parse(shlex.split(line)[1:])


def test_scripts_are_called_with_flags_they_have():
    lines = commands("bash ascend_scripts/run_distributed.sh")
    assert len(lines) >= 4
    script = ["bash", ROOT / "ascend_scripts" / "run_distributed.sh", "--help"]
    usage = subprocess.run(script, capture_output=True, text=True).stdout
    for flag in re.findall(r"--[a-z-]+", " ".join(lines).replace(" --help", "")):
        assert f"  {flag} " in usage, flag


def test_the_first_examples_run_on_the_chip_that_the_page_is_for():
    """The configuration of its first run is for a 910B, which refuses one that names another chip."""
    names = re.findall(r"--config (\w+)", DOCUMENT.split("## One server")[0])
    assert len(set(names)) == 1 and len(names) >= 5
    assert driver_hardware(load_config(ROOT / f"configs/{names[0]}.yaml"), "Ascend910B1") == "ascend910b"


def test_the_first_page_is_the_ladder_in_few_words():
    page = DOCUMENT.split("## One server")[0]
    assert len(page.split()) <= 600
    for command in ("npu-smi info", "doctor --device ascend", "--first-contact", "--first-run", "--nodes 2"):
        assert command in page


def test_files_it_names_exist():
    for name in re.findall(r"(?:configs|ascend_scripts)/[\w./]+\w", DOCUMENT):
        assert (ROOT / name).exists(), name
