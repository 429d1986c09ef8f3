# SPDX-License-Identifier: Apache-2.0
"""What export costs: the demo scene, 49 frames, beside the bare ``frame_set`` loop and Blender's Alembic exporter.

    .venv/bin/python benchmarks/export_scene.py [--repeat 5] [--width 720 --height 480]

All rows run in one process on one scene, interleaved, and the median of the repeats is reported. ``points and tracks``
includes stepping through the frames, as Alembic's export does; visibility and masks come on top and are rows of their
own. Ratios are against Alembic.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import bpy

from blender_addon.demo.scene import build_demo_scene
from blender_addon.scene.cameras import extrinsics, intrinsics
from blender_addon.scene.meshes import MeshReader, expand_objects
from hvg3d_core.conditions import ClipBuilder, Entity


def frame_set_loop(scene: bpy.types.Scene, frames: range) -> None:
    for frame in frames:
        scene.frame_set(frame)


def alembic(target: Path, frames: range) -> None:
    bpy.ops.wm.alembic_export(
        filepath=str(target), start=frames[0], end=frames[-1], as_background_job=False, check_existing=False
    )


def build_clip(scene: bpy.types.Scene, demo: object, frames: range, size: tuple[int, int], **what: bool) -> ClipBuilder:
    """The add-on's own reader and builder over all frames."""
    marked = {**dict.fromkeys(demo.hand_meshes, 0), **dict.fromkeys(demo.object_meshes, 1)}
    entity_of = {expanded: index for name, index in marked.items() for expanded in expand_objects(scene, (name,), name)}
    entities = [Entity("hand", demo.hand_roles[0]), Entity("object", "object")]
    builder = ClipBuilder(entities, width=size[0], height=size[1], fps=24.0, num_frames=len(frames), **what)
    reader, camera = MeshReader(entity_of), scene.objects[demo.camera]
    for frame in frames:
        scene.frame_set(frame)
        depsgraph = bpy.context.view_layer.depsgraph
        seen_by = camera.evaluated_get(depsgraph)
        K = intrinsics(seen_by.data, *size)
        builder.add_frame(frame, reader.read(depsgraph), K, extrinsics(seen_by.matrix_world))
    return builder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--width", type=int, default=720)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bpy.ops.wm.read_homefile(use_empty=True)
    demo = build_demo_scene()
    scene, size = bpy.context.scene, (options.width, options.height)
    frames = range(demo.frame_start, demo.frame_end + 1)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "scene.abc"
        neither = {"compute_visibility": False, "compute_masks": False}
        rows: dict[str, Callable[[], object]] = {
            "frame_set loop": lambda: frame_set_loop(scene, frames),
            "Alembic export": lambda: alembic(target, frames),
            "points and tracks": lambda: build_clip(scene, demo, frames, size, **neither),
            "  with visibility": lambda: build_clip(scene, demo, frames, size, compute_masks=False),
            "  with masks": lambda: build_clip(scene, demo, frames, size, compute_visibility=False),
            "  with both": lambda: build_clip(scene, demo, frames, size),
        }
        seconds: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(options.repeat):
            for name, run in rows.items():
                started = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    floor, peer = medians["frame_set loop"], medians["Alembic export"]
    triangles = sum(len(o.data.loop_triangles) for o in scene.objects if o.type == "MESH")
    print(f"{len(frames)} frames, {triangles} triangles, {size[0]}x{size[1]}, Blender {bpy.app.version_string}")
    print(f"{'':<22}{'ms/frame':>10}{'x Alembic':>11}{'above frame_set, ms/frame':>28}")
    for name, value in medians.items():
        per_frame = 1000 * value / len(frames)
        print(f"{name:<22}{per_frame:>10.2f}{value / peer:>11.2f}{1000 * (value - floor) / len(frames):>28.2f}")
    if options.json:
        options.json.write_text(json.dumps({"seconds": seconds, "frames": len(frames), "size": size}, indent=1))


if __name__ == "__main__":
    main()
