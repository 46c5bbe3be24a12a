"""Seconds and peak memory of compiling one rank of the 13B for a simulated cluster, by layers and devices.

    python benchmarks/rehearsal.py                 # 5 rounds up to 8 layers, 3 above: about 40 minutes on two cores
    python benchmarks/rehearsal.py --rounds 1

Layers count the top query layer: 40 are the 13B. The peer is the same compile without lazy inline, as a run does it;
both take turns, one at a time, each in a separate process, up to 8 layers. Seconds are those of the engine's compile
call (wall clock) and of the whole process (CPU); memory is the process's peak when the compile ends.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from common import ROOT, cpu_of_children, options, print_header, quotients, spread

from ms_codegeex.config import RunConfig
from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.rehearsal.job import CompileMode, RehearsalJob
from ms_codegeex.extras.cluster.rehearsal.stubs import simulation_environment

PEER_LAYERS = 8  # more would take minutes


def configuration(devices: int, layers: int) -> RunConfig:
    """The paper's recipe on fewer devices or with fewer layers: 16 sequences a replica."""
    replicas = devices // 8
    keys = [f"devices={devices}", f"training.global_batch={16 * replicas}", f"model.num_layers={layers - 1}"]
    if replicas < 16:
        keys.append("parallel.optimizer_shard=1")
    return load_config(ROOT / "configs" / "codegeex_13b.yaml", keys)


def compile_rank(config: RunConfig, mode: CompileMode) -> dict[str, float]:
    """What the compile program reports of rank 0, and the CPU seconds of its process."""
    before = cpu_of_children()
    with tempfile.TemporaryDirectory() as folder:
        job = RehearsalJob(Path(folder), config, 1)
        job.write()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment.update(simulation_environment(0, config.devices))
        words = ["-m", "ms_codegeex.extras.cluster.rehearsal.compile_program", str(os.getpid()), "1", folder, "0"]
        words.append(json.dumps(asdict(mode)))
        subprocess.run([sys.executable, *words], env=environment, cwd=folder, check=True, stderr=subprocess.DEVNULL)
        found = json.loads(job.file("json", 0).read_text())
    found["cpu_seconds"] = cpu_of_children() - before
    return found


def show(name: str, found: Sequence[dict[str, float]]) -> None:
    """One line: medians with their spread."""
    seconds = [x["compile_seconds"] for x in found]
    memory = statistics.median(x["peak_memory_bytes"] for x in found) / 1e9
    cpu = statistics.median(x["cpu_seconds"] for x in found)
    print(
        f"  {name:8} compile {spread(seconds):30} s   process {cpu:5.1f} CPU s   peak {memory:.2f} GB   "
        f"{int(found[0]['nodes']):,} nodes",
        flush=True,
    )


def main() -> None:
    parser = options(__doc__, rounds=5)
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 8, 16, 40])
    parser.add_argument("--devices", type=int, nargs="+", default=[8, 1536])
    arguments = parser.parse_args()
    print_header("mindspore")
    for devices in arguments.devices:
        for layers in arguments.layers:
            config = configuration(devices, layers)
            ways = ("once", "inline") if layers <= PEER_LAYERS else ("once",)
            rounds = arguments.rounds if layers <= PEER_LAYERS else min(arguments.rounds, 3)
            found = {way: [] for way in ways}
            for _ in range(rounds):
                for way in ways:
                    found[way].append(compile_rank(config, CompileMode(inline=way == "inline")))
            print(f"\n{devices:,} devices, {layers} layers: {config.mesh}")
            for way in ways:
                show(way, found[way])
            if "inline" in found:
                for key, name in (("compile_seconds", "seconds"), ("peak_memory_bytes", "memory")):
                    ratios = quotients(*([each[key] for each in found[way]] for way in ("once", "inline")))
                    print(f"  once / inline: {name} {spread(ratios)}")


if __name__ == "__main__":
    main()
