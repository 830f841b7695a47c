"""Prometheus metrics: what the backend counts itself, and what queue and database say."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from saymask.errors import QueueUnavailable
from saymask_backend.queue.job_queue import JobQueue
from saymask_backend.records.stores import Stores
from saymask_backend.services.predict import Answer
from saymask_backend.services.segment import Suggestions, TaskSuggestions

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)


class Metrics:
    """All metrics of one backend.

    Args:
        stores: of requests, events and records.
        queue: with a short timeout.
    """

    def __init__(self, stores: Stores, queue: JobQueue) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "saymask_http_requests", "HTTP requests.", ("path", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "saymask_http_request_seconds", "Seconds until the answer.", ("path",),
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._stages = Histogram(
            "saymask_stage_seconds", "Seconds per stage of an answer, on the worker.", ("stage",),
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._registry.register(_StateCollector(stores, queue))

    def observe_request(self, path: str, status: int, seconds: float) -> None:
        """Count one HTTP request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def observe_answer(self, answer: Answer) -> None:
        """Count the stages that an answer went through."""
        suggestions = answer.answers if isinstance(answer, TaskSuggestions) else (answer,)
        for one in suggestions:
            if isinstance(one, Suggestions):
                for name, ms in one.result.timings.model_dump().items():
                    if ms:
                        self._stages.labels(name.removesuffix("_ms")).observe(ms / 1000)

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)


class MetricsMiddleware:
    """Counts requests by route, so that odd paths make no new series."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)
            # Work in the background continues after the answer.
            if message["type"] == "http.response.body" and not message.get("more_body"):
                path = getattr(scope.get("route"), "path", "other")
                self._metrics.observe_request(path, status, time.perf_counter() - started)

        await self._app(scope, receive, watch)


class _StateCollector(Collector):
    """Reads queue and database when Prometheus asks; a queue that is down is a metric too."""

    def __init__(self, stores: Stores, queue: JobQueue) -> None:
        self._stores = stores
        self._queue = queue

    def collect(self) -> Iterator[Metric]:
        stores = self._stores
        for name, text, label, counts in (
            ("saymask_events", "Webhooks.", "state", stores.events.count_events_by_state()),
            ("saymask_asked", "Expressions asked.", "status", stores.requests.count_requests()),
            ("saymask_records", "Records.", "outcome", stores.records.count_outcomes()),
        ):
            yield _to_gauge(name, text, label, counts)
        try:
            yield from self._collect_queue()
            is_up = 1.0
        except QueueUnavailable:
            is_up = 0.0
        yield GaugeMetricFamily("saymask_queue_up", "Whether the queue answers.", value=is_up)

    def _collect_queue(self) -> Iterator[Metric]:
        queue = self._queue
        depths, ages = queue.get_depths(), queue.get_ages_s()
        workers = queue.list_workers()
        yield _to_gauge("saymask_queue_depth", "Waiting jobs.", "queue", depths)
        yield _to_gauge("saymask_queue_age_seconds", "Age of the oldest job.", "queue", ages)
        states = dict.fromkeys(("loading", "idle", "busy"), 0)
        for worker in workers:
            states[worker.state] += 1
        yield _to_gauge("saymask_workers", "Live workers.", "state", states)
        cache = {
            "hits": sum(worker.cache_hits for worker in workers),
            "misses": sum(worker.cache_misses for worker in workers),
        }
        yield _to_gauge("saymask_cache_lookups", "By live workers.", "result", cache)
        counts = queue.get_prepare_counts()
        prepared = {"prepared": counts.prepared, "failed": counts.failed}
        yield _to_gauge("saymask_images", "Prepared in the background.", "result", prepared)


def _to_gauge(
    name: str, text: str, label: str, values: dict[str, int] | dict[str, float]
) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        gauge.add_metric([key], value)
    return gauge
