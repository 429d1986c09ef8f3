# SPDX-License-Identifier: GPL-3.0-or-later
"""Triangles prepared for distance queries: closest points, and normals that tell inside from outside. numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

OPEN_SHARE = 0.05  # a part with more than this share of boundary edges is a sheet, without an inside


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("...d,...d->...", a, b)


@dataclass(frozen=True)
class Triangles:
    """F triangles of one connected part.

    corner F x 3 x 3; edge F x 3 x 3 (from corner k to k + 1); normal F x 3; at_edge, at_corner F x 3 x 3: the direction
    that points outwards there (Baerentzen and Aanaes 2005, "Signed distance computation using the angle weighted
    pseudonormal"); closed: whether there is an inside.
    """

    corner: np.ndarray
    edge: np.ndarray
    normal: np.ndarray
    at_edge: np.ndarray
    at_corner: np.ndarray
    closed: bool

    def squared_distance(self, points: np.ndarray, which: np.ndarray) -> np.ndarray:
        """P squared distances from points P x 3 to the triangles ``which`` P."""
        offset = points - self.corner[which, 0]
        edge = self.edge[which]
        first, second = edge[:, 0], -edge[:, 2]
        a, b = dot(offset, first), dot(offset, second)
        aa, ab, bb = dot(first, first), dot(first, second), dot(second, second)
        area = aa * bb - ab * ab
        v, w = bb * a - ab * b, aa * b - ab * a
        height = dot(offset, self.normal[which])
        squared = height * height
        beside = np.flatnonzero((v < 0) | (w < 0) | (v + w > area))
        if len(beside):
            start, edges = self.corner[which[beside]], edge[beside]
            away = points[beside, None] - start
            along = np.clip(dot(away, edges) / dot(edges, edges), 0.0, 1.0)
            away -= along[..., None] * edges
            squared[beside] = dot(away, away).min(axis=1)
        return squared

    def sign(self, points: np.ndarray, which: np.ndarray) -> np.ndarray:
        """P signs: -1 where the point lies behind the nearest feature of its nearest triangle."""
        if not self.closed:
            return np.ones(len(points))
        away = points[:, None] - self.corner[which]
        edges = self.edge[which]
        along = dot(away, edges) / dot(edges, edges)
        clipped = np.clip(along, 0.0, 1.0)
        from_edge = away - clipped[..., None] * edges
        nearest = dot(from_edge, from_edge).argmin(axis=1)
        row = np.arange(len(points))
        at = clipped[row, nearest]
        outward = self.at_edge[which, nearest]
        outward = np.where((at <= 0)[:, None], self.at_corner[which, nearest], outward)
        outward = np.where((at >= 1)[:, None], self.at_corner[which, (nearest + 1) % 3], outward)
        side = dot(from_edge[row, nearest], outward)
        # Over the face itself its own normal tells.
        inner = np.cross(self.normal[which][:, None], edges)
        over = (dot(inner, away) >= 0).all(axis=1)
        side = np.where(over, dot(away[:, 0], self.normal[which]), side)
        return np.where(side < 0, -1.0, 1.0)


def parts_of(vertices: np.ndarray, triangles: np.ndarray) -> list[Triangles]:
    """The connected parts of a mesh, V x 3 and F x 3, largest first.

    Vertices in the same place are one; triangles without area are left out; a part that is turned inside out is turned
    back.
    """
    vertices = np.asarray(vertices, np.float64)
    extent = float(np.ptp(vertices, axis=0).max()) if len(vertices) else 0.0
    if extent == 0.0 or len(triangles) == 0:
        return []
    grid = np.round((vertices - vertices.min(axis=0)) * (1e6 / extent)).astype(np.int64)
    _, first, inverse = np.unique(
        grid @ np.array([1, 1 << 21, 1 << 42], np.int64), return_index=True, return_inverse=True
    )
    vertices, triangles = vertices[first], inverse.reshape(-1)[triangles]
    cross = np.cross(
        vertices[triangles[:, 1]] - vertices[triangles[:, 0]], vertices[triangles[:, 2]] - vertices[triangles[:, 0]]
    )
    triangles = triangles[np.linalg.norm(cross, axis=1) > 1e-14 * extent * extent]
    label = _connected(triangles, len(vertices))[triangles[:, 0]]
    parts = [_part(vertices, triangles[label == part]) for part in np.unique(label)]
    return sorted(parts, key=lambda part: -len(part.corner))


def _connected(triangles: np.ndarray, count: int) -> np.ndarray:
    """Of each vertex, the lowest vertex that it is connected to."""
    label = np.arange(count)
    while True:
        lowest = label[triangles].min(axis=1)
        new = label.copy()
        for corner in range(3):
            np.minimum.at(new, triangles[:, corner], lowest)
        new = new[new]
        if np.array_equal(new, label):
            return label
        label = new


def _part(vertices: np.ndarray, triangles: np.ndarray) -> Triangles:
    corner = vertices[triangles]
    middle = corner.reshape(-1, 3).mean(axis=0)
    volume = dot(corner[:, 0] - middle, np.cross(corner[:, 1] - middle, corner[:, 2] - middle)).sum()
    if volume < 0:
        triangles = triangles[:, ::-1]
        corner = vertices[triangles]
    edge = np.roll(corner, -1, axis=1) - corner
    normal = np.cross(edge[:, 0], edge[:, 1])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)

    ends = np.sort(np.stack([triangles, np.roll(triangles, -1, axis=1)], axis=-1), axis=-1).reshape(-1, 2)
    key = ends[:, 0] * np.int64(len(vertices)) + ends[:, 1]
    _, index, shared = np.unique(key, return_inverse=True, return_counts=True)
    at_edge = np.zeros((len(shared), 3))
    np.add.at(at_edge, index, np.repeat(normal, 3, axis=0))
    unit = edge / np.linalg.norm(edge, axis=2, keepdims=True)
    angle = np.arccos(np.clip(-dot(unit, np.roll(unit, 1, axis=1)), -1.0, 1.0))
    at_corner = np.zeros_like(vertices)
    np.add.at(at_corner, triangles.reshape(-1), (angle[..., None] * normal[:, None]).reshape(-1, 3))
    return Triangles(
        corner,
        edge,
        normal,
        at_edge[index].reshape(-1, 3, 3),
        at_corner[triangles],
        bool((shared == 1).mean() <= OPEN_SHARE),
    )
