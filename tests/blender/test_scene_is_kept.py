# SPDX-License-Identifier: GPL-3.0-or-later
"""After an export the scene is what it was before, however the export ended."""

from __future__ import annotations

import pytest

bpy = pytest.importorskip("bpy", reason="needs the bpy wheel (pip install 'hvg3d[blender]')")

from blender_addon.core import ClipError  # noqa: E402
from blender_addon.scene.export import export_clip, iter_export  # noqa: E402

from .scenes import FRAMES, grasp_scene, settings  # noqa: E402
from .snapshot import differences, scene_state  # noqa: E402


@pytest.fixture
def scene():
    """Nothing is at its default: an odd frame, a border, a film format, a camera switched by markers, unkeyed edits."""
    scene = grasp_scene()
    render = scene.render
    render.resolution_x, render.resolution_y, render.resolution_percentage = 333, 222, 35
    render.use_border, render.use_crop_to_border, render.border_max_x = True, True, 0.5
    render.filepath, render.use_overwrite, render.use_file_extension = "//shots/take_", False, False
    render.image_settings.file_format, render.image_settings.color_mode = "OPEN_EXR", "RGBA"
    render.image_settings.color_depth = "32"
    render.use_sequencer = True
    scene.view_settings.view_transform, scene.view_settings.exposure = "Standard", 0.5
    other = bpy.data.objects.new("Other camera", bpy.data.cameras.new("Other camera"))
    scene.collection.objects.link(other)
    for frame, camera in ((1, "Camera"), (5, "Other camera")):
        marker = scene.timeline_markers.new(camera, frame=frame)
        marker.camera = bpy.data.objects[camera]
    hand = bpy.data.objects["Hand"]
    hand.shape_key_add(name="Basis")
    fist = hand.shape_key_add(name="Fist")
    fist.keyframe_insert("value", frame=1)
    for obj in scene.objects:
        obj.select_set(obj.name in ("Hand", "Table"))
    bpy.context.view_layer.objects.active = hand
    scene.frame_set(6, subframe=0.25)
    # Edits that are not keyed: evaluating another frame would lose them.
    bpy.data.objects["Box"].location = (0.7, 0.8, 0.9)
    bpy.data.objects["Rig"].pose.bones["tip"].rotation_euler = (0.3, 0.2, 0.1)
    fist.value = 0.6
    bpy.context.view_layer.update()
    return scene


def test_after_a_whole_export_with_a_rendered_picture(scene):
    before = scene_state(scene)
    clip = export_clip(scene, settings(reference=None))
    assert differences(before, scene_state(scene)) == []
    assert clip.num_frames == FRAMES
    assert clip.provenance["camera"] == "Camera"  # the marker at frame 5 does not switch the exported camera
    centres = clip.views[0].world_to_camera
    assert abs(centres[4] - centres[3]).max() < 0.2


def test_after_the_user_cancels_half_way(scene):
    before = scene_state(scene)
    steps = iter_export(scene, settings())
    for _ in range(4):
        next(steps)
    assert scene.frame_current != 6  # it is in the middle of the work
    steps.close()
    assert differences(before, scene_state(scene)) == []


def test_after_an_error_half_way(scene):
    """The box gets more faces at frame 5: the export refuses it there."""
    box = bpy.data.objects["Box"]
    modifier = box.modifiers.new("Subdivide", "SUBSURF")
    modifier.subdivision_type = "SIMPLE"
    modifier.levels = 1
    modifier.show_viewport = False
    modifier.keyframe_insert("show_viewport", frame=4)
    modifier.show_viewport = True
    modifier.keyframe_insert("show_viewport", frame=5)
    scene.frame_set(6, subframe=0.25)
    box.location = (0.7, 0.8, 0.9)
    bpy.context.view_layer.update()
    before = scene_state(scene)
    with pytest.raises(ClipError, match="'Box' at frame 5 has 26 vertices"):
        export_clip(scene, settings())
    assert differences(before, scene_state(scene)) == []


def test_after_the_render_of_the_picture_fails(scene, monkeypatch):
    """Rendering cannot write its file: everything that was set for it is put back."""
    import blender_addon.scene.reference as reference

    class NoFolder:
        def __init__(self, **_):
            pass

        def __enter__(self):
            return __file__  # a file, in which nothing can be written

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(reference.tempfile, "TemporaryDirectory", NoFolder)
    before = scene_state(scene)
    with pytest.raises((ClipError, RuntimeError), match=r"[Rr]ender"):
        export_clip(scene, settings(reference=None))
    assert differences(before, scene_state(scene)) == []


def test_edit_mode_is_left_for_the_export_and_entered_again(scene):
    """In edit mode Blender does not show the modified mesh: points are those of object mode all the same."""
    scene.frame_set(6)
    expected = export_clip(scene, settings())
    bpy.ops.object.mode_set(mode="EDIT")
    before = scene_state(scene)
    assert before["mode"] == "EDIT_MESH"
    clip = export_clip(scene, settings())
    assert differences(before, scene_state(scene)) == []
    assert (clip.points == expected.points).all()


def test_the_comparison_notices_what_was_changed(scene):
    """The yardstick itself: a frame, a render setting, a pose and a selection that differ are each named."""
    before = scene_state(scene)
    scene.frame_current = 7
    scene.render.resolution_x = 334
    bpy.data.objects["Rig"].pose.bones["root"].location = (1, 0, 0)
    bpy.data.objects["Box"].select_set(True)
    text = "\n".join(differences(before, scene_state(scene)))
    for part in ("frame_current: 6 -> 7", "resolution_x: 333 -> 334", "pose", "selected"):
        assert part in text
