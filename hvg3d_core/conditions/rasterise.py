# SPDX-License-Identifier: Apache-2.0
"""Which entity is nearest at every pixel centre."""

from __future__ import annotations

import numpy as np

from .cameras import NEAR
from .screen import ScreenTriangles, chunks, expand, screen_triangles

_PIXELS = 1 << 20


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
    screen = screen_triangles(vertices, triangles, K, world_to_camera, width, height, near)
    return ids_on_screen(screen, ids, width, height)


def ids_on_screen(screen: ScreenTriangles, ids: np.ndarray, width: int, height: int) -> np.ndarray:
    """:func:`rasterise_ids` for triangles that are projected already."""
    nearest = np.zeros(height * width)  # 1/z
    winner = np.zeros(height * width, np.uint8)
    label = np.asarray(ids, np.uint8)[screen.source]

    # Edge k as a line a x + b y + c, positive inside: the barycentric coordinate that is zero on it.
    origin = screen.xy[:, 0]
    a = np.stack([screen.basis[:, 0, 0], screen.basis[:, 0, 1], -screen.basis[:, 0].sum(1)], 1)
    b = np.stack([screen.basis[:, 1, 0], screen.basis[:, 1, 1], -screen.basis[:, 1].sum(1)], 1)
    c = -(a * origin[:, :1] + b * origin[:, 1:])
    c[:, 2] += 1.0
    a[np.abs(a) < 1e-12 * np.abs(b)] = 0.0  # level
    slanted = np.where(a == 0, np.inf, a)
    across, along = -b / slanted, -c / slanted  # the edge crosses row y at x = across * y + along
    depth_at_origin = screen.inv_z[:, 0] - (screen.slope * origin).sum(1)

    top = np.maximum(np.ceil(screen.low[:, 1] - 0.5), 0).astype(np.int64)
    bottom = np.minimum(np.floor(screen.high[:, 1] - 0.5), height - 1).astype(np.int64)
    rows = np.maximum(bottom - top + 1, 0)
    # Within the triangle's rows a level edge bounds nothing.
    starts = np.where(a > 0, 0.0, -np.inf)
    ends = np.where(a < 0, 0.0, np.inf)

    for part in chunks(rows, _PIXELS):
        owner, place = expand(rows[part])
        owner += part.start
        row = top[owner] + place
        crossing = across[owner] * (row + 0.5)[:, None] + along[owner]
        left = (crossing + starts[owner]).max(1)
        right = (crossing + ends[owner]).min(1)
        first = np.ceil(np.maximum(np.maximum(left, screen.low[owner, 0]) - 0.5, 0.0)).astype(np.int64)
        last = np.floor(np.minimum(np.minimum(right, screen.high[owner, 0]) - 0.5, width - 1.0)).astype(np.int64)
        length = np.maximum(last - first + 1, 0)
        row_depth = depth_at_origin[owner] + screen.slope[owner, 1] * (row + 0.5)
        for run in chunks(length, _PIXELS):
            line, step = expand(length[run])
            line += run.start
            x = first[line] + step
            pixel = row[line] * width + x
            inverse = row_depth[line] + screen.slope[owner[line], 0] * (x + 0.5)
            np.maximum.at(nearest, pixel, inverse)
            best = inverse == nearest[pixel]
            winner[pixel[best]] = label[owner[line[best]]]
    return winner.reshape(height, width)
