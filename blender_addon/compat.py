# SPDX-License-Identifier: GPL-3.0-or-later
"""Every difference between the versions of Blender that the add-on runs in (4.5 LTS to 5.2 LTS)."""

from __future__ import annotations

from typing import Any

import bpy


def sequencer_strips(editor: bpy.types.SequenceEditor):
    """The strips of a sequence editor, called sequences up to 4.4. (No `or` here: an empty collection is falsy.)"""
    return editor.strips if hasattr(editor, "strips") else editor.sequences


def png_settings(image_settings: bpy.types.ImageFormatSettings) -> dict[str, Any]:
    """Attributes for 8-bit RGB PNGs, in the order to set them. 5.0 asks for the kind of file before its format."""
    kind = {"media_type": "IMAGE"} if hasattr(image_settings, "media_type") else {}
    return {**kind, "file_format": "PNG", "color_mode": "RGB", "color_depth": "8"}


def action_curves(owner: bpy.types.ID) -> list[bpy.types.FCurve]:
    """The F-curves that animate ``owner``; actions have layers and slots since 4.4, and nothing else since 5.0."""
    data = owner.animation_data
    if data is None or data.action is None:
        return []
    slot = data.action_slot
    return [
        curve
        for layer in data.action.layers
        for strip in layer.strips
        for bag in strip.channelbags
        if slot is not None and bag.slot_handle == slot.handle
        for curve in bag.fcurves
    ]


def with_nodes(owner: bpy.types.Material | bpy.types.World) -> bpy.types.NodeTree:
    """The shader nodes of a material or world; since 5.0 they are always there and the switch is going away."""
    if bpy.app.version < (5, 0, 0):
        owner.use_nodes = True
    return owner.node_tree


def effect_strip(editor: bpy.types.SequenceEditor, name: str, kind: str, channel: int, start: int, end: int, *inputs):
    """A new effect over one or two strips; 5.0 asks for its length where it took its end before."""
    extent = {"length": end - start} if bpy.app.version >= (5, 0, 0) else {"frame_end": end}
    sources = {f"input{number}": strip for number, strip in enumerate(inputs, 1)}
    return sequencer_strips(editor).new_effect(name, kind, channel, frame_start=start, **extent, **sources)


def set_strip_end(strip: bpy.types.Strip, frame: int) -> None:
    """The first frame after a strip; what is beyond its content repeats the last frame. Renamed in 5.1."""
    name = "right_handle" if hasattr(strip, "right_handle") else "frame_final_end"
    setattr(strip, name, frame)


def set_strip_start(strip: bpy.types.Strip, frame: int) -> None:
    """The first frame of a strip; its content stays where it is. Renamed in 5.1."""
    name = "left_handle" if hasattr(strip, "left_handle") else "frame_final_start"
    setattr(strip, name, frame)


def show_in_sequencer(window: bpy.types.Window, scene: bpy.types.Scene) -> None:
    """Since 5.0 a workspace's sequencer has a scene of its own; before, it shows the window's."""
    if hasattr(window.workspace, "sequencer_scene"):
        window.workspace.sequencer_scene = scene
    else:
        window.scene = scene


def sequencer_scene(context: bpy.types.Context) -> bpy.types.Scene:
    """The scene that sequence editors show."""
    return getattr(context, "sequencer_scene", None) or context.scene
