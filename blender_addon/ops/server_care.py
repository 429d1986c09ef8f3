# SPDX-License-Identifier: GPL-3.0-or-later
"""The server on this computer: start, stop, install, remove, look at its log."""

from __future__ import annotations

import sys
from pathlib import Path

import bpy

from .. import pump
from ..preferences import care_settings, preferences
from ..server_care.care import CARE
from ..server_care.failures import CareError
from ..server_care.find import checkout_of
from ..server_care.install import Order
from ..server_care.local import LOG_NAME, tail
from ..server_care.text import Unusable, tidy_path
from ..server_care.wheel import find_wheel
from ..translations import tr

_LOG_LINES = 30


def _go() -> None:
    CARE.use(care_settings())
    pump.ensure_running()


class HVG3D_OT_start_server(bpy.types.Operator):
    bl_idname = "hvg3d.start_server"
    bl_label = "Start Server"
    bl_description = "Start the HVG-3D server on this computer; it ends with Blender unless Keep Running is ticked"

    @classmethod
    def poll(cls, context):
        settings = CARE.settings
        if settings is not None and not settings.on_this_computer:
            cls.poll_message_set(tr("The server is on another computer, where it has to be started"))
            return False
        if CARE.doing:
            cls.poll_message_set(tr("The server is starting or stopping"))
            return False
        if CARE.installing or CARE.removing:
            cls.poll_message_set(tr("The server is being installed or removed"))
            return False
        if CARE.status.state == "ready":
            cls.poll_message_set(tr("The server is running"))
            return False
        if CARE.status.code in ("not_installed", "unfinished"):
            cls.poll_message_set(tr("Install the server first, or choose a program in the preferences that has it"))
            return False
        return True

    def execute(self, context):
        _go()
        CARE.start()
        return {"FINISHED"}


class HVG3D_OT_stop_server(bpy.types.Operator):
    bl_idname = "hvg3d.stop_server"
    bl_label = "Stop Server"
    bl_description = "Stop the server on this computer. Its jobs stay in its queue, and go on when it is started again"

    @classmethod
    def poll(cls, context):
        if not CARE.can_stop():
            cls.poll_message_set(tr("No server runs on this computer"))
            return False
        return True

    def execute(self, context):
        _go()
        CARE.stop()
        return {"FINISHED"}


class HVG3D_OT_install_server(bpy.types.Operator):
    bl_idname = "hvg3d.install_server"
    bl_label = "Install Server"
    bl_description = (
        "Install the server into a folder of its own on this computer, or go on with an installation that was "
        "interrupted. Blender's own Python stays as it is"
    )

    @classmethod
    def poll(cls, context):
        if CARE.installing or CARE.removing:
            cls.poll_message_set(tr("The server is being installed or removed"))
            return False
        if CARE.doing or (CARE.mine and CARE.status.state == "ready"):
            cls.poll_message_set(tr("Stop the server first"))
            return False
        chosen = preferences()
        if chosen is not None and not bpy.app.online_access and not chosen.install_packages:
            remedy = "allow it in Preferences > System, or choose a folder with the packages"
            cls.poll_message_set(tr(f"Online access is switched off: {remedy}"))
            return False
        return True

    def invoke(self, context, event):
        if CARE.managed_state().started:
            return self.execute(context)
        return context.window_manager.invoke_props_dialog(self, width=420, confirm_text="Install")

    def draw(self, context):
        from ..ui.server import draw_install_choices

        draw_install_choices(self.layout)

    def execute(self, context):
        try:
            order = install_order()
        except (CareError, Unusable) as error:
            text = error.message if isinstance(error, CareError) else str(error)
            remedy = f". {error.remedy}" if isinstance(error, CareError) else ""
            self.report({"ERROR"}, tr(text + remedy))
            return {"CANCELLED"}
        _go()
        CARE.install(order)
        return {"FINISHED"}


class HVG3D_OT_cancel_install(bpy.types.Operator):
    bl_idname = "hvg3d.cancel_install"
    bl_label = "Cancel Installation"
    bl_description = "Stop installing; started again, it goes on from here"

    @classmethod
    def poll(cls, context):
        if not CARE.installing:
            cls.poll_message_set(tr("Nothing is being installed"))
            return False
        return True

    def execute(self, context):
        CARE.cancel_install()
        pump.ensure_running()
        return {"FINISHED"}


class HVG3D_OT_remove_server(bpy.types.Operator):
    bl_idname = "hvg3d.remove_server"
    bl_label = "Remove Server"
    bl_description = "Remove the installed server from this computer; videos, jobs and models are kept"

    @classmethod
    def poll(cls, context):
        if CARE.installing or CARE.removing:
            cls.poll_message_set(tr("The server is being installed or removed"))
            return False
        if CARE.doing or CARE.mine:
            cls.poll_message_set(tr("Stop the server first"))
            return False
        if not CARE.managed_state().started:
            cls.poll_message_set(tr("There is no server that this add-on has installed"))
            return False
        return True

    def invoke(self, context, event):
        size = f" ({size_text(CARE.size)})" if CARE.size else ""
        return context.window_manager.invoke_confirm(
            self,
            event,
            title=tr("Remove the Server?"),
            message=tr(f"The folder {CARE.settings.managed.folder}{size} is deleted. Videos, jobs and models are kept"),
            confirm_text=tr("Remove"),
            icon="WARNING",
        )

    def execute(self, context):
        _go()
        CARE.remove()
        return {"FINISHED"}


class HVG3D_OT_show_server_log(bpy.types.Operator):
    bl_idname = "hvg3d.show_server_log"
    bl_label = "Server Log"
    bl_description = "Show the last lines of what the server, or its installation, has printed"

    which: bpy.props.EnumProperty(
        name="Log",
        description="Whose words are shown",
        items=(
            ("SERVER", "Server", "What the server has printed since it was started from Blender"),
            ("INSTALL", "Installation", "What the last installation has printed"),
        ),
        options={"SKIP_SAVE"},
    )

    def path(self) -> Path | None:
        settings = CARE.settings
        if settings is None:
            return None
        if self.which == "INSTALL":
            return settings.managed.log
        return settings.home / LOG_NAME if settings.home is not None else None

    def invoke(self, context, event):
        return context.window_manager.invoke_popup(self, width=820)

    def draw(self, context):
        path = self.path()
        lines = tail(path, _LOG_LINES) if path is not None else []
        column = self.layout.column(align=True)
        column.label(text=str(path or tr("The server is on another computer")), icon="TEXT", translate=False)
        column.separator()
        for line in lines or [tr("There is nothing in it")]:
            column.label(text=line[:160], translate=False)
        if lines:
            column.separator()
            column.operator("wm.path_open", text="Open File", icon="FILE").filepath = str(path)

    def execute(self, context):
        path = self.path()
        for line in tail(path, _LOG_LINES) if path is not None else []:
            self.report({"INFO"}, line)
        return {"FINISHED"}


class HVG3D_OT_use_any_port(bpy.types.Operator):
    bl_idname = "hvg3d.use_any_port"
    bl_label = "Use a Free Port"
    bl_description = "Let the server take any port that is free, and start it"

    def execute(self, context):
        preferences().server_port = 0
        if HVG3D_OT_start_server.poll(context):
            bpy.ops.hvg3d.start_server()
        return {"FINISHED"}


class HVG3D_OT_show_online_access(bpy.types.Operator):
    bl_idname = "hvg3d.show_online_access"
    bl_label = "Online Access"
    bl_description = "Open the System preferences, where Allow Online Access is, under Network"

    def execute(self, context):
        bpy.ops.screen.userpref_show(section="SYSTEM")
        return {"FINISHED"}


def install_order() -> Order:
    """From the preferences. Raises CareError or Unusable for what cannot be used."""
    chosen = preferences()
    settings = care_settings()
    package = Path(__file__).resolve().parents[1]
    checkout = checkout_of(package)
    folders = [package / "server_wheel", *([checkout / "dist"] if checkout is not None else [])]
    wheel = find_wheel(tidy_path(chosen.install_wheel), folders)
    return Order(
        managed=settings.managed,
        version=settings.version,
        wheel=wheel,
        python=tidy_path(chosen.install_python),
        own_python=Path(sys.executable),
        torch=chosen.install_torch,
        index=chosen.install_index.strip(),
        packages=tidy_path(chosen.install_packages),
    )


def size_text(size: int | None) -> str:
    if size is None:
        return ""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


CLASSES = (
    HVG3D_OT_start_server,
    HVG3D_OT_stop_server,
    HVG3D_OT_install_server,
    HVG3D_OT_cancel_install,
    HVG3D_OT_remove_server,
    HVG3D_OT_show_server_log,
    HVG3D_OT_use_any_port,
    HVG3D_OT_show_online_access,
)
