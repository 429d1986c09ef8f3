# SPDX-License-Identifier: Apache-2.0
"""Gives queued jobs to worker processes and keeps those alive.

One :class:`Slot` is one worker process after another. What a job has come to is decided here and stored at once, so
that the table is right whenever this process ends:

    queued -> running -> done | failed
    running -> cancelling -> cancelled (or done, when the cancel came too late)
    running -> queued again, when its worker or the server died
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

from anyio import to_thread

from server.config import Settings
from server.events import Events
from server.failures import describe_exception, describe_exit, failure, worker_died
from server.files import Home
from server.models import Models
from server.process import WorkerProcess
from server.progress import Estimator
from server.schemas import FINISHED, JobState, WorkerView
from server.store import Job, Store

log = logging.getLogger("hvg3d.server")

_READY_SECONDS = 120.0
_FAILED_STARTS = 4
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 30.0
_HEALTHY_SECONDS = 60.0


class WorkerGone(Exception):
    """The worker process has ended, or does not answer."""


class Supervisor:
    def __init__(self, settings: Settings, store: Store, events: Events, home: Home, models: Models) -> None:
        self.settings = settings
        self.store = store
        self.events = events
        self.home = home
        self.models = models
        self.slots = [Slot(self, 0)]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._recover()
        self._tasks = [asyncio.create_task(slot.run(), name=f"worker slot {slot.number}") for slot in self.slots]

    async def stop(self) -> None:
        """Running jobs go back to the queue; the next start takes them up again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def wake(self) -> None:
        """Call after a job has been queued."""
        for slot in self.slots:
            slot.wake()

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
        log.info("job %s: %s%s", job, state, f": {error['message']}" if error else "")

    def _recover(self) -> None:
        """Decide what becomes of the jobs that were being worked on when the last server ended."""
        for job in self.store.unfinished():
            if self.home.has_result(job.id):  # it died between the rename and the commit
                self.change(job.id, JobState.DONE, progress=_finished_progress())
            elif job.state is JobState.CANCELLING:
                self.change(job.id, JobState.CANCELLED)
            else:
                self.change(job.id, JobState.QUEUED, note="the server stopped while generating; started again")
        self.home.clean()


class Slot:
    """A place for one worker process."""

    def __init__(self, supervisor: Supervisor, number: int) -> None:
        self._boss = supervisor
        self.number = number
        self._wake = asyncio.Event()
        self._process: WorkerProcess | None = None
        self._job: str | None = None
        self._state = "starting"
        self._model: str | None = None
        self._device: str | None = None
        self._healthy = False  # this process has finished a job
        self._restarts = 0
        self._failed_starts = 0
        self._last_exit: str | None = None

    def view(self) -> WorkerView:
        pid = None if self._process is None else self._process.pid
        return WorkerView(
            state=self._state,
            pid=pid,
            job=self._job,
            model=self._model,
            device=self._device,
            restarts=self._restarts,
            last_exit=self._last_exit,
        )

    def wake(self) -> None:
        self._wake.set()

    async def cancel(self, job: str) -> None:
        process = self._process
        if process is None or self._job != job:
            return
        await process.send(op="cancel", job=job)

        def insist() -> None:
            if self._process is process and self._job == job:
                log.warning("job %s: not cancelled in time, its worker is killed", job)
                process.kill()

        asyncio.get_running_loop().call_later(self._boss.settings.cancel_grace_seconds, insist)

    async def run(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while True:
                started = time.monotonic()
                try:
                    await self._one_process()
                except WorkerGone as error:
                    log.warning("worker %d: %s", self.number, error)
                except Exception:
                    log.exception("worker %d: the supervisor failed", self.number)
                self._restarts += 1
                self._state = "restarting"
                if self._healthy or time.monotonic() - started > _HEALTHY_SECONDS:
                    pause = _FIRST_PAUSE
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            self._state = "stopped"

    async def _one_process(self) -> None:
        """Start a worker and give it jobs until it ends; that raises WorkerGone."""
        boss = self._boss
        self._state, self._model, self._device, self._healthy = "starting", None, None, False
        process = await WorkerProcess.start(boss.settings.backend, boss.home.logs / f"worker-{self.number}.log")
        self._process = process
        job: Job | None = None
        try:
            await self._wait_ready(process)
            while True:
                self._state = "idle"
                self._wake.clear()
                job = boss.store.take_next()
                if job is None:
                    await self._idle(process)
                    continue
                boss.events.wake()
                self._state, self._job = "busy", job.id
                await self._work(process, job)
                self._job = job = None
        except asyncio.CancelledError:
            await process.end()
            if job is not None:
                self._put_back(job, "the server was stopped while generating; started again", crashed=False)
            raise
        except Exception as error:
            code = await process.end()
            self._last_exit = describe_exit(code)
            if job is not None:
                self._after_crash(job, code, process.last_lines())
            elif self._state == "starting":
                self._after_failed_start(code, process.last_lines())
            if isinstance(error, WorkerGone):
                raise WorkerGone(f"process {process.pid} ended with {self._last_exit}") from None
            raise
        finally:
            self._process = self._job = None

    async def _wait_ready(self, process: WorkerProcess) -> None:
        try:
            message = await asyncio.wait_for(process.receive(), _READY_SECONDS)
        except TimeoutError:
            raise WorkerGone("it did not start") from None
        if message is None:
            raise WorkerGone("it ended while starting")
        self._failed_starts = 0
        if self._boss.settings.preload:
            models = self._boss.models
            await process.send(op="load", model=models.source(models.default), id=models.default)

    async def _idle(self, process: WorkerProcess) -> None:
        """Until there may be a job, or the worker is gone."""
        wake, receive = asyncio.create_task(self._wake.wait()), asyncio.create_task(process.receive())
        try:
            await asyncio.wait((wake, receive), return_when=asyncio.FIRST_COMPLETED)
            if receive.done():
                message = receive.result()
                if message is None:
                    raise WorkerGone("it ended while idle")
                if message["type"] == "model":
                    self._model, self._device = message["model"], message["device"]
        finally:
            for task in (wake, receive):
                task.cancel()
            await asyncio.gather(wake, receive, return_exceptions=True)

    async def _work(self, process: WorkerProcess, job: Job) -> None:
        """One job on one worker, to its end."""
        boss = self._boss
        model = job.request["model"]
        history = boss.store.phase_times(model)
        if self._model == model:
            history["load"] = (0.0, 1)
        estimator = Estimator(history, job.request["num_inference_steps"])
        loaded = False
        folder = await to_thread.run_sync(boss.home.begin_attempt, job.id, job.attempt)
        await process.send(
            op="run",
            job=job.id,
            attempt=job.attempt,
            clip=str(boss.home.clip(job.request["clip"])),
            model=boss.models.source(model),
            request=job.request,
            folder=str(folder),
        )
        while True:
            message = await process.receive()
            if message is None:
                raise WorkerGone("it ended while generating")
            match message["type"]:
                case "progress" if message["job"] == job.id:
                    estimator.update(message["phase"], message["step"], message["total"])
                    boss.store.set_progress(
                        job.id,
                        estimator.snapshot(message["phase"], message["step"], message["total"], message["preview"]),
                    )
                    boss.events.wake()
                case "model":
                    self._model, self._device, loaded = message["model"], message["device"], True
                case "done" if message["job"] == job.id:
                    await self._publish(job, estimator, loaded)
                    self._healthy = True
                    return
                case "failed" if message["job"] == job.id:
                    error = message["error"]
                    if error["code"] == "generation_failed":
                        error["log"] = process.last_lines()[-30:]
                    boss.change(job.id, JobState.FAILED, error=error)
                    break
                case "cancelled" if message["job"] == job.id:
                    boss.change(job.id, JobState.CANCELLED)
                    break
        await to_thread.run_sync(boss.home.discard_attempts, job.id)

    async def _publish(self, job: Job, estimator: Estimator, loaded: bool) -> None:
        boss = self._boss
        estimator.end_phase()
        try:
            await to_thread.run_sync(boss.home.publish, job.id, job.attempt)
        except OSError as error:
            boss.change(job.id, JobState.FAILED, error=describe_exception(error))
            return
        times = estimator.times if loaded else {p: t for p, t in estimator.times.items() if p != "load"}
        boss.store.remember_phase_times(job.request["model"], times)
        boss.change(job.id, JobState.DONE, progress=_finished_progress())

    def _put_back(self, job: Job, note: str, *, crashed: bool) -> None:
        """Back to its old place in the queue, unless it has come to an end meanwhile."""
        now = self._boss.store.get(job.id)
        if now is None or now.state in FINISHED:
            return
        if now.state is JobState.CANCELLING:
            self._boss.change(job.id, JobState.CANCELLED)
        else:
            self._boss.change(job.id, JobState.QUEUED, note=note, crashed=crashed)

    def _after_crash(self, job: Job, code: int | None, lines: list[str]) -> None:
        now = self._boss.store.get(job.id)
        starts = job.crashes + 1
        if now is not None and now.state is JobState.RUNNING and job.crashes >= self._boss.settings.max_crashes:
            self._boss.change(job.id, JobState.FAILED, error=worker_died(code, starts, lines))
        else:
            self._put_back(job, f"its worker ended with {describe_exit(code)}; started again", crashed=True)
        with contextlib.suppress(OSError):
            self._boss.home.discard_attempts(job.id)

    def _after_failed_start(self, code: int | None, lines: list[str]) -> None:
        """A worker that can never start must not leave the queue waiting without a word."""
        self._failed_starts += 1
        if self._failed_starts < _FAILED_STARTS:
            return
        job = self._boss.store.take_next()
        if job is not None:
            self._boss.change(
                job.id,
                JobState.FAILED,
                error=failure(
                    "worker_cannot_start",
                    f"the worker process ends while it starts, with {describe_exit(code)}",
                    "repair the server's installation; the last lines of the worker's log say what is missing",
                    lines,
                ),
            )


def _finished_progress() -> dict[str, Any]:
    return {"phase": "write", "step": 1, "total": 1, "fraction": 1.0, "eta_seconds": 0.0, "preview": True}
