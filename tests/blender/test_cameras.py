# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender's cameras arrive exactly: against Blender's own projection."""

from __future__ import annotations

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs the bpy wheel (pip install 'hvg3d[blender]')")

from bpy_extras.object_utils import world_to_camera_view  # noqa: E402
from mathutils import Vector  # noqa: E402

from blender_addon.core import ClipError  # noqa: E402
from blender_addon.scene.cameras import extrinsics, intrinsics  # noqa: E402

from .scenes import empty_scene, look_at  # noqa: E402


@pytest.fixture
def camera():
    scene = empty_scene()
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    scene.collection.objects.link(camera)
    camera.matrix_world = look_at((1.0, -4.0, 2.0), (0.1, 0.2, 0.3))
    return camera


@pytest.mark.parametrize("fit", ["AUTO", "HORIZONTAL", "VERTICAL"])
@pytest.mark.parametrize(
    ("size", "pixel"), [((720, 480), (1, 1)), ((300, 512), (1, 1)), ((100, 90), (1, 1.4)), ((80, 99), (2, 1))]
)
def test_points_land_where_blender_projects_them(camera, fit, size, pixel):
    """Sensor fit, shift, pixel aspect and a scaled camera object: equal to world_to_camera_view within 0.01 pixel."""
    scene = bpy.context.scene
    render = scene.render
    (render.resolution_x, render.resolution_y), (render.pixel_aspect_x, render.pixel_aspect_y) = size, pixel
    lens = camera.data
    lens.sensor_fit, lens.lens, lens.sensor_width, lens.sensor_height = fit, 41.0, 30.0, 21.0
    lens.shift_x, lens.shift_y = 0.13, -0.21
    camera.scale = (1.0, 2.0, 0.5)
    bpy.context.view_layer.update()
    K, to_camera = intrinsics(lens, *size, *pixel), extrinsics(camera.matrix_world)
    for point in np.random.default_rng(0).normal(size=(20, 3)):
        seen = to_camera[:3, :3] @ point + to_camera[:3, 3]
        uv = (K @ seen)[:2] / seen[2]
        expected = world_to_camera_view(scene, camera, Vector(point))
        np.testing.assert_allclose(uv, (expected.x * size[0], (1 - expected.y) * size[1]), atol=0.01)
        assert seen[2] == pytest.approx(expected.z, abs=1e-5)


def test_scene_units_become_metres(camera):
    """With 1 unit = 1 cm the camera stands 100 times nearer, in metres."""
    in_units, in_metres = extrinsics(camera.matrix_world), extrinsics(camera.matrix_world, 0.01)
    np.testing.assert_allclose(in_metres[:3, 3], in_units[:3, 3] * 0.01)
    np.testing.assert_array_equal(in_metres[:3, :3], in_units[:3, :3])


@pytest.mark.parametrize("kind", ["ORTHO", "PANO"])
def test_other_cameras_are_refused(camera, kind):
    camera.data.type = kind
    with pytest.raises(ClipError, match=rf"'Camera'.*{kind}.*Perspective"):
        intrinsics(camera.data, 96, 64)
