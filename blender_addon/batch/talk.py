# SPDX-License-Identifier: GPL-3.0-or-later
"""What a batch without a window says on standard output."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from pathlib import Path
from typing import Any

from .job import Batch, Row


class Speaker:
    """Tells of rows on standard output, from any thread."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._mutex = threading.Lock()

    def row(self, row: Row) -> None:
        if self._as_json:
            values: dict[str, Any] = {name: getattr(row, name) for name in Row.__dataclass_fields__ if name != "shot"}
            self.say(event="shot", id=row.shot.id, label=row.shot.label, **values)
        elif row.state in ("done", "failed"):
            self._print(f"{row.state:<7}{row.shot.label}{f': {row.message}. {row.remedy}' if row.message else ''}")

    def say(self, **values: Any) -> None:
        if self._as_json:
            self._print(json.dumps(values, ensure_ascii=False))

    def _print(self, text: str) -> None:
        with self._mutex, contextlib.suppress(BrokenPipeError):
            print(text, flush=True)

    def conclude(self, batch: Batch, page: Path | None) -> int:
        """Say how it ended; returns the exit code, 0 where all shots are done."""
        totals = batch.totals()
        message, remedy = batch.courier.problem
        self.say(
            event="end", report=str(page or ""), text=totals.text(), left=totals.left, message=message, remedy=remedy
        )
        if not self._as_json:
            self._print(totals.text())
            if message:
                print(f"error: {message}. {remedy}", file=sys.stderr)
            if totals.left:
                print(f"{totals.left} are not made yet; run the same command again, and it goes on", file=sys.stderr)
            self._print(f"report: {page}")
        return 0 if totals.shots and totals.done == totals.shots else 1
