# SPDX-License-Identifier: Apache-2.0
"""What a client is told when a request cannot be served: always ``{"error": {code, message, field, remedy}}``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as AnyHTTPException

log = logging.getLogger("hvg3d.server")


class ApiError(HTTPException):
    """An answer other than the one asked for. ``field`` is the dotted path of the request's field at fault.

    An HTTPException, because FastAPI would hide any other kind that ends the reading of a body.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        remedy: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers) if headers else None)
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.remedy = remedy

    def body(self) -> dict[str, Any]:
        return error_body(self.code, self.message, self.field, self.remedy)

    def response(self) -> JSONResponse:
        headers = dict(self.headers or {})
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


def error_body(code: str, message: str, field: str | None = None, remedy: str | None = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "field": field, "remedy": remedy}}


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _validation_error(error: RequestValidationError) -> dict[str, Any]:
    """The first thing wrong, in one sentence; the rest under ``details``."""
    problems = []
    for item in error.errors():
        if item["type"] == "json_invalid":
            reason = str(item.get("ctx", {}).get("error", "cannot be read"))
            return error_body("invalid_json", f"the body is not JSON: {reason}", None, "send one JSON object, in UTF-8")
        where = ".".join(str(part) for part in item["loc"] if part not in ("body", "query", "path"))
        if item["type"] == "extra_forbidden":
            problems.append((where, "this field does not exist", "remove it; GET /v1/openapi.json lists the fields"))
        elif item["type"] == "missing":
            problems.append((where, "this field is missing", f"add {where or 'a JSON body'}"))
        else:
            message = item["msg"].removeprefix("Value error, ")
            message = message[:1].lower() + message[1:]
            problems.append((where, f"{message}, got {_shorten(item.get('input'))}", f"correct {where}"))
    where, message, remedy = problems[0]
    body = error_body("invalid_request", f"{where}: {message}" if where else message, where or None, remedy)
    body["error"]["details"] = [{"field": w, "message": m} for w, m, _ in problems]
    return body


def install_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse(_validation_error(error), 422)

    @app.exception_handler(AnyHTTPException)
    async def http_error(request: Request, error: AnyHTTPException) -> JSONResponse:
        code, remedy = {
            404: ("not_found", "GET /v1/openapi.json lists the addresses"),
            405: ("method_not_allowed", "GET /v1/openapi.json lists the methods"),
        }.get(error.status_code, ("http_error", None))
        message = f"{request.method} {request.url.path}: {error.detail}"
        return JSONResponse(error_body(code, message, None, remedy), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        number = request.scope.get("hvg3d.request", "")
        path = request.url.path[:300]
        log.error("%s %s failed", request.method, path, exc_info=error, extra={"request": number})
        body = error_body(
            "internal",
            f"the server failed on this request ({type(error).__name__})",
            None,
            f"look for {number} in the server's log, and report it with the lines found there",
        )
        return JSONResponse(body, 500)
