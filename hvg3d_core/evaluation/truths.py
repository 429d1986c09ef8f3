# SPDX-License-Identifier: Apache-2.0
"""The true clips of a data folder, at the size and number of frames that they are compared at."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..conditions import Clip, fit_size, in_view, project, resample_indices
from ..training.dataset import Sample, find_samples
from .errors import EvaluationError
from .regions import Region
from .subsets import matches, read_manifest

HAND_ROLES, OBJECT_ROLES = ("left_hand", "right_hand"), ("object",)


@dataclass(frozen=True)
class Size:
    """Pixels and frames that all videos are compared at."""

    width: int
    height: int
    num_frames: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.num_frames} frames"


@dataclass
class Truth:
    """One clip: T x H x W x 3 uint8 ``frames``, ``labels`` T x H x W uint8 (0 background, 1 hand, 2 object),
    ``tracks`` T x M x 2 float64 pixels and ``seen`` T x M bool (visible and inside the image)."""

    name: str
    frames: np.ndarray
    labels: np.ndarray
    tracks: np.ndarray
    seen: np.ndarray
    fps: float
    said: dict[str, Any] = field(default_factory=dict)  # its manifest line

    @cached_property
    def region(self) -> Region:
        return Region(self.labels > 0)

    @cached_property
    def digest(self) -> str:
        return digest(self.frames, self.labels, self.tracks, self.seen)


def digest(*arrays: np.ndarray) -> str:
    """Twenty hexadecimal digits that differ where an array does."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()[:20]


def make_truth(name: str, clip: Clip, frames: np.ndarray, said: dict[str, Any] | None = None) -> Truth:
    """A truth from a clip and T of its frames that are already of the size wanted, evenly spread over it."""
    count, height, width = frames.shape[:3]
    time = resample_indices(clip.num_frames, count)
    fit = fit_size(clip.width, clip.height, width, height)
    view = clip.views[0]
    uv, depth = project(clip.tracks[time], fit.intrinsics(view.K[time]), view.world_to_camera[time])
    kinds = np.zeros(256, np.uint8)
    for index, entity in enumerate(clip.entities, 1):
        kinds[index] = 1 if entity.role in HAND_ROLES else 2 if entity.role in OBJECT_ROLES else 0
    # The last frame of the clip is as late as that of the video, whatever the number of frames between.
    fps = clip.fps * (count - 1) / max(1, clip.num_frames - 1) if count > 1 else clip.fps
    return Truth(
        name=name,
        frames=frames,
        labels=kinds[fit.nearest(view.masks[time])],
        tracks=uv,
        seen=clip.track_visible[time] & in_view(uv, depth, width, height),
        fps=fps,
        said=said or {},
    )


def choose_samples(
    data: Path, subsets: Iterable[str] | None = None, limit: int | None = None
) -> list[tuple[Sample, dict[str, Any]]]:
    """The folder's samples with their manifest lines: those of any of the ``subsets``, and the first ``limit``.

    Raises EvaluationError where none is left.
    """
    manifest = read_manifest(data)
    pairs = [(sample, manifest.get(sample.name, {})) for sample in find_samples(data)]
    wanted = None if subsets is None else list(subsets)
    if wanted is not None:
        pairs = [(sample, said) for sample, said in pairs if any(matches(said, subset) for subset in wanted)]
    if not pairs[:limit]:
        raise EvaluationError(f"{data}: no clip is in {' or '.join(wanted or ['all'])}; see its manifest.jsonl")
    return pairs[:limit]


def native_size(sample: Sample) -> Size:
    """That of the sample's own frames."""
    frames = sample.source_frames()
    return Size(frames.shape[2], frames.shape[1], len(frames))


def load_truth(sample: Sample, said: dict[str, Any], size: Size) -> Truth:
    """A sample as it is compared. Raises one of ``UNREADABLE`` where it is broken."""
    frames = sample.frames(size.width, size.height, size.num_frames)
    return make_truth(sample.name, sample.clip(), frames, said)
