# SPDX-License-Identifier: GPL-3.0-or-later
"""The checklist names what is wrong with a shot, and each line's button mends it."""

from __future__ import annotations

import io

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs the bpy wheel (pip install 'hvg3d[blender]')")

import blender_addon  # noqa: E402
from blender_addon.client.check import ServerStatus  # noqa: E402
from blender_addon.client.protocol import Model  # noqa: E402
from blender_addon.core import encode_png  # noqa: E402
from blender_addon.ops.export import generation_request  # noqa: E402
from blender_addon.runtime import RUNTIME  # noqa: E402
from blender_addon.scene.export import export_clip, frame_times  # noqa: E402
from blender_addon.shot import blocking, checklist, export_settings, frames_text, reference_is_current  # noqa: E402

from .scenes import grasp_scene  # noqa: E402

Image = pytest.importorskip("PIL.Image", reason="needs Pillow")


@pytest.fixture(scope="module", autouse=True)
def extension():
    blender_addon.register()
    yield
    blender_addon.unregister()


@pytest.fixture
def scene():
    scene = grasp_scene()
    scene.hvg3d.width, scene.hvg3d.height, scene.hvg3d.points_per_entity = 96, 64, 64
    mark("Rig", "right_hand")
    mark("Box", "object")
    scene.hvg3d.prompt = "a hand"
    return scene


def mark(name: str, role: str) -> None:
    for obj in bpy.context.view_layer.objects:
        obj.select_set(obj.name == name)
    bpy.ops.hvg3d.mark(role=role)


def faults(scene) -> list[str]:
    """What is not ready, or worth a look."""
    return [check.text for check in checklist(scene) if not check.ok or check.hint]


def mend(scene, text: str, label: str) -> None:
    """Press the button ``label`` of the line with ``text``."""
    check = next(check for check in checklist(scene) if text in check.text)
    fix = next(fix for fix in check.fixes if fix.label == label)
    space, name = fix.operator.split(".")
    assert getattr(getattr(bpy.ops, space), name)(**fix.properties) == {"FINISHED"}


def test_a_good_shot_has_no_faults_and_can_be_exported(scene):
    assert faults(scene) == []
    assert blocking(scene, video=True) == ""
    clip = export_clip(scene, export_settings(scene))
    assert [entity.role for entity in clip.entities] == ["right_hand", "object"]


def test_every_fault_is_mended_by_its_button(scene):
    """From a scene in which all is wrong to one that exports, pressing buttons only."""
    shot = scene.hvg3d
    bpy.data.objects.remove(scene.camera)
    scene.frame_end = 50
    shot.entities.clear()
    shot.prompt = ""
    shot.reference_source, shot.reference_path = "IMAGE", "/nowhere/ä.png"
    shot.model = "other"
    RUNTIME.server = ServerStatus("ready", "Connected", "", (Model("nano", "Nano", "", True, True),))
    try:
        assert faults(scene) == [
            "Nothing is marked: select a hand or an object, then mark it above",
            "No camera",
            "50 frames: 49 or 57 can be used",
            "First picture: there is no file 'ä.png'",
            "No prompt: say what the video shows",
            "Model other: this server does not have it",
        ]
        mend(scene, "Nothing is marked", "Guess")
        mend(scene, "No camera", "Add Camera")
        mend(scene, "50 frames", "Use 49")
        mend(scene, "there is no file", "Render Instead")
        mend(scene, "No prompt", "Suggest")
        mend(scene, "Model other", "Use Default")
        assert faults(scene) == []
        assert shot.prompt == "a right hand grasps a box, close-up, natural light"
        assert scene.frame_end == 50 and shot.range_of(scene) == (1, 49)
        mend_frames = export_settings(scene)
        assert mend_frames.num_frames == 49
        shot.every_frame, shot.num_frames = False, 9
        assert export_clip(scene, export_settings(scene)).views[0].point_visible.any()
    finally:
        RUNTIME.server = ServerStatus()


def test_hidden_deleted_and_doubly_marked_things(scene):
    shot = scene.hvg3d
    box = bpy.data.objects["Box"]
    box.hide_render = True
    assert faults(scene) == ["Box: Box is hidden in renders"]
    mend(scene, "hidden in renders", "Make Visible")
    box.hide_viewport = True
    assert faults(scene) == ["Box: Box is disabled in viewports"]
    mend(scene, "disabled in viewports", "Make Visible")
    assert faults(scene) == []
    collection = bpy.data.collections.new("Props")
    scene.collection.children.link(collection)
    collection.objects.link(box)
    assert bpy.ops.hvg3d.mark(role="other", collection="Props") == {"FINISHED"}
    assert faults(scene) == ["Box is marked twice: Box and Props"]
    mend(scene, "marked twice", "Remove")
    assert [entity.name for entity in shot.entities] == ["right hand", "Box"]
    bpy.data.objects.remove(box)
    assert faults(scene)[0] == "Box: its objects have been deleted"
    mend(scene, "have been deleted", "Remove")
    assert faults(scene) == ["No object is marked: the video follows only what is"]


def test_a_marked_collection_follows_what_is_put_into_it(scene):
    """As an object, a collection of a mesh; then one more joins it; an empty one is refused."""
    collection = bpy.data.collections.new("Props")
    scene.collection.children.link(collection)
    with pytest.raises(RuntimeError, match="has nothing with a surface"):
        bpy.ops.hvg3d.mark(role="object", collection="Props")
    bpy.ops.hvg3d.unmark(index=1)
    collection.objects.link(bpy.data.objects["Box"])
    bpy.ops.hvg3d.mark(role="object", collection="Props")
    assert export_settings(scene).entities[1].objects == ("Box",)
    collection.objects.link(bpy.data.objects["Table"])
    assert set(export_settings(scene).entities[1].objects) == {"Box", "Table"}
    bpy.ops.wm.save_as_mainfile(filepath=bpy.app.tempdir + "marks.blend")
    bpy.ops.wm.open_mainfile(filepath=bpy.app.tempdir + "marks.blend")
    assert bpy.context.scene.hvg3d.entities[1].objects[0].collection.name == "Props"


def test_a_camera_that_looks_away_is_a_hint_and_aim_mends_it(scene):
    camera = scene.camera
    camera.animation_data_clear()
    camera.rotation_euler = (0.3, 0, 2.5)
    bpy.context.view_layer.update()
    assert faults(scene) == ["right hand, Box: out of the camera's view at frame 1"]
    mend(scene, "out of the camera's view", "Aim Camera")
    bpy.context.view_layer.update()
    assert faults(scene) == []
    clip = export_clip(scene, export_settings(scene))
    inside = clip.views[0].masks[0] > 0
    assert 0.02 < inside.mean() < 0.9
    other = bpy.data.objects.new("Other", bpy.data.cameras.new("Other"))
    scene.collection.objects.link(other)
    scene.camera = None
    assert "Use Camera" in [fix.label for fix in next(c for c in checklist(scene) if c.text == "No camera").fixes]
    mend(scene, "No camera", "Use Camera")
    assert scene.hvg3d.camera == camera


def test_the_frames_that_are_shown_are_the_frames_that_are_used(scene):
    shot = scene.hvg3d
    assert frames_text(scene) == "1, 2, 3 ... 9: 9 frames, 0.38 s at 24 fps"
    shot.use_scene_range, shot.frame_start, shot.frame_end = False, 10, 22
    shot.every_frame, shot.num_frames = False, 9
    assert frames_text(scene) == "10, 11.5, 13 ... 22: 9 frames, 0.56 s at 16 fps"
    assert frame_times(export_settings(scene))[:3].tolist() == [10.0, 11.5, 13.0]
    assert export_settings(scene).frame_end == 22
    clip = export_clip(scene, export_settings(scene))
    assert clip.fps == 16 and clip.num_frames == 9


def test_the_first_picture_is_shown_as_it_is_cropped_and_sent_if_it_is_kept(scene, tmp_path):
    """A file is cropped to the clip's aspect; kept, the very bytes are sent; other settings make it stale."""
    shot = scene.hvg3d
    picture = np.zeros((50, 200, 3), np.uint8)
    picture[:, 100:] = (0, 200, 0)
    (tmp_path / "wide.png").write_bytes(encode_png(picture))
    assert bpy.ops.hvg3d.choose_reference(filepath=str(tmp_path / "wide.png")) == {"FINISHED"}
    assert shot.reference_source == "IMAGE" and reference_is_current(scene)
    image = shot.reference_image
    assert tuple(image.size) == (96, 64) and image.packed_file is not None
    assert image.preview_ensure() is not None
    shot.reference_keep = True
    sent = export_settings(scene).reference
    assert sent == image.packed_file.data
    shown = np.asarray(Image.open(io.BytesIO(sent)))
    assert shown.shape == (64, 96, 3) and (shown[:, 50:, 1] == 200).all() and (shown[:, :46, 1] == 0).all()

    shot.width = 64
    assert not reference_is_current(scene)
    assert faults(scene) == ["First picture: made for other settings, it is made anew"]
    assert np.asarray(Image.open(io.BytesIO(export_settings(scene).reference))).shape == (64, 64, 3)
    mend(scene, "made for other settings", "Update")
    assert faults(scene) == [] and tuple(shot.reference_image.size) == (64, 64)

    shot.reference_source = "RENDER"
    assert not shot.reference_keep and export_settings(scene).reference is None
    assert bpy.ops.hvg3d.make_reference() == {"FINISHED"}
    shot.reference_keep = True
    rendered = export_settings(scene).reference
    assert rendered != sent and rendered == bytes(shot.reference_image.packed_file.data)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "kept.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "kept.blend"))
    assert export_settings(bpy.context.scene).reference == rendered


def test_quality_and_advanced_settings_reach_the_request(scene):
    shot = scene.hvg3d
    plain = generation_request(shot).to_json("0" * 64)
    assert (plain["num_inference_steps"], plain["guidance_scale"], plain["control_scale"]) == (None, None, 1.0)
    shot.quality = "DRAFT"
    assert generation_request(shot).num_inference_steps == 12
    shot.quality, shot.steps, shot.use_guidance, shot.guidance = "CUSTOM", 33, True, 4.5
    shot.negative_prompt, shot.use_tracking = "blur", False
    request = generation_request(shot).to_json("0" * 64)
    assert (request["num_inference_steps"], request["guidance_scale"]) == (33, 4.5)
    assert (request["negative_prompt"], request["use_tracking"], request["use_points"]) == ("blur", False, True)
    schemas = pytest.importorskip("server.schemas", reason="needs the server (pip install 'hvg3d[server]')")
    assert schemas.GenerationRequest.model_validate(request).num_inference_steps == 33
