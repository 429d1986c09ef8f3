# SPDX-License-Identifier: Apache-2.0
"""The application: routes behind the gate, workers for as long as it lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from server import __version__, browser, clips, health
from server.context import Context
from server.errors import install_error_handlers
from server.gate import BodyLimits, Gate
from server.logs import Access
from server.metrics import Metrics
from server.openapi import describe
from server.routes import ERRORS, build_router
from server.security import HostCheck


def create_app(context: Context) -> FastAPI:
    metrics = Metrics(context)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        context.uploads.clean()
        context.supervisor.start()
        follower = asyncio.create_task(metrics.follow(), name="metrics")
        try:
            yield
        finally:
            follower.cancel()
            await context.supervisor.stop()
            context.store.close()

    app = FastAPI(
        title="HVG-3D server",
        version=__version__,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    install_error_handlers(app)
    app.include_router(build_router(context))
    for part in (clips, browser):
        app.include_router(part.build_router(context), prefix="/v1", responses=ERRORS)
    app.include_router(health.build_router(context, metrics), prefix="/v1", responses=ERRORS)
    browser.mount_page(app)
    settings = context.settings
    app.add_middleware(
        Gate,
        token=context.token,
        token_path=settings.token_path.absolute(),
        hosts=HostCheck(settings.host, settings.allowed_hosts),
        sessions=context.sessions,
        body=BodyLimits(settings.max_body_bytes, settings.pause_seconds, settings.body_seconds),
    )
    app.add_middleware(Access, observe=metrics.observe)
    return app
