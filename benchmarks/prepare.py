"""Speed of `prepare` on real source code as `.jsonl`, against a Megatron-style preprocessor and its own slowest stage.

    python benchmarks/prepare.py                      # 200 MB, 5 rounds, one process per core
    python benchmarks/prepare.py --megabytes 1000 --input ~/src --processes 8
    python benchmarks/prepare.py --peer-python ~/peers/bin/python --rounds 3
    python benchmarks/prepare.py --quick              # 1 MB, to see that it works

The sources are those of the running interpreter, its packages and `--input`: each text once, and only texts that
`prepare` keeps, so that all sides encode the same documents. `prepare` is the whole command. The peer does what
Megatron-LM's `preprocess_data.py` does: `Pool.imap` over lines, `json.loads` and `tokenizers` in the workers. With
`--peer-python` (`pip install datatrove datasets tokenizers`), datatrove and datasets encode the same files
(`prepare_peers.py`). The stages run alone on data in memory: parsing JSON, encoding with gigatoken, writing ids.

All sides take turns; ratios are of one round. Processor time is of all processes that a side waits for, which datatrove
does not do for its workers; of a stage, only while it runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, cpu_of_children, options, print_header, quotients, spread

from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.data.tokenizer.fast import CorpusEncoder
from ms_codegeex.extras.corpus.reading import Document, find_units, read_unit
from ms_codegeex.extras.corpus.settings import ReadingSettings
from ms_codegeex.extras.corpus.sources import Root, default_roots, user_roots

Packages = dict[str, Callable[[list[Path], Path, int], int]]
FILE_BYTES = 25_000_000
PEER_AIM, STAGE_AIM, CPU_AIM = 5.0, 0.6, 1.5
CHUNK = 32  # lines that a worker of the peer is given at once, as in Megatron-LM


def texts(roots: list[Root]) -> Iterator[Document]:
    """All that `prepare` would keep, each text once."""
    seen, reading = set(), ReadingSettings(strip_licences="none")
    for unit in find_units(roots, reading)[0]:
        for item in read_unit(unit, reading):
            if isinstance(item, Document) and (digest := hashlib.sha256(item.data).digest()) not in seen:
                seen.add(digest)
                yield item


def write_input(directory: Path, roots: list[Root], limit: float) -> tuple[list[Path], int]:
    """`.jsonl` files of at most `limit` bytes of text together; the files, and how many bytes of text they hold."""
    directory.mkdir()
    paths: list[Path] = []
    total = 0
    stream: Any = None
    for item in texts(roots):
        if total >= limit:
            break
        if stream is None or stream.tell() > FILE_BYTES:
            if stream is not None:
                stream.close()
            paths.append(directory / f"part{len(paths):04d}.jsonl")
            stream = open(paths[-1], "wb")  # noqa: SIM115
        record = {"text": item.data.decode(), "path": item.source, "language": item.language}
        stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        total += len(item.data)
    if stream is not None:
        stream.close()
    return paths, total


def run_prepare(paths: list[Path], output: Path, processes: int) -> int:
    """The command; how many tokens it wrote."""
    words = ["--input", *map(str, paths), "--output", str(output), "--workers", str(processes), "--tags", "none"]
    command = [sys.executable, "-m", "ms_codegeex.cli", "prepare", *words, "--json"]
    compiled = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # otherwise each run would take most of a second for it
    done = subprocess.run(command, cwd=ROOT, env=compiled, capture_output=True, text=True, check=True)
    return sum(split["tokens"] for split in json.loads(done.stdout)["splits"].values())


def run_peer(paths: list[Path], output: Path, processes: int) -> int:
    """The Megatron-style preprocessor in a separate process; how many tokens it wrote."""
    command = [sys.executable, str(Path(__file__)), "--peer", str(output), "--processes", str(processes), "--input"]
    done = subprocess.run([*command, *map(str, paths)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def run_package(name: str, python: Path) -> Callable[[list[Path], Path, int], int]:
    """A function that runs a package's pipeline in a separate process; it returns how many tokens it wrote."""

    def run(paths: list[Path], output: Path, processes: int) -> int:
        tokenizer = output.parent / "tokenizer.json"
        if not tokenizer.exists():
            load_tokenizer("codegeex")._model.save(str(tokenizer))
        script = Path(__file__).with_name("prepare_peers.py")
        words = [python, script, name, tokenizer, paths[0].parent, output, processes]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name} failed: {done.stderr[-2000:]}")
        return int(done.stdout.rpartition("tokens: ")[2])

    return run


class PeerEncoder:
    """What a worker of the peer does with a line."""

    def start(self) -> None:
        """Load the tokenizer, once in every worker."""
        PeerEncoder.tokenizer = load_tokenizer("codegeex")

    def encode(self, line: bytes) -> list[int]:
        """Ids of one record with the end token."""
        ids = PeerEncoder.tokenizer.encode(json.loads(line)["text"])
        return [*ids, PeerEncoder.tokenizer.eos_id]


def peer(paths: list[Path], output: Path, processes: int) -> int:
    """Encode all lines in order, append to `.bin`, write the sizes; how many tokens."""
    encoder, sizes = PeerEncoder(), []
    with multiprocessing.Pool(processes, initializer=encoder.start) as pool, open(output, "wb") as stream:
        for path in paths:
            with open(path, "rb") as lines:
                for ids in pool.imap(encoder.encode, lines, CHUNK):
                    stream.write(np.array(ids, np.uint16).tobytes())
                    sizes.append(len(ids))
        stream.flush()
        os.fsync(stream.fileno())
    np.array(sizes, np.int64).tofile(output.with_suffix(".idx"))
    return sum(sizes)


def stage_worker(name: str, paths: list[Path], output: Path, ready: Any, go: Any, done: Any) -> None:
    """One process of a stage: prepare in memory, wait for the start, work, report the CPU seconds of that."""
    lines = [line for path in paths for line in path.read_bytes().splitlines()]
    work: Callable[[], Any]
    if name == "parse":

        def work() -> None:
            for line in lines:
                json.loads(line)

    else:
        encoder = CorpusEncoder(load_tokenizer("codegeex"))
        data = [json.loads(line)["text"].encode() for line in lines]

        def work() -> None:
            for text in data:
                encoder.encode(text)

        if name == "write":
            ids = [encoder.encode(text).astype(np.uint16) for text in data]

            def work() -> None:
                with open(output, "wb") as stream:
                    for row in ids:
                        stream.write(row.tobytes())
                    stream.flush()
                    os.fsync(stream.fileno())

    ready.release()
    go.wait()
    began = time.process_time()
    work()
    done.put(time.process_time() - began)


def run_stage(name: str, paths: list[Path], directory: Path, processes: int) -> tuple[float, float]:
    """Seconds and CPU seconds a stage takes in `processes` processes, each with its share of the files."""
    context = multiprocessing.get_context("spawn")
    ready, go, done = context.Semaphore(0), context.Event(), context.SimpleQueue()
    shares = [paths[number::processes] for number in range(processes)]
    workers = [
        context.Process(target=stage_worker, args=(name, share, directory / f"stage{number}", ready, go, done))
        for number, share in enumerate(shares)
    ]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.acquire()
    began = time.perf_counter()
    go.set()
    cpu = sum(done.get() for _ in workers)
    seconds = time.perf_counter() - began
    for worker in workers:
        worker.join()
    for file in directory.glob("stage*"):
        file.unlink()
    return seconds, cpu


def timed(
    work: Callable[[list[Path], Path, int], int], paths: list[Path], output: Path, processes: int
) -> tuple[float, float, int]:
    """Seconds, CPU seconds and tokens; what was written is removed."""
    began, used = time.perf_counter(), cpu_of_children()
    tokens = work(paths, output, processes)
    seconds, cpu = time.perf_counter() - began, cpu_of_children() - used
    for path in output.parent.glob(output.name + "*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return seconds, cpu, tokens


def measure(
    paths: list[Path], total: int, directory: Path, processes: int, rounds: int, packages: Packages
) -> tuple[float, float, float]:
    """Print speeds; the medians of ours/peer and ours/slowest stage, and of the CPU seconds of ours/encoding."""
    stages = ("parse", "encode", "write")
    sides: Packages = {"prepare": run_prepare, "peer": run_peer, **packages}
    speeds: dict[str, list[float]] = {name: [] for name in (*sides, *stages)}
    used: dict[str, list[float]] = {name: [] for name in speeds}
    for number in range(rounds):
        written = {}
        for name, work in sides.items():
            seconds, cpu, written[name] = timed(work, paths, directory / f"{name}.out", processes)
            speeds[name].append(total / 1e6 / seconds)
            used[name].append(cpu)
        if written["prepare"] != written["peer"]:
            raise SystemExit(f"prepare wrote {written['prepare']} tokens, the peer {written['peer']}")
        for name in packages:
            if written[name] != written["prepare"]:
                print(f"  {name} wrote {written[name]} tokens, prepare {written['prepare']}")
        for name in stages if number % 2 else stages[::-1]:
            seconds, cpu = run_stage(name, paths, directory, processes)
            speeds[name].append(total / 1e6 / seconds)
            used[name].append(cpu)
    for name, values in speeds.items():
        label = f"stage alone: {name}" if name in stages else name
        print(f"  {label:<20} {spread(values)} MB/s, {statistics.median(used[name]):.1f} CPU s")
    slowest = min(stages, key=lambda name: statistics.median(speeds[name]))
    for name in packages:
        print(f"  prepare / {name} {spread(quotients(speeds['prepare'], speeds[name]))}")
    ratios = [quotients(speeds["prepare"], speeds[other]) for other in ("peer", slowest)]
    print(f"  prepare / peer {spread(ratios[0])}, at least {PEER_AIM}")
    print(f"  prepare / slowest stage ({slowest}) {spread(ratios[1])}, at least {STAGE_AIM}")
    cpu_ratio = quotients(used["prepare"], used["encode"])
    print(f"  CPU time of prepare / of encoding alone {spread(cpu_ratio)}, at most {CPU_AIM}")
    return statistics.median(ratios[0]), statistics.median(ratios[1]), statistics.median(cpu_ratio)


def main() -> int:
    parser = options(__doc__, rounds=5)
    parser.add_argument("--directory", type=Path, help="where to write, about three times the input (default: TMPDIR)")
    parser.add_argument("--input", nargs="+", type=Path, default=[], help="more places to take source code from")
    parser.add_argument("--megabytes", type=float, default=200.0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="1 MB and one round; aims do not count")
    parser.add_argument("--peer-python", type=Path, help="interpreter that has datatrove and datasets")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        print(peer(arguments.input, arguments.peer, arguments.processes))
        return 0
    print_header("numpy", "tokenizers", "gigatoken")
    megabytes = 1.0 if arguments.quick else arguments.megabytes
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        default = default_roots()
        roots = [*user_roots(arguments.input), *(default[:1] if arguments.quick else default)]
        paths, total = write_input(Path(name) / "input", roots, megabytes * 1e6)
        if total < megabytes * 1e6:
            print(f"only {total / 1e6:.0f} MB of source code here; add more with --input")
        print(f"{total / 1e6:.1f} MB of text in {len(paths)} files, {arguments.processes} processes")
        rounds = 1 if arguments.quick else arguments.rounds
        names = ("datatrove", "datasets") if arguments.peer_python else ()
        packages = {each: run_package(each, arguments.peer_python) for each in names}
        against_peer, against_stage, cpu = measure(paths, total, Path(name), arguments.processes, rounds, packages)
    met = against_peer >= PEER_AIM and against_stage >= STAGE_AIM and cpu <= CPU_AIM
    return 0 if arguments.quick or met else 1


if __name__ == "__main__":
    sys.exit(main())
