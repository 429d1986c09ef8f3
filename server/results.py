# SPDX-License-Identifier: Apache-2.0
"""What has come of a job: its video, the scene it was made from, a preview, and how to make it again.

Ranges are served (RFC 9110, section 14), so that a player can seek and a broken download can go on; a finished result
never changes, so that a browser may keep it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Path, Response
from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from server.context import Context
from server.errors import ApiError
from server.schemas import JobState
from server.store import Job

_MEDIA = {
    "preview.jpg": "image/jpeg",
    "video.mp4": "video/mp4",
    "scene.mp4": "video/mp4",
    "metadata.json": "application/json",
}
JobId = Annotated[str, Path(description="the job's UUID", json_schema_extra={"format": "uuid"})]
_KEPT = "private, max-age=31536000, immutable"


class ResultFile(FileResponse):
    """A file with ranges and conditions. Starlette does the ranges; refusals are put in this server's words."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _unchanged(scope, self.headers["etag"]):
            await Response(
                status_code=304, headers={"ETag": self.headers["etag"], "Cache-Control": self.headers["cache-control"]}
            )(scope, receive, send)
            return
        refusal: int | None = None

        async def checked(message: Any) -> None:
            nonlocal refusal
            if message["type"] == "http.response.start" and message["status"] in (400, 416):
                refusal = message["status"]
            if refusal is None:
                await send(message)

        await super().__call__(scope, receive, checked)
        if refusal is not None:
            size = self.headers["content-length"]
            error = ApiError(
                refusal,
                "invalid_range",
                f"this range cannot be served: the file has {size} bytes",
                field="Range",
                remedy=f"ask for bytes=0-{int(size) - 1} or a part of it",
                headers={"Content-Range": f"bytes */{size}"} if refusal == 416 else None,
            )
            await error.response()(scope, receive, send)


def _unchanged(scope: Scope, etag: str) -> bool:
    for name, value in scope["headers"]:
        if name == b"if-none-match":
            given = [tag.strip().removeprefix("W/") for tag in value.decode("latin-1").split(",")]
            return etag in given or given == ["*"]
    return False


def build_router(context: Context, find: Callable[[str], Job]) -> APIRouter:
    router = APIRouter()
    home = context.home

    def not_done(job: Job, name: str) -> ApiError:
        over = job.state in (JobState.FAILED, JobState.CANCELLED)
        return ApiError(
            409,
            "job_not_done",
            f"the job is {job.state}: there is no {name}{'' if over else ' yet'}",
            field="id",
            remedy="send the request again as a new job" if over else "wait until it is done",
        )

    def no_preview_yet() -> ApiError:
        return ApiError(
            409, "no_preview_yet", "there is no preview yet", remedy="wait for a progress event with preview: true"
        )

    async def serve(id: str, name: str) -> Response:
        job = find(id)
        path = home.result(job.id) / name
        if name == "preview.jpg" and job.state in (JobState.RUNNING, JobState.CANCELLING):
            path = home.attempt(job.id, job.attempt) / name
        elif job.state is not JobState.DONE:
            raise not_done(job, name)
        try:
            found = await to_thread.run_sync(os.stat, path)
        except OSError:
            found = None
        if found is None or not stat.S_ISREG(found.st_mode):
            if job.state is not JobState.DONE:
                raise no_preview_yet()
            if name == "scene.mp4" and (home.result(job.id) / "video.mp4").exists():
                raise ApiError(
                    404,
                    "no_scene",
                    "no video of the scene was kept with this result",
                    field="id",
                    remedy="compare with the clip itself",
                )
            raise ApiError(
                404,
                "result_gone",
                f"{name} of this job is not on the server any more",
                field="id",
                remedy="send the request again as a new job: the same seed gives the same video",
            )
        if job.state is not JobState.DONE:
            # Another picture may take its place at any time: what is sent must be of one piece, and as long as it says.
            try:
                content = await to_thread.run_sync(path.read_bytes)
            except FileNotFoundError:  # the attempt ended this moment
                raise no_preview_yet() from None
            return Response(content, media_type=_MEDIA[name], headers={"Cache-Control": "no-store"})
        return ResultFile(path, media_type=_MEDIA[name], stat_result=found, headers={"Cache-Control": _KEPT})

    def add(name: str, kind: str, text: str) -> None:
        async def endpoint(id: JobId) -> Response:
            return await serve(id, name)

        schema = {"schema": {"type": "string", "format": "binary"}} if kind != "application/json" else {"schema": {}}
        answers: dict[int | str, dict[str, Any]] = {
            200: {"content": {kind: schema}, "description": "the file"},
            206: {"content": {kind: schema, "multipart/byteranges": schema}, "description": "the ranges"},
            304: {"description": "as it was"},
        }
        router.add_api_route(
            f"/jobs/{{id}}/{name}",
            endpoint,
            methods=["GET"],
            name=f"get_{name.partition('.')[0]}",
            operation_id=f"get_{name.partition('.')[0]}",
            description=text,
            response_class=FileResponse,
            responses=answers,
        )
        router.add_api_route(f"/jobs/{{id}}/{name}", endpoint, methods=["HEAD"], include_in_schema=False)

    add("preview.jpg", "image/jpeg", "Of a running job the newest picture, of a finished one its middle frame.")
    add("video.mp4", "video/mp4", "The result. Range requests are served, so that a player can seek.")
    add("scene.mp4", "video/mp4", "What the result was made from, frame by frame beside it, of the same size.")
    add("metadata.json", "application/json", "Everything needed to make the same video again.")
    return router
