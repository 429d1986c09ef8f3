# SPDX-License-Identifier: Apache-2.0
"""``/v1/clips``: is it here, here it is, here is the rest of it. What is inside is the workers' business."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request, Response

from server.context import Context
from server.errors import ApiError
from server.schemas import ClipView
from server.uploads import Received

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_HASH = {"pattern": "^[0-9a-f]{64}$"}
ClipHash = Annotated[str, Path(description="SHA-256 of the file, in lower case", json_schema_extra=_HASH)]
_MAX_SIZE = 2**53 - 1


def build_router(context: Context) -> APIRouter:
    router = APIRouter(tags=["clips"])
    home, uploads = context.home, context.uploads

    @router.head("/clips/{sha256}", response_class=Response)
    async def has_clip(sha256: ClipHash) -> Response:
        """200 if the clip is here. 404 if not; ``Upload-Offset`` then says how much of it is."""
        path = home.clip(sha256)
        if not path.exists():
            raise ApiError(
                404,
                "clip_not_found",
                f"the clip {sha256} is not here",
                field="sha256",
                remedy="upload it with PUT /v1/clips/{sha256}",
                headers={"Upload-Offset": str(await uploads.offset(sha256))},
            )
        home.touch_clip(sha256)
        return Response(headers={"X-Clip-Bytes": str(path.stat().st_size)})

    def view(sha256: str, received: Received, response: Response) -> ClipView:
        response.status_code = 201 if received.created else 200 if received.whole else 202
        response.headers["Upload-Offset"] = str(received.bytes)
        if received.whole:
            home.touch_clip(sha256)
        return ClipView(sha256=sha256, bytes=received.bytes, created=received.created)

    @router.put("/clips/{sha256}", response_model=ClipView, openapi_extra=_BODY, responses=_answers(201, 202))
    async def put_clip(sha256: ClipHash, request: Request, response: Response) -> ClipView:
        """Store a clip under its hash. 201 if it is new, 200 if it was here; repeat it as often as you like."""
        length = request.headers.get("content-length", "")
        declared = int(length) if length.isdecimal() else None
        return view(sha256, await uploads.put(sha256, request.stream(), declared), response)

    @router.patch("/clips/{sha256}", response_model=ClipView, openapi_extra=_BODY, responses=_answers(201, 202))
    async def patch_clip(
        sha256: ClipHash,
        request: Request,
        response: Response,
        upload_offset: Annotated[int, Header(ge=0, le=_MAX_SIZE, description="bytes that are here already")],
        upload_length: Annotated[int, Header(ge=0, le=_MAX_SIZE, description="bytes of the whole clip")],
    ) -> ClipView:
        """Go on with an upload that broke off. 201 when the clip is whole, 202 while there is more to come.

        Where the bytes that are here are not ``Upload-Offset`` many: 409, with the right number in that header.
        """
        home.clip(sha256)
        if upload_offset > upload_length:
            raise ApiError(
                422,
                "invalid_request",
                f"Upload-Offset: {upload_offset:,} is beyond Upload-Length, {upload_length:,}",
                field="Upload-Offset",
                remedy="ask HEAD /v1/clips/{sha256} for Upload-Offset",
            )
        return view(sha256, await uploads.patch(sha256, request.stream(), upload_offset, upload_length), response)

    return router


def _answers(*codes: int) -> dict[int | str, dict[str, Any]]:
    meaning = {201: "the clip is whole and new here", 202: "more is to come"}
    return {code: {"model": ClipView, "description": meaning[code]} for code in codes}
