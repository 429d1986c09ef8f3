# SPDX-License-Identifier: GPL-3.0-or-later
"""Small scenes whose motion is known in closed form."""

from __future__ import annotations

import math
from dataclasses import replace

import bpy
import numpy as np
from mathutils import Matrix

from blender_addon.core import encode_png
from blender_addon.scene.export import EntityObjects, ExportSettings

WIDTH, HEIGHT = 96, 64
FRAMES = 9
GREY_PICTURE = encode_png(np.full((HEIGHT, WIDTH, 3), 128, np.uint8))


def empty_scene() -> bpy.types.Scene:
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples = 1
    scene.frame_start, scene.frame_end = 1, FRAMES
    return scene


def object_matrix(frame: float) -> np.ndarray:
    """Object to world in ``grasp_scene``: a turn about z and a straight way, both linear in time."""
    t = (frame - 1) / (FRAMES - 1)
    turn = Matrix.Rotation(1.2 * t, 4, "Z")
    turn.translation = (0.3 * t, -0.1 * t, 0.1 + 0.2 * t)
    return np.array(turn)


def grasp_scene() -> bpy.types.Scene:
    """A box that moves as :func:`object_matrix` says, a two-bone hand bending over it, a table, a moving camera."""
    scene = empty_scene()
    bpy.ops.mesh.primitive_cube_add(size=0.3)
    box = bpy.context.object
    box.name = "Box"
    for frame in (1, FRAMES):
        matrix = Matrix(object_matrix(frame))
        box.location, box.rotation_euler = matrix.translation, matrix.to_euler()
        box.keyframe_insert("location", frame=frame)
        box.keyframe_insert("rotation_euler", frame=frame)
    make_linear(box)

    bpy.ops.mesh.primitive_grid_add(x_subdivisions=12, y_subdivisions=4, size=0.4, location=(0, 0, 0.45))
    hand = bpy.context.object
    hand.name = "Hand"
    add_rig(hand)

    bpy.ops.mesh.primitive_plane_add(size=3)
    bpy.context.object.name = "Table"
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    scene.collection.objects.link(camera)
    scene.camera = camera
    for frame, x in ((1, 0.2), (FRAMES, -0.2)):
        camera.matrix_world = look_at((x, -1.6, 1.1), (0.1, 0, 0.25))
        camera.keyframe_insert("location", frame=frame)
        camera.keyframe_insert("rotation_euler", frame=frame)
    light = bpy.data.objects.new("Light", bpy.data.lights.new("Light", "SUN"))
    scene.collection.objects.link(light)
    scene.frame_set(1)
    return scene


def add_rig(hand: bpy.types.Object) -> bpy.types.Object:
    """Two bones along x; the second bends during the shot. Weights are 0 or 1, split at x = 0."""
    rig = bpy.data.objects.new("Rig", bpy.data.armatures.new("Rig"))
    bpy.context.scene.collection.objects.link(rig)
    rig.location = hand.location
    bpy.context.view_layer.objects.active = rig
    bpy.ops.object.mode_set(mode="EDIT")
    root = rig.data.edit_bones.new("root")
    root.head, root.tail = (-0.2, 0, 0), (0, 0, 0)
    tip = rig.data.edit_bones.new("tip")
    tip.head, tip.tail, tip.parent = (0, 0, 0), (0.2, 0, 0), root
    bpy.ops.object.mode_set(mode="OBJECT")
    for name, inside in (("root", lambda x: x <= 0), ("tip", lambda x: x > 0)):
        group = hand.vertex_groups.new(name=name)
        group.add([v.index for v in hand.data.vertices if inside(v.co.x)], 1.0, "REPLACE")
    hand.modifiers.new("Armature", "ARMATURE").object = rig
    bone = rig.pose.bones["tip"]
    bone.rotation_mode = "XYZ"
    for frame, angle in ((1, 0.0), (FRAMES, 0.9)):
        bone.rotation_euler = (angle, 0, 0)
        bone.keyframe_insert("rotation_euler", frame=frame)
    return rig


def make_linear(obj: bpy.types.Object) -> None:
    for curve in obj.animation_data.action.layers[0].strips[0].channelbags[0].fcurves:
        for point in curve.keyframe_points:
            point.interpolation = "LINEAR"


def look_at(eye, target) -> Matrix:
    back = np.subtract(eye, target)
    back = back / np.linalg.norm(back)
    right = np.cross((0, 0, 1), back)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, np.cross(back, right), back], 1)
    matrix[:3, 3] = eye
    assert math.isclose(np.linalg.det(matrix), 1.0, rel_tol=1e-6)
    return Matrix(matrix)


HAND = EntityObjects("hand", "right_hand", ("Hand",))
BOX = EntityObjects("box", "object", ("Box",))


def settings(**changes) -> ExportSettings:
    """Settings for ``grasp_scene``, with a given picture, so that nothing is rendered."""
    plain = ExportSettings(
        entities=(HAND, BOX),
        camera="Camera",
        frame_start=1,
        frame_end=FRAMES,
        num_frames=FRAMES,
        width=WIDTH,
        height=HEIGHT,
        points_per_entity=128,
        num_tracks=64,
        reference=GREY_PICTURE,
    )
    return replace(plain, **changes)
