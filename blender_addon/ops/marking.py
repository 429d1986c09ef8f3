# SPDX-License-Identifier: GPL-3.0-or-later
"""Marking hands and objects, and other settings of a shot that need more than a field."""

from __future__ import annotations

import random

import bpy
from bpy.props import EnumProperty, IntProperty

from ..properties import ROLE_ITEMS
from ..scene.meshes import GEOMETRY_TYPES

_MARKABLE = GEOMETRY_TYPES | {"ARMATURE", "EMPTY"}


class HVG3D_OT_mark(bpy.types.Operator):
    bl_idname = "hvg3d.mark"
    bl_label = "Mark Selected"
    bl_description = "Mark the selected objects. A hand's armature or a parent empty stands for all of its meshes"
    bl_options = {"REGISTER", "UNDO"}

    role: EnumProperty(name="Role", items=ROLE_ITEMS, default="object")

    @classmethod
    def poll(cls, context):
        if not any(obj.type in _MARKABLE for obj in context.selected_objects):
            cls.poll_message_set("Select the meshes, the armature or the empty of a hand or an object first")
            return False
        return True

    def execute(self, context):
        shot = context.scene.hvg3d
        chosen = [obj for obj in context.selected_objects if obj.type in _MARKABLE]
        if context.active_object in chosen:
            chosen.sort(key=lambda obj: obj != context.active_object)
        _release(shot, chosen)
        entity = next((e for e in shot.entities if e.role == self.role), None) if self.role.endswith("_hand") else None
        if entity is None:  # each hand is one entity, objects are one each
            entity = shot.entities.add()
            entity.role = self.role
            label = self.role.replace("_", " ") if self.role.endswith("_hand") else chosen[0].name
            taken = {other.name for other in shot.entities}
            entity.name = next(name for name in (label, *(f"{label} {n}" for n in range(2, 999))) if name not in taken)
        for obj in chosen:
            entity.objects.add().object = obj
        shot.entity_index = list(shot.entities).index(entity)
        return {"FINISHED"}


def _release(shot, objects) -> None:
    """Take ``objects`` out of what they were marked as before."""
    for index in reversed(range(len(shot.entities))):
        refs = shot.entities[index].objects
        for place in reversed(range(len(refs))):
            if refs[place].object in objects:
                refs.remove(place)
                if len(refs) == 0:
                    shot.entities.remove(index)
                    break


class HVG3D_OT_unmark(bpy.types.Operator):
    bl_idname = "hvg3d.unmark"
    bl_label = "Remove Mark"
    bl_description = "Take this hand or object out of the list; it stays in the scene"
    bl_options = {"REGISTER", "UNDO"}

    index: IntProperty(name="Index", default=-1, options={"HIDDEN"})

    def execute(self, context):
        shot = context.scene.hvg3d
        index = self.index if self.index >= 0 else shot.entity_index
        if index >= len(shot.entities):
            return {"CANCELLED"}
        shot.entities.remove(index)
        shot.entity_index = max(0, min(shot.entity_index, len(shot.entities) - 1))
        return {"FINISHED"}


class HVG3D_OT_select_marked(bpy.types.Operator):
    bl_idname = "hvg3d.select_marked"
    bl_label = "Select Marked"
    bl_description = "Select the objects of this hand or object in the scene"
    bl_options = {"REGISTER", "UNDO"}

    index: IntProperty(name="Index", default=0, options={"HIDDEN"})

    def execute(self, context):
        entities = context.scene.hvg3d.entities
        if self.index >= len(entities):
            return {"CANCELLED"}
        wanted = {ref.object for ref in entities[self.index].objects if ref.object is not None}
        for obj in context.view_layer.objects:
            obj.select_set(obj in wanted)
        active = next((obj for obj in context.view_layer.objects if obj in wanted), None)
        if active is not None:
            context.view_layer.objects.active = active
        return {"FINISHED"}


class HVG3D_OT_use_frame_count(bpy.types.Operator):
    bl_idname = "hvg3d.use_frame_count"
    bl_label = "Use This Many Frames"
    bl_description = (
        "The network works on 1 or 8k+1 frames. Ends the shot's own range there; the scene's stays as it is"
    )
    bl_options = {"REGISTER", "UNDO"}

    frames: IntProperty(name="Frames", default=49, min=1)

    def execute(self, context):
        shot = context.scene.hvg3d
        if shot.every_frame:
            first = shot.range_of(context.scene)[0]
            shot.frame_start, shot.frame_end = first, first + self.frames - 1
            shot.use_scene_range = False
        else:
            shot.num_frames = self.frames
        return {"FINISHED"}


class HVG3D_OT_add_camera(bpy.types.Operator):
    bl_idname = "hvg3d.add_camera"
    bl_label = "Add Camera"
    bl_description = "Add a camera that looks as the 3D viewport does now, and make it the scene's"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context):
        camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
        context.scene.collection.objects.link(camera)
        view = getattr(context.space_data, "region_3d", None)
        if view is not None:
            camera.matrix_world = view.view_matrix.inverted()
        context.scene.camera = camera
        return {"FINISHED"}


class HVG3D_OT_new_seed(bpy.types.Operator):
    bl_idname = "hvg3d.new_seed"
    bl_label = "New Seed"
    bl_description = "Choose another seed at random, for another video of the same shot"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context):
        context.scene.hvg3d.seed = random.randrange(2**31 - 1)
        return {"FINISHED"}


CLASSES = (
    HVG3D_OT_mark,
    HVG3D_OT_unmark,
    HVG3D_OT_select_marked,
    HVG3D_OT_use_frame_count,
    HVG3D_OT_add_camera,
    HVG3D_OT_new_seed,
)
