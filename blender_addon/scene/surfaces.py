# SPDX-License-Identifier: GPL-3.0-or-later
"""The objects with a surface that something marked stands for, as quickly as drawing a panel needs it."""

from __future__ import annotations

import bpy

from .meshes import GEOMETRY_TYPES


def surfaces_of(scene: bpy.types.Scene, top: bpy.types.Object) -> list[bpy.types.Object]:
    """``top`` itself, or what an armature deforms or carries, or the children of an empty."""
    if top.type in GEOMETRY_TYPES:
        return [top]
    found = {obj: None for obj in top.children_recursive if obj.type in GEOMETRY_TYPES}
    if top.type == "ARMATURE":
        for obj in scene.objects:
            if obj.type in GEOMETRY_TYPES and any(m.type == "ARMATURE" and m.object == top for m in obj.modifiers):
                found.setdefault(obj)
    return list(found)
