# SPDX-License-Identifier: GPL-3.0-or-later
"""Which things in a scene are hands, and which one they hold: from names, bones, animation, size and nearness."""

from __future__ import annotations

import re
from dataclasses import dataclass

import bpy
import numpy as np

from .meshes import GEOMETRY_TYPES
from .surfaces import surfaces_of

_HAND = re.compile(r"hand|glove|palm|mano|arm(?!ature|our|or|chair)|wrist|fist", re.IGNORECASE)
_LEFT = re.compile(r"(?:^|[^a-z])(?:l|left)(?:[^a-z]|$)|left|[a-z]L$")
_RIGHT = re.compile(r"(?:^|[^a-z])(?:r|right)(?:[^a-z]|$)|right|[a-z]R$")
_FINGERS = ("thumb", "index", "middle", "ring", "pinky|little")
_SCENERY = re.compile(
    r"table|floor|ground|wall|plane|room|backdrop|desk|shelf|ceiling|sky|world|stage|grid|counter|landscape|light|lamp",
    re.IGNORECASE,
)
_THING = re.compile(
    r"mug|cup|bottle|box|book|ball|can|jar|bowl|tool|hammer|knife|spoon|fork|phone|pen|glass|apple|fruit|key|handle|"
    r"object|prop|toy|drill|brush|remote|mouse|plate|pan|pot|kettle|scissors|screwdriver",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Guess:
    """``objects`` belong together as one hand or thing; ``reason`` says why, for a person."""

    role: str
    objects: tuple[bpy.types.Object, ...]
    reason: str


def guess_marks(scene: bpy.types.Scene) -> list[Guess]:
    """At most one left hand, one right hand and one object, judged at the scene's current frame."""
    hands = _hands(scene)
    taken = {obj for hand in hands for top in hand.objects for obj in (top, *surfaces_of(scene, top))}
    thing = _thing(scene, hands, taken)
    return [*hands, *([thing] if thing is not None else [])]


def fingers_in(names: list[str]) -> list[str]:
    """The fingers of a hand that a list of bone names tells of."""
    return [finger.split("|")[0] for finger in _FINGERS if any(re.search(finger, name.lower()) for name in names)]


def side_of(name: str) -> str:
    """ "left", "right" or "" from a name such as ``hand.L``, ``RightHand`` or ``glove_r_01``."""
    lower = name.lower()
    left, right = bool(_LEFT.search(lower) or _LEFT.search(name)), bool(_RIGHT.search(lower) or _RIGHT.search(name))
    return "left" if left and not right else "right" if right and not left else ""


def _hands(scene: bpy.types.Scene) -> list[Guess]:
    found: dict[str, tuple[float, Guess]] = {}

    def offer(score: float, side: str, obj: bpy.types.Object, reason: str) -> None:
        role = f"{side}_hand"
        if role not in found or found[role][0] < score:
            found[role] = (score, Guess(role, (obj,), reason))

    rigs = set()
    for obj in scene.objects:
        if obj.type != "ARMATURE" or not any(surfaces_of(scene, obj)):
            continue
        bones = [bone.name for bone in obj.data.bones]
        fingers = fingers_in(bones)
        if len(fingers) < 3:
            continue
        rigs.add(obj)
        fingered = [bone for bone in bones if fingers_in([bone])]
        sides = {side_of(bone) for bone in fingered} - {""}
        side = side_of(obj.name) or (sides.pop() if len(sides) == 1 else "") or _side_of_thumb(obj)
        reason = f"bones of {len(fingers)} fingers"
        if len(sides) == 2 and not side_of(obj.name):
            reason += ", of both hands: one mark for the two"
        offer(3.0, side or "right", obj, reason + ("" if side else "; its side is not clear"))
    for obj in scene.objects:
        if obj.type not in GEOMETRY_TYPES or obj.find_armature() in rigs or not _HAND.search(obj.name):
            continue
        if _SCENERY.search(obj.name) or not _has_surface(obj):
            continue
        top = obj.find_armature() or obj
        side = side_of(obj.name) or (side_of(top.name) if top is not obj else "")
        offer(2.0 if side else 1.0, side or "right", top, f"named {obj.name!r}" + ("" if side else "; side not clear"))
    return [found[role][1] for role in ("left_hand", "right_hand") if role in found]


def _side_of_thumb(armature: bpy.types.Object) -> str:
    """From where the thumb is when the fingers point forwards and bend downwards; "" if that cannot be told."""
    where: dict[str, np.ndarray] = {}
    for bone in armature.data.bones:
        for finger in fingers_in([bone.name]):
            where.setdefault(finger, np.array(bone.head_local))
            where[f"{finger} tip"] = np.array(bone.tail_local)
    if not {"thumb", "index", "pinky", "index tip"} <= where.keys():
        return ""
    forward = where["index tip"] - where["index"]
    across = where["pinky"] - where["index"]
    towards_thumb = where["thumb tip"] - where["index"]
    palm = np.cross(forward, across)  # out of the palm of a right hand; the thumb leans to the palm's side
    height = float(towards_thumb @ palm) / (np.linalg.norm(palm) * np.linalg.norm(towards_thumb) + 1e-12)
    if abs(height) < 0.15:
        return ""
    return "right" if height > 0 else "left"


def _thing(scene: bpy.types.Scene, hands: list[Guess], taken: set[bpy.types.Object]) -> Guess | None:
    metre = scene.unit_settings.scale_length if scene.unit_settings.system != "NONE" else 1.0
    hand_boxes = [_box([mesh for top in hand.objects for mesh in surfaces_of(scene, top)]) for hand in hands]
    best: tuple[float, Guess] | None = None
    for obj in scene.objects:
        if obj.type not in GEOMETRY_TYPES or obj in taken or obj.hide_render or not _has_surface(obj):
            continue
        if not obj.visible_get(view_layer=scene.view_layers[0]) or obj.find_armature() is not None:
            continue
        box = _box([obj])
        size = float(np.ptp(box, axis=0).max()) * metre
        least = float(np.ptp(box, axis=0).min()) * metre
        reasons, points = [], 0.0
        if hand_boxes:
            gap = min(_gap(box, other) for other in hand_boxes)
            hand = max(float(np.ptp(other, axis=0).max()) for other in hand_boxes)
            size_in_hands = size / metre / hand
            if size_in_hands > 4.0:
                continue
            points += 2.0 if 0.08 < size_in_hands < 1.5 else 0.0
            points += 2.0 * float(np.exp(-2.0 * gap / hand))
            if gap < 0.5 * hand:
                reasons.append("near the hand")
        elif not 0.01 < size < 0.8:
            continue
        reasons.append(f"{100 * size:.0f} cm")
        if _moves(obj):
            points += 1.5
            reasons.insert(0, "animated")
        if _THING.search(obj.name):
            points += 1.0
            reasons.insert(0, "its name")
        if _SCENERY.search(obj.name):
            points -= 3.0
        if least < 0.02 * size:
            points -= 1.5  # a sheet is rather scenery
        top = obj
        while top.parent is not None and top.parent.type == "EMPTY" and top.parent not in taken:
            top = top.parent
        if best is None or points > best[0]:
            best = (points, Guess("object", (top,), ", ".join(reasons)))
    return best[1] if best is not None and best[0] > 0.5 else None


def _moves(obj: bpy.types.Object) -> bool:
    while obj is not None:
        animated = obj.animation_data is not None and (obj.animation_data.action or obj.animation_data.drivers)
        if animated or obj.rigid_body is not None or any(c.type == "CHILD_OF" for c in obj.constraints):
            return True
        obj = obj.parent
    return False


def _has_surface(obj: bpy.types.Object) -> bool:
    return obj.type != "MESH" or len(obj.data.polygons) > 0 or len(obj.modifiers) > 0


def _box(objects: list[bpy.types.Object]) -> np.ndarray:
    """Lowest and highest corner, 2 x 3, of the objects' boxes in the world."""
    corners = []
    for obj in objects:
        matrix = np.array(obj.matrix_world)
        corners.append(np.array(obj.bound_box) @ matrix[:3, :3].T + matrix[:3, 3])
    points = np.concatenate(corners)
    return np.stack([points.min(axis=0), points.max(axis=0)])


def _gap(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(np.maximum(0.0, np.maximum(a[0] - b[1], b[0] - a[1]))))
