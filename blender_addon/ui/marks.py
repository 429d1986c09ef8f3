# SPDX-License-Identifier: GPL-3.0-or-later
"""Hands and objects: what is marked, and a hand to grasp with."""

from __future__ import annotations

import bpy

from ..translations import tr
from .common import Panel, draw_operator, draw_text

_ROLES = (("left_hand", "Left Hand"), ("right_hand", "Right Hand"), ("object", "Object"))


class HVG3D_UL_entities(bpy.types.UIList):
    def draw_item(self, context, layout, data, item, icon, active_data, active_property, index):
        row = layout.row(align=True)
        row.prop(item, "role", text="", emboss=False, icon_only=True)
        row.prop(item, "name", text="", emboss=False)
        right = row.row(align=True)
        draw_operator(right, "hvg3d.select_marked", text="", icon="RESTRICT_SELECT_OFF", emboss=False, index=index)
        draw_operator(right, "hvg3d.unmark", text="", icon="X", emboss=False, index=index)


class HVG3D_PT_marks(Panel, bpy.types.Panel):
    bl_idname = "HVG3D_PT_marks"
    bl_label = "Hands and Objects"
    bl_order = 0

    def draw_shot(self, layout, context, shot):
        column = layout.column(align=True)
        column.label(text="Mark the selection as")
        row = column.row(align=True)
        row.enabled = len(context.selected_objects) > 0
        for role, label in _ROLES:
            draw_operator(row, "hvg3d.mark", text=label, role=role)
        row = column.row(align=True)
        row.operator("hvg3d.guess_marks", text="Guess", icon="VIEWZOOM")
        row.menu("HVG3D_MT_mark_collection", text="Collection", icon="OUTLINER_COLLECTION")
        if len(shot.entities) == 0:
            return
        rows = max(2, min(len(shot.entities), 5))
        layout.template_list("HVG3D_UL_entities", "", shot, "entities", shot, "entity_index", rows=rows)
        if 0 <= shot.entity_index < len(shot.entities):
            entity = shot.entities[shot.entity_index]
            layout.prop(entity, "role")
            if entity.reason:
                draw_text(layout, f"Guessed: {entity.reason}", context.region.width, "INFO")


class HVG3D_MT_mark_collection(bpy.types.Menu):
    bl_idname = "HVG3D_MT_mark_collection"
    bl_label = "Mark Active Collection"
    bl_description = "Mark all objects of the collection that is active in the Outliner"

    def draw(self, context):
        collection = context.collection
        self.layout.label(text=tr(f"Mark {collection.name!r} as"), icon="OUTLINER_COLLECTION")
        for role, label in _ROLES:
            draw_operator(self.layout, "hvg3d.mark", text=label, role=role, collection=collection.name)


class HVG3D_PT_grasp(Panel, bpy.types.Panel):
    bl_idname = "HVG3D_PT_grasp"
    bl_label = "Script a Grasp"
    bl_order = 1
    bl_options = {"DEFAULT_CLOSED"}

    def draw_shot(self, layout, context, shot):
        row = layout.row(align=True)
        draw_operator(row, "hvg3d.add_hand", text="Add Left Hand", side="LEFT")
        draw_operator(row, "hvg3d.add_hand", text="Add Right Hand", side="RIGHT")
        settings = shot.grasp
        layout.prop(settings, "placement")
        layout.prop(settings, "lead_in")
        layout.prop(settings, "hold")
        draw_operator(
            layout.column(),
            "hvg3d.grasp",
            text=f"Grasp at Frame {context.scene.frame_current}",
            icon="VIEW_PAN",
            lead_in=settings.lead_in,
            placement=settings.placement,
            hold=settings.hold,
        )


CLASSES = (HVG3D_UL_entities, HVG3D_MT_mark_collection, HVG3D_PT_marks, HVG3D_PT_grasp)
