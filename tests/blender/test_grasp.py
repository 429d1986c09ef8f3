# SPDX-License-Identifier: GPL-3.0-or-later
"""Grasp holds things of many shapes: fingers touch, nothing goes deeper than 3 mm, all of it is ordinary keys.

Measured on the meshes that Blender evaluates, with trimesh: the solver's own distances take no part in it.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs the bpy wheel (pip install 'hvg3d[blender]')")
pytest.importorskip("trimesh", reason="the independent check of penetration needs trimesh and rtree")

import blender_addon  # noqa: E402
from blender_addon.demo.families import make_object  # noqa: E402
from blender_addon.demo.hand import JOINTS  # noqa: E402
from blender_addon.demo.rig import add_mesh  # noqa: E402

from .measure import deepest, depth_in, evaluated  # noqa: E402

LIMIT = 0.003  # metres: deepest penetration, and farthest that still counts as touching


@pytest.fixture(scope="module", autouse=True)
def extension():
    blender_addon.register()
    yield
    blender_addon.unregister()


@pytest.fixture
def scene():
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    bpy.context.scene.frame_end = 49
    bpy.context.scene.frame_set(30)
    return bpy.context.scene


def box():
    """A unit cube, scaled, in a parent that is itself scaled and turned."""
    bpy.ops.object.empty_add(location=(0.1, 0.2, 0.3), rotation=(0.2, 0.1, 0.9))
    parent = bpy.context.object
    parent.scale = (0.5, 0.5, 0.5)
    bpy.ops.mesh.primitive_cube_add(size=1)
    cube = bpy.context.object
    cube.parent = parent
    cube.scale = (0.1, 0.14, 0.24)
    return cube


def sphere():
    """A cube that only its modifiers make round."""
    bpy.ops.mesh.primitive_cube_add(size=0.076, location=(0, 0, 0.04))
    ball = bpy.context.object
    ball.modifiers.new("Smooth", "SUBSURF").levels = 3
    cast = ball.modifiers.new("Round", "CAST")
    cast.factor, cast.radius = 1.0, 0.038
    return ball


def cylinder():
    bpy.ops.mesh.primitive_cylinder_add(radius=0.033, depth=0.14, location=(0, 0, 0.07))
    return bpy.context.object


def handle():
    """A tool's handle, lying in the air: a curve with a bevel, which only evaluation makes a mesh."""
    curve = bpy.data.curves.new("Handle", "CURVE")
    curve.dimensions, curve.bevel_depth, curve.use_fill_caps = "3D", 0.014, True
    spline = curve.splines.new("POLY")
    spline.points.add(1)
    spline.points[0].co, spline.points[1].co = (-0.12, 0, 0, 1), (0.12, 0.02, 0, 1)
    obj = bpy.data.objects.new("Handle", curve)
    obj.location = (0, 0, 0.1)
    bpy.context.scene.collection.objects.link(obj)
    return obj


def book():
    """Thin, with sharp edges."""
    bpy.ops.mesh.primitive_cube_add(size=1, location=(0, 0, 0.08))
    obj = bpy.context.object
    obj.scale = (0.025, 0.11, 0.16)
    return obj


def demo_object(family: str):
    def make():
        shape = make_object(family, np.random.default_rng(2))
        return add_mesh(family, shape.vertices, shape.triangles)

    return make


SHAPES = {
    "box": box,
    "sphere": sphere,
    "cylinder": cylinder,
    "handle": handle,
    "book": book,
    "mug": demo_object("mug"),
    "bottle": demo_object("bottle"),
}


def add(make, side: str = "RIGHT"):
    """The object and a hand beside it, both marked."""
    thing = make()
    bpy.context.view_layer.update()
    bpy.ops.object.select_all(action="DESELECT")
    thing.select_set(True)
    bpy.context.view_layer.objects.active = thing
    assert bpy.ops.hvg3d.mark(role="object") == {"FINISHED"}
    assert bpy.ops.hvg3d.add_hand(side=side) == {"FINISHED"}
    rig = bpy.context.object
    rig.location = thing.matrix_world.translation
    rig.location.y -= 0.25
    bpy.context.view_layer.update()
    skin = next(obj for obj in rig.children if obj.type == "MESH")
    return thing, rig, skin


def fingers_touching(skin, thing) -> set[str]:
    names = [group.name for group in skin.vertex_groups]
    heaviest = [max(v.groups, key=lambda g: g.weight).group if len(v.groups) else 0 for v in skin.data.vertices]
    depth = depth_in(evaluated(skin).vertices, evaluated(thing))
    bones = {names[heaviest[index]] for index in np.flatnonzero(depth > -LIMIT)}
    return {bone.split("-")[0] for bone in bones if "phalanx" in bone or "tip" in bone}


def check_hold(scene, thing, rig, skin, frame: int) -> None:
    scene.frame_set(frame)
    depth = deepest(evaluated(skin), evaluated(thing))
    assert depth <= LIMIT, f"{1000 * depth:.1f} mm"
    touching = fingers_touching(skin, thing)
    assert len(touching) >= 3, touching
    assert "thumb" in touching
    assert touching <= set(rig["hvg3d_grasp"]["touching"]) | {"thumb"}


@pytest.mark.parametrize("name", SHAPES)
def test_fingers_hold_a_thing_of_any_shape(scene, name):
    """At least three fingers and the thumb touch, at most 3 mm deep, also on the way there and between the keys."""
    thing, rig, skin = add(SHAPES[name])
    assert bpy.ops.hvg3d.grasp(lead_in=16) == {"FINISHED"}
    assert scene.frame_current == 30
    check_hold(scene, thing, rig, skin, 30)
    for frame in (16, 20, 26):
        scene.frame_set(frame, subframe=0.5)
        depth = deepest(evaluated(skin), evaluated(thing))
        assert depth <= LIMIT, f"frame {frame}: {1000 * depth:.1f} mm"
    scene.frame_set(14)
    assert depth_in(evaluated(skin).vertices, evaluated(thing)).max() < -0.004  # it begins clear of the thing


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SHAPES, "bowl", "jar", "cup", "ball"])
def test_left_hands_do_as_well(scene, name):
    thing, rig, skin = add(SHAPES.get(name) or demo_object(name), "LEFT")
    assert bpy.ops.hvg3d.grasp(lead_in=12) == {"FINISHED"}
    check_hold(scene, thing, rig, skin, 30)


def test_a_scene_in_centimetres_and_a_scaled_hand(scene):
    """Scene units of 1 cm, a hand in a scaled and turned parent: the same grasp in the end."""
    scene.unit_settings.system, scene.unit_settings.scale_length = "METRIC", 0.01
    bpy.ops.mesh.primitive_cylinder_add(radius=3.3, depth=14, location=(20, 0, 7))
    can = bpy.context.object
    bpy.ops.hvg3d.mark(role="object")
    bpy.ops.hvg3d.add_hand(side="RIGHT")
    rig = bpy.context.object
    assert rig.matrix_world.to_scale()[0] == pytest.approx(100)
    bpy.ops.object.empty_add(rotation=(0, 0, 2.0))
    arm = bpy.context.object
    arm.scale = (1.1, 1.1, 1.1)
    rig.parent = arm
    rig.location = (0, -30, 10)
    assert bpy.ops.hvg3d.grasp(lead_in=8) == {"FINISHED"}
    skin = next(obj for obj in rig.children if obj.type == "MESH")
    hand, thing = evaluated(skin), evaluated(can)
    hand.apply_scale(0.01)
    thing.apply_scale(0.01)
    assert deepest(hand, thing) <= LIMIT
    assert len(rig["hvg3d_grasp"]["touching"]) >= 4


def test_staying_moves_fingers_only_and_lead_in_is_kept(scene):
    """STAY: the wrist has no keys; fingers have keys from frame - lead_in to frame, and none elsewhere."""
    thing, rig, skin = add(cylinder)
    bpy.ops.hvg3d.grasp(lead_in=16)
    placed = rig.matrix_world.copy()
    rig.animation_data_clear()
    rig.matrix_world = placed
    for bone in rig.pose.bones:
        bone.rotation_euler = (0, 0, 0)
    rig.pose.bones["thumb-metacarpal"].rotation_euler = (0.2, -0.8, 1.1)
    bpy.context.view_layer.update()
    assert bpy.ops.hvg3d.grasp(lead_in=9, placement="STAY", frame=25) == {"FINISHED"}
    assert scene.frame_current == 30
    bones, frames = keyed(rig)
    assert bones == {n for n in JOINTS if n != "wrist" and "tip" not in n}
    assert (min(frames), max(frames)) == (16, 25)
    np.testing.assert_allclose(np.array(rig.matrix_world), np.array(placed), atol=1e-6)
    check_hold(scene, thing, rig, skin, 25)


def keyed(rig) -> tuple[set[str], list[float]]:
    """Names of the bones with keys, and all key frames."""
    from blender_addon.compat import action_curves

    curves = action_curves(rig)
    names = {curve.data_path.split('"')[1] if '"' in curve.data_path else curve.data_path for curve in curves}
    return names, [point.co[0] for curve in curves for point in curve.keyframe_points]


def test_a_second_grasp_replaces_the_keys_of_the_first(scene):
    thing, rig, skin = add(cylinder)
    bpy.ops.hvg3d.grasp(lead_in=20)
    scene.frame_set(30)
    assert bpy.ops.hvg3d.grasp(lead_in=10, placement="PALM") == {"FINISHED"}
    check_hold(scene, thing, rig, skin, 30)
    scene.frame_set(26, subframe=0.5)
    assert deepest(evaluated(skin), evaluated(thing)) <= LIMIT


def test_a_held_thing_follows_the_hand_from_the_frame_of_contact(scene):
    thing, rig, _ = add(box)
    before = np.array(thing.matrix_world)
    assert bpy.ops.hvg3d.grasp(lead_in=12, hold=True) == {"FINISHED"}
    rig.keyframe_insert("location", frame=30)
    scene.frame_set(40)
    rig.location.z += 0.2
    rig.rotation_quaternion.rotate(__import__("mathutils").Quaternion((0, 0, 1), math.radians(20)))
    rig.keyframe_insert("location", frame=40)
    rig.keyframe_insert("rotation_quaternion", frame=40)
    relative = []
    for frame in (18, 29, 30, 35, 40):
        scene.frame_set(frame)
        now = np.array(thing.matrix_world)
        if frame <= 30:
            np.testing.assert_allclose(now, before, atol=2e-6)
        if frame >= 30:
            relative.append(np.linalg.inv(np.array(rig.matrix_world)) @ now)
    np.testing.assert_allclose(relative[1], relative[0], atol=2e-6)
    np.testing.assert_allclose(relative[2], relative[0], atol=2e-6)
    assert now[2, 3] > before[2, 3] + 0.1


def test_what_cannot_be_grasped_is_explained(scene):
    """No hand, no object, a foreign rig, a hand inside the object, a hand looking away, a building."""
    assert not bpy.ops.hvg3d.grasp.poll()
    thing, rig, _ = add(cylinder)
    rig.location = thing.location
    with pytest.raises(RuntimeError, match=r"mm inside 'Cylinder' before it closes"):
        bpy.ops.hvg3d.grasp(placement="STAY")
    rig.location = (0, 0, 3)
    with pytest.raises(RuntimeError, match="the palm does not meet it"):
        bpy.ops.hvg3d.grasp(placement="PALM")
    rig.scale = (1, 1.4, 1)
    with pytest.raises(RuntimeError, match="not the same along all axes"):
        bpy.ops.hvg3d.grasp()
    rig.scale = (1, 1, 1)
    with pytest.raises(RuntimeError, match="nothing is marked as 'Mug'"):
        bpy.ops.hvg3d.grasp(object="Mug")
    thing.scale = (100, 100, 100)
    with pytest.raises(RuntimeError, match="m large beside this hand"):
        bpy.ops.hvg3d.grasp()
    thing.scale = (1, 1, 1)
    rig.data.bones["thumb-tip"].name = "thumb.003"
    with pytest.raises(RuntimeError, match="it has no bone 'thumb-tip'"):
        bpy.ops.hvg3d.grasp()
    assert rig.animation_data is None


def test_both_hands_have_clean_armatures(scene):
    """Applied transforms, one root, fingers bend inwards about their local X, thumbs on opposite sides."""
    for side, thumb in (("RIGHT", -1), ("LEFT", 1)):
        bpy.ops.hvg3d.add_hand(side=side)
        rig = bpy.context.object
        assert rig.users_collection[0].name == f"{side.capitalize()} Hand"
        assert [bone.name for bone in rig.data.bones if bone.parent is None] == ["wrist"]
        np.testing.assert_allclose(np.array(rig.matrix_world), np.eye(4), atol=1e-7)
        assert np.sign(rig.data.bones["thumb-tip"].head_local.x) == thumb
        tip = rig.pose.bones["index-finger-tip"]
        before = tip.tail.z
        rig.pose.bones["index-finger-phalanx-proximal"].rotation_euler.x = -0.8
        bpy.context.view_layer.update()
        assert tip.tail.z < before - 0.03
    roles = [entity.role for entity in scene.hvg3d.entities]
    assert roles == ["right_hand", "left_hand"]
    skins = [next(o for o in rig.children if o.type == "MESH") for rig in bpy.data.objects if rig.type == "ARMATURE"]
    assert len({m.name for skin in skins for m in skin.data.materials}) == 2


def test_undo_takes_a_grasp_and_a_hand_back(scene):
    _, rig, _ = add(cylinder)
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.hvg3d.grasp(lead_in=8)
    bpy.ops.ed.undo_push(message="grasp")
    assert bpy.data.objects[rig.name].animation_data is not None
    bpy.ops.ed.undo()
    assert bpy.data.objects["Right hand rig"].animation_data is None
    assert "hvg3d_grasp" not in bpy.data.objects["Right hand rig"]
    bpy.ops.ed.redo()
    assert bpy.data.objects["Right hand rig"].animation_data is not None
