# SPDX-License-Identifier: Apache-2.0
"""What the server counts, for Prometheus (``GET /v1/metrics``).

Gauges are read when they are asked for. Waiting and running times come from the event table, read by a task of its own:
every stored change of a job is seen exactly once, and neither the queue nor the workers know that they are watched.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client import Counter as Total
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from server import __version__
from server.schemas import FINISHED, JobState

if TYPE_CHECKING:
    from server.context import Context

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
WORKER_STATES = ("starting", "idle", "busy", "restarting", "stopped")
_LONG = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200)  # seconds: nano to 5B
_SHORT = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
_BATCH = 500
_PAUSE_SECONDS = 1.0
_STREAM = "/v1/events"


class Metrics:
    def __init__(self, context: Context) -> None:
        self._context = context
        self.registry = CollectorRegistry()
        self.registry.register(_Now(context))
        ProcessCollector(registry=self.registry)
        self.requests = Total(
            "hvg3d_http_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "hvg3d_http_request_seconds",
            "Time to answer, event streams left out",
            ["route"],
            buckets=_SHORT,
            registry=self.registry,
        )
        self.queue_seconds = Histogram(
            "hvg3d_job_queue_seconds",
            "From accepted to first started",
            ["model"],
            buckets=_LONG,
            registry=self.registry,
        )
        self.run_seconds = Histogram(
            "hvg3d_job_run_seconds",
            "From first started to its end",
            ["model", "state"],
            buckets=_LONG,
            registry=self.registry,
        )
        self.restarts = Total(
            "hvg3d_job_restarts", "Times that a job was started again", ["model"], registry=self.registry
        )
        self._running: set[str] = set()

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """One answered request, see :data:`server.logs.Observe`."""
        self.requests.labels(method, route, status).inc()
        if route != _STREAM:
            self.request_seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    async def follow(self) -> None:
        """Watch the event table until cancelled."""
        last = self._context.store.last_event()
        while True:
            events = self._context.store.events_after(last, _BATCH)
            for event in events:
                last = event.id
                if event.type == "job":
                    self.see(json.loads(event.data))
            if len(events) < _BATCH:
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                await asyncio.sleep(0)

    def see(self, job: dict) -> None:
        """A stored change of a job, as a JobView."""
        model, state = job["request"].get("model") or "", job["state"]
        if state == JobState.RUNNING and job["id"] not in self._running:
            self._running.add(job["id"])
            if job["attempt"] == 1:
                self.queue_seconds.labels(model).observe(max(0.0, job["started_at"] - job["created_at"]))
            else:
                self.restarts.labels(model).inc()
        elif state == JobState.QUEUED:
            self._running.discard(job["id"])
        elif state in FINISHED:
            self._running.discard(job["id"])
            if job["started_at"] is not None:
                self.run_seconds.labels(model, state).observe(max(0.0, job["finished_at"] - job["started_at"]))


class _Now(Collector):
    """What is true at the moment."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        context = self._context
        build = GaugeMetricFamily("hvg3d_build_info", "Always 1", labels=["version", "instance"])
        build.add_metric([__version__, context.instance], 1)
        yield build
        yield GaugeMetricFamily("hvg3d_uptime_seconds", "Since start", time.monotonic() - context.started)
        jobs = GaugeMetricFamily("hvg3d_jobs", "Jobs by state", labels=["state"])
        for state in JobState:
            jobs.add_metric([str(state)], context.store.count(state))
        yield jobs
        views = [slot.view() for slot in context.supervisor.slots]
        states = Counter(view.state for view in views)
        workers = GaugeMetricFamily("hvg3d_workers", "Worker processes by state", labels=["state"])
        for name in (*WORKER_STATES, *(states.keys() - set(WORKER_STATES))):
            workers.add_metric([name], states[name])
        yield workers
        yield CounterMetricFamily(
            "hvg3d_worker_restarts", "Workers that ended and were started again", sum(view.restarts for view in views)
        )
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(context.home.root)
            yield GaugeMetricFamily("hvg3d_disk_free_bytes", "Of the disk of the server's home", usage.free)
            yield GaugeMetricFamily("hvg3d_disk_bytes", "Size of that disk", usage.total)
        uploads = CounterMetricFamily("hvg3d_uploads", "Uploads of clips by how they ended", labels=["outcome"])
        for outcome, count in context.uploads.outcomes.items():
            uploads.add_metric([outcome], count)
        yield uploads
        yield GaugeMetricFamily("hvg3d_uploads_active", "Uploads under way", context.uploads.active)
        yield CounterMetricFamily("hvg3d_upload_bytes", "Bytes of clips received", context.uploads.received_bytes)
        yield GaugeMetricFamily("hvg3d_event_streams", "Open event streams", context.events.streams)
