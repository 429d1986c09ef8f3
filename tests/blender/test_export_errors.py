# SPDX-License-Identifier: GPL-3.0-or-later
"""Every scene that cannot be exported is refused with what is wrong, where, and what to do."""

from __future__ import annotations

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs the bpy wheel (pip install 'hvg3d[blender]')")

from blender_addon.core import ClipError  # noqa: E402
from blender_addon.scene.export import EntityObjects, export_clip  # noqa: E402
from blender_addon.scene.reference import reference_from_image, reference_from_movie  # noqa: E402

from .scenes import BOX, HAND, grasp_scene, settings  # noqa: E402


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camera": ""}, r"camera: none is chosen.*add a camera"),
        ({"camera": "Gone"}, r"camera: 'Gone' is not in the scene.*choose one"),
        ({"camera": "Box"}, r"camera: object 'Box' is a mesh; choose a camera"),
        ({"entities": ()}, r"nothing is marked; select the hand"),
        (
            {"entities": (EntityObjects("mug", "object", ("Lost",)),)},
            r"'mug': object 'Lost' is not in scene.*Mark it again",
        ),
        (
            {"entities": (HAND, EntityObjects("again", "object", ("Hand",)))},
            r"'Hand' is marked twice.*'hand' and as 'again'",
        ),
        (
            {"entities": (EntityObjects("sun", "object", ("Light",)),)},
            r"'sun': Light shows no faces in frame 1.*hidden",
        ),
        ({"num_frames": 50}, r"50 .*49 or 57"),
        ({"frame_start": 9, "frame_end": 1}, r"ends at 1, before it starts at 9"),
        ({"width": 4}, r"4 x 64 is too small; use at least 16"),
        ({"reference": b"GIF89a"}, r"reference.*PNG"),
    ],
)
def test_settings_that_cannot_work(changes, message):
    with pytest.raises(ClipError, match=message):
        export_clip(grasp_scene(), settings(**changes))


def test_a_hidden_object_is_named():
    scene = grasp_scene()
    bpy.data.objects["Box"].hide_render = True
    with pytest.raises(ClipError, match=r"'box': Box shows no faces in frame 1.*make it visible"):
        export_clip(scene, settings())


def test_an_object_outside_the_view_in_every_frame_is_named():
    scene = grasp_scene()
    bpy.data.objects["Hand"].location.y -= 50.0  # behind the camera
    with pytest.raises(ClipError, match=r"'hand'.*'Camera'.*aim the camera"):
        export_clip(scene, settings())


def test_changing_topology_is_named_with_its_frame():
    scene = grasp_scene()
    build = bpy.data.objects["Hand"].modifiers.new("Build", "BUILD")
    build.frame_start, build.frame_duration = -20, 60
    with pytest.raises(ClipError, match=r"'Hand' at frame 2 has \d+ vertices.*topology"):
        export_clip(scene, settings())


def test_vertices_that_are_not_finite_are_counted():
    scene = grasp_scene()
    vertices = bpy.data.objects["Box"].data.vertices
    co = np.empty(24, np.float32)
    vertices.foreach_get("co", co)
    co[3:6] = np.nan
    vertices.foreach_set("co", co)
    with pytest.raises(ClipError, match=r"'Box' at frame 1: 1 of 8 vertices are not finite"):
        export_clip(scene, settings())


def test_a_flat_camera_is_refused():
    scene = grasp_scene()
    bpy.data.cameras["Camera"].type = "ORTHO"
    with pytest.raises(ClipError, match="only perspective cameras"):
        export_clip(scene, settings(entities=(BOX,)))


def test_reference_files_that_cannot_be_read(tmp_path):
    text = tmp_path / "picture.png"
    text.write_text("no picture")
    with pytest.raises(ClipError, match=r"there is no file .*gone\.png"):
        reference_from_image(tmp_path / "gone.png", 96, 64)
    for read in (reference_from_image, lambda *a: reference_from_movie(a[0], 1, *a[1:])):
        with pytest.raises(ClipError, match=r"'picture\.png'.*choose"):
            read(text, 96, 64)
    assert "picture.png" not in bpy.data.images
