# SPDX-License-Identifier: GPL-3.0-or-later
"""Procedural shapes: a clean mesh and the exact signed distance to it. What is made of them is in families.py.

An object stands on z = 0 of its own space, its axis is z, metres. `distance` is negative inside the material (the
hollow of a mug counts as outside). Shapes are lathed profiles, rounded boxes and swept tubes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

SEGMENTS = 56
Distance = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class ObjectShape:
    """vertices V×3, triangles F×3 int, distance (…×3 -> …); grip: lowest and highest centre line of a hand."""

    family: str
    vertices: np.ndarray
    triangles: np.ndarray
    distance: Distance
    height: float
    grip: tuple[float, float]
    half_width: float
    flat: bool = False
    front: float | None = None  # azimuth of a handle, which the fingers should leave alone


# -- meshes --


def lathe(profile: np.ndarray, segments: int = SEGMENTS) -> tuple[np.ndarray, np.ndarray]:
    """Turn an open (r, z) polyline, counter-clockwise and with both ends on the axis, round the z axis."""
    angle = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    inner = profile[1:-1]
    rings = np.stack(
        [inner[:, :1] * np.cos(angle), inner[:, :1] * np.sin(angle), np.repeat(inner[:, 1:], segments, axis=1)], axis=-1
    ).reshape(-1, 3)
    vertices = np.concatenate([rings, [[0, 0, profile[0, 1]], [0, 0, profile[-1, 1]]]])
    first, last = len(rings), len(rings) + 1
    around = np.arange(segments)
    after = (around + 1) % segments
    faces = [np.stack([np.full(segments, first), after, around], axis=1)]
    for ring in range(len(inner) - 1):
        a, b, c, d = (
            ring * segments + around,
            ring * segments + after,
            (ring + 1) * segments + after,
            (ring + 1) * segments + around,
        )
        faces += [np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)]
    top = (len(inner) - 1) * segments
    faces.append(np.stack([np.full(segments, last), top + around, top + after], axis=1))
    return vertices, np.concatenate(faces)


def tube(path: np.ndarray, radius: float, side: np.ndarray, count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Sweep a circle along path P×3 that lies in the plane normal to `side`; both ends closed."""
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    normal = np.cross(side, tangent)
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    rings = path[:, None] + radius * (np.cos(angle)[:, None] * normal[:, None] + np.sin(angle)[:, None] * side)
    vertices = np.concatenate([rings.reshape(-1, 3), path[:1], path[-1:]])
    around, after = np.arange(count), (np.arange(count) + 1) % count
    faces = []
    for ring in range(len(path) - 1):
        a, b, c, d = (
            ring * count + around,
            ring * count + after,
            (ring + 1) * count + after,
            (ring + 1) * count + around,
        )
        faces += [np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)]
    start, end, last = len(path) * count, len(path) * count + 1, (len(path) - 1) * count
    faces += [
        np.stack([np.full(count, start), after, around], axis=1),
        np.stack([np.full(count, end), last + around, last + after], axis=1),
    ]
    triangles = np.concatenate(faces)
    if _volume(vertices, triangles) < 0:
        triangles = triangles[:, ::-1]
    return vertices, triangles


def rounded_box(size: np.ndarray, radius: float, flat_cells: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """A box of full `size` standing on z = 0, edges rounded; a cube's grid pushed onto inner box + sphere."""
    half = np.asarray(size) / 2
    bend = radius * np.tan(np.radians([15.0, 30.0, 45.0]))
    lines = []
    for extent in half - radius:
        middle = np.linspace(-extent, extent, flat_cells + 1)
        lines.append(np.concatenate([-(extent + bend[::-1]), middle, extent + bend]))
    count = len(lines[0])
    index = np.arange(count**2).reshape(count, count)
    a, b, c, d = (part.reshape(-1) for part in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]))
    points, faces = [], []
    for axis in range(3):
        u, v = np.meshgrid(lines[(axis + 1) % 3], lines[(axis + 2) % 3], indexing="ij")
        for sign in (-1.0, 1.0):
            face = np.zeros((count, count, 3))
            face[..., axis], face[..., (axis + 1) % 3], face[..., (axis + 2) % 3] = sign * half[axis], u, v
            quads = [np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)]
            faces += [len(points) * count**2 + (q if sign > 0 else q[:, ::-1]) for q in quads]
            points.append(face.reshape(-1, 3))
    unique, inverse = np.unique(np.round(np.concatenate(points), 9), axis=0, return_inverse=True)
    core = np.clip(unique, -(half - radius), half - radius)
    offset = unique - core
    vertices = core + radius * offset / np.maximum(np.linalg.norm(offset, axis=1, keepdims=True), 1e-12)
    return vertices + [0, 0, half[2]], inverse.reshape(-1)[np.concatenate(faces)]


def _volume(vertices: np.ndarray, triangles: np.ndarray) -> float:
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6)


# -- distances --


def lathe_distance(profile: np.ndarray) -> Distance:
    """Signed distance to the lathed solid: the distance to the polyline in the (r, z) half plane, sign by crossings."""
    start, end = profile[:-1], profile[1:]
    edge = end - start
    square = np.maximum((edge**2).sum(axis=1), 1e-18)

    def distance(points: np.ndarray) -> np.ndarray:
        plane = np.stack([np.hypot(points[..., 0], points[..., 1]), points[..., 2]], axis=-1)
        best = np.full(plane.shape[:-1], np.inf)
        inside = np.zeros(plane.shape[:-1], bool)
        for a, e, b, s in zip(start, edge, end, square, strict=True):
            offset = plane - a
            along = np.clip((offset @ e) / s, 0, 1)
            best = np.minimum(best, ((offset - along[..., None] * e) ** 2).sum(axis=-1))
            # Crossings of the ray towards larger r; the axis itself is never crossed.
            if a[1] != b[1]:
                spans = (a[1] > plane[..., 1]) != (b[1] > plane[..., 1])
                inside ^= spans & (plane[..., 0] < a[0] + (plane[..., 1] - a[1]) * e[0] / e[1])
        return np.where(inside, -1.0, 1.0) * np.sqrt(best)

    return distance


def box_distance(size: np.ndarray, radius: float) -> Distance:
    half = size / 2

    def distance(points: np.ndarray) -> np.ndarray:
        q = np.abs(points - [0, 0, half[2]]) - (half - radius)
        return np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(axis=-1), 0) - radius

    return distance


def handle_distance(path: np.ndarray, radius: float) -> Distance:
    """Distance to a tube along path P×3 whose two flat ends lie in the plane x = path[0].x, the whole of it beyond."""

    def distance(points: np.ndarray) -> np.ndarray:
        best = np.full(points.shape[:-1], np.inf)
        for a, b in pairwise(path):
            edge = b - a
            along = np.clip(((points - a) @ edge) / (edge @ edge), 0, 1)
            best = np.minimum(best, ((points - a - along[..., None] * edge) ** 2).sum(axis=-1))
        return np.maximum(np.sqrt(best) - radius, path[0, 0] - points[..., 0])

    return distance
