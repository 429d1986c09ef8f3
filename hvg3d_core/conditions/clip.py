# SPDX-License-Identifier: Apache-2.0
"""The Clip: everything the network is conditioned on, whatever it came from.

Axes are OpenCV's: x right, y down, z forward, pixel (0, 0) is the *corner* of the top-left pixel, so that the
centre of the top-left pixel is (0.5, 0.5). World space is metres, in the axes of whatever made the clip.
T frames, N surface points, M tracks, E entities, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

SCHEMA_VERSION = 1
ROLES = ("left_hand", "right_hand", "object", "other")


class ClipError(ValueError):
    """A clip, or the input for one, that cannot be used. The message names the field, the value and the remedy."""


@dataclass(frozen=True)
class Entity:
    """Something that points, masks and contacts belong to. ``role`` is one of :data:`ROLES`."""

    name: str
    role: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ClipError(f"entity {self.name!r}: role {self.role!r} is not one of {', '.join(ROLES)}")


@dataclass
class View:
    """One camera looking at the clip."""

    name: str
    K: np.ndarray  # T x 3 x 3 float32, pixels of the clip's width x height
    world_to_camera: np.ndarray  # T x 4 x 4 float32
    point_visible: np.ndarray  # T x N bool: in front of everything else from this camera
    masks: np.ndarray  # T x H x W uint8: 0 background, e + 1 for entity e
    reference: bytes  # PNG of the first frame, width x height (rendered, real or generated)


@dataclass
class Clip:
    points: np.ndarray  # T x N x 3 float32, world space
    point_entity: np.ndarray  # N uint8 where points are tracked, else T x N uint8
    tracks: np.ndarray  # T x M x 3 float32, world space
    track_visible: np.ndarray  # T x M bool, from the first view
    views: list[View]
    entities: tuple[Entity, ...]
    fps: float
    frame_range: tuple[int, int]  # first and last frame of the source, inclusive
    width: int
    height: int
    prompt: str = ""
    tracked: bool = True  # point i is the same surface point in every frame
    provenance: dict[str, Any] = field(default_factory=dict)
    joints: np.ndarray | None = None  # T x J x 3 float32
    object_poses: np.ndarray | None = None  # T x K x 4 x 4 float32, object to world
    contacts: np.ndarray | None = None  # T x N bool
    normals: np.ndarray | None = None  # T x N x 3 float32, unit
    track_points: np.ndarray | None = None  # M int32: the point that each track is, where tracks are a subset of points

    @property
    def num_frames(self) -> int:
        return int(self.points.shape[0])

    @property
    def num_points(self) -> int:
        return int(self.points.shape[1])
