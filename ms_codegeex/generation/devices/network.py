"""One model over several devices: each is a process with a share of every layer and of the cache.

The processes run the same passes in lockstep. They add up their partial results after the attention and after the
feed-forward layer, and concatenate their logits at the end. The engine, in this process, holds no weights: it sends
the rows of each pass to all processes and reads the result of the first. The compiled operators exchange results
through shared memory, MindSpore's own operators through its collectives.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.errors import NetworkLost, RunFailure, UserError
from ms_codegeex.base.processes import ProcessGroup, ending, last_lines, python_process
from ms_codegeex.generation.devices.messages import receive, send
from ms_codegeex.generation.loading import LoadedModel
from ms_codegeex.generation.rows import Rows, SlotSizes
from ms_codegeex.generation.targets import compiled_library, device_target

PROGRAM = "ms_codegeex.generation.devices.process"
CUDA = "ms_codegeex.base.cuda"  # runs another module with the CUDA libraries loaded


class Devices:
    """Implements `rows.Network` with `count` processes. After a failure or an interrupted pass, reload the model."""

    def __init__(self, model: LoadedModel, sizes: SlotSizes, count: int, adapters: Mapping[str, Path] | None = None):
        """Start the processes and wait until all have loaded their weights. Raises `UserError` if the model cannot be
        shared among `count` devices and `RunFailure` if a process ends."""
        if sys.platform != "linux":
            raise UserError("--devices: several processes share a model on Linux only; leave it out")
        self.sizes, self.vocab_size = sizes, model.config.vocab_size
        self._position_bytes = sizes.cache_bits // 8 * model.config.cached_numbers
        each = max(1, sizes.threads // count) if sizes.threads else 0
        # compile here, or all processes would do it at once
        library, self.slower = compiled_library(each, sizes.cpu_level)
        self.compiled = library is not None
        self._processes = _Processes()
        self.close = weakref.finalize(self, self._processes.end)  # also runs when this object is garbage-collected
        job = {
            "model": str(model.path.absolute()),
            "bits": model.weights.bits,
            "target": device_target(),
            "sizes": {**asdict(sizes), "threads": each},
            "ranks": count,
            "compiled": self.compiled,
            "adapters": {name: str(path.absolute()) for name, path in (adapters or {}).items()},
        }
        try:
            self._processes.start_all(job)
            self._processes.answers(range(count))
        except BaseException:
            self.close()
            raise

    def choose(self, rows: Rows) -> np.ndarray:
        return self._run("choose", rows)

    def score(self, rows: Rows) -> np.ndarray:
        return self._run("score", rows)

    def hidden(self, begin: int, end: int) -> np.ndarray:
        return self._ask({"do": "hidden", "with": [begin, end]})[0]

    def _run(self, what: str, rows: Rows) -> np.ndarray:
        arrays = [rows.rows, rows.wanted, rows.adapters, rows.settings, rows.edits, rows.places]
        return self._ask({"do": what}, arrays)[0]

    def copy(self, source: int, target: int, length: int) -> None:
        self._ask({"do": "copy", "with": [source, target, length]})

    def cache_bytes(self, length: int) -> int:
        return length * self._position_bytes

    def save(self, number: int, slot: int, length: int) -> None:
        self._ask({"do": "save", "with": [number, slot, length]})

    def restore(self, number: int, slot: int, length: int) -> None:
        self._ask({"do": "restore", "with": [number, slot, length]})

    def forget(self, number: int) -> None:
        self._ask({"do": "forget", "with": [number]})

    def _ask(self, head: Mapping[str, Any], arrays: Sequence[np.ndarray] = ()) -> list[np.ndarray]:
        if not self.close.alive:
            raise NetworkLost("generation: the devices' processes have ended; load the model again")
        try:
            for rank in range(len(self._processes.inputs)):
                self._processes.tell(rank, head, arrays if rank == 0 else arrays[:3])
            return self._processes.answers([0])[0]
        except BaseException:
            self.close()
            raise


class _Processes:
    """The processes of the devices, with their pipes and logs."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="ms-codegeex-devices-")
        self._group = ProcessGroup()
        self._processes: list[subprocess.Popen[bytes]] = []
        self.inputs: list[Connection] = []
        self._outputs: list[Connection] = []

    def start_all(self, job: Mapping[str, Any]) -> None:
        """Start MindSpore's scheduler, if its collectives are used, then a process per device with its job."""
        ranks, memory, environments = job["ranks"], [], [{}] * job["ranks"]
        with contextlib.ExitStack() as stack:  # closes this process's copies of inherited descriptors
            if job["compiled"]:
                from ms_codegeex.generation.kernels.library import exchange_bytes

                memory = [os.memfd_create("ms-codegeex"), exchange_bytes(ranks)]
                stack.callback(os.close, memory[0])
                os.ftruncate(*memory)
            else:
                environments = self._start_scheduler(ranks)
            for rank in range(ranks):
                output, answers = os.pipe()
                stack.callback(os.close, answers)
                self._outputs.append(Connection(output, writable=False))
                process = self._start(f"device {rank}", [str(answers)], environments[rank], (answers, *memory[:1]))
                self._processes.append(process)
                self.inputs.append(Connection(os.dup(process.stdin.fileno()), readable=False))
                process.stdin.close()
                self.tell(rank, {**job, "rank": rank, "memory": memory})

    def _start_scheduler(self, ranks: int) -> list[dict[str, str]]:
        with socket.socket() as chosen:
            chosen.bind(("127.0.0.1", 0))
            port = chosen.getsockname()[1]
        environment = {"MS_WORKER_NUM": str(ranks), "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": str(port)}
        self._start("scheduler", [], {**environment, "MS_ROLE": "MS_SCHED"}, ())
        return [{**environment, "MS_ROLE": "MS_WORKER", "MS_NODE_ID": str(rank)} for rank in range(ranks)]

    def _start(
        self, label: str, arguments: Sequence[str], environment: Mapping[str, str], keep: Sequence[int]
    ) -> subprocess.Popen[bytes]:
        program = (CUDA, PROGRAM) if device_target() == "GPU" and arguments else (PROGRAM,)
        spec = python_process(label, ("-m", *program, *arguments), Path(self._directory.name), environment)
        with open(spec.log, "wb") as log:
            process = subprocess.Popen(
                spec.command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=spec.directory,
                env=spec.full_environment(),
                pass_fds=keep,
                start_new_session=True,
            )
        return self._group.add(process)

    def tell(self, rank: int, head: Mapping[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
        """Send a message to a process. Raises `NetworkLost` if it has ended."""
        try:
            send(self.inputs[rank], head, arrays)
        except OSError:
            raise self._failure(rank) from None

    def answers(self, ranks: Sequence[int]) -> list[list[np.ndarray]]:
        """Return the arrays that each of `ranks` answers. Raises `UserError`, `RunFailure` or `NetworkLost` if any
        process fails."""
        arrays: dict[int, list[np.ndarray]] = {}
        by_file, poll = {output.fileno(): rank for rank, output in enumerate(self._outputs)}, select.poll()
        for file in by_file:
            poll.register(file, select.POLLIN)
        while len(arrays) < len(ranks):
            for file, _ in poll.poll():
                try:
                    head, arrays[by_file[file]] = receive(self._outputs[by_file[file]])
                except EOFError:
                    raise self._failure(by_file[file]) from None
                if "error" in head:
                    raise (UserError if head["user"] else RunFailure)(head["error"])
        return [arrays[rank] for rank in ranks]

    def _failure(self, rank: int) -> NetworkLost:
        process = self._processes[rank]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        words = last_lines(Path(self._directory.name) / f"device {rank}.log", 3)
        return NetworkLost(
            f"generation: device {rank} of {len(self._processes)} {ending(process.poll())}: "
            f"{' | '.join(line.strip() for line in words) or 'it printed nothing'}"
        )

    def end(self) -> None:
        self._group.end()
        for stream in (*self.inputs, *self._outputs):
            with contextlib.suppress(OSError):
                stream.close()
        self._directory.cleanup()
