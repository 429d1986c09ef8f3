# SPDX-License-Identifier: Apache-2.0
"""Which points a camera sees past all the triangles of a scene: exact, not through a depth buffer."""

from __future__ import annotations

import numpy as np

from .cameras import NEAR, in_view, project
from .screen import Patches, ScreenTriangles, chunks, corner_rows, expand, screen_triangles

RELATIVE_EPS = 5e-4  # of the depth: half a millimetre at a metre, so that a point's own triangle does not hide it
_PAIRS = 1 << 20
_EDGE = 1e-7  # barycentric slack, so that no ray slips between two triangles that share an edge


def point_visibility(
    points: np.ndarray,
    vertices: np.ndarray,
    triangles: np.ndarray,
    K: np.ndarray,
    world_to_camera: np.ndarray,
    width: int,
    height: int,
    *,
    near: float = NEAR,
    eps: float = RELATIVE_EPS,
) -> np.ndarray:
    """N bool: in front of the camera, inside the image, and no triangle is nearer at the point's own position.

    ``points`` N x 3 and ``vertices`` V x 3 in world metres, ``triangles`` F x 3 of everything that can hide: the
    entities and whatever else stands in the scene.
    """
    screen = screen_triangles(vertices, corner_rows(triangles), K, world_to_camera, width, height, near)
    return visible_against(screen, points, K, world_to_camera, near=near, eps=eps)


def visible_against(
    screen: ScreenTriangles,
    points: np.ndarray,
    K: np.ndarray,
    world_to_camera: np.ndarray,
    *,
    near: float = NEAR,
    eps: float = RELATIVE_EPS,
) -> np.ndarray:
    """:func:`point_visibility` for triangles that are projected already."""
    uv, z = project(points, K, world_to_camera)
    visible = in_view(uv, z, screen.width, screen.height, near)
    candidates = np.flatnonzero(visible)
    if len(candidates) == 0 or len(screen) == 0:
        return visible
    # Float32 world coordinates far from the origin are rounded by more than eps allows for.
    rounding = 8 * np.finfo(np.float32).eps * float(np.abs(points).max(initial=0.0))
    depth = z[candidates]
    limit = 1.0 / np.maximum(depth * (1.0 - eps) - rounding, 1e-9)
    uv = uv[candidates]
    patches = screen.patches(_near_points(screen, uv))
    visible[candidates[_hidden(patches, uv, limit)]] = False
    return visible


def _near_points(screen: ScreenTriangles, uv: np.ndarray) -> np.ndarray:
    """Indices of the triangles with a point in the cells of their bounding box: a few per cent of a dense mesh.

    A summed-area table of the points per cell answers that with four look-ups a triangle.
    """
    boxes = screen.boxes
    column, row = np.floor(uv - 0.5).astype(np.intp).T + 1  # of the cell, counted from the first, which is -1
    wide, tall = screen.width + 1, screen.height + 1
    held = np.bincount(row * wide + column, minlength=wide * tall).reshape(tall, wide)
    table = np.zeros((tall + 1, wide + 1), np.int32)
    np.cumsum(held, axis=0, out=table[1:, 1:])
    np.cumsum(table[1:, 1:], axis=1, out=table[1:, 1:])
    table = table.ravel()
    above, below = (boxes.low_y + 1) * (wide + 1), (boxes.last_y + 2) * (wide + 1)
    left, right = boxes.low_x + 1, boxes.last_x + 2
    # First what lies above and left of the right edge, then left of the left one: unsigned sums would do as well.
    inside = table[below + right] - table[above + right] - table[below + left] + table[above + left]
    return np.flatnonzero(inside)


def _hidden(patches: Patches, uv: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """C bool: some triangle covers uv (C x 2 pixels) with 1/z above the point's ``limit``.

    Triangles and points meet in a pyramid of grids: a triangle is entered where cells are about as large as its
    bounding box (3 x 3 cells at most), a point once at every level. Any mix of sizes then costs little.
    """
    hidden = np.zeros(len(uv), bool)
    box_low, box_high = uv.min(0), uv.max(0)
    near_enough = patches.inv_z.max(0)
    low = np.stack([patches.x.min(0), patches.y.min(0)], 1)
    high = np.stack([patches.x.max(0), patches.y.max(0)], 1)
    touches = (high >= box_low).all(1) & (low <= box_high).all(1)
    use = np.flatnonzero(touches & (near_enough > limit.min()))
    if len(use) == 0:
        return hidden
    low = np.maximum(low[use], box_low) - box_low
    high = np.minimum(high[use], box_high) - box_low
    span = (high - low).max(1)
    level = np.maximum(np.frexp(span)[1] - 1, 0)  # cell <= span < 2 cell, cell at least a pixel

    levels = int(level.max()) + 1
    cell = 2.0 ** np.arange(levels)
    columns, rows = np.floor((box_high - box_low)[:, None] / cell).astype(np.int64) + 1
    base = np.concatenate([[0], np.cumsum(columns * rows)])
    at = np.floor((uv - box_low)[:, None] / cell[:, None]).astype(np.int64)  # C x L x 2
    key = (base[:-1] + at[..., 1] * columns + at[..., 0]).ravel()
    order = np.argsort(key, kind="stable")
    point_at = order // levels
    held = np.bincount(key, minlength=base[-1])
    first = np.cumsum(held) - held

    size = cell[level][:, None]
    cell_low = np.floor(low / size).astype(np.int64)
    cells = np.floor(high / size).astype(np.int64) - cell_low + 1
    owner, place = expand(cells.prod(1))
    across = cells[owner, 0]
    step_y, step_x = place // across, place % across
    level_of = level[owner]
    bucket = base[level_of] + (cell_low[owner, 1] + step_y) * columns[level_of] + cell_low[owner, 0] + step_x
    full = held[bucket] > 0
    owner, bucket = owner[full], bucket[full]

    for part in chunks(held[bucket], _PAIRS):
        pair, place = expand(held[bucket[part]])
        point = point_at[first[bucket[part]][pair] + place]
        triangle = use[owner[part]][pair]
        maybe = (near_enough[triangle] > limit[point]) & ~hidden[point]
        point, triangle = point[maybe], triangle[maybe]
        dx, dy = uv[point, 0] - patches.x[0, triangle], uv[point, 1] - patches.y[0, triangle]
        second = dx * patches.second_x[triangle] + dy * patches.second_y[triangle]
        third = dx * patches.third_x[triangle] + dy * patches.third_y[triangle]
        inside = (second >= -_EDGE) & (third >= -_EDGE) & (second + third <= 1.0 + _EDGE)
        point, triangle, second, third = point[inside], triangle[inside], second[inside], third[inside]
        w = patches.inv_z
        inverse = w[0, triangle]
        inverse = inverse + second * (w[1, triangle] - inverse) + third * (w[2, triangle] - inverse)
        hidden[point[inverse > limit[point]]] = True
    return hidden
