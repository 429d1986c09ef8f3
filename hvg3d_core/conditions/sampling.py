# SPDX-License-Identifier: Apache-2.0
"""Points that are bound to a surface once and follow it from then on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .clip import ClipError


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
        """C x 3 float32 points on the surface that now has ``vertices`` (V x 3), carried on by ``matrix`` (4 x 4).

        Only the vertices that points hang on are read, so that a dense mesh costs no more than a coarse one.
        """
        if vertices.shape != (self.num_vertices, 3):
            raise ClipError(
                f"vertices: shape {vertices.shape}, but the points were bound to {(self.num_vertices, 3)};"
                " keep the topology constant over the clip"
            )
        corners, weights = self._gather
        parts = np.take(vertices, corners, axis=0).reshape(weights.shape) * weights
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
    a, b, c = np.moveaxis(vertices[triangles].astype(np.float64), 1, 0)
    return 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)


def bind_surface(vertices: np.ndarray, triangles: np.ndarray, count: int, rng: np.random.Generator) -> SurfaceBinding:
    """Bind ``count`` points to the mesh, uniformly over its area.

    One point is drawn from each of ``count`` equal slices of the area, which spreads them more evenly than independent
    draws; inside the triangle the square-root map makes the density uniform.
    """
    if count < 1:
        raise ClipError(f"number of points: {count}; at least 1 is needed")
    if len(triangles) == 0:
        raise ClipError("mesh: it has no triangle; give it faces, or leave it out")
    areas = triangle_areas(vertices, triangles)
    cumulative = np.cumsum(areas)
    total = cumulative[-1]
    extent = float(np.ptp(vertices[triangles.ravel()].astype(np.float64), axis=0).max())
    # Rounding leaves float32 lines and points a little area; the bound is far below any real surface's.
    if not total > 1e-10 * extent * extent or extent == 0.0:
        raise ClipError(f"mesh: its {len(triangles)} triangles have no area ({total:.3g} m2); check its scale")
    position = (np.arange(count) + rng.random(count)) * (total / count)
    # side="right" steps over triangles without area
    triangle = np.minimum(np.searchsorted(cumulative, position, side="right"), np.flatnonzero(areas)[-1])
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
