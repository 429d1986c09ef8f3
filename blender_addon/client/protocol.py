# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes over the wire, as far as the add-on uses it (the server publishes the whole at ``/v1/openapi.json``)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

API_VERSION = "v1"
FINISHED = frozenset({"done", "failed", "cancelled"})

PHASE_LABELS = {
    "load": "Loading the model",
    "encode": "Reading the conditions",
    "denoise": "Generating",
    "decode": "Decoding the video",
    "write": "Writing the video",
}


class ClientError(Exception):
    """Something a user has to know about the server, with what to do about it."""

    def __init__(self, message: str, remedy: str = "", code: str = ""):
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.code = code


class Unreachable(ClientError):
    """Nobody answers, or the connection broke: it may work again later."""


class Unauthorized(ClientError):
    """The server does not accept the token."""


class Missing(ClientError):
    """The server does not have what was asked for. ``offset``: of a clip, how many bytes it has."""

    offset = 0


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate from a clip; the same request gives the same video."""

    model: str
    prompt: str
    seed: int
    negative_prompt: str = ""
    num_inference_steps: int | None = None  # None: the model's own
    guidance_scale: float | None = None
    control_scale: float = 1.0
    use_points: bool = True
    use_tracking: bool = True

    def to_json(self, clip_sha256: str) -> dict[str, Any]:
        return {**asdict(self), "clip": clip_sha256, "model": self.model or None}


@dataclass(frozen=True)
class Model:
    """A model that the server offers."""

    id: str
    title: str
    licence: str
    installed: bool
    default: bool

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Model:
        return cls(
            id=str(value["id"]),
            title=str(value.get("title") or value["id"]),
            licence=str(value.get("licence") or ""),
            installed=bool(value.get("installed", True)),
            default=bool(value.get("default", False)),
        )


@dataclass(frozen=True)
class JobStatus:
    """A job as the server sees it. ``fraction`` is 0 to 1 over all phases, ``eta`` seconds or None."""

    state: str
    phase: str = ""
    fraction: float = 0.0
    eta: float | None = None
    queue_position: int | None = None
    note: str = ""
    error: str = ""
    remedy: str = ""
    code: str = ""  # of the error
    step: int = 0
    preview: bool = False  # there is a picture of it

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> JobStatus:
        progress = value.get("progress") or {}
        error = value.get("error") or {}
        return cls(
            state=str(value["state"]),
            phase=str(progress.get("phase") or ""),
            fraction=float(progress.get("fraction") or 0.0),
            eta=progress.get("eta_seconds"),
            queue_position=value.get("queue_position"),
            note=str(value.get("note") or ""),
            error=str(error.get("message") or ""),
            remedy=str(error.get("remedy") or ""),
            code=str(error.get("code") or ""),
            step=int(progress.get("step") or 0),
            preview=bool(progress.get("preview")),
        )
