# SPDX-License-Identifier: GPL-3.0-or-later
"""Chooses the camera's target and distance so that hand and object fill the picture through the whole motion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .build import CameraPlan, camera_matrix
from .grasp import Grasp
from .hand import HandModel
from .motion import Motion
from .objects import ObjectShape


def hand_points(hand: HandModel, grasp: Grasp, motion: Motion, frames: np.ndarray) -> np.ndarray:
    """Vertices of the whole hand in world space for some frames: len(frames)×V×3."""
    angles = np.stack([grasp.angles(float(motion.closing[index])) for index in frames])
    return hand.pose(angles, motion.wrist[frames])


def object_matrices(grasp: Grasp, motion: Motion, object_pose: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Object to world, len(frames)×4×4: at rest, then rigid with the wrist. The grasp's wrist is in world space."""
    poses = np.tile(object_pose, (len(frames), 1, 1))
    if motion.attach is not None:
        held = frames >= motion.attach
        poses[held] = motion.wrist[frames[held]] @ np.linalg.inv(grasp.wrist) @ object_pose
    return poses


def object_points(shape: ObjectShape, poses: np.ndarray) -> np.ndarray:
    return np.einsum("tab,vb->tva", poses[:, :3, :3], shape.vertices[::7]) + poses[:, None, :3, 3]


def seen_at(points: np.ndarray, plan: CameraPlan, progress: float, aspect: float) -> np.ndarray:
    """World points …×3 -> picture …×2, -1..1 from edge to edge, y up; points behind the camera are far outside."""
    matrix = camera_matrix(plan, progress)
    local = (points - matrix[:3, 3]) @ matrix[:3, :3]
    depth = np.where(-local[..., 2] > 0.02, -local[..., 2], 1e-3)
    half = np.tan(plan.fov / 2)
    return local[..., :2] / depth[..., None] / np.array([half, half / aspect])


def fit_camera(plan: CameraPlan, points: np.ndarray, fill: float, aspect: float = 1.5) -> CameraPlan:
    """Aim at the points (moments×V×3) and come as near as keeps them within `fill` of the half picture."""
    moments = np.linspace(0, 1, len(points))
    ratio = plan.distance[1] / plan.distance[0]
    plan = replace(plan, target=tuple(points.reshape(-1, 3).mean(axis=0)))
    for _ in range(6):
        seen = np.stack([seen_at(frame, plan, m, aspect) for frame, m in zip(points, moments, strict=True)])
        low, high = seen.reshape(-1, 2).min(axis=0), seen.reshape(-1, 2).max(axis=0)
        matrix = camera_matrix(plan, 0.5)
        half = np.tan(plan.fov / 2) * plan.distance[0]
        shift = (low + high) / 2 * np.array([half, half / aspect])
        target = np.array(plan.target) + matrix[:3, 0] * shift[0] + matrix[:3, 1] * shift[1]
        extent = float(((high - low) / 2).max())
        distance = plan.distance[0] * (extent / fill) ** 0.8
        plan = replace(plan, target=tuple(float(x) for x in target), distance=(distance, distance * ratio))
    return plan


def share_in_sight(eye: np.ndarray, points: np.ndarray, vertices: np.ndarray, triangles: np.ndarray) -> float:
    """Share of points P×3 that no triangle hides from the eye (Möller and Trumbore's ray test, all pairs)."""
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    ray = (points - eye)[:, None]
    edge1, edge2 = (b - a)[None], (c - a)[None]
    across = np.cross(ray, edge2)
    scale = (edge1 * across).sum(axis=-1)
    scale = np.where(np.abs(scale) < 1e-15, 1e-15, scale)
    offset = (eye - a)[None]
    u = (offset * across).sum(axis=-1) / scale
    normal = np.cross(offset, edge1)
    v = (ray * normal).sum(axis=-1) / scale
    along = (edge2 * normal).sum(axis=-1) / scale
    hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (along > 0) & (along < 1)
    return float(1 - hit.any(axis=1).mean())
