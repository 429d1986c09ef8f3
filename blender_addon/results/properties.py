# SPDX-License-Identifier: GPL-3.0-or-later
"""What Blender keeps for the results: the list in the window manager, and how a comparison scene is laid out."""

from __future__ import annotations

import bpy
from bpy.props import CollectionProperty, EnumProperty, FloatProperty, IntProperty, PointerProperty, StringProperty

LAYOUTS = (
    ("WIPE", "Wipe", "One over the other; the slider moves the line between them and can be animated"),
    ("SIDE", "Side by Side", "The scene on the left, the video on the right"),
)


def _rearrange(self, context) -> None:
    from . import compare

    compare.arrange(self.id_data)


class HVG3D_ResultItem(bpy.types.PropertyGroup):
    """A line of the history; everything else about it is in ``RUNTIME.history``."""

    movie: StringProperty(options={"HIDDEN"})


class HVG3D_CompareSettings(bpy.types.PropertyGroup):
    """Of a scene that was made to compare; ``movie`` is empty in all others."""

    movie: StringProperty(options={"HIDDEN"})
    copy_of: StringProperty(options={"HIDDEN"})
    original: PointerProperty(type=bpy.types.Scene, options={"HIDDEN"})
    width: IntProperty(options={"HIDDEN"})
    height: IntProperty(options={"HIDDEN"})
    real_scale: FloatProperty(default=1.0, options={"HIDDEN"})
    original_scale: FloatProperty(default=1.0, options={"HIDDEN"})
    layout: EnumProperty(
        name="Layout", description="How the scene and its video are shown", items=LAYOUTS, update=_rearrange
    )


def made_to_compare(scene: bpy.types.Scene) -> bool:
    """A comparison, or the copy of a scene for one: no shot of the user's."""
    return bool(scene.hvg3d_compare.movie or scene.hvg3d_compare.copy_of)


CLASSES = (HVG3D_ResultItem, HVG3D_CompareSettings)


def register() -> None:
    bpy.types.Scene.hvg3d_compare = PointerProperty(type=HVG3D_CompareSettings)
    bpy.types.WindowManager.hvg3d_results = CollectionProperty(type=HVG3D_ResultItem)
    bpy.types.WindowManager.hvg3d_result_index = IntProperty(
        name="Result", description="The video that the buttons below the list work on", options=set()
    )


def unregister() -> None:
    del bpy.types.WindowManager.hvg3d_result_index
    del bpy.types.WindowManager.hvg3d_results
    del bpy.types.Scene.hvg3d_compare
