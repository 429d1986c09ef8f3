# SPDX-License-Identifier: Apache-2.0
"""What the viewport overlay costs while scrubbing: 8192 points with contact, beside the bare frame evaluation.

    .venv/bin/python benchmarks/overlay.py [--repeat 5] [--points 4096] [--cpu]

All rows go through the demo's 49 frames in one process, interleaved, and report the median of the repeats. ``grid
empty`` is a scrub just after the object was edited. The peer is Blender's BVH tree asked for every point, as an add-on
would do it at first. Drawing is not part of it: there is no GPU without a window. ``--cpu`` counts the process's own
seconds instead of the clock's, which on a busy machine tells more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import bpy
import numpy as np

import blender_addon
from blender_addon.demo.scene import build_demo_scene
from blender_addon.overlay import display
from blender_addon.overlay.bvh import bvh_finder
from blender_addon.overlay.contact import point_colors, trails
from blender_addon.overlay.display import OVERLAY
from blender_addon.overlay.distance import SurfaceDistance


def prepare(points: int) -> bpy.types.Scene:
    """The demo scene with a finely divided mug, both marked, without handlers."""
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    demo = build_demo_scene()
    scene = bpy.context.scene
    mug = bpy.data.objects[demo.object_meshes[0]]
    mug.modifiers.new("Fine", "SUBSURF").levels = 1
    for name, role in ((demo.armatures[0], demo.hand_roles[0]), (mug.name, "object")):
        for obj in bpy.context.view_layer.objects:
            obj.select_set(obj.name == name)
        bpy.ops.hvg3d.mark(role=role)
    scene.hvg3d.points_per_entity = points
    scene.hvg3d.overlay.show = True
    display.refresh(scene)
    bpy.app.handlers.frame_change_post.clear()
    bpy.app.handlers.depsgraph_update_post.clear()
    return scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--points", type=int, default=4096, help="for each of the two entities")
    parser.add_argument("--cpu", action="store_true", help="count CPU time of this process")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    clock = time.process_time if options.cpu else time.perf_counter
    blender_addon.register()
    scene = prepare(options.points)
    sampler, frames = OVERLAY.sampler, range(1, 50)
    depsgraph = bpy.context.view_layer.depsgraph
    objects = [mesh for mesh in sampler._marked.read(depsgraph) if mesh.entity == 1]
    exact = SurfaceDistance(objects[0].vertices, objects[0].triangles, bvh_finder)
    hand = np.flatnonzero(sampler._is_hand)
    asked: list[np.ndarray] = []

    def go(each: Callable[[int], object]) -> Callable[[], None]:
        def run() -> None:
            for frame in frames:
                scene.frame_set(frame)
                each(frame)

        return run

    def sample(_frame: int, **what: bool) -> None:
        OVERLAY.samples[float(_frame)] = sampler.sample(scene, depsgraph, **what)

    def first_time() -> None:
        sampler._solids.clear()
        go(lambda frame: sample(frame, visibility=False, contact=True))()

    def picture(frame: int) -> None:
        known = OVERLAY.samples[float(frame)]
        point_colors(known, sampler.layout, "CONTACT", 0.003)
        trails(OVERLAY.samples, sampler.layout, float(frame), 12, 48)

    def tree_only(frame: int) -> None:
        asked.append(exact(OVERLAY.samples[float(frame)].points[hand]))
        asked.clear()

    rows: dict[str, Callable[[], None]] = {
        "frame_set": go(lambda frame: None),
        "points": go(lambda frame: sample(frame, visibility=False, contact=False)),
        "points and contact, grid empty": first_time,
        "points and contact": go(lambda frame: sample(frame, visibility=False, contact=True)),
        "points and visibility": go(lambda frame: sample(frame, visibility=True, contact=False)),
        "colours and trails": go(picture),
        "distances by the BVH tree alone": go(tree_only),
    }
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(options.repeat):
        for name, run in rows.items():
            started = clock()
            run()
            seconds[name].append(clock() - started)
    medians = {name: statistics.median(values) / len(frames) for name, values in seconds.items()}
    floor = medians["frame_set"]
    triangles = sum(len(mesh.triangles) for mesh in objects)
    total = options.points * len(sampler.entities)
    print(f"{total} points, object of {triangles} triangles, {len(frames)} frames, Blender {bpy.app.version_string}")
    print(f"{'':<34}{'ms/frame':>10}{'above frame_set':>17}{'updates/s':>11}")
    for name, value in medians.items():
        print(f"{name:<34}{1000 * value:>10.2f}{1000 * (value - floor):>17.2f}{1 / value:>11.0f}")
    update = medians["points and contact"] + medians["colours and trails"] - floor
    print(f"{'a whole update':<34}{1000 * update:>10.2f}{1000 * (update - floor):>17.2f}{1 / update:>11.0f}")
    if options.json:
        options.json.write_text(json.dumps({"seconds": seconds, "points": total, "triangles": triangles}, indent=1))


if __name__ == "__main__":
    main()
