# SPDX-License-Identifier: Apache-2.0
"""Points that are bound to a surface once and follow it from then on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .clip import ClipError

_PIECE = 1 << 12  # triangles at once, so that all that is known of them stays in the cache


@dataclass(frozen=True)
class SurfaceBinding:
    """Where C points sit on a mesh of V vertices: it stays true however the vertices move."""

    corners: np.ndarray  # C x 3 int64: the vertices of each point's triangle
    weights: np.ndarray  # C x 3 float64: barycentric, sum 1
    triangle: np.ndarray  # C int64: index of the triangle the point was bound to
    num_vertices: int

    @cached_property
    def _gather(self) -> tuple[np.ndarray, np.ndarray]:
        """First corners of all points, then the second and the third ones; the weights, once per coordinate."""
        weights = np.repeat(self.weights.T[:, :, None], 3, axis=2)
        return np.ascontiguousarray(self.corners.T, np.intp).ravel(), np.ascontiguousarray(weights, np.float64)

    def evaluate(self, vertices: np.ndarray, matrix: np.ndarray | None = None) -> np.ndarray:
        """C x 3 float32 points on the surface that now has ``vertices`` (V x 3), carried on by ``matrix`` (4 x 4)."""
        if vertices.shape != (self.num_vertices, 3):
            raise ClipError(
                f"vertices: shape {vertices.shape}, but the points were bound to {(self.num_vertices, 3)};"
                " keep the topology constant over the clip"
            )
        return self.blend(self.gather(vertices), matrix)

    def gather(self, vertices: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The first half of :meth:`evaluate`: 3C x 3 corners, the first ones of all points, the second, the third.

        Only the vertices that points hang on are read, so that a dense mesh costs no more than a coarse one.
        """
        # With an ``out``, numpy checks indices on a copy of it unless it clips them; they are in range.
        return np.take(vertices, self._gather[0], axis=0, out=out, mode="raise" if out is None else "clip")

    def blend(self, corners: np.ndarray, matrix: np.ndarray | None = None) -> np.ndarray:
        """The second half: C x 3 float32 points from what :meth:`gather` returned."""
        weights = self._gather[1]
        parts = corners.reshape(weights.shape) * weights
        points = parts[0] + parts[1] + parts[2]
        if matrix is not None:
            points = points @ matrix[:3, :3].T + matrix[:3, 3]
        return points.astype(np.float32)

    def within(self, start: int, count: int) -> tuple[slice, SurfaceBinding]:
        """The points on the ``count`` vertices from ``start``, as if there were no others, and which ones they are.

        For a mesh joined of several: no triangle may span two of them, and the points of each must follow one another,
        as those of :func:`bind_surface` do.
        """
        own = np.flatnonzero((self.corners[:, 0] >= start) & (self.corners[:, 0] < start + count))
        chosen = slice(int(own[0]), int(own[-1]) + 1) if len(own) else slice(0, 0)
        part = SurfaceBinding(self.corners[chosen] - start, self.weights[chosen], self.triangle[chosen], count)
        return chosen, part


def triangle_areas(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """F float64 areas, in the square of the vertices' unit."""
    return _areas_and_extent(vertices, triangles)[0]


def _areas_and_extent(vertices: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, float]:
    """Areas, and the longest side of the box round all triangles."""
    axes = np.ascontiguousarray(np.asarray(vertices).T, np.float64)
    areas = np.empty(len(triangles))
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for start in range(0, len(triangles), _PIECE):
        corners = np.ascontiguousarray(triangles[start : start + _PIECE].T, np.intp)
        sides = []
        for axis, row in enumerate(axes):
            at = np.take(row, corners)
            low[axis], high[axis] = min(low[axis], at.min()), max(high[axis], at.max())
            sides.append(at[1:] - at[0])
        (x1, x2), (y1, y2), (z1, z2) = sides
        x, y, z = y1 * z2 - z1 * y2, z1 * x2 - x1 * z2, x1 * y2 - y1 * x2
        areas[start : start + _PIECE] = 0.5 * np.sqrt(x * x + y * y + z * z)
    return areas, float((high - low).max())


def bind_surface(vertices: np.ndarray, triangles: np.ndarray, count: int, rng: np.random.Generator) -> SurfaceBinding:
    """Bind ``count`` points to the mesh, uniformly over its area.

    One point is drawn from each of ``count`` equal slices of the area, which spreads them more evenly than independent
    draws; inside the triangle the square-root map makes the density uniform.
    """
    if count < 1:
        raise ClipError(f"number of points: {count}; at least 1 is needed")
    if len(triangles) == 0:
        raise ClipError("mesh: it has no triangle; give it faces, or leave it out")
    areas, extent = _areas_and_extent(vertices, triangles)
    cumulative = np.cumsum(areas)
    total = cumulative[-1]
    # Rounding leaves float32 lines and points a little area; the bound is far below any real surface's.
    if not total > 1e-10 * extent * extent or extent == 0.0:
        raise ClipError(f"mesh: its {len(triangles)} triangles have no area ({total:.3g} m2); check its scale")
    position = (np.arange(count) + rng.random(count)) * (total / count)
    # side="right" steps over triangles without area
    triangle = np.searchsorted(cumulative, position, side="right")
    if triangle[-1] >= np.searchsorted(cumulative, total):  # rounded up beyond the last that has one
        triangle = np.minimum(triangle, np.flatnonzero(areas)[-1])
    root, other = np.sqrt(rng.random(count)), rng.random(count)
    weights = np.stack([1.0 - root, root * (1.0 - other), root * other], axis=1)
    return SurfaceBinding(triangles[triangle].astype(np.int64), weights, triangle.astype(np.int64), len(vertices))


def balanced_quota(available: Sequence[int], total: int) -> list[int]:
    """Share ``total`` over groups as evenly as their sizes allow; among equals the earlier take the remainder.

    The sum is ``min(total, sum(available))``.
    """
    quota = [0] * len(available)
    left = total
    # The smallest first: what a group cannot use is then shared by all that follow.
    order = sorted(range(len(available)), key=lambda group: (available[group], -group))
    for rank, group in enumerate(order):
        quota[group] = min(available[group], left // (len(order) - rank))
        left -= quota[group]
    return quota
