"""Measurements for Prometheus. Rates, such as tokens per second, follow from the counters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ms_codegeex.serving.access_log import RequestRecord
from ms_codegeex.serving.backend import Backend

FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds
DURATION = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Metrics(Collector):
    """All measurements of a server."""

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
        """The backend's numbers, read when Prometheus asks."""
        backend = self.backend
        for name, text, value in (
            ("ready", "1: requests are answered.", int(backend.ready)),
            ("queue_length", "Answers that wait for a slot.", backend.queued),
            ("slots", "Answers that can be computed at once.", backend.slots),
            ("slots_busy", "Answers that are computed.", backend.active),
        ):
            yield GaugeMetricFamily(f"ms_codegeex_{name}", text, value)
        for each in fields(backend.counters):
            value = getattr(backend.counters, each.name)
            yield CounterMetricFamily(f"ms_codegeex_{each.name}", each.metadata["help"], value)

    def count(self, record: RequestRecord) -> None:
        """Count a request that has ended. Unknown methods share one label, because clients can invent any number."""
        method = record.method if record.method in ("GET", "POST", "OPTIONS", "HEAD") else "other"
        self._requests.labels(record.route, method, str(record.status)).inc()
        self._seconds.labels(record.route).observe(record.ended - record.began)

    def text(self) -> bytes:
        """All measurements in Prometheus' text format."""
        return generate_latest(self.registry)
