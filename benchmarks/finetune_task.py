"""A small real task on the standard library: from a function's signature and docstring to its body.

    python benchmarks/finetune_task.py                   # about 5 minutes on 2 cores, into runs/docstrings
    python benchmarks/finetune_task.py --output DIR --base-steps 200 --steps 40

Files of the library are either for the base model, a CodeGeeX2 with its own tokenizer that reads them as plain text, or
for the task. In the task's files, `ast` finds the functions with a docstring: the text before the body is the prompt. A
LoRA fine-tune of the base and a model of the same sizes from random weights take the same steps on the same pairs. The
verdict is their loss on held-out pairs, and the base's.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from common import ROOT, print_command, versions

SIZES = {
    "hidden_size": 192,
    "num_layers": 4,
    "num_heads": 6,
    "num_kv_groups": 2,
    "rotary_dim": 16,
    "intermediate_size": 384,
    "max_position_embeddings": 256,
}
VOCABULARY, SEQUENCE = 4096, 256
LEFT_OUT = ("test", "idlelib", "site-packages", "turtledemo", "encodings", "pydoc_data", "lib2to3")
MARGINS = {"base": 0.15, "scratch": 0.4}  # nats per token by which LoRA must be better


def files() -> list[Path]:
    """The library's sources without tests and tables."""
    root = Path(sysconfig.get_path("stdlib"))
    found = [path for path in sorted(root.rglob("*.py")) if not {*path.relative_to(root).parts} & {*LEFT_OUT}]
    return [path for path in found if "test" not in path.name and path.stat().st_size < 200_000]


def for_the_task(path: Path) -> bool:
    """Whether the file's functions are pairs; the base model reads the others."""
    return zlib.crc32(path.name.encode()) % 3 == 0


def pairs(path: Path) -> Iterator[dict[str, str]]:
    """Signature and docstring of each short function of a file, and its body."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (UnicodeDecodeError, SyntaxError):
        return
    lines = text.splitlines(keepends=True)
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or ast.get_docstring(node) is None or len(node.body) < 2:
            continue
        middle = node.body[0].end_lineno
        prompt, body = "".join(lines[node.lineno - 1 : middle]), "".join(lines[middle : node.end_lineno])
        if len(body) >= 20 and len(prompt) + len(body) <= 900:
            yield {"prompt": prompt, "completion": body}


def command(*words: object) -> str:
    """Run `ms-codegeex`; returns what it printed."""
    line = [sys.executable, "-m", "ms_codegeex.cli", *map(str, words)]
    print("$ ms-codegeex " + " ".join(map(str, words)), flush=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOG_v": "3"}
    result = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    if result.returncode:
        sys.exit(result.stderr[-3000:])
    return result.stdout


def prepare(output: Path) -> int:
    """The base model's text, the task's pairs and the tokenizer; returns the number of pairs."""
    (output / "text").mkdir()
    found = []
    for number, path in enumerate(files()):
        if for_the_task(path):
            found += pairs(path)
        else:
            shutil.copy(path, output / "text" / f"{number}_{path.name}")
    (output / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in found), encoding="utf-8")
    tokenizer = ("--vocab-size", VOCABULARY, "--output", output / "tokenizer", "--max-bytes", 4_000_000)
    command("tokenizer", "train", "--input", output / "text", *tokenizer)
    words = ("--tokenizer", output / "tokenizer")
    command("prepare", "--input", output / "text", "--output", output / "corpus", *words)
    task = ("--task", "completion", "--validation-share", 0.15, "--overlong", "drop", "--seq-length", SEQUENCE)
    command("prepare", "--input", output / "pairs.jsonl", "--output", output / "tuning", *task, *words)
    return len(found)


def shared(rate: float, steps: int) -> list[str]:
    """Settings of every run."""
    schedule = {"learning_rate": rate, "end_learning_rate": rate / 10, "warmup_steps": 10, "decay_steps": steps}
    return [
        "devices=1",
        "training.dropout=0",
        f"training.steps={steps}",
        "training.global_batch=8",
        "training.evaluate_samples=128",
        "training.optimizer.bias_correction=true",
        "training.patience=0",
        "checkpoint.export=false",
        "checkpoint.resume=null",
        "logging.tensorboard=false",
        "logging.plots=false",
        *(f"training.schedule.{key}={value}" for key, value in schedule.items()),
    ]


def summary(run: Path) -> dict[str, float]:
    """The records of a run."""
    return json.loads((run / "summary.json").read_text(encoding="utf-8"))


def main() -> None:
    """Parse arguments, train the three models, print the verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "docstrings")
    parser.add_argument("--base-steps", type=int, default=400)
    parser.add_argument("--steps", type=int, default=80)
    arguments = parser.parse_args()
    output, began = arguments.output.absolute(), time.monotonic()
    output.mkdir(parents=True)
    print_command()
    print(versions("mindspore", "numpy"))
    count = prepare(output)
    described = json.loads((output / "corpus" / "dataset.json").read_text(encoding="utf-8"))
    tokens = {"vocab_size": described["vocab_size"], "eos_token_id": described["eos_id"]}
    model = {"family": "codegeex2", "preset": "tiny", **tokens, **SIZES}
    sizes = [f"model.{key}={value}" for key, value in model.items()]
    config = ("--config", "codegeex2_tiny", *sizes)
    base = shared(2e-3, arguments.base_steps)
    command("train", *config, f"output={output / 'base'}", f"data.train={output / 'corpus'}", *base)
    tuning = (f"data.train={output / 'tuning'}", *shared(2e-3, arguments.steps))
    command("train", *config, f"output={output / 'scratch'}", *tuning)
    words = ("--config", "finetune_lora", "--model", output / "base", "--data", output / "tuning")
    command("finetune", *words, f"output={output / 'lora'}", "lora.rank=16", *shared(4e-3, arguments.steps))
    lora, scratch = summary(output / "lora"), summary(output / "scratch")
    found = {"base": lora["validation_loss_before"], "scratch": scratch["validation_loss"]}
    print(f"\n{count} pairs, {lora['parameters']:,} parameters, {time.monotonic() - began:.0f} s in all")
    print(f"  LoRA     {lora['validation_loss']:.3f} nats per token on held-out pairs")
    for name, loss in found.items():
        gain = loss - lora["validation_loss"]
        print(f"  {name:<8} {loss:.3f}: LoRA is better by {gain:.3f} (asked: {MARGINS[name]})")
    if any(loss - lora["validation_loss"] < MARGINS[name] for name, loss in found.items()):
        sys.exit("LoRA is not better by the margins")


if __name__ == "__main__":
    main()
