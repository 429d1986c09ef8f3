# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking a server, in a thread, whether it is there and what it offers."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass

from .http import Address, Api
from .protocol import ClientError, Model


@dataclass(frozen=True)
class ServerStatus:
    """``state`` is unknown, checking, ready or problem."""

    state: str = "unknown"
    message: str = "Not asked yet"
    remedy: str = ""
    models: tuple[Model, ...] = ()


def check_server(address: Address) -> ServerStatus:
    """Blocks for as long as the server takes to answer."""
    api = Api(address)
    try:
        health = api.health()
        models = tuple(api.models())
        url = address.resolve()[0]
    except ClientError as error:
        return ServerStatus("problem", error.message, error.remedy)
    waiting = int(health.get("queued") or 0) + int(health.get("running") or 0)
    busy = f", {waiting} in its queue" if waiting else ""
    return ServerStatus("ready", f"Connected to {url}{busy}", "", models)


def start_check(address: Address) -> queue.Queue[ServerStatus]:
    """The queue that will receive the one answer."""
    answer: queue.Queue[ServerStatus] = queue.Queue()
    threading.Thread(target=lambda: answer.put(check_server(address)), name="hvg3d check", daemon=True).start()
    return answer
