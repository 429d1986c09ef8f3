# SPDX-License-Identifier: Apache-2.0
"""What a browser needs besides the data: the page itself, and a session in place of the token."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from pydantic import BaseModel, Field
from starlette.routing import Match, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from server.context import Context
from server.errors import ApiError
from server.gate import session_cookie
from server.session import CODE_SECONDS

PAGE = Path(__file__).parent / "gallery" / "static"


class SessionView(BaseModel):
    expires_at: float
    by: str = Field(description="token, code or session: what this request came with")


class LinkView(BaseModel):
    path: str = Field(description="to be put behind the server's address; works once")
    expires_in_seconds: int


def build_router(context: Context) -> APIRouter:
    router = APIRouter(tags=["browser"])
    sessions = context.sessions

    @router.post("/session", status_code=201)
    async def create_session(request: Request, response: Response) -> SessionView:
        """Make or renew a session: the answer sets a cookie which stands for the token in this browser."""
        by = request.scope["hvg3d.by"]
        value, expires = sessions.create()
        if by == "session":
            sessions.end(session_cookie(request.headers, sessions) or "")
        response.set_cookie(
            sessions.cookie,
            value,
            expires=datetime.fromtimestamp(expires, UTC),
            path="/v1",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return SessionView(expires_at=expires, by=by)

    @router.get("/session")
    async def get_session(request: Request) -> SessionView:
        """Whether this request came with a session, and until when it lasts."""
        cookie = session_cookie(request.headers, sessions)
        expires = sessions.check(cookie) if cookie else None
        if expires is None:
            raise ApiError(404, "no_session", "there is no session", remedy="make one with POST /v1/session")
        return SessionView(expires_at=expires, by=request.scope["hvg3d.by"])

    @router.delete("/session", status_code=204)
    async def end_session(request: Request) -> Response:
        """Log out."""
        if cookie := session_cookie(request.headers, sessions):
            sessions.end(cookie)
        response = Response(status_code=204)
        response.delete_cookie(sessions.cookie, path="/v1", httponly=True, samesite="strict")
        return response

    @router.post("/session/link", status_code=201)
    async def create_link() -> LinkView:
        """A link that opens the page once without typing the token, for `hvg3d serve --link`."""
        return LinkView(path=link_path(context), expires_in_seconds=CODE_SECONDS)

    return router


def link_path(context: Context) -> str:
    return f"/#token={context.sessions.make_code()}"


class _Page(Mount):
    """Everything but /v1, where an unknown address or method is to be told in the API's words."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["path"] == "/v1" or scope["path"].startswith("/v1/"):
            return Match.NONE, {}
        return super().matches(scope)


def mount_page(app: FastAPI, folder: Path = PAGE) -> None:
    """Serve the page at ``/`` where it is installed. After all routes: a mount takes whatever is left."""
    if folder.is_dir():
        app.router.routes.append(_Page("/", StaticFiles(directory=folder, html=True), name="page"))
