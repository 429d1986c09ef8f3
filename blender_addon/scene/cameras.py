# SPDX-License-Identifier: GPL-3.0-or-later
"""A Blender camera as intrinsics and extrinsics in OpenCV's axes.

Blender's camera looks along its own -z with y up; OpenCV's along +z with y down. Pixel (0, 0) is the corner of the
top-left pixel, as in :mod:`hvg3d_core.conditions.clip`, hence no half-pixel shift anywhere: Blender's image plane spans
exactly 0..width and 0..height.
"""

from __future__ import annotations

import numpy as np

from ..core import ClipError
from .meshes import matrix_array


def intrinsics(camera, width: int, height: int, aspect_x: float = 1.0, aspect_y: float = 1.0) -> np.ndarray:
    """K (3 x 3, float64, pixels) of the evaluated ``bpy.types.Camera`` for a picture of ``width`` x ``height``.

    Blender fits its sensor to one side of the picture ("sensor fit"; AUTO means the longer side, counted in
    pixels times their aspect) and gives the shift as a fraction of that side.
    """
    if camera.type != "PERSP":
        raise ClipError(
            f"camera {camera.name!r}: its type is {camera.type}, and only perspective cameras can be exported; "
            "set Object Data > Lens > Type to Perspective"
        )
    stretch = aspect_y / aspect_x  # height of a pixel, its width being 1
    fit = camera.sensor_fit
    sensor = camera.sensor_height if fit == "VERTICAL" else camera.sensor_width
    if fit == "AUTO":
        fit = "HORIZONTAL" if width >= stretch * height else "VERTICAL"
    side = width if fit == "HORIZONTAL" else stretch * height
    focal = camera.lens / sensor * side
    return np.array(
        [
            [focal, 0.0, width / 2 - camera.shift_x * side],
            [0.0, focal / stretch, height / 2 + camera.shift_y * side / stretch],
            [0.0, 0.0, 1.0],
        ]
    )


def extrinsics(matrix_world, unit_scale: float = 1.0) -> np.ndarray:
    """World (metres) to camera (metres), 4 x 4 float64. A scaled camera object sees as if it were not scaled."""
    to_camera = matrix_array(matrix_world.normalized().inverted())
    to_camera[1:3] *= -1.0  # Blender's y and z point the other way
    if unit_scale != 1.0:
        to_camera[:3, 3] *= unit_scale
    return to_camera
