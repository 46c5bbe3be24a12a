"""Time and memory of `convert --to gguf` on a synthetic CodeGeeX2 with a table of 65,024 rows, against a copy.

    python benchmarks/gguf_files.py --directory /dev/shm      # 5 rounds of every type, from FP16 and from FP32; no disk
    python benchmarks/gguf_files.py --quick                   # a small model and one round, to see that it works

Two peers take turns with the conversion: `cp`, which reads the source and writes as many bytes, and `in+out`, which
reads the source and writes as many bytes as the conversion. All sync what they write, which costs nothing in /dev/shm;
sources are in the page cache. Before each, a copy is written and removed, as in convert.py. CPU seconds are those of
all threads. Memory is the growth of the peak RSS, with pages of mapped files, of a process that had imported
everything; it is given over the largest tensor as the source stores it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import options, print_header, spread, status_bytes
from convert import BLOCK, copy, files_of, random_tensors, seconds
from tokenizer_files import write_chatglm

from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.sources import Source, open_source
from ms_codegeex.models.registry import family

TYPES, SOURCES = ("f32", "f16", "bf16", "q8_0", "q4_0"), ("float16", "float32")
FULL = {"vocab_size": 65024, "hidden_size": 1024, "num_layers": 8, "num_heads": 8, "num_kv_groups": 2}
FULL |= {"intermediate_size": 3072, "rotary_dim": 64, "max_position_embeddings": 2048, "norm_eps": 1e-5}
QUICK = {**FULL, "vocab_size": 2048, "hidden_size": 128, "num_layers": 2, "intermediate_size": 256, "rotary_dim": 8}
TIME_BOUND, MEMORY_BOUND = 1.5, 1.0


def model(directory: Path, sizes: dict[str, object], dtype: str) -> Path:
    """A model directory with normal random numbers; its weights carry checksums."""
    found = family("codegeex2")
    config = found.config.build_config(None, {**sizes, "eos_token_id": 2})
    tensors = random_tensors(config.parameter_shapes(), dtype)
    saver = load_tokenizer(write_chatglm(directory / "tokenizer")).save
    source = Source(directory / "none", "megatron", found, dict(vars(config)), tensors, saver)
    return Path(convert(source, "hf", directory / dtype, progress=False)["output"])


def in_and_out(source: Path, target: Path, size: int) -> None:
    """Read every byte of the source, and write `size` bytes, in turns."""
    buffer, written = memoryview(bytearray(BLOCK)), 0
    total = sum(file.stat().st_size for file in files_of(source))
    done = 0
    with open(target, "wb", buffering=0) as output:
        for file in files_of(source):
            with open(file, "rb", buffering=0) as stream:
                while count := stream.readinto(buffer):
                    done += count
                    while written < size * done // total:
                        written += output.write(buffer[: size * done // total - written])
        os.fsync(output.fileno())


def grown(source: Path, target: Path, dtype: str) -> int:
    """Growth of the peak RSS of another process that converts."""
    words = [sys.executable, __file__, "--child", str(source), str(target), dtype]
    result = int(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)
    shutil.rmtree(target)
    return result


def child(source: str, target: str, dtype: str) -> None:
    """What `grown` runs: prints the number of bytes."""
    before = status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    convert(open_source(Path(source)), "gguf", Path(target), dtype=dtype, progress=False)
    print(status_bytes("VmHWM") - before)


def measure(source: Path, directory: Path, dtype: str, rounds: int, largest: int) -> dict[str, float]:
    """Medians for one type, printed."""
    target, other = directory / "out", directory / "copy"
    memory = grown(source, target, dtype) / largest
    convert(open_source(source), "gguf", target, dtype=dtype, progress=False)
    size = sum(file.stat().st_size for file in files_of(target))
    shutil.rmtree(target)
    sides = {
        "convert": (lambda path: convert(open_source(source), "gguf", path, dtype=dtype, progress=False), target),
        "cp": (lambda path: copy(source, path), other),
        "in+out": (lambda path: in_and_out(source, path, size), other),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            seconds(*sides["cp"])  # leaves warm memory
            times[name].append(seconds(*sides[name]))
    print(f"\n{source.name} -> {dtype}: {size / 1e6:.0f} MB written")
    for name, pairs in times.items():
        wall, cpu = zip(*pairs, strict=True)
        print(f"  {name:<8} {spread(wall)} s, CPU {spread(cpu)} s")
    ratios = {}
    for peer in ("cp", "in+out"):
        each = [ours[0] / theirs[0] for ours, theirs in zip(times["convert"], times[peer], strict=True)]
        ratios[peer] = statistics.median(each)
        print(f"  convert / {peer:<7} {spread(each)}")
    print(f"  peak memory / largest tensor {memory:.2f}, at most {MEMORY_BOUND}")
    return {**ratios, "cpu": statistics.median(cpu for _, cpu in times["convert"]), "memory": memory}


def main() -> int:
    parser = options(__doc__, rounds=5)
    parser.add_argument("--directory", type=Path, help="where to write, some gigabytes (default: TMPDIR)")
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES)
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=SOURCES)
    parser.add_argument("--quick", action="store_true", help="a small model and one round; no bound counts")
    parser.add_argument("--json", type=Path, help="write the medians to this file")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return 0
    print_header("numpy", "gguf")
    sizes, rounds, table = QUICK if arguments.quick else FULL, 1 if arguments.quick else arguments.rounds, {}
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        for dtype in arguments.sources:
            source = model(Path(name), sizes, dtype)
            opened = open_source(source)
            largest = max(tensor.nbytes for tensor in opened.tensors.values())
            print(f"\n{dtype}: {opened.parameters / 1e6:.0f} million parameters, largest tensor {largest / 1e6:.0f} MB")
            for kind in arguments.types:
                table[f"{dtype} -> {kind}"] = measure(source, Path(name), kind, rounds, largest)
            shutil.rmtree(source)
    print(f"\n{'':<20}{'/ cp':>8}{'/ in+out':>10}{'CPU s':>8}{'memory':>8}")
    for label, each in table.items():
        print(f"{label:<20}{each['cp']:>8.2f}{each['in+out']:>10.2f}{each['cpu']:>8.2f}{each['memory']:>8.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=2))
    kept = all(each["in+out"] <= TIME_BOUND and each["memory"] <= MEMORY_BOUND for each in table.values())
    return 0 if kept or arguments.quick else 1


if __name__ == "__main__":
    sys.exit(main())
