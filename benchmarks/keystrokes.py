"""Time to the first token at each keystroke, beside llama.cpp's server.

    python benchmarks/keystrokes.py                                   # CodeGen-350M's sizes, 8 bits, 200 keystrokes
    python benchmarks/keystrokes.py --llama-python VENV/bin/python    # and llama.cpp: VENV has `pip install xllamacpp`
    python benchmarks/keystrokes.py --tiny --keystrokes 20            # to check that it works

A file is typed: a request follows each character, with the ids of the text after the cursor, then of the text before it
(--after and --before tokens at first). Both servers get them on `/v1/completions`, greedy and streamed, and take turns.
They have the same random weights, ours in 8 bits, llama.cpp's as our GGUF with Q8_0, and one slot. Tokens that they
reused are reported at `/metrics`, and in the `timings` of llama.cpp's last event. Before that, ten prompts that share
nothing: the first request after `/ready` over the tenth.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import ROOT, options, print_header, start_server, verdict

FIRST_REQUESTS = 10
OURS = "ms-codegeex"
REUSE_AIM, FIRST_AIM, RATIO_AIM = 0.95, 1.2, 1.0
LIMIT_SECONDS = 600


def be_llama(settings: dict[str, Any]) -> None:
    """Be llama.cpp's server: print its address, and end with standard input."""
    import xllamacpp

    values = xllamacpp.CommonParams()
    values.model.path, values.hostnames, values.port = settings["model"], ["127.0.0.1"], 0
    values.n_ctx, values.n_parallel = settings["context"], 1
    values.cpuparams.n_threads = values.cpuparams_batch.n_threads = settings["threads"]
    server = xllamacpp.Server(values)
    print(server.listening_address, flush=True)
    sys.stdin.read()
    os._exit(0)


@dataclass
class Side:
    """A server, and what was measured: seconds to the first token, and tokens of prompts reused and computed."""

    name: str
    process: subprocess.Popen[str]
    address: str
    first: list[float] = field(default_factory=list)
    reused: int = 0
    computed: int = 0

    def ask(self, ids: Sequence[int], new: int) -> tuple[float, dict[str, Any]]:
        """Seconds to the first event of an answer, and its last event."""
        body = {"prompt": list(ids), "max_tokens": new, "temperature": 0, "stream": True, "cache_prompt": True}
        data = json.dumps(body)
        begin, first, last = time.perf_counter(), 0.0, b""
        connection = http.client.HTTPConnection(self.address, timeout=LIMIT_SECONDS)
        connection.request("POST", "/v1/completions", data, {"Content-Type": "application/json", "Connection": "close"})
        response = connection.getresponse()
        for line in response:
            if line.startswith(b"data: {"):
                first, last = first or time.perf_counter() - begin, line[6:]
        connection.close()
        if response.status != 200 or not last:
            raise SystemExit(f"{self.name} answered {response.status}")
        return first, json.loads(last)

    def keystroke(self, ids: Sequence[int], new: int) -> None:
        """Ask, and note what it took."""
        before = self.counted()
        seconds, last = self.ask(ids, new)
        self.first.append(seconds)
        reused = self.counted() - before if "timings" not in last else last["timings"]["cache_n"]
        self.reused += reused
        self.computed += len(ids) - reused

    def counted(self) -> int:
        """Tokens of prompts that our server has reused so far; 0 for llama.cpp's."""
        if self.name != OURS:
            return 0
        with urllib.request.urlopen(f"http://{self.address}/metrics") as response:
            found = re.search(rb"^\w*reused_tokens_total (\S+)", response.read(), re.MULTILINE)
        return int(float(found[1]))

    def end(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        else:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def ours(model: Path, threads: int) -> Side:
    return Side(OURS, *start_server(model, "--max-concurrency", "1", "--threads", str(threads)))


def theirs(python: Path, model: Path, threads: int, context: int) -> Side:
    """llama.cpp's server in a Python that has xllamacpp."""
    settings = json.dumps({"model": str(model), "threads": threads, "context": context})
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    process = subprocess.Popen([str(python), __file__, "--be-llama", settings], **pipes)
    for line in process.stdout:
        if line.startswith("http://"):
            return Side("llama.cpp", process, line.partition("//")[2].strip().rstrip("/"))
    raise SystemExit(f"--llama-python: {python} started no server; try it with --be-llama '{settings}'")


def typing(text: str, tokenizer: Any, before: int, after: int, keystrokes: int) -> Iterator[list[int]]:
    """The ids of each prompt: the text after the cursor, then the text before it, which grows by a character."""
    ids = tokenizer.encode(text)
    begin = len(tokenizer.decode(ids[:before]))
    rest = tokenizer.encode(text[begin + keystrokes :])[:after]
    if len(rest) < after:
        raise SystemExit("--file: it is too short; give one with more tokens, or fewer --keystrokes")
    for count in range(1, keystrokes + 1):
        yield [*rest, *tokenizer.encode(text[: begin + count])]


def unrelated(vocabulary: int, length: int) -> list[list[int]]:
    """Prompts of which no two begin alike."""
    chance = random.Random(5)
    return [[number, *(chance.randrange(vocabulary) for _ in range(length - 1))] for number in range(FIRST_REQUESTS)]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of them lies."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def report(sides: Sequence[Side]) -> dict[str, Any]:
    """Print what was measured, and return it."""
    found: dict[str, Any] = {}
    for side in sides:
        share = side.reused / (side.reused + side.computed)
        half, most = (1e3 * percentile(side.first, each) for each in (0.5, 0.95))
        print(
            f"  {side.name:12} first token p50 {half:.0f} ms, p95 {most:.0f} ms; reused {100 * share:.1f} % of tokens"
        )
        found[side.name] = {"p50_ms": half, "p95_ms": most, "reused": share}
    reused = found[sides[0].name]["reused"]
    print(f"  reuse: {reused:.3g}, {verdict(reused, REUSE_AIM, least=True)}")
    if len(sides) > 1:
        for name, share in (("p50", 0.5), ("p95", 0.95)):
            ratio = percentile(sides[0].first, share) / percentile(sides[1].first, share)
            print(f"  {name} over llama.cpp's: {ratio:.3g}, {verdict(ratio, RATIO_AIM)}")
            found[f"{name}_ratio"] = ratio
    return found


def main() -> None:
    parser = options(__doc__, threads=True, models=True)
    parser.add_argument("--tiny", action="store_true", help="a tiny model, without a peer")
    parser.add_argument("--llama-python", type=Path, help="a Python with xllamacpp")
    parser.add_argument("--file", type=Path, default=ROOT / "ms_codegeex" / "base" / "options.py", help="what is typed")
    parser.add_argument("--keystrokes", type=int, default=200)
    parser.add_argument("--before", type=int, default=600, help="tokens before the cursor at first (default 600)")
    parser.add_argument("--after", type=int, default=200, help="tokens after the cursor (default 200)")
    parser.add_argument("--new", type=int, default=16, help="tokens of an answer (default 16)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--be-llama", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.be_llama:
        return be_llama(arguments.be_llama)
    from decode import make_models

    from ms_codegeex.data.tokenizer import load_tokenizer

    print_header("mindspore", "fastapi", "uvicorn")
    peer = arguments.llama_python is not None and not arguments.tiny
    directory = make_models(
        arguments.models, arguments.tiny, [] if arguments.tiny else ["ours-8", *["llama_cpp-q8_0"] * peer]
    )
    tokenizer = load_tokenizer(directory)
    text = arguments.file.read_text(encoding="utf-8")
    prompts = list(typing(text, tokenizer, arguments.before, arguments.after, arguments.keystrokes))
    with ExitStack() as stack:
        model = directory if arguments.tiny else directory.with_name(f"{directory.name}-ours-8")
        sides = [ours(model, arguments.threads)]
        stack.callback(sides[0].end)
        firsts = [sides[0].ask(ids, 1)[0] for ids in unrelated(tokenizer.vocab_size, len(prompts[0]))]
        if peer:
            (file,) = directory.with_name(f"{directory.name}-llama_cpp-q8_0").glob("*.gguf")
            sides.append(theirs(arguments.llama_python, file, arguments.threads, 2048))
            stack.callback(sides[1].end)
        for side in sides:  # the file is opened: what is typed begins like this
            side.ask(prompts[0][:-1], 1)
        for number, ids in enumerate(prompts):
            for side in sides[:: 1 if number % 2 else -1]:
                side.keystroke(ids, arguments.new)
        print(
            f"  {model.name}, {arguments.threads} threads; {len(prompts)} keystrokes, {len(prompts[-1])} tokens at last"
        )
        found = report(sides)
        ratio, median = firsts[0] / firsts[-1], statistics.median(firsts[1:])
        print(f"  first request after /ready over the tenth: {ratio:.3g}, {verdict(ratio, FIRST_AIM)}")
        print(f"  over the median of the other nine: {firsts[0] / median:.3g}")
    if arguments.json:
        arguments.json.write_text(json.dumps({**found, "first_over_tenth": ratio}, indent=2) + "\n")


if __name__ == "__main__":
    main()
