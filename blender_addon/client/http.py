# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests to the server, with every failure turned into words a user can act on."""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import json
import os
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..server_care.text import is_loopback
from .protocol import API_VERSION, ClientError, JobStatus, Missing, Model, Unauthorized, Unreachable

TIMEOUT = 5.0  # seconds without an answer; the server answers from its database at once
_UPLOAD_TIMEOUT = 60.0  # a pause in the middle of a large body, while the server writes
_BLOCK = 256 * 1024
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL)
_UPLOAD_AGAIN = ("upload_taken_over", "wrong_offset", "too_many_uploads", "request_timeout")


@dataclass
class OnlineAccess:
    """Whether Blender may reach other computers: its preference, copied here because threads may not ask Blender."""

    allowed: bool = True


ONLINE = OnlineAccess()


@dataclass(frozen=True)
class Address:
    """Where the server is: its ``url`` and ``token``, or the ``home`` folder of one on this computer.

    A server on this computer writes its address and its token into its home folder whenever it starts. They are read
    anew for each request, so that a server that comes back on another port is found again.
    """

    url: str = ""
    token: str = ""
    home: str = ""

    def trust(self) -> ssl.SSLContext | None:
        """A server on this computer puts its certificate beside its token; it need not bear the address as a name."""
        try:
            written = json.loads((Path(self.home) / "server.json").read_text("utf-8")) if self.home else {}
            context = ssl.create_default_context(cadata=str(written["certificate"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    def resolve(self) -> tuple[str, str]:
        """(url, token)."""
        if not self.home:
            return self.url.rstrip("/"), self.token.strip()
        handshake = Path(self.home) / "server.json"
        start = "Start it with 'hvg3d serve', or give an address in the add-on's preferences"
        try:
            written = json.loads(handshake.read_text("utf-8"))
            url, token = str(written["url"]), str(written["token"])
        except FileNotFoundError:
            raise Unreachable(f"The HVG-3D server is not running (there is no {handshake})", start, "off") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Unreachable(f"{handshake} cannot be read: {error}", start, "off") from None
        return url.rstrip("/"), token


class _Upload(io.RawIOBase):
    """Bytes from ``offset`` on that report how much of them has been read."""

    def __init__(self, data: bytes, offset: int, on_progress: Callable[[float], None]):
        self._data = memoryview(data)
        self._position = offset
        self._on_progress = on_progress

    def read(self, size: int = -1) -> bytes:
        end = len(self._data) if size < 0 else min(len(self._data), self._position + max(size, _BLOCK))
        block = bytes(self._data[self._position : end])
        self._position = end
        self._on_progress(end / max(len(self._data), 1))
        return block


class Api:
    """One server. Every method raises :class:`ClientError` and may be called from any thread."""

    def __init__(self, address: Address):
        self.address = address

    def health(self) -> dict[str, Any]:
        health = self._json("GET", "health")
        if health.get("api") not in (API_VERSION, None):
            raise ClientError(
                f"The server speaks {health['api']}, this add-on {API_VERSION}",
                "Install the add-on and the server of the same release",
                "version",
            )
        return health

    def models(self) -> list[Model]:
        return [Model.from_json(model) for model in self._json("GET", "models")["models"]]

    def clip_offset(self, sha256: str) -> int | None:
        """How many bytes of a clip the server has; None: all of them."""
        try:
            self._open("HEAD", f"clips/{sha256}", None, {}, TIMEOUT, lambda response: None)
        except Missing as error:
            return error.offset
        return None

    def put_clip(self, sha256: str, data: bytes, offset: int, on_progress: Callable[[float], None]) -> None:
        """Send a clip from byte ``offset`` on: what :meth:`clip_offset` says after an upload that broke off."""
        headers = {"Content-Length": str(len(data) - offset), "Content-Type": "application/octet-stream"}
        if offset:
            headers |= {"Upload-Offset": str(offset), "Upload-Length": str(len(data))}
        try:
            body = _Upload(data, offset, on_progress)
            method = "PATCH" if offset else "PUT"
            self._json(method, f"clips/{sha256}", body=body, headers=headers, timeout=_UPLOAD_TIMEOUT)
        except ClientError as error:
            if error.code in _UPLOAD_AGAIN:  # nothing is wrong with the clip: ask where it stands, and go on
                raise Unreachable(error.message, error.remedy, error.code) from None
            raise

    def submit(self, job_id: str, request: dict[str, Any], label: str) -> JobStatus:
        """Idempotent: the same id again is the same job."""
        body = {"id": job_id, "request": request, "label": label[:200], "client": "blender"}
        return self._job("POST", "jobs", body)

    def job(self, job_id: str) -> JobStatus:
        return self._job("GET", f"jobs/{job_id}")

    def cancel(self, job_id: str) -> JobStatus:
        return self._job("POST", f"jobs/{job_id}/cancel", {})

    def fetch(self, job_id: str, name: str, timeout: float = TIMEOUT) -> bytes:
        """A small file of a job's results, or its newest preview while it runs."""
        return self._open("GET", f"jobs/{job_id}/{name}", None, {}, timeout, lambda response: response.read())

    def download(self, job_id: str, name: str, target: Path) -> None:
        """Saves ``name`` of a job's results; the file appears under its name only when it is complete."""
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as file:
                self._open("GET", f"jobs/{job_id}/{name}", None, {}, _UPLOAD_TIMEOUT, _copy_to(file))
            os.replace(part, target)
        except OSError as error:
            raise not_written(target, error) from error
        finally:
            with contextlib.suppress(OSError):
                part.unlink()

    def _job(self, method: str, path: str, body: dict[str, Any] | None = None) -> JobStatus:
        return JobStatus.from_json(self._json(method, path, body=body))

    def _json(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout: float = TIMEOUT,
    ) -> Any:
        headers = dict(headers or {})
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        text = self._open(method, path, body, headers, timeout, lambda response: response.read())
        try:
            return json.loads(text)
        except ValueError:
            raise self._stranger(self.address.resolve()[0]) from None

    def _opener(self, url: str) -> urllib.request.OpenerDirector:
        """Without proxies: the server is on this computer or on the local network."""
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if url.startswith("https:"):
            handlers.append(urllib.request.HTTPSHandler(context=self.address.trust()))
        return urllib.request.build_opener(*handlers)

    def _open(
        self, method: str, path: str, body: Any, headers: dict[str, str], timeout: float, consume: Callable
    ) -> Any:
        url, token = self.address.resolve()
        if not url.startswith(("http://", "https://")):
            raise ClientError(
                f"Server address {url!r} is not an address",
                "Write it as http://127.0.0.1:8765 in the add-on's preferences",
                "address",
            )
        if not ONLINE.allowed and not self.address.home and not is_loopback(url):
            raise Unreachable(
                f"Blender may not reach {url}: online access is switched off",
                "Allow Online Access in the System preferences, or use a server on this computer",
                "online_access",
            )
        headers = {"Authorization": f"Bearer {token}", **headers} if token else headers
        try:
            request = urllib.request.Request(f"{url}/{API_VERSION}/{path}", data=body, headers=headers, method=method)
            with self._opener(url).open(request, timeout=timeout) as response:
                return consume(response)
        except urllib.error.HTTPError as error:
            if method == "HEAD" and error.code == 404:  # an answer without a body to explain it
                missing = Missing(f"{url} does not have {path}")
                told = error.headers.get("Upload-Offset", "")
                missing.offset = int(told) if told.isdecimal() else 0
                raise missing from None
            raise self._refusal(url, error) from None
        except urllib.error.URLError as error:
            raise _unreachable(url, error.reason) from None
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            raise _unreachable(url, error) from None
        except ValueError as error:  # a port that is no number, a token with a line break
            raise ClientError(
                f"Server address {url!r} or its token cannot be used: {error}",
                "Correct them in the add-on's preferences",
                "address",
            ) from None

    def _refusal(self, url: str, error: urllib.error.HTTPError) -> ClientError:
        try:
            detail = json.loads(error.read())["error"]
            message, remedy, code = (
                str(detail["message"]),
                str(detail.get("remedy") or ""),
                str(detail.get("code") or ""),
            )
        except (ValueError, KeyError, TypeError, OSError):
            return self._stranger(url)
        if error.code == 401:
            where = "the file 'token' in the server's home folder"
            return Unauthorized(f"Wrong token: {message}", f"Copy {where} into the add-on's preferences", code)
        kind = Missing if error.code == 404 else ClientError
        return kind(message, remedy[:1].upper() + remedy[1:], code)

    @staticmethod
    def _stranger(url: str) -> ClientError:
        return ClientError(
            f"What answers at {url} is not an HVG-3D server",
            "Correct the server's address in the add-on's preferences",
            "stranger",
        )


def not_written(target: Path, error: OSError) -> ClientError:
    return ClientError(
        f"The result cannot be written to {target}: {error.strerror or error}",
        "Free some space, or save the .blend file in a folder you may write to, then press Fetch Again",
        "not_written",
    )


def _copy_to(file: Any) -> Callable:
    def copy(response: http.client.HTTPResponse) -> None:
        expected = response.length
        size = 0
        while block := response.read(_BLOCK):
            file.write(block)
            size += len(block)
        if expected is not None and size != expected:
            raise http.client.IncompleteRead(b"", expected - size)

    return copy


def _unreachable(url: str, reason: Any) -> ClientError:
    start = "Start it with 'hvg3d serve', or correct its address in the add-on's preferences"
    correct = "correct the address in the add-on's preferences"
    if isinstance(reason, ConnectionRefusedError):
        return Unreachable(f"The HVG-3D server is not running at {url}", start, "refused")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return ClientError(
            f"The certificate of {url} is not trusted ({reason.verify_message})",
            f"Have this computer trust its authority, or {correct}",
            "certificate",
        )
    if isinstance(reason, ssl.SSLError):
        return ClientError(
            f"What answers at {url} does not speak TLS ({(reason.reason or str(reason)).replace('_', ' ').lower()})",
            f"If it has no certificate, write http:// instead of https://: {correct}",
            "tls",
        )
    if isinstance(reason, TimeoutError):
        return Unreachable(
            f"The server at {url} does not answer", "See whether it is busy or behind a firewall", "timeout"
        )
    if isinstance(reason, socket.gaierror):
        return Unreachable(
            f"There is no computer of the name in {url}",
            f"See whether this computer is online and the name is right, or {correct}",
            "name",
        )
    if isinstance(reason, OSError) and reason.errno in _NO_WAY:
        return Unreachable(
            f"There is no way to {url} ({reason.strerror})", f"See whether you are online, or {correct}", "no_way"
        )
    return Unreachable(f"The connection to {url} broke ({reason or type(reason).__name__})", start, "broken")
