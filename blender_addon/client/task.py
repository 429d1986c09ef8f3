# SPDX-License-Identifier: GPL-3.0-or-later
"""One video from one clip: a thread that packs, uploads, waits and downloads, and outlives a stopped server."""

from __future__ import annotations

import hashlib
import queue
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ..core import Clip, clip_bytes
from .http import Address, Api
from .protocol import FINISHED, PHASE_LABELS, ClientError, GenerationRequest, JobStatus, Unauthorized, Unreachable

_POLL_SECONDS = 0.25
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


class _Stopped(Exception):
    """The user cancelled, or the add-on is being switched off."""


class RenderTask:
    """Runs in its own thread from :meth:`start` on. ``states`` receives a :class:`TaskState` for every change.

    ``address`` may be replaced while it runs, when the user corrects the preferences.
    """

    def __init__(self, address: Address, clip: Clip, request: GenerationRequest, output: Path, label: str):
        self.id = str(uuid.uuid4())
        self.address = address
        self.request = request
        self.output = output
        self.label = label
        self.states: queue.Queue[TaskState] = queue.Queue()
        self._clip: Clip | None = clip
        self._state = TaskState("Preparing")
        self._submitted = False  # the server may know of the job
        self._accepted = False  # the server has said so
        self._cancelled = threading.Event()
        self._detached = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"hvg3d {self.id[:8]}", daemon=True)

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
            self._show(phase="Connecting")
            self._api().health()
            clip_sha256 = self._upload()
            self._show(phase="Submitting")
            body = self.request.to_json(clip_sha256)
            self._check_stopped()
            self._submitted = True
            self._patiently(lambda api: api.submit(self.id, body, self.label))
            self._accepted = True
            status = self._follow()
            if status.state == "done":
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
            self._show(phase="Failed", outcome="failed", message=error.message, remedy=error.remedy)
        except Exception as error:
            self._show(
                phase="Failed",
                outcome="failed",
                message=f"{type(error).__name__}: {error}",
                remedy="This is a fault of the add-on; please report it",
            )

    def _api(self) -> Api:
        return Api(self.address)

    def _show(self, **changes: Any) -> None:
        self._state = replace(self._state, **{"message": "", "remedy": "", "connected": True, **changes})
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
        self._show(phase="Packing the clip")
        data = clip_bytes(self._clip)
        self._clip = None  # the bytes are enough from here on
        sha256 = hashlib.sha256(data).hexdigest()
        shown = [0.0]

        def on_progress(fraction: float) -> None:
            self._check_stopped()
            if fraction - shown[0] >= 0.02:
                shown[0] = fraction
                self._show(phase=f"Uploading, {fraction:.0%}")

        furthest, failures = -1, 0
        while (offset := self._patiently(lambda api: api.clip_offset(sha256))) is not None:
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
        last: JobStatus | None = None
        while True:
            status = self._patiently(lambda api: api.job(self.id))
            if status.state in FINISHED:
                return status
            if status != last or not self._state.connected:
                self._show_status(status)
                last = status
            self._pause(_POLL_SECONDS)

    def _show_status(self, status: JobStatus) -> None:
        if status.state == "queued":
            ahead = status.queue_position or 0
            phase = f"Waiting, {ahead} before it" if ahead else "Waiting, next in the queue"
        else:
            phase = PHASE_LABELS.get(status.phase, "Starting")
        self._show(phase=phase, fraction=status.fraction, eta=status.eta, message=status.note)

    def _fetch(self) -> None:
        self._show(phase="Downloading", fraction=0.99, eta=None)
        self._patiently(lambda api: api.download(self.id, "metadata.json", self.output.with_suffix(".json")))
        self._patiently(lambda api: api.download(self.id, "video.mp4", self.output))
        self._show(phase="Done", fraction=1.0, outcome="done", message=f"Saved as {self.output}")

    def _stop(self) -> None:
        """After :class:`_Stopped`. The user is free at once; a server that is away is told when it is back."""
        if self._detached.is_set():
            return
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
