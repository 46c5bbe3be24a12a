"""The commands below "Training recipes" in docs/finetune.md, on small models and the little text that a test has."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, command, command_here

PAGE = (ROOT / "docs" / "finetune.md").read_text("utf-8").partition("\n## Training recipes\n")[2]
LINES = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
SMALL = shlex.split("""
    devices=1 device=cpu training.steps=2 training.global_batch=2 training.micro_batch=null training.precision=fp32
    training.evaluate_samples=4 training.recompute=none data.seq_length=32 model.hidden_size=16 model.num_layers=1
    model.num_heads=4 model.intermediate_size=32 model.rotary_dim=4 parallel.hardware=null checkpoint.export=false
""")


@pytest.mark.parametrize("line", [line for line in LINES if re.search(" plan | --job | --dry-run", line)])
def test_commands_that_train_nothing(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command_here(*shlex.split(line)[1:], status=0)
    assert not list(tmp_path.iterdir())


def test_every_line_is_run_by_a_test():
    known = re.compile("^ms-codegeex (plan|prepare|train) ")
    assert len(LINES) > 8 and all(known.search(line) for line in LINES)


@pytest.fixture
def home(tmp_path):
    """A directory with sources of Python and C++, and text, by the names that the page uses."""
    library = Path(shlex.__file__).parent
    for name, packages in (
        ("BIGPYTHON", ("json", "email")),
        ("BIGQUERY", ("logging", "html", "xml/etree", "http")),
        ("src", ("json", "concurrent/futures", "importlib")),
    ):
        for package in packages:  # each file becomes a package, so that 5 % of them can be left for validation
            for path in sorted((library / package).glob("*.py")):
                (tmp_path / name / f"{path.parent.name}_{path.stem}").mkdir(parents=True)
                shutil.copy(path, tmp_path / name / f"{path.parent.name}_{path.stem}")
    (tmp_path / "PILE").mkdir()
    for page in sorted((ROOT / "docs").glob("*.md"))[:8]:
        shutil.copy(page, tmp_path / "PILE" / page.with_suffix(".txt").name)
    return tmp_path


def run(line, home, *further):
    words = [str(home / "src") if word == "~/src" else word for word in shlex.split(line)[1:]]
    return command(*words, *further, cwd=home, status=0)


@pytest.mark.slow  # four runs with workers
def test_from_nl_to_mono_and_on(home):
    prepared = [line for line in LINES if " prepare " in line]
    for line in prepared[:3]:
        run(line, home)
    stages = [line for line in LINES if " train " in line and not re.search("--job|--dry-run|MODEL", line)]
    losses = ("data.held_out={English: data/pile, six languages: data/bigquery, Python: data/bigpython}",)
    for line in stages:
        result = run(line, home, *SMALL, *losses)
        assert ("starting from the weights of " in result.stderr) == (" --from " in line)
    assert [line.split()[3] for line in stages] == [f"codegen_350m_{stage}" for stage in ("nl", "multi", "mono")]
    assert "nothing left to train" in run(stages[1], home, *SMALL, *losses).stderr  # the same command continues
    model = home / "runs" / "codegen_350m_mono"
    (prepare,) = prepared[3:]
    run(prepare.replace("MODEL", str(model / "tokenizer") if (model / "tokenizer").is_dir() else "codegen-mono"), home)
    (further,) = [line for line in LINES if "--from MODEL" in line]
    result = run(further.replace("MODEL", str(model)), home, *SMALL, "output=further")
    assert "starting from the weights of " in result.stderr
