# SPDX-License-Identifier: Apache-2.0
"""Which entity is nearest at every pixel centre."""

from __future__ import annotations

import numpy as np

from .cameras import NEAR
from .screen import Boxes, Patches, ScreenTriangles, chunks, corner_rows, expand, screen_triangles

_TRIANGLES = 1 << 14  # at once, so that what is known of them stays in the cache
_PIXELS = 1 << 15  # at once, likewise
_LARGE = 4096  # pixels of a bounding box that is worth a call of its own
_EDGE = 1e-9  # barycentric slack: a pixel centre on a shared edge must not fall between both triangles by rounding


def rasterise_ids(
    vertices: np.ndarray,
    triangles: np.ndarray,
    ids: np.ndarray,
    K: np.ndarray,
    world_to_camera: np.ndarray,
    width: int,
    height: int,
    *,
    near: float = NEAR,
) -> np.ndarray:
    """H x W uint8: ``ids[f]`` (F uint8) of the nearest triangle at each pixel's centre, 0 where there is none.

    A triangle with id 0 hides what is behind it and shows as background.
    """
    screen = screen_triangles(vertices, corner_rows(triangles), K, world_to_camera, width, height, near)
    return ids_on_screen(screen, ids)


def ids_on_screen(screen: ScreenTriangles, ids: np.ndarray) -> np.ndarray:
    """:func:`rasterise_ids` for triangles that are projected already."""
    label = np.asarray(ids, np.uint8)
    if screen.source is not None:
        label = label[screen.source]
    canvas = _Canvas(screen.width, screen.height)
    boxes = screen.boxes
    covers = (boxes.first_x <= boxes.last_x) & (boxes.first_y <= boxes.last_y)
    canvas.draw(screen, np.flatnonzero(covers & (label > 0)), label)
    # What hides can only matter where something is drawn, and only if it comes nearer than the farthest of that.
    drawn = np.flatnonzero(canvas.ids)
    if len(drawn) and not label.all():
        canvas.keep_within(drawn)
        canvas.draw(screen, np.flatnonzero(covers & (label == 0) & canvas.touches(boxes)), label)
    return canvas.ids.reshape(screen.height, screen.width)


class _Canvas:
    """A picture of ids with 1/z behind it, and the window that is drawn in: first and last row and column."""

    def __init__(self, width: int, height: int):
        self.width = width
        self.nearest = np.zeros(height * width)  # 1/z
        self.ids = np.zeros(height * width, np.uint8)
        self.window = (0, width - 1, 0, height - 1)
        self.farthest = 0.0  # 1/z below which nothing changes the picture

    def keep_within(self, pixels: np.ndarray) -> None:
        rows, columns = pixels // self.width, pixels % self.width
        self.window = (int(columns.min()), int(columns.max()), int(rows[0]), int(rows[-1]))
        self.farthest = float(self.nearest[pixels].min())

    def touches(self, boxes: Boxes) -> np.ndarray:
        left, right, top, bottom = self.window
        return (boxes.first_x <= right) & (boxes.last_x >= left) & (boxes.first_y <= bottom) & (boxes.last_y >= top)

    def draw(self, screen: ScreenTriangles, index: np.ndarray, label: np.ndarray) -> None:
        """Draw the triangles ``index``; where two are equally near, one that is drawn later shows."""
        if self.farthest:
            index = index[np.take(screen.inv_z, screen.corners[:, index]).max(0) >= self.farthest]
        left, right, top, bottom = self.window
        boxes = screen.boxes
        for start in range(0, len(index), _TRIANGLES):
            patches, _ = screen.patches(index[start : start + _TRIANGLES])
            x0, x1 = np.maximum(boxes.first_x[patches.index], left), np.minimum(boxes.last_x[patches.index], right)
            y0, y1 = np.maximum(boxes.first_y[patches.index], top), np.minimum(boxes.last_y[patches.index], bottom)
            self._draw(patches, (x0, x1, y0, y1), label[patches.index])

    def _draw(self, patches: Patches, box: tuple[np.ndarray, ...], ids: np.ndarray) -> None:
        x0, x1, y0, y1 = box
        wide, tall = x1 - x0 + 1, y1 - y0 + 1
        larger = (wide > 2) | (tall > 2)
        self._try_all(patches, np.flatnonzero(~larger), (x0, y0, wide, tall), ids)
        large = larger & (wide.astype(np.int64) * tall >= _LARGE)
        if large.any():
            # Long thin triangles fill little of their box: for them lines are better.
            area = 0.5 / np.abs(patches.second_x * patches.third_y - patches.second_y * patches.third_x)
            large &= area > 0.2 * wide * tall
            for one in np.flatnonzero(large).tolist():
                self._block(patches, one, tuple(int(side[one]) for side in box), int(ids[one]))
            larger &= ~large
        self._line_by_line(patches, np.flatnonzero(larger & (wide >= tall)), box, ids)
        self._line_by_line(patches, np.flatnonzero(larger & (wide < tall)), box, ids, columns=True)

    def _try_all(self, patches: Patches, chosen: np.ndarray, box: tuple[np.ndarray, ...], ids: np.ndarray) -> None:
        """Every pixel of boxes of at most 2 x 2, as most are in a dense mesh; ``box``: corner and size."""
        x0, y0, wide, tall = (side[chosen] for side in box)
        dx, dy = x0 + 0.5 - patches.x[0, chosen], y0 + 0.5 - patches.y[0, chosen]
        second_x, second_y = patches.second_x[chosen], patches.second_y[chosen]
        third_x, third_y = patches.third_x[chosen], patches.third_y[chosen]
        second = dx * second_x + dy * second_y
        third = dx * third_x + dy * third_y
        pixel = y0.astype(np.intp) * self.width + x0
        for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
            at_second, at_third = second + x * second_x + y * second_y, third + x * third_x + y * third_y
            inside = (at_second >= -_EDGE) & (at_third >= -_EDGE) & (at_second + at_third <= 1.0 + _EDGE)
            hit = np.flatnonzero(inside & (wide > x) & (tall > y))
            triangle = chosen[hit]
            inverse = patches.inverse_depth(triangle, at_second[hit], at_third[hit])
            self._put(pixel[hit] + (y * self.width + x), inverse, ids[triangle])

    def _line_by_line(
        self,
        patches: Patches,
        chosen: np.ndarray,
        box: tuple[np.ndarray, ...],
        ids: np.ndarray,
        columns: bool = False,
    ) -> None:
        """Every row of each box, from the edge on its left to the edge on its right; or every column, downwards."""
        x0, x1, y0, y1 = (side[chosen] for side in box)
        x, y, second_x, second_y = patches.x[0], patches.y[0], patches.second_x, patches.second_y
        third_x, third_y = patches.third_x, patches.third_y
        step_x, step_y = 1, self.width
        if columns:
            x0, x1, y0, y1, x, y, step_x, step_y = y0, y1, x0, x1, y, x, step_y, step_x
            second_x, second_y, third_x, third_y = second_y, second_x, third_y, third_x
        lines = y1 - y0 + 1
        for part in chunks(lines, _PIXELS):
            owner, place = expand(lines[part])
            owner += part.start
            row, triangle = y0[owner] + place, chosen[owner]
            dy = row + 0.5 - y[triangle]
            origin = x[triangle] - 0.5
            # Each barycentric coordinate is slope * dx + offset and positive inside.
            second, second_at = second_x[triangle], second_y[triangle] * dy
            third, third_at = third_x[triangle], third_y[triangle] * dy
            left, right = np.full(len(row), -np.inf), np.full(len(row), np.inf)
            edges = ((-second - third, 1.0 - second_at - third_at), (second, second_at), (third, third_at))
            for slope, offset in edges:
                # Within the triangle's rows a level edge bounds nothing.
                crossing = -offset / np.where(slope == 0, 1.0, slope)
                np.maximum(left, crossing, out=left, where=slope > 0)
                np.minimum(right, crossing, out=right, where=slope < 0)
            begin = np.maximum(np.ceil(left + origin - _EDGE), x0[owner]).astype(np.int64)
            end = np.minimum(np.floor(right + origin + _EDGE), x1[owner]).astype(np.int64)
            length = np.maximum(end - begin + 1, 0)
            w0, w1, w2 = (w[triangle] for w in patches.inv_z)
            change = second * (w1 - w0) + third * (w2 - w0)  # of 1/z from one pixel of the line to the next
            at_begin = w0 + second_at * (w1 - w0) + third_at * (w2 - w0) + change * (begin - origin)
            pixel_at_begin = row * step_y + begin * step_x
            id_of = ids[triangle]
            for run in chunks(length, _PIXELS):
                line, step = expand(length[run])
                line += run.start
                self._put(pixel_at_begin[line] + step * step_x, at_begin[line] + change[line] * step, id_of[line])

    def _block(self, patches: Patches, one: int, box: tuple[int, ...], label: int) -> None:
        """One triangle over its whole box."""
        x0, x1, y0, y1 = box
        dx = np.arange(x0, x1 + 1) + 0.5 - patches.x[0, one]
        dy = (np.arange(y0, y1 + 1) + 0.5 - patches.y[0, one])[:, None]
        second = dx * patches.second_x[one] + dy * patches.second_y[one]
        third = dx * patches.third_x[one] + dy * patches.third_y[one]
        inside = (second >= -_EDGE) & (third >= -_EDGE) & (second + third <= 1.0 + _EDGE)
        w0, w1, w2 = patches.inv_z[:, one]
        inverse = w0 + second * (w1 - w0) + third * (w2 - w0)
        window = np.s_[y0 : y1 + 1, x0 : x1 + 1]
        nearest = self.nearest.reshape(-1, self.width)[window]
        inside &= inverse >= nearest
        np.copyto(nearest, inverse, where=inside)
        self.ids.reshape(-1, self.width)[window][inside] = label

    def _put(self, pixel: np.ndarray, inverse: np.ndarray, ids: np.ndarray) -> None:
        np.maximum.at(self.nearest, pixel, inverse)
        best = np.flatnonzero(inverse == self.nearest[pixel])
        self.ids[pixel[best]] = ids[best]
