"""A port of its own for every run on a machine."""

import os
import socket
import subprocess
import sys

from ms_codegeex.runs.servers.supervision import PORTS, reserved_port


def test_reserved_ports_differ_while_both_are_held_and_skip_used_ones():
    with reserved_port() as first, reserved_port() as second:
        assert first != second and {first, second} <= set(PORTS)
        start = os.getpid() % len(PORTS)
        taken = next(
            PORTS[(start + i) % len(PORTS)] for i in range(99) if PORTS[(start + i) % len(PORTS)] not in (first, second)
        )
        with socket.socket() as other:
            other.bind(("127.0.0.1", taken))
            other.listen()
            with reserved_port() as third:
                assert third not in (first, second, taken)


def test_two_processes_never_get_the_same_port():
    code = (
        "import time\nfrom ms_codegeex.runs.servers.supervision import reserved_port\n"
        "with reserved_port() as p:\n print(p, flush=True); input()"
    )
    jobs = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    ports = [job.stdout.readline().strip() for job in jobs]
    for job in jobs:
        job.communicate("\n")
    assert len(set(ports)) == 4
