# SPDX-License-Identifier: Apache-2.0
"""What the server says of itself: lines for people, or one JSON object a line for a log collector.

A line that is about a job has it in ``job`` (``log.info(..., extra={"job": id})``), one about a request has
``request``, ``method``, ``path``, ``status`` and ``seconds``. Tokens, cookies, prompts and query strings are in none.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FORMATS = ("text", "json")
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # a stranger may make up others
_JOB_PATH = re.compile(r"/v1/jobs/([0-9a-fA-F-]{36})(?:/|$)")

access = logging.getLogger("hvg3d.access")
Observe = Callable[[str, str, int, float], None]
"""(method, route such as ``/v1/jobs/{id}``, status, seconds until the answer was complete)"""


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """A message of several lines must not look like several messages, whoever made up its text."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record).replace("\r", "\\r").replace("\n", "\\n")


def set_up(kind: str = "text", level: str = "info", stream: TextIO | None = None) -> None:
    """Send everything, uvicorn's lines too, to ``stream`` (standard error) in one of FORMATS."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if kind == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("uvicorn", "asyncio", "multipart", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class Access:
    """ASGI middleware, the outermost: a number, a line and a measurement for every request.

    What only reads and succeeds is logged at DEBUG: clients ask for the state of their jobs several times a second.
    """

    def __init__(self, app: ASGIApp, *, observe: Observe) -> None:
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        number = uuid.uuid4().hex[:12]
        scope["hvg3d.request"] = number
        started = time.perf_counter()
        status = 499  # as others write it: the client left before there was an answer

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = number
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except Exception:
            status = 500
            raise
        finally:
            self._report(scope, number, status, time.perf_counter() - started)

    def _report(self, scope: Scope, number: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or ("page" if status < 400 else "none")
        self._observe(scope["method"] if scope["method"] in _METHODS else "other", route, status, seconds)
        quiet = scope["method"] in ("GET", "HEAD") and status < 400
        level = logging.DEBUG if quiet else logging.WARNING if status >= 500 else logging.INFO
        if not access.isEnabledFor(level):
            return
        path = scope["path"][:300]
        fields: dict[str, Any] = {
            "request": number,
            "method": scope["method"],
            "path": path,
            "status": status,
            "seconds": round(seconds, 4),
            "client": (scope.get("client") or ("",))[0],
            "by": scope.get("hvg3d.by", "refused"),
        }
        if found := _JOB_PATH.match(path):
            fields["job"] = found[1].lower()
        access.log(level, "%s %s: %d in %.3f s", scope["method"], path, status, seconds, extra=fields)
