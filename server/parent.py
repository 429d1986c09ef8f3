# SPDX-License-Identifier: Apache-2.0
"""``--with-parent``: the server ends with the program that started it, however that one ends, on every system.

That program holds the other end of standard input. When it quits, crashes or is killed, the system closes it, and the
end of standard input is seen here. Lines that it may write, the last of which counts: ``stay`` (go on without me) and
``leave`` (end with me, as at the start). A program that has forked may have left a copy of its end open elsewhere;
therefore the process that started this one is looked at as well.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import psutil

LAUNCH = "HVG3D_LAUNCH"
"""Environment variable whose value is written into ``server.json``, so that a parent knows its own server there."""
_LOOK_SECONDS = 1.0
_PATIENCE_SECONDS = 15.0  # for a server that is told to end; then it is ended


class Parent:
    """Watches from :meth:`watch` on. Whatever happens before :meth:`on_gone` is called ends the process at once."""

    def __init__(self) -> None:
        self._stay = False
        self._gone = False
        self._stop: Callable[[], None] | None = None
        self._lock = threading.Lock()
        # Descriptor 0 becomes empty: no process of this one inherits the line, and on Windows starting one would wait
        # for as long as somebody reads from it.
        self._line = os.dup(0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        self._parent = os.getppid()
        try:
            self._process: psutil.Process | None = psutil.Process(self._parent)
        except psutil.Error:
            self._process = None  # it is gone already, which standard input will tell

    def watch(self) -> None:
        threading.Thread(target=self._listen, name="parent's line", daemon=True).start()
        threading.Thread(target=self._look, name="parent", daemon=True).start()

    def on_gone(self, stop: Callable[[], None]) -> None:
        """``stop`` is called, from another thread, once the parent is gone."""
        with self._lock:
            self._stop = stop
            gone = self._gone
        if gone:
            stop()

    def _listen(self) -> None:
        with os.fdopen(self._line, "rb") as line:
            for word in line:
                if word.strip() in (b"stay", b"leave"):
                    self._stay = word.strip() == b"stay"
        self._end()

    def _look(self) -> None:
        wait = threading.Event()
        # One that has died, but was not buried by its own parent, is still listed; its children have a new parent then.
        while self._process is not None and self._process.is_running() and os.getppid() == self._parent:
            wait.wait(_LOOK_SECONDS)
        if self._process is not None:
            wait.wait(_LOOK_SECONDS)  # its last word may still be in the line
            self._end()

    def _end(self) -> None:
        with self._lock:
            if self._stay or self._gone:
                return
            self._gone = True
            stop = self._stop
        if stop is None:
            os._exit(0)
        timer = threading.Timer(_PATIENCE_SECONDS, os._exit, (1,))
        timer.daemon = True
        timer.start()
        stop()
