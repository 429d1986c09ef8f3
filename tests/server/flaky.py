# SPDX-License-Identifier: Apache-2.0
"""A line between client and server that breaks: a TCP proxy which cuts connections after so many bytes."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading


class FlakyLine:
    """Listens on ``port`` and forwards to ``target``. Each entry of ``up`` / ``down`` is how many bytes one connection
    may carry to the server / to the client before it is reset; connections after those are whole."""

    def __init__(self, target: int, up: list[int] | None = None, down: list[int] | None = None) -> None:
        self._target = target
        self._up = list(up or [])
        self._down = list(down or [])
        self.cuts = 0
        self.carried_up = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def __enter__(self) -> FlakyLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                threading.Thread(target=self._pump, args=(near, far, self._up, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(far, near, self._down, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, budgets: list[int], upwards: bool) -> None:
        carried = 0
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                if budgets and carried + len(data) > budgets[0]:
                    data = data[: budgets.pop(0) - carried]
                    sink.sendall(data)
                    self.carried_up += len(data) if upwards else 0
                    self.cuts += 1
                    self._reset(source, sink)
                    return
                sink.sendall(data)
                carried += len(data)
                self.carried_up += len(data) if upwards else 0
            sink.shutdown(socket.SHUT_WR)
            return
        self._reset(source, sink)

    @staticmethod
    def _reset(*ends: socket.socket) -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                # What has been sent is still delivered (shutdown), then the connection is gone.
                end.shutdown(socket.SHUT_RDWR)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1))
                end.close()
