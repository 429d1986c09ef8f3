# SPDX-License-Identifier: GPL-3.0-or-later
"""The overlay's samples are what an export sends, keep up with the scene, and leave it as it was."""

from __future__ import annotations

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs the bpy wheel (pip install 'hvg3d[blender]')")

import blender_addon  # noqa: E402
from blender_addon.overlay import display  # noqa: E402
from blender_addon.overlay.display import OVERLAY  # noqa: E402
from blender_addon.scene.export import export_clip  # noqa: E402
from blender_addon.shot import export_settings  # noqa: E402

from .scenes import GREY_PICTURE, grasp_scene, settings  # noqa: E402
from .snapshot import differences, scene_state  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def extension():
    blender_addon.register()
    yield
    blender_addon.unregister()


@pytest.fixture
def scene():
    """The box moves and turns, the hand bends; both are marked."""
    scene = grasp_scene()
    shot = scene.hvg3d
    shot.width, shot.height, shot.points_per_entity, shot.num_tracks = 96, 64, 128, 64
    for name, role in (("Hand", "right_hand"), ("Box", "object")):
        for obj in bpy.context.view_layer.objects:
            obj.select_set(obj.name == name)
        bpy.ops.hvg3d.mark(role=role)
    for name in ("Hand", "Rig"):  # 10 cm above the box at first, inside it at last
        bpy.data.objects[name].location.z = 0.35
    bpy.context.view_layer.update()
    yield scene
    display.switch(False)


def show(scene, color: str = "CONTACT") -> None:
    scene.hvg3d.overlay.color = color
    scene.hvg3d.overlay.show = True
    display.refresh(scene)


def test_points_and_visibility_are_those_of_the_export(scene):
    """Sampled from the middle of the shot onwards: the very points that an export sends, frame by frame."""
    scene.frame_set(4)
    show(scene, "VISIBILITY")
    wanted = export_settings(scene)
    assert wanted.points_per_entity == 128
    samples = {}
    for frame in (4, 1, 9):
        scene.frame_set(frame)
        assert OVERLAY.frame == frame and OVERLAY.problem == ""
        samples[frame] = OVERLAY.samples[frame]
    scene.hvg3d.overlay.show = False
    clip = export_clip(scene, settings(entities=wanted.entities, reference=GREY_PICTURE))
    for frame, sample in samples.items():
        np.testing.assert_allclose(sample.points, clip.points[frame - 1], atol=2e-6)
        agree = (sample.visible == clip.views[0].point_visible[frame - 1]).mean()
        assert agree > 0.99


def test_distances_of_a_deforming_hand_to_a_moving_box_are_right(scene):
    """Against the closed form of the box in its own space, in frames where it has moved and turned."""
    show(scene)
    for frame in (1, 5, 7, 9):
        scene.frame_set(frame)
        sample = OVERLAY.samples[frame]
        hand = OVERLAY.sampler.layout.entity == 0
        assert np.isnan(sample.distance[~hand]).all()
        to_box = np.linalg.inv(np.array(bpy.data.objects["Box"].matrix_world))
        local = sample.points[hand] @ to_box[:3, :3].T + to_box[:3, 3]
        q = np.abs(local) - 0.15
        true = np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(axis=1), 0)
        near = np.abs(true) < 0.03
        assert near.any() == (frame != 1)
        np.testing.assert_allclose(sample.distance[hand][near], true[near], atol=0.0016)
        touching = np.abs(true) < 0.004
        np.testing.assert_allclose(sample.distance[hand][touching], true[touching], atol=2e-6)


def test_an_object_that_deforms_is_measured_too(scene):
    box = bpy.data.objects["Box"]
    box.shape_key_add(name="Basis")
    key = box.shape_key_add(name="Tall")
    for vertex in key.data:
        vertex.co.z *= 1.6
    for frame, value in ((1, 0.0), (9, 1.0)):
        key.value = value
        key.keyframe_insert("value", frame=frame)
    show(scene)
    for frame in (5, 9):
        scene.frame_set(frame)
        sample = OVERLAY.samples[frame]
        hand = OVERLAY.sampler.layout.entity == 0
        to_box = np.linalg.inv(np.array(box.matrix_world))
        local = sample.points[hand] @ to_box[:3, :3].T + to_box[:3, 3]
        tall = 0.15 * (1 + 0.6 * box.data.shape_keys.key_blocks["Tall"].value)
        q = np.abs(local) - [0.15, 0.15, tall]
        true = np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(axis=1), 0)
        near = np.abs(true) < 0.03
        assert near.any()
        np.testing.assert_allclose(sample.distance[hand][near], true[near], atol=5e-6)


def test_all_frames_are_checked_and_the_scene_is_as_it_was(scene):
    scene.frame_set(7)
    bpy.data.objects["Hand"].location.x += 0.001  # not keyed: kept as it is
    scene.frame_set(7)
    before = scene_state(scene)
    assert bpy.ops.hvg3d.check_contact() == {"FINISHED"}
    scene.hvg3d.overlay.show = False
    assert differences(before, scene_state(scene)) == []
    scene.hvg3d.overlay.show = True
    bpy.ops.hvg3d.check_contact()
    assert sorted(OVERLAY.samples) == sorted(OVERLAY.contacts) == [float(f) for f in range(1, 10)]
    assert OVERLAY.frame == 7.0
    deepest = max(OVERLAY.contacts.values(), key=lambda contact: contact.depth)
    assert deepest.depth > 0.003 and "inside the object" in display.text(scene)


def test_moving_a_thing_forgets_other_frames_and_other_marks_bind_anew(scene):
    show(scene)
    for frame in (2, 3, 1):
        scene.frame_set(frame)
    assert sorted(OVERLAY.samples) == [1.0, 2.0, 3.0]
    bpy.data.objects["Hand"].location.z += 0.02
    bpy.context.view_layer.update()
    assert OVERLAY.samples == {}
    display.refresh(scene)
    assert sorted(OVERLAY.samples) == [1.0]
    bpy.ops.hvg3d.unmark(index=1)
    display.refresh(scene)
    assert len(OVERLAY.samples[1.0].points) == 128
    assert display.text(scene).startswith("Mark a hand and an object")
    bpy.data.objects.remove(bpy.data.objects["Hand"])
    display.refresh(scene)
    assert "its objects have been deleted" in display.text(scene)


def test_another_file_and_undo_leave_no_stale_points(scene, tmp_path):
    show(scene)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shown.blend"))
    assert OVERLAY.samples
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    assert OVERLAY.sampler is None and OVERLAY.samples == {}
    bpy.context.scene.frame_set(3)
    assert OVERLAY.samples == {}
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shown.blend"))
    display.refresh(bpy.context.scene)
    assert len(OVERLAY.samples) == 1


def test_fingers_are_told_by_their_bones(scene):
    bpy.ops.hvg3d.add_hand(side="LEFT")
    show(scene)
    layout = OVERLAY.sampler.layout
    own = layout.entity == 2
    assert set(np.unique(layout.finger[own])) == {-1, 0, 1, 2, 3, 4}
    assert (layout.finger[~own] == -1).all()
