# SPDX-License-Identifier: Apache-2.0
"""Triangles on the image plane, kept as projected vertices and corner indices, with 1/z at every vertex.

1/z of a plane is affine in image coordinates, so interpolating it is exact under perspective; visibility and
rasterisation both read it from here. Nothing is gathered per triangle but whole pixels of its bounding box: in a dense
mesh most triangles fall between the pixels and the points that matter, and are dropped before anything else is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .cameras import NEAR, to_camera

# At once: so few that the matrix library does it in one thread. Starting others takes longer than this does, and they
# then spin, waiting for more, on the processors that Blender evaluates the next frame with.
VERTICES = 1 << 14
_MIN_AREA = 1e-10  # pixels squared, twice the area: an edge-on triangle hides nothing


@dataclass(frozen=True)
class Patches:
    """Some triangles with what their planes need, one row each."""

    index: np.ndarray  # P intp: which of the screen's triangles
    x: np.ndarray  # 3 x P float64, pixels
    y: np.ndarray  # 3 x P
    inv_z: np.ndarray  # 3 x P, 1/metres
    # (x - x[0]) * second_x + (y - y[0]) * second_y is the barycentric coordinate of corner 1; third_* of corner 2.
    second_x: np.ndarray
    second_y: np.ndarray
    third_x: np.ndarray
    third_y: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def inverse_depth(self, row: np.ndarray, second: np.ndarray, third: np.ndarray) -> np.ndarray:
        """1/z of the patches ``row`` at barycentric coordinates."""
        first = self.inv_z[0][row]
        return first + second * (self.inv_z[1][row] - first) + third * (self.inv_z[2][row] - first)


@dataclass(frozen=True)
class Boxes:
    """For each of S triangles its bounding box in pixels: int32, clipped to the image."""

    # Pixel centres inside the box: columns first_x to last_x, none where first > last.
    first_x: np.ndarray
    last_x: np.ndarray
    first_y: np.ndarray
    last_y: np.ndarray
    # The box itself in cells whose corners are pixel centres; cell c spans c + 0.5 to c + 1.5, c from -1.
    low_x: np.ndarray
    low_y: np.ndarray


@dataclass(frozen=True)
class ScreenTriangles:
    """S triangles, all in front of the near plane; many of them may lie outside the image."""

    x: np.ndarray  # V float64: pixels. Vertices that no triangle uses may hold anything finite
    y: np.ndarray  # V
    inv_z: np.ndarray  # V, 1/metres
    corners: np.ndarray  # 3 x S intp: vertices
    source: np.ndarray | None  # S intp: the triangle each came from (clipping makes two of one); None: itself
    width: int
    height: int

    def __len__(self) -> int:
        return self.corners.shape[1]

    @cached_property
    def boxes(self) -> Boxes:
        first_x, last_x, low_x = self._span(self.x, self.width)
        first_y, last_y, low_y = self._span(self.y, self.height)
        return Boxes(first_x, last_x, first_y, last_y, low_x, low_y)

    def _span(self, position: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First and last pixel centre between each triangle's corners along one axis, and the cell it begins in."""
        shifted = np.clip(position - 0.5, -0.5, size - 0.5)
        below = np.floor(shifted)
        on_centre = below == shifted
        below = below.astype(np.int32)
        a, b, c = np.take(below, self.corners)
        low = np.minimum(np.minimum(a, b), c)
        last = np.maximum(np.maximum(a, b), c)
        if on_centre.any():
            a, b, c = np.take(below + 1 - on_centre, self.corners)
            return np.minimum(np.minimum(a, b), c), last, low
        return low + 1, last, low

    def patches(self, index: np.ndarray) -> tuple[Patches, np.ndarray]:
        """The planes of the triangles ``index``, and which of those they are: edge-on ones are left out."""
        corners = self.corners[:, index]
        x, y = np.take(self.x, corners), np.take(self.y, corners)
        x1, x2, y1, y2 = x[1] - x[0], x[2] - x[0], y[1] - y[0], y[2] - y[0]
        area = x1 * y2 - y1 * x2
        kept = np.flatnonzero(np.abs(area) > _MIN_AREA)
        if len(kept) < len(index):
            index, corners, x, y = index[kept], corners[:, kept], x[:, kept], y[:, kept]
            x1, x2, y1, y2, area = x1[kept], x2[kept], y1[kept], y2[kept], area[kept]
        scale = 1.0 / area
        inv_z = np.take(self.inv_z, corners)
        return Patches(index, x, y, inv_z, y2 * scale, -x2 * scale, -y1 * scale, x1 * scale), kept


def corner_rows(triangles: np.ndarray) -> np.ndarray:
    """F x 3 triangles as 3 x F intp, the layout that is quick to gather with."""
    return np.ascontiguousarray(np.asarray(triangles).reshape(-1, 3).T, np.intp)


def screen_triangles(
    vertices: np.ndarray,
    corners: np.ndarray,
    K: np.ndarray,
    world_to_camera: np.ndarray,
    width: int,
    height: int,
    near: float = NEAR,
) -> ScreenTriangles:
    """Project a mesh: V x 3 world and :func:`corner_rows` of its triangles."""
    K, w2c = np.asarray(K, np.float64), np.asarray(world_to_camera, np.float64)
    image = np.empty((3, len(vertices)))  # u z, v z and z
    for start in range(0, len(vertices), VERTICES):
        piece = np.asarray(vertices[start : start + VERTICES], np.float64)
        np.matmul(K @ w2c[:3, :3], piece.T, out=image[:, start : start + VERTICES])
    image += (K @ w2c[:3, 3])[:, None]
    z = image[2]
    behind = z < near
    source = None
    if behind.any():
        inverse = 1.0 / np.where(behind, 1.0, z)
        x, y = image[0] * inverse, image[1] * inverse
        hidden = np.take(behind, corners)
        whole = np.flatnonzero(~hidden.any(0))
        crossing = np.flatnonzero(hidden.any(0) & ~hidden.all(0))
        pieces, origin = _clip_near(to_camera(vertices[corners[:, crossing].T], w2c), crossing, near)
        depth = pieces[..., 2].ravel()
        added = pieces.reshape(-1, 3) @ K.T
        x, y = np.concatenate([x, added[:, 0] / depth]), np.concatenate([y, added[:, 1] / depth])
        added_corners = len(z) + np.arange(len(depth)).reshape(-1, 3).T
        inverse = np.concatenate([inverse, 1.0 / depth])
        corners = np.concatenate([corners[:, whole], added_corners], axis=1)
        source = np.concatenate([whole, origin])
    else:
        inverse = 1.0 / z
        x, y = image[0] * inverse, image[1] * inverse
    return ScreenTriangles(x, y, inverse, corners, source, width, height)


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


def expand(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For counts (2, 0, 3): owners (0, 0, 2, 2, 2) and the place within each owner (0, 1, 0, 1, 2)."""
    owner = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    return owner, np.arange(len(owner)) - first[owner]


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
