# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls to Blender's GPU module. Only for windows: in background there is no GPU."""

from __future__ import annotations

import blf
import bpy
import gpu
import numpy as np
from gpu_extras.batch import batch_for_shader


def points_batch(positions: np.ndarray, colors: np.ndarray) -> gpu.types.GPUBatch:
    """N x 3 and N x 4 float32."""
    shader = gpu.shader.from_builtin("POINT_FLAT_COLOR")
    return batch_for_shader(shader, "POINTS", {"pos": np.ascontiguousarray(positions), "color": colors})


def lines_batch(positions: np.ndarray, colors: np.ndarray) -> gpu.types.GPUBatch:
    shader = gpu.shader.from_builtin("FLAT_COLOR")
    return batch_for_shader(shader, "LINES", {"pos": positions, "color": colors})


def draw_points(batch: gpu.types.GPUBatch, size: int, *, in_front: bool) -> None:
    gpu.state.blend_set("ALPHA")
    gpu.state.depth_test_set("NONE" if in_front else "LESS_EQUAL")
    gpu.state.point_size_set(size * bpy.context.preferences.system.ui_scale)
    batch.draw(gpu.shader.from_builtin("POINT_FLAT_COLOR"))
    gpu.state.point_size_set(1.0)
    gpu.state.depth_test_set("NONE")
    gpu.state.blend_set("NONE")


def draw_lines(batch: gpu.types.GPUBatch, *, in_front: bool) -> None:
    gpu.state.blend_set("ALPHA")
    gpu.state.depth_test_set("NONE" if in_front else "LESS_EQUAL")
    batch.draw(gpu.shader.from_builtin("FLAT_COLOR"))
    gpu.state.depth_test_set("NONE")
    gpu.state.blend_set("NONE")


def draw_label(text: str, area: bpy.types.Area, region: bpy.types.Region) -> None:
    """A line of text in the lower left corner, clear of the toolbar and of what overlaps the region."""
    scale = bpy.context.preferences.system.ui_scale
    left = max((r.width for r in area.regions if r.type == "TOOLS" and r.alignment == "LEFT"), default=0)
    x, y = left + 14 * scale, 16 * scale
    blf.size(0, 13 * scale)
    width, height = blf.dimensions(0, text)
    pad = 5 * scale
    _rectangles([(x - pad, y - pad, x + width + pad, y + height + pad)], [(0.05, 0.05, 0.05, 0.65)])
    blf.color(0, 1.0, 1.0, 1.0, 1.0)
    blf.position(0, x, y, 0)
    blf.draw(0, text)


def draw_graph(
    region: bpy.types.Region, frames: np.ndarray, heights: np.ndarray, colors: np.ndarray, touching: np.ndarray
) -> None:
    """Bars over a timeline's frames: up how far the hand is away, down how deep it is inside; dots count fingers."""
    scale = bpy.context.preferences.system.ui_scale
    tall = min(22 * scale, 0.28 * region.height)
    base = 0.42 * tall + 3 * scale
    left = np.array([region.view2d.view_to_region(frame - 0.42, 0, clip=False)[0] for frame in frames], float)
    right = np.array([region.view2d.view_to_region(frame + 0.42, 0, clip=False)[0] for frame in frames], float)
    right = np.maximum(right, left + 1)
    shown = np.flatnonzero((right > 0) & (left < region.width) & np.isfinite(heights))
    if len(shown) == 0:
        return
    rectangles = [(left[shown[0]], base - 0.42 * tall, right[shown[-1]], base + tall)]
    fills = [(0.05, 0.05, 0.05, 0.35)]
    for row in shown:
        end = base + heights[row] * (tall if heights[row] > 0 else 0.42 * tall)
        rectangles.append((left[row], min(base, end), right[row], max(base, end)))
        fills.append(tuple(colors[row]))
        for finger in range(touching[row]):
            y = base + (0.18 + 0.17 * finger) * tall
            rectangles.append((left[row], y, right[row], y + max(1.0, 0.09 * tall)))
            fills.append((1.0, 0.9, 0.2, 0.9))
    rectangles.append((left[shown[0]], base - 0.5, right[shown[-1]], base + 0.5))
    fills.append((1.0, 1.0, 1.0, 0.5))
    _rectangles(rectangles, fills)


def _rectangles(boxes: list[tuple[float, float, float, float]], colors: list[tuple[float, ...]]) -> None:
    """(x0, y0, x1, y1) in pixels of the region, each with its colour."""
    box = np.array(boxes, np.float32)
    corners = box[:, [[0, 1], [2, 1], [2, 3], [0, 1], [2, 3], [0, 3]]].reshape(-1, 2)
    positions = np.concatenate([corners, np.zeros((len(corners), 1), np.float32)], axis=1)
    shader = gpu.shader.from_builtin("FLAT_COLOR")
    fill = np.repeat(np.array(colors, np.float32), 6, axis=0)
    gpu.state.blend_set("ALPHA")
    batch_for_shader(shader, "TRIS", {"pos": positions, "color": fill}).draw(shader)
    gpu.state.blend_set("NONE")
