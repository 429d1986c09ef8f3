# SPDX-License-Identifier: Apache-2.0
"""The /v1 addresses. Every handler is a coroutine, so that the store is used from one thread only."""

from __future__ import annotations

import shutil
import time
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import FileResponse, StreamingResponse

from server import __version__
from server.context import Context
from server.errors import ApiError
from server.schemas import (
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

ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": ErrorBody} for code in (401, 403, 404, 409, 413, 421, 422)}
_MEDIA = {"preview.jpg": "image/jpeg", "video.mp4": "video/mp4", "metadata.json": "application/json"}


def build_router(context: Context) -> APIRouter:
    router = APIRouter(prefix="/v1", responses=ERRORS)
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

    def show(job: str) -> JobView:
        view = store.view(job.lower())
        if view is None:
            raise unknown_job(job)
        return view

    @router.get("/health")
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

    @router.post("/jobs", status_code=201)
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
    async def get_job(id: str) -> JobView:
        return show(id)

    @router.post("/jobs/{id}/cancel")
    async def cancel_job(id: str) -> JobView:
        """A queued job is cancelled at once, a running one within a step. A finished one stays what it is."""
        await supervisor.cancel(find(id))
        return show(id)

    @router.post("/jobs/{id}/move")
    async def move_job(id: str, body: JobMove) -> JobView:
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

    @router.get("/events", response_class=StreamingResponse)
    async def follow(
        since: Annotated[int | None, Query(ge=0, description="last id seen; none: from now on")] = None,
        job: Annotated[str | None, Query(description="only of this job")] = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> StreamingResponse:
        """Server-sent events: ``job`` (a JobView), ``progress`` ({id, progress}), ``reset`` (list the jobs again)."""
        if last_event_id is not None and last_event_id.isdecimal():
            since = int(last_event_id)
        if job is not None:
            job = find(job).id
        return StreamingResponse(
            events.stream(since, job),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    def serve(id: str, name: str) -> FileResponse:
        job = find(id)
        path = home.result(job.id) / name
        if name == "preview.jpg" and job.state in (JobState.RUNNING, JobState.CANCELLING):
            path = home.attempt(job.id, job.attempt) / name
            if not path.exists():
                raise ApiError(
                    409,
                    "no_preview_yet",
                    "there is no preview yet",
                    remedy="wait for a progress event with preview: true",
                )
        elif job.state in (JobState.FAILED, JobState.CANCELLED):
            raise ApiError(
                409,
                "job_not_done",
                f"the job is {job.state}: there is no {name}",
                field="id",
                remedy="send the request again as a new job",
            )
        elif job.state is not JobState.DONE:
            raise ApiError(
                409,
                "job_not_done",
                f"the job is {job.state}: there is no {name} yet",
                field="id",
                remedy="wait until it is done",
            )
        elif not path.exists():
            raise ApiError(
                404,
                "result_gone",
                f"{name} of this job is not on the server any more",
                field="id",
                remedy="send the request again as a new job: the same seed gives the same video",
            )
        final = job.state is JobState.DONE
        return FileResponse(
            path,
            media_type=_MEDIA[name],
            headers={"Cache-Control": "private, max-age=31536000" if final else "no-store"},
        )

    @router.api_route("/jobs/{id}/preview.jpg", methods=["GET", "HEAD"], response_class=FileResponse)
    async def preview(id: str) -> FileResponse:
        """Of a running job the newest picture, of a finished one its middle frame."""
        return serve(id, "preview.jpg")

    @router.api_route("/jobs/{id}/video.mp4", methods=["GET", "HEAD"], response_class=FileResponse)
    async def video(id: str) -> FileResponse:
        """Range requests are served, so that a player can seek."""
        return serve(id, "video.mp4")

    @router.api_route("/jobs/{id}/metadata.json", methods=["GET", "HEAD"], response_class=FileResponse)
    async def metadata(id: str) -> FileResponse:
        """Everything needed to make the same video again."""
        return serve(id, "metadata.json")

    return router
