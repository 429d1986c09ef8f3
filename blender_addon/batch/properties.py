# SPDX-License-Identifier: GPL-3.0-or-later
"""What is ticked for a batch, kept with the scenes, cameras and actions themselves: it follows them through renaming,
undo and saving, and there is no list beside them that could fall behind."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, EnumProperty, IntProperty, PointerProperty, StringProperty


class HVG3D_BatchSettings(bpy.types.PropertyGroup):
    """``scene.hvg3d_batch``. Seeds, folder and the like count in the scene whose panel starts the batch."""

    use: BoolProperty(name="In Batch", description="Make the shots of this scene in a batch", options=set())
    seed_source: EnumProperty(
        name="Seeds",
        description="How many videos are made of each shot",
        items=(
            ("COUNT", "Number", "So many seeds, from the scene's own on"),
            ("LIST", "List", "These very seeds"),
        ),
        options=set(),
    )
    seed_count: IntProperty(
        name="Videos",
        description="Videos of each shot, each with a seed of its own",
        default=1,
        min=1,
        max=10_000,
        options=set(),
    )
    seeds: StringProperty(name="List", description="Seeds, such as 1, 2, 5-8", default="1-3", options=set())
    in_flight: IntProperty(
        name="At a Time",
        description="Jobs that are on the server at the same time, so that it never waits for the next clip",
        default=8,
        min=1,
        max=1000,
        options=set(),
    )
    folder: StringProperty(
        name="Folder",
        description="Where clips, videos and the report go. Empty is the folder hvg3d/batch beside the file",
        subtype="DIR_PATH",
        options={"PATH_SUPPORTS_BLEND_RELATIVE"},
    )
    retry_failed: BoolProperty(
        name="Retry Failed", description="Try again what has failed in an earlier run of this batch", options=set()
    )
    scene_index: IntProperty(name="Scene", description="The line of the list of scenes", options=set())
    camera_index: IntProperty(name="Camera", description="The line of the list of cameras", options=set())
    action_index: IntProperty(name="Action", description="The line of the list of actions", options=set())


CLASSES = (HVG3D_BatchSettings,)


def register() -> None:
    bpy.types.Scene.hvg3d_batch = PointerProperty(type=HVG3D_BatchSettings)
    bpy.types.Object.hvg3d_batch = BoolProperty(
        name="In Batch", description="Make a shot through this camera", options=set()
    )
    bpy.types.Action.hvg3d_batch = BoolProperty(
        name="In Batch", description="Make a shot with this action", options=set()
    )


def unregister() -> None:
    del bpy.types.Action.hvg3d_batch
    del bpy.types.Object.hvg3d_batch
    del bpy.types.Scene.hvg3d_batch
