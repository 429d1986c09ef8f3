# SPDX-License-Identifier: Apache-2.0
"""Who may talk to the server: the bearer token, the Host and Origin headers, and the size of bodies.

The Host header is checked because of DNS rebinding: a web page that makes its own name point at 127.0.0.1 gets its
requests through the browser, but cannot make the browser send another name than its own.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import os
import re
import secrets
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ApiError

log = logging.getLogger("hvg3d.server")
_MIN_TOKEN = 16
_CLIP_UPLOAD = re.compile(r"/v1/clips/[^/]+")


class TokenError(RuntimeError):
    """The token file cannot be used."""


def read_or_create_token(path: Path) -> str:
    """The token in ``path``; a new random one where there is no file. The file ends up readable by its owner only."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        token = path.read_text("utf-8").strip()
        if len(token) < _MIN_TOKEN or not token.isascii() or any(c.isspace() for c in token):
            raise TokenError(
                f"{path} must hold one word of at least {_MIN_TOKEN} ASCII characters: delete the file "
                "to have a new token made"
            ) from None
        if sys.platform != "win32" and path.stat().st_mode & 0o077:
            path.chmod(0o600)
            log.warning("%s could be read by other users; it is private now. Delete it to have a new token made", path)
        return token
    token = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(token + "\n")
    return token


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class HostCheck:
    """Names and addresses under which this server may be asked for.

    On loopback only loopback's. Elsewhere also any literal address (rebinding needs a name) and the machine's names.
    """

    def __init__(self, bound: str, extra: Iterable[str]) -> None:
        self._any_address = not is_loopback(bound)
        self._names = {"localhost", *(name.lower().rstrip(".") for name in extra)}
        if self._any_address:
            self._names |= {bound.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}

    def __call__(self, header: str) -> bool:
        try:
            name = urlsplit(f"//{header}").hostname
        except ValueError:
            return False
        if not name:
            return False
        name = name.lower().rstrip(".")
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._any_address or address.is_loopback


class Gate:
    """ASGI middleware in front of everything else: Host, Origin, token, size, in this order."""

    def __init__(self, app: ASGIApp, *, token: str, token_path: Path, hosts: HostCheck, max_body: int) -> None:
        self._app = app
        self._token = token.encode()
        self._token_path = token_path
        self._hosts = hosts
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check(headers)
            if not (scope["method"] == "PUT" and _CLIP_UPLOAD.fullmatch(scope["path"])):  # that one counts by itself
                receive = self._bounded(headers, receive)
            await self._app(scope, receive, send)
        except ApiError as error:
            extra = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
            await JSONResponse(error.body(), error.status, extra)(scope, receive, send)

    def _check(self, headers: Headers) -> None:
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
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise ApiError(
                403,
                "origin_not_allowed",
                f"a page of {origin[:100]!r} may not use this server",
                field="Origin",
                remedy="open the server's own page",
            )
        kind, _, given = headers.get("authorization", "").partition(" ")
        copy = f"copy it from {self._token_path} into the add-on's preferences"
        if kind.lower() != "bearer" or not given.strip():
            raise ApiError(
                401,
                "no_token",
                f"no token: {copy}",
                field="Authorization",
                remedy="send the header 'Authorization: Bearer TOKEN'",
            )
        if not hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token):
            raise ApiError(401, "wrong_token", f"wrong token: {copy}", field="Authorization", remedy=copy)

    def _bounded(self, headers: Headers, receive: Receive) -> Receive:
        error = ApiError(
            413,
            "body_too_large",
            f"the body is larger than {self._max_body:,} bytes",
            remedy="clips go to PUT /v1/clips/{sha256}; no other request is this large",
        )
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > self._max_body:
            raise error
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._max_body:
                raise error
            return message

        return bounded
