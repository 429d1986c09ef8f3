# SPDX-License-Identifier: GPL-3.0-or-later
"""A shot's settings, saved with its scene as ``scene.hvg3d``."""

from __future__ import annotations

import bpy
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)

from .runtime import RUNTIME

ROLE_ITEMS = (
    ("left_hand", "Left Hand", "A left hand, with or without its arm", "VIEW_PAN", 0),
    ("right_hand", "Right Hand", "A right hand, with or without its arm", "VIEW_PAN", 1),
    ("object", "Object", "Something that hands hold or touch", "OBJECT_DATA", 2),
    ("other", "Other", "Something else that the video shall follow", "DOT", 3),
)
SERVERS_CHOICE = "SERVER_DEFAULT"
_model_items_cache: list[tuple] = []  # Blender keeps no reference to the strings of dynamic enums


def _model_items(self, context) -> list[tuple]:
    items = [(SERVERS_CHOICE, "The server's default", "The model that the server was started with", 0)]
    for model in RUNTIME.server.models:
        title = model.title if model.installed else f"{model.title} (not installed)"
        items.append((model.id, title, f"{model.id}, licence {model.licence or 'unknown'}", len(items)))
    if self.model and all(item[0] != self.model for item in items):
        items.append((self.model, f"{self.model} (not on this server)", "The server does not offer it", len(items)))
    if items != _model_items_cache:
        _model_items_cache[:] = items
    return _model_items_cache


def _get_model(self) -> int:
    wanted = self.model or SERVERS_CHOICE
    return next((item[3] for item in _model_items(self, None) if item[0] == wanted), 0)


def _set_model(self, value: int) -> None:
    identifier = _model_items(self, None)[value][0]
    self.model = "" if identifier == SERVERS_CHOICE else identifier


class HVG3D_ObjectRef(bpy.types.PropertyGroup):
    object: PointerProperty(type=bpy.types.Object, name="Object")


class HVG3D_Entity(bpy.types.PropertyGroup):
    """A marked hand or object; ``name`` is what the clip calls it."""

    role: EnumProperty(name="Role", items=ROLE_ITEMS, default="object")
    objects: CollectionProperty(type=HVG3D_ObjectRef)


class HVG3D_SceneSettings(bpy.types.PropertyGroup):
    entities: CollectionProperty(type=HVG3D_Entity)
    entity_index: IntProperty(name="Marked hand or object", options=set())

    camera: PointerProperty(
        type=bpy.types.Object,
        name="Camera",
        description="Camera to look through. Empty is the scene's own",
        poll=lambda self, obj: obj.type == "CAMERA",
    )
    use_scene_range: BoolProperty(
        name="Scene Range", description="Use the frame range of the scene", default=True, options=set()
    )
    frame_start: IntProperty(name="Start", default=1, options=set())
    frame_end: IntProperty(name="End", default=49, options=set())
    every_frame: BoolProperty(
        name="Every Frame",
        description="Take every frame of the range; switched off, a chosen number of frames is spread over it",
        default=True,
        options=set(),
    )
    num_frames: IntProperty(
        name="Frames",
        description="Spread this many frames over the range: 8k+1, such as 17, 25 or 49",
        default=49,
        min=1,
        max=1001,
        options=set(),
    )
    width: IntProperty(name="Width", default=720, min=16, max=4096, step=1600, subtype="PIXEL", options=set())
    height: IntProperty(name="Height", default=480, min=16, max=4096, step=1600, subtype="PIXEL", options=set())

    reference_source: EnumProperty(
        name="First Picture",
        description="What shows how hand and object look in the first frame",
        items=(
            ("RENDER", "Render", "Render the first frame with the scene's own engine"),
            ("IMAGE", "Picture", "A picture file, cropped to the aspect of the video"),
            ("MOVIE", "Movie", "One frame of a movie file, cropped to the aspect of the video"),
        ),
    )
    reference_path: StringProperty(name="File", subtype="FILE_PATH", options=set())
    reference_frame: IntProperty(name="Movie Frame", default=1, min=1, options=set())

    prompt: StringProperty(
        name="Prompt", description="What the video shows: the person's hand, the object, the place, the light"
    )
    seed: IntProperty(name="Seed", description="Another seed gives another video", default=0, min=0, options=set())
    model: StringProperty(name="Model", options={"HIDDEN"})
    model_choice: EnumProperty(
        name="Model", description="Network that makes the video", items=_model_items, get=_get_model, set=_set_model
    )

    points_per_entity: IntProperty(
        name="Points",
        description="Points sampled on each hand and object",
        default=1024,
        min=16,
        max=65536,
        options=set(),
    )
    num_tracks: IntProperty(
        name="Tracks",
        description="How many of the points are drawn as motion tracks",
        default=1024,
        min=0,
        max=65536,
        options=set(),
    )

    def range_of(self, scene: bpy.types.Scene) -> tuple[int, int]:
        """First and last frame, inclusive."""
        if self.use_scene_range:
            return scene.frame_start, scene.frame_end
        return self.frame_start, self.frame_end

    def frame_count(self, scene: bpy.types.Scene) -> int:
        """Frames that the clip will have."""
        first, last = self.range_of(scene)
        return last - first + 1 if self.every_frame else self.num_frames

    def camera_of(self, scene: bpy.types.Scene) -> bpy.types.Object | None:
        return self.camera or scene.camera


CLASSES = (HVG3D_ObjectRef, HVG3D_Entity, HVG3D_SceneSettings)
