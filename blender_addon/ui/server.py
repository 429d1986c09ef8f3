# SPDX-License-Identifier: GPL-3.0-or-later
"""Server: its state, always to be seen, and what can be done about it. Shared by the sidebar and the preferences."""

from __future__ import annotations

import bpy

from ..ops.server_care import size_text
from ..preferences import default_server_home, preferences
from ..runtime import RUNTIME
from ..server_care.buttons import buttons
from ..server_care.care import CARE
from .common import Panel, draw_operator, draw_text

_ICONS = {"ready": "CHECKMARK", "problem": "ERROR", "starting": "SORTTIME", "checking": "SORTTIME"}
_TO_INSTALL = ("not_installed", "unfinished", "incomplete", "broken")
_WIDE = 620
_DRAWN_BELOW = tuple(
    f"hvg3d.{name}" for name in ("check_server", "start_server", "stop_server", "install_server", "cancel_install")
)


def state_icon() -> str:
    if CARE.installing or CARE.removing:
        return "IMPORT"
    status = RUNTIME.server
    if status.state == "ready" and status.hint:
        return "INFO"
    return _ICONS.get(status.state, "QUESTION")


def draw_state(layout, width: int, without: tuple[str, ...] = ()) -> None:
    """The state with its remedy, and the buttons that bring it about, save those that are drawn elsewhere."""
    status = RUNTIME.server
    row = layout.row()
    draw_text(row, status.message, width - 30, state_icon())
    row.operator("hvg3d.check_server", text="", icon="FILE_REFRESH", emboss=False)
    for text, icon in ((status.remedy, "BLANK1"), (status.hint, "INFO")):
        if text:
            draw_text(layout, text, width, icon)
    row = layout.row(align=True)
    for label, operator, properties in buttons(CARE, status):
        if operator not in without:
            draw_operator(row, operator, text=label, **properties)
    for line in CARE.log[-4:]:
        layout.label(text=line[: max(30, width // 7)], translate=False, icon="BLANK1")


def draw_running(layout) -> None:
    """Start and Stop of a server on this computer."""
    row = layout.row(align=True)
    if CARE.can_stop():
        row.operator("hvg3d.stop_server", text="Stop", icon="PAUSE")
    else:
        row.operator("hvg3d.start_server", text="Start", icon="PLAY")
    row.operator("hvg3d.show_server_log", text="", icon="TEXT")
    row = layout.row()
    row.prop(preferences(), "keep_running")


def draw_installation(layout, width: int) -> None:
    """How far an installation is, how it ended, or what is installed."""
    state, managed = CARE.install_state, CARE.managed_state()
    if CARE.removing:
        layout.label(text="Removing the server", icon="TRASH")
        return
    if CARE.installing and state is not None:
        row = layout.row(align=True)
        row.progress(text=f"{state.fraction:.0%}", factor=state.fraction)
        row.operator("hvg3d.cancel_install", text="", icon="CANCEL")
        draw_text(layout, state.text, width, "BLANK1")
        return
    if state is not None and state.outcome in ("failed", "cancelled"):
        draw_text(layout, state.message, width, "ERROR" if state.outcome == "failed" else "INFO")
        draw_text(layout, state.remedy, width, "BLANK1")
    elif managed.problem:
        draw_text(layout, managed.problem, width, "ERROR")
    elif managed.ready:
        CARE.size is None and CARE.count_size()
        size = f", {size_text(CARE.size)}" if CARE.size else ""
        torch = f", PyTorch {managed.installed.torch}" if managed.installed.torch else ""
        draw_text(layout, f"Version {managed.installed.version} is installed{torch}{size}", width, "CHECKMARK")
    row = layout.row(align=True)
    label = "Install Again" if managed.ready else "Go On" if managed.started else "Install"
    row.operator("hvg3d.install_server", text=label, icon="IMPORT")
    if managed.started:
        row.operator("hvg3d.remove_server", text="Remove", icon="TRASH")
        draw_operator(row, "hvg3d.show_server_log", text="", icon="TEXT", which="INSTALL")
    if not bpy.app.online_access and not preferences().install_packages:
        draw_text(layout, "Installing needs online access, which is switched off in Blender", width, "INFO")
        layout.operator("hvg3d.show_online_access", text="System Preferences")


def draw_install_choices(layout) -> None:
    """What an installation is asked for."""
    chosen = preferences()
    layout.use_property_split = True
    column = layout.column()
    column.prop(chosen, "install_wheel", placeholder="The one that belongs to the add-on")
    column.prop(chosen, "install_torch")
    column.prop(chosen, "install_python", placeholder="One that is found on this computer")
    column.prop(chosen, "install_index", placeholder="None")
    column.prop(chosen, "install_packages", placeholder="None: from the package index")


def draw_where(layout) -> None:
    chosen = preferences()
    layout.row().prop(chosen, "find_server", expand=True)
    if chosen.find_server == "ADDRESS":
        layout.prop(chosen, "address")
        layout.prop(chosen, "token")
        layout.operator("hvg3d.check_server", text="Test Connection", icon="FILE_REFRESH")


class HVG3D_PT_server(Panel, bpy.types.Panel):
    bl_idname = "HVG3D_PT_server"
    bl_label = "Server"
    bl_order = 30
    bl_options = {"DEFAULT_CLOSED"}

    def draw_header(self, context):
        self.layout.label(text="", icon=state_icon())

    def draw_shot(self, layout, context, shot):
        width = context.region.width
        if preferences() is None:
            draw_text(layout, "Switch the add-on on in the preferences", width, "INFO")
            return
        draw_state(layout.column(align=True), width, _DRAWN_BELOW)
        column = layout.column()
        column.use_property_split = False
        draw_where(column)
        if preferences().find_server == "HOME":
            draw_running(column)
            if CARE.installing or CARE.removing or RUNTIME.server.code in _TO_INSTALL:
                draw_installation(layout.column(align=True), width)


def draw_preferences(layout) -> None:
    """All of it, in the add-on's preferences."""
    chosen = preferences()
    box = layout.box().column()
    draw_state(box.column(align=True), _WIDE, (*_DRAWN_BELOW, "hvg3d.show_preferences"))
    column = layout.column()
    draw_where(column)
    if chosen.find_server == "ADDRESS":
        return
    row = layout.row()
    row.use_property_split = False
    draw_running(row)
    layout.use_property_split = True
    column = layout.column()
    column.prop(chosen, "server_home", placeholder=default_server_home())
    column.prop(chosen, "server_program", placeholder="The installed one, else one that is found")
    column.prop(chosen, "server_port")
    column.prop(chosen, "server_options", placeholder="Such as --model das --keep-days 30")
    column.prop(chosen, "start_with_blender")
    layout.separator()
    box = layout.box().column()
    box.label(text="Installation of the server on this computer", icon="IMPORT")
    box.use_property_split = False
    draw_installation(box.column(align=True), _WIDE)
    box.separator()
    if not CARE.installing:
        draw_install_choices(box.column())


CLASSES = (HVG3D_PT_server,)
