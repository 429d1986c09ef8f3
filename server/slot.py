# SPDX-License-Identifier: Apache-2.0
"""A place for a worker: one after another runs there, each with one job after another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from server.failures import describe_exception
from server.progress import Estimator
from server.retries import Again, GiveUp, after_loss, after_out_of_memory
from server.runner import Exit, Place, WorkerHandle
from server.schemas import JobState, WorkerView
from server.store import Job

if TYPE_CHECKING:
    from server.supervisor import Supervisor

log = logging.getLogger("hvg3d.server")

_READY_SECONDS = 120.0
_FAILED_STARTS = 4
_REPORT_SECONDS = 0.1
REPORTS_A_SECOND = 200  # from all workers together: one takes the server a millisecond or two
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 30.0
_HEALTHY_SECONDS = 60.0


class WorkerGone(Exception):
    """The worker has ended, or does not answer."""


class Slot:
    def __init__(self, supervisor: Supervisor, place: Place) -> None:
        self._boss = supervisor
        self.place = place
        self.model: str | None = None
        """The id of the model that the worker has in memory."""
        self.stop_note = "the server was stopped while generating"
        """Why a job goes back when this slot's task is cancelled."""
        self.is_retired = False
        """Its task is cancelled for good. Before Python 3.12 wait_for swallows a cancel that comes with a result."""
        self._wake = asyncio.Event()
        self._worker: WorkerHandle | None = None
        self._job: Job | None = None
        self._since = 0.0  # when the job was given
        self._hung: str | None = None
        self._state = "starting"
        self._device: str | None = None
        self._healthy = False  # this worker has finished a job
        self._restarts = 0
        self._failed_starts = 0
        self._last_exit: str | None = None

    def view(self) -> WorkerView:
        return WorkerView(
            name=self.place.description,
            state=self._state,
            pid=None if self._worker is None else self._worker.pid,
            job=None if self._job is None else self._job.id,
            model=self.model,
            device=self._device,
            restarts=self._restarts,
            last_exit=self._last_exit,
        )

    @property
    def is_free(self) -> bool:
        return self._state == "idle"

    def give(self, job: Job) -> None:
        """Only to a free one."""
        self._job, self._state, self._since = job, "busy", time.monotonic()
        self._wake.set()

    async def cancel(self, job: str) -> None:
        worker = self._worker
        if worker is None or self._job is None or self._job.id != job:
            return
        await worker.send(op="cancel", job=job)

        def insist() -> None:
            if self._worker is worker and self._job is not None and self._job.id == job:
                log.warning("job %s: not cancelled in time, its worker is killed", job, extra={"job": job})
                worker.kill()

        asyncio.get_running_loop().call_later(self._boss.settings.cancel_grace_seconds, insist)

    async def run(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while not self.is_retired:
                started = time.monotonic()
                try:
                    await self._one_worker()
                except WorkerGone as error:
                    log.warning("worker %s: %s", self.place.id, error)
                except Exception:
                    log.exception("worker %s: the supervisor failed", self.place.id)
                self._restarts += 1
                self._state = "restarting"
                if self._healthy or time.monotonic() - started > _HEALTHY_SECONDS:
                    pause = _FIRST_PAUSE
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            self._state = "stopped"

    async def _one_worker(self) -> None:
        """Start a worker and give it jobs until it ends; that raises WorkerGone."""
        self._state, self.model, self._device, self._healthy = "starting", None, None, False
        try:
            worker = await self._boss.runner.start(self.place)
        except OSError as error:
            self._after_failed_start(str(error), [])
            raise WorkerGone(f"it could not be started: {error}") from None
        self._worker = worker
        try:
            await self._wait_ready(worker)
            while True:
                await self._work(worker, await self._next_job(worker))
                self._job = None
        except asyncio.CancelledError:
            self._state = "stopped"
            await worker.end()
            if self._job is not None:
                self._boss.put_back(self._job, f"{self.stop_note}; started again", "lost", self._seconds())
                self._boss.home.discard_attempt(self._job.id, self._job.attempt)
            raise
        except Exception as error:
            was_starting = self._state == "starting"
            self._state = "restarting"  # before anything is waited for: no job may be given to it any more
            end = await worker.end()
            self._last_exit = end.reason
            if self._job is not None:
                await self._after_loss(self._job, end, worker.last_lines())
            elif was_starting:
                self._after_failed_start(end.reason, worker.last_lines())
            if isinstance(error, WorkerGone):
                raise WorkerGone(f"{error}; it ended with {end.reason}") from None
            raise
        finally:
            self._worker = self._job = self._hung = None

    def _check_retired(self) -> None:
        if self.is_retired:
            raise asyncio.CancelledError

    def _seconds(self) -> float:
        """What the client is charged for the attempt."""
        return time.monotonic() - self._since

    async def _wait_ready(self, worker: WorkerHandle) -> None:
        try:
            message = await asyncio.wait_for(worker.receive(), _READY_SECONDS)
        except TimeoutError:
            raise WorkerGone("it did not start") from None
        self._check_retired()
        if message is None:
            raise WorkerGone("it ended while starting")
        self._failed_starts = 0
        if self._boss.settings.preload:
            models = self._boss.models
            await worker.send(op="load", model=models.source(models.default), id=models.default, memory=[])

    async def _next_job(self, worker: WorkerHandle) -> Job:
        """Wait for a job, or for the end of the worker."""
        self._wake.clear()
        self._state = "idle"
        self._boss.wake()
        while self._job is None:
            wake, receive = asyncio.create_task(self._wake.wait()), asyncio.create_task(worker.receive())
            try:
                await asyncio.wait((wake, receive), return_when=asyncio.FIRST_COMPLETED)
                if receive.done():
                    message = receive.result()
                    if message is None:
                        raise WorkerGone("it ended while idle")
                    if message["type"] == "model":
                        self.model, self._device = message["model"], message["device"]
            finally:
                for task in (wake, receive):
                    task.cancel()
                await asyncio.gather(wake, receive, return_exceptions=True)
        return self._job

    async def _work(self, worker: WorkerHandle, job: Job) -> None:
        """One job on one worker, to its end."""
        boss = self._boss
        if boss.home.has_result(job.id):  # of an attempt that was taken for lost
            size = boss.home.result_bytes(job.id)
            boss.change(job.id, JobState.DONE, progress=finished_progress(), outcome="done", result_bytes=size)
            return
        model = job.request["model"]
        ladder = boss.models.ladder(job.request)
        rung = max(job.rung, boss.rungs.get(self._kind(job), 0))
        memory = ladder[min(rung, len(ladder) - 1)]
        if memory:
            boss.store.set_memory(job.id, memory)
        history = boss.store.phase_times(model)
        if self.model == model:
            history["load"] = (0.0, 1)
        estimator = Estimator(history, job.request["num_inference_steps"])
        loaded = False
        folder = await to_thread.run_sync(boss.home.begin_attempt, job.id, job.attempt)
        await worker.send(
            op="run",
            job=job.id,
            attempt=job.attempt,
            clip=str(boss.home.clip(job.request["clip"])),
            model=boss.models.source(model),
            request=job.request,
            memory=list(memory),
            limits=boss.settings.clip_limits,
            folder=str(folder),
            report_seconds=max(_REPORT_SECONDS, len(boss.slots) / REPORTS_A_SECOND),
        )
        async for message in self._messages(worker):
            match message["type"]:
                case "progress" if message["job"] == job.id:
                    estimator.update(message["phase"], message["step"], message["total"])
                    boss.store.set_progress(
                        job.id,
                        estimator.snapshot(message["phase"], message["step"], message["total"], message["preview"]),
                    )
                    boss.events.wake()
                case "model":
                    self.model, self._device, loaded = message["model"], message["device"], True
                case "done" if message["job"] == job.id:
                    await self._publish(job, estimator, loaded)
                    self._healthy = True
                    if rung:
                        boss.rungs[self._kind(job)] = rung
                    return
                case "failed" if message["job"] == job.id:
                    self._after_failure(job, message["error"], rung, message.get("mode"), worker.last_lines())
                    break
                case "cancelled" if message["job"] == job.id:
                    boss.change(job.id, JobState.CANCELLED, outcome="cancelled", seconds=self._seconds())
                    break
        await self._discard(job)

    @staticmethod
    def _kind(job: Job) -> tuple[str, int | None]:
        """Jobs that need about the same memory."""
        return job.request["model"], job.request.get("num_frames")

    async def _messages(self, worker: WorkerHandle) -> AsyncIterator[dict[str, Any]]:
        """What the worker says, until it is gone or has said nothing new for too long; that raises WorkerGone."""
        limit = self._boss.settings.hang_seconds
        moved, last = time.monotonic(), ("load", 0, 0)
        while True:
            try:
                message = await asyncio.wait_for(worker.receive(), max(0.0, moved + limit - time.monotonic()))
            except TimeoutError:
                phase, step, total = last
                self._hung = f"for {limit:g} seconds, in phase '{phase}' at step {step} of {total}"
                worker.kill()
                raise WorkerGone(f"no progress {self._hung}") from None
            self._check_retired()
            if message is None:
                raise WorkerGone("it ended while generating")
            if message["type"] == "progress":
                now = (message["phase"], message["step"], message["total"])
                if now != last:  # the same step again and again is no progress
                    moved, last = time.monotonic(), now
            else:
                moved = time.monotonic()
            yield message

    async def _publish(self, job: Job, estimator: Estimator, loaded: bool) -> None:
        boss = self._boss
        estimator.end_phase()
        try:
            size = await to_thread.run_sync(boss.home.publish, job.id, job.attempt)
        except OSError as error:
            self._fail(job, describe_exception(error))
            return
        times = estimator.times if loaded else {p: t for p, t in estimator.times.items() if p != "load"}
        boss.store.remember_phase_times(job.request["model"], times)
        # Loading is not charged: whoever comes first after a change of models would pay for all that follow.
        seconds = self._seconds() - (times["load"][0] if "load" in times else 0.0)
        boss.change(
            job.id,
            JobState.DONE,
            progress=finished_progress(),
            outcome="done",
            seconds=max(0.0, seconds),
            result_bytes=size,
        )

    def _fail(self, job: Job, error: dict[str, Any], outcome: str = "failed") -> None:
        self._boss.change(
            job.id, JobState.FAILED, error=error, outcome=outcome, reason=error["message"], seconds=self._seconds()
        )

    def _after_failure(self, job: Job, error: dict[str, Any], rung: int, mode: str | None, lines: list[str]) -> None:
        """The worker itself has said why."""
        if error["code"] == "out_of_memory":
            self.model = None  # it has let go of it
            match after_out_of_memory(error, rung, self._boss.models.ladder(job.request), mode):
                case Again() as again:
                    self._boss.put_back(job, again.note, "out_of_memory", self._seconds(), rung=again.rung)
                case GiveUp() as give_up:
                    self._fail(job, give_up.error, "out_of_memory")
            return
        if error["code"] == "generation_failed":
            error["log"] = lines[-30:]
        self._fail(job, error)

    async def _after_loss(self, job: Job, end: Exit, lines: list[str]) -> None:
        boss, hung = self._boss, self._hung
        now = boss.store.get(job.id)
        outcome = "hung" if hung else "died" if end.blame else "lost"
        ladder = boss.models.ladder(job.request)
        match after_loss(end, hung, job.attempt, job.crashes, job.rung, ladder, boss.limits, lines):
            case Again() as again:
                crashed, seconds = again.crashed, self._seconds()
                boss.put_back(job, again.note, outcome, seconds, crashed=crashed, rung=again.rung)
            case GiveUp() as give_up:
                if now is not None and now.state is JobState.RUNNING:
                    self._fail(job, give_up.error, outcome)
                else:
                    boss.put_back(job, "", outcome, self._seconds())
        await self._discard(job)

    async def _discard(self, job: Job) -> None:
        with contextlib.suppress(OSError):
            await to_thread.run_sync(self._boss.home.discard_attempt, job.id, job.attempt)

    def _after_failed_start(self, reason: str, lines: list[str]) -> None:
        """A worker that can never start must not leave the queue waiting without a word, unless others do work."""
        self._failed_starts += 1
        if not self.is_retired and all(slot.is_hopeless for slot in self._boss.slots):
            self._boss.fail_next(
                "worker_cannot_start",
                f"the worker process ends while it starts, with {reason}",
                "repair the server's installation; the last lines of the worker's log say what is missing",
                lines,
            )

    @property
    def is_hopeless(self) -> bool:
        """No worker has started here for several tries."""
        return self._failed_starts >= _FAILED_STARTS


def finished_progress() -> dict[str, Any]:
    return {"phase": "write", "step": 1, "total": 1, "fraction": 1.0, "eta_seconds": 0.0, "preview": True}
