# SPDX-License-Identifier: GPL-3.0-or-later
"""Leaving a scene exactly as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import bpy

_OBJECT_CHANNELS = ("location", "rotation_euler", "rotation_quaternion", "rotation_axis_angle", "scale")
_LENS_CHANNELS = ("lens", "sensor_width", "sensor_height", "shift_x", "shift_y")


def _plain(value: Any) -> Any:
    """A copy of a property's value that no longer refers to Blender's memory (vectors do)."""
    return tuple(value) if hasattr(value, "__len__") and not isinstance(value, str) else value


class Settings:
    """Remembers attributes before they are set, and puts them back in the order in which they were remembered."""

    def __init__(self) -> None:
        self._before: dict[tuple[int, str], tuple[Any, Any]] = {}

    def remember(self, owner: Any, *attributes: str) -> None:
        """Before any of several is set that change each other: choosing PNG lowers the colour depth to 16 bits."""
        for attribute in attributes:
            key = (owner.as_pointer(), attribute)
            if key not in self._before:
                self._before[key] = (owner, _plain(getattr(owner, attribute)))

    def set(self, owner: Any, attribute: str, value: Any) -> None:
        self.remember(owner, attribute)
        setattr(owner, attribute, value)

    def restore(self) -> None:
        for (_, attribute), (owner, value) in self._before.items():
            setattr(owner, attribute, value)
        self._before.clear()


def _unkeyed_channels(scene: bpy.types.Scene) -> Iterator[tuple[Any, str]]:
    """Channels an animator moves by hand. Evaluating another frame overwrites those that are also animated."""
    for obj in scene.objects:
        if obj.animation_data is not None or obj.parent is not None:
            for name in _OBJECT_CHANNELS:
                yield obj, name
        if obj.pose is not None:
            for bone in obj.pose.bones:
                for name in _OBJECT_CHANNELS:
                    yield bone, name
        keys = getattr(obj.data, "shape_keys", None)
        if keys is not None:
            for block in keys.key_blocks:
                yield block, "value"
        if obj.type == "CAMERA":
            for name in _LENS_CHANNELS:
                yield obj.data, name


@contextmanager
def preserved(scene: bpy.types.Scene) -> Iterator[Settings]:
    """Gives a :class:`Settings` to change the scene with; afterwards everything is as before, also after an error.

    Covers, besides what goes through ``Settings``: the frame and subframe; the camera (markers switch it); poses,
    transforms, shape keys and lenses that were changed by hand but not keyed; edit mode (which hides evaluated
    meshes), with the selection and the active object.
    """
    frame = (scene.frame_current, scene.frame_subframe)
    camera = scene.camera
    channels = [(owner, name, _plain(getattr(owner, name))) for owner, name in _unkeyed_channels(scene)]
    mode = _leave_edit_mode()
    settings = Settings()
    try:
        yield settings
    finally:
        settings.restore()
        scene.frame_set(frame[0], subframe=frame[1])
        scene.camera = camera
        changed = False
        for owner, name, value in channels:
            if _plain(getattr(owner, name)) != value:
                setattr(owner, name, value)
                changed = True
        if changed:
            for layer in scene.view_layers:
                layer.update()
        if mode is not None:
            bpy.ops.object.mode_set(mode=mode)


def _leave_edit_mode() -> str | None:
    obj = bpy.context.view_layer.objects.active
    if obj is None or obj.mode != "EDIT":
        return None
    bpy.ops.object.mode_set(mode="OBJECT")
    return "EDIT"
