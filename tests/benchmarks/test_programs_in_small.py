"""Benchmarks whose program, given little to do, is the test: it ends with 0, prints its figures, leaves no file."""

import importlib
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest
from conftest import ROOT

NUMBER = r"-?[\d.]+(e[+-]\d+)?"
ONCE = ("--rounds", "1")
ALONE = ("--threads", "1")  # several threads of each side wait for those of other tests, for minutes
SERVED = (*ONCE, "--tiny", "--new", "8", "--models", "FOLDER")


@dataclass(frozen=True)
class Run:
    """`words` after the program's name, where FOLDER is an empty folder and MODEL a tiny model in it; `printed`: a
    pattern, and how many times its output has it; `needs`: a package; `leaves` files."""

    words: tuple[str, ...]
    printed: dict[str, int]
    needs: str = "mindspore"
    leaves: bool = False


IN_FOLDER = ("--quick", "--directory", "FOLDER")
QUICK = {
    "convert.py": Run(
        (*IN_FOLDER, "--only", "hf-mindspore"),
        {r"convert / read and write [\d.]+ .*at most 1\.5": 1, r"peak memory -?\d+ MB, at most \d+ MB": 1},
    ),
    "gguf_files.py": Run(
        (*IN_FOLDER, "--types", "q8_0", "--sources", "float16"),
        {r"convert / cp +[\d.]+ .*\n  convert / in\+out +[\d.]+ ": 1, r"\nfloat16 -> q8_0( +[\d.]+){4}\n": 1},
    ),
}
SLOW = {
    "checkpoint.py": Run(
        IN_FOLDER,
        {
            rf"(?m)^(a step waits / memory|(save|load) / sequential (write|read)|mindspore save).*: {NUMBER} \(": 4,
            rf"(?m)^share of verification in loading: {NUMBER} \(": 1,
        },
    ),
    "finetune.py": Run(
        (*ONCE, "--hidden", "256", "--layers", "1", "--vocabulary", "512", "--batch", "2", "--seq", "32", *ALONE),
        {"our LoRA / PEFT: ": 1, "our LoRA / our full training: ": 1},
        needs="peft",
    ),
    "loader.py": Run(
        IN_FOLDER,
        {
            rf"  (repeated|huge) +1,000,000,000 samples: {NUMBER} .* s, {NUMBER} .* MB": 2,
            rf"  peer +1,000,000 samples: {NUMBER} .* s, {NUMBER} .* MB": 1,
            r"data\.workers=1: [\d.]+ % of the time": 1,
        },
    ),
    "prepare.py": Run(
        IN_FOLDER,
        {
            r"prepare / peer [\d.]+ .*at least 5": 1,
            r"prepare / slowest stage \(\w+\) [\d.]+ .*at least 0\.6": 1,
            r"CPU time of prepare / of encoding alone [\d.]+ .*at most 1\.5": 1,
        },
    ),
    "prepare_scale.py": Run(IN_FOLDER, {r"0\.002 +\d+ +pool +[\d.]+ +[\d.]+ +\d+ +\d+\n": 1}),
    "serve.py": Run(
        (*SERVED, "--clients", "1", "4", "--slots", "4"),
        {
            "tokens/s over the bare engine": 2,
            "1 that leave and 1 slow ones": 1,
            r"no peer: not asked for \(--peer\)\n": 1,
        },
        leaves=True,
    ),
    "serve.py --peer": Run(
        (*SERVED, "--clients", "2", "--slots", "2", "--peer"),
        {
            r"no peer: (torch|transformers|accelerate).* not installed\n|"
            r"tokens/s over transformers serve: [\d.]+ \((?s:.*); 6 of 6 answers are equal": 1
        },
        leaves=True,
    ),
    "stalls.py": Run(
        ("--model", "MODEL", "--rows", "4", "64", "--streams", "2", "--prompt", "40", *ONCE),
        {
            "2 answers, a prompt of 40 tokens; alone: first token ": 1,
            r"(?m)^ *(4|64) rows: step [\d.]+ .* stall [\d.]+ .* first token [\d.e-]+ ": 2,
        },
        leaves=True,
    ),
}


@pytest.mark.parametrize(
    ("name", "run"), [*QUICK.items(), *(pytest.param(*item, marks=pytest.mark.slow) for item in SLOW.items())]
)
def test_it_prints_its_figures(name, run, tmp_path, monkeypatch):
    pytest.importorskip(run.needs)
    places = {"FOLDER": str(tmp_path)}
    if "MODEL" in run.words:
        monkeypatch.syspath_prepend(ROOT / "benchmarks")
        places["MODEL"] = str(importlib.import_module("decode").make_models(tmp_path, True, []))
    command = [sys.executable, f"benchmarks/{name.split()[0]}", *(places.get(word, word) for word in run.words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {pattern: len([*re.finditer(pattern, done.stdout)]) for pattern in run.printed}
    assert found == run.printed, done.stdout
    assert run.leaves or not list(tmp_path.iterdir())
