"""Prometheus metrics: counters, and gauges that are read on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "kvpress_video_"
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            f"{_PREFIX}requests", "Requests by route and HTTP status.", ("route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            f"{_PREFIX}request_seconds",
            "Seconds to the end of the answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._first = Histogram(
            f"{_PREFIX}first_token_seconds", "Seconds to the first token.", buckets=_SECONDS, registry=self._registry
        )
        self._tokens = Counter(f"{_PREFIX}tokens", "Tokens by kind.", ("kind",), registry=self._registry)
        self._frames = Counter(f"{_PREFIX}frames", "Frames pushed into sessions.", registry=self._registry)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def generated(self, prompt: int, completion: int, first: float | None) -> None:
        """Count the tokens of an answer and its prompt, and record the seconds to its first token."""
        self._tokens.labels("prompt").inc(prompt)
        self._tokens.labels("completion").inc(completion)
        if first is not None:
            self._first.observe(first)

    def pushed(self, frames: int) -> None:
        """Count frames."""
        self._frames.inc(frames)

    def watch(self, read: Callable[[], Mapping[str, float]]) -> None:
        """Add gauges, which are read for each page of metrics."""
        self._registry.register(_Gauges(read))

    def page(self) -> bytes:
        """Write all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _Gauges:
    def __init__(self, read: Callable[[], Mapping[str, float]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Read the gauges."""
        for name, value in self._read().items():
            yield GaugeMetricFamily(_PREFIX + name, name.replace("_", " ").capitalize() + ".", value=value)
