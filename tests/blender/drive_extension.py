# SPDX-License-Identifier: GPL-3.0-or-later
"""A user's whole way with the installed extension: ``python drive_extension.py ZIP HOME FOLDER``, a Blender of its own.

ZIP is the extension, HOME the home folder of a running server, FOLDER an empty one for the .blend file and what comes
out. Run by test_extension.py in a process whose Python path has neither the library nor the add-on.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path

import bpy

# isort: split
import addon_utils  # comes with bpy, and is found only after it

PACKAGE = "bl_ext.user_default.hvg3d"


def module(name: str):
    return importlib.import_module(f"{PACKAGE}.{name}" if name else PACKAGE)


def install(zip_path: Path) -> None:
    addon_utils.enable("bl_pkg")
    bpy.ops.extensions.package_install_files(filepath=str(zip_path), repo="user_default", enable_on_install=True)
    assert PACKAGE in bpy.context.preferences.addons, list(bpy.context.preferences.addons.keys())
    conditions = module("core").conditions
    assert conditions.__name__ == f"{PACKAGE}.hvg3d_core.conditions", conditions.__name__
    assert "hvg3d_core" not in sys.modules
    assert "torch" not in sys.modules


def select(*names: str) -> None:
    for obj in bpy.context.view_layer.objects:
        obj.select_set(obj.name in names)
    bpy.context.view_layer.objects.active = bpy.data.objects[names[0]]


def mark(folder: Path) -> bpy.types.Scene:
    """Build the demo with the extension's own assets, save it, mark hand and mug as the panel's buttons do."""
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    built = module("demo.scene").build_demo_scene()
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "grasp ä.blend"))
    scene = bpy.context.scene
    assert "Nothing is marked" in module("shot").blocking(scene, video=False)
    assert not bpy.ops.hvg3d.export_clip.poll()
    select("Table")
    bpy.ops.hvg3d.mark(role="left_hand")
    select(*built.armatures)
    bpy.ops.hvg3d.mark(role="right_hand")
    select(*built.object_meshes)
    bpy.ops.hvg3d.mark(role="object")
    shot = scene.hvg3d
    assert [(e.name, e.role) for e in shot.entities] == [
        ("left hand", "left_hand"),
        ("right hand", "right_hand"),
        (built.object_meshes[0], "object"),
    ]
    bpy.ops.hvg3d.unmark(index=0)
    bpy.ops.hvg3d.select_marked(index=1)
    assert [obj.name for obj in bpy.context.selected_objects] == list(built.object_meshes)
    assert len(shot.entities) == 2
    shot.prompt, shot.width, shot.height, shot.points_per_entity = "a hand lifts a mug", 96, 64, 128
    scene.frame_end = 50
    text = module("shot").blocking(scene, video=False)
    assert text == "50 frames: 49 or 57 can be used", text
    bpy.ops.hvg3d.use_frame_count(frames=9)
    assert shot.range_of(scene) == (1, 9)
    assert scene.frame_end == 50
    assert module("shot").blocking(scene, video=False) == ""
    return scene


def export(scene: bpy.types.Scene, folder: Path) -> None:
    snapshot = importlib.import_module("snapshot")
    scene.frame_set(7)
    before = snapshot.scene_state(scene)
    result = bpy.ops.hvg3d.export_clip(filepath=str(folder / "clip.safetensors"))
    assert result == {"FINISHED"}, result
    changed = snapshot.differences(before, snapshot.scene_state(scene))
    assert changed == [], "\n".join(changed)
    clip = module("core").load_clip(folder / "clip.safetensors")
    assert clip.num_frames == 9
    assert clip.num_points == 256
    assert clip.joints is not None
    assert clip.views[0].point_visible.any()

    mug = scene.hvg3d.entities[1].objects[0].object
    mug.hide_render = True
    assert "Mug is hidden in renders" in module("shot").blocking(scene, video=False)
    assert not bpy.ops.hvg3d.export_clip.poll()
    assert bpy.ops.hvg3d.show_marked(index=1) == {"FINISHED"}
    assert not mug.hide_render
    # A fault that only the meshes themselves show.
    mug.modifiers.new("Gone", "MASK").vertex_group = mug.vertex_groups.new(name="Nothing").name
    message = ""
    try:
        bpy.ops.hvg3d.export_clip(filepath=str(folder / "no.safetensors"))
    except RuntimeError as error:  # how Blender hands on an operator's error report
        message = str(error)
    assert "make it visible" in message, message
    assert "make it visible" in module("runtime").RUNTIME.problem
    assert not (folder / "no.safetensors").exists()
    mug.modifiers.remove(mug.modifiers["Gone"])


def pumped(condition, seconds: float = 30.0) -> None:
    """Timers do not fire without a window: do what the timer would."""
    end = time.monotonic() + seconds
    while not condition():
        module("pump").pump()
        assert time.monotonic() < end, module("runtime").RUNTIME
        time.sleep(0.02)


def render(scene: bpy.types.Scene, home: str, folder: Path) -> None:
    runtime = module("runtime").RUNTIME
    preferences = bpy.context.preferences.addons[PACKAGE].preferences

    preferences.find_server = "ADDRESS"
    preferences.address = "http://127.0.0.1:9"
    bpy.ops.hvg3d.check_server()
    pumped(lambda: runtime.server.state == "problem")
    assert "not running" in runtime.server.message
    assert not bpy.ops.hvg3d.render_real.poll()
    assert bpy.ops.hvg3d.export_clip.poll()

    handshake = json.loads((Path(home) / "server.json").read_text())
    preferences.address = handshake["url"]
    preferences.token = "wrong " * 5
    pumped(lambda: "Wrong token" in runtime.server.message)

    preferences.find_server, preferences.server_home = "HOME", home
    bpy.ops.hvg3d.check_server()
    pumped(lambda: runtime.server.state == "ready")
    shot = scene.hvg3d
    shot.model_choice = "nano"
    assert shot.model == "nano"
    shot.seed = 11

    assert bpy.ops.hvg3d.render_real() == {"FINISHED"}
    assert not bpy.ops.hvg3d.render_real.poll()  # one at a time
    pumped(lambda: runtime.task_state is not None and runtime.task_state.phase == "Generating")
    bpy.ops.hvg3d.cancel()
    pumped(lambda: not runtime.rendering)
    assert runtime.task_state.outcome == "cancelled", runtime.task_state
    assert runtime.result is None

    assert bpy.ops.hvg3d.render_real() == {"FINISHED"}
    bpy.ops.wm.save_mainfile()  # the user goes on working
    pumped(lambda: not runtime.rendering)
    assert runtime.task_state.outcome == "done", runtime.task_state
    video = runtime.result.path
    assert video.parent == folder / "hvg3d", video
    image = next(image for image in bpy.data.images if image.source == "MOVIE")
    assert Path(bpy.path.abspath(image.filepath)) == video
    assert image.frame_duration == 9
    metadata = json.loads(video.with_suffix(".json").read_text())
    assert metadata["seed"] == 11
    assert metadata["clip_frames"] == 9
    assert bpy.ops.hvg3d.show_result() == {"FINISHED"}

    shot.prompt = "bug"
    bpy.ops.hvg3d.render_real()
    pumped(lambda: not runtime.rendering)
    assert runtime.task_state.outcome == "failed"
    assert "flux capacitor" in runtime.task_state.message, runtime.task_state


def reopen(folder: Path) -> None:
    """Marks and settings are saved with the file."""
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=str(folder / "grasp ä.blend"))
    shot = bpy.context.scene.hvg3d
    assert [entity.role for entity in shot.entities] == ["right_hand", "object"]
    assert (shot.seed, shot.model, shot.frame_end, shot.use_scene_range) == (11, "nano", 9, False)


def switch_off() -> None:
    """Nothing of it is left behind."""
    names = [name for name in dir(bpy.types) if name.startswith("HVG3D_")]
    assert len(names) >= 12, names
    addon_utils.disable(PACKAGE, default_set=True)
    assert [name for name in dir(bpy.types) if name.startswith("HVG3D_")] == []
    assert not hasattr(bpy.types.Scene, "hvg3d")
    addon_utils.enable(PACKAGE, default_set=True)
    assert hasattr(bpy.types.Scene, "hvg3d")
    bpy.ops.extensions.package_uninstall(repo_directory=_repository(), pkg_id="hvg3d")
    assert PACKAGE not in bpy.context.preferences.addons
    assert not hasattr(bpy.types.Scene, "hvg3d")


def _repository() -> str:
    return next(r.directory for r in bpy.context.preferences.extensions.repos if r.module == "user_default")


def main() -> None:
    zip_path, home, folder = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    install(zip_path)
    scene = mark(folder)
    export(scene, folder)
    render(scene, home, folder)
    reopen(folder)
    switch_off()
    print("DRIVEN")


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)
