# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed distance from points to a triangle mesh: exact, and remembered on a grid for when it is asked again.

Numpy only; where there is Blender, its BVH tree finds the nearest triangles (``bvh.py``).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .triangles import Triangles, parts_of

# For points N x 3: index of the nearest triangle, N int.
Nearest = Callable[[np.ndarray], np.ndarray]
_MAX_PARTS = 24
_PAIRS = 1 << 20


class SurfaceDistance:
    """Callable: points ... x 3 -> exact signed distances ..., negative inside.

    Parts that overlap (a mug and its handle) are one solid. A sheet (an open part) has no inside: its distances are
    positive. ``finder`` makes the search for nearest triangles from F x 3 x 3 corners; the plain one tries them all.
    Raises ValueError for a mesh without faces.
    """

    def __init__(
        self, vertices: np.ndarray, triangles: np.ndarray, finder: Callable[[np.ndarray], Nearest] | None = None
    ) -> None:
        parts = parts_of(vertices, triangles)
        if not parts:
            raise ValueError("the mesh has no faces with an area, so that nothing has a distance to it")
        # Of very many parts the small ones are searched together: exact but where two of them overlap.
        if len(parts) > _MAX_PARTS:
            parts = [*parts[: _MAX_PARTS - 1], _joined(parts[_MAX_PARTS - 1 :])]
        make = finder or try_all
        self._parts = [(part, make(part.corner)) for part in parts]
        boxes = [part.corner.reshape(-1, 3) for part in parts]
        self._low, self._high = [b.min(axis=0) for b in boxes], [b.max(axis=0) for b in boxes]
        self.low, self.high = np.min(self._low, axis=0), np.max(self._high, axis=0)
        self.closed = any(part.closed for part in parts)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        flat = np.ascontiguousarray(points, np.float64).reshape(-1, 3)
        distance = np.full(len(flat), np.inf)
        for (part, nearest), low, high in zip(self._parts, self._low, self._high, strict=True):
            # A part whose box is farther away than what has been found already changes nothing.
            rows = np.flatnonzero(box_distance(flat, low, high) < np.maximum(distance, 1e-9))
            if len(rows):
                asked = flat[rows]
                which = nearest(asked)
                found = part.sign(asked, which) * np.sqrt(part.squared_distance(asked, which))
                distance[rows] = np.minimum(distance[rows], found)
        return distance.reshape(np.shape(points)[:-1])


class CachedDistance:
    """A :class:`SurfaceDistance` for thousands of points many times over.

    Kept on the nodes of a grid as they are asked for, and interpolated between them; what is nearer to the surface than
    ``band`` by that is asked for exactly (0 turns that off); farther away the error stays below 0.4 of ``spacing``, and
    is that large only deep inside, where two sides are equally near. Beyond ``margin`` round the mesh's box it is the
    distance to the box, a lower bound.
    """

    def __init__(
        self, exact: SurfaceDistance, spacing: float = 0.004, band: float = 0.005, margin: float = 0.025
    ) -> None:
        size = exact.high - exact.low + 2 * margin
        spacing = max(spacing, float((size.prod() / 4e6) ** (1 / 3)))
        self.exact, self.spacing, self.band, self.margin = exact, spacing, band, margin
        self._origin = exact.low - margin
        self._count = np.ceil(size / spacing).astype(np.int64) + 1
        self._step = np.array([self._count[1] * self._count[2], self._count[2], 1])
        self._corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) @ self._step
        self._values = np.full(int(self._count.prod()), np.nan)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        flat = np.ascontiguousarray(points, np.float64).reshape(-1, 3)
        distance = box_distance(flat, self.exact.low, self.exact.high)
        place = (flat - self._origin) / self.spacing
        rows = np.flatnonzero(((place >= 0) & (place < self._count - 1)).all(axis=1) & (distance < self.margin))
        if len(rows):
            place = place[rows]
            cell = place.astype(np.int64)
            nodes = (cell @ self._step)[:, None] + self._corners
            value = self._values[nodes]
            if np.isnan(value).any():
                self._ask(nodes[np.isnan(value)])
                value = self._values[nodes]
            part = place - cell
            for axis in range(3):  # the corners are in the order of x, then y, then z
                half = value.shape[1] // 2
                value = value[:, :half] + (value[:, half:] - value[:, :half]) * part[:, axis, None]
            value = value[:, 0]
            near = np.flatnonzero(np.abs(value) < self.band)
            if len(near):
                value[near] = self.exact(flat[rows[near]])
            distance[rows] = value
        return distance.reshape(np.shape(points)[:-1])

    def _ask(self, nodes: np.ndarray) -> None:
        nodes = np.unique(nodes)
        place = np.stack([nodes // self._step[0], nodes // self._step[1] % self._count[1], nodes % self._count[2]], 1)
        self._values[nodes] = self.exact(self._origin + place * self.spacing)


def try_all(corner: np.ndarray) -> Nearest:
    """The plain search, without Blender: every point with every triangle that its bounding ball does not exclude."""
    centre = corner.mean(axis=1)
    radius = np.linalg.norm(corner - centre[:, None], axis=2).max(axis=1)
    part = parts_of_soup(corner)

    def nearest(points: np.ndarray) -> np.ndarray:
        found = np.empty(len(points), np.int64)
        rows = max(1, _PAIRS // len(centre))
        for start in range(0, len(points), rows):
            some = points[start : start + rows]
            to_centre = np.linalg.norm(some[:, None] - centre, axis=2)
            owner, which = np.nonzero(to_centre - radius <= to_centre.min(axis=1, keepdims=True))
            squared = part.squared_distance(some[owner], which)
            first = np.searchsorted(owner, np.arange(len(some)))
            hit = np.flatnonzero(squared == np.minimum.reduceat(squared, first)[owner])
            found[start + owner[hit]] = which[hit]
        return found

    return nearest


def parts_of_soup(corner: np.ndarray) -> Triangles:
    """Corners F x 3 x 3 as triangles that are only good for distances without a sign."""
    edge = np.roll(corner, -1, axis=1) - corner
    normal = np.cross(edge[:, 0], edge[:, 1])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return Triangles(corner, edge, normal, edge, edge, closed=False)


def rigid_motion(before: np.ndarray, now: np.ndarray, tolerance: float = 2e-5) -> np.ndarray | None:
    """The rotation and translation (4 x 4) that takes vertices V x 3 to where they are now; None if they deformed.

    Kabsch's method on a few of them; then all must agree to ``tolerance`` of the mesh's extent.
    """
    if before.shape != now.shape or len(before) < 3:
        return None
    some = slice(None, None, max(1, len(before) // 256))
    a, b = before[some].astype(np.float64), now[some].astype(np.float64)
    middle_a, middle_b = a.mean(axis=0), b.mean(axis=0)
    u, _, vt = np.linalg.svd((a - middle_a).T @ (b - middle_b))
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt)) or 1.0])
    rotation = (u @ flip @ vt).T
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation, middle_b - rotation @ middle_a
    error = np.abs(before @ rotation.T + motion[:3, 3] - now).max()
    # Coordinates are float32: far from the origin they are rounded by more.
    allowed = tolerance * float(np.ptp(now, axis=0).max()) + 4e-7 * float(np.abs(now).max() + np.abs(before).max())
    return motion if error <= allowed else None


def box_distance(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """N distances of points to an axis-aligned box, 0 inside."""
    outside = np.maximum(np.maximum(low - points, points - high), 0.0)
    return np.sqrt(np.einsum("nd,nd->n", outside, outside))


def _joined(parts: list[Triangles]) -> Triangles:
    names = ("corner", "edge", "normal", "at_edge", "at_corner")
    arrays = [np.concatenate([getattr(part, name) for part in parts]) for name in names]
    return Triangles(*arrays, closed=all(part.closed for part in parts))
