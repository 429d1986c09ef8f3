# SPDX-License-Identifier: GPL-3.0-or-later
"""Marks guessed from names, bones, sizes and motion, in scenes as people build them."""

from __future__ import annotations

import pytest

bpy = pytest.importorskip("bpy", reason="needs the bpy wheel (pip install 'hvg3d[blender]')")

import blender_addon  # noqa: E402
from blender_addon.demo.scene import build_demo_scene  # noqa: E402
from blender_addon.scene.guess import guess_marks, side_of  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def extension():
    blender_addon.register()
    yield
    blender_addon.unregister()


@pytest.fixture
def scene():
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    return bpy.context.scene


def cube(name: str, size: float, location=(0, 0, 0), scale=(1, 1, 1)):
    bpy.ops.mesh.primitive_cube_add(size=size, location=location, scale=scale)
    bpy.context.object.name = name
    return bpy.context.object


def found(scene) -> dict[str, str]:
    return {guess.role: guess.objects[0].name for guess in guess_marks(scene)}


@pytest.mark.parametrize(
    ("name", "side"),
    [
        *(("hand.L", "left"), ("Hand_R", "right"), ("LeftHand", "left"), ("mixamorig:RightHandIndex1", "right")),
        *(("glove_l_01", "left"), ("hand right", "right"), ("HandL", "left"), ("Hand", ""), ("Leather", "")),
        *(("Roller", ""), ("left or right", "")),
    ],
)
def test_sides_in_names(name, side):
    assert side_of(name) == side


def test_the_demo_scene(scene):
    built = build_demo_scene()
    assert found(scene) == {"right_hand": built.armatures[0], "object": built.object_meshes[0]}


@pytest.mark.parametrize("side", ["LEFT", "RIGHT"])
def test_a_rig_without_a_side_in_its_names_is_told_by_its_thumb(scene, side):
    bpy.ops.hvg3d.add_hand(side=side, mark=False)
    rig = bpy.context.object
    rig.name, rig.children[0].name, rig.users_collection[0].name = "Rig", "Skin", "Stuff"
    (guess,) = guess_marks(scene)
    assert (guess.role, guess.objects) == (f"{side.lower()}_hand", (rig,))
    assert guess.reason == "bones of 5 fingers"


def test_two_hands_the_thing_between_them_and_scenery(scene):
    """Sides from names; the animated thing of a hand's size, not the table, the wall or the lamp's shade far away."""
    for name, x in (("hand.L", -0.2), ("hand.R", 0.2)):
        cube(name, 0.18, (x, 0, 0.1))
    cube("Table", 1.0, (0, 0, -0.5), (2, 2, 1))
    cube("Cube.003", 0.08, (0.05, 0, 0.1)).keyframe_insert("location", frame=1)
    cube("Cube.004", 0.08, (0.6, 0.3, 0.1))
    cube("Wall", 3.0, (0, 2, 0), (1, 0.01, 1))
    assert found(scene) == {"left_hand": "hand.L", "right_hand": "hand.R", "object": "Cube.003"}


def test_a_thing_of_several_parts_under_an_empty_is_one(scene):
    cube("RightHand", 0.18, (0.2, 0, 0))
    bpy.ops.object.empty_add()
    bpy.context.object.name = "Drill"
    for part in ("Body", "Bit"):
        cube(part, 0.1).parent = bpy.data.objects["Drill"]
    assert found(scene)["object"] == "Drill"


def test_hidden_things_and_scenery_alone_are_nothing(scene):
    cube("Ground", 5.0)
    cube("Mug", 0.1).hide_render = True
    assert guess_marks(scene) == []
    assert bpy.ops.hvg3d.guess_marks() == {"CANCELLED"}
    assert len(scene.hvg3d.entities) == 0


def test_a_guess_keeps_what_is_marked_and_can_be_corrected(scene):
    """The operator adds only what is missing; a role changed in the list stays; undone as one step."""
    built = build_demo_scene()
    table = bpy.data.objects["Table"]
    bpy.ops.object.select_all(action="DESELECT")
    table.select_set(True)
    bpy.ops.hvg3d.mark(role="object")
    assert bpy.ops.hvg3d.guess_marks() == {"FINISHED"}
    shot = scene.hvg3d
    assert [(e.role, e.members()[0].name) for e in shot.entities] == [
        ("object", "Table"),
        ("right_hand", built.armatures[0]),
    ]
    assert shot.entities[1].reason.startswith("bones of 5 fingers") and not shot.entities[0].reason
    shot.entities[0].role = "other"
    assert bpy.ops.hvg3d.guess_marks() == {"FINISHED"}
    assert [e.role for e in shot.entities] == ["other", "right_hand", "object"]
    assert bpy.ops.hvg3d.guess_marks() == {"CANCELLED"}
    assert bpy.ops.hvg3d.guess_marks(keep=False) == {"FINISHED"}
    assert [e.role for e in shot.entities] == ["right_hand", "object"]
