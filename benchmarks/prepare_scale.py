"""Speed of `prepare` and memory of its processes as the corpus grows, with processes of one machine and with Ray.

    python benchmarks/prepare_scale.py                            # 0.2 and 2 GB
    python benchmarks/prepare_scale.py --gigabytes 0.2 2 10 --engines pool ray --directory /shared
    python benchmarks/prepare_scale.py --quick                    # 2 MB with processes, to see that it works

The documents are lines of the running interpreter's libraries, about 1.5 kB each, in files of 32 MB; one of ten repeats
an earlier one, one of ten has two lines changed. Near duplicates are looked for. CPU seconds count all processes that
were seen; memory is a process's peak (VmHWM). With Ray, a cluster of nodes with one core each is started on this
machine; its own processes are not counted. All engines must give the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from common import ROOT, options, print_header, status_bytes

from ms_codegeex.base.digests import sha256
from ms_codegeex.data.datasets.layout import DATA_FILES
from ms_codegeex.extras.corpus.sources import default_roots

FILE_BYTES = 32_000_000
LINES, LINES_OF_DOCUMENT = 200_000, 40
WORKER = "ray::"


def library_lines() -> list[str]:
    """Lines of the standard library."""
    found: dict[str, None] = {}
    for path in sorted(default_roots()[0].path.rglob("*.py")):
        with contextlib.suppress(UnicodeDecodeError, OSError):
            found.update(dict.fromkeys(line for line in path.read_text("utf-8").splitlines() if len(line) > 20))
        if len(found) > LINES:
            break
    return list(found)


def write_input(directory: Path, size: int) -> int:
    """Files of records, about `size` bytes of text; how many records."""
    directory.mkdir()
    generator, lines = random.Random(0), library_lines()
    earlier: list[list[str]] = []
    count = total = 0
    while total < size:
        with open(directory / f"part{total // FILE_BYTES:05d}.jsonl", "w", encoding="utf-8") as stream:
            while stream.tell() < FILE_BYTES and total < size:
                kind = generator.random()
                text = (
                    list(generator.choice(earlier))
                    if earlier and kind < 0.2
                    else generator.choices(lines, k=LINES_OF_DOCUMENT)
                )
                if kind < 0.1 and len(text) > 1:
                    text[generator.randrange(len(text))] = text[-1] = generator.choice(lines)
                if len(earlier) < 10_000:
                    earlier.append(text)
                elif kind > 0.2:
                    earlier[generator.randrange(10_000)] = text
                joined = "\n".join(text)
                stream.write(json.dumps({"text": joined, "language": "Python"}) + "\n")
                total += len(joined)
                count += 1
    return count


def used(process: psutil.Process) -> float:
    """CPU seconds that a process has used; 0 if it is gone."""
    with contextlib.suppress(psutil.Error):
        times = process.cpu_times()
        return times.user + times.system
    return 0.0


def peak(process: psutil.Process) -> int:
    """The most memory that a process has had, in bytes; 0 if it is gone."""
    with contextlib.suppress(StopIteration, OSError):
        return status_bytes("VmHWM", process.pid)
    return 0


def workers_of(process: psutil.Process, with_ray: bool) -> list[psutil.Process]:
    """The processes that work for the command."""
    if not with_ray:
        with contextlib.suppress(psutil.Error):
            return process.children(recursive=True)
        return []
    found = []
    for other in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if other.name().startswith(WORKER) or (other.cmdline() or [""])[0].startswith(WORKER):
                found.append(other)
    return found


@dataclass(frozen=True)
class Measured:
    """Seconds, CPU seconds, and the peaks in bytes of the command's process and of its largest worker."""

    seconds: float
    processors: float
    own: int
    largest: int


def run(paths: Path, output: Path, words: list[str], with_ray: bool) -> tuple[Measured, str]:
    """What the command took, and the hashes of what it wrote."""
    command = [sys.executable, "-m", "ms_codegeex.cli", "prepare", "--input", str(paths), "--output", str(output)]
    began, null = time.perf_counter(), subprocess.DEVNULL
    process = psutil.Popen([*command, "--near-duplicates", "0.85", *words], cwd=ROOT, stdout=null, stderr=null)
    own = largest = 0
    spent: dict[int, float] = {}
    while process.poll() is None:
        own = max(own, peak(process))
        for one in [process, *workers_of(process, with_ray)]:
            spent[one.pid] = max(spent.get(one.pid, 0.0), used(one))
            largest = max(largest, peak(one) if one.pid != process.pid else 0)
        time.sleep(0.5)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"prepare ended with status {process.returncode}")
    hashes = " ".join(sha256(output / name) for name in DATA_FILES)
    shutil.rmtree(output)
    return Measured(seconds, sum(spent.values()), own, largest), hashes


@contextlib.contextmanager
def engine(name: str, processes: int) -> Iterator[list[str]]:
    """The options of the command for an engine, whose cluster runs meanwhile."""
    if name == "pool":
        yield ["--workers", str(processes)]
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node, shutdown_at_exit=True)
    try:
        for _ in range(processes - 1):
            cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
        yield ["--engine", "ray", "--ray-address", cluster.address]
    finally:
        cluster.shutdown()


def measure(sizes: list[float], engines: list[str], processes: int, directory: Path) -> None:
    """Print a row for each size and engine, and how memory grows with documents."""
    print("   GB  documents engine   MB/s  MB/CPU s  command MB  largest worker MB  more bytes per document of each")
    first: dict[str, tuple[int, Measured]] = {}
    for size in sizes:
        count = write_input(directory / "input", int(size * 1e9))
        wrote = set()
        for name in engines:
            with engine(name, processes) as words:
                now, hashes = run(directory / "input", directory / "out", words, name == "ray")
            wrote.add(hashes)
            row = (
                f"{size:>5g} {count:>10} {name:>6} {size * 1e3 / now.seconds:>6.1f} {size * 1e3 / now.processors:>9.2f}"
            )
            row += f"{now.own / 1e6:>12.0f} {now.largest / 1e6:>18.0f}"
            before, then = first.setdefault(name, (count, now))
            if count > before:
                grown = [(now.own - then.own) / (count - before), (now.largest - then.largest) / (count - before)]
                row += f"  {grown[0]:.0f} and {grown[1]:.0f}"
            print(row, flush=True)
        if len(wrote) != 1:
            raise SystemExit(f"{' and '.join(engines)} wrote different bytes")
        shutil.rmtree(directory / "input")


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--directory", type=Path, help="where to write, about four times the largest (default: TMPDIR)")
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.2, 2.0])
    parser.add_argument("--engines", nargs="+", choices=("pool", "ray"), default=["pool", "ray"])
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="workers, or nodes of one core")
    parser.add_argument("--quick", action="store_true", help="2 MB with processes only")
    arguments = parser.parse_args()
    print_header("numpy", "gigatoken", *(["ray"] if "ray" in arguments.engines and not arguments.quick else []))
    sizes, engines = ([0.002], ["pool"]) if arguments.quick else (arguments.gigabytes, arguments.engines)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        measure(sizes, engines, arguments.processes, Path(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
