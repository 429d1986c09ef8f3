# SPDX-License-Identifier: GPL-3.0-or-later
"""Actions of what is marked: which there are, and what each of them moves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import bpy

from ..core import ClipError
from ..scene.restore import preserved

_BONE = re.compile(r'pose\.bones\["((?:[^"\\]|\\.)+)"\]')


def marked_things(scene: bpy.types.Scene) -> list[bpy.types.Object]:
    """What is marked, the armatures that move it, and what carries either."""
    things: dict[bpy.types.Object, None] = {}
    for entity in scene.hvg3d.entities:
        for obj in entity.members():
            rig = obj.find_armature()
            for thing in (obj, rig):
                while thing is not None:
                    things.setdefault(thing)
                    thing = thing.parent
    return list(things)


def scene_actions(scene: bpy.types.Scene) -> list[str]:
    """Names of the actions that move something marked in the scene."""
    things = marked_things(scene)
    return [action.name for action in bpy.data.actions if moved_by(action, things)]


def moved_by(
    action: bpy.types.Action, things: list[bpy.types.Object]
) -> list[tuple[bpy.types.Object, bpy.types.ActionSlot]]:
    """The objects that an action was made for, each with its slot.

    Those that use it or keep it in their NLA tracks, and those that a slot is named after; where there are none, the
    armatures that have all the bones that it moves.
    """
    slots = [slot for slot in action.slots if slot.target_id_type == "OBJECT"]
    if not slots:
        return []
    found = []
    for thing in things:
        slot = _slot_in_use(action, thing) or next((s for s in slots if s.identifier == f"OB{thing.name}"), None)
        if slot is not None:
            found.append((thing, slot))
    if found:
        return found
    for slot in slots:
        bones = _bones(action, slot)
        for thing in things:
            if bones and thing.type == "ARMATURE" and bones <= set(thing.data.bones.keys()):
                found.append((thing, slot))
    return found


def _slot_in_use(action: bpy.types.Action, thing: bpy.types.Object) -> bpy.types.ActionSlot | None:
    data = thing.animation_data
    if data is None:
        return None
    if data.action == action:
        return data.action_slot
    strips = (strip for track in data.nla_tracks for strip in track.strips)
    return next((strip.action_slot for strip in strips if strip.action == action and strip.action_slot), None)


def _bones(action: bpy.types.Action, slot: bpy.types.ActionSlot) -> set[str]:
    bags = (bag for layer in action.layers for strip in layer.strips for bag in strip.channelbags)
    paths = [curve.data_path for bag in bags if bag.slot_handle == slot.handle for curve in bag.fcurves]
    return {match[1] for path in paths if (match := _BONE.match(path))}


@contextmanager
def acting(scene: bpy.types.Scene, name: str) -> Iterator[None]:
    """The scene with an action in place of what its objects do otherwise; afterwards everything is as before.

    Poses that were changed by hand and not keyed are kept too, in this scene and in the one that is looked at, which
    may share its objects. Raises :class:`ClipError`.
    """
    action = bpy.data.actions.get(name)
    owners = moved_by(action, marked_things(scene)) if action is not None else []
    if not owners:
        raise ClipError(f"action: {name!r} moves nothing that is marked in scene {scene.name!r}; choose another action")
    with ExitStack() as stack:
        if bpy.context.scene != scene:
            stack.enter_context(preserved(bpy.context.scene))
        stack.enter_context(preserved(scene))
        for thing, slot in owners:
            stack.callback(_assigned(thing, action, slot))
        yield


def _assigned(thing: bpy.types.Object, action: bpy.types.Action, slot: bpy.types.ActionSlot):
    """Gives the action to the object; returns what takes it back."""
    own = thing.animation_data is not None
    data = thing.animation_data or thing.animation_data_create()
    tweaked = data.use_tweak_mode
    if tweaked:
        data.use_tweak_mode = False  # the action cannot be changed in it
    before, before_slot, last_slot = data.action, data.action_slot, data.last_slot_identifier
    data.action = action
    data.action_slot = slot

    def restore() -> None:
        if not own:
            thing.animation_data_clear()
            return
        data.action = before
        if before is not None:
            data.action_slot = before_slot
        data.last_slot_identifier = last_slot
        if tweaked:
            data.use_tweak_mode = True

    return restore
