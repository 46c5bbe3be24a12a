"""First tokens of one key while another one floods the server: at every keystroke, beside the idle server.

    python benchmarks/flood.py --model DIR                                # 120 connections, 50 keystrokes
    python benchmarks/flood.py --model DIR --serve --mixed-rows 16        # options of `serve`
    python benchmarks/flood.py --model DIR --connections 8 --keystrokes 5 # to check that it works

One key types: each request has the last one's ids and one more, and asks for four tokens. First nothing else happens;
then another key has many connections, each of which asks for 100 tokens after a new prompt of 100 as soon as its last
answer has ended, or a second after a refusal. Seconds are those to the first byte of an answer. The flood comes from a
process of its own with the lowest priority: real ones come from other machines, and take no core from the server. What
the server does to refuse them does count. With --same-priority, they compete with the server for its cores.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from common import options, print_header, start_server, verdict
from keystrokes import percentile

TYPIST, FLOODER = "typist-0123456789", "flooder-0123456789"
IDS = range(10, 2000)  # of prompts
AIMS = {0.5: 1.5, 0.99: 2.0}  # of a percentile over that of the idle server
SETTLED = 10.0  # seconds of flood before the first keystroke
PAUSE = 0.3


def ask(address: str, key: str, ids: list[int], new: int) -> tuple[int, float]:
    """Status, and seconds to the first byte of the answer."""
    body = {"prompt": ids, "max_tokens": new, "temperature": 0, "stream": True}
    connection, begin = http.client.HTTPConnection(address, timeout=600), time.perf_counter()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    response = connection.getresponse()
    response.read(1)
    seconds = time.perf_counter() - begin
    response.read()
    connection.close()
    return response.status, seconds


class Server:
    """`ms-codegeex serve` with two keys."""

    def __init__(self, model: Path, directory: Path, options: list[str]):
        keys = directory / "keys"
        keys.write_text(f"typist {TYPIST}\nflooder {FLOODER}\n")
        keys.chmod(0o600)
        self.process, self.address = start_server(model, "--api-key-file", str(keys), *options)

    def keystrokes(self, ids: list[int], count: int, draw: random.Random) -> list[float]:
        """Seconds to the first token of each request; `ids` grow."""
        found = []
        for _ in range(count):
            ids.append(draw.choice(IDS))
            status, seconds = ask(self.address, TYPIST, ids, 4)
            if status != 200:
                raise SystemExit(f"a keystroke was answered with status {status}")
            found.append(seconds)
            time.sleep(PAUSE)
        return found


class Flood:
    """The other key's connections, in a process of their own, until `end`."""

    def __init__(self, address: str, connections: int, lowest: bool):
        words = [sys.executable, str(Path(__file__)), "--flood", address, "--connections", str(connections)]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        group = Path(f"/proc/{self.process.pid}/autogroup")  # where there are such groups, nice counts only within one
        if lowest:
            os.setpriority(os.PRIO_PROCESS, self.process.pid, 19)
            with suppress(OSError):
                group.write_text("19")

    def end(self) -> dict[int, int]:
        """The answers by status; 0: none."""
        return {int(status): count for status, count in json.loads(self.process.communicate()[0]).items()}


def flood(address: str, connections: int) -> None:
    """Ask over so many connections until the standard input ends; print the answers by status."""
    ended, statuses = threading.Event(), Counter[int]()

    def connection(number: int) -> None:
        draw = random.Random(number)
        while not ended.is_set():
            try:
                status, _ = ask(address, FLOODER, draw.choices(IDS, k=100), 100)
            except (OSError, http.client.HTTPException):
                status = 0
            statuses[status] += 1
            ended.wait(0 if status == 200 else 1)

    threads = [threading.Thread(target=connection, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    ended.set()
    for thread in threads:
        thread.join()
    print(json.dumps(dict(sorted(statuses.items()))))


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--connections", type=int, default=120)
    parser.add_argument("--keystrokes", type=int, default=50)
    parser.add_argument("--prompt", type=int, default=600, help="tokens at first (default 600)")
    parser.add_argument("--same-priority", action="store_true", help="the flood's process has the server's priority")
    parser.add_argument("--flood", metavar="ADDRESS", help=argparse.SUPPRESS)
    parser.add_argument("--serve", nargs=argparse.REMAINDER, default=[], help="options of `serve`, last of all")
    arguments = parser.parse_args()
    if arguments.flood:
        flood(arguments.flood, arguments.connections)
        return
    if arguments.model is None:
        parser.error("--model is required")
    print_header("mindspore", "fastapi", "uvicorn")
    with tempfile.TemporaryDirectory() as directory:
        server = Server(arguments.model, Path(directory), arguments.serve)
        try:
            draw = random.Random(0)
            ids = draw.choices(IDS, k=arguments.prompt)
            ask(server.address, TYPIST, ids, 1)
            idle = server.keystrokes(ids, arguments.keystrokes, draw)
            others = Flood(server.address, arguments.connections, not arguments.same_priority)
            time.sleep(SETTLED)
            busy = server.keystrokes(ids, arguments.keystrokes, draw)
            statuses = others.end()
        finally:
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(60)
    for name, seconds in (("idle", idle), ("flood", busy)):
        found = [f"p{100 * share:g} {1e3 * percentile(seconds, share):.0f} ms" for share in (0.5, 0.95, 0.99)]
        print(f"  {name:5}  first token {', '.join(found)} of {len(seconds)} keystrokes")
    print(f"  the first one under the flood, {SETTLED:g} s after the last without: {1e3 * busy[0]:.0f} ms")
    for share, aim in AIMS.items():
        ratio = percentile(busy, share) / percentile(idle, share)
        print(f"  p{100 * share:g} of the flood over idle: {ratio:.3g}, {verdict(ratio, aim)}")
    print(f"  the flooder's answers by status: {statuses}")


if __name__ == "__main__":
    main()
