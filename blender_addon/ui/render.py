# SPDX-License-Identifier: GPL-3.0-or-later
"""Real Video: prompt, model and quality, the checklist, and the button that it is all about."""

from __future__ import annotations

import bpy

from ..shot import checklist
from .common import Panel, draw_check, draw_text
from .progress import draw_progress


class HVG3D_PT_render(Panel, bpy.types.Panel):
    bl_idname = "HVG3D_PT_render"
    bl_label = "Real Video"
    bl_order = 4

    def draw_shot(self, layout, context, shot):
        width = context.region.width
        column = layout.column()
        column.prop(shot, "prompt")
        column.prop(shot, "model_choice")
        column.prop(shot, "quality")
        row = column.row(align=True)
        row.prop(shot, "seed")
        row.operator("hvg3d.new_seed", text="", icon="FILE_REFRESH")

        column = layout.column(align=True)
        big = column.column(align=True)
        big.scale_y = 1.6
        big.operator("hvg3d.render_real", icon="RENDER_ANIMATION")
        column.operator("hvg3d.export_clip", icon="EXPORT")
        draw_progress(layout, draw_text, width)
        box = layout.box().column()
        for check in checklist(context.scene):
            draw_check(box, check, width)


class HVG3D_PT_advanced(Panel, bpy.types.Panel):
    bl_idname = "HVG3D_PT_advanced"
    bl_label = "Advanced"
    bl_parent_id = "HVG3D_PT_render"
    bl_options = {"DEFAULT_CLOSED"}

    def draw_shot(self, layout, context, shot):
        row = layout.row()
        row.enabled = shot.quality == "CUSTOM"
        row.prop(shot, "steps")
        layout.prop(shot, "negative_prompt")
        row = layout.row(heading="Guidance")
        row.prop(shot, "use_guidance", text="")
        value = row.row()
        value.enabled = shot.use_guidance
        value.prop(shot, "guidance", text="")
        layout.prop(shot, "control_scale")
        column = layout.column(heading="Show the Network", align=True)
        column.prop(shot, "use_points")
        column.prop(shot, "use_tracking")


CLASSES = (HVG3D_PT_render, HVG3D_PT_advanced)
