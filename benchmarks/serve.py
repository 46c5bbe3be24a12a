"""Tokens/s, requests/s and time to the first token of `ms-codegeex serve`, over the bare engine in the same run.

    python benchmarks/serve.py                               # CodeGen-350M's sizes, 8 bits, 1, 4 and 16 clients
    python benchmarks/serve.py --tiny --rounds 1             # to check that it works
    python benchmarks/serve.py --model DIR --clients 4 --new 128
    python benchmarks/serve.py --peer                        # against `transformers serve`, both with FP32 weights

The bare engine is a `Generator` in a separate process whose requests come from as many threads as there are clients.
The sides get the same prompts, as ids, and take turns; answers are greedy and streamed, and have to be equal. In the
last measurement, clients that leave in the middle of an answer and clients that read slowly are mixed with others. All
clients are one process on the server's cores.

The peer needs torch, transformers and accelerate (`pip install --no-deps accelerate`). It gets the prompts as text and
answers each request in a thread, because its continuous batching does not run on a CPU (transformers 4.57.1). It sends
text at the end of a word, so its first text comes after its first token.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import Worker, be_worker, options, print_command, quotients, spread, start_server, verdict, versions
from decode import make_models

AIM = 0.95
LENGTHS = (16, 64, 200)  # tokens of prompts
LEAVING, SLOW = 4, 2  # of the mixed clients
SLOW_SECONDS = 0.05  # between two reads
LIMIT_SECONDS = 1800  # of a round of one server
PEER_PACKAGES = ("torch", "transformers", "accelerate")


def words(tokenizer: Any) -> list[int]:
    """Ids of a space and letters; the text of any sequence of them has these ids again."""
    return [i for i in range(tokenizer.vocab_size) if re.fullmatch(rb" [a-zA-Z]+", tokenizer.token_bytes(i))]


def prompts(seed: int, count: int, vocabulary: list[int]) -> list[list[int]]:
    """Ids out of `vocabulary`, new ones for each seed."""
    generator = np.random.default_rng(seed)
    return [generator.choice(vocabulary, LENGTHS[number % len(LENGTHS)]).tolist() for number in range(count)]


def bare(options: dict[str, Any]) -> None:
    """Answer each request, `[clients, prompts, new]`, with the seconds and all ids."""

    def start() -> Callable[[Any], object]:
        from ms_codegeex.generation.engine import Generator
        from ms_codegeex.generation.sampling import SamplingSettings

        generator = Generator(Path(options.pop("model")), **options)

        def answer(request: Any) -> tuple[float, list[list[int]]]:
            clients, given, new = request

            def ids_of(ids: list[int]) -> list[int]:
                return [chosen.token for chosen in generator.request(ids, SamplingSettings(new, temperature=0.0))]

            begin = time.perf_counter()
            with ThreadPoolExecutor(clients) as pool:
                found = list(pool.map(ids_of, given))
            return time.perf_counter() - begin, found

        return answer

    be_worker(start)


class Bare(Worker):
    """The bare engine, in its own session like the server's: Linux shares the cores among sessions."""

    def __init__(self, options: dict[str, Any]):
        super().__init__(__file__, "--bare", json.dumps(options), session=True)

    def measure(self, clients: int, given: list[list[int]], new: int) -> tuple[float, list[list[int]]]:
        return self.ask([clients, given, new])


@dataclass
class Answered:
    """A client's view of an answer: seconds to the first text, tokens, text."""

    first: float = 0.0
    tokens: int = 0
    text: str = ""
    complete: bool = False


@dataclass
class Load:
    """Clients that share a list of prompts, each with one request at a time."""

    server: Server
    new: int
    answers: dict[int, Answered] = field(default_factory=dict)

    async def run(self, clients: int, given: list[list[int]], leaving: int = 0, slow: int = 0) -> float:
        """Seconds until the ordinary clients have their answers. The first `leaving` clients go away at some event;
        the next `slow` read slowly. Both kinds continue until the others are done."""
        waiting = list(enumerate(given))[::-1]
        odd = [asyncio.ensure_future(self._odd(number, given, number < leaving)) for number in range(leaving + slow)]

        async def client() -> None:
            while waiting:
                number, ids = waiting.pop()
                self.answers[number] = await self._ask(ids)

        begin = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients - leaving - slow)))
        seconds = time.perf_counter() - begin
        for task in odd:
            task.cancel()
        await asyncio.gather(*odd, return_exceptions=True)
        return seconds

    async def _odd(self, number: int, given: list[list[int]], leaves: bool) -> None:
        chance = random.Random(number)
        while True:
            ids = chance.choice(given)
            await self._ask(
                ids, last=chance.randrange(self.new) if leaves else None, pause=0 if leaves else SLOW_SECONDS
            )

    async def _ask(self, ids: list[int], last: int | None = None, pause: float = 0.0) -> Answered:
        """One streamed request. With `last`, the connection is closed after that many events."""
        data = json.dumps(self.server.body(ids, self.new)).encode()
        head = f"POST {self.server.path} HTTP/1.1\r\nHost: {self.server.host}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        reader, writer = await asyncio.open_connection(
            self.server.host, self.server.port, limit=1 << 14 if pause else 1 << 20
        )
        found, begin, received = Answered(), time.perf_counter(), []
        try:
            writer.write(head.encode() + data)
            while part := await reader.read(1 << 16):
                if self.server.mark in part and not found.first:
                    found.first = time.perf_counter() - begin
                received.append(part)
                if last is not None and len(received) > last:
                    return found
                if pause:
                    await asyncio.sleep(pause)
        finally:
            writer.close()
        events = [line[6:] for line in unchunked(b"".join(received)).split(b"\n\n") if line.startswith(b"data: ")]
        values = [json.loads(event) for event in events if event != b"[DONE]"]
        if any("error" in value for value in values):
            raise RuntimeError(f"the server answered {values[-1]}")
        choices = [choice for value in values for choice in value["choices"]]
        found.complete = any(choice.get("finish_reason") for choice in choices)
        found.text = "".join(map(self.server.text, choices))
        found.tokens = self.server.tokens(values, self.new)
        return found


def unchunked(response: bytes) -> bytes:
    """The body of a response in chunks."""
    head, _, rest = response.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the server answered {response[:300]!r}")
    parts = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        parts.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return b"".join(parts)


class Server:
    """`ms-codegeex serve`."""

    path = "/v1/completions"
    mark = b"data: "  # is in the first event with text

    def __init__(self, options: dict[str, Any]):
        words = ("--max-concurrency", str(options["slots"]), "--threads", str(options["threads"]))
        self.process, address = start_server(options["model"], *words)
        self.host, _, port = address.partition(":")
        self.port = int(port)

    def body(self, ids: list[int], new: int) -> dict[str, Any]:
        body = {"prompt": ids, "max_tokens": new, "temperature": 0, "stream": True}
        return {**body, "stream_options": {"include_usage": True}}

    def text(self, choice: dict[str, Any]) -> str:
        return choice["text"]

    def tokens(self, events: list[dict[str, Any]], new: int) -> int:
        return events[-1]["usage"]["completion_tokens"]

    def measure(self, clients: int, given: list[list[int]], new: int, **mixed: int) -> tuple[float, list[Answered]]:
        load = Load(self, new)
        seconds = asyncio.run(asyncio.wait_for(load.run(clients, given, **mixed), LIMIT_SECONDS))
        answers = [load.answers[number] for number in range(len(given))]
        if not all(answer.complete for answer in answers):
            raise RuntimeError("an answer is not complete")
        return seconds, answers

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


class Peer(Server):
    """`transformers serve`, whose only route for text is a chat's; the template adds nothing to the prompt."""

    path = "/v1/chat/completions"
    mark = b'"content"'

    def __init__(self, options: dict[str, Any], tokenizer: Any):
        self.tokenizer, self.directory = tokenizer, tempfile.TemporaryDirectory()
        self.model = Path(self.directory.name, "model")
        self.model.mkdir()
        for file in Path(options["model"]).iterdir():
            (self.model / file.name).symlink_to(file)
        template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
        (self.model / "chat_template.jinja").write_text(template)
        words = [sys.executable, "-m", "transformers.commands.transformers_cli", "serve", "--host", "127.0.0.1"]
        words += ["--port", "0", "--device", "cpu", "--model_timeout", "86400"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(options["threads"]), "CUDA_VISIBLE_DEVICES": ""}
        environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        log = Path(self.directory.name, "log")
        with log.open("w") as file:
            pipes = {"stdout": file, "stderr": file, "start_new_session": True}
            self.process = subprocess.Popen(words, env=environment, **pipes)
        while not (address := re.search(r"running on http://([\d.]+):(\d+)", log.read_text())):
            if self.process.poll() is not None:
                raise RuntimeError(f"transformers serve ended: {log.read_text()[-1000:]}")
            time.sleep(0.1)
        self.host, self.port = address[1], int(address[2])
        self.measure(1, [tokenizer.encode(" one")], 1)  # loads the model; several first requests would each load it

    def body(self, ids: list[int], new: int) -> dict[str, Any]:
        text = self.tokenizer.decode(ids)
        if self.tokenizer.encode(text) != ids:
            raise RuntimeError(f"the text of a prompt has other ids than the prompt: {text!r}")
        # no token has the id -1, so none ends the answer
        settings = {"do_sample": False, "max_new_tokens": new, "eos_token_id": -1, "pad_token_id": 0}
        messages = [{"role": "user", "content": text}]
        model = {"model": str(self.model), "generation_config": json.dumps(settings)}
        return {**model, "messages": messages, "stream": True}

    def text(self, choice: dict[str, Any]) -> str:
        return choice["delta"].get("content", "")

    def tokens(self, events: list[dict[str, Any]], new: int) -> int:
        """Tokens of an answer: the server does not count them, and nothing ends an answer early."""
        return new

    def end(self) -> None:
        super().end()
        self.directory.cleanup()


def peer_missing(asked: bool, model: Path) -> str:
    """Why there is no peer; empty if there can be one."""
    if not asked:
        return "not asked for (--peer)"
    missing = [name for name in PEER_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    return "" if (model / "model.safetensors").is_file() else f"transformers does not read {model}"


@dataclass
class Rounds:
    """What one server reached in the rounds that count."""

    rates: list[float] = field(default_factory=list)  # tokens/s
    requests: list[float] = field(default_factory=list)  # requests/s
    first: list[float] = field(default_factory=list)  # seconds

    def add(self, seconds: float, answers: list[Answered]) -> None:
        self.rates.append(sum(answer.tokens for answer in answers) / seconds)
        self.requests.append(len(answers) / seconds)
        self.first += [answer.first for answer in answers]

    def __str__(self) -> str:
        rates = f"{spread(self.rates)} tokens/s, {spread(self.requests)} requests/s"
        return f"{rates}, first text {milliseconds(self.first)}"


def milliseconds(values: list[float]) -> str:
    """Median and 99th percentile."""
    ordered = sorted(values)
    return f"p50 {1e3 * statistics.median(ordered):.0f} ms, p99 {1e3 * ordered[int(0.99 * (len(ordered) - 1))]:.0f} ms"


def compare(
    arguments: argparse.Namespace, engine: Bare, server: Server, peer: Peer | None, tokenizer: Any, clients: int
) -> None:
    """All rounds of a number of clients; the first one is not counted."""
    ours, theirs, ratios, equal, vocabulary = Rounds(), Rounds(), [], [], words(tokenizer)
    sides = [engine, server, *([peer] if peer else [])]
    for number in range(arguments.rounds + 1):
        given = prompts(1000 * clients + number, arguments.requests * clients, vocabulary)
        order = sides[:: 1 if number % 2 else -1]
        measured = {side: side.measure(clients, given, arguments.new) for side in order}
        (alone, ids), (seconds, answers) = measured[engine], measured[server]
        texts = ["".join(tokenizer.continuation(prompt, new)) for prompt, new in zip(given, ids, strict=True)]
        if texts != [answer.text for answer in answers]:
            raise RuntimeError("the server's answer is not the engine's")
        if number:
            ratios.append(alone / seconds)
            ours.add(seconds, answers)
            if peer:
                theirs.add(*measured[peer])
                equal += [text == answer.text for text, answer in zip(texts, measured[peer][1], strict=True)]
    met = verdict(statistics.median(ratios), AIM, least=True)
    print(f"  {clients:2} clients: {ours}\n    tokens/s over the bare engine: {spread(ratios)}, {met}")
    if peer:
        over = spread(quotients(ours.rates, theirs.rates))
        print(f"    transformers serve: {theirs}\n    tokens/s over transformers serve: {over}; ", end="")
        print(f"{sum(equal)} of {len(equal)} answers are equal")
    sys.stdout.flush()


def mix(arguments: argparse.Namespace, server: Server, tokenizer: Any) -> None:
    """Clients that leave and slow ones among others."""
    clients, found = max(arguments.clients), Rounds()
    given = prompts(77, arguments.requests * clients, words(tokenizer))
    odd = {"leaving": min(LEAVING, clients // 4), "slow": min(SLOW, clients // 4)}
    for _ in range(max(arguments.rounds, 1)):
        found.add(*server.measure(clients, given, arguments.new, **odd))
    others = clients - sum(odd.values())
    print(f"  {others} clients with {odd['leaving']} that leave and {odd['slow']} slow ones: {found}", flush=True)


def main() -> None:
    parser = options(__doc__, rounds=5, threads=True, models=True)
    parser.add_argument("--model", type=Path, help="default: random weights of CodeGen-350M's sizes, in --models")
    parser.add_argument("--tiny", action="store_true", help="a tiny model")
    parser.add_argument("--peer", action="store_true", help="transformers serve too, with FP32 weights on both sides")
    parser.add_argument("--clients", type=int, nargs="+", default=(1, 4, 16))
    parser.add_argument("--requests", type=int, default=3, help="of each client in a round (default 3)")
    parser.add_argument("--new", type=int, default=64, help="tokens of an answer (default 64)")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--bare", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        return bare(arguments.bare)
    print_command()
    model = arguments.model
    if model is None:
        plain = arguments.tiny or arguments.peer  # the peer does not read our 8 bits
        directory = make_models(arguments.models, arguments.tiny, [] if plain else ["ours-8"])
        model = directory if plain else directory.with_name(f"{directory.name}-ours-8")
    from ms_codegeex.data.tokenizer import load_tokenizer

    missing, tokenizer = peer_missing(arguments.peer, model), load_tokenizer(model)
    print(versions("mindspore", "fastapi", "uvicorn", *(() if missing else PEER_PACKAGES)))
    print(f"  {model.name}, {arguments.threads} threads" + (f"; no peer: {missing}" if missing else ""), flush=True)
    shared = {"model": str(model.absolute()), "slots": arguments.slots, "threads": arguments.threads}
    with ExitStack() as sides:
        engine = Bare(shared)
        sides.callback(engine.end)
        server = Server(shared)
        sides.callback(server.end)
        peer = None if missing else Peer(shared, tokenizer)
        if peer:
            sides.callback(peer.end)
        for clients in arguments.clients:
            compare(arguments, engine, server, peer, tokenizer, clients)
        mix(arguments, server, tokenizer)


if __name__ == "__main__":
    main()
