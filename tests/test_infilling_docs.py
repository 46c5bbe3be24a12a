"""docs/infilling.md: its commands run, and its table of sentinels is right."""

import json
import re
import shlex
import shutil
import textwrap

import pytest
from conftest import ROOT, command, command_here

from ms_codegeex.data.tokenizer import load_tokenizer

PAGE = (ROOT / "docs/infilling.md").read_text("utf-8")
SMALL = "model.hidden_size=16 model.num_layers=1 model.num_heads=2 model.intermediate_size=32"
QUICK = "devices=1 training.steps=2 training.global_batch=2 training.evaluate_samples=2 logging.plots=false"
ADDED = {  # to make a command short
    "prepare": "--workers 1 --filters none --validation-share 0.3",
    "train": f"{SMALL} {QUICK} checkpoint.export=false",
    "finetune": f"{QUICK} checkpoint.export=false",
    "evaluate": "--limit 2 --threads 1",
    "inspect": "",
}


def commands():
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


@pytest.mark.slow  # four runs
def test_every_command_works(tmp_path):
    for package in ("one", "two", "three"):
        (tmp_path / "src" / package).mkdir(parents=True)
        shutil.copy(textwrap.__file__, tmp_path / "src" / package / f"{package}.py")
        with (tmp_path / "src" / package / f"{package}.py").open("a") as stream:
            stream.write(f"\n# {package}\n")
    for words in commands():
        command(*words[1:], *shlex.split(ADDED[words[1]]), cwd=tmp_path, status=0)
    assert json.loads((tmp_path / "corpus/dataset.json").read_text())["infill"]["rate"] == 0.5
    for name in ("gaps", "gaps-tuned"):
        assert json.loads((tmp_path / name / "report.json").read_text())["infill"] == "trained"


def test_the_table_of_sentinels_is_right():
    rows = re.findall(r"^\| (`[^|]+`) \| (\d+), (\d+), (\d+)", PAGE, re.MULTILINE)
    assert len(rows) == 2
    for names, *ids in rows:
        for name in re.findall(r"`([^`]+)`", names):
            assert load_tokenizer(name).sentinels == tuple(map(int, ids))


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"# {n}\n", "completion": f"def f{n}(x):\n    return x + {n}\n"} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


PREPARE = ("prepare", "--task", "completion", "--seq-length", "64")


def test_prepare_records_what_was_asked_for(records, tmp_path):
    words = ("--infill-rate", "0.5", "--infill-mode", "psm", "--infill-level", "document")
    command_here(*PREPARE, "--input", records, "--output", tmp_path / "data", *words, status=0)
    described = json.loads((tmp_path / "data/dataset.json").read_text())
    expected = {"rate": 0.5, "mode": "psm", "level": "document", "sentinels": [50257, 50258, 50259]}
    assert described["infill"] == expected
    assert described["settings"]["infill"] == {**expected, "sentinels": None}
    shown = command_here("inspect", tmp_path / "data", "--sample", "0", "--json")
    runs = [run for part in json.loads(shown.stdout)["sample"]["documents"] for run in part["runs"]]
    marks = [run["sentinel"] for run in runs if "sentinel" in run]
    assert marks and marks == ["prefix", "suffix", "middle"] * (len(marks) // 3)
    assert "⟦<suffix>⟧" in command_here("inspect", tmp_path / "data", "--sample", "0").stdout
    command_here(*PREPARE, "--input", records, "--output", tmp_path / "plain", status=0)
    assert "infill" not in json.dumps(json.loads((tmp_path / "plain/dataset.json").read_text()))


@pytest.mark.parametrize(
    "words,message",
    [
        (("--infill-rate", "1.5"), "--infill-rate: 1.5 is out of range; give 0 to 1"),
        (("--infill-rate", "nan"), "--infill-rate: nan is out of range; give 0 to 1"),
        (("--infill-rate", "0.5", "--infill-sentinels", "50257", "262", "50259"), "uses for the text ' the'"),
    ],
)
def test_mistakes_are_one_line_each(records, tmp_path, words, message):
    done = command_here(*PREPARE, "--input", records, "--output", tmp_path / "data", *words, status=2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "data").exists()


def test_datasets_that_are_converted_take_no_rate(records, tmp_path):
    words = ("--input", records, "--to", "mindrecord", "--output", tmp_path / "data", "--infill-rate", "0.5")
    done = command_here("prepare", *words, status=2)
    assert "--infill-rate: only with datasets that are made from text" in done.stderr
