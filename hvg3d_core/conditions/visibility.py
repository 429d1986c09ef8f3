# SPDX-License-Identifier: Apache-2.0
"""Which points a camera sees past all the triangles of a scene: exact, not through a depth buffer."""

from __future__ import annotations

import numpy as np

from .cameras import NEAR, in_view, project
from .screen import ScreenTriangles, chunks, expand, screen_triangles

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
    screen = screen_triangles(vertices, triangles, K, world_to_camera, width, height, near)
    return visible_against(screen, points, K, world_to_camera, width, height, near=near, eps=eps)


def visible_against(
    screen: ScreenTriangles,
    points: np.ndarray,
    K: np.ndarray,
    world_to_camera: np.ndarray,
    width: int,
    height: int,
    *,
    near: float = NEAR,
    eps: float = RELATIVE_EPS,
) -> np.ndarray:
    """:func:`point_visibility` for triangles that are projected already."""
    uv, z = project(points, K, world_to_camera)
    visible = in_view(uv, z, width, height, near)
    candidates = np.flatnonzero(visible)
    if len(candidates) == 0 or len(screen) == 0:
        return visible
    # Float32 world coordinates far from the origin are rounded by more than eps allows for.
    rounding = 8 * np.finfo(np.float32).eps * float(np.abs(points).max(initial=0.0))
    depth = z[candidates]
    limit = 1.0 / np.maximum(depth * (1.0 - eps) - rounding, 1e-9)
    visible[candidates[_hidden(screen, uv[candidates], limit)]] = False
    return visible


def _hidden(screen: ScreenTriangles, uv: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """C bool: some triangle covers uv (C x 2 pixels) with 1/z above the point's ``limit``.

    Triangles and points meet in a pyramid of grids: a triangle is entered where cells are about as large as its
    bounding box (3 x 3 cells at most), a point once at every level. Any mix of sizes then costs little.
    """
    hidden = np.zeros(len(uv), bool)
    box_low, box_high = uv.min(0), uv.max(0)
    near_enough = screen.inv_z.max(1)
    touches = (screen.high >= box_low).all(1) & (screen.low <= box_high).all(1)
    use = np.flatnonzero(touches & (near_enough > limit.min()))
    if len(use) == 0:
        return hidden
    low = np.maximum(screen.low[use], box_low) - box_low
    high = np.minimum(screen.high[use], box_high) - box_low
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
        offset = uv[point] - screen.xy[triangle, 0]
        basis = screen.basis[triangle]
        second = offset[:, 0] * basis[:, 0, 0] + offset[:, 1] * basis[:, 1, 0]
        third = offset[:, 0] * basis[:, 0, 1] + offset[:, 1] * basis[:, 1, 1]
        inside = (second >= -_EDGE) & (third >= -_EDGE) & (second + third <= 1.0 + _EDGE)
        point, triangle, offset = point[inside], triangle[inside], offset[inside]
        inverse = screen.inv_z[triangle, 0] + (offset * screen.slope[triangle]).sum(1)
        hidden[point[inverse > limit[point]]] = True
    return hidden
