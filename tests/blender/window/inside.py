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
    wanted = FOLDER / "preferences.json"
    if wanted.is_file():
        for name, value in json.loads(wanted.read_text()).items():
            setattr(preferences, name, value)
    for area in bpy.context.window_manager.windows[0].screen.areas:
        if area.type == "VIEW_3D":
            area.spaces.active.show_region_ui = True
    watch_panels()
    bpy.app.timers.register(tell, persistent=True)


DRAWN: list[str] = []  # panels that are open, as they were drawn since the server's header, which is the last
OPEN: list[str] = []
SHOWN = {"live": False}  # a live preview, when a panel was drawn last


def watch_panels() -> None:
    """Blender does not say which panels are open: notes which of them draw."""
    ui = [importlib.import_module(f"{PACKAGE}.ui.{name}") for name in ("marks", "shot", "overlay", "render", "results")]
    ui += [importlib.import_module(f"{PACKAGE}.ui.{name}") for name in ("batch", "server")]
    for cls in {cls for module in ui for cls in module.CLASSES if hasattr(cls, "draw_shot")}:
        if not hasattr(cls, "bl_parent_id"):
            cls.draw_shot = noting(cls.draw_shot, cls.bl_idname.removeprefix("HVG3D_PT_"))
    server = ui[-1].HVG3D_PT_server
    server.draw_header = noting(server.draw_header, "")


def noting(draw, name):
    def draw_shot(self, layout, context, shot):
        DRAWN.append(name)
        SHOWN["live"] = importlib.import_module(f"{PACKAGE}.results.thumbs").live_icon() > 0
        return draw(self, layout, context, shot)

    def draw_header(self, context):  # comes before the panel itself
        OPEN[:] = DRAWN
        DRAWN.clear()
        return draw(self, context)

    return draw_shot if name else draw_header


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
    wanted = FOLDER / "quality"
    if wanted.is_file():
        bpy.context.scene.hvg3d.quality = wanted.read_text()
        wanted.unlink()
    wanted = FOLDER / "drawn"
    if wanted.is_file():
        if wanted.read_text() == "soon":  # between two timers everything is drawn
            wanted.unlink()
        else:
            wanted.write_text("soon")
            for area in bpy.context.window_manager.windows[0].screen.areas:
                area.tag_redraw()
    runtime = importlib.import_module(f"{PACKAGE}.runtime").RUNTIME
    state = runtime.task_state
    overlay = importlib.import_module(f"{PACKAGE}.overlay.display")
    scene = bpy.context.scene
    thumbs = importlib.import_module(f"{PACKAGE}.results.thumbs")
    compare = importlib.import_module(f"{PACKAGE}.results.compare")
    batch = importlib.import_module(f"{PACKAGE}.batch.session").SESSION
    clip = importlib.import_module(f"{PACKAGE}.ops.results").chosen_entry()
    made = next((one for one in bpy.data.scenes if one.hvg3d_compare.movie), None)
    wipe = compare.strip(made, compare.WIPE) if made is not None else None
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
        "live": thumbs.live_icon() > 0 and SHOWN["live"],
        "history": [[entry.seed, entry.clip, entry.missing] for entry in runtime.history],
        "chosen": clip.seed if clip else None,
        "mine": importlib.import_module(f"{PACKAGE}.server_care.care").CARE.mine,
        "editors": sorted(area.type for area in areas),
        "scene": scene.name,
        "open": OPEN,
        "output": [scene.render.resolution_x, scene.render.resolution_y, scene.render.filepath],
        "prompt": scene.hvg3d.prompt,
        "seeds": scene.hvg3d_batch.seed_count,
        "wipe": wipe.effect_fader if wipe is not None else None,
        "batch": batch.batch and [batch.batch.totals().text(), batch.running, batch.problem],
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
