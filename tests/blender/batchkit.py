# SPDX-License-Identifier: GPL-3.0-or-later
"""A .blend file with scenes, cameras and actions for batches: ``python -m tests.blender.batchkit FOLDER`` makes it.

``shots.blend``: scenes A and B, each with the cameras Front and Side and the actions Bend, Stretch and Slide; Flat
looks through an orthographic camera; in Gone the marked box has been deleted. ``corrupt.blend`` cannot be opened.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

FRONT, SIDE = "Front", "Side"
GOOD_PLAN = """
seeds = [1, 2, 3]

[[shots]]
files = ["shots.blend"]
scenes = ["A"]
cameras = ["Front", "Side"]
actions = ["Bend", "Stretch"]

[[shots]]
files = ["shots.blend"]
scenes = ["B"]
actions = ["Bend", "Stretch", "Slide"]
"""
BROKEN_PLAN = """
[[shots]]
files = ["shots.blend"]
scenes = ["Flat", "Gone"]
seeds = [1]

[[shots]]
files = ["corrupt.blend"]
seeds = [1]
"""


def make_files(folder: Path) -> None:
    import bpy

    from blender_addon.headless import mark
    from blender_addon.scene.export import EntityObjects

    from .scenes import BOX, GREY_PICTURE, HEIGHT, WIDTH, grasp_scene, look_at

    folder.mkdir(parents=True, exist_ok=True)
    scene = grasp_scene()
    scene.name = "A"
    (folder / "first.png").write_bytes(GREY_PICTURE)
    mark(scene, [EntityObjects("hand", "right_hand", ("Rig",)), BOX], "a hand lifts a box", WIDTH, HEIGHT)
    shot = scene.hvg3d
    shot.points_per_entity, shot.num_tracks = 32, 16
    shot.reference_source, shot.reference_path = "IMAGE", "//first.png"
    scene.camera.name = FRONT
    side = bpy.data.objects.new(SIDE, bpy.data.cameras.new(SIDE))
    side.matrix_world = look_at((1.5, -0.6, 1.1), (0.1, 0, 0.25))
    flat = bpy.data.objects.new("Plan View", bpy.data.cameras.new("Plan View"))
    flat.data.type = "ORTHO"
    for camera in (side, flat):
        scene.collection.objects.link(camera)
    rig = bpy.data.objects["Rig"]
    bend = rig.animation_data.action
    bend.name = "Bend"
    stretch = bend.copy()
    stretch.name, stretch.use_fake_user = "Stretch", True
    for curve in stretch.layers[0].strips[0].channelbags[0].fcurves:
        for point in curve.keyframe_points:
            point.co.y *= -0.5
    bpy.data.objects["Box"].animation_data.action.name = "Slide"
    bpy.ops.wm.save_as_mainfile(filepath=str(folder.resolve() / "shots.blend"))
    for name in ("B", "Flat", "Gone"):
        bpy.ops.scene.new(type="LINK_COPY")
        bpy.context.scene.name = name
        bpy.context.window.scene = scene
    bpy.data.scenes["Flat"].hvg3d.camera = flat
    gone = bpy.data.scenes["Gone"]
    gone.hvg3d.entities[1].objects[0].object = None  # what deleting an object leaves of its mark
    bpy.ops.wm.save_mainfile()
    whole = (folder / "shots.blend").read_bytes()
    (folder / "corrupt.blend").write_bytes(whole[: len(whole) // 3])


if __name__ == "__main__":
    import blender_addon

    blender_addon.register()
    make_files(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)
