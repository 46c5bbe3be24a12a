"""Time and memory of `convert` on a synthetic CodeGeeX of 2 GB, against reading and writing as many bytes.

    python benchmarks/convert.py                          # 5 rounds, in the temporary directory
    python benchmarks/convert.py --directory /dev/shm     # no disk to wait for: what the conversion itself takes
    python benchmarks/convert.py --quick                  # a tiny model, to see that it works

The peer reads the source's files and writes as many bytes to another file, in blocks, and syncs it as `convert` does.
Both take turns, and take turns in going first; sources are in the page cache. Before each, such a file is written and
removed: memory that a virtual machine has to request from its host is several times slower to fill, and only one side
would pay for it. The `.ckpt` source has no checksum, as MindSpore saves it. Memory is the process's own (RssAnon,
without pages of mapped files), sampled in a round that is not timed, minus what it had after its imports.
"""

from __future__ import annotations

import gc
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import options, print_header, spread, status_bytes

from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.mindspore_checkpoint import TRAILER_BYTES, read_mindspore, write_mindspore
from ms_codegeex.formats.sources import Source, open_source
from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.models.registry import family

DIRECTIONS = (("hf", "megatron"), ("megatron", "hf"), ("hf", "mindspore"), ("mindspore", "hf"))
QUICK = {"hidden_size": 32, "num_heads": 2, "intermediate_size": 128, "max_position_embeddings": 64}
FULL = {"hidden_size": 2048, "num_heads": 16, "intermediate_size": 8192}
BLOCK = 1 << 24
TIME_BOUND = 1.5
MEMORY_FACTOR, MEMORY_EXTRA = 3, 300e6  # of the largest tensor, and bytes


def sizes(dtype: str, gigabytes: float, quick: bool) -> dict[str, int]:
    """Fields of a CodeGeeX with weights of about this many bytes."""
    from ms_codegeex.models.codegeex.config import build_config

    if quick:
        return {**vars(build_config("tiny", {})), **QUICK, "num_layers": 2}
    width = np.dtype(dtype).itemsize
    for layers in range(1, 1000):
        config = build_config("tiny", {**FULL, "num_layers": layers})
        if config.parameter_count() * width >= gigabytes * 1e9:
            return vars(config)
    raise ValueError(gigabytes)


def random_tensors(shapes: dict[str, tuple[int, ...]], dtype: str) -> dict[str, LazyTensor]:
    """Normal random numbers, drawn once for all tensors."""
    numbers = np.random.default_rng(0).normal(0, 0.01, 1 << 22).astype(dtype)

    def tensor(k: int, shape: tuple[int, ...]) -> LazyTensor:
        return LazyTensor(dtype, shape, lambda: np.resize(np.roll(numbers, k), shape))

    return {name: tensor(k, shape) for k, (name, shape) in enumerate(shapes.items())}


def synthetic(fields: dict[str, int], dtype: str) -> Source:
    found = family("codegeex")
    tensors = random_tensors(found.config.build_config(None, fields).parameter_shapes(), dtype)
    return Source(Path("synthetic"), "huggingface", found, fields, tensors, None)


def files_of(path: Path) -> list[Path]:
    """The files of a model in any layout."""
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def copy(source: Path, target: Path) -> None:
    """Read every byte of the source and write as many."""
    buffer = memoryview(bytearray(BLOCK))
    with open(target, "wb", buffering=0) as output:
        for file in files_of(source):
            with open(file, "rb", buffering=0) as stream:
                while count := stream.readinto(buffer):
                    output.write(buffer[:count])
        os.fsync(output.fileno())


def seconds(work: Callable[[Path], object], target: Path) -> tuple[float, float]:
    """Wall-clock and CPU seconds it takes to write `target`, which is then removed. Both sides sync what they write."""
    began, worked = time.perf_counter(), time.process_time()
    work(target)
    result = time.perf_counter() - began, time.process_time() - worked
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    return result


def peak_above(work: Callable[[], object]) -> int:
    """The largest RssAnon while `work` runs, above that before it; sampled every millisecond."""
    gc.collect()
    before, peak, done = status_bytes("RssAnon"), [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], status_bytes("RssAnon"))
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    return peak[0] - before


def measure(
    directory: Path, models: dict[str, Path], heads: dict[str, int], origin: str, to: str, rounds: int
) -> tuple[list[float], int]:
    """Print seconds; return the ratios of each round, and the peak memory in bytes.

    `heads` is the number of heads, which MindSpore's file does not record.
    """
    target = directory / {"hf": "out", "megatron": "out.pt", "mindspore": "out.ckpt"}[to]

    def work(path: Path) -> None:
        convert(open_source(models[origin], heads), to, path, progress=False)

    peak = peak_above(lambda: work(target))
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    peer = (lambda path: copy(models[origin], path), directory / "copy")
    sides, pairs = ((work, target), peer), []
    for number in range(rounds):
        times = {}
        for side in sides if number % 2 else sides[::-1]:
            seconds(*peer)  # leaves warm memory
            times[side] = seconds(*side)
        pairs.append([times[side] for side in sides])
    print(f"\n{origin} -> {to}")
    for name, times in zip(("convert", "read and write"), zip(*pairs, strict=True), strict=True):
        wall, cpu = zip(*times, strict=True)
        print(f"  {name:<14} {spread(wall)} s, CPU {spread(cpu)} s")
    return [ours[0] / peer[0] for ours, peer in pairs], peak


def main() -> int:
    parser = options(__doc__, rounds=5)
    parser.add_argument("--directory", type=Path, help="where to write, about three times the model (default: TMPDIR)")
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    parser.add_argument("--only", choices=[f"{a}-{b}" for a, b in DIRECTIONS], help="one direction")
    parser.add_argument("--quick", action="store_true", help="a tiny model and one round; bounds on time do not count")
    arguments = parser.parse_args()
    print_header("numpy")
    directions = [d for d in DIRECTIONS if arguments.only in (None, "-".join(d))]
    model, kept = synthetic(sizes(arguments.dtype, arguments.gigabytes, arguments.quick), arguments.dtype), True
    bytes_of = [tensor.nbytes for tensor in model.tensors.values()]
    size, largest = sum(bytes_of), max(bytes_of)
    heads = {"num_heads": model.fields["num_heads"]}
    bound = MEMORY_FACTOR * largest + MEMORY_EXTRA
    print(f"CodeGeeX, {arguments.dtype}: {size / 1e9:.3g} GB, {len(bytes_of)} tensors, largest {largest / 1e6:.3g} MB")
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        directory, models = Path(name), {}
        for kind in dict.fromkeys(origin for origin, _ in directions):
            output = directory / {"hf": "hf", "megatron": "model.pt", "mindspore": "model.ckpt"}[kind]
            models[kind] = Path(convert(model, kind, output, progress=False)["output"])
            if kind == "mindspore":  # as MindSpore saves it by default
                write_mindspore(output, read_mindspore(output))
                os.truncate(output, output.stat().st_size - TRAILER_BYTES)
                output.with_name(f"{output.name}.provenance.json").unlink()
        for origin, to in directions:
            ratios, peak = measure(directory, models, heads, origin, to, 1 if arguments.quick else arguments.rounds)
            print(f"  convert / read and write {spread(ratios)}, at most {TIME_BOUND}")
            print(f"  peak memory {peak / 1e6:.0f} MB, at most {bound / 1e6:.0f} MB: {peak / bound:.2f} of it")
            kept &= peak <= bound and (arguments.quick or statistics.median(ratios) <= TIME_BOUND)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
