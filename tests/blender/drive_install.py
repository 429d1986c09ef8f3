# SPDX-License-Identifier: GPL-3.0-or-later
"""A user installs the server from Blender: ``python drive_install.py ZIP WHEEL HOME FOLDER [until]``.

ZIP is the extension, WHEEL the server, HOME the folder of its queue, FOLDER where the video goes. Prints what the
installation says, a JSON line each. With ``until`` it goes no further than the installation (the test kills it there),
else on to a video, stop and removal. Run by test_managed_install.py in a Blender of its own.
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
    return importlib.import_module(f"{PACKAGE}.{name}")


def say(**values: object) -> None:
    print(json.dumps(values), flush=True)


def pumped(condition, seconds: float) -> None:
    care = module("server_care.care").CARE
    end = time.monotonic() + seconds
    while not condition():
        module("pump").pump()
        assert time.monotonic() < end, (care.status, care.log, care.install_state)
        time.sleep(0.02)


def install(wheel: str) -> None:
    care = module("server_care.care").CARE
    preferences = bpy.context.preferences.addons[PACKAGE].preferences
    bpy.context.preferences.system.use_online_access = False
    assert not bpy.ops.hvg3d.install_server.poll()
    bpy.context.preferences.system.use_online_access = True
    preferences.install_wheel, preferences.install_torch = f'"{wheel}"', "CPU"
    assert bpy.ops.hvg3d.install_server() == {"FINISHED"}
    assert not bpy.ops.hvg3d.install_server.poll()
    assert not bpy.ops.hvg3d.remove_server.poll()
    said = None

    def finished() -> bool:
        nonlocal said
        if care.install_state is not said:
            said = care.install_state
            say(text=said.text, fraction=said.fraction, outcome=said.outcome, message=said.message, log=said.log)
        return not care.installing

    pumped(finished, 2400)
    assert care.install_state.outcome == "done", care.install_state
    state = care.managed_state()
    assert state.ready, state
    say(installed=state.installed.version, torch=state.installed.torch, folder=str(care.settings.managed.folder))
    care.count_size()
    pumped(lambda: care.size, 60)
    say(size=care.size)


def use(home: str, folder: Path) -> None:
    """From no server to a video, by the server that was just installed."""
    care, runtime = module("server_care.care").CARE, module("runtime").RUNTIME
    bpy.context.preferences.addons[PACKAGE].preferences.server_home = home
    pumped(lambda: runtime.server.code == "off", 30)
    assert bpy.ops.hvg3d.start_server() == {"FINISHED"}
    pumped(lambda: runtime.server.state == "ready", 120)
    program = care.local.process.args[0]
    assert Path(program) == care.settings.managed.python, program
    assert not bpy.ops.hvg3d.install_server.poll()
    assert not bpy.ops.hvg3d.remove_server.poll()
    say(server=runtime.server.url, version=runtime.server.version, models=[m.id for m in runtime.server.models])

    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    built = module("demo.scene").build_demo_scene()
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "grasp.blend"))
    scene = bpy.context.scene
    for role, names in (("right_hand", built.armatures), ("object", built.object_meshes)):
        for obj in bpy.context.view_layer.objects:
            obj.select_set(obj.name in names)
        bpy.ops.hvg3d.mark(role=role)
    shot = scene.hvg3d
    shot.prompt, shot.width, shot.height, shot.points_per_entity = "a hand lifts a mug", 96, 64, 128
    bpy.ops.hvg3d.use_frame_count(frames=9)
    assert bpy.ops.hvg3d.render_real() == {"FINISHED"}
    pumped(lambda: not runtime.rendering, 900)
    assert runtime.task_state.outcome == "done", runtime.task_state
    videos = [path for path in folder.rglob("*.mp4") if "scene" not in path.name]
    say(video=videos[0].stat().st_size, model=json.loads(videos[0].with_suffix(".json").read_text())["model"])


def remove() -> None:
    care, runtime = module("server_care.care").CARE, module("runtime").RUNTIME
    folder = care.settings.managed.folder
    bpy.ops.hvg3d.stop_server()
    pumped(lambda: runtime.server.code == "off", 40)
    assert bpy.ops.hvg3d.remove_server() == {"FINISHED"}
    pumped(lambda: not care.removing, 120)
    assert care.install_state is None, care.install_state
    assert not folder.exists(), list(folder.iterdir())
    bpy.ops.hvg3d.check_server()
    pumped(lambda: runtime.server.state == "problem", 30)
    say(removed=True, code=runtime.server.code)


def main() -> None:
    zip_path, wheel, home, folder = sys.argv[1:5]
    addon_utils.enable("bl_pkg")
    bpy.ops.extensions.package_install_files(filepath=zip_path, repo="user_default", enable_on_install=True)
    install(wheel)
    if "until" not in sys.argv:
        use(home, Path(folder))
        remove()
    say(end=True)


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)
