"""The same runs with two versions of MindSpore: do they give the same bits, and does one continue what the other began?

    bash ascend_scripts/setup.sh --venv .venv-2.10 --tests --mindspore 2.10
    python benchmarks/engines.py .venv/bin/python .venv-2.10/bin/python      # 60 steps of each recipe: 15 minutes

A model of 1 M parameters is trained on the same data set by each interpreter, for every recipe of `RECIPES`. Compared
are the losses and gradient norms of all steps and every tensor of the last checkpoint, the optimizer's too. Then the
second interpreter continues the first one's run from its middle, and its steps are compared with those of the first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import ROOT, options, print_command
from safetensors.numpy import load_file

TINY = ("--config", "codegeex_tiny", "checkpoint.export=false")
RECIPES = {
    "FP32, Muon": TINY,
    "FP32, AdamW": (*TINY, "training.optimizer.name=adamw"),
    "FP16, AdamW": (*TINY, "training.precision=fp16", "training.loss_chunk=0", "training.optimizer.name=adamw"),
    "BF16-rounded, AdamW": (*TINY, "training.precision=bf16", "training.loss_chunk=0", "training.optimizer.name=adamw"),
    "FP32, Muon, two workers": (*TINY, "--devices", "2"),
    "FP32, AdamW, LoRA": (*TINY, "model.weights={weights}", "training.optimizer.name=adamw", "lora.rank=4"),
}


def run(python: str, *words: str) -> None:
    """Run `ms-codegeex WORDS` with an interpreter; its errors are shown."""
    code = "import sys; from ms_codegeex.cli import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([python, "-c", code, *words], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)


def steps_of(folder: Path, key: str) -> list[float]:
    """A value of each step of a run's log."""
    return [json.loads(line)[key] for line in (folder / "log.jsonl").read_text().splitlines()]


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a run's last checkpoint, of every worker."""
    last = max((folder / "checkpoints").glob("step-*"))
    files = sorted(last.glob("rank_*.safetensors"))
    return {f"{file.stem}: {name}": value for file in files for name, value in load_file(file).items()}


def difference(first: list[float], second: list[float]) -> str:
    """`equal`, or the largest relative difference and where it is."""
    a, b = np.array(first), np.array(second)
    if a.shape != b.shape:
        return f"{len(a)} and {len(b)} steps"
    if np.array_equal(a, b):
        return "equal"
    relative = np.abs(a - b) / np.maximum(np.abs(a), np.finfo(np.float32).tiny)
    return f"{relative.max():.1e} at step {relative.argmax() + 1}, first at {np.flatnonzero(a != b)[0] + 1}"


def weights_difference(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> str:
    """`N equal`, or how many tensors differ and by how much at most."""
    if first.keys() != second.keys():
        return f"other tensors: {', '.join(sorted(first.keys() ^ second.keys())[:3])}"
    other = [name for name in first if first[name].tobytes() != second[name].tobytes()]
    if not other:
        return f"{len(first)} equal"
    most = max(float(np.abs(first[name].astype(np.float64) - second[name]).max()) for name in other)
    return f"{len(other)} of {len(first)} differ, by {most:.1e} at most"


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("pythons", nargs=2, metavar="PYTHON", help="the interpreters of two environments")
    parser.add_argument("--steps", type=int, default=60, help="of each run, an even number (default: 60)")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES, metavar="NAME")
    parser.add_argument("--output", type=Path, help="folder for the runs (default: a temporary one)")
    args = parser.parse_args()
    print_command()
    for python in args.pythons:
        code = "import mindspore, numpy, sys; print(sys.version.split()[0], mindspore.__version__, numpy.__version__)"
        found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        print("Python {}, mindspore {}, numpy {}".format(*found[-3:]), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        compare(args, (args.output or Path(temporary)).resolve())


def compare(args: argparse.Namespace, root: Path) -> None:
    """Run every recipe with both interpreters, and print a row for each."""
    first, second = args.pythons
    tokenizer, corpus, weights = (str(root / name) for name in ("tokenizer", "corpus", "weights"))
    family = ("--family", "codegeex", "--vocab-size", "1024")
    run(first, "tokenizer", "train", "--input", "ms_codegeex", *family, "--output", tokenizer)
    run(first, "prepare", "--input", "ms_codegeex", "--tokenizer", tokenizer, "--output", corpus)
    usual = (f"data.train={corpus}", f"training.steps={args.steps}", f"checkpoint.every={args.steps // 2}")
    usual += (f"training.evaluate_every={args.steps}", "training.schedule.warmup_steps=2")
    if any("{weights}" in word for name in args.recipes for word in RECIPES[name]):
        run(first, "train", "--config", "codegeex_tiny", *usual, f"output={weights}")
    print("\n| recipe | losses | gradient norms | tensors of the checkpoint | continued by the second |")
    print("|---|---|---|---|---|", flush=True)
    for place, name in enumerate(args.recipes):
        folders = [root / f"{place}-{which}" for which in ("first", "second", "continued")]
        words = ("train", *(word.format(weights=weights) for word in RECIPES[name]), *usual)
        run(first, *words, f"output={folders[0]}")
        run(second, *words, f"output={folders[1]}")
        middle = folders[0] / "checkpoints" / f"step-{args.steps // 2:08d}"
        run(second, *words, f"output={folders[2]}", "--resume", str(middle))
        cells = [difference(*(steps_of(f, key) for f in folders[:2])) for key in ("loss", "gradient_norm")]
        cells.append(weights_difference(*(tensors_of(f) for f in folders[:2])))
        later = difference(steps_of(folders[0], "loss")[args.steps // 2 :], steps_of(folders[2], "loss"))
        cells.append(f"losses {later}, tensors {weights_difference(*(tensors_of(f) for f in folders[::2]))}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
