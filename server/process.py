# SPDX-License-Identifier: Apache-2.0
"""The server's end of one worker process of this machine: start, messages, log, end (a WorkerHandle)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections import deque
from collections.abc import Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from server.failures import describe_exit
from server.runner import Exit

log = logging.getLogger("hvg3d.server")

_LINE_LIMIT = 1024 * 1024
_KEEP_LINES = 100
_DYING_SECONDS = 2.0
_LOG_BYTES = 4 * 1024 * 1024


class WorkerProcess:
    def __init__(self, process: asyncio.subprocess.Process, log_path: Path) -> None:
        self._process = process
        self._messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._lines: deque[str] = deque(maxlen=_KEEP_LINES)
        self._file = RotatingFileHandler(log_path, maxBytes=_LOG_BYTES, backupCount=2, encoding="utf-8")
        self._file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self._silent = False
        self._readers = [asyncio.create_task(self._read_messages()), asyncio.create_task(self._read_log())]
        self.pid: int | None = process.pid

    @classmethod
    async def start(cls, backend: str, log_path: Path, environment: Mapping[str, str]) -> WorkerProcess:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "server.worker",
            "--backend",
            backend,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_LIMIT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", **environment},
        )
        return cls(process, log_path)

    async def send(self, **command: Any) -> None:
        """A worker that is gone takes no command; its end is seen by who waits for its messages."""
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError, RuntimeError):
            self._process.stdin.write((json.dumps(command) + "\n").encode())
            await self._process.stdin.drain()

    async def receive(self) -> dict[str, Any] | None:
        """The next message; None once the worker is gone."""
        return await self._messages.get()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def end(self) -> Exit:
        with contextlib.suppress(TimeoutError):
            # One that is dying by itself is waited for: to kill it now would lose its exit code (asyncio reports 255).
            await asyncio.wait_for(self._process.wait(), _DYING_SECONDS if self._silent else 0)
        self.kill()
        code = await self._process.wait()
        with contextlib.suppress(TimeoutError):  # a grandchild could hold the pipes open
            await asyncio.wait_for(asyncio.gather(*self._readers), 5)
        self._file.close()
        return Exit(describe_exit(code), memory=code in (-9, 137))

    def last_lines(self) -> list[str]:
        return list(self._lines)

    async def _read_messages(self) -> None:
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                try:
                    self._messages.put_nowait(json.loads(line))
                except ValueError:
                    self._keep(line)
        except ValueError as error:  # a line beyond the limit: it does not speak our language
            self._keep(f"unreadable message: {error}".encode())
            self.kill()
        finally:
            self._silent = True
            self._messages.put_nowait(None)

    async def _read_log(self) -> None:
        assert self._process.stderr is not None
        while True:
            try:
                line = await self._process.stderr.readline()
            except ValueError:
                continue  # over-long, and readline has dropped it
            if not line:
                return
            self._keep(line)

    def _keep(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        if text:
            self._lines.append(text[:500])
            self._file.emit(logging.LogRecord("worker", logging.INFO, "", 0, f"[{self.pid}] {text}", None, None))
