# SPDX-License-Identifier: Apache-2.0
"""The application: routes behind the gate, workers for as long as it lives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from server import __version__, browser, clips
from server.context import Context
from server.errors import install_error_handlers
from server.gate import BodyLimits, Gate
from server.routes import ERRORS, build_router
from server.security import HostCheck


def create_app(context: Context) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        context.uploads.clean()
        context.supervisor.start()
        try:
            yield
        finally:
            await context.supervisor.stop()
            context.store.close()

    app = FastAPI(
        title="HVG-3D server",
        version=__version__,
        description="Clips in, videos out. Every request needs the header 'Authorization: Bearer TOKEN'.",
        openapi_url="/v1/openapi.json",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    install_error_handlers(app)
    app.include_router(build_router(context))
    for part in (clips, browser):
        app.include_router(part.build_router(context), prefix="/v1", responses=ERRORS)
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
    return app
