# SPDX-License-Identifier: Apache-2.0
"""The application: routes behind the gate, workers for as long as it lives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from server import __version__
from server.context import Context
from server.errors import install_error_handlers
from server.routes import build_router
from server.security import Gate, HostCheck


def create_app(context: Context) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
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
    app.add_middleware(
        Gate,
        token=context.token,
        token_path=context.settings.token_path.absolute(),
        hosts=HostCheck(context.settings.host, context.settings.allowed_hosts),
        max_body=context.settings.max_body_bytes,
    )
    return app
