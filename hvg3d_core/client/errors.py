# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between a client and the server, each with what to do about it."""

from __future__ import annotations

from collections.abc import Mapping


class ClientError(RuntimeError):
    """``str()`` of it is what to show: what is wrong, and what to do."""

    def __init__(
        self,
        message: str,
        remedy: str | None = None,
        *,
        code: str = "",
        field: str | None = None,
        status: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy
        self.code = code
        self.field = field
        self.status = status
        self.headers = headers or {}


class Unreachable(ClientError):
    """Nobody answers, or the connection broke. It may work again later."""


class Unauthorized(ClientError):
    """The token is wrong or missing."""


class Refused(ClientError):
    """The server does not do what was asked; the same request again would be refused again."""


class NotFound(Refused):
    """There is no such job, clip or result."""


class JobFailed(ClientError):
    """The job ended without a video."""
