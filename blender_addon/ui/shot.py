# SPDX-License-Identifier: GPL-3.0-or-later
"""The shot: camera, frames, size and the first picture."""

from __future__ import annotations

import bpy

from ..shot import frames_text, reference_is_current
from ..translations import tr
from .common import Panel, draw_text


class HVG3D_PT_shot(Panel, bpy.types.Panel):
    bl_idname = "HVG3D_PT_shot"
    bl_label = "Shot"
    bl_order = 2

    def draw_shot(self, layout, context, shot):
        scene = context.scene
        layout.prop(shot, "camera", text="Camera", placeholder=scene.camera.name if scene.camera else "")
        column = layout.column(align=True)
        column.prop(shot, "use_scene_range")
        if not shot.use_scene_range:
            column.prop(shot, "frame_start", text="Frame Start")
            column.prop(shot, "frame_end", text="End")
        column.prop(shot, "every_frame")
        if not shot.every_frame:
            column.prop(shot, "num_frames")
        text = frames_text(scene)
        if text:
            draw_text(column, text, context.region.width, "TIME")


class HVG3D_PT_first_picture(Panel, bpy.types.Panel):
    bl_idname = "HVG3D_PT_first_picture"
    bl_label = "First Picture"
    bl_parent_id = "HVG3D_PT_shot"
    bl_options = {"DEFAULT_CLOSED"}

    def draw_shot(self, layout, context, shot):
        layout.prop(shot, "reference_source", text="From")
        if shot.reference_source != "RENDER":
            row = layout.row(align=True)
            row.prop(shot, "reference_path")
        if shot.reference_source == "MOVIE":
            layout.prop(shot, "reference_frame")
        current = reference_is_current(context.scene)
        layout.operator("hvg3d.make_reference", text="Update" if shot.reference_image else "Show", icon="FILE_REFRESH")
        if shot.reference_image is None:
            return
        box = layout.box().column(align=True)
        box.template_icon(icon_value=shot.reference_image.preview_ensure().icon_id, scale=9.0)
        if current:
            box.label(text=tr(f"{shot.width} x {shot.height}, as it will be cropped"), icon="CHECKMARK")
        else:
            draw_text(box, "Made for other settings", context.region.width, "INFO")
        layout.prop(shot, "reference_keep")


class HVG3D_PT_sampling(Panel, bpy.types.Panel):
    bl_idname = "HVG3D_PT_sampling"
    bl_label = "Size and Points"
    bl_parent_id = "HVG3D_PT_shot"
    bl_options = {"DEFAULT_CLOSED"}

    def draw_shot(self, layout, context, shot):
        column = layout.column(align=True)
        column.prop(shot, "width", text="Size X")
        column.prop(shot, "height", text="Y")
        column = layout.column(align=True)
        column.prop(shot, "points_per_entity")
        column.prop(shot, "num_tracks")


CLASSES = (HVG3D_PT_shot, HVG3D_PT_first_picture, HVG3D_PT_sampling)
