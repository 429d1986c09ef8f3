# SPDX-License-Identifier: Apache-2.0
"""The supervisor's end of a Ray cluster: a Runner, without importing ray. See :mod:`server.cluster.driver`."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

from server.config import Settings
from server.files import Home
from server.runner import Exit, Place
from server.tail import Tail

log = logging.getLogger("hvg3d.server")

_REACH_SECONDS = 5.0
_CONNECT_SECONDS = 90.0
_RETRY_SECONDS = 5.0
_END_SECONDS = 15.0
_LOST = Exit("the loss of the Ray cluster", blame=False)


class RayError(RuntimeError):
    """The cluster cannot be used; the message says what to do."""


def check_ray(address: str) -> None:
    """Raise RayError where Ray is not installed, or nothing answers at ``address``."""
    if importlib.util.find_spec("ray") is None:
        raise RayError("--ray needs Ray, which is not installed: pip install 'hvg3d[server,ray]', on every node")
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise RayError(f"--ray {address}: give HOST:PORT of the cluster's head, as 10.0.0.1:6379, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RayError(
            f"--ray {address}: no Ray cluster answers there ({error}); start its head with: ray start --head, "
            "or give the address that `ray status` prints on one of its nodes"
        ) from None


class RayHandle:
    """A worker on some node (a WorkerHandle)."""

    def __init__(self, runner: RayRunner, number: int, place: Place, tail: Tail) -> None:
        self.pid: int | None = None
        self._runner = runner
        self._number = number
        self._place = place
        self._tail = tail
        self._messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    async def wait_started(self) -> None:
        """As long as the cluster has no room for it. Raises OSError where it cannot be started."""
        await self._started

    async def send(self, **command: Any) -> None:
        self._runner.order(op="command", worker=self._number, command=command)

    async def receive(self) -> dict[str, Any] | None:
        return await self._messages.get()

    def kill(self) -> None:
        self._runner.order(op="kill", worker=self._number)

    async def end(self) -> Exit:
        if not self._exit.done():
            self._runner.order(op="end", worker=self._number)
        try:
            # Not wait_for: before Python 3.12 it may swallow a cancel that comes together with the end.
            await asyncio.wait({self._exit}, timeout=_END_SECONDS)
        finally:
            self._runner.forget(self._number)
            self._tail.close()
        if self._exit.done():
            return self._exit.result()
        return Exit(f"no answer from {self._place.description}", blame=False)

    def last_lines(self) -> list[str]:
        return list(self._tail.lines)

    def take(self, line: dict[str, Any]) -> None:
        """What the driver says about this worker."""
        match line["type"]:
            case "started":
                self.pid = line["pid"]
                if not self._started.done():
                    self._started.set_result(None)
            case "not_started":
                if not self._started.done():
                    self._started.set_exception(OSError(line["reason"]))
            case "message":
                self._messages.put_nowait(line["message"])
            case "log":
                self._tail.keep(line["line"], line["pid"])
            case "gone":
                self.lose(Exit(line["reason"], line["blame"], line["memory"]))

    def lose(self, end: Exit) -> None:
        if not self._started.done():
            self._started.set_exception(OSError(f"it was not started before {end.reason}"))
            self._started.exception()  # whoever waited may be gone
        if not self._exit.done():
            self._exit.set_result(end)
            self._messages.put_nowait(None)


class RayRunner:
    def __init__(self, settings: Settings, home: Home) -> None:
        """Connects, before there is a server: what is wrong is said at once. Raises RayError."""
        assert settings.ray is not None
        check_ray(settings.ray)
        self._address = settings.ray
        self._logs = home.logs
        self._numbers = itertools.count(1)
        self._handles: dict[int, RayHandle] = {}
        self._lines: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._command = [sys.executable, "-m", "server.cluster.driver", "--address", settings.ray]
        self._command += ["--backend", settings.backend]
        if settings.workers is not None:
            self._command += ["--workers", str(settings.workers)]
        self._driver = self._launch()
        assert self._driver.stdout is not None
        patience = threading.Timer(_CONNECT_SECONDS, self._driver.kill)
        patience.start()
        answer = self._driver.stdout.readline()
        patience.cancel()
        first = json.loads(answer) if answer else {"type": "refused", "message": f"no answer; see {self._log_path}"}
        if first["type"] != "connected":
            self._driver.kill()
            raise RayError(
                f"--ray {settings.ray}: the cluster cannot be joined: {first.get('message')}; "
                "this machine must be one of its nodes, with the same versions of Ray and Python as the head: "
                "ray start --address=HEAD:PORT --num-cpus=0"
            )

    @property
    def _log_path(self) -> str:
        return str(self._logs / "ray.log")

    def _launch(self) -> subprocess.Popen[str]:
        with open(self._log_path, "ab") as errors:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
                env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1"},
            )

    def order(self, **order: Any) -> None:
        """To the driver. One that is gone takes none; its workers are seen to be gone, too."""
        assert self._driver.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._driver.stdin.write(json.dumps(order) + "\n")
            self._driver.stdin.flush()

    def forget(self, number: int) -> None:
        self._handles.pop(number, None)

    async def places(self) -> AsyncIterator[Sequence[Place]]:
        try:
            while True:
                self._read(self._driver)
                while (line := await self._lines.get()) is not None:
                    match line["type"]:
                        case "places":
                            yield [Place(place["id"], place["description"]) for place in line["places"]]
                        case "connected":
                            log.info("the Ray cluster at %s is there again", self._address)
                        case "refused":
                            log.warning("the Ray cluster at %s: %s", self._address, line["message"])
                self._driver.wait()
                yield []  # first, so that nobody tries to start another worker
                for handle in list(self._handles.values()):
                    handle.lose(_LOST)
                log.error("the Ray cluster at %s is lost; it is tried again until it is back", self._address)
                while not await self._is_there():
                    await asyncio.sleep(_RETRY_SECONDS)
                # By this thread: the driver is killed with the thread that has started it.
                self._driver = self._launch()
        finally:
            self._driver.kill()
            for handle in list(self._handles.values()):
                handle.lose(_LOST)

    async def _is_there(self) -> bool:
        try:
            await asyncio.to_thread(check_ray, self._address)
        except RayError:
            return False
        return True

    def _read(self, driver: subprocess.Popen[str]) -> None:
        """Pass on what the driver says, in a thread, until it is gone."""
        loop = asyncio.get_running_loop()

        def read() -> None:
            assert driver.stdout is not None
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server ends
                for line in driver.stdout:
                    loop.call_soon_threadsafe(self._take, json.loads(line))
                loop.call_soon_threadsafe(self._lines.put_nowait, None)

        threading.Thread(target=read, name="ray", daemon=True).start()

    def _take(self, line: dict[str, Any]) -> None:
        if "worker" not in line:
            self._lines.put_nowait(line)
        elif (handle := self._handles.get(line["worker"])) is not None:
            handle.take(line)

    async def start(self, place: Place) -> RayHandle:
        number = next(self._numbers)
        handle = RayHandle(self, number, place, Tail(self._logs / f"worker-{place.id}.log"))
        self._handles[number] = handle
        self.order(op="start", worker=number, place=place.id)
        try:
            await handle.wait_started()
        except BaseException:
            self.order(op="kill", worker=number)
            self.forget(number)
            handle._tail.close()
            raise
        return handle
