# SPDX-License-Identifier: GPL-3.0-or-later
"""One video from one clip: a thread that packs, uploads, waits and downloads, and outlives a stopped server."""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ..core import Clip, clip_bytes
from ..results.files import SHOT, first_picture_path, metadata_path, thumbnail_path, write_file
from ..results.history import History, entry_of
from .http import Address, Api, not_written
from .journal import JobRecord, Journal
from .kept import KeptClips
from .protocol import (
    FINISHED,
    PHASE_LABELS,
    ClientError,
    GenerationRequest,
    JobStatus,
    Missing,
    Unauthorized,
    Unreachable,
)

_POLL_SECONDS = 0.25
_PREVIEW_TIMEOUT = 2.0
_BACK_OFF_SECONDS = (0.5, 1.0, 2.0, 4.0, 5.0)  # between attempts to reach a server that is gone
_ATTEMPTS_BEFORE_ACCEPTED = 4  # afterwards the job is safe on the server, and it is waited for without end
_T = TypeVar("_T")


@dataclass(frozen=True)
class TaskState:
    """What a user sees of a task. ``outcome`` is empty while it runs, else done, failed or cancelled."""

    phase: str
    fraction: float = 0.0
    eta: float | None = None
    message: str = ""
    remedy: str = ""
    outcome: str = ""
    connected: bool = True
    previews: int = 0  # how many pictures have come; the newest is the task's ``preview``
    fetchable: bool = False  # it is finished on the server, and its result can be fetched again


class _Stopped(Exception):
    """The user cancelled, or the add-on is being switched off."""


@dataclass(frozen=True)
class Desk:
    """What is kept on disk of jobs, clips and results. Without one a task leaves nothing but its result."""

    journal: Journal
    kept: KeptClips
    history: History


class RenderTask:
    """Runs in its own thread from :meth:`start` on. ``states`` receives a :class:`TaskState` for every change.

    ``clip`` may be the SHA-256 of one that the server has, or that is kept on the desk. ``shot`` goes into the result's
    metadata, ``first_picture`` (PNG) beside it. ``address`` may be replaced while it runs, when the user corrects the
    preferences.
    """

    def __init__(
        self,
        address: Address,
        clip: Clip | str,
        request: GenerationRequest,
        output: Path,
        label: str,
        *,
        desk: Desk | None = None,
        shot: dict[str, Any] | None = None,
        first_picture: bytes | None = None,
    ):
        self.id = str(uuid.uuid4())
        self.address = address
        self.follows_preferences = True
        self.request = request
        self.output = output
        self.label = label
        self.states: queue.Queue[TaskState] = queue.Queue()
        self.preview = b""  # the newest picture, a JPEG
        self._clip: Clip | None = clip if isinstance(clip, Clip) else None
        self._sha256 = clip if isinstance(clip, str) else ""
        self._desk = desk
        self._shot = shot
        self._first_picture = first_picture
        self._record: JobRecord | None = None
        self._state = TaskState("Preparing")
        self._submitted = False  # the server may know of the job
        self._accepted = False  # the server has said so
        self._finished = False  # the result is ready on the server
        self._sent_again = False
        self._previews = 0
        self._cancelled = threading.Event()
        self._detached = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"hvg3d {self.id[:8]}", daemon=True)

    @classmethod
    def resume(cls, record: JobRecord, preferred: Address, desk: Desk) -> RenderTask:
        """Follow a job again that a Blender sent which is gone, or whose result could not be saved."""
        address, usual = record.address(preferred)
        body = dict(record.body)
        clip = str(body.pop("clip"))
        request = GenerationRequest(**{**body, "model": body.get("model") or ""})
        task = cls(address, clip, request, Path(record.output), record.label, desk=desk, shot=record.shot)
        task.id = record.id
        task.follows_preferences = usual
        task._record = record
        task._submitted = task._accepted = True
        return task

    def start(self) -> None:
        self._thread.start()

    def cancel(self) -> None:
        """Stop it, on the server too, as soon as the server can be told."""
        self._cancelled.set()
        self._wake.set()

    def detach(self) -> None:
        """Stop following the job; it goes on on the server."""
        self._detached.set()
        self._wake.set()

    def join(self, timeout: float | None = None) -> None:
        self._thread.join(timeout)

    # everything below runs in the thread

    def _run(self) -> None:
        try:
            status = self._follow() if self._record is not None else self._send()
            if status.state == "done":
                self._finished = True
                self._fetch()
            elif status.state == "cancelled":
                self._show(phase="Cancelled", outcome="cancelled", message="Cancelled")
            else:
                self._show(
                    phase="Failed",
                    outcome="failed",
                    message=status.error or "The server gave no reason",
                    remedy=status.remedy,
                )
        except _Stopped:
            self._stop()
        except ClientError as error:
            again = self._finished and error.code != "result_gone" and self._desk is not None
            if again and self._record is not None and self._desk is not None:
                self._desk.journal.note(self._record, error.message)
            self._show(
                phase="Failed", outcome="failed", message=error.message, remedy=error.remedy, fetchable=bool(again)
            )
        except Exception as error:
            self._show(
                phase="Failed",
                outcome="failed",
                message=f"{type(error).__name__}: {error}",
                remedy="This is a fault of the add-on; please report it",
            )
        finally:
            self._leave_journal()

    def _leave_journal(self) -> None:
        if self._desk is None:
            return
        if self._detached.is_set() or self._state.fetchable:
            self._desk.journal.release(self.id)
        else:
            self._desk.journal.forget(self.id)

    def _send(self) -> JobStatus:
        """Everything up to the end of the job."""
        self._show(phase="Connecting")
        self._api().health()
        sha256 = self._upload()
        self._show(phase="Submitting")
        self._check_stopped()
        self._submit(self.request.to_json(sha256))
        return self._follow()

    def _submit(self, body: dict[str, Any]) -> None:
        if self._record is None:
            shot = {**self._shot, "job": self.id, "request": body} if self._shot is not None else {}
            self._record = JobRecord(
                id=self.id,
                body=body,
                label=self.label,
                output=str(self.output),
                home=self.address.home,
                url=self.address.url,
                made=time.time(),
                shot=shot,
            )
        if self._first_picture is not None:
            self._save(first_picture_path(self.output), self._first_picture, needed=False)
        if self._desk is not None:
            self._desk.journal.hold(self._record)
        self._submitted = True
        self._patiently(lambda api: api.submit(self.id, body, self.label))
        self._accepted = True

    def _api(self) -> Api:
        return Api(self.address)

    def _show(self, **changes: Any) -> None:
        plain = {"message": "", "remedy": "", "connected": True, "fetchable": False}
        self._state = replace(self._state, **{**plain, **changes})
        self.states.put(self._state)

    def _pause(self, seconds: float) -> None:
        if self._wake.wait(seconds):
            self._check_stopped()

    def _check_stopped(self) -> None:
        if self._detached.is_set() or self._cancelled.is_set():
            raise _Stopped

    def _patiently(self, call: Callable[[Api], _T]) -> _T:
        """``call``, again and again while the server is away. A wrong token, too, can be mended in the meantime."""
        attempt = 0
        while True:
            self._check_stopped()
            try:
                return call(self._api())
            except (Unreachable, Unauthorized) as error:
                if not self._accepted and (attempt + 1 >= _ATTEMPTS_BEFORE_ACCEPTED or isinstance(error, Unauthorized)):
                    raise
                message, remedy = error.message, error.remedy
                if self._accepted and isinstance(error, Unreachable):
                    message = f"Waiting for the server: {message}"
                    remedy = "The job goes on when the server is back; it can still be cancelled"
                self._show(message=message, remedy=remedy, connected=False, eta=None)
            self._pause(_BACK_OFF_SECONDS[min(attempt, len(_BACK_OFF_SECONDS) - 1)])
            attempt += 1

    def _upload(self) -> str:
        """Have the server have the clip; its hash."""
        data: bytes | None = None
        if self._clip is not None:
            self._show(phase="Packing the clip")
            data = clip_bytes(self._clip)
            self._clip = None  # the bytes are enough from here on
            self._sha256 = hashlib.sha256(data).hexdigest()
            if self._desk is not None:
                self._desk.kept.keep(self._sha256, data)
        sha256 = self._sha256
        shown = [0.0]

        def on_progress(fraction: float) -> None:
            self._check_stopped()
            if fraction - shown[0] >= 0.02:
                shown[0] = fraction
                self._show(phase=f"Uploading, {fraction:.0%}")

        furthest, failures = -1, 0
        while (offset := self._patiently(lambda api: api.clip_offset(sha256))) is not None:
            if data is None:
                data = self._desk.kept.read(sha256) if self._desk is not None else None
            if data is None:
                raise ClientError(
                    "The clip of this video is neither on the server nor kept here any more",
                    "Press Redo, which brings its settings back, and render again",
                    "clip_gone",
                )
            if offset > furthest:
                furthest, failures = offset, 0
            try:
                self._api().put_clip(sha256, data, offset, on_progress)
            except Unreachable as error:
                failures += 1
                if failures >= _ATTEMPTS_BEFORE_ACCEPTED:
                    raise
                self._show(message=error.message, remedy="The upload goes on where it stopped", connected=False)
                self._pause(_BACK_OFF_SECONDS[failures - 1])
        return sha256

    def _follow(self) -> JobStatus:
        if self._desk is not None and self._record is not None and not self._desk.journal.hold(self._record):
            self._detached.set()
            raise _Stopped  # another Blender has taken it up this moment
        last: JobStatus | None = None
        pictured: tuple[str, int] | None = None
        while True:
            try:
                status = self._patiently(lambda api: api.job(self.id))
            except Missing:
                if self._record is None or self._sent_again:
                    raise
                self._sent_again = True  # it died between writing down and sending, or the server has lost its books
                self._upload()
                self._submit(self._record.body)
                continue
            if status.state in FINISHED:
                return status
            changed = status != last or not self._state.connected
            if status.preview and (status.phase, status.step) != pictured:
                pictured = (status.phase, status.step)
                changed |= self._look()
            if changed:
                self._show_status(status)
                last = status
            self._pause(_POLL_SECONDS)

    def _look(self) -> bool:
        """Fetch the newest picture. Nothing depends on it."""
        try:
            self.preview = self._api().fetch(self.id, "preview.jpg", _PREVIEW_TIMEOUT)
        except ClientError:
            return False
        self._previews += 1
        return True

    def _show_status(self, status: JobStatus) -> None:
        if status.state == "queued":
            ahead = status.queue_position or 0
            phase = f"Waiting, {ahead} before it" if ahead else "Waiting, next in the queue"
        else:
            phase = PHASE_LABELS.get(status.phase, "Starting")
        self._show(phase=phase, fraction=status.fraction, eta=status.eta, message=status.note, previews=self._previews)

    def _fetch(self) -> None:
        """The video comes last: where it is, everything is."""
        self._show(phase="Downloading", fraction=0.99, eta=None)
        told = self._patiently(lambda api: api.fetch(self.id, "metadata.json"))
        try:
            metadata = json.loads(told)
        except ValueError:
            metadata = {}
        if self._record is not None and self._record.shot:
            metadata[SHOT] = self._record.shot
            told = (json.dumps(metadata, indent=2, ensure_ascii=False) + "\n").encode()
        self._save(metadata_path(self.output), told)
        if self._desk is not None:
            with contextlib.suppress(ClientError):
                picture = self._api().fetch(self.id, "preview.jpg", _PREVIEW_TIMEOUT)
                self._save(thumbnail_path(self.output), picture, needed=False)
        self._patiently(lambda api: api.download(self.id, "video.mp4", self.output))
        entry = entry_of(self.output, metadata)
        if self._desk is not None and entry is not None:
            self._desk.history.add(entry)
        self._show(phase="Done", fraction=1.0, outcome="done", message=f"Saved as {self.output}")

    def _save(self, path: Path, data: bytes, *, needed: bool = True) -> None:
        try:
            write_file(path, data)
        except OSError as error:
            if needed:
                raise not_written(path, error) from error

    def _stop(self) -> None:
        """After :class:`_Stopped`. The user is free at once; a server that is away is told when it is back."""
        if self._detached.is_set():
            return
        if self._desk is not None:
            self._desk.journal.forget(self.id)  # not to be found again by the next Blender
        told_user = not self._accepted
        if told_user:
            self._show(phase="Cancelled", outcome="cancelled", message="Cancelled")
        if not self._submitted:
            return
        for attempt in range(720):  # an hour at the longest interval
            try:
                status = self._api().cancel(self.id)
                break
            except Unreachable as error:
                if not told_user:
                    self._show(
                        phase="Cancelled",
                        outcome="cancelled",
                        message=f"Cancelled here. {error.message}",
                        remedy="It is told to cancel the job when it is back, as long as Blender is open",
                    )
                    told_user = True
                if self._detached.wait(_BACK_OFF_SECONDS[min(attempt, len(_BACK_OFF_SECONDS) - 1)]):
                    return
            except ClientError as error:
                if not told_user:
                    self._show(phase="Cancelled", outcome="cancelled", message=error.message, remedy=error.remedy)
                return
        else:
            return
        if told_user:
            return
        self._show(phase="Cancelling", eta=None)
        while status.state not in FINISHED:
            if self._detached.wait(_POLL_SECONDS):
                return
            try:
                status = self._api().job(self.id)
            except ClientError:
                break  # it has been told, which is all that matters
        self._show(phase="Cancelled", outcome="cancelled", message="Cancelled")
