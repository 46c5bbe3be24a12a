"""CodeGen's stages in miniature on the text and code of this machine: what does each stage bring, in each language?

    python benchmarks/stages.py                        # about 5 minutes on 2 cores; everything goes to runs/miniature
    python benchmarks/stages.py --output DIR --seeds 1 2 3 --input ~/src training.steps=400

The English text is what the machine has: docstrings of Python's library, licences, descriptions of packages, manuals.
C++, JavaScript, Go and Python are sources of the machine, all languages with at least 50 kB, and at most 3 MB of each.
Documents of a folder are either trained on or held out. `configs/codegen_miniature.yaml` is trained from English to
all languages to Python, once for each seed, each on one core. The verdict: how much lower the loss on held-out Python
is after the last stage than after the one before it, and than after as many steps from scratch, against the spread of
the seeds.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gzip
import json
import os
import random
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from common import ROOT, print_command, versions

LANGUAGES = {"C++": (".h", ".hpp", ".cc", ".cpp"), "JavaScript": (".js", ".mjs"), "Go": (".go",), "Python": (".py",)}
PROSE = (".txt", ".md", ".rst")
NAMES = ("LICENSE", "LICENCE", "METADATA", "copyright", "README")  # what files of prose begin with
MAXIMUM, MINIMUM, LARGEST = 3_000_000, 50_000, 100_000  # bytes of a language, of a language to be used, of a file
VOCABULARY = 2000
ROFF = re.compile(r"^\.[^\n]*\n?|\\f[BIRP]|\\[-&]", re.MULTILINE)


def roots(extra: Sequence[Path]) -> list[Path]:
    """Where to look: Python's library and packages, the system's sources and documents, and `extra`."""
    paths = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "include")]
    system = ("/usr/share/doc", "/usr/share/man/man1", "/usr/include", "/usr/lib/node_modules", "/usr/lib/go")
    found = [path for path in (*extra, *paths, *map(Path, system)) if path.is_dir()]
    return [path for path in dict.fromkeys(found) if not any(p != path and p in path.parents for p in found)]


def files(root: Path) -> list[Path]:
    """Files below a root that may hold text, in a fixed pseudo-random order."""
    wanted = (*PROSE, ".gz", *(ending for endings in LANGUAGES.values() for ending in endings))
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [] if folder != str(root) and Path(folder).name == "site-packages" else sorted(folders)
        found += [Path(folder, name) for name in sorted(names) if name.endswith(wanted) or name.startswith(NAMES)]
    random.Random(0).shuffle(found)
    return found


def prose(path: Path, root: Path) -> str:
    """The English text in a file, empty if it holds none."""
    try:
        if path.suffix == ".gz" and "man" in root.parts:
            with gzip.open(path, "rt", encoding="utf-8") as stream:
                return ROFF.sub("", stream.read())
        if path.suffix == ".py" and root == Path(sysconfig.get_path("stdlib")):
            kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            nodes = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kinds))
            return "\n\n".join(filter(None, map(ast.get_docstring, nodes)))
        if path.suffix in PROSE or path.name.startswith(NAMES):
            return path.read_text(encoding="utf-8")
    except (OSError, EOFError, UnicodeDecodeError, SyntaxError, ValueError):
        pass
    return ""


def collect(directory: Path, extra: Sequence[Path]) -> list[str]:
    """Write NAME.jsonl for English and each language of which there is enough; returns the languages."""
    taken: dict[str, list[dict[str, str]]] = {name: [] for name in ("English", *LANGUAGES)}
    sizes = dict.fromkeys(taken, 0)

    def add(name: str, text: str, path: Path) -> None:
        if not 200 <= len(text) <= LARGEST:
            return
        record = {"text": text, "group": str(path.parent)}
        taken[name].append(record if name == "English" else {**record, "language": name})
        sizes[name] += len(text)

    for root in roots(extra):
        maximum = {name: min(MAXIMUM, size + MAXIMUM // 2) for name, size in sizes.items()}  # half of it from one root
        for path in files(root):
            if sizes["English"] < maximum["English"]:
                add("English", prose(path, root), path)
            name = next((name for name, endings in LANGUAGES.items() if path.suffix in endings), None)
            if name and sizes[name] < maximum[name]:
                with contextlib.suppress(OSError):  # a broken link
                    add(name, path.read_text(encoding="utf-8", errors="ignore"), path)
    for name, records in taken.items():
        if sizes[name] < MINIMUM:
            print(f"{name}: {sizes[name]:,} characters on this machine are too few, so it is left out")
            continue
        with (directory / f"{name}.jsonl").open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(record) + "\n" for record in records)
        print(f"{name}: {sizes[name]:,} characters in {len(records):,} documents")
    return [name for name in LANGUAGES if sizes[name] >= MINIMUM]


def command(*words: object) -> None:
    """Run a verb; ends this program if it fails."""
    line = [sys.executable, "-m", "ms_codegeex.cli", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # the seeds are trained side by side
    done = subprocess.run(line, cwd=ROOT, text=True, capture_output=True, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(line[2:])}\n{done.stdout}{done.stderr}")


def prepare(work: Path, extra: Sequence[Path]) -> list[str]:
    """Datasets of all languages with one tokenizer; returns the languages."""
    work.mkdir(parents=True)
    languages = collect(work, extra)
    texts = [work / f"{name}.jsonl" for name in ("English", *languages)]
    tokenizer = work / "tokenizer"
    command("tokenizer", "train", "--input", *texts, "--output", tokenizer, "--vocab-size", VOCABULARY)
    for text in texts:
        words = ["--all-text"] if text.stem == "English" else []
        group = ["--group-field", "group", "--validation-share", 0.15, "--filters", "none"]
        command("prepare", "--input", text, "--output", work / text.stem, "--tokenizer", tokenizer, *group, *words)
    return languages


def train(work: Path, languages: Sequence[str], seed: int, overrides: Sequence[str]) -> dict[str, dict[str, float]]:
    """All stages with one seed; returns the held-out losses of each stage by language."""
    output = work / f"seed-{seed}"
    held_out = {name: str(work / name) for name in ("English", *languages)}
    data = {
        "data.held_out": held_out,
        "stages.nl.data.train": str(work / "English"),
        "stages.multi.data.blend": {str(work / name): 1 for name in languages},
        "stages.mono.data.train": str(work / "Python"),
        "stages.scratch.data.train": str(work / "Python"),
    }
    words = [f"output={output}", f"seed={seed}", "devices=1", *(f"{key}={json.dumps(data[key])}" for key in data)]
    command("train", "--config", "codegen_miniature", *words, *overrides)
    print(f"seed {seed}\n\n{(output / 'stages.txt').read_text()}")
    stages = json.loads((output / "stages.json").read_text())["stages"]
    return {stage["name"]: stage["held_out"] for stage in stages}


def main() -> None:
    """Prepare, train with every seed, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/miniature"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--input", type=Path, nargs="+", default=[], help="further folders with sources and text")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of configs/codegen_miniature.yaml")
    arguments, rest = parser.parse_known_args()
    print_command()
    print(versions("mindspore"))
    work, began = arguments.output.absolute(), time.monotonic()
    languages = prepare(work / "data", arguments.input)
    print(f"prepared in {time.monotonic() - began:.0f} s\n")
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        train_seed = partial(train, work / "data", languages, overrides=[*arguments.overrides, *rest])
        runs = list(threads.map(train_seed, arguments.seeds))
    losses = {stage: [run[stage]["Python"] for run in runs] for stage in ("multi", "mono", "scratch")}
    spread = max(max(values) - min(values) for values in losses.values())
    gain, head_start = (min(losses[stage]) - max(losses["mono"]) for stage in ("multi", "scratch"))
    result = {"languages": languages, "python": losses, "gain": gain, "spread": spread, "stages": runs}
    result["head_start"] = head_start
    result["seconds"] = time.monotonic() - began
    (work / "result.json").write_text(json.dumps(result, indent=1))
    print(
        f"Python, held out: {min(losses['multi']):.3f} after multi at best, {max(losses['mono']):.3f} after mono at "
        f"worst, {gain:.3f} nats per token lower, and {head_start:.3f} lower than from scratch; the seeds spread by "
        f"{spread:.3f}; {result['seconds']:.0f} s in all"
    )


if __name__ == "__main__":
    main()
