# SPDX-License-Identifier: Apache-2.0
"""What a worker prints: a file that is kept within bounds, and its last lines in memory."""

from __future__ import annotations

import logging
from collections import deque
from logging.handlers import RotatingFileHandler
from pathlib import Path

_KEEP_LINES = 100
_LINE_CHARACTERS = 500
_BYTES = 4 * 1024 * 1024


class Tail:
    def __init__(self, path: Path) -> None:
        self.lines: deque[str] = deque(maxlen=_KEEP_LINES)
        self._file = RotatingFileHandler(path, maxBytes=_BYTES, backupCount=2, encoding="utf-8")
        self._file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))

    def keep(self, text: str, pid: int | None) -> None:
        """One line. Empty ones are left out."""
        text = text.rstrip()
        if text:
            self.lines.append(text[:_LINE_CHARACTERS])
            self._file.emit(logging.LogRecord("worker", logging.INFO, "", 0, f"[{pid}] {text}", None, None))

    def close(self) -> None:
        self._file.close()
