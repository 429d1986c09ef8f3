# SPDX-License-Identifier: Apache-2.0
"""What goes over the wire, as dataclasses: the fields of ``server/openapi.json``, by the same names.

Times are seconds since 1970 (UTC), durations seconds. Fields that a newer server adds are left out when read.
"""

from __future__ import annotations

import types
import typing
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

FINISHED = frozenset({"done", "failed", "cancelled"})
_T = TypeVar("_T")


@dataclass(frozen=True)
class GenerationRequest:
    """Everything that decides what the video looks like. None is the server's or the model's default."""

    clip: str  # SHA-256 of an uploaded clip
    model: str | None = None
    prompt: str | None = None
    negative_prompt: str = ""
    seed: int = 0
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    num_frames: int | None = None
    length: str = "resample"  # or "windows"
    fps: float | None = None
    control_scale: float = 1.0
    use_points: bool = True
    use_tracking: bool = True
    memory: list[str] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Progress:
    phase: str
    step: int
    total: int
    fraction: float
    eta_seconds: float | None
    preview: bool


@dataclass(frozen=True)
class Error:
    code: str
    message: str
    field: str | None
    remedy: str | None
    log: list[str]


@dataclass(frozen=True)
class Attempt:
    number: int
    worker: str
    memory: list[str]
    started_at: float
    ended_at: float | None
    outcome: str | None
    reason: str | None


@dataclass(frozen=True)
class Result:
    """Addresses, behind the server's own."""

    video: str
    scene: str
    metadata: str
    preview: str


@dataclass(frozen=True)
class Job:
    id: str
    state: str  # queued, running, cancelling, done, failed, cancelled
    request: dict[str, Any]
    label: str | None
    client: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    priority: int
    queue_position: int | None
    attempt: int
    attempts: list[Attempt]
    note: str | None
    progress: Progress | None
    error: Error | None
    result: Result | None
    result_bytes: int | None
    removed_at: float | None

    @property
    def finished(self) -> bool:
        return self.state in FINISHED


@dataclass(frozen=True)
class JobPage:
    jobs: list[Job]
    next: str | None
    last_event: int


@dataclass(frozen=True)
class Model:
    id: str
    title: str
    licence: str
    bytes: int | None
    installed: bool
    default: bool


@dataclass(frozen=True)
class Worker:
    name: str
    state: str
    pid: int | None
    job: str | None
    model: str | None
    device: str | None
    restarts: int
    last_exit: str | None


@dataclass(frozen=True)
class Health:
    status: str
    version: str
    api: str
    instance: str
    uptime_seconds: float
    default_model: str
    queued: int
    running: int
    max_clip_bytes: int
    disk_free_bytes: int
    workers: list[Worker]


@dataclass(frozen=True)
class Event:
    """``type``: job, progress, deleted, reset. ``job`` is None for reset."""

    id: int
    type: str
    job: str | None
    data: dict[str, Any]


def read(kind: type[_T], value: Any) -> _T:
    """``value``, out of JSON, as the dataclass ``kind``. Raises ValueError naming what does not fit."""
    return _read(kind, value, kind.__name__)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read(kind: Any, value: Any, where: str) -> Any:
    if isinstance(kind, type) and is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: {type(value).__name__} instead of an object")
        hints = _hints(kind)
        missing = [
            field.name
            for field in fields(kind)
            if field.name not in value and type(None) not in _options(hints[field.name])
        ]
        if missing:
            raise ValueError(f"{where}: {', '.join(missing)} missing")
        return kind(**{name: _read(hint, value.get(name), f"{where}.{name}") for name, hint in hints.items()})
    options = _options(kind)
    if value is None and type(None) in options:
        return None
    for option in options:
        origin = typing.get_origin(option)
        if origin is list and isinstance(value, list):
            return [_read(typing.get_args(option)[0], entry, f"{where}[{n}]") for n, entry in enumerate(value)]
        if origin is dict and isinstance(value, dict):
            return value
        if is_dataclass(option):
            return _read(option, value, where)
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(option, type) and type(value) is option:
            return value
    raise ValueError(f"{where}: {value!r:.80} is not {kind}")


def _options(kind: Any) -> tuple[Any, ...]:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return typing.get_args(kind)
    return (kind,)
