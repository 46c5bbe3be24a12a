"""First tokens of one key while another one floods the server: at every keystroke, beside the idle server.

    python benchmarks/flood.py --model DIR                                # 120 connections, 50 keystrokes
    python benchmarks/flood.py --model DIR --serve --mixed-rows 16        # options of `serve`
    python benchmarks/flood.py --model DIR --connections 8 --keystrokes 5 # to check that it works

One key types: each request has the last one's ids and one more, and asks for four tokens. First nothing else happens;
then another key has many connections, each of which asks for 100 tokens after a new prompt of 100 as soon as its last
answer has ended, or a second after a refusal. Seconds are those to the first byte of an answer. All share the cores
with the server.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from common import ROOT, print_command, versions
from keystrokes import percentile

TYPIST, FLOODER = "typist-0123456789", "flooder-0123456789"
IDS = range(10, 2000)  # of prompts
AIM = 2.0
SETTLED = 10.0  # seconds of flood before the first keystroke
PAUSE = 0.3


class Keys:
    """`ms-codegeex serve` with two keys, and what they got."""

    def __init__(self, model: Path, directory: Path, options: list[str]):
        keys = directory / "keys"
        keys.write_text(f"typist {TYPIST}\nflooder {FLOODER}\n")
        keys.chmod(0o600)
        words = [sys.executable, "-m", "ms_codegeex.cli", "serve", "--model", str(model), "--port", "0"]
        words += ["--api-key-file", str(keys), *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()  # printed once it is ready
        if not line:
            raise SystemExit("serve did not start; its message is above")
        self.address, self.ended = line.partition("//")[2].strip(), threading.Event()
        self.statuses = Counter[int]()

    def ask(self, key: str, ids: list[int], new: int) -> tuple[int, float]:
        """Status, and seconds to the first byte of the answer."""
        body = {"prompt": ids, "max_tokens": new, "temperature": 0, "stream": True}
        connection, begin = http.client.HTTPConnection(self.address, timeout=600), time.perf_counter()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        response = connection.getresponse()
        response.read(1)
        seconds = time.perf_counter() - begin
        response.read()
        connection.close()
        return response.status, seconds

    def keystrokes(self, ids: list[int], count: int, draw: random.Random) -> list[float]:
        """Seconds to the first token of each request; `ids` grow."""
        found = []
        for _ in range(count):
            ids.append(draw.choice(IDS))
            status, seconds = self.ask(TYPIST, ids, 4)
            if status != 200:
                raise SystemExit(f"a keystroke was answered with status {status}")
            found.append(seconds)
            time.sleep(PAUSE)
        return found

    def flood(self, number: int) -> None:
        """One connection after the other."""
        draw = random.Random(number)
        while not self.ended.is_set():
            status, _ = self.ask(FLOODER, draw.choices(IDS, k=100), 100)
            self.statuses[status] += 1
            self.ended.wait(0 if status == 200 else 1)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--connections", type=int, default=120)
    parser.add_argument("--keystrokes", type=int, default=50)
    parser.add_argument("--prompt", type=int, default=600, help="tokens at first (default 600)")
    parser.add_argument("--serve", nargs=argparse.REMAINDER, default=[], help="options of `serve`, last of all")
    arguments = parser.parse_args()
    print_command()
    print(versions("mindspore", "fastapi", "uvicorn"), flush=True)
    with tempfile.TemporaryDirectory() as directory:
        server = Keys(arguments.model, Path(directory), arguments.serve)
        try:
            draw = random.Random(0)
            ids = draw.choices(IDS, k=arguments.prompt)
            server.ask(TYPIST, ids, 1)
            idle = server.keystrokes(ids, arguments.keystrokes, draw)
            threads = [threading.Thread(target=server.flood, args=(n,)) for n in range(arguments.connections)]
            for thread in threads:
                thread.start()
            time.sleep(SETTLED)
            busy = server.keystrokes(ids, arguments.keystrokes, draw)
            server.ended.set()
            for thread in threads:
                thread.join()
        finally:
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(60)
    for name, seconds in (("idle", idle), ("flood", busy)):
        half, most = statistics.median(seconds), percentile(seconds, 0.99)
        print(f"  {name:5}  first token p50 {1e3 * half:.0f} ms, p99 {1e3 * most:.0f} ms of {len(seconds)} keystrokes")
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        ratio = percentile(busy, share) / percentile(idle, share)
        print(f"  {name} of the flood over idle: {ratio:.3g}, aim {AIM:g} {'met' if ratio <= AIM else 'not met'}")
    print(f"  the flooder's answers by status: {dict(sorted(server.statuses.items()))}")


if __name__ == "__main__":
    main()
