# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking a server, in a thread, whether it is there and what it offers."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import urllib.parse
from dataclasses import dataclass

from .http import Address, Api
from .protocol import ClientError, Model

_KNOCK_SECONDS = 2.0


@dataclass(frozen=True)
class ServerStatus:
    """``state`` is unknown, checking, starting, ready or problem.

    ``code`` says which problem: off, refused, broken, timeout, name, no_way, certificate, tls, stranger, version,
    address, no_token, wrong_token, online_access, or what keeps a server on this computer from starting (see
    :mod:`blender_addon.server_care.failures`). ``hint``: worth knowing, stops nothing.
    """

    state: str = "unknown"
    message: str = "Not asked yet"
    remedy: str = ""
    models: tuple[Model, ...] = ()
    code: str = ""
    hint: str = ""
    version: str = ""
    instance: str = ""
    url: str = ""
    waiting: int = 0
    """Jobs that are running or queued, of everybody."""


def check_server(address: Address, version: str = "") -> ServerStatus:
    """Blocks for as long as the server takes to answer. ``version``: of the add-on, to compare."""
    api = Api(address)
    try:
        health = api.health()
        models = tuple(api.models())
        url = address.resolve()[0]
    except ClientError as error:
        if error.code == "broken":
            error = _speaks_tls(address) or error
        return ServerStatus("problem", error.message, error.remedy, code=error.code)
    waiting = int(health.get("queued") or 0) + int(health.get("running") or 0)
    busy = f", {waiting} in its queue" if waiting else ""
    theirs = str(health.get("version") or "")
    return ServerStatus(
        "ready",
        f"Connected to {url}{busy}",
        models=models,
        hint=_hint(health, version, theirs),
        version=theirs,
        instance=str(health.get("instance") or ""),
        url=url,
        waiting=waiting,
    )


def start_check(address: Address, version: str = "") -> queue.Queue[ServerStatus]:
    """The queue that will receive the one answer."""
    answer: queue.Queue[ServerStatus] = queue.Queue()

    def ask() -> None:
        try:
            answer.put(check_server(address, version))
        except Exception as error:  # an answer that nobody thought of must not leave the user waiting
            message = f"The server's answer cannot be understood ({type(error).__name__}: {error})"
            remedy = "Install the add-on and the server of the same release"
            answer.put(ServerStatus("problem", message, remedy, code="version"))

    threading.Thread(target=ask, name="hvg3d check", daemon=True).start()
    return answer


def _hint(health: dict, ours: str, theirs: str) -> str:
    """What is wrong with a server that answers."""
    ends = [str(worker["last_exit"]) for worker in health.get("workers") or () if worker.get("last_exit")]
    at_work = any(worker.get("state") in ("idle", "busy", "starting") for worker in health.get("workers") or ())
    if ends and not at_work:
        return f"Its worker has ended ({ends[0]}): the logs in its home folder say why"
    if ours and theirs and ours != theirs:
        return f"The server is version {theirs}, this add-on {ours}: install the same version of both"
    return ""


def _speaks_tls(address: Address) -> ClientError | None:
    """Whether the connection broke because http:// was said to a server that expects https://."""
    try:
        url = urllib.parse.urlsplit(address.resolve()[0])
        if url.scheme != "http" or not url.hostname:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only to see whether it is TLS at all
        place = (url.hostname, url.port or 80)
        with socket.create_connection(place, _KNOCK_SECONDS) as line, context.wrap_socket(line):
            pass
    except (ClientError, OSError, ValueError):
        return None
    secure = url._replace(scheme="https").geturl()
    return ClientError(f"The server at {url.geturl()} wants TLS", f"Write its address as {secure}", "tls")
