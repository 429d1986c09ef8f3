# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside the window's Blender: sets the language, opens the add-on's tab, tells what the tests ask for."""

import importlib
import json
import os
from pathlib import Path

import bpy

PACKAGE = "bl_ext.user_default.hvg3d"
FOLDER = Path("/project")


def areas():
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            yield window, area


def prepare() -> None:
    view = bpy.context.preferences.view
    view.show_splash = False
    view.language = "de_DE"
    view.use_translate_interface = view.use_translate_tooltips = view.use_translate_reports = True
    for _, area in areas():
        if area.type == "VIEW_3D":
            area.spaces.active.show_region_ui = True
    bpy.app.timers.register(open_tab, first_interval=1.5)
    bpy.app.timers.register(tell, first_interval=2.0, persistent=True)


def open_tab() -> None:
    for _, area in areas():
        for region in area.regions:
            if area.type == "VIEW_3D" and region.type == "UI":
                region.active_panel_category = "HVG-3D"
                area.tag_redraw()


def tell() -> float:
    wanted = FOLDER / "preferences"
    if wanted.is_file():
        bpy.ops.preferences.addon_show(module=PACKAGE)
        wanted.unlink()
    translations = importlib.import_module(f"{PACKAGE}.translations")
    shot = importlib.import_module(f"{PACKAGE}.shot")
    gettext = bpy.app.translations.pgettext_iface
    status = {
        "version": bpy.app.version_string,
        "language": bpy.app.translations.locale,
        "points": bpy.context.scene.hvg3d.overlay.show,
        "checks": [[check.text, translations.tr(check.text)] for check in shot.checklist(bpy.context.scene)],
        "panel": gettext(bpy.types.HVG3D_PT_render.bl_label),
        "operator": gettext(bpy.ops.hvg3d.render_real.get_rna_type().name, "Operator"),
        "windows": len(bpy.context.window_manager.windows),
        "shortcuts": sorted(
            item.idname
            for keymap in bpy.context.window_manager.keyconfigs.user.keymaps
            for item in keymap.keymap_items
            if item.idname.startswith("hvg3d.")
        ),
    }
    part = FOLDER / "status.part"
    part.write_text(json.dumps(status))
    os.replace(part, FOLDER / "status.json")
    return 0.2


bpy.app.timers.register(prepare, first_interval=1.0)
