# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything about a scene that an export could touch, as plain values to compare."""

from __future__ import annotations

from typing import Any

import bpy

_LISTS = (
    "objects",
    "meshes",
    "materials",
    "cameras",
    "armatures",
    "actions",
    "collections",
    "scenes",
    "worlds",
    "lights",
)
# Filled by rendering itself, not by a setting; everything else must stay.
_RENDER_RESULT = "Render Result"
# Blender fills this in itself the first time a file format is chosen, and does not let scripts empty it again. It is
# read only where image_settings.color_management is OVERRIDE, which is compared.
_SELF_FILLING = "linear_colorspace_settings"


def properties(owner: Any) -> dict[str, Any]:
    """Values of all plain properties of an RNA structure; pointers by the name of what they point at."""
    values = {}
    for prop in owner.bl_rna.properties:
        name = prop.identifier
        if name in ("rna_type", _SELF_FILLING) or prop.type == "COLLECTION":
            continue
        value = getattr(owner, name)
        if prop.type == "POINTER":
            value = getattr(value, "name", None)
        elif getattr(prop, "is_array", False):
            value = tuple(tuple(row) if hasattr(row, "__len__") else row for row in value)
        elif isinstance(value, set):
            value = frozenset(value)
        values[name] = value
    return values


def scene_state(scene: bpy.types.Scene) -> dict[str, Any]:
    """Scene, render, image, view and Cycles settings; objects with pose, modifiers and shape keys; selection, mode."""
    render = scene.render
    layer = scene.view_layers[0]
    state = {
        "scene": properties(scene),
        "subframe": scene.frame_subframe,
        "render": properties(render),
        "image": properties(render.image_settings),
        "ffmpeg": properties(render.ffmpeg),
        "view": properties(scene.view_settings),
        "display": properties(scene.display_settings),
        "cycles": properties(scene.cycles),
        "units": properties(scene.unit_settings),
        "layer": properties(layer),
        "active": layer.objects.active and layer.objects.active.name,
        "mode": bpy.context.mode,
        "selected": sorted(obj.name for obj in layer.objects if obj.select_get()),
        "markers": [(m.name, m.frame, m.camera and m.camera.name) for m in scene.timeline_markers],
        "data": {name: sorted(block.name for block in getattr(bpy.data, name)) for name in _LISTS},
        "images": sorted(image.name for image in bpy.data.images if image.name != _RENDER_RESULT),
    }
    for obj in scene.objects:
        state["object", obj.name] = properties(obj)
        state["data", obj.name] = obj.data and properties(obj.data)
        state["modifiers", obj.name] = [properties(modifier) for modifier in obj.modifiers]
        state["materials", obj.name] = [slot.material and slot.material.name for slot in obj.material_slots]
        if obj.pose is not None:
            state["pose", obj.name] = [properties(bone) for bone in obj.pose.bones]
        keys = getattr(obj.data, "shape_keys", None)
        if keys is not None:
            state["keys", obj.name] = [block.value for block in keys.key_blocks]
    return state


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """One line for each value that is not as it was."""
    lines = []
    for key in sorted(set(before) | set(after), key=str):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += [
                f"{key}.{name}: {old.get(name)!r} -> {new.get(name)!r}"
                for name in sorted(set(old) | set(new))
                if old.get(name) != new.get(name)
            ]
        elif old != new:
            lines.append(f"{key}: {old!r} -> {new!r}")
    return lines
