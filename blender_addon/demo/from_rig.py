# SPDX-License-Identifier: GPL-3.0-or-later
"""A hand that stands in Blender as the solver's model, and the solver's answer as keys on it."""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np
from mathutils import Euler, Matrix

from ..core import ClipError
from .hand import JOINTS, HandModel
from .rig import to_matrix

FLEXING = tuple(name for name in JOINTS if name != "wrist" and not name.endswith("tip"))


@dataclass(frozen=True)
class RiggedHand:
    """A hand in the scene. ``model`` is in the armature's own space; ``scale``: Blender units for one of its metres."""

    armature: bpy.types.Object
    model: HandModel
    scale: float

    def wrist(self, matrix_world: Matrix) -> np.ndarray:
        """The wrist 4 x 4 in the solver's space: the world divided by ``scale``."""
        wrist = np.array(matrix_world.normalized(), np.float64)
        wrist[:3, 3] /= self.scale
        return wrist

    def in_world(self, wrist: np.ndarray) -> Matrix:
        """The other way round: the armature's world matrix."""
        matrix = wrist.copy()
        matrix[:3, 3] *= self.scale
        return to_matrix(matrix) @ Matrix.Scale(self.scale, 4)

    def angles(self) -> np.ndarray:
        """J x 3 angles of the pose that the armature has now."""
        return np.array([self.armature.pose.bones[name].matrix_basis.to_euler("XYZ") for name in JOINTS], np.float64)


def has_demo_bones(obj: bpy.types.Object | None) -> bool:
    return obj is not None and obj.type == "ARMATURE" and all(name in obj.data.bones for name in JOINTS)


def read_hand(armature: bpy.types.Object) -> RiggedHand:
    """Raises :class:`ClipError` where the armature cannot be used."""
    name = armature.name
    missing = [joint for joint in JOINTS if joint not in armature.data.bones]
    if missing:
        raise ClipError(
            f"hand {name!r}: it has no bone {missing[0]!r}; fingers are closed on hands made with Add Hand (their "
            "bones may be moved and scaled, not renamed)"
        )
    columns = np.array(armature.matrix_world.to_3x3(), np.float64)
    scales = np.linalg.norm(columns, axis=0)
    scale = float(scales.mean())
    skew = columns / np.maximum(scales, 1e-12)
    if scales.min() < 1e-9 or np.ptp(scales) > 0.02 * scale or np.abs(skew.T @ skew - np.eye(3)).max() > 0.02:
        raise ClipError(
            f"hand {name!r}: its scale {tuple(round(float(s), 3) for s in scales)} is not the same along all axes; "
            "set one scale for all three, also in its parents"
        )
    if np.linalg.det(columns) < 0:
        raise ClipError(f"hand {name!r}: it is mirrored by a negative scale; add a hand of the other side instead")
    skin = next((obj for obj in _skins(armature) if len(obj.data.polygons)), None)
    if skin is None:
        raise ClipError(f"hand {name!r}: no mesh is deformed by it; add a mesh with an Armature modifier")

    mesh = skin.data
    vertices = np.empty(len(mesh.vertices) * 3, np.float32)
    mesh.vertices.foreach_get("co", vertices)
    to_armature = np.array(armature.matrix_world.inverted() @ skin.matrix_world, np.float64)
    vertices = vertices.reshape(-1, 3).astype(np.float64) @ to_armature[:3, :3].T + to_armature[:3, 3]
    mesh.calc_loop_triangles()
    triangles = np.empty(len(mesh.loop_triangles) * 3, np.int32)
    mesh.loop_triangles.foreach_get("vertices", triangles)
    weights = np.zeros((len(vertices), len(JOINTS)))
    joint_of = {group.index: JOINTS.index(group.name) for group in skin.vertex_groups if group.name in JOINTS}
    for vertex in mesh.vertices:
        for element in vertex.groups:
            if element.group in joint_of:
                weights[vertex.index, joint_of[element.group]] = element.weight
    total = weights.sum(axis=1, keepdims=True)
    weights[total[:, 0] == 0, JOINTS.index("wrist")] = 1.0
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
    rest = np.array([armature.data.bones[joint].matrix_local for joint in JOINTS], np.float64)
    side = "right" if rest[JOINTS.index("thumb-metacarpal"), 0, 3] < rest[0, 0, 3] else "left"
    arm = weights[:, 0] > 0.99
    forearm = arm & (vertices[:, 1] < rest[0, 1, 3] - 0.005)
    faces = triangles.reshape(-1, 3)
    return RiggedHand(
        armature,
        HandModel(side, vertices, faces, rest, weights, np.zeros(len(faces), bool), forearm),
        scale,
    )


def _skins(armature: bpy.types.Object) -> list[bpy.types.Object]:
    return [
        obj
        for obj in bpy.data.objects
        if obj.type == "MESH" and any(m.type == "ARMATURE" and m.object == armature for m in obj.modifiers)
    ]


def key_matrix(obj: bpy.types.Object, frame: float, matrix_world: Matrix) -> None:
    """Location and rotation keys, whatever the object's parents and rotation mode."""
    before = obj.rotation_quaternion.copy(), obj.rotation_euler.copy()
    obj.matrix_world = matrix_world
    if obj.rotation_mode == "QUATERNION" and obj.rotation_quaternion.dot(before[0]) < 0:
        obj.rotation_quaternion.negate()
    elif obj.rotation_mode not in ("QUATERNION", "AXIS_ANGLE"):
        obj.rotation_euler.make_compatible(before[1])
    obj.keyframe_insert("location", frame=frame)
    obj.keyframe_insert(rotation_channel(obj), frame=frame)


def rotation_channel(owner: bpy.types.Object | bpy.types.PoseBone) -> str:
    return {"QUATERNION": "rotation_quaternion", "AXIS_ANGLE": "rotation_axis_angle"}.get(
        owner.rotation_mode, "rotation_euler"
    )


def key_pose(armature: bpy.types.Object, frame: float, angles: np.ndarray) -> None:
    """Rotation keys of the bones that bend, from angles J x 3, in each bone's own rotation mode."""
    for name in FLEXING:
        bone = armature.pose.bones[name]
        turn = Euler(angles[JOINTS.index(name)].tolist(), "XYZ")
        channel = rotation_channel(bone)
        if channel == "rotation_quaternion":
            bone.rotation_quaternion = turn.to_quaternion()
        elif channel == "rotation_axis_angle":
            axis, angle = turn.to_quaternion().to_axis_angle()
            bone.rotation_axis_angle = (angle, *axis)
        else:
            bone.rotation_euler = turn.to_matrix().to_euler(bone.rotation_mode, bone.rotation_euler)
        bone.keyframe_insert(channel, frame=frame)


def clear_keys(owner: bpy.types.Object, armature: bpy.types.Object, first: int, last: int, *, wrist: bool) -> None:
    """Remove whole-frame keys of the fingers (and the wrist) from ``first`` to ``last``, so that none is in the way."""
    data = armature.animation_data
    if data is None or data.action is None:
        return
    channels = [(armature.pose.bones[name], rotation_channel(armature.pose.bones[name])) for name in FLEXING]
    if wrist:
        channels += [(owner, "location"), (owner, rotation_channel(owner))]
    keyed = _keyed_paths(armature)
    for item, channel in channels:
        if item.path_from_id(channel) in keyed:
            for frame in range(first, last + 1):
                item.keyframe_delete(channel, frame=frame)


def _keyed_paths(armature: bpy.types.Object) -> set[str]:
    from ..compat import action_curves

    return {curve.data_path for curve in action_curves(armature)}
