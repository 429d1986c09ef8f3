# SPDX-License-Identifier: GPL-3.0-or-later
"""The add-on without a window, on the ``bpy`` wheel: ``python -m blender_addon.headless export|demo``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import bpy

from . import register
from .core import Clip, ClipError, encode_png, save_clip
from .ops.export import CLIP_SUFFIX
from .scene.export import EntityObjects, ExportSettings, export_clip
from .shot import export_settings


def export(blend: Path, out: Path, camera: str = "") -> Clip:
    """The clip of a .blend file, with the hands and objects that are marked in it and the settings of its shot."""
    if not blend.is_file():
        raise ClipError(f"scene: there is no file {str(blend)!r}; give a .blend file")
    try:
        bpy.ops.wm.open_mainfile(filepath=str(blend.resolve()))
    except RuntimeError as error:
        raise ClipError(f"scene: {str(blend)!r} cannot be opened ({str(error).strip()}); give a .blend file") from error
    scene = bpy.context.scene
    if camera:
        chosen = scene.objects.get(camera)
        if chosen is None or chosen.type != "CAMERA":
            cameras = [obj.name for obj in scene.objects if obj.type == "CAMERA"]
            raise ClipError(
                f"camera: {camera!r} is no camera of {blend.name!r}; use one of {', '.join(cameras) or 'none'}"
            )
        scene.hvg3d.camera = chosen
    clip = export_clip(scene, export_settings(scene))
    save_clip(clip, out)
    return clip


def demo(out: Path, width: int, height: int, frames: int) -> dict[str, float]:
    """Builds the demo scene, renders it to ``frames/*.png`` and exports it as ``demo.clip.safetensors``.

    Also saves it, marked, as ``demo.blend``. Returns the seconds that each part took.
    """
    from .demo.render import render_frames
    from .demo.scene import DEMO_FRAMES, build_demo_scene

    started = time.perf_counter()
    timings: dict[str, float] = {}

    def lap(name: str) -> None:
        nonlocal started
        now = time.perf_counter()
        timings[name] = round(now - started, 3)
        started = now

    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    built = build_demo_scene()
    scene = bpy.context.scene
    entities = [
        *(
            EntityObjects(role.replace("_", " "), role, (mesh,))
            for mesh, role in zip(built.hand_meshes, built.hand_roles, strict=True)
        ),
        *(EntityObjects(mesh, "object", (mesh,)) for mesh in built.object_meshes),
    ]
    mark(scene, entities, built.prompt, width, height)
    out.mkdir(parents=True, exist_ok=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(out.resolve() / "demo.blend"), compress=True)
    lap("build the scene")

    first, last = built.frame_start, built.frame_start + min(frames, DEMO_FRAMES) - 1
    pictures = render_frames(scene, range(first, last + 1), width, height)
    folder = out / "frames"
    folder.mkdir(exist_ok=True)
    for stale in folder.glob("*.png"):
        stale.unlink()
    for frame, picture in enumerate(pictures, first):
        (folder / f"{frame:05d}.png").write_bytes(encode_png(picture))
    lap("render its frames")

    settings = ExportSettings(
        entities=tuple(entities),
        camera=built.camera,
        frame_start=first,
        frame_end=last,
        num_frames=last - first + 1,
        width=width,
        height=height,
        prompt=built.prompt,
        reference=encode_png(pictures[0]),
    )
    save_clip(export_clip(scene, settings), out / f"demo{CLIP_SUFFIX}")
    lap("export the clip")
    (out / "timings.json").write_text(json.dumps(timings, indent=2) + "\n", encoding="utf-8")
    return timings


def mark(scene: bpy.types.Scene, entities: Sequence[EntityObjects], prompt: str, width: int, height: int) -> None:
    """Fills in a scene's shot as a user would in the panel."""
    shot = scene.hvg3d
    shot.entities.clear()
    for entity in entities:
        item = shot.entities.add()
        item.name, item.role = entity.name, entity.role
        for name in entity.objects:
            item.objects.add().object = scene.objects[name]
    shot.prompt, shot.width, shot.height = prompt, width, height


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m blender_addon.headless", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("export", help="the clip of a .blend file whose hands and objects are marked")
    one.add_argument("blend", type=Path)
    one.add_argument("out", type=Path, help=f"file to write, usually *{CLIP_SUFFIX}")
    one.add_argument("--camera", default="", help="name of the camera; the shot's own if left out")
    two = commands.add_parser("demo", help="build, render and export the demo scene")
    two.add_argument("--out", type=Path, required=True, help="folder for the results")
    two.add_argument("--width", type=int, default=720)
    two.add_argument("--height", type=int, default=480)
    two.add_argument("--frames", type=int, default=49, help="the first so many frames of the shot: 1 or 8k+1")
    given = parser.parse_args(argv)
    register()
    try:
        if given.command == "export":
            clip = export(given.blend, given.out, given.camera)
            print(f"{given.out}: {clip.num_frames} frames, {clip.num_points} points, {clip.tracks.shape[1]} tracks")
        else:
            for part, seconds in demo(given.out, given.width, given.height, given.frames).items():
                print(f"{part}: {seconds:.1f} s")
    except (ClipError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Blender's own clean-up at exit can take seconds, and there is nothing left to save
