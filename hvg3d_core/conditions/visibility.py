# SPDX-License-Identifier: Apache-2.0
"""Which points a camera sees past all the triangles of a scene: exact, not through a depth buffer."""

from __future__ import annotations

import numpy as np

from .cameras import NEAR, in_view, project
from .screen import ScreenTriangles, chunks, corner_rows, expand, screen_triangles

RELATIVE_EPS = 5e-4  # of the depth: half a millimetre at a metre, so that a point's own triangle does not hide it
_PAIRS = 1 << 15  # at once, so that they stay in the cache
_CELLS = 12  # that a triangle is looked up in at most
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
    visible[candidates[_hidden(screen, uv[candidates], limit)]] = False
    return visible


class _Pyramid:
    """Points in grids of cells, each level's twice as wide as those below; level 0 has the cells of :class:`Boxes`.

    All levels lie one after the other in flat arrays, from ``base``, with ``columns`` to a row; each grid has an empty
    column and an empty row to spare. ``origin`` is the cell of level 0 that counts as (0, 0).
    """

    def __init__(self, uv: np.ndarray, limit: np.ndarray):
        column, row = np.floor(uv - 0.5).astype(np.int32).T
        self.origin = int(column.min()), int(row.min())
        column, row = column - self.origin[0], row - self.origin[1]
        self.last = int(column.max()), int(row.max())
        levels = np.arange(max(*self.last, 1).bit_length() + 1)
        self.columns, rows = (self.last[0] >> levels) + 2, (self.last[1] >> levels) + 2
        ends = np.cumsum(self.columns * rows)
        self.base = ends - self.columns * rows
        key = (self.base + (row[:, None] >> levels) * self.columns + (column[:, None] >> levels)).ravel()
        order = np.argsort(key)
        self.points = order // len(levels)  # of the first bucket, of the second ...
        self.held = np.bincount(key, minlength=ends[-1])
        self.first = np.cumsum(self.held) - self.held
        # The smallest limit in each cell, and in each square of four cells by its upper left one.
        self.lowest = np.full(ends[-1], np.inf)
        np.minimum.at(self.lowest, key, np.repeat(limit, len(levels)))
        self.lowest_of_four = self.lowest.copy()
        for start, stop, wide in zip(self.base, ends, self.columns, strict=True):
            four, one = self.lowest_of_four[start:stop].reshape(-1, wide), self.lowest[start:stop].reshape(-1, wide)
            np.minimum(four[:, :-1], one[:, 1:], out=four[:, :-1])
            np.minimum(four[:-1], four[1:], out=four[:-1])
        # How many points lie above and to the left of each cell of level 0, without its own row and column.
        wide = int(self.columns[0])
        self.table = np.zeros((int(rows[0]) + 1, wide + 1), np.int32)
        counts = self.held[: ends[0]].reshape(-1, wide)
        np.cumsum(np.cumsum(counts, axis=0, dtype=np.int32), axis=1, out=self.table[1:, 1:])
        # A box that reaches over ``span`` borders of cells touches at most 2 x 2 cells of level_of[span].
        self.level_of = np.array([max(span - 1, 0).bit_length() for span in range(max(self.last) + 1)], np.int32)

    def holds(self, x0: np.ndarray, x1: np.ndarray, y0: np.ndarray, y1: np.ndarray) -> np.ndarray:
        """Whether any point lies in the cells x0 to x1 and y0 to y1 of level 0."""
        table, wide = self.table.ravel(), self.table.shape[1]
        above, below = y0 * wide, (y1 + 1) * wide
        return table[below + x1 + 1] - table[above + x1 + 1] - table[below + x0] + table[above + x0] > 0

    def cells_of(
        self, x0: np.ndarray, x1: np.ndarray, y0: np.ndarray, y1: np.ndarray, level: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cells that cover each box, as (box, cell) pairs, from its ``level`` of 2 x 2 cells or from one below.

        Lower cells fit closer and hold fewer points in vain; a few are looked up sooner than those points are tried.
        """
        at = np.maximum(level - 2, 0)
        many = ((x1 >> at) - (x0 >> at) + 1) * ((y1 >> at) - (y0 >> at) + 1) > _CELLS
        at = np.where(many, np.maximum(level - 1, 0), at)
        x0, y0 = x0 >> at, y0 >> at
        wide = (x1 >> at) - x0 + 1
        box, place = expand(wide * ((y1 >> at) - y0 + 1))
        across = wide[box]
        down = place // across
        columns = self.columns[at]
        return box, (self.base[at] + y0 * columns + x0)[box] + down * columns[box] + (place - down * across)


def _hidden(screen: ScreenTriangles, uv: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """C bool: some triangle covers uv (C x 2 pixels) with 1/z above the point's ``limit``.

    Triangles and points meet in a pyramid: a triangle enters it where its bounding box touches 2 x 2 cells at most, a
    point once at every level. Any mix of sizes then costs little, and most triangles of a dense mesh are dropped by a
    single look-up: no point is near that they could hide.
    """
    hidden = np.zeros(len(uv), bool)
    grid, boxes = _Pyramid(uv, limit), screen.boxes
    (left, top), (right, bottom) = grid.origin, grid.last
    x0, x1 = np.maximum(boxes.low_x - left, 0), np.minimum(boxes.last_x - left, right)
    y0, y1 = np.maximum(boxes.low_y - top, 0), np.minimum(boxes.last_y - top, bottom)
    index = np.flatnonzero((x0 <= x1) & (y0 <= y1))
    x0, x1, y0, y1 = x0[index], x1[index], y0[index], y1[index]
    level = grid.level_of[np.maximum(x1 - x0, y1 - y0)]
    bucket = grid.base[level] + (y0 >> level) * grid.columns[level] + (x0 >> level)
    lowest = grid.lowest_of_four[bucket]
    some = np.flatnonzero(lowest < np.inf)
    # Four cells are much larger than the box of a long or a leaning triangle.
    some = some[grid.holds(x0[some], x1[some], y0[some], y1[some])]
    nearest = np.take(screen.inv_z, screen.corners[:, index[some]]).max(0)
    some = some[nearest > lowest[some]]
    patches, kept = screen.patches(index[some])
    some = some[kept]
    nearest = patches.inv_z.max(0)
    owner, cell = grid.cells_of(x0[some], x1[some], y0[some], y1[some], level[some])
    meets = np.flatnonzero(nearest[owner] > grid.lowest[cell])
    owner, cell = owner[meets], cell[meets]
    held = grid.held[cell]
    for part in chunks(held, _PAIRS):
        pair, place = expand(held[part])
        point = grid.points[grid.first[cell[part]][pair] + place]
        triangle = owner[part][pair]
        maybe = (nearest[triangle] > limit[point]) & ~hidden[point]
        point, triangle = point[maybe], triangle[maybe]
        dx, dy = uv[point, 0] - patches.x[0, triangle], uv[point, 1] - patches.y[0, triangle]
        second = dx * patches.second_x[triangle] + dy * patches.second_y[triangle]
        third = dx * patches.third_x[triangle] + dy * patches.third_y[triangle]
        inside = (second >= -_EDGE) & (third >= -_EDGE) & (second + third <= 1.0 + _EDGE)
        point, triangle = point[inside], triangle[inside]
        inverse = patches.inverse_depth(triangle, second[inside], third[inside])
        hidden[point[inverse > limit[point]]] = True
    return hidden
