# SPDX-License-Identifier: Apache-2.0
"""Which entity is nearest at every pixel centre."""

from __future__ import annotations

import numpy as np

from .cameras import NEAR
from .screen import Boxes, Patches, ScreenTriangles, chunks, corner_rows, expand, screen_triangles

_TRIANGLES = 1 << 14  # at once, so that what is known of them stays in the cache
_PIXELS = 1 << 15  # at once, likewise
_SMALL = 32  # pixels of a bounding box that are all tried
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
        size = (x1 - x0 + 1).astype(np.int64) * (y1 - y0 + 1)
        small = size <= _SMALL
        self._try_all(patches, np.flatnonzero(small), box, ids)
        if small.all():
            return
        larger = np.flatnonzero(~small)
        # Long thin triangles fill little of their box, so that going row by row pays.
        area = 0.5 / np.abs(
            patches.second_x[larger] * patches.third_y[larger] - patches.second_y[larger] * patches.third_x[larger]
        )
        blocky = (size[larger] >= _LARGE) & (area > 0.2 * size[larger])
        self._row_by_row(patches, larger[~blocky], box, ids)
        for one in larger[blocky].tolist():
            self._block(patches, one, tuple(int(side[one]) for side in box), int(ids[one]))

    def _try_all(self, patches: Patches, chosen: np.ndarray, box: tuple[np.ndarray, ...], ids: np.ndarray) -> None:
        """Every pixel of the boxes, most of which hold one to four."""
        x0, x1, y0, y1 = (side[chosen] for side in box)
        wide = x1 - x0 + 1
        count = wide * (y1 - y0 + 1)
        for part in chunks(count, _PIXELS):
            owner, place = expand(count[part])
            owner += part.start
            place = place.astype(np.int32)
            across = wide[owner]
            down = place // across
            column, row = x0[owner] + (place - down * across), y0[owner] + down
            triangle = chosen[owner]
            dx, dy = column + 0.5 - patches.x[0, triangle], row + 0.5 - patches.y[0, triangle]
            second = dx * patches.second_x[triangle] + dy * patches.second_y[triangle]
            third = dx * patches.third_x[triangle] + dy * patches.third_y[triangle]
            inside = np.flatnonzero((second >= -_EDGE) & (third >= -_EDGE) & (second + third <= 1.0 + _EDGE))
            triangle = triangle[inside]
            pixel = row[inside].astype(np.intp) * self.width + column[inside]
            self._put(pixel, patches.inverse_depth(triangle, second[inside], third[inside]), ids[triangle])

    def _row_by_row(self, patches: Patches, chosen: np.ndarray, box: tuple[np.ndarray, ...], ids: np.ndarray) -> None:
        """Every row of each box, from the edge on its left to the edge on its right."""
        x0, x1, y0, y1 = (side[chosen] for side in box)
        rows = y1 - y0 + 1
        for part in chunks(rows, _PIXELS):
            owner, place = expand(rows[part])
            owner += part.start
            row, triangle = y0[owner] + place, chosen[owner]
            dy = row + 0.5 - patches.y[0, triangle]
            origin = patches.x[0, triangle] - 0.5
            # Each barycentric coordinate is slope * dx + offset and positive inside.
            second, second_at = patches.second_x[triangle], patches.second_y[triangle] * dy
            third, third_at = patches.third_x[triangle], patches.third_y[triangle] * dy
            left, right = np.full(len(row), -np.inf), np.full(len(row), np.inf)
            for slope, offset in (
                (-second - third, 1.0 - second_at - third_at),
                (second, second_at),
                (third, third_at),
            ):
                # Within the triangle's rows a level edge bounds nothing.
                crossing = -offset / np.where(slope == 0, 1.0, slope)
                np.maximum(left, crossing, out=left, where=slope > 0)
                np.minimum(right, crossing, out=right, where=slope < 0)
            begin = np.maximum(np.ceil(left + origin - _EDGE), x0[owner]).astype(np.int64)
            end = np.minimum(np.floor(right + origin + _EDGE), x1[owner]).astype(np.int64)
            length = np.maximum(end - begin + 1, 0)
            dx = begin - origin
            w0, w1, w2 = (w[triangle] for w in patches.inv_z)
            change = second * (w1 - w0) + third * (w2 - w0)  # of 1/z from one column to the next
            at_begin = w0 + second_at * (w1 - w0) + third_at * (w2 - w0) + change * dx
            pixel_at_begin = row * self.width + begin
            id_of = ids[triangle]
            for run in chunks(length, _PIXELS):
                line, step = expand(length[run])
                line += run.start
                self._put(pixel_at_begin[line] + step, at_begin[line] + change[line] * step, id_of[line])

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
