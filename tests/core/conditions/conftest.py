# SPDX-License-Identifier: Apache-2.0
"""A small grasp with known motion: two fingers lift a can from a table, past a post, before a moving camera."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import trimesh

from hvg3d_core.conditions import Clip, ClipBuilder, Entity, Mesh, encode_png, intrinsics_from_fov, look_at


def rotation_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


@dataclass
class Grasp:
    """The scene at any time; metres, z up."""

    width: int = 160
    height: int = 120
    num_frames: int = 9
    parts: dict[str, trimesh.Trimesh] = field(init=False)

    def __post_init__(self) -> None:
        can = trimesh.creation.cylinder(radius=0.035, height=0.1, sections=32).subdivide().subdivide()
        finger = trimesh.creation.capsule(height=0.06, radius=0.01, count=(12, 12))
        left, right = finger.copy(), finger.copy()
        left.apply_translation([-0.046, 0, -0.02])
        right.apply_translation([0.046, 0, -0.02])
        table = trimesh.Trimesh(
            [[-1.0, -1, -0.05], [1, -1, -0.05], [1, 1, -0.05], [-1, 1, -0.05]], [[0, 1, 2], [0, 2, 3]], process=False
        )
        post = trimesh.creation.box([0.02, 0.02, 0.5])
        post.apply_translation([0.03, -0.15, 0.1])
        self.parts = {"can": can, "finger.l": left, "finger.r": right, "table": table, "post": post}

    def pose(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Rotation and translation of can and fingers."""
        return rotation_z(0.15 * frame), np.array([0.004 * frame, 0.0, 0.01 * frame])

    def meshes(self, frame: int) -> list[Mesh]:
        rotation, translation = self.pose(frame)
        owners = {"can": 1, "finger.l": 0, "finger.r": 0, "table": None, "post": None}
        found = []
        for name, part in self.parts.items():
            vertices = np.asarray(part.vertices)
            if owners[name] is not None:
                vertices = vertices @ rotation.T + translation
            found.append(Mesh(name, owners[name], vertices.astype(np.float32), np.asarray(part.faces, np.int32)))
        return found

    def camera(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        eye = (0.1 * np.sin(0.2 * frame), -0.55, 0.25)
        return intrinsics_from_fov(0.6, self.width, self.height), look_at(eye, (0, 0, 0.02))

    def builder(self, **settings: object) -> ClipBuilder:
        arguments = {
            "width": self.width,
            "height": self.height,
            "fps": 24.0,
            "num_frames": self.num_frames,
            "points_per_entity": 300,
            "num_tracks": 200,
            "prompt": "two fingers lift a can",
        }
        return ClipBuilder([Entity("hand", "right_hand"), Entity("can", "object")], **{**arguments, **settings})

    def reference(self) -> bytes:
        ramp = np.zeros((self.height, self.width, 3), np.uint8)
        ramp[..., 0] = np.linspace(20, 200, self.width)
        ramp[..., 1] = np.linspace(200, 40, self.height)[:, None]
        return encode_png(ramp)

    def clip(self, **settings: object) -> Clip:
        builder = self.builder(**settings)
        for frame in range(builder.num_frames):
            joints = np.full((21, 3), 0.01 * frame, np.float32)
            poses = np.tile(np.eye(4, dtype=np.float32), (1, 1, 1))
            builder.add_frame(10 + frame, self.meshes(frame), *self.camera(frame), joints=joints, object_poses=poses)
        return builder.finish(self.reference(), provenance={"source": "tests", "licences": ["CC0"]})


@pytest.fixture(scope="session")
def grasp() -> Grasp:
    return Grasp()


@pytest.fixture(scope="session")
def shared_clip(grasp: Grasp) -> Clip:
    """Built once; tests only read it."""
    return grasp.clip()


@pytest.fixture
def clip(shared_clip: Clip) -> Clip:
    """A copy that a test may damage."""
    import copy

    return copy.deepcopy(shared_clip)


@pytest.fixture(scope="session")
def first_hits() -> Callable[[trimesh.Trimesh, np.ndarray, np.ndarray], np.ndarray]:
    """Distance of the nearest hit along each ray, by trimesh's ray caster, inf for none: an independent answer."""

    def cast(mesh: trimesh.Trimesh, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        caster = trimesh.ray.ray_triangle.RayMeshIntersector(mesh)
        places, rays, _ = caster.intersects_location(origins, directions, multiple_hits=True)
        nearest = np.full(len(origins), np.inf)
        np.minimum.at(nearest, rays, np.linalg.norm(places - origins[rays], axis=1))
        return nearest

    return cast
