# SPDX-License-Identifier: GPL-3.0-or-later
"""Marking hands and objects."""

from __future__ import annotations

from collections.abc import Iterable

import bpy
from bpy.props import BoolProperty, EnumProperty, IntProperty, StringProperty

from ..properties import MARKABLE_TYPES, ROLE_ITEMS
from ..scene.guess import guess_marks
from ..scene.surfaces import surfaces_of
from ..shot import entity_problem
from ..translations import tr


def mark_objects(
    shot,
    objects: Iterable[bpy.types.Object],
    role: str,
    collection: bpy.types.Collection | None = None,
    reason: str = "",
):
    """Marks ``objects``, or ``collection`` for all of its objects, and returns the entity they now belong to.

    Each hand is one entity, objects are one each. What was marked as something else before changes sides.
    """
    objects = list(objects)
    _release(shot, objects, collection)
    is_hand = role.endswith("_hand")
    entity = next((e for e in shot.entities if e.role == role), None) if is_hand else None
    if entity is None:
        entity = shot.entities.add()
        entity.role = role
        label = role.replace("_", " ") if is_hand else (collection or objects[0]).name
        taken = {other.name for other in shot.entities}
        entity.name = next(name for name in (label, *(f"{label} {n}" for n in range(2, 999))) if name not in taken)
    entity.reason = reason
    if collection is not None:
        entity.objects.add().collection = collection
    else:
        for obj in objects:
            entity.objects.add().object = obj
    shot.entity_index = list(shot.entities).index(entity)
    return entity


def _release(shot, objects: list[bpy.types.Object], collection: bpy.types.Collection | None) -> None:
    for index in reversed(range(len(shot.entities))):
        refs = shot.entities[index].objects
        for place in reversed(range(len(refs))):
            ref = refs[place]
            if ref.object in objects or (collection is not None and ref.collection == collection):
                refs.remove(place)
        if len(refs) == 0:
            shot.entities.remove(index)


class _OnEntity:
    """Operators on one line of the list."""

    bl_options = {"REGISTER", "UNDO"}
    index: IntProperty(
        name="Index", description="Line of the list; -1 is the active one", default=-1, options={"HIDDEN"}
    )

    def execute(self, context):
        shot = context.scene.hvg3d
        index = self.index if self.index >= 0 else shot.entity_index
        if not 0 <= index < len(shot.entities):
            self.report({"WARNING"}, tr(f"There is no mark number {index + 1}"))
            return {"CANCELLED"}
        self.act(context, shot, index)
        return {"FINISHED"}


class HVG3D_OT_mark(bpy.types.Operator):
    """Python: ``bpy.ops.hvg3d.mark(role='right_hand')``, or with ``collection='Hand'`` for a whole collection."""

    bl_idname = "hvg3d.mark"
    bl_label = "Mark as Hand or Object"
    bl_description = (
        "Mark the selected objects, or all of a collection. A hand's armature or a parent empty stands for its meshes"
    )
    bl_options = {"REGISTER", "UNDO"}

    role: EnumProperty(name="Role", description="What they are", items=ROLE_ITEMS, default="object")
    collection: StringProperty(
        name="Collection", description="Mark this collection instead of the selected objects", default=""
    )

    @classmethod
    def poll(cls, context):
        if context.scene is None:
            cls.poll_message_set(tr("There is no scene"))
            return False
        return True

    @classmethod
    def description(cls, context, properties):
        role = properties.role.replace("_", " ")
        if properties.collection:
            return tr(f"Mark everything in collection {properties.collection!r} as {role}")
        return tr(f"Mark the selected objects as {role}. A hand's armature or a parent empty stands for its meshes")

    def execute(self, context):
        if self.collection:
            collection = bpy.data.collections.get(self.collection)
            if collection is None or not any(obj.type in MARKABLE_TYPES for obj in collection.all_objects):
                self.report(
                    {"ERROR"}, tr(f"Collection {self.collection!r} has nothing with a surface; choose another one")
                )
                return {"CANCELLED"}
            mark_objects(context.scene.hvg3d, [], self.role, collection)
            return {"FINISHED"}
        chosen = [obj for obj in context.selected_objects if obj.type in MARKABLE_TYPES]
        if not chosen:
            self.report({"ERROR"}, "Select the meshes, the armature or the empty of a hand or an object first")
            return {"CANCELLED"}
        chosen.sort(key=lambda obj: obj != context.active_object)
        mark_objects(context.scene.hvg3d, chosen, self.role)
        return {"FINISHED"}


class HVG3D_OT_guess_marks(bpy.types.Operator):
    """Python: ``bpy.ops.hvg3d.guess_marks(keep=True)``."""

    bl_idname = "hvg3d.guess_marks"
    bl_label = "Guess Hands and Objects"
    bl_description = (
        "Find hands and objects by their names, bones and sizes. Look at the result in the list and correct it there"
    )
    bl_options = {"REGISTER", "UNDO"}

    keep: BoolProperty(name="Keep Marks", description="Leave what is marked already as it is", default=True)

    def execute(self, context):
        shot = context.scene.hvg3d
        if not self.keep:
            shot.entities.clear()
        marked = {obj for entity in shot.entities for obj in entity.members()}
        roles = {entity.role for entity in shot.entities}
        new = [
            guess
            for guess in guess_marks(context.scene)
            if not marked.intersection(guess.objects)
            and not (guess.role in roles and (guess.role.endswith("_hand") or guess.role == "object"))
        ]
        for guess in new:
            mark_objects(shot, guess.objects, guess.role, reason=guess.reason)
        if not new:
            self.report({"WARNING"}, "Nothing found that looks like a hand or an object; select it and mark it")
            return {"CANCELLED"}
        found = "; ".join(f"{g.objects[0].name} as {g.role.replace('_', ' ')}: {g.reason}" for g in new)
        self.report({"INFO"}, tr(f"Guessed {found}"))
        return {"FINISHED"}


class HVG3D_OT_unmark(_OnEntity, bpy.types.Operator):
    bl_idname = "hvg3d.unmark"
    bl_label = "Remove Mark"
    bl_description = "Take this hand or object out of the list; it stays in the scene"

    def act(self, context, shot, index):
        shot.entities.remove(index)
        shot.entity_index = max(0, min(shot.entity_index, len(shot.entities) - 1))


class HVG3D_OT_select_marked(_OnEntity, bpy.types.Operator):
    bl_idname = "hvg3d.select_marked"
    bl_label = "Select Marked"
    bl_description = "Select the objects of this hand or object in the scene"

    def act(self, context, shot, index):
        wanted = set(shot.entities[index].members())
        for obj in context.view_layer.objects:
            obj.select_set(obj in wanted)
        active = next((obj for obj in context.view_layer.objects if obj in wanted), None)
        if active is not None:
            context.view_layer.objects.active = active


class HVG3D_OT_show_marked(_OnEntity, bpy.types.Operator):
    bl_idname = "hvg3d.show_marked"
    bl_label = "Make Marked Visible"
    bl_description = "Show the objects of this hand or object in viewport and renders, and take dead ones off the list"

    def act(self, context, shot, index):
        entity = shot.entities[index]
        for place in reversed(range(len(entity.objects))):
            ref = entity.objects[place]
            obj = ref.object
            if ref.collection is None and (obj is None or context.scene.objects.get(obj.name) != obj):
                entity.objects.remove(place)
        for obj in entity.members():
            for part in {obj, *surfaces_of(context.scene, obj)}:
                part.hide_render = part.hide_viewport = False
                if context.view_layer.objects.get(part.name) is not None:
                    part.hide_set(False)
        problem = entity_problem(context.scene, entity)
        if problem:
            self.report({"WARNING"}, tr(problem))


CLASSES = (
    HVG3D_OT_mark,
    HVG3D_OT_guess_marks,
    HVG3D_OT_unmark,
    HVG3D_OT_select_marked,
    HVG3D_OT_show_marked,
)
