# SPDX-License-Identifier: Apache-2.0
"""Requests with patience: tried again while the server is away, looked for anew when it comes back elsewhere."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from .errors import ClientError, NotFound, Refused, Unauthorized, Unreachable
from .home import Address

_PAUSES = (0.2, 0.5, 1.0, 2.0)
_FIRST_PATIENCE = 2.0
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)


class Transport:
    """``locate`` is asked for the address at first and after every failure, for a server may start on another port."""

    def __init__(self, locate: Callable[[], Address], patience: float) -> None:
        self._locate = locate
        self._patience = patience
        self._address: Address | None = None
        self._http: httpx.Client | None = None
        self._met: float | None = None  # when it last answered

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None

    def json(self, method: str, path: str, **arguments: Any) -> Any:
        """The JSON of a successful answer, or ClientError. All requests of this API may be repeated."""
        answer = self.patiently(lambda: self.request(method, path, **arguments))
        if answer.status_code == 204:
            return None
        try:
            return answer.json()
        except ValueError:
            raise self._stranger() from None

    def patiently(self, call: Callable[[], Any]) -> Any:
        """``call`` again and again until the server could not be reached for ``patience`` seconds.

        One that has never answered is more likely not there than being restarted: it is not waited for as long.
        """
        started = time.monotonic()
        attempt = 0
        while True:
            try:
                return call()
            except Unreachable:
                pause = _PAUSES[min(attempt, len(_PAUSES) - 1)]
                patience = min(self._patience, _FIRST_PATIENCE) if self._met is None else self._patience
                if time.monotonic() + pause > max(started, self._met or 0.0) + patience:
                    raise
            time.sleep(pause)
            attempt += 1

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Once. Answers of 400 and above become exceptions."""
        http = self._client()
        with self._plainly():
            answer = http.request(method, f"/v1/{path}", **arguments)
        return self._checked(answer)

    @contextmanager
    def stream(self, method: str, path: str, **arguments: Any) -> Iterator[httpx.Response]:
        """Once; the body is read by the caller, inside of the block."""
        http = self._client()
        with self._plainly(), http.stream(method, f"/v1/{path}", **arguments) as answer:
            if answer.is_error:
                answer.read()
            yield self._checked(answer)

    def _client(self) -> httpx.Client:
        if self._http is None:
            self._address = self._locate()
            verify: ssl.SSLContext | bool = self._address.verify or True
            try:
                self._http = httpx.Client(
                    base_url=self._address.url,
                    headers={"Authorization": f"Bearer {self._address.token}"},
                    verify=verify,
                    timeout=_TIMEOUT,
                    trust_env=False,  # the server is on this machine or network: no proxies
                )
            except (httpx.InvalidURL, ValueError) as error:
                raise ClientError(f"{self._address.url!r} is no address: {error}", "write http://HOST:PORT") from None
        return self._http

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        url = self._address.url if self._address else ""
        try:
            yield
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            raise ClientError(f"{url!r} or its token cannot be used: {error}", "write http://HOST:PORT") from None
        except httpx.ConnectTimeout:
            self.close()
            raise Unreachable(
                f"nobody answers at {url}", "see whether the machine is on and no firewall between"
            ) from None
        except httpx.ConnectError as error:
            self.close()
            if "CERTIFICATE" in str(error) or "certificate" in str(error):
                raise ClientError(
                    f"the certificate of {url} is not trusted: {error}", "give the certificate of its authority"
                ) from None
            raise Unreachable(f"no server answers at {url} ({error})", "start it with 'hvg3d serve'") from None
        except httpx.TimeoutException:
            self.close()
            raise Unreachable(f"the server at {url} does not answer", "see whether it is overloaded") from None
        except httpx.TransportError as error:
            self.close()
            raise Unreachable(f"the connection to {url} broke ({error or type(error).__name__})") from None

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        self._met = time.monotonic()
        if not answer.is_error:
            return answer
        if answer.request.method == "HEAD":
            kind = {401: Unauthorized, 404: NotFound}.get(answer.status_code, Refused)
            refusal = kind(
                f"the server answered {answer.status_code}", status=answer.status_code, headers=answer.headers
            )
        else:
            try:
                error = answer.json()["error"]
                details = {"code": str(error["code"]), "field": error.get("field"), "status": answer.status_code}
                message, remedy = str(error["message"]), error.get("remedy")
            except (ValueError, KeyError, TypeError):
                raise self._stranger() from None
            temporary = answer.status_code in (502, 503, 504) or details["code"] in ("request_timeout", "upload_broken")
            kind = {401: Unauthorized, 404: NotFound}.get(answer.status_code, Unreachable if temporary else Refused)
            if kind is Unauthorized:
                message, remedy = message.partition(":")[0], "take the token from the file 'token' in the server's home"
            refusal = kind(message, remedy, headers=answer.headers, **details)
        if isinstance(refusal, Unauthorized):
            self.close()  # a server that was set up anew has a new token
        raise refusal

    def _stranger(self) -> ClientError:
        url = self._address.url if self._address else ""
        return ClientError(f"what answers at {url} is no HVG-3D server", "correct the address")
