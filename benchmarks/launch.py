"""Seconds from the command to the first step, and from a killed worker to the job's end, next to those of bare msrun.

    python benchmarks/launch.py                 # 5 rounds: about 6 minutes on two cores

The job is a very small model on two workers, so nearly all of the time goes into starting. The peer runs the same
workers under msrun alone, on a port known to be free. The limit for the start is one Python process that only imports
MindSpore.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from common import ROOT, options, print_header, spread


def workers(output: Path) -> list[psutil.Process]:
    """The worker processes of the job that writes to `output`, the scheduler not among them."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(output) in process.cmdline() and process.environ().get("MS_ROLE") == "MS_WORKER":
                found.append(process)
        except psutil.Error:
            continue
    return found


def job(command: list[str], output: Path, started: float) -> tuple[float, float]:
    """Run until the first step, kill a worker, wait for the end: seconds to the first step, seconds from the kill to
    the end."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOG_v": "3", "OMP_NUM_THREADS": "1", "PATH": path}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    log = output / "log.jsonl"
    while not (log.exists() and log.stat().st_size):
        if process.poll() is not None:
            raise SystemExit(f"the job ended too early: {' '.join(command)}")
        time.sleep(0.02)
    first = time.perf_counter() - started
    killed = time.perf_counter()
    workers(output)[-1].send_signal(signal.SIGKILL)
    process.wait()
    return first, time.perf_counter() - killed


def ours(dataset: Path, scratch: Path, number: int) -> tuple[float, float]:
    """Through `ms-codegeex train`."""
    from conftest import small_run, write_config

    output = scratch / f"ours{number}"
    values = small_run(dataset, output)
    values["devices"] = 2
    values["training"]["steps"] = 10**6
    config = write_config(scratch / "run.yaml", values)
    return job([sys.executable, "-m", "ms_codegeex.cli", "train", "--config", str(config)], output, time.perf_counter())


def bare(dataset: Path, scratch: Path, number: int) -> tuple[float, float]:
    """Through msrun alone."""
    from conftest import small_run

    from ms_codegeex.config.rules import build_run_config
    from ms_codegeex.runs.files.run_directory import RunDirectory
    from ms_codegeex.runs.opening import StartingPoint, held_run, open_run
    from ms_codegeex.runs.servers.supervision import reserved_port

    values = small_run(dataset, scratch / f"bare{number}")
    values["devices"] = 2
    values["training"]["steps"] = 10**6
    config = build_run_config(values)
    run = RunDirectory(Path(config.output))
    with held_run(run), reserved_port() as port:
        open_run(config, run, StartingPoint())
        program, log = str(Path(sys.executable).with_name("msrun")), f"--log_dir={run.logs}"
        where = ["--worker_num=2", "--local_worker_num=2", "--master_addr=127.0.0.1", f"--master_port={port}"]
        command = [program, *where, log, "--join=True", "python", "-m", "ms_codegeex.runs.rank", str(run.path)]
        return job(command, run.path, time.perf_counter())


def importing() -> float:
    """Seconds to import MindSpore in a fresh process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import mindspore"], check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = options(__doc__, rounds=5)
    rounds = parser.parse_args().rounds
    from conftest import write_dataset

    print_header("mindspore")
    results: dict[str, list[tuple[float, float]]] = {"ours": [], "bare msrun": []}
    imports = []
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        dataset = write_dataset(scratch / "dataset")
        for number in range(rounds):
            imports.append(importing())
            results["ours"].append(ours(dataset, scratch, number))
            results["bare msrun"].append(bare(dataset, scratch, number))
    print(f"\nimport mindspore alone: {spread(imports)} s")
    for name, values in results.items():
        first, end = zip(*values, strict=True)
        print(f"{name:<11} command to first step {spread(first)} s   killed worker to the job's end {spread(end)} s")
    medians = [[statistics.median(v) for v in zip(*values, strict=True)] for values in results.values()]
    print(f"ours / bare msrun: first step {medians[0][0] / medians[1][0]:.2f}, end {medians[0][1] / medians[1][1]:.3f}")


if __name__ == "__main__":
    main()
