"""Options of `ms-codegeex serve`."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import Option, check_ranges
from ms_codegeex.generation.engine_options import EngineOptions
from ms_codegeex.generation.levels import cpu_level


def _named_adapter(text: str) -> tuple[str, Path]:
    name, _, directory = text.partition("=")
    if not name or not directory:
        raise UserError(f"--adapter: {text} is not NAME=DIR; give a name and a directory, for example sql=runs/sql")
    return name, Path(directory)


@dataclass(frozen=True, kw_only=True)
class ServeSettings(EngineOptions):
    """Options of the verb `serve`, by the names of its flags."""

    model: Annotated[
        Path,
        Option("model directory (quantised or not), run directory or checkpoint", "DIR", words=("--model-path",)),
    ]
    name: Annotated[str, Option("the model's name in the API (default: that of its directory)")] = ""
    host: Annotated[str, Option("address to listen at", words=("--listen",))] = "127.0.0.1"
    port: Annotated[int, Option("port to listen at; 0: any free one", "N", ge=0, le=65535)] = 8000
    demo: Annotated[bool, Option("a web page at / to try the model in a browser")] = False
    example_path: Annotated[Path | None, Option("examples of the demo: JSON lines with code and language", "FILE")] = (
        None
    )
    bits: Annotated[
        Literal[8, 4] | None, Option("round the model's matrices while it is loaded", words=("--quantize",))
    ] = None
    devices: Annotated[
        int,
        Option(
            "share the model among N processes, on a machine with GPUs one for each", "N", ge=1, words=("--n-gpus",)
        ),
    ] = 1
    adapter: Annotated[
        tuple[tuple[str, Path], ...],
        Option(
            "LoRA adapters on the model, which requests choose by `model`: runs, or directories in PEFT's layout",
            "NAME=DIR",
            convert=_named_adapter,
        ),
    ] = ()
    max_concurrency: Annotated[
        int | None,
        Option("answers computed at once (default: as many as half of the free memory holds, up to 16)", "N", ge=1),
    ] = None
    max_queue: Annotated[int, Option("answers that wait; more get 429", "N", ge=0)] = 64
    max_connections: Annotated[
        int, Option("clients that may be connected; idle connections are closed for new ones", "N", ge=1)
    ] = 1024
    deadline: Annotated[float, Option("maximum seconds of a request", "S", gt=0)] = 600.0
    hang: Annotated[float, Option("restart an engine after this many silent seconds", "S", gt=0)] = 300.0
    max_body: Annotated[int, Option("longest body; others get 413 (default: 4 MiB)", "BYTES", ge=1)] = 4 << 20
    grace: Annotated[float, Option("seconds after SIGTERM for answers in progress", "S", ge=0, lt=float("inf"))] = 30.0
    api_key_file: Annotated[
        Path | None, Option("a key, or its SHA-256, in each line (docs/serve.md); read again on SIGHUP", "FILE")
    ] = None
    requests_per_minute: Annotated[
        int | None, Option("limit of each key; more get 429 (default: no limit)", "N", ge=1)
    ] = None
    cors: Annotated[
        tuple[str, ...], Option("origins of web pages that may send requests (default: none)", "ORIGIN")
    ] = ()
    access_log: Annotated[
        str | None, Option("a line of JSON for each request; -: on standard output (default: none)", "FILE|-")
    ] = None
    log_prompts: Annotated[bool, Option("the access log also has the text of prompts")] = False

    def __post_init__(self) -> None:
        check_ranges(self, flags=True)
        cpu_level(self.cpu_level)
        names = [name for name, _ in self.adapter]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise UserError(f"--adapter: two are named {repeated[0]}; give each another name")
        if self.example_path is not None and not self.demo:
            raise UserError("--example-path: the examples are those of the demo; add --demo")
        if self.log_prompts and self.access_log is None:
            raise UserError("--log-prompts: there is no log that they could be in; add --access-log FILE")
        if self.api_key_file is None and not is_loopback(self.host):
            raise UserError(
                f"--host: {self.host} can be reached from other machines and there are no keys; give --api-key-file, "
                "or --host 127.0.0.1"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; a name other than localhost can mean any address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
