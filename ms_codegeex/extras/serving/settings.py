"""Options of `ms-codegeex serve`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import REQUIRED, check_ranges, option
from ms_codegeex.base.verb_options import CHECKPOINT
from ms_codegeex.generation.engine_options import EngineOptions
from ms_codegeex.kernels.levels import cpu_level


def _named_adapter(text: str) -> tuple[str, Path]:
    name, _, directory = text.partition("=")
    if not name or not directory:
        raise UserError(f"--adapter: {text} is not NAME=DIR; give a name and a directory, for example sql=runs/sql")
    return name, Path(directory)


def _byte_count(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15})(\.[0-9]{1,3})?\s*([kmgt]?)(i?)b?", text.strip().lower())
    if match is None or (match[2] and not match[3]):
        raise UserError(f"--prefix-memory: {text!r} is not a size; give one such as 2GB, 512MiB or 0")
    power = "kmgt".find(match[3]) + 1 if match[3] else 0
    return int(float(match[1] + (match[2] or "")) * (1024 if match[4] else 1000) ** power)


@dataclass(frozen=True, kw_only=True)
class ServeSettings(EngineOptions):
    """Options of the command `serve`, named like its flags."""

    model: Path = option(
        "model directory (quantised or not), run directory or checkpoint", "DIR", REQUIRED, words=("--model-path",)
    )
    checkpoint: str | None = CHECKPOINT.field(None, kw_only=True)
    name: str = option("the model's name in the API (default: that of its directory)", default="")
    host: str = option("address to listen at", default="127.0.0.1", words=("--listen",))
    port: int = option("port to listen at; 0: any free one", "N", 8000, ge=0, le=65535)
    demo: bool = option("a web page at / to try the model in a browser", default=False)
    example_path: Path | None = option("examples of the demo: JSON lines with code and language", "FILE")
    bits: Literal[8, 4] | None = option("round the model's matrices while it is loaded", words=("--quantize",))
    devices: int = option(
        "share the model among N processes, on a machine with GPUs one for each", "N", 1, ge=1, words=("--n-gpus",)
    )
    adapter: tuple[tuple[str, Path], ...] = option(
        "LoRA adapters on the model, which requests choose by `model`: runs, or directories in PEFT's layout",
        "NAME=DIR",
        (),
        extended=True,
        convert=_named_adapter,
    )
    special_tokens: bool = option(
        "names of special tokens in a request's text are those tokens (default: text)", default=False
    )
    max_concurrency: int | None = option(
        "answers computed at once (default: as many as half of the free memory holds, up to 16)", "N", ge=1
    )
    prefix_memory: int | None = option(
        "host memory for prompts that no slot holds any more, such as 2GB; 0: none (default: up to 2GB, at most a "
        "quarter of the free memory)",
        "SIZE",
        ge=0,
        convert=_byte_count,
    )
    mixed_rows: int = option(
        "rows of a pass, of prompts and answers together, while answers run; with fewer, answers stall less while a "
        "prompt is read, and its first token comes later (docs/serve.md)",
        "N",
        64,
        ge=2,
    )
    max_queue: int = option("answers that wait; more get 429", "N", 64, ge=0)
    max_connections: int = option(
        "clients that may be connected; idle connections are closed for new ones", "N", 1024, ge=1
    )
    deadline: float = option("maximum seconds of a request", "S", 600.0, gt=0)
    hang: float = option("restart an engine after this many silent seconds", "S", 300.0, gt=0)
    max_body: int = option("longest body; others get 413 (default: 4 MiB)", "BYTES", 4 << 20, ge=1)
    grace: float = option("seconds after SIGTERM for answers in progress", "S", 30.0, ge=0, lt=float("inf"))
    api_key_file: Path | None = option("lines with a key or its SHA-256 (docs/serve.md); read again on SIGHUP", "FILE")
    requests_per_minute: int | None = option(
        "limit of each key, in answers; more get 429 (default: no limit)", "N", ge=1
    )
    cors: tuple[str, ...] = option(
        "web pages that may send requests, such as https://*.example.com or http://localhost:* (default: none)",
        "ORIGIN",
        (),
    )
    access_log: str | None = option("a line of JSON for each request; -: on standard output (default: none)", "FILE|-")
    log_prompts: bool = option("the access log also has the text of prompts", default=False)

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
            why = f"{self.host} can be reached from other machines and there are no keys"
            raise UserError(f"--host: {why}; give --api-key-file FILE, or --host 127.0.0.1")

    def generator_options(self) -> dict[str, Any]:
        return {
            **{each.name: getattr(self, each.name) for each in fields(EngineOptions)},
            "model": str(self.model),
            "slots": self.max_concurrency,
            "bits": self.bits,
            "prefix_bytes": self.prefix_memory,
            "mixed_rows": self.mixed_rows,
            "adapters": {name: str(path) for name, path in self.adapter},
        }


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`. A name other than localhost may resolve to any address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
