"""Options of `ms-codegeex serve`."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.generation.levels import AUTO, cpu_level


@dataclass(frozen=True)
class ServeSettings:
    """Options of the verb `serve`, by the names of its flags.

    `example_path`: the demo's examples, if not our own. `bits` quantises a model on loading; `device` is the kind of
    device that computes, several `devices` share the model. `adapter`: names of LoRA adapters, each with its directory.
    Without `max_concurrency`, as many answers are computed at once as half of the free memory holds. `max_queue` more
    answers may wait, and `max_connections` clients may be connected. `deadline` is the time limit of a request, `hang`
    the time after which a silent engine is restarted, and `grace` the time from SIGTERM to the end, in seconds.
    """

    model: Path
    name: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    api_key_file: Path | None = None
    demo: bool = False
    example_path: Path | None = None
    bits: int | None = None
    fast: bool = False
    cache_bits: int = 32
    threads: int | None = None
    cpu_level: str = AUTO
    device: str | None = None
    devices: int = 1
    speculate: str | None = None
    adapter: tuple[tuple[str, Path], ...] = ()
    max_concurrency: int | None = None
    max_queue: int = 64
    max_connections: int = 1024
    deadline: float = 600.0
    hang: float = 300.0
    max_body: int = 4 << 20
    grace: float = 30.0
    requests_per_minute: int | None = None
    cors: tuple[str, ...] = ()
    log_prompts: bool = False
    access_log: str | None = None

    def __post_init__(self) -> None:
        for name, right, expected in (
            ("port", 0 <= self.port < 65536, "0 (any free one) to 65535"),
            ("bits", self.bits in (None, 8, 4), "8 or 4"),
            ("cache_bits", self.cache_bits in (32, 16), "32 or 16"),
            ("threads", self.threads is None or self.threads >= 0, "0 (MindSpore's operators) or more"),
            ("devices", self.devices >= 1, "1 or more"),
            ("max_concurrency", self.max_concurrency is None or self.max_concurrency >= 1, "1 or more"),
            ("max_queue", self.max_queue >= 0, "0 or more"),
            ("max_connections", self.max_connections >= 1, "1 or more"),
            ("deadline", self.deadline > 0, "a number of seconds above 0"),
            ("hang", self.hang > 0, "a number of seconds above 0"),
            ("max_body", self.max_body >= 1, "a number of bytes above 0"),
            ("grace", 0 <= self.grace < float("inf"), "0 or more seconds"),
            ("requests_per_minute", self.requests_per_minute is None or self.requests_per_minute >= 1, "1 or more"),
        ):
            if not right:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag}: {getattr(self, name)} is out of range; give {expected}")
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
