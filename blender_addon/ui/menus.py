# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries in Blender's own menus, where people look, and so that F3 finds them: it searches what menus show."""

from __future__ import annotations

import bpy

from .common import draw_operator


class HVG3D_MT_render(bpy.types.Menu):
    """In the Render menu."""

    bl_idname = "HVG3D_MT_render"
    bl_label = "HVG-3D"

    def draw(self, context):
        layout = self.layout
        layout.operator_context = "INVOKE_DEFAULT"
        layout.operator("hvg3d.render_real", icon="RENDER_ANIMATION")
        layout.operator("hvg3d.cancel", icon="CANCEL")
        layout.operator("hvg3d.batch_start", icon="RENDERLAYERS")
        layout.separator()
        _draw_results(layout)
        layout.separator()
        layout.operator("hvg3d.make_reference", icon="IMAGE_REFERENCE")
        layout.operator("hvg3d.check_contact", icon="VIEWZOOM")
        layout.separator()
        layout.operator("hvg3d.start_server", icon="PLAY")
        layout.operator("hvg3d.stop_server", icon="PAUSE")
        layout.operator("hvg3d.show_preferences", icon="PREFERENCES")


class HVG3D_MT_object(bpy.types.Menu):
    """In the Object and Pose menus of the 3D viewport."""

    bl_idname = "HVG3D_MT_object"
    bl_label = "HVG-3D"

    def draw(self, context):
        layout = self.layout
        layout.operator_context = "INVOKE_DEFAULT"
        draw_operator(layout, "hvg3d.mark", text="Mark as Left Hand", role="left_hand")
        draw_operator(layout, "hvg3d.mark", text="Mark as Right Hand", role="right_hand")
        draw_operator(layout, "hvg3d.mark", text="Mark as Object", role="object")
        layout.operator("hvg3d.guess_marks")
        layout.separator()
        layout.operator("hvg3d.grasp")
        layout.operator("hvg3d.check_contact")
        layout.operator("hvg3d.toggle_overlay")
        layout.separator()
        layout.operator("hvg3d.aim_camera")


class HVG3D_MT_results(bpy.types.Menu):
    """In the View menus of the Image Editor and the Sequencer."""

    bl_idname = "HVG3D_MT_results"
    bl_label = "HVG-3D"

    def draw(self, context):
        self.layout.operator_context = "INVOKE_DEFAULT"
        _draw_results(self.layout)
        self.layout.operator("hvg3d.leave_comparison", icon="BACK")


def _draw_results(layout) -> None:
    layout.operator("hvg3d.view_result", icon="IMAGE_DATA")
    layout.operator("hvg3d.compare", icon="SEQ_SPLITVIEW")
    layout.operator("hvg3d.use_as_background", icon="CAMERA_DATA")
    layout.operator("hvg3d.reroll", icon="FILE_REFRESH")
    layout.operator("hvg3d.redo", icon="LOOP_BACK")


def _in_render(self, context) -> None:
    self.layout.separator()
    self.layout.menu("HVG3D_MT_render", icon="VIEW_PAN")


def _in_object(self, context) -> None:
    self.layout.separator()
    self.layout.menu("HVG3D_MT_object", icon="VIEW_PAN")


def _in_results(self, context) -> None:
    self.layout.separator()
    self.layout.menu("HVG3D_MT_results", icon="VIEW_PAN")


def _in_add(self, context) -> None:
    self.layout.separator()
    draw_operator(self.layout, "hvg3d.add_hand", text="Left Hand (HVG-3D)", icon="VIEW_PAN", side="LEFT")
    draw_operator(self.layout, "hvg3d.add_hand", text="Right Hand (HVG-3D)", icon="VIEW_PAN", side="RIGHT")


def _in_export(self, context) -> None:
    self.layout.operator_context = "INVOKE_DEFAULT"
    draw_operator(self.layout, "hvg3d.export_clip", text="HVG-3D Clip (.clip.safetensors)")


_PLACES = (
    ("TOPBAR_MT_render", _in_render),
    ("TOPBAR_MT_file_export", _in_export),
    ("VIEW3D_MT_object", _in_object),
    ("VIEW3D_MT_pose", _in_object),
    ("VIEW3D_MT_add", _in_add),
    ("IMAGE_MT_view", _in_results),
    ("SEQUENCER_MT_view", _in_results),
)


def register() -> None:
    for menu, draw in _PLACES:
        getattr(bpy.types, menu).append(draw)


def unregister() -> None:
    for menu, draw in _PLACES:
        getattr(bpy.types, menu).remove(draw)


CLASSES = (HVG3D_MT_render, HVG3D_MT_object, HVG3D_MT_results)
