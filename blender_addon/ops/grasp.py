# SPDX-License-Identifier: GPL-3.0-or-later
"""Grasp: a hand comes to the marked object, closes its fingers until they touch, and all of it becomes keys."""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np
from bpy.props import BoolProperty, EnumProperty, IntProperty, StringProperty
from mathutils import Matrix, Quaternion

from ..core import ClipError, conditions
from ..demo.from_rig import RiggedHand, clear_keys, has_demo_bones, key_matrix, key_pose, read_hand
from ..demo.grasp import Grasp, close_round, grasp, open_hand
from ..demo.motion import ease
from ..demo.placement import find_grasp, refined
from ..overlay.bvh import bvh_finder
from ..overlay.distance import CachedDistance, SurfaceDistance
from ..properties import HOLD_TEXT, LEAD_IN_TEXT, PLACEMENT_ITEMS
from ..scene.meshes import MeshReader, expand_objects
from ..translations import tr

CURRENT_FRAME = -1_000_000
_STAND_OFF = 0.11  # metres: where a hand comes from that has no way of its own
_CLEARANCE = 0.004


@dataclass(frozen=True)
class Target:
    """The object to grasp in the solver's space (the hand's metres). surface: N x 3 points on it."""

    name: str
    tops: tuple[bpy.types.Object, ...]
    surface: np.ndarray
    exact: SurfaceDistance


class HVG3D_OT_grasp(bpy.types.Operator):
    """Python: ``bpy.ops.hvg3d.grasp(lead_in=12, placement='PALM', hold=True)``.

    Works on the marked hand and object; the outcome is in the report, and in ``armature['hvg3d_grasp']``: a dictionary
    with ``touching`` (names of fingers), ``penetration`` (metres of the hand's scale), ``frame`` and ``object``.
    """

    bl_idname = "hvg3d.grasp"
    bl_label = "Grasp"
    bl_description = (
        "Close the fingers of the marked hand on the marked object until they touch, complete at the current frame. "
        "Makes keys for the frames before it"
    )
    bl_options = {"REGISTER", "UNDO"}

    lead_in: IntProperty(name="Lead-In", description=LEAD_IN_TEXT, default=16, min=2, max=500)
    frame: IntProperty(
        name="Frame",
        description="Frame at which the grasp is complete; left alone, the current one",
        default=CURRENT_FRAME,
        options={"SKIP_SAVE"},
    )
    placement: EnumProperty(name="Wrist", description="What the wrist does", items=PLACEMENT_ITEMS, default="AUTO")
    hand: EnumProperty(
        name="Hand",
        description="Which of the marked hands grasps",
        items=(
            ("ANY", "Selected or Only One", "The one whose armature is active, or else the first that is marked"),
            ("LEFT", "Left", "The marked left hand"),
            ("RIGHT", "Right", "The marked right hand"),
        ),
        default="ANY",
    )
    object: StringProperty(
        name="Object",
        description="Name of the mark to grasp; empty is the marked object nearest to the hand",
        default="",
    )
    hold: BoolProperty(name="Hold", description=HOLD_TEXT, default=False)

    @classmethod
    def poll(cls, context):
        entities = context.scene.hvg3d.entities
        if context.mode not in ("OBJECT", "POSE"):
            cls.poll_message_set(tr("Switch to Object Mode or Pose Mode first"))
            return False
        if not any(entity.role.endswith("_hand") for entity in entities):
            cls.poll_message_set(tr("No hand is marked: add one with Add Hand"))
            return False
        if not any(entity.role == "object" for entity in entities):
            cls.poll_message_set(tr("No object is marked: select the thing to grasp and mark it as Object"))
            return False
        return True

    def execute(self, context):
        scene = context.scene
        frame_before = scene.frame_current
        frame = frame_before if self.frame == CURRENT_FRAME else self.frame
        context.view_layer.update()
        try:
            armature = self._armature(context)
            if frame != frame_before:
                scene.frame_set(frame)
            hand = read_hand(armature)
            target = read_target(context, hand, self.object)
            held, start = solve(hand, target, self.placement)
        except ClipError as error:
            scene.frame_set(frame_before)
            self.report({"ERROR"}, tr(str(error)))
            return {"CANCELLED"}
        key_grasp(scene, hand, held, start, target, frame, self.lead_in, moves=self.placement != "STAY")
        if self.hold:
            attach(target, hand, frame, frame - self.lead_in)
        scene.frame_set(frame_before)
        armature["hvg3d_grasp"] = {
            "touching": list(held.touching),
            "penetration": held.penetration,
            "frame": frame,
            "object": target.name,
        }
        self._tell(held, target, frame)
        return {"FINISHED"}

    def _tell(self, held: Grasp, target: Target, frame: int) -> None:
        depth = f"at most {1000 * held.penetration:.1f} mm inside"
        if len(held.touching) < 3 or held.penetration > 0.003:
            count = len(held.touching)
            text = (
                f"Frame {frame}: only {count} finger{'s' * (count != 1)} touch {target.name}, {depth}. Turn or move "
                "the hand so that its palm faces the object, or set Wrist to Find a Place"
            )
            self.report({"WARNING"}, tr(text))
            return
        self.report({"INFO"}, tr(f"Frame {frame}: {', '.join(held.touching)} touch {target.name}, {depth}"))

    def _armature(self, context) -> bpy.types.Object:
        wanted = {"LEFT": ("left_hand",), "RIGHT": ("right_hand",)}.get(self.hand, ("left_hand", "right_hand"))
        marked = [obj for e in context.scene.hvg3d.entities if e.role in wanted for obj in e.members()]
        rigs = []
        for obj in marked:
            rig = obj if obj.type == "ARMATURE" else obj.find_armature()
            if rig is not None and rig not in rigs:
                rigs.append(rig)
        if not rigs:
            which = "hand" if self.hand == "ANY" else f"{self.hand.lower()} hand"
            raise ClipError(f"hand: no marked {which} has an armature; add one with Add Hand")
        if context.active_object in rigs:
            return context.active_object
        return next((rig for rig in rigs if has_demo_bones(rig)), rigs[0])


def read_target(context, hand: RiggedHand, name: str = "") -> Target:
    """The marked object ``name``, or the one nearest to the hand, as it is evaluated at the current frame."""
    scene = context.scene
    marked = [entity for entity in scene.hvg3d.entities if entity.role == "object" and entity.members()]
    if name:
        marked = [entity for entity in marked if entity.name == name]
        if not marked:
            raise ClipError(f"object: nothing is marked as {name!r}; use one of the names in the list of marks")
    owner: dict[str, int] = {}
    for index, entity in enumerate(marked):
        for part in expand_objects(scene, tuple(obj.name for obj in entity.members()), entity.name):
            owner.setdefault(part, index)
    meshes = MeshReader(owner).read(context.evaluated_depsgraph_get())
    at = np.array(hand.armature.matrix_world.translation) / hand.scale
    best: tuple[float, Target] | None = None
    for index, entity in enumerate(marked):
        own = [mesh for mesh in meshes if mesh.entity == index]
        if not own:
            continue
        start = np.cumsum([0] + [len(mesh.vertices) for mesh in own])
        vertices = np.concatenate([mesh.vertices for mesh in own]).astype(np.float64) / hand.scale
        triangles = np.concatenate([mesh.triangles + s for mesh, s in zip(own, start, strict=False)])
        try:
            exact = SurfaceDistance(vertices, triangles, bvh_finder)
        except ValueError as error:
            raise ClipError(f"object {entity.name!r}: {error}") from None
        surface = _spread(vertices, triangles)
        distance = float(np.linalg.norm(surface - at, axis=1).min())
        if best is None or distance < best[0]:
            best = (distance, Target(entity.name, tuple(entity.members()), surface, exact))
    if best is None:
        raise ClipError("object: what is marked has no faces at this frame; make it visible, or mark something else")
    size = float(np.ptp(best[1].surface, axis=0).max())
    if size > 3.0 or size < 0.004:
        raise ClipError(
            f"object {best[1].name!r}: it is {size:.3g} m large beside this hand of 0.19 m; scale one of them"
        )
    return best[1]


def _spread(vertices: np.ndarray, triangles: np.ndarray, count: int = 2500) -> np.ndarray:
    """About ``count`` points spread evenly over the surface, always the same ones."""
    binding = conditions.bind_surface(vertices, triangles, count, np.random.default_rng(0))
    return binding.evaluate(vertices).astype(np.float64)


def solve(hand: RiggedHand, target: Target, placement: str) -> tuple[Grasp, np.ndarray]:
    """The grasp and the open pose (J x 3 angles) that it starts from; raises :class:`ClipError` if there is none."""
    present = hand.wrist(hand.armature.matrix_world)
    exact = CachedDistance(target.exact)
    if placement == "AUTO":
        rough = CachedDistance(target.exact, band=0.0)
        held = find_grasp(hand.model, target.surface, rough, exact, present)
        if held is None:
            raise ClipError(f"object {target.name!r}: no place was found where the hand can hold it; place it yourself")
        return held, open_hand(hand.model.side)
    start = open_hand(hand.model.side)
    now = hand.angles()
    if np.abs(now).max() > 0.05:  # posed by somebody
        start = now
    fine = refined(hand.model)
    if placement == "PALM":
        reach = float(np.linalg.norm(target.surface - present[:3, 3], axis=1).max()) + 0.1
        held = grasp(fine, present, start, exact, reach=reach)
        if held is None:
            raise ClipError(
                f"object {target.name!r}: the palm does not meet it on its way straight ahead; turn the hand so that "
                "its palm faces the object, or set Wrist to Find a Place"
            )
        return held, start
    depth = -float(exact(fine.pose(start, present)).min())
    if depth > 0.003:
        raise ClipError(
            f"hand {hand.armature.name!r}: it is {1000 * depth:.0f} mm inside {target.name!r} before it closes; move "
            "it out, or set Wrist to Move Along Palm"
        )
    return close_round(fine, present, start, exact), start


def key_grasp(
    scene: bpy.types.Scene,
    hand: RiggedHand,
    held: Grasp,
    start: np.ndarray,
    target: Target,
    frame: int,
    lead_in: int,
    *,
    moves: bool,
) -> None:
    """Keys from ``frame - lead_in`` to ``frame``: the way there, then the fingers, the wrist standing still."""
    armature = hand.armature
    first = frame - lead_in
    closing = lead_in if not moves else max(1, round(0.45 * lead_in))
    arrives = frame - closing
    was_animated = armature.animation_data is not None and armature.animation_data.action is not None
    scene.frame_set(first)
    came_from = armature.matrix_world.copy()
    pose_before = hand.angles()
    scene.frame_set(frame)
    clear_keys(armature, armature, first + 1, frame, wrist=moves)
    if moves:
        way = _way(hand, held, start, target, hand.wrist(came_from), was_animated)
        for step in range(arrives - first + 1):
            share = step / max(arrives - first, 1)
            key_matrix(armature, first + step, hand.in_world(way(float(ease(np.array(share))))))
        key_matrix(armature, frame, hand.in_world(held.wrist))
    opened = pose_before if was_animated and not moves else start
    key_pose(armature, first, opened)
    key_pose(armature, arrives, start)
    for step in range(1, closing + 1):
        key_pose(armature, arrives + step, held.angles(step / closing))
    scene.frame_set(frame)


def _way(hand: RiggedHand, held: Grasp, start: np.ndarray, target: Target, origin: np.ndarray, animated: bool):
    """Wrist 4 x 4 at 0 (where the hand comes from) to 1 (the grasp), arriving along the palm's normal.

    Comes from ``origin`` if the way is free, else by way of (or, where nothing is animated yet, from) a point in front
    of the palm.
    """
    goal = held.wrist
    distance = CachedDistance(target.exact, band=0.0)
    before = goal.copy()
    before[:3, 3] += _STAND_OFF * goal[:3, 2]

    def straight(begin: np.ndarray, end: np.ndarray):
        turn_from, turn_to = (Quaternion(Matrix(m[:3, :3].tolist()).to_quaternion()) for m in (begin, end))
        offset = begin[:3, 3] - end[:3, 3]
        normal = end[:3, 2] * float(offset @ end[:3, 2])

        def at(share: float) -> np.ndarray:
            left = 1.0 - share
            wrist = np.eye(4)
            wrist[:3, :3] = np.array(turn_to.slerp(turn_from, left * left).to_matrix())
            wrist[:3, 3] = end[:3, 3] + left * normal + left * left * (offset - normal)
            return wrist

        return at

    def free(way) -> bool:
        poses = np.stack([way(share) for share in np.linspace(0.0, 0.97, 14)])
        points = hand.model.pose(np.repeat(start[None], len(poses), axis=0), poses)
        least = distance(points).min(axis=1)
        return bool(least[0] > _CLEARANCE and least.min() > -0.0005)

    direct = straight(origin, goal)
    if free(direct):
        return direct
    if not animated:
        return straight(before, goal)
    first, second = straight(origin, before), straight(before, goal)
    return lambda share: first(share / 0.6) if share < 0.6 else second((share - 0.6) / 0.4)


def attach(target: Target, hand: RiggedHand, frame: int, start: int) -> None:
    """From ``frame`` on the object follows the hand."""
    inverse = hand.armature.matrix_world.inverted()
    for obj in target.tops:
        if any(parent in target.tops for parent in _parents(obj)):
            continue
        constraint = next((c for c in obj.constraints if c.type == "CHILD_OF" and c.target == hand.armature), None)
        if constraint is None:
            constraint = obj.constraints.new("CHILD_OF")
            constraint.name = "Held by " + hand.armature.name
            constraint.target = hand.armature
        constraint.inverse_matrix = inverse
        constraint.influence = 0.0
        constraint.keyframe_insert("influence", frame=start)
        constraint.keyframe_insert("influence", frame=frame - 1)
        constraint.influence = 1.0
        constraint.keyframe_insert("influence", frame=frame)


def _parents(obj: bpy.types.Object):
    while obj.parent is not None:
        obj = obj.parent
        yield obj


CLASSES = (HVG3D_OT_grasp,)
