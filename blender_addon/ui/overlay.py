# SPDX-License-Identifier: GPL-3.0-or-later
"""See what will be sent: points, trails and contact."""

from __future__ import annotations

import bpy

from ..overlay import display
from .common import Panel, draw_text


class HVG3D_PT_overlay(Panel, bpy.types.Panel):
    bl_idname = "HVG3D_PT_overlay"
    bl_label = "See What Is Sent"
    bl_order = 3
    bl_options = {"DEFAULT_CLOSED"}

    def draw_header(self, context):
        self.layout.prop(context.scene.hvg3d.overlay, "show", text="")

    def draw_shot(self, layout, context, shot):
        settings = shot.overlay
        if settings.show:
            draw_text(layout, display.text(context.scene), context.region.width, "INFO")
        layout.operator("hvg3d.check_contact", icon="VIEWZOOM")
        column = layout.column()
        column.active = settings.show
        column.prop(settings, "color")
        column.prop(settings, "point_size")
        column.prop(settings, "in_front")
        row = column.row(heading="Trails")
        row.prop(settings, "show_trails", text="")
        value = row.row()
        value.active = settings.show_trails
        value.prop(settings, "trail_frames", text="")
        column.prop(settings, "show_graph")
        column.prop(settings, "tolerance")


CLASSES = (HVG3D_PT_overlay,)
