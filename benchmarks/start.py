"""Cold start to the first token, and the memory that it takes, beside llama.cpp and transformers.

    python benchmarks/start.py                                    # CodeGen-350M's sizes, 8 and 4 bits, 7 rounds
    python benchmarks/start.py --llama-python VENV/bin/python     # and llama.cpp: VENV has `pip install xllamacpp`
    python benchmarks/start.py --before CHECKOUT                  # and another checkout of this package
    python benchmarks/start.py --dropped                          # the model's files are not in memory at first
    python benchmarks/start.py --size 2b --bits 4                 # CodeGen-2B's sizes: 17 GB of disk
    python benchmarks/start.py --tiny --rounds 1                  # to check that it works

Each round starts every side once, in turn. `generate`: a process that loads the model, computes one greedy token and
ends: seconds, CPU seconds, largest resident memory. `serve`: a server with one slot: seconds and CPU seconds until
`/ready` (llama.cpp: `/health`), seconds from then to the first streamed token, and the PSS of its processes, in which a
page that two use counts once. Nothing else may map the weights meanwhile. All have the same random weights: llama.cpp
our GGUF with Q8_0 and Q4_0, transformers FP32. The first start of ours packs the weights, and has a line of its own.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from common import ROOT, cpu_of_children, options, print_header, spread

PROMPT, LIMIT_SECONDS = "def add(a, b):", 600
TRANSFORMERS = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = (each.from_pretrained(sys.argv[1]) for each in (AutoModelForCausalLM, AutoTokenizer))
ids = tokenizer(sys.argv[2], return_tensors="pt")
with torch.no_grad():
    print(tokenizer.decode(model.generate(**ids, max_new_tokens=1, do_sample=False)[0]), flush=True)
"""
LLAMA = """
import json, os, sys, urllib.request, xllamacpp
values = xllamacpp.CommonParams()
values.model.path, values.hostnames, values.port = sys.argv[1], ["127.0.0.1"], 0
values.n_ctx, values.n_parallel = 2048, 1
values.cpuparams.n_threads = values.cpuparams_batch.n_threads = int(sys.argv[3])
server = xllamacpp.Server(values)
if sys.argv[2]:
    body = json.dumps({"prompt": sys.argv[2], "n_predict": 1, "temperature": 0}).encode()
    print(urllib.request.urlopen(server.listening_address + "/completion", body).read()[:60], flush=True)
    os._exit(0)
print(server.listening_address, flush=True)
sys.stdin.read()
os._exit(0)
"""


@dataclass(frozen=True)
class Side:
    """A program with a model whose weights are `weights`: how it generates, and how it serves, if it does."""

    name: str
    weights: Path
    generate: Sequence[str]
    serve: Sequence[str] = ()
    checkout: Path = ROOT

    def start(self, words: Sequence[str], **pipes: int) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.checkout)}
        return subprocess.Popen(words, env=environment, cwd=tempfile.gettempdir(), text=True, **pipes)

    def generated(self) -> dict[str, float]:
        """One process from its start to its end."""
        begin, before = time.perf_counter(), cpu_of_children()
        process = self.start(self.generate, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds, cpu = time.perf_counter() - begin, cpu_of_children() - before
        if process.returncode or not text.strip():
            raise SystemExit(f"{self.name} did not generate; try it: {' '.join(self.generate)}")
        return {"s": seconds, "CPU s": cpu, **self.memory(usage.ru_maxrss * 1024)}

    def served(self) -> dict[str, float]:
        """A server from its start to its first streamed token."""
        begin = time.perf_counter()
        process = self.start(self.serve, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            address = next((line for line in process.stdout if "http://" in line), "").strip().rstrip("/")
            address = address[address.index("http://") :]
            while not any(map(answers, (f"{address}/ready", f"{address}/health"))):
                time.sleep(0.01)
            ready = time.perf_counter() - begin
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            cpu = sum(sum(each.cpu_times()[:2]) for each in family)
            body = json.dumps({"prompt": PROMPT, "max_tokens": 4, "temperature": 0, "stream": True}).encode()
            request = urllib.request.Request(f"{address}/v1/completions", body, {"Content-Type": "application/json"})
            asked = time.perf_counter()
            with urllib.request.urlopen(request, timeout=LIMIT_SECONDS) as response:
                next(line for line in response if line.startswith(b"data: {"))
            first = time.perf_counter() - asked
            memory = self.memory(sum(each.memory_full_info().pss for each in family))
            return {"s": ready, "CPU s": cpu, "token s": first, **memory}
        finally:
            process.stdin.close()
            process.terminate()
            process.wait(60)

    def memory(self, resident: int) -> dict[str, float]:
        """In MB: all, and beyond the weights."""
        return {"MB": resident / 1e6, "MB beyond": (resident - self.weights.stat().st_size) / 1e6}

    def drop(self) -> None:
        """Let the system forget what it holds of the weights' folder, as far as it does."""
        for file in self.weights.parent.iterdir():
            with open(file, "rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def answers(url: str) -> bool:
    """Whether it answers with status 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def ours(name: str, model: Path, how: Sequence[str], checkout: Path = ROOT) -> Side:
    """This package, or another checkout of it."""
    (weights,) = model.glob("*.safetensors")
    program = [sys.executable, "-m", "ms_codegeex.cli"]
    how = ["--model", str(model), *how]
    words = [*program, "generate", *how, "--prompt", PROMPT, "--greedy", "--max-new-tokens", "1"]
    return Side(name, weights, words, [*program, "serve", *how, "--port", "0", "--max-concurrency", "1"], checkout)


def measure(sides: Sequence[Side], what: str, rounds: int, dropped: bool) -> None:
    """Start all sides in turn, and print what each took."""
    found: dict[str, list[dict[str, float]]] = {side.name: [] for side in sides}
    for number in range(rounds):
        for side in sides[:: 1 if number % 2 else -1]:
            if dropped:
                side.drop()
            found[side.name].append(getattr(side, what)())
    first = sides[0].name
    for name, values in found.items():
        figures = [f"{key} {spread([each[key] for each in values])}" for key in values[0]]
        ratio = statistics.median(a["s"] / b["s"] for a, b in zip(found[first], values, strict=True))
        print(f"  {what:9} {name:22} {'; '.join(figures)}; {first} over it: {ratio:.3g}", flush=True)


def main() -> None:
    parser = options(__doc__, rounds=7, threads=True, models=True)
    parser.add_argument("--tiny", action="store_true", help="a tiny model, without llama.cpp")
    parser.add_argument(
        "--size", choices=("350m", "2b", "0.5b"), default="350m", help="sizes of CodeGen, or of Qwen2.5-Coder"
    )
    parser.add_argument("--bits", type=int, nargs="+", choices=(8, 4), default=(8, 4))
    parser.add_argument("--llama-python", type=Path, help="a Python with xllamacpp")
    parser.add_argument("--before", type=Path, help="another checkout of this package")
    parser.add_argument("--transformers", action="store_true", help="and transformers, with FP32 weights")
    parser.add_argument("--only", choices=("generate", "serve"), help="measure one of them")
    parser.add_argument("--dropped", action="store_true", help="without the weights in the system's memory at first")
    parser.add_argument("--cpu-level", default="auto", help="instructions of our operators, as of `generate`")
    arguments = parser.parse_args()
    from decode import make_models

    print_header("mindspore", "transformers")
    peer = arguments.llama_python is not None and not arguments.tiny
    names = {bits: [f"ours-{bits}", *[f"llama_cpp-q{bits}_0"] * peer] for bits in arguments.bits}
    forms = [name for each in names.values() for name in each]
    directory = make_models(arguments.models, arguments.tiny, forms, arguments.size)
    how = ["--threads", str(arguments.threads), "--cpu-level", arguments.cpu_level]
    for bits in arguments.bits:
        model = directory.with_name(f"{directory.name}-ours-{bits}")
        sides = [ours(f"ours-{bits}", model, how)]
        if arguments.before:
            sides.append(ours(f"ours-{bits} before", model, how, arguments.before.absolute()))
        if peer:
            (file,) = directory.with_name(f"{directory.name}-llama_cpp-q{bits}_0").glob("*.gguf")
            words = [str(arguments.llama_python), "-c", LLAMA, str(file)]
            threads = str(arguments.threads)
            sides.append(Side(f"llama.cpp q{bits}_0", file, [*words, PROMPT, threads], [*words, "", threads]))
        first = sides[0].generated()
        print(f"  first start of {sides[0].name}: {first['s']:.3g} s, {first['MB']:.0f} MB", flush=True)
        if arguments.only != "serve":
            both = list(sides)
            if arguments.transformers:
                (weights,) = directory.glob("*.safetensors")
                words = [sys.executable, "-c", TRANSFORMERS, str(directory), PROMPT]
                both.append(Side("transformers FP32", weights, words))
            measure(both, "generated", arguments.rounds, arguments.dropped)
        if arguments.only != "generate":
            measure(sides, "served", arguments.rounds, arguments.dropped)


if __name__ == "__main__":
    main()
