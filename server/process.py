# SPDX-License-Identifier: Apache-2.0
"""The server's end of one worker process of this machine: start, messages, log, end (a WorkerHandle)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from server.failures import describe_exit
from server.runner import Exit
from server.tail import Tail

_LINE_LIMIT = 1024 * 1024
_DYING_SECONDS = 2.0


class Log(Protocol):
    """Takes what the worker prints."""

    @property
    def lines(self) -> Iterable[str]: ...

    def keep(self, text: str, pid: int | None) -> None: ...

    def close(self) -> None: ...


class WorkerProcess:
    def __init__(self, process: asyncio.subprocess.Process, log: Log) -> None:
        self._process = process
        self._messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._log = log
        self._silent = False
        self._readers = [asyncio.create_task(self._read_messages()), asyncio.create_task(self._read_log())]
        self.pid: int | None = process.pid

    @classmethod
    async def start(cls, backend: str, log: Path | Log, environment: Mapping[str, str]) -> WorkerProcess:
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
        return cls(process, Tail(log) if isinstance(log, Path) else log)

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
        self._log.close()
        return Exit(describe_exit(code), memory=code in (-9, 137))

    def last_lines(self) -> list[str]:
        return list(self._log.lines)

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
        self._log.keep(line.decode("utf-8", "replace"), self.pid)
