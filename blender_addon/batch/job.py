# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of a batch: what is to be exported, what is on its way, what has become of it."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..client.http import Address
from ..core import Clip, ClipError, clip_bytes
from .courier import Courier, Work
from .plan import CLIP_SUFFIX, Plan, Shot, Unit
from .report import write_report
from .state import State

FINAL = frozenset({"done", "failed"})


@dataclass(frozen=True)
class Row:
    """A shot as a user sees it. ``state``: waiting, exporting, ready, sending, queued, running, done, failed.

    ``kept``: it was done, or had failed, before this run.
    """

    shot: Shot
    state: str = "waiting"
    phase: str = "Waiting for its export"
    fraction: float = 0.0
    eta: float | None = None
    message: str = ""
    remedy: str = ""
    video: str = ""
    kept: bool = False


@dataclass(frozen=True)
class Totals:
    shots: int
    done: int
    failed: int
    kept: int
    fraction: float  # of all work, 0 to 1

    @property
    def left(self) -> int:
        return self.shots - self.done - self.failed

    def text(self) -> str:
        """Such as "21 of 24 done, 3 failed"."""
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done} of {self.shots} done{failed}"


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def split_remedy(message: str) -> tuple[str, str]:
    """(what is wrong, what to do) of a message that says both, as the add-on's own errors do."""
    wrong, mark, remedy = message.rpartition("; ")
    return (wrong, remedy[:1].upper() + remedy[1:]) if mark else (message, "")


class Batch:
    """Whoever exports says so here (any thread); the courier does the rest in its own.

    Raises ``state.Busy`` where another batch uses the folder, OSError where it cannot be written to.
    """

    def __init__(
        self,
        out: Path,
        address: Callable[[], Address],
        plan: Plan,
        *,
        title: str = "",
        retry_failed: bool = False,
        patience: float = 300.0,
        on_change: Callable[[Row], None] | None = None,
    ) -> None:
        self.out = out
        self.title = title
        self.rows: dict[str, Row] = {}
        self.retry_failed = retry_failed
        self.stopped = False
        self._on_change = on_change
        self._mutex = threading.RLock()
        self.state = State(out)
        for part in [*out.glob(".*.part"), *out.glob("*/.*.part")]:  # of a run that was killed: the folder is ours now
            part.unlink(missing_ok=True)
        self.courier = Courier(
            address, self.state, out, self._change, in_flight=plan.in_flight, retries=plan.retries, patience=patience
        )
        self.courier.start()

    # shots

    def add(self, shots: Iterable[Shot]) -> list[Unit]:
        """Take in shots; those that cannot be tried have failed at once. Returns the units of the others, once each."""
        units: dict[Unit, None] = {}
        for shot in shots:
            if shot.id in self.rows:
                continue
            self._put(Row(shot))
            if shot.unit.problem:
                self._fail_shot(shot, *split_remedy(shot.unit.problem))
            else:
                units[shot.unit] = None
        return list(units)

    def totals(self) -> Totals:
        rows = list(self.rows.values())
        done = sum(row.state == "done" for row in rows)
        failed = sum(row.state == "failed" for row in rows)
        work = sum(1.0 if row.state in FINAL else row.fraction for row in rows)
        return Totals(len(rows), done, failed, sum(row.kept for row in rows), work / max(len(rows), 1))

    # exports

    def needs_export(self, unit: Unit, stamp: str) -> bool:
        """False where its clip is here already, made from the same files (``stamp``; empty: nobody knows)."""
        known = self.state.get("unit", unit.id)
        if not stamp or known is None or known["stamp"] != stamp:
            return True
        if known.get("error"):
            if self.retry_failed:
                return True
            self._unit_failed(unit, known["error"], known["remedy"], kept=True)
            return False
        clip = self.out / known["clip"]
        if not clip.is_file() or clip.stat().st_size != known["bytes"]:
            return True
        self._ready(unit, known)
        return False

    def exporting(self, unit: Unit, phase: str) -> None:
        for shot in self._shots(unit):
            self._change(shot, {"state": "exporting", "phase": phase})

    def exported(self, unit: Unit, clip: Clip, request: dict[str, Any], stamp: str = "") -> None:
        """``request``: the scene's own settings. The clip is packed and written by the courier."""
        self.courier.call(lambda: self._pack(unit, clip, request, stamp))

    def exported_file(self, unit: Unit, clip: Clip, data: bytes, request: dict[str, Any], stamp: str = "") -> None:
        """The same for a clip that has been packed already."""
        self.courier.call(lambda: self._keep(unit, clip, data, request, stamp))

    def export_failed(self, unit: Unit, message: str, stamp: str = "") -> None:
        error, remedy = split_remedy(message)
        self.state.put("unit", unit.id, {"label": unit.label, "stamp": stamp, "error": error, "remedy": remedy})
        self._unit_failed(unit, error, remedy)

    def no_more(self) -> None:
        """All exports are through: the batch ends with the last video."""
        self.courier.no_more()

    # the end

    def give_up(self, message: str, remedy: str) -> None:
        """Nothing more can be exported: end, and say why."""
        self.courier.problem = (message, remedy)
        self.stop()

    @property
    def running(self) -> bool:
        return self.courier.running

    def stop(self, *, cancel: bool = False) -> None:
        """See :meth:`Courier.stop`."""
        self.stopped = True
        self.courier.stop(cancel=cancel)

    def close(self, timeout: float | None = None) -> Path | None:
        """Wait for the end, write the report, let go of the folder. Returns the page; None: it cannot be written."""
        self.courier.join(timeout)
        try:
            return self.report()
        except OSError:
            return None
        finally:
            self.state.close()

    def report(self) -> Path:
        """Write the report of how things stand; returns the page."""
        return write_report(self)

    # inside

    def _shots(self, unit: Unit) -> list[Shot]:
        return [row.shot for row in list(self.rows.values()) if row.shot.unit == unit and not row.shot.unit.problem]

    def _pack(self, unit: Unit, clip: Clip, request: dict[str, Any], stamp: str) -> None:
        try:
            data = clip_bytes(clip)
        except ClipError as error:
            self.export_failed(unit, str(error), stamp)
            return
        self._keep(unit, clip, data, request, stamp)

    def _keep(self, unit: Unit, clip: Clip, data: bytes, request: dict[str, Any], stamp: str) -> None:
        path = self.out / "clips" / f"{unit.slug}{CLIP_SUFFIX}"
        _write(path, data)
        picture = self.out / "pictures" / f"{unit.slug}.png"
        _write(picture, clip.views[0].reference)
        known = {
            "label": unit.label,
            "stamp": stamp,
            "clip": path.relative_to(self.out).as_posix(),
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "request": request,
            "picture": picture.relative_to(self.out).as_posix(),
            "facts": {
                "frames": clip.num_frames,
                "fps": clip.fps,
                "width": clip.width,
                "height": clip.height,
                "points": clip.num_points,
                "tracks": clip.tracks.shape[1],
                "prompt": clip.prompt,
                "entities": [f"{entity.name} ({entity.role.replace('_', ' ')})" for entity in clip.entities],
            },
        }
        self.state.put("unit", unit.id, known)
        self._ready(unit, known)

    def _ready(self, unit: Unit, known: dict[str, Any]) -> None:
        """The unit's clip is there: send what is not done with this very clip and these very settings."""
        for shot in self._shots(unit):
            request = {**known["request"], **dict(shot.request), "seed": shot.seed, "clip": known["sha256"]}
            key = digest(request)
            before = self.state.get("shot", shot.id)
            if before is None or before.get("key") != key:
                before = {"state": "new", "attempt": 0}
            attempt = before["attempt"]
            if before["state"] == "done" and (self.out / before["video"]).is_file():
                done = {"state": "done", "phase": "Done", "fraction": 1.0, "video": before["video"], "kept": True}
                self._change(shot, done)
                continue
            if before["state"] == "failed" and not self.retry_failed:
                self._fail_shot(shot, before["error"], before["remedy"], kept=True)
                continue
            if before["state"] in ("failed", "stopped"):
                attempt += 1
            self._change(shot, {"state": "ready", "phase": "Ready to be sent"})
            self.courier.send(Work(shot, key, request, self.out / known["clip"], attempt))

    def _unit_failed(self, unit: Unit, error: str, remedy: str, *, kept: bool = False) -> None:
        for shot in self._shots(unit):
            self._fail_shot(shot, error, remedy, kept=kept)

    def _fail_shot(self, shot: Shot, error: str, remedy: str, *, kept: bool = False) -> None:
        failed = {"state": "failed", "phase": "Failed", "message": error, "remedy": remedy, "kept": kept}
        self._change(shot, failed)

    def _change(self, shot: Shot, changes: dict[str, Any]) -> None:
        with self._mutex:
            row = self.rows[shot.id]
            changed = replace(row, **changes)
            if changed != row:
                self._put(changed)

    def _put(self, row: Row) -> None:
        with self._mutex:
            self.rows[row.shot.id] = row
            if self._on_change is not None:
                self._on_change(row)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
