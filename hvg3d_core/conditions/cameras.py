# SPDX-License-Identifier: Apache-2.0
"""Pinhole cameras in OpenCV axes: x right, y down, z forward; pixel (0, 0) is the corner of the top-left pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .clip import ClipError

NEAR = 0.01  # metres: what is closer to the camera's plane than this, or behind it, is not seen
_TINY = 1e-12


def to_camera(points: np.ndarray, world_to_camera: np.ndarray) -> np.ndarray:
    """World points (..., N, 3) in the axes of the camera (..., 4, 4), as float64 (..., N, 3)."""
    w2c = np.asarray(world_to_camera, np.float64)
    rotation, translation = w2c[..., :3, :3], w2c[..., :3, 3]
    return np.asarray(points, np.float64) @ np.swapaxes(rotation, -1, -2) + translation[..., None, :]


def project(points: np.ndarray, K: np.ndarray, world_to_camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project world points (..., N, 3) with K (..., 3, 3) and world_to_camera (..., 4, 4).

    Returns ``uv`` (..., N, 2) in pixels and ``z`` (..., N), the depth in metres, both float64. Where z <= 0 the point
    is behind the camera and its uv, though finite, means nothing.
    """
    camera = to_camera(points, world_to_camera)
    K = np.asarray(K, np.float64)
    z = camera[..., 2]
    safe = np.where(np.abs(z) < _TINY, _TINY, z)
    homogeneous = camera @ np.swapaxes(K, -1, -2)
    return homogeneous[..., :2] / safe[..., None], z


def in_view(uv: np.ndarray, z: np.ndarray, width: int, height: int, near: float = NEAR) -> np.ndarray:
    """Bool (...): in front of the camera and inside the image."""
    u, v = uv[..., 0], uv[..., 1]
    return (z > near) & (u >= 0) & (u < width) & (v >= 0) & (v < height)


def points_in_view(
    points: np.ndarray, K: np.ndarray, world_to_camera: np.ndarray, width: int, height: int, near: float = NEAR
) -> np.ndarray:
    """:func:`in_view` of N x 3 world points and one camera, without dividing: N bool."""
    K, w2c = np.asarray(K, np.float64), np.asarray(world_to_camera, np.float64)
    u, v, z = (K @ w2c[:3, :3]) @ np.asarray(points, np.float64).T + (K @ w2c[:3, 3])[:, None]
    return (z > near) & (u >= 0) & (u < width * z) & (v >= 0) & (v < height * z)


def intrinsics_from_fov(fov_x: float, width: int, height: int) -> np.ndarray:
    """K (3, 3) float32 of a camera with square pixels, centred, that sees ``fov_x`` radians over the image's width."""
    if not 0.0 < fov_x < np.pi:
        raise ClipError(f"fov_x: {fov_x} radians is not between 0 and pi")
    focal = 0.5 * width / np.tan(0.5 * fov_x)
    return np.array([[focal, 0, 0.5 * width], [0, focal, 0.5 * height], [0, 0, 1]], np.float32)


def look_at(eye: Sequence[float], target: Sequence[float], up: Sequence[float] = (0.0, 0.0, 1.0)) -> np.ndarray:
    """world_to_camera (4, 4) float32 of a camera at ``eye`` looking at ``target``, with ``up`` upwards in the image."""
    origin = np.asarray(eye, np.float64)
    forward = np.asarray(target, np.float64) - origin
    distance = np.linalg.norm(forward)
    if distance < _TINY:
        raise ClipError(f"look_at: eye and target are the same point, {tuple(origin)}; move one of them")
    forward /= distance
    right = np.cross(forward, np.asarray(up, np.float64))
    if np.linalg.norm(right) < 1e-8:  # looking along up: any right will do
        right = np.cross(forward, np.eye(3)[np.argmin(np.abs(forward))])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = -rotation @ origin
    return matrix.astype(np.float32)


def scale_intrinsics(K: np.ndarray, scale_x: float, scale_y: float) -> np.ndarray:
    """K (..., 3, 3) for the same image resized by these factors; exact because pixels count from the corner."""
    return np.asarray(K) * np.array([[scale_x], [scale_y], [1.0]], np.asarray(K).dtype)


def invert_rigid(matrix: np.ndarray) -> np.ndarray:
    """Inverse of rotation-and-translation matrices (..., 4, 4), float64."""
    matrix = np.asarray(matrix, np.float64)
    inverse = np.zeros_like(matrix)
    transposed = np.swapaxes(matrix[..., :3, :3], -1, -2)
    inverse[..., :3, :3] = transposed
    inverse[..., :3, 3] = -(transposed @ matrix[..., :3, 3:4])[..., 0]
    inverse[..., 3, 3] = 1.0
    return inverse
