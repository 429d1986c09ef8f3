# SPDX-License-Identifier: GPL-3.0-or-later
"""The panels, in the order of work: mark, set up the shot, check, render."""

from __future__ import annotations

import textwrap

import bpy

from ..runtime import RUNTIME
from ..shot import Check, checklist
from .progress import draw_progress


def draw_text(layout, text: str, width: int, icon: str = "NONE") -> None:
    """Several lines of text, broken to the ``width`` in pixels of where they are drawn."""
    column = layout.column(align=True)
    characters = max(20, int(width / (6.3 * bpy.context.preferences.system.ui_scale)) - 8)
    for number, line in enumerate(textwrap.wrap(text, characters) or [""]):
        column.label(text=line, icon=icon if number == 0 else ("BLANK1" if icon != "NONE" else "NONE"))


def draw_check(layout, check: Check, width: int) -> None:
    icon = "CHECKMARK" if check.ok else "ERROR"
    column = layout.column(align=True)
    draw_text(column, check.text, width, icon)
    if check.fixes:
        row = column.row(align=True)
        row.label(text="", icon="BLANK1")
        for fix in check.fixes:
            button = row.operator(fix.operator, text=fix.label)
            for name, value in fix.properties.items():
                setattr(button, name, value)


def draw_server(layout) -> None:
    """State of the server with a button to ask again, for the preferences."""
    server = RUNTIME.server
    row = layout.row()
    icon = {"ready": "CHECKMARK", "problem": "ERROR"}.get(server.state, "QUESTION")
    row.label(text=server.message, icon=icon)
    row.operator("hvg3d.check_server", text="", icon="FILE_REFRESH")
    if server.remedy:
        layout.label(text=server.remedy, icon="BLANK1")


class HVG3D_UL_entities(bpy.types.UIList):
    def draw_item(self, context, layout, data, item, icon, active_data, active_property, index):
        row = layout.row(align=True)
        row.prop(item, "role", text="", emboss=False, icon_only=True)
        row.prop(item, "name", text="", emboss=False)
        right = row.row(align=True)
        right.operator("hvg3d.select_marked", text="", icon="RESTRICT_SELECT_OFF", emboss=False).index = index
        right.operator("hvg3d.unmark", text="", icon="X", emboss=False).index = index


class _Panel:
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "HVG-3D"


class HVG3D_PT_marks(_Panel, bpy.types.Panel):
    bl_idname = "HVG3D_PT_marks"
    bl_label = "Hands and Objects"
    bl_order = 0

    def draw(self, context):
        layout = self.layout
        shot = context.scene.hvg3d
        column = layout.column(align=True)
        column.label(text="Mark the selection as")
        row = column.row(align=True)
        for role, label in (("left_hand", "Left Hand"), ("right_hand", "Right Hand"), ("object", "Object")):
            row.operator("hvg3d.mark", text=label).role = role
        if len(shot.entities) > 0:
            layout.template_list(
                "HVG3D_UL_entities", "", shot, "entities", shot, "entity_index", rows=max(2, min(len(shot.entities), 5))
            )


class HVG3D_PT_shot(_Panel, bpy.types.Panel):
    bl_idname = "HVG3D_PT_shot"
    bl_label = "Shot"
    bl_order = 1

    def draw(self, context):
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        scene = context.scene
        shot = scene.hvg3d
        layout.prop(shot, "camera", text="Camera", placeholder=scene.camera.name if scene.camera else "")
        column = layout.column(align=True)
        column.prop(shot, "use_scene_range")
        if not shot.use_scene_range:
            column.prop(shot, "frame_start", text="Frame Start")
            column.prop(shot, "frame_end", text="End")
        column.prop(shot, "every_frame")
        if not shot.every_frame:
            column.prop(shot, "num_frames")
        column = layout.column(align=True)
        column.prop(shot, "width", text="Size X")
        column.prop(shot, "height", text="Y")
        column = layout.column(align=True)
        column.prop(shot, "reference_source")
        if shot.reference_source != "RENDER":
            column.prop(shot, "reference_path")
        if shot.reference_source == "MOVIE":
            column.prop(shot, "reference_frame")


class HVG3D_PT_sampling(_Panel, bpy.types.Panel):
    bl_idname = "HVG3D_PT_sampling"
    bl_label = "Sampling"
    bl_parent_id = "HVG3D_PT_shot"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context):
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.prop(context.scene.hvg3d, "points_per_entity")
        layout.prop(context.scene.hvg3d, "num_tracks")


class HVG3D_PT_render(_Panel, bpy.types.Panel):
    bl_idname = "HVG3D_PT_render"
    bl_label = "Real Video"
    bl_order = 2

    def draw(self, context):
        layout = self.layout
        shot = context.scene.hvg3d
        width = context.region.width
        column = layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.prop(shot, "model_choice")
        column.prop(shot, "prompt")
        row = column.row(align=True)
        row.prop(shot, "seed")
        row.operator("hvg3d.new_seed", text="", icon="FILE_REFRESH")

        box = layout.box().column()
        for check in checklist(context.scene):
            draw_check(box, check, width)

        column = layout.column(align=True)
        big = column.column(align=True)
        big.scale_y = 1.6
        big.operator("hvg3d.render_real", icon="RENDER_ANIMATION")
        column.operator("hvg3d.export_clip", icon="EXPORT")
        draw_progress(layout, draw_text, width)


CLASSES = (HVG3D_UL_entities, HVG3D_PT_marks, HVG3D_PT_shot, HVG3D_PT_sampling, HVG3D_PT_render)
