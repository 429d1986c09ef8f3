# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts hands and objects into Blender: meshes, an armature whose bones are the model's joints, keys, constraints."""

from __future__ import annotations

import bpy
import numpy as np
from mathutils import Matrix, Vector

from .hand import JOINTS, PARENTS, HandModel
from .objects import ObjectShape


def add_mesh(name: str, vertices: np.ndarray, triangles: np.ndarray, flat: bool = False) -> bpy.types.Object:
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(len(vertices))
    mesh.vertices.foreach_set("co", np.ascontiguousarray(vertices, np.float32).reshape(-1))
    mesh.loops.add(triangles.size)
    mesh.loops.foreach_set("vertex_index", np.ascontiguousarray(triangles, np.int32).reshape(-1))
    mesh.polygons.add(len(triangles))
    mesh.polygons.foreach_set("loop_start", np.arange(0, triangles.size, 3, dtype=np.int32))
    mesh.update(calc_edges=True)
    mesh.validate()
    mesh.polygons.foreach_set("use_smooth", np.full(len(triangles), not flat, bool))
    if not flat:
        # Rims and feet stay crisp: edges that turn by more than 50 degrees are sharp.
        mesh.set_sharp_from_angle(angle=np.radians(50.0))
    thing = bpy.data.objects.new(name, mesh)
    bpy.context.scene.collection.objects.link(thing)
    return thing


def add_hand(
    model: HandModel, name: str, skin: bpy.types.Material, sleeve: bpy.types.Material
) -> tuple[bpy.types.Object, bpy.types.Object]:
    """Armature and mesh objects of a hand; the armature's object space is hand space, so its matrix is the wrist's."""
    armature_data = bpy.data.armatures.new(f"{name} rig")
    armature = bpy.data.objects.new(f"{name} rig", armature_data)
    bpy.context.scene.collection.objects.link(armature)
    bpy.context.view_layer.objects.active = armature
    bpy.ops.object.mode_set(mode="EDIT")
    bones = []
    for joint, parent in enumerate(PARENTS):
        bone = armature_data.edit_bones.new(JOINTS[joint])
        frame = model.rest[joint]
        children = [i for i, p in enumerate(PARENTS) if p == joint]
        length = float(np.linalg.norm(model.rest[children[0]][:3, 3] - frame[:3, 3])) if children else 0.012
        bone.head = Vector(frame[:3, 3])
        bone.tail = Vector(frame[:3, 3] + frame[:3, 1] * length)
        bone.align_roll(Vector(frame[:3, 2]))
        if parent >= 0:
            bone.parent = bones[parent]
        bones.append(bone)
    bpy.ops.object.mode_set(mode="OBJECT")
    armature_data.display_type = "STICK"
    armature.show_in_front = True
    for bone in armature.pose.bones:
        bone.rotation_mode = "XYZ"
    armature.rotation_mode = "QUATERNION"

    mesh = add_mesh(name, model.vertices, model.triangles)
    mesh.data.materials.append(skin)
    mesh.data.materials.append(sleeve)
    mesh.data.polygons.foreach_set("material_index", model.sleeve.astype(np.int32))
    for joint, joint_name in enumerate(JOINTS):
        group = mesh.vertex_groups.new(name=joint_name)
        weights = model.weights[:, joint]
        for vertex in np.flatnonzero(weights):
            group.add([int(vertex)], float(weights[vertex]), "REPLACE")
    modifier = mesh.modifiers.new("Rig", "ARMATURE")
    modifier.object = armature
    mesh.parent = armature
    return armature, mesh


def add_object(shape: ObjectShape, name: str, material: bpy.types.Material) -> bpy.types.Object:
    thing = add_mesh(name, shape.vertices, shape.triangles)
    thing.data.materials.append(material)
    thing.rotation_mode = "QUATERNION"
    return thing


def to_matrix(array: np.ndarray) -> Matrix:
    return Matrix([[float(x) for x in row] for row in array])


def key_transform(thing: bpy.types.Object, frame: float, matrix: np.ndarray) -> None:
    """Location and rotation keys of a rigid 4×4; quaternions keep their hemisphere, to interpolate the short way."""
    rotation = to_matrix(matrix).to_quaternion()
    if thing.animation_data and rotation.dot(thing.rotation_quaternion) < 0:
        rotation.negate()
    thing.location, thing.rotation_quaternion = matrix[:3, 3].tolist(), rotation
    thing.keyframe_insert("location", frame=frame)
    thing.keyframe_insert("rotation_quaternion", frame=frame)


def key_fingers(armature: bpy.types.Object, frame: float, angles: np.ndarray) -> None:
    """Rotation keys of every bone but the wrist and the tips. angles J×3."""
    for joint, name in enumerate(JOINTS):
        if name == "wrist" or name.endswith("tip"):
            continue
        bone = armature.pose.bones[name]
        bone.rotation_euler = angles[joint].tolist()
        bone.keyframe_insert("rotation_euler", frame=frame)


def attach(
    child: bpy.types.Object, parent: bpy.types.Object, frame: int, parent_at_frame: np.ndarray, start: int
) -> None:
    """From `frame` on the child follows the parent, whose matrix 4×4 is parent_at_frame then (Child Of, off before)."""
    constraint = child.constraints.new("CHILD_OF")
    constraint.target = parent
    constraint.inverse_matrix = to_matrix(np.linalg.inv(parent_at_frame))
    if frame <= start:
        return
    constraint.influence = 0.0
    constraint.keyframe_insert("influence", frame=frame - 1)
    constraint.influence = 1.0
    constraint.keyframe_insert("influence", frame=frame)
