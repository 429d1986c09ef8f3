# SPDX-License-Identifier: Apache-2.0
"""Gives queued jobs to workers, wherever these run. What a job has come to is stored at once, so that the table is
right whenever this process ends:

    queued -> running -> done | failed
    running -> cancelling -> cancelled (or done, when the cancel came too late)
    running -> queued again, when its worker or the server died
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from server.cleanup import clean_up
from server.config import Settings
from server.events import Events
from server.failures import failure
from server.files import Home
from server.local import LocalRunner
from server.models import Models
from server.retries import Limits
from server.runner import Runner
from server.scheduler import Scheduler
from server.schemas import FINISHED, JobState
from server.slot import Slot, finished_progress
from server.store import Job, Store

log = logging.getLogger("hvg3d.server")

_CLEAN_UP_SECONDS = 600.0
_STOPPED = "the server stopped while generating"


class Supervisor:
    def __init__(
        self,
        settings: Settings,
        store: Store,
        events: Events,
        home: Home,
        models: Models,
        runner: Runner | None = None,
    ) -> None:
        self.settings = settings
        self.store = store
        self.events = events
        self.home = home
        self.models = models
        self.runner: Runner = runner or LocalRunner(settings, home)
        self.limits = Limits(settings.max_crashes, settings.max_attempts)
        self.scheduler = Scheduler(store)
        self.slots: list[Slot] = []
        self.rungs: dict[tuple[str, int | None], int] = {}
        """(model, frames) -> the rung of memory modes that was needed the last time."""
        self._tasks: dict[Slot, asyncio.Task[None]] = {}
        self._background: list[asyncio.Task[None]] = []
        self._assigning = False

    def start(self) -> None:
        self._recover()
        self._background = [
            asyncio.create_task(self._follow_places(), name="places"),
            asyncio.create_task(self._keep_clean(), name="clean-up"),
        ]

    async def stop(self) -> None:
        """Running jobs go back to the queue; the next start takes them up again."""
        for slot in self.slots:
            slot.is_retired = True
        tasks = [*self._background, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow_places(self) -> None:
        """One slot at each place that the runner has, for as long as it has it."""
        async for places in self.runner.places():
            kept = {slot.place for slot in self.slots}
            for slot in [slot for slot in self.slots if slot.place not in places]:
                log.warning("%s is gone", slot.place.description)
                self.slots.remove(slot)
                slot.stop_note, slot.is_retired = f"{slot.place.description} was lost", True
                self._tasks.pop(slot).cancel()
            for place in places:
                if place not in kept:
                    slot = Slot(self, place)
                    self.slots.append(slot)
                    self._tasks[slot] = asyncio.create_task(slot.run(), name=f"worker {place.id}")

    async def _keep_clean(self) -> None:
        settings = self.settings
        while settings.keep_days is not None or settings.keep_bytes is not None:
            try:
                removed = await clean_up(self.store, self.home, settings.keep_days, settings.keep_bytes)
                if removed:
                    self.events.wake()
            except OSError:
                log.exception("the clean-up failed; it will be tried again")
            await asyncio.sleep(_CLEAN_UP_SECONDS)

    # jobs to workers

    def wake(self) -> None:
        """Call after a job has been queued or a worker has become free."""
        if not self._assigning:
            self._assigning = True
            asyncio.get_running_loop().call_soon(self._assign)

    def _assign(self) -> None:
        self._assigning = False
        while idle := [slot for slot in self.slots if slot.is_free]:
            choice = self.scheduler.choose([slot.model for slot in idle])
            if choice is None:
                return
            slot = idle[choice.worker]
            slot.give(self.store.take(choice.job, choice.charge, slot.place.description, choice.passed))
            self.events.wake()

    def fail_next(self, code: str, message: str, remedy: str, lines: list[str]) -> None:
        """No worker can be started: the jobs that wait must not wait without a word."""
        choice = self.scheduler.choose([None])
        if choice is not None:
            job = self.store.take(choice.job, 0.0, "none")
            error = failure(code, message, remedy, lines)
            self.change(job.id, JobState.FAILED, error=error, outcome="failed", reason=message)

    # what becomes of jobs

    async def cancel(self, job: Job) -> None:
        if job.state is JobState.QUEUED:
            self.change(job.id, JobState.CANCELLED)
        elif job.state is JobState.RUNNING:
            self.change(job.id, JobState.CANCELLING)
            for slot in self.slots:
                await slot.cancel(job.id)

    def change(self, job: str, state: JobState, **details: Any) -> None:
        self.store.set_state(job, state, **details)
        self.events.wake()
        error = details.get("error")
        log.info("job %s: %s%s", job, state, f": {error['message']}" if error else "", extra={"job": job})
        if state is JobState.QUEUED:
            self.wake()

    def put_back(self, job: Job, note: str, outcome: str, seconds: float, **details: Any) -> None:
        """Back to its old place in the queue, unless it has come to an end meanwhile, or was to be cancelled."""
        now = self.store.get(job.id)
        if now is None or now.state in FINISHED:
            return
        if now.state is JobState.CANCELLING:
            self.change(job.id, JobState.CANCELLED, outcome="cancelled", seconds=seconds)
        else:
            self.change(job.id, JobState.QUEUED, note=note, outcome=outcome, reason=note, seconds=seconds, **details)

    def _recover(self) -> None:
        """Decide what becomes of the jobs that were being worked on when the last server ended."""
        for job in self.store.unfinished():
            if self.home.has_result(job.id):  # it died between the rename and the commit
                size = self.home.result_bytes(job.id)
                progress = finished_progress()
                self.change(job.id, JobState.DONE, progress=progress, outcome="done", result_bytes=size)
            elif job.state is JobState.RUNNING and job.attempt >= self.limits.attempts:
                message = f"started {job.attempt} times without an end; at last {_STOPPED}"
                error = failure("too_many_attempts", message, "see what stops the server, and send the job again")
                self.change(job.id, JobState.FAILED, error=error, outcome="lost", reason=_STOPPED)
            else:
                self.put_back(job, f"{_STOPPED}; started again", "lost", 0.0)
        with contextlib.suppress(OSError):
            self.home.clean()
