# SPDX-License-Identifier: GPL-3.0-or-later
"""The process of a server on this computer. Standard library only; everything here may block, and runs in threads.

A server is started on a line (its standard input) that the system closes with Blender, however Blender ends; see
``--with-parent`` of the server. It picks a port of its own and writes where it is into its home folder.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..client.check import ServerStatus, check_server
from ..client.http import Address
from .failures import CareError, explain
from .find import Program, check_program, server_environment
from .pythons import window_options

LOG_NAME = "blender.log"
_LOOK_SECONDS = 0.2
_GOODBYE_SECONDS = 8.0  # the server itself takes five for connections that do not end
_LEAST_FREE = 64 * 1024 * 1024
_TAIL_BYTES = 16 * 1024


@dataclass(frozen=True)
class Launch:
    """What a server is to be started with. ``port`` 0: a free one, which the server picks."""

    home: Path
    program: Program
    port: int = 0
    keep: bool = False
    """It may outlive Blender."""
    options: tuple[str, ...] = ()
    version: str = ""
    """Of the add-on, to compare."""


@dataclass
class LocalServer:
    """A running child process."""

    process: subprocess.Popen[bytes]
    log: Path
    home: Path
    launch: str = ""
    """Written by the server beside its address: by it one's own is known from another's."""
    started: float = field(default_factory=time.monotonic)

    def running(self) -> bool:
        return self.process.poll() is None

    def keep(self, stay: bool) -> None:
        """Whether it is to outlive Blender: said now, true also if Blender crashes later."""
        with contextlib.suppress(OSError, ValueError):
            assert self.process.stdin is not None
            self.process.stdin.write(b"stay\n" if stay else b"leave\n")
            self.process.stdin.flush()

    def let_go(self) -> None:
        """Close the line: without ``keep(True)`` the server ends, by itself and in order."""
        with contextlib.suppress(OSError, ValueError):
            assert self.process.stdin is not None
            self.process.stdin.close()

    def stop(self, seconds: float = _GOODBYE_SECONDS) -> None:
        """Blocks until it is gone; one that does not go in time is killed, with all that it has started."""
        self.keep(False)
        self.let_go()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            kill_group(self.process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """A process that was started with ``window_options``, and its children."""
    if process.poll() is not None:
        return
    if sys.platform == "win32":
        command = ["taskkill", "/F", "/T", "/PID", str(process.pid)]
        subprocess.run(command, capture_output=True, check=False, **window_options())
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def read_handshake(home: Path) -> dict[str, Any]:
    """What the server of this home wrote when it started; empty if there is nothing that can be read."""
    try:
        written = json.loads((home / "server.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return written if isinstance(written, dict) else {}


def tail(log: Path, lines: int = 12) -> list[str]:
    try:
        with open(log, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def prepare_home(home: Path) -> None:
    """The folder is there, can be written to, and has room. Raises :class:`CareError`."""
    choose = "Choose another folder for the server, on a disk with room that you may write to"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = home / f".room-{os.getpid()}"
        try:
            probe.write_bytes(bytes(1024))
        finally:
            probe.unlink(missing_ok=True)
        free = shutil.disk_usage(home).free
    except OSError as error:
        raise folder_error(home, error) from None
    if free < _LEAST_FREE:
        raise CareError("disk_full", f"The disk of {home} is full: {free // 2**20} MiB are free", choose)


def folder_error(folder: Path, error: OSError) -> CareError:
    """What an operating system's refusal means."""
    choose = "Choose another folder for the server, on a disk with room that you may write to"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return CareError("disk_full", f"The disk of {folder} is full", choose)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CareError("read_only", f"You may not write to the folder {folder}", choose)
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return CareError("read_only", f"{folder} cannot be a folder: a file of that name is in the way", choose)
    return CareError("read_only", f"The folder {folder} cannot be used: {error.strerror or error}", choose)


def find_running(home: Path, version: str = "") -> ServerStatus | None:
    """The server that uses this home, if one answers there under the name that it wrote down."""
    told = read_handshake(home)
    if not told:
        return None
    status = check_server(Address(home=str(home)), version)
    if status.state == "ready" and status.instance == told.get("instance"):
        return status
    return None


def start(
    launch: Launch, cancelled: threading.Event, say: Callable[[str, Sequence[str]], None]
) -> tuple[LocalServer | None, ServerStatus]:
    """Blocks until a server answers: the one that runs in this home already (then the first is None), or a new one.

    ``say`` is told what is going on, with the last lines of the log. Raises :class:`CareError`.
    """
    prepare_home(launch.home)
    running = find_running(launch.home, launch.version)
    if running is not None:
        return None, running
    say("Looking at the server's Python", ())
    check_program(launch.program)
    server = _spawn(launch)
    try:
        return _wait(launch, server, cancelled, say)
    except BaseException:
        server.stop(0.0 if cancelled.is_set() else 2.0)
        raise


def _private(path: str, flags: int) -> int:
    """For its owner only: the log has the link to the server's page in it."""
    return os.open(path, flags, 0o600)


def _spawn(launch: Launch) -> LocalServer:
    log, name = launch.home / LOG_NAME, uuid.uuid4().hex
    command = [*launch.program.command, "--home", str(launch.home), "--port", str(launch.port), "--with-parent"]
    try:
        if log.exists() and log.stat().st_size:
            os.replace(log, log.with_suffix(".old.log"))
        with open(log, "wb", opener=_private) as file:
            process = subprocess.Popen(
                [*command, *launch.options],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                cwd=launch.program.cwd or launch.home,
                env={**server_environment(), "HVG3D_LAUNCH": name},
                **window_options(),
            )
    except OSError as error:
        if error.filename and Path(str(error.filename)) == Path(command[0]):
            message = f"{command[0]} cannot be started: {error.strerror}"
            raise CareError("no_program", message, "Choose another program, or install the server") from None
        raise folder_error(launch.home, error) from None
    server = LocalServer(process, log, launch.home, name)
    if launch.keep:
        server.keep(True)
    return server


def _wait(
    launch: Launch,
    server: LocalServer,
    cancelled: threading.Event,
    say: Callable[[str, Sequence[str]], None],
) -> tuple[LocalServer | None, ServerStatus]:
    while not cancelled.wait(_LOOK_SECONDS):
        code = server.process.poll()
        if code is not None:
            lines = tail(server.log)
            running = find_running(launch.home, launch.version)
            if running is not None:
                return None, running  # somebody else was a moment earlier
            reason = explain(lines, code)
            if reason.code == "in_use":  # and is still on its way
                for _ in range(25):
                    running = find_running(launch.home, launch.version)
                    if running is not None:
                        return None, running
                    if cancelled.wait(_LOOK_SECONDS):
                        break
                hint = "It is starting or does not answer: try again, or choose another folder"
                raise CareError("in_use", reason.message, hint, lines)
            raise reason
        told = read_handshake(launch.home)
        if told.get("launch") == server.launch:
            status = check_server(Address(home=str(launch.home)), launch.version)
            if status.state == "ready" and status.instance == told.get("instance"):
                return server, status
            if status.code == "version":
                raise CareError("version", status.message, status.remedy, tail(server.log))
        waited = time.monotonic() - server.started
        slow = f" ({waited:.0f} s; the log says what it does)" if waited > 20 else ""
        say(f"Starting{slow}", tail(server.log, 4))
    raise CareError("cancelled", "Stopped while it was starting", "")


def stop_found(home: Path, seconds: float = _GOODBYE_SECONDS) -> None:
    """Ends a server that somebody else has started in this home. Its jobs stay in its queue.

    Only after it has answered under the name that it wrote down with its process: that number might belong to another
    program by now. Raises :class:`CareError`.
    """
    told = read_handshake(home)
    if find_running(home) is None or not isinstance(told.get("pid"), int):
        raise CareError("off", f"No server runs in {home}", "")
    pid = told["pid"]
    try:
        os.kill(pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGINT)
    except OSError as error:
        raise CareError(
            "not_mine", f"The server (process {pid}) cannot be stopped: {error.strerror}", "Ask who has started it"
        ) from None
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if find_running(home) is None:
            return
        time.sleep(_LOOK_SECONDS)
    raise CareError("not_mine", f"The server (process {pid}) does not stop", "End that process by hand")
