# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside the window's Blender: opens the sidebar, tells what state things are in, selects what it is told to.

Everything a user does with the extension is done from outside with the mouse; this only looks, and replaces the hunt
for small objects in the viewport.
"""

import importlib
import json
import os
from pathlib import Path

import bpy

PACKAGE = "bl_ext.user_default.hvg3d"
FOLDER = Path("/project")


def prepare() -> None:
    bpy.context.preferences.view.show_splash = False
    preferences = bpy.context.preferences.addons[PACKAGE].preferences
    preferences.find_server, preferences.server_home = "HOME", "/project/home"
    for area in bpy.context.window_manager.windows[0].screen.areas:
        if area.type == "VIEW_3D":
            area.spaces.active.show_region_ui = True
    bpy.app.timers.register(tell, persistent=True)


def tell() -> float:
    wanted = FOLDER / "select"
    if wanted.is_file():
        names = wanted.read_text().split("\n")
        for obj in bpy.context.view_layer.objects:
            obj.select_set(obj.name in names)
        bpy.context.view_layer.objects.active = bpy.data.objects[names[0]]
        wanted.unlink()
    wanted = FOLDER / "frame"
    if wanted.is_file():
        bpy.context.scene.frame_set(int(wanted.read_text()))
        wanted.unlink()
    wanted = FOLDER / "through-camera"
    if wanted.is_file():
        for area in bpy.context.window_manager.windows[0].screen.areas:
            if area.type == "VIEW_3D":
                area.spaces.active.region_3d.view_perspective = "CAMERA"
        wanted.unlink()
    runtime = importlib.import_module(f"{PACKAGE}.runtime").RUNTIME
    state = runtime.task_state
    overlay = importlib.import_module(f"{PACKAGE}.overlay.display")
    scene = bpy.context.scene
    areas = bpy.context.window_manager.windows[0].screen.areas
    editor = next((area for area in areas if area.type == "IMAGE_EDITOR"), None)
    image = editor and editor.spaces.active.image
    status = {
        "version": bpy.app.version_string,
        "server": runtime.server.state,
        "entities": [[e.name, e.role, [r.object.name for r in e.objects]] for e in scene.hvg3d.entities],
        "selected": sorted(obj.name for obj in bpy.context.view_layer.objects if obj.select_get()),
        "exporting": runtime.exporting,
        "rendering": runtime.rendering,
        "phase": state.phase if state else "",
        "outcome": state.outcome if state else "",
        "connected": state.connected if state else True,
        "frame": scene.frame_current,
        "problem": runtime.problem,
        "overlay": scene.hvg3d.overlay.show and overlay.text(scene),
        "sampled": len(overlay.OVERLAY.samples),
        "range": list(scene.hvg3d.range_of(scene)),
        "image": image
        and {
            "source": image.source,
            "frames": image.frame_duration,
            "refresh": editor.spaces.active.image_user.use_auto_refresh,
        },
    }
    part = FOLDER / "status.part"
    part.write_text(json.dumps(status))
    os.replace(part, FOLDER / "status.json")
    return 0.2


bpy.app.timers.register(prepare, first_interval=1.0)
