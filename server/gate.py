# SPDX-License-Identifier: Apache-2.0
"""What every request passes before a route sees it: Host, Origin, token or session, size and time of its body.

The order matters: a page that rebinds DNS learns nothing, not even whether a token is right.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ApiError
from server.security import HostCheck
from server.session import Sessions

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "connect-src 'self'; font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_DATA_POLICY = "default-src 'none'; img-src 'self'; media-src 'self'; frame-ancestors 'none'"
_PROBES = ("/v1/health/live", "/v1/health/ready")
_SESSION = "/v1/session"
_CLIP_UPLOAD = re.compile(r"/v1/clips/[^/]+")
_SAFE = ("GET", "HEAD")


@dataclass(frozen=True)
class BodyLimits:
    """Of every request that is not the upload of a clip: its size and its time. Uploads only must not pause."""

    max_bytes: int
    pause_seconds: float
    """Longest wait for the next bytes of any body."""
    total_seconds: float


class Gate:
    """ASGI middleware. ``scope["hvg3d.by"]`` tells the routes how a request got in: token, code, session or none."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str,
        token_path: Path,
        hosts: HostCheck,
        sessions: Sessions,
        body: BodyLimits,
    ) -> None:
        self._app = app
        self._token = token.encode()
        self._token_path = token_path
        self._hosts = hosts
        self._sessions = sessions
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # there are none, and nobody is to find out without a token
                await send({"type": "websocket.close", "code": 1008, "reason": ""})
                return
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        answer = _Answer(send, page=not scope["path"].startswith("/v1"))
        try:
            self._check_names(headers)
            scope["hvg3d.by"] = self._who(scope, headers)
            receive = self._bounded(scope, headers, receive, answer)
            await self._app(scope, receive, answer)
        except ApiError as error:
            if answer.started:
                raise
            await error.response()(scope, receive, answer)

    def _check_names(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if not self._hosts(host):
            raise ApiError(
                421,
                "host_not_allowed",
                f"this server does not answer to the name {host[:100]!r}",
                field="Host",
                remedy="use its address, or start it with --allow-host NAME",
            )
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            raise ApiError(
                403,
                "origin_not_allowed",
                f"a page of {origin[:100]!r} may not use this server",
                field="Origin",
                remedy="open the server's own page",
            )

    def _who(self, scope: Scope, headers: Headers) -> str:
        path, method = scope["path"], scope["method"]
        public = path in _PROBES or not (path == "/v1" or path.startswith("/v1/"))
        authorization = headers.get("authorization")
        if authorization is not None:
            kind, _, given = authorization.partition(" ")
            given = given.strip()
            if kind.lower() == "bearer" and given:
                if hmac.compare_digest(given.encode("utf-8", "replace"), self._token):
                    return "token"
                if path == _SESSION and method == "POST" and self._sessions.redeem(given):
                    return "code"
                if public:
                    return "none"
                what = "wrong token, or a link that was used or is too old" if path == _SESSION else "wrong token"
                raise ApiError(
                    401, "wrong_token", f"{what}: {self._advice}", field="Authorization", remedy=self._advice
                )
        elif (cookie := session_cookie(headers, self._sessions)) and self._sessions.check(cookie) is not None:
            self._check_same_site(method, headers)
            return "session"
        if public:
            return "none"
        raise ApiError(
            401,
            "no_token",
            f"no token: {self._advice}",
            field="Authorization",
            remedy="send the header 'Authorization: Bearer TOKEN'",
        )

    @property
    def _advice(self) -> str:
        return f"copy it from {self._token_path} into the add-on's preferences"

    def _check_same_site(self, method: str, headers: Headers) -> None:
        """A cookie also comes with requests that another page of this machine had the browser send."""
        site = headers.get("sec-fetch-site", "same-origin")
        if site not in ("same-origin", "none") or (method not in _SAFE and "x-hvg3d" not in headers):
            raise ApiError(
                403,
                "cross_site_request",
                "a request with the session cookie alone must come from the server's own page",
                field="Sec-Fetch-Site" if site not in ("same-origin", "none") else "X-HVG3D",
                remedy="send the header 'X-HVG3D: 1', or use the token",
            )

    def _bounded(self, scope: Scope, headers: Headers, receive: Receive, answer: _Answer) -> Receive:
        upload = scope["method"] in ("PUT", "PATCH") and _CLIP_UPLOAD.fullmatch(scope["path"]) is not None
        limits = self._body
        too_large = ApiError(
            413,
            "body_too_large",
            f"the body is larger than {limits.max_bytes:,} bytes",
            remedy="clips go to PUT /v1/clips/{sha256}; no other request is this large",
        )
        declared = headers.get("content-length", "0")
        if not upload and declared.isdecimal() and int(declared) > limits.max_bytes:
            raise too_large
        size = 0
        whole = False
        end = float("inf") if upload else time.monotonic() + limits.total_seconds

        async def bounded() -> Message:
            nonlocal size, whole
            if whole:  # what comes now is the end of the connection, and may take as long as it likes
                return await receive()
            patience = min(limits.pause_seconds, end - time.monotonic())
            try:
                message = await asyncio.wait_for(receive(), max(0.0, patience))
            except TimeoutError:
                whole = True
                if answer.started:
                    return {"type": "http.disconnect"}
                answer.close = True
                raise ApiError(
                    408,
                    "request_timeout",
                    f"the body did not arrive in time ({size:,} bytes came)",
                    remedy="send it again; the upload of a clip goes on where it stopped",
                ) from None
            size += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if not upload and size > limits.max_bytes:
                raise too_large
            return message

        return bounded


class _Answer:
    """``send`` with the headers that every answer has."""

    def __init__(self, send: Send, page: bool) -> None:
        self._send = send
        self._page = page
        self.started = False
        self.close = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "no-referrer"
            headers["X-Frame-Options"] = "DENY"
            headers["Cross-Origin-Resource-Policy"] = "same-origin"
            headers["Cross-Origin-Opener-Policy"] = "same-origin"
            headers["Content-Security-Policy"] = PAGE_POLICY if self._page else _DATA_POLICY
            headers.setdefault("Cache-Control", "no-cache" if self._page else "no-store")
            if self.close:
                headers["Connection"] = "close"
        await self._send(message)


def session_cookie(headers: Headers, sessions: Sessions) -> str | None:
    """The value of the session cookie among a request's cookies, unchecked."""
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(headers.get("cookie", ""))
    except CookieError:
        return None
    found = cookies.get(sessions.cookie)
    return found.value if found else None


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None
