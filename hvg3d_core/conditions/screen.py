# SPDX-License-Identifier: Apache-2.0
"""Triangles on the image plane: clipped, culled, projected, with 1/z as an affine function of the pixel.

1/z of a plane is affine in image coordinates, so interpolating it is exact under perspective; visibility and
rasterisation both read it from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .cameras import NEAR, to_camera

_MIN_AREA = 1e-10  # pixels squared, twice the area: an edge-on triangle hides nothing


@dataclass(frozen=True)
class ScreenTriangles:
    """S triangles that may touch the image, all in front of the near plane."""

    xy: np.ndarray  # S x 3 x 2 float64, pixels
    inv_z: np.ndarray  # S x 3 float64, 1/metres
    low: np.ndarray  # S x 2: corner of the bounding box, not clipped to the image
    high: np.ndarray  # S x 2
    basis: np.ndarray  # S x 2 x 2: (x, y) - xy[:, 0] times this gives the barycentrics of corners 1 and 2
    slope: np.ndarray  # S x 2: gradient of 1/z
    source: np.ndarray  # S int64: index of the triangle each came from (clipping can make two of one)

    def __len__(self) -> int:
        return len(self.xy)


def _clip_near(corners: np.ndarray, source: np.ndarray, near: float) -> tuple[np.ndarray, np.ndarray]:
    """Cut camera-space triangles (S x 3 x 3), each with one or two corners in front, at z = near."""
    front = corners[..., 2] >= near
    count = front.sum(1)
    # Roll so that the corner that is alone on its side of the plane comes first.
    lone = np.where(count == 1, front.argmax(1), (~front).argmax(1))
    a, b, c = (corners[np.arange(len(corners)), (lone + k) % 3] for k in range(3))

    def cut(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        t = (near - p[:, 2]) / (q[:, 2] - p[:, 2])
        point = p + t[:, None] * (q - p)
        point[:, 2] = near
        return point

    ab, ac = cut(a, b), cut(a, c)
    one, two = count == 1, count == 2
    pieces = [
        np.stack([a, ab, ac], 1)[one],
        np.stack([ab, b, c], 1)[two],
        np.stack([ab, c, ac], 1)[two],
    ]
    return np.concatenate(pieces), np.concatenate([source[one], source[two], source[two]])


def screen_triangles(
    vertices: np.ndarray,
    triangles: np.ndarray,
    K: np.ndarray,
    world_to_camera: np.ndarray,
    width: int,
    height: int,
    near: float = NEAR,
) -> ScreenTriangles:
    """Project a mesh (V x 3 world, F x 3) and keep what may touch the width x height image."""
    K = np.asarray(K, np.float64)
    camera = to_camera(vertices, world_to_camera)
    z = camera[:, 2]
    image = camera @ K.T  # u z, v z, z: comparing these with w z tells the side without dividing
    outside = np.empty((5, len(z)), bool)
    outside[0], outside[1] = image[:, 0] < 0, image[:, 0] > width * z
    outside[2], outside[3] = image[:, 1] < 0, image[:, 1] > height * z
    outside[4] = z < near
    # The four side planes pass through the camera's centre, so these tests hold for corners behind it as well.
    a, b, c = triangles.T
    keep = np.flatnonzero(~(outside[:, a] & outside[:, b] & outside[:, c]).any(0))
    behind = outside[4]
    crossing = behind[a[keep]] | behind[b[keep]] | behind[c[keep]]
    whole = keep[~crossing]
    safe = np.where(behind, 1.0, z)
    uv, inverse = image[:, :2] / safe[:, None], 1.0 / safe
    xy, inv_z, source = uv[triangles[whole]], inverse[triangles[whole]], whole
    if crossing.any():
        pieces, origin = _clip_near(camera[triangles[keep[crossing]]], keep[crossing], near)
        depth = pieces[..., 2]
        xy = np.concatenate([xy, (pieces @ K.T)[..., :2] / depth[..., None]])
        inv_z = np.concatenate([inv_z, 1.0 / depth])
        source = np.concatenate([source, origin])

    e1, e2 = xy[:, 1] - xy[:, 0], xy[:, 2] - xy[:, 0]
    area = e1[:, 0] * e2[:, 1] - e1[:, 1] * e2[:, 0]
    low, high = xy.min(1), xy.max(1)
    fine = np.abs(area) > _MIN_AREA
    fine &= (high >= 0).all(1) & (low[:, 0] <= width) & (low[:, 1] <= height)
    if not fine.all():
        xy, inv_z, source, e1, e2, area, low, high = (v[fine] for v in (xy, inv_z, source, e1, e2, area, low, high))
    basis = np.empty((len(xy), 2, 2))
    basis[:, 0, 0], basis[:, 1, 0] = e2[:, 1] / area, -e2[:, 0] / area
    basis[:, 0, 1], basis[:, 1, 1] = -e1[:, 1] / area, e1[:, 0] / area
    slope = np.einsum("sij,sj->si", basis, inv_z[:, 1:] - inv_z[:, :1])
    return ScreenTriangles(xy, inv_z, low, high, basis, slope, source)


def expand(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For counts (2, 0, 3): owners (0, 0, 2, 2, 2) and the place within each owner (0, 1, 0, 1, 2)."""
    owner = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    return owner, np.arange(len(owner)) - np.repeat(first, counts)


def chunks(counts: np.ndarray, limit: int) -> Iterator[slice]:
    """Slices over ``counts`` that each sum to at most ``limit`` (or hold one item), so that memory stays bounded."""
    if len(counts) == 0:
        return
    total = np.cumsum(counts)
    start = 0
    while start < len(counts):
        done = total[start - 1] if start else 0
        stop = max(int(np.searchsorted(total, done + limit, side="right")), start + 1)
        yield slice(start, stop)
        start = stop
