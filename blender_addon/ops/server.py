# SPDX-License-Identifier: GPL-3.0-or-later
"""Server and results."""

from __future__ import annotations

import bpy

from .. import __package__ as base_package
from .. import pump
from ..result import show_result
from ..runtime import RUNTIME
from ..translations import tr


class HVG3D_OT_check_server(bpy.types.Operator):
    bl_idname = "hvg3d.check_server"
    bl_label = "Ask Server"
    bl_description = "See whether the server is there, and which models it offers"

    def execute(self, context):
        pump.ask_server()
        return {"FINISHED"}


class HVG3D_OT_cancel(bpy.types.Operator):
    bl_idname = "hvg3d.cancel"
    bl_label = "Cancel Real Video"
    bl_description = "Stop making the video, here and on the server"

    @classmethod
    def poll(cls, context):
        if not RUNTIME.rendering:
            cls.poll_message_set(tr("No video is being made"))
            return False
        return True

    def execute(self, context):
        RUNTIME.task.cancel()
        pump.ensure_running()
        return {"FINISHED"}


class HVG3D_OT_show_result(bpy.types.Operator):
    bl_idname = "hvg3d.show_result"
    bl_label = "Show Video"
    bl_description = "Show the last finished video in an Image Editor"

    @classmethod
    def poll(cls, context):
        if RUNTIME.result is None:
            cls.poll_message_set(tr("There is no finished video yet"))
            return False
        return True

    def execute(self, context):
        if not RUNTIME.result.path.is_file():
            self.report({"ERROR"}, tr(f"{RUNTIME.result.path} is not there any more"))
            return {"CANCELLED"}
        show_result(RUNTIME.result)
        return {"FINISHED"}


class HVG3D_OT_show_preferences(bpy.types.Operator):
    bl_idname = "hvg3d.show_preferences"
    bl_label = "Server Preferences"
    bl_description = "Open the add-on's preferences, with the server's address and token"

    def execute(self, context):
        bpy.ops.preferences.addon_show(module=base_package)
        return {"FINISHED"}


CLASSES = (HVG3D_OT_check_server, HVG3D_OT_cancel, HVG3D_OT_show_result, HVG3D_OT_show_preferences)
