"""The process of one device (`network.py`): `python -m ms_codegeex.generation.devices.process ANSWERS`.

It reads its job and the passes from standard input and writes its answers to the file descriptor ANSWERS. Without
arguments, it runs MindSpore's scheduler, through which the processes find each other.
"""

from __future__ import annotations

import mmap
import os
import select
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.generation.choice import COLUMNS
from ms_codegeex.generation.device_shares import DeviceExchange, Share
from ms_codegeex.generation.devices.messages import receive, send
from ms_codegeex.generation.loading import load_adapters, load_model
from ms_codegeex.generation.rows import Network, Rows, SlotSizes
from ms_codegeex.generation.targets import open_network


def _end_with_input() -> None:
    poll = select.poll()
    poll.register(0, 0)  # only the hang-up is reported
    poll.poll()
    os._exit(1)


def load(job: dict[str, Any]) -> Network:
    """Build the network of this device."""
    rank, ranks, target = job["rank"], job["ranks"], job["target"]
    memory = np.frombuffer(mmap.mmap(*job["memory"]), np.uint8) if job["compiled"] else None
    if not job["compiled"]:
        import mindspore as ms
        from mindspore import communication

        ms.set_context(mode=ms.GRAPH_MODE)
        ms.set_device(target, *([] if target == "CPU" else [rank]))
        communication.init()
        if (actual := communication.get_rank()) != rank:
            raise RunFailure(f"generation: device {rank} became rank {actual} of MindSpore's communication")
    model = load_model(Path(job["model"]), job["bits"])
    adapters = load_adapters({name: Path(path) for name, path in job["adapters"].items()}, model)
    sizes, meeting = SlotSizes(**job["sizes"]), DeviceExchange(Share(model.config, rank, ranks), memory)
    network = open_network(model.family, model.config, model.weights, sizes, meeting, adapters)
    if network.compiled != job["compiled"]:
        raise RunFailure(f"generation: device {rank} could not load the compiled operators")
    return network


def serve(network: Network, rank: int, requests: Connection, answers: Connection) -> None:
    """Run the requested passes until `EOFError` ends the input. Only the first process answers."""
    # stand-ins for the sampling settings, which only the first process receives
    unread = [np.zeros((1, len(COLUMNS))), np.zeros((1, 1, 3)), np.zeros(1, np.int32)]
    while True:
        head, arrays = receive(requests)
        if head["do"] in ("copy", "save", "restore", "forget"):
            getattr(network, head["do"])(*head["with"])
            results = []
        elif head["do"] == "hidden":
            results = [network.hidden(*head["with"])]
        else:
            passed, wanted, adapters, *chosen = arrays
            rows = Rows(passed, wanted, *(chosen or unread), adapters)
            results = [network.choose(rows) if head["do"] == "choose" else network.score(rows)]
        if rank == 0:
            send(answers, {}, results)


def main(arguments: list[str]) -> None:
    threading.Thread(target=_end_with_input, daemon=True).start()
    if not arguments:
        from mindspore import communication

        communication.init()
        threading.Event().wait()
    with Connection(os.dup(0), writable=False) as requests, Connection(int(arguments[0]), readable=False) as answers:
        try:
            job, _ = receive(requests)
            network = load(job)
            send(answers, {})
            serve(network, job["rank"], requests, answers)
        except (UserError, RunFailure) as error:
            send(answers, {"error": str(error), "user": isinstance(error, UserError)})
        except EOFError:
            pass


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Exception:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)  # a normal exit would let MindSpore wait for processes that have already ended
