# SPDX-License-Identifier: Apache-2.0
"""Small clips made without Blender: a ball of triangles as hand, a box as object, moving in front of a camera."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from hvg3d_core.conditions import Clip, ClipBuilder, Entity, Mesh, intrinsics_from_fov, look_at, save_clip

ENTITIES = (Entity("right hand", "right_hand"), Entity("box", "object"))


def png(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "png")
    return buffer.getvalue()


def meshes_at(progress: float) -> list[Mesh]:
    """Two meshes of metres size; the first moves 0.4 m to the right, the second rises 0.2 m, as progress goes to 1."""
    import trimesh

    ball, box = trimesh.creation.icosphere(subdivisions=2, radius=0.2), trimesh.creation.box((0.3, 0.3, 0.3))
    left = ball.vertices + [-0.35 + 0.4 * progress, 0.0, 0.0]
    right = box.vertices + [0.3, 0.2, 0.2 * progress]
    return [
        Mesh("ball", 0, left.astype(np.float32), ball.faces.astype(np.int32)),
        Mesh("box", 1, right.astype(np.float32), box.faces.astype(np.int32)),
    ]


def make_clip(num_frames: int = 9, width: int = 48, height: int = 32, fps: float = 8.0) -> tuple[Clip, np.ndarray]:
    """(clip, frames T x H x W x 3 uint8 painted from its masks), seen from 1.5 m."""
    K = intrinsics_from_fov(np.deg2rad(50), width, height)
    world_to_camera = look_at(np.array([0.0, -1.5, 0.3]), np.zeros(3), np.array([0.0, 0.0, 1.0]))
    builder = ClipBuilder(
        ENTITIES, width=width, height=height, fps=fps, num_frames=num_frames, points_per_entity=64, num_tracks=64,
        prompt="a right hand moves a box",
    )  # fmt: skip
    for t in range(num_frames):
        builder.add_frame(t, meshes_at(t / max(1, num_frames - 1)), K, world_to_camera)
    clip = builder.finish(png(np.zeros((height, width, 3), np.uint8)))
    colors = np.array([[90, 90, 100], [220, 170, 140], [180, 40, 40]], np.uint8)
    frames = colors[clip.views[0].masks]
    clip.views[0].reference = png(frames[0])
    return clip, frames


def write_dataset(folder: Path, count: int, **size: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        clip, frames = make_clip(**size)
        frames = np.roll(frames, index, axis=-1)
        clip.views[0].reference = png(frames[0])
        save_clip(clip, folder / f"{index:04d}.clip.safetensors")
        Image.fromarray(frames.reshape(-1, *frames.shape[2:])).save(folder / f"{index:04d}.png")
