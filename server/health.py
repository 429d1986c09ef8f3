# SPDX-License-Identifier: Apache-2.0
"""Is it alive, is it ready, what has it counted. ``live`` and ``ready`` answer probes that have no token."""

from __future__ import annotations

import shutil
import sqlite3

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from server.context import Context
from server.metrics import CONTENT_TYPE, Metrics


class Live(BaseModel):
    status: str = Field(description="alive")


class Ready(BaseModel):
    status: str = Field(description="ready, or not ready")
    reasons: list[str] = Field(description="why not; empty for those who come without a token")


def reasons_not_ready(context: Context) -> list[str]:
    """Why a job that is sent now would not be taken, or not be worked on. A busy server is ready: it queues."""
    reasons = []
    if context.events.closed:
        reasons.append("the server is stopping")
    try:
        context.store.last_event()
    except sqlite3.Error as error:
        reasons.append(f"the job table cannot be read: {error}")
    try:
        free = shutil.disk_usage(context.home.root).free
        if free < context.settings.min_free_bytes:
            reasons.append(
                f"the disk of {context.home.root} has {free:,} bytes free, less than the reserve of "
                f"{context.settings.min_free_bytes:,}: free space on it"
            )
    except OSError as error:
        reasons.append(f"the disk of {context.home.root} cannot be asked for its free space: {error.strerror}")
    views = [slot.view() for slot in context.supervisor.slots]
    if not any(view.state in ("idle", "busy") for view in views):
        ends = sorted({view.last_exit for view in views if view.last_exit})
        last = f"; the last one ended with {ends[0]}" if ends else ""
        reasons.append(f"no worker is running{last}: see {context.home.logs}" if ends else "no worker has started yet")
    return reasons


def build_router(context: Context, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/health/live")
    async def live() -> Live:
        """The process runs and answers: no reason to restart it. Needs no token."""
        return Live(status="alive")

    @router.get("/health/ready", responses={503: {"model": Ready, "description": "not ready"}})
    async def ready(request: Request, response: Response) -> Ready:
        """A job sent now would be taken and worked on; else 503. Needs no token, and tells reasons only with one."""
        reasons = reasons_not_ready(context)
        response.status_code = 503 if reasons else 200
        if request.scope["hvg3d.by"] == "none":
            return Ready(status="not ready" if reasons else "ready", reasons=[])
        return Ready(status="not ready" if reasons else "ready", reasons=reasons)

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "for Prometheus"}},
    )
    async def read_metrics() -> Response:
        """Counters, gauges and histograms in Prometheus' text format."""
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return router
