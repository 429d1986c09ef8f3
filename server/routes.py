# SPDX-License-Identifier: Apache-2.0
"""The /v1 addresses. Every handler is a coroutine, so that the store is used from one thread only."""

from __future__ import annotations

import shutil
import time
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import StreamingResponse

from server import __version__, results
from server.context import Context
from server.errors import ApiError
from server.schemas import (
    FINISHED,
    ErrorBody,
    Health,
    JobCreate,
    JobList,
    JobMove,
    JobState,
    JobView,
    ModelList,
    ModelView,
)
from server.store import Job

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "the request cannot be served; `error` says why and what to do"},
    "5XX": {"model": ErrorBody, "description": "the server cannot serve it now"},
}
JobId = Annotated[str, Path(description="the job's UUID", json_schema_extra={"format": "uuid"})]


def build_router(context: Context) -> APIRouter:
    router = APIRouter(prefix="/v1", responses=ERRORS, tags=["jobs"])
    store, home, supervisor, events = context.store, context.home, context.supervisor, context.events

    def unknown_job(job: str) -> ApiError:
        return ApiError(
            404, "job_not_found", f"there is no job {job[:80]!r}", field="id", remedy="GET /v1/jobs lists the jobs"
        )

    def find(job: str) -> Job:
        found = store.get(job.lower())
        if found is None:
            raise unknown_job(job)
        return found

    router.include_router(results.build_router(context, find))

    def show(job: str) -> JobView:
        view = store.view(job.lower())
        if view is None:
            raise unknown_job(job)
        return view

    @router.get("/health", tags=["health"])
    async def health() -> Health:
        """Alive, and what it is doing."""
        return Health(
            status="ok",
            version=__version__,
            api="v1",
            instance=context.instance,
            uptime_seconds=round(time.monotonic() - context.started, 3),
            default_model=context.models.default,
            queued=store.count(JobState.QUEUED),
            running=store.count(JobState.RUNNING, JobState.CANCELLING),
            max_clip_bytes=context.settings.max_clip_bytes,
            disk_free_bytes=shutil.disk_usage(home.root).free,
            workers=[slot.view() for slot in supervisor.slots],
        )

    @router.get("/models")
    async def models() -> ModelList:
        return ModelList(models=[ModelView(**model) for model in context.models.all()])

    @router.post("/jobs", status_code=201, responses={200: {"model": JobView, "description": "it was known already"}})
    async def create_job(body: JobCreate, response: Response) -> JobView:
        """Queue a job: 201. The same id with the same body again is the same job: 200. With another body: 409."""
        known = store.fingerprint(body.id)
        if known is not None:
            if known != body.fingerprint():
                raise ApiError(
                    409,
                    "id_conflict",
                    f"id: the job {body.id} exists with another request",
                    field="id",
                    remedy="make a new UUID for a new job",
                )
            response.status_code = 200
            return show(body.id)
        if store.was_deleted(body.id):
            raise ApiError(
                409,
                "job_deleted",
                f"id: the job {body.id} was deleted",
                field="id",
                remedy="make a new UUID for a new job",
            )
        model = context.models.check(body.request.model)
        if not home.clip(body.request.clip).exists():
            raise ApiError(
                422,
                "clip_not_found",
                f"request.clip: the clip {body.request.clip} is not on the server",
                field="request.clip",
                remedy="upload it first with PUT /v1/clips/{sha256}",
            )
        if store.count(JobState.QUEUED) >= context.settings.max_queued:
            raise ApiError(
                429,
                "queue_full",
                f"{context.settings.max_queued:,} jobs are queued already",
                remedy="wait until some are finished, or cancel some",
            )
        home.touch_clip(body.request.clip)
        context.models.check_memory(body.request.memory)
        request = {**body.request.model_dump(), "model": model}
        store.add(body.id, body.fingerprint(), request, body.label, body.client, body.priority)
        events.wake()
        supervisor.wake()
        return show(body.id)

    @router.get("/jobs")
    async def list_jobs(
        state: Annotated[list[JobState] | None, Query(description="only these states; may be repeated")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        before: Annotated[str | None, Query(description="next of the page before", pattern=r"^[\d.]+,[\w-]+$")] = None,
    ) -> JobList:
        """The newest first."""
        last_event = store.last_event()
        cursor = None
        if before is not None:
            created, _, job = before.partition(",")
            try:
                cursor = (float(created), job)
            except ValueError:
                raise ApiError(
                    422,
                    "invalid_request",
                    f"before: {before!r} is not from a page of this list",
                    field="before",
                    remedy="leave it out to start again",
                ) from None
        views = store.views(state or [], limit + 1, cursor)
        more = len(views) > limit
        views = views[:limit]
        return JobList(
            jobs=views, next=f"{views[-1].created_at!r},{views[-1].id}" if more else None, last_event=last_event
        )

    @router.get("/jobs/{id}")
    async def get_job(id: JobId) -> JobView:
        return show(id)

    @router.post("/jobs/{id}/cancel")
    async def cancel_job(id: JobId) -> JobView:
        """A queued job is cancelled at once, a running one within a step. A finished one stays what it is."""
        await supervisor.cancel(find(id))
        return show(id)

    @router.post("/jobs/{id}/move")
    async def move_job(id: JobId, body: JobMove) -> JobView:
        """Give a queued job another place among its client's. It takes on the priority that the place asks for."""
        job = find(id)
        if not store.move(job.id, body.position):
            raise ApiError(
                409,
                "job_not_queued",
                f"the job is {job.state}, only a queued one can be moved",
                field="id",
                remedy="send it again as a new job, and move that",
            )
        events.wake()
        return show(id)

    @router.delete("/jobs/{id}", status_code=204)
    async def delete_job(id: JobId) -> Response:
        """Remove a finished job with its result. It cannot be brought back, and its id stays taken. Twice is once."""
        if store.was_deleted(id.lower()):
            return Response(status_code=204)
        job = find(id)
        if job.state not in FINISHED:
            raise ApiError(
                409,
                "job_not_finished",
                f"the job is {job.state}: only a finished one can be deleted",
                field="id",
                remedy="cancel it first",
            )
        await to_thread.run_sync(home.remove_result, job.id)  # first: after a crash in between it can be repeated
        store.delete(job.id)
        events.wake()
        return Response(status_code=204)

    @router.get(
        "/events",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "no end"}},
    )
    async def follow(
        since: Annotated[int | None, Query(ge=0, le=2**53, description="last id seen; none: from now on")] = None,
        job: Annotated[str | None, Query(description="only of this job")] = None,
        last_event_id: Annotated[str | None, Header(max_length=100)] = None,
    ) -> StreamingResponse:
        """Server-sent events: ``job`` (a JobView), ``progress``, ``deleted`` and ``reset`` (list the jobs again)."""
        if last_event_id is not None and last_event_id.isdecimal() and len(last_event_id) < 16:
            since = int(last_event_id)
        if job is not None:
            job = find(job).id
        if events.streams >= context.settings.max_streams:
            raise ApiError(
                429,
                "too_many_streams",
                f"{context.settings.max_streams} event streams are open already",
                remedy="close one, or ask GET /v1/jobs/{id} now and then",
                headers={"Retry-After": "5"},
            )
        return StreamingResponse(
            events.stream(since, job),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    return router
