# SPDX-License-Identifier: Apache-2.0
"""What goes over the wire. Times are seconds since 1970 (UTC) as floats, durations seconds."""

from __future__ import annotations

import hashlib
import json
import uuid
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from hvg3d_core.conditions import check_frame_count

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
MemoryMode = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,40}$")]


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINISHED = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})


class GenerationRequest(BaseModel):
    """Everything that decides what the video looks like: the same request gives the same video."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    clip: Sha256 = Field(description="SHA-256 of a clip that was uploaded with PUT /v1/clips/{sha256}")
    model: str | None = Field(None, max_length=200, description="id from GET /v1/models; none: the server's default")
    prompt: str | None = Field(None, max_length=4000, description="none: the prompt inside the clip")
    negative_prompt: str = Field("", max_length=4000)
    seed: int = Field(0, ge=0, le=2**53 - 1)
    num_inference_steps: int | None = Field(None, ge=1, le=1000, description="none: the model's own")
    guidance_scale: float | None = Field(None, ge=0, le=50, description="none: the model's own")
    num_frames: int | None = Field(None, ge=1, le=1001, description="1 or 8k+1; none: the model's own")
    length: Literal["resample", "windows"] = Field(
        "resample", description="num_frames spread over the clip, or every frame of it in windows of num_frames"
    )
    fps: float | None = Field(
        None, gt=0, le=240, description="frames a second of a result in windows; none: the clip's"
    )
    control_scale: float = Field(1.0, ge=0, le=10, description="strength of points and tracks")
    use_points: bool = True
    use_tracking: bool = True
    memory: list[MemoryMode] | None = Field(
        None, max_length=8, description="memory modes to generate with; none: the server's choice, smaller when it must"
    )

    @field_validator("num_frames")
    @classmethod
    def _vae_can_take(cls, value: int | None) -> int | None:
        if value is not None:
            check_frame_count(value)
        return value


class JobCreate(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    id: str = Field(
        description="UUID made by the client: sent again, it is the same job", json_schema_extra={"format": "uuid"}
    )
    request: GenerationRequest
    label: str | None = Field(None, max_length=200, description="what a person calls it: scene, shot, take")
    client: str | None = Field(None, max_length=100, description="who sent it; clients take turns")
    priority: int = Field(0, ge=-100, le=100, description="among this client's own jobs, the highest first")

    @field_validator("id")
    @classmethod
    def _is_uuid(cls, value: str) -> str:
        try:
            return str(uuid.UUID(value))
        except ValueError:
            raise ValueError("must be a UUID such as 123e4567-e89b-12d3-a456-426614174000") from None

    def fingerprint(self) -> str:
        """Equal for two bodies that mean the same, whatever the order of their keys and the defaults they spell out."""
        meaning = self.model_dump(exclude_defaults=True)  # so that a field which is added later changes nothing
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


class JobMove(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    position: int = Field(
        ge=0, le=2**31 - 1, description="place among its client's queued jobs, 0 is next; beyond the end is the end"
    )


class Progress(BaseModel):
    phase: str = Field(description="load, encode, denoise, decode, write")
    step: int
    total: int
    fraction: float = Field(description="0 to 1 over all phases; below 1 until the result is on disk")
    eta_seconds: float | None = Field(description="none: nothing measured yet")
    preview: bool = Field(description="preview.jpg can be fetched")


class ErrorInfo(BaseModel):
    code: str
    message: str
    field: str | None = None
    remedy: str | None = None
    log: list[str] = Field(default_factory=list, description="last lines of the worker's log, where they help")


class Attempt(BaseModel):
    """One time that a worker had the job."""

    number: int
    worker: str = Field(description="where it ran")
    memory: list[str] = Field(description="memory modes; empty: everything as it comes")
    started_at: float
    ended_at: float | None
    outcome: str | None = Field(
        description="done, failed, cancelled, out_of_memory, died, hung, lost (not the job's fault); none: it runs"
    )
    reason: str | None = Field(description="in words, where it did not end well")


class JobResult(BaseModel):
    video: str
    scene: str = Field(description="what it was made from, frame by frame; 404 where nothing could be drawn")
    metadata: str
    preview: str


class JobView(BaseModel):
    id: str
    state: JobState
    request: dict[str, Any] = Field(description="as accepted, with the model filled in")
    label: str | None
    client: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    priority: int
    queue_position: int | None = Field(description="0 is next, as it looks now; none unless queued")
    attempt: int = Field(description="how often a worker has started it")
    attempts: list[Attempt] = Field(description="the latest, with how each ended")
    note: str | None = Field(description="why it was started again, if it was")
    progress: Progress | None
    error: ErrorInfo | None
    result: JobResult | None = Field(description="none also where the clean-up has removed it")
    result_bytes: int | None
    removed_at: float | None = Field(description="when the clean-up has removed the result")


class JobList(BaseModel):
    jobs: list[JobView]
    next: str | None = Field(description="pass as ?before= for the jobs before these; none: there are no more")
    last_event: int = Field(description="pass as ?since= to GET /v1/events: nothing is missed in between")


class ClipView(BaseModel):
    sha256: str
    bytes: int
    created: bool = Field(description="false: it was already here")


class ModelView(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: str
    title: str
    licence: str
    bytes: int | None
    installed: bool
    default: bool


class ModelList(BaseModel):
    models: list[ModelView]


class WorkerView(BaseModel):
    name: str = Field(description="the place it runs at: a process, a GPU, a node")
    state: str = Field(description="starting, idle, busy, restarting, stopped")
    pid: int | None
    job: str | None
    model: str | None = Field(description="the model it keeps in memory")
    device: str | None
    restarts: int
    last_exit: str | None = Field(description="how the process before it ended")


class Health(BaseModel):
    status: str
    version: str
    api: str
    instance: str = Field(description="changes whenever the server starts")
    uptime_seconds: float
    default_model: str
    queued: int
    running: int
    max_clip_bytes: int
    disk_free_bytes: int
    workers: list[WorkerView]


class ErrorBody(BaseModel):
    error: ErrorInfo
