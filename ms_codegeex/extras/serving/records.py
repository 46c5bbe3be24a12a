"""The access log and the measurements for Prometheus. The log has a line of JSON for each request, without the text of
prompts unless requested. Rates, such as tokens per second, follow from the counters."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ms_codegeex.base.appending import AppendedFile
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_error
from ms_codegeex.extras.serving.admission import Caller
from ms_codegeex.extras.serving.backend import Backend

SHOWN = 200  # characters of a path in the log
STANDARD_OUTPUT = 1
FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds
DURATION = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


@dataclass
class RequestRecord:
    """A request's entries for the access log. `guards.RequestRecorder` fills in most of them; the routes add `prompts`,
    `completion_tokens` and `first_token`. Times are seconds of a monotonic clock."""

    id: str
    client: str
    method: str
    path: str
    began: float
    caller: Caller  # whose request it is
    route: str = "unmatched"
    status: int = 0
    prompts: Sequence[Sequence[int]] = ()
    completion_tokens: int = 0
    first_token: float | None = None
    ended: float = 0.0

    def described(self) -> dict[str, Any]:
        return {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "request": self.id,
            "client": self.client,
            "key": self.caller.key or None,
            "method": self.method,
            "route": self.route,
            "path": self.path[:SHOWN],
            "status": self.status,
            "prompt_tokens": sum(map(len, self.prompts)),
            "completion_tokens": self.completion_tokens,
            "first_token_seconds": None if self.first_token is None else round(self.first_token - self.began, 4),
            "seconds": round(self.ended - self.began, 4),
        }


class AccessLog:
    """Writes the log to a file, or to standard output if `target` is `-`. `decode`, if given, turns the ids of a prompt
    into the logged text."""

    def __init__(self, target: str, decode: Callable[[Sequence[int]], str] | None = None):
        self._target, self._decode = target, decode
        self._file, self._failed = self._opened(), False

    def _opened(self) -> AppendedFile:
        try:
            return AppendedFile(STANDARD_OUTPUT if self._target == "-" else Path(self._target))
        except OSError as error:
            raise UserError(
                f"--access-log: {self._target} cannot be written ({error.strerror}); give another file, or -"
            ) from None

    def write(self, record: RequestRecord) -> None:
        """Write the line of a finished request. A full disk or a closed pipe is reported only once."""
        values = record.described()
        if self._decode is not None:
            values["prompts"] = [self._decode(ids) for ids in record.prompts]
        # ASCII only, so that clients cannot inject line breaks or terminal escapes into the log
        line = json.dumps(values, separators=(",", ":"))
        failed = self._file.write(line)
        if failed and not self._failed:
            with contextlib.suppress(OSError):  # standard error may be gone too
                print_error(
                    f"--access-log: {self._target} cannot be written ({failed.strerror}); its lines wait, and are lost "
                    "if they become too many"
                )
        self._failed = failed is not None

    def reopen(self) -> None:
        """Open the file anew, after the old one was moved away (log rotation)."""
        old, self._file = self._file, self._opened()
        old.close()

    def close(self) -> None:
        self._file.close()


class Metrics(Collector):
    """All measurements of a server, in the registry that `text` exports."""

    def __init__(self, backend: Backend):
        self.backend, self.registry = backend, CollectorRegistry()
        self.registry.register(self)
        self._requests = Counter(
            "ms_codegeex_requests", "Requests by route, method and status.", ("route", "method", "status"),
            registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "ms_codegeex_request_seconds", "Duration of requests.", ("route",), buckets=DURATION, registry=self.registry
        )
        first = Histogram(
            "ms_codegeex_time_to_first_token_seconds",
            "From the arrival of a request to its first token.",
            buckets=FIRST_TOKEN,
            registry=self.registry,
        )
        backend.first_token_observers.append(first.observe)

    def collect(self) -> Iterator[Metric]:
        """Yield the backend's numbers, read whenever Prometheus asks for them."""
        backend = self.backend
        for name, text, value in (
            ("ready", "1: requests are answered.", int(backend.ready)),
            ("queue_length", "Answers that wait for a slot.", backend.queued),
            ("slots", "Answers that can be computed at once.", backend.slots),
            ("slots_busy", "Answers that are computed.", backend.active),
            ("prefix_bytes", "Bytes used by the memory for prefixes.", backend.prefix_bytes),
        ):
            yield GaugeMetricFamily(f"ms_codegeex_{name}", text, value)
        for each in fields(backend.counters):
            value = getattr(backend.counters, each.name)
            yield CounterMetricFamily(f"ms_codegeex_{each.name}", each.metadata["help"], value)

    def count(self, record: RequestRecord) -> None:
        """Count a finished request. Unknown methods share one label, because clients could invent any number."""
        method = record.method if record.method in ("GET", "POST", "OPTIONS", "HEAD") else "other"
        self._requests.labels(record.route, method, str(record.status)).inc()
        self._seconds.labels(record.route).observe(record.ended - record.began)

    def text(self) -> bytes:
        return generate_latest(self.registry)
