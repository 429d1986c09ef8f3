# SPDX-License-Identifier: Apache-2.0
"""What export costs beside the bare ``frame_set`` loop and Blender's own Alembic exporter, on the same scene.

    .venv/bin/python benchmarks/export_scene.py --scene demo
    .venv/bin/python benchmarks/export_scene.py --scene heavy

``demo`` is the extension's demo scene. ``heavy`` is the same with its hand subdivided to 100k vertices, deformed by its
armature as before, and 2048 points on hand and mug each. There is no other modifier: it is the least that so many
vertices can cost Blender, and so the hardest to keep up with. (A Subdivision Surface at the end of a stack would not
even be evaluated by ``frame_set``, but by whoever reads the mesh.)

Every row of the extension is its whole export with a given first picture: the scene is put back and the clip is made
and validated, all of it divided by the number of frames. Rounds are interleaved: each runs every row once, in an order
that turns from round to round, so that whatever else the machine does meets all rows alike. Reported are medians over
the rounds, of time by the clock and of processor time (all threads), and medians of the ratios that a round's rows
have to each other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import bpy
import numpy as np

from blender_addon.demo.build import DemoScene
from blender_addon.demo.scene import build_demo_scene
from blender_addon.scene.export import EntityObjects, ExportSettings, export_clip
from hvg3d_core.conditions import encode_png

LOOP, ALEMBIC, POINTS = "frame_set loop", "Alembic export", "points and tracks"
VISIBILITY, MASKS, BOTH = "  with visibility", "  with masks", "  with both"


def frame_set_loop(scene: bpy.types.Scene, frames: range) -> None:
    for frame in frames:
        scene.frame_set(frame)


def alembic(target: Path, frames: range) -> None:
    bpy.ops.wm.alembic_export(
        filepath=str(target), start=frames[0], end=frames[-1], as_background_job=False, check_existing=False
    )


def subdivide(name: str, cuts: int) -> None:
    """Every triangle of the object's mesh becomes (cuts + 1)^2; weights of the armature are interpolated."""
    import bmesh  # there only once bpy is

    mesh = bpy.data.objects[name].data
    work = bmesh.new()
    work.from_mesh(mesh)
    bmesh.ops.triangulate(work, faces=work.faces)
    bmesh.ops.subdivide_edges(work, edges=work.edges, cuts=cuts, use_grid_fill=True)
    work.to_mesh(mesh)
    work.free()


def export_settings(demo: DemoScene, size: tuple[int, int], points: int) -> ExportSettings:
    return ExportSettings(
        entities=(
            EntityObjects("hand", demo.hand_roles[0], tuple(demo.hand_meshes)),
            EntityObjects("object", "object", tuple(demo.object_meshes)),
        ),
        camera=demo.camera,
        frame_start=demo.frame_start,
        frame_end=demo.frame_end,
        num_frames=demo.frame_end - demo.frame_start + 1,
        width=size[0],
        height=size[1],
        points_per_entity=points // 2,
        num_tracks=min(1024, points),
        reference=encode_png(np.zeros((size[1], size[0], 3), np.uint8)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scene", choices=("demo", "heavy"), default="demo")
    parser.add_argument("--repeat", type=int, default=None, help="rounds (demo: 11, heavy: 5)")
    parser.add_argument("--points", type=int, default=None, help="points in all (demo: 2048, heavy: 4096)")
    parser.add_argument("--width", type=int, default=720)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    heavy = options.scene == "heavy"
    bpy.ops.wm.read_homefile(use_empty=True)
    demo = build_demo_scene()
    if heavy:
        subdivide(demo.hand_meshes[0], 8)
        subdivide(demo.object_meshes[0], 1)
    scene, size = bpy.context.scene, (options.width, options.height)
    frames = range(demo.frame_start, demo.frame_end + 1)
    everything = export_settings(demo, size, options.points or (4096 if heavy else 2048))
    points = replace(everything, visibility=False, masks=False)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "scene.abc"
        rows: dict[str, Callable[[], object]] = {
            LOOP: lambda: frame_set_loop(scene, frames),
            ALEMBIC: lambda: alembic(target, frames),
            POINTS: lambda: export_clip(scene, points),
            VISIBILITY: lambda: export_clip(scene, replace(everything, masks=False)),
            MASKS: lambda: export_clip(scene, replace(everything, visibility=False)),
            BOTH: lambda: export_clip(scene, everything),
        }
        for name in (LOOP, ALEMBIC, POINTS):  # the first run of each pays for what is then in caches
            rows[name]()
        names = list(rows)
        milliseconds: dict[str, list[float]] = {name: [] for name in names}
        processor: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(options.repeat or (5 if heavy else 11)):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                started, used = time.perf_counter(), time.process_time()
                rows[name]()
                milliseconds[name].append(1000 * (time.perf_counter() - started) / len(frames))
                processor[name].append(1000 * (time.process_time() - used) / len(frames))
    report(demo, everything, milliseconds, processor)
    if options.json:
        found = {"ms_per_frame": milliseconds, "processor_ms_per_frame": processor}
        options.json.write_text(json.dumps({**found, "frames": len(frames), "size": size}))


def report(
    demo: DemoScene, settings: ExportSettings, milliseconds: dict[str, list[float]], processor: dict[str, list[float]]
) -> None:
    def ratio(above: str, below: str, floor: str | None = None, times: dict[str, list[float]] = milliseconds) -> float:
        """Median over the rounds of one row over another, both above a third."""
        base = times[floor] if floor else [0.0] * len(times[above])
        return statistics.median((a - c) / (b - c) for a, b, c in zip(times[above], times[below], base, strict=True))

    marked = [bpy.data.objects[name].data for name in (*demo.hand_meshes, *demo.object_meshes)]
    print(
        f"{settings.num_frames} frames, hand and object of {sum(len(m.vertices) for m in marked)} vertices,"
        f" {2 * settings.points_per_entity} points, {settings.width}x{settings.height},"
        f" Blender {bpy.app.version_string}, numpy {np.__version__}, {os.cpu_count()} cores,"
        f" {len(milliseconds[LOOP])} rounds"
    )
    print(f"\n| {'':<20} | ms a frame | lowest, highest | processor | above the loop | x loop | x Alembic |")
    print(f"|{'-' * 22}|{'-' * 12}|{'-' * 17}|{'-' * 11}|{'-' * 16}|{'-' * 8}|{'-' * 11}|")
    for name, values in milliseconds.items():
        above = statistics.median(v - f for v, f in zip(values, milliseconds[LOOP], strict=True))
        spread = f"{min(values):.2f}, {max(values):.2f}"
        print(
            f"| {name.strip():<20} | {statistics.median(values):>10.2f} | {spread:>15} |"
            f" {statistics.median(processor[name]):>9.2f} | {above:>14.2f} |"
            f" {ratio(name, LOOP):>6.2f} | {ratio(name, ALEMBIC):>9.2f} |"
        )
    together = statistics.median(b - p for b, p in zip(milliseconds[BOTH], milliseconds[POINTS], strict=True))
    print(f"\npoints and tracks, both above the loop: {ratio(POINTS, ALEMBIC, LOOP):.2f} of Alembic's export")
    print(f"points and tracks: {ratio(POINTS, LOOP):.2f} of the loop")
    print(f"visibility and masks together: {together:.1f} ms a frame")
    both = statistics.median(b - p for b, p in zip(processor[BOTH], processor[POINTS], strict=True))
    print(
        f"the same in processor time: {ratio(POINTS, ALEMBIC, LOOP, processor):.2f},"
        f" {ratio(POINTS, LOOP, None, processor):.2f}, {both:.1f} ms a frame"
    )


if __name__ == "__main__":
    main()
