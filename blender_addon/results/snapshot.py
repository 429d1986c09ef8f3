# SPDX-License-Identifier: GPL-3.0-or-later
"""A shot's settings as plain values, for the metadata of a result, and back into a scene."""

from __future__ import annotations

import time
from typing import Any

import bpy

from ..result import blend_name

_PLAIN = {"BOOLEAN", "INT", "FLOAT", "STRING", "ENUM"}
_LEFT_OUT = {"name", "model_choice", "entity_index", "reference_made_from"}


def shot_snapshot(scene: bpy.types.Scene) -> dict[str, Any]:
    """Everything in the scene that a result depends on, beside the geometry itself (that is in the clip)."""
    from ..shot import fps_of

    shot = scene.hvg3d
    first, last = shot.range_of(scene)
    camera = shot.camera_of(scene)
    view = scene.view_settings
    return {
        "version": 1,
        "scene": scene.name,
        "blend": blend_name(),
        "blender": bpy.app.version_string,
        "addon": _addon_version(),
        "made": time.time(),
        "frame_start": first,
        "frame_end": last,
        "frame_count": shot.frame_count(scene),
        "fps": scene.render.fps,
        "fps_base": scene.render.fps_base,
        "clip_fps": fps_of(scene),
        "camera": camera.name if camera is not None else "",
        "own_camera": shot.camera is not None,
        "engine": scene.render.engine,
        "view": {
            "display": scene.display_settings.display_device,
            "transform": view.view_transform,
            "look": view.look,
            "exposure": view.exposure,
            "gamma": view.gamma,
        },
        "settings": settings_of(shot),
        "marks": [
            {
                "name": entity.name,
                "role": entity.role,
                "reason": entity.reason,
                "objects": [ref.object.name for ref in entity.objects if ref.object is not None],
                "collections": [ref.collection.name for ref in entity.objects if ref.collection is not None],
            }
            for entity in shot.entities
        ],
    }


def settings_of(shot) -> dict[str, Any]:
    """All plain properties of the shot, as the panel shows them."""
    return {
        prop.identifier: getattr(shot, prop.identifier)
        for prop in shot.bl_rna.properties
        if prop.type in _PLAIN and not prop.is_readonly and prop.identifier not in _LEFT_OUT
    }


def restore_shot(scene: bpy.types.Scene, told: dict[str, Any], first_picture: bytes | None = None) -> list[str]:
    """Put a result's settings back into ``scene``. Returns what could not be put back, in words."""
    from ..shot import reference_recipe

    shot = scene.hvg3d
    problems = []
    keep = bool(told["settings"].get("reference_keep"))
    for name, value in told["settings"].items():
        if name in _LEFT_OUT or name not in shot.bl_rna.properties:
            continue
        try:
            setattr(shot, name, value)
        except (TypeError, ValueError):
            problems.append(f"{shot.bl_rna.properties[name].name} cannot be set to {value!r} any more")
    problems += _restore_marks(scene, told)
    camera = scene.objects.get(str(told.get("camera", "")))
    if camera is None:
        problems.append(f"camera {told.get('camera')!r} is gone")
    shot.camera = camera if told.get("own_camera") else None
    if camera is not None and not told.get("own_camera"):
        scene.camera = camera
    if shot.use_scene_range:
        scene.frame_start, scene.frame_end = int(told["frame_start"]), int(told["frame_end"])
    scene.render.fps, scene.render.fps_base = int(told["fps"]), float(told["fps_base"])
    shot.reference_keep = False
    if keep and first_picture is not None:
        image = bpy.data.images.new(f"HVG-3D {scene.name} first picture", shot.width, shot.height)
        image.source = "FILE"
        image.pack(data=first_picture, data_len=len(first_picture))
        image.reload()
        shot.reference_image = image
        shot.reference_made_from = reference_recipe(scene)
        shot.reference_keep = True
    elif keep:
        problems.append("the first picture that was kept is gone: it will be made anew")
    return problems


def _restore_marks(scene: bpy.types.Scene, told: dict[str, Any]) -> list[str]:
    problems = []
    shot = scene.hvg3d
    shot.entities.clear()
    for mark in told.get("marks", []):
        item = shot.entities.add()
        item.name, item.role, item.reason = mark["name"], mark["role"], mark.get("reason", "")
        for kind, names in (("object", mark.get("objects", [])), ("collection", mark.get("collections", []))):
            for name in names:
                found = scene.objects.get(name) if kind == "object" else bpy.data.collections.get(name)
                if found is None:
                    problems.append(f"{kind} {name!r} is gone")
                else:
                    setattr(item.objects.add(), kind, found)
    return problems


def _addon_version() -> str:
    from ..preferences import addon_version

    return addon_version()
