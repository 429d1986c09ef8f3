# SPDX-License-Identifier: GPL-3.0-or-later
"""A result as a background image of the shot's camera, in step with the scene."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np

from ..compat import action_curves
from .files import read_metadata, shot_of
from .frames import changes, is_one_to_one, scene_times, shown_frames

_NAME = "HVG-3D "  # the images' names begin so


def show(scene: bpy.types.Scene, movie: Path, depth: str = "FRONT") -> bpy.types.Object:
    """``depth``: "BACK" behind the scene, "FRONT" half transparent over it. Returns the camera.

    A video that was there before is replaced. Raises ValueError with words for the user.
    """
    metadata = read_metadata(movie)
    shot = shot_of(metadata)
    camera = scene.objects.get(str(shot.get("camera", ""))) or scene.camera
    if camera is None or camera.type != "CAMERA":
        raise ValueError(f"Camera {shot.get('camera')!r} is not in this scene: add a camera first")
    remove(camera)
    try:
        image = bpy.data.images.load(str(movie), check_existing=False)
    except RuntimeError as error:
        raise ValueError(f"{movie} cannot be opened: {str(error).strip()}") from None
    image.name = f"{_NAME}{movie.stem}"
    first, last = int(shot["frame_start"]), int(shot["frame_end"])
    data = camera.data
    data.show_background_images = True
    back = data.background_images.new()
    back.image = image
    back.display_depth = depth
    back.alpha = 1.0 if depth == "BACK" else 0.5
    back.frame_method = "CROP"
    count = image.frame_duration
    shown = shown_frames(scene_times(metadata, count), first, last)
    user = back.image_user
    user.frame_start, user.frame_duration = first, last - first + 1
    user.frame_offset = 0
    user.use_auto_refresh = True
    user.use_cyclic = False
    if not is_one_to_one(shown):
        # The picture shown at scene frame f is f - frame_start + 1 + offset.
        path = f"{back.path_from_id()}.image_user.frame_offset"
        for place, number in _offsets(shown):
            user.frame_offset = number
            data.keyframe_insert(path, frame=first + place)
        for curve in action_curves(data):
            if curve.data_path == path:
                for point in curve.keyframe_points:
                    point.interpolation = "CONSTANT"
    return camera


def _offsets(shown) -> list[tuple[int, int]]:
    return changes(shown - np.arange(len(shown)))


def shown_in(camera: bpy.types.Object) -> bool:
    return camera.type == "CAMERA" and any(_is_ours(back) for back in camera.data.background_images)


def remove(camera: bpy.types.Object) -> bool:
    """Takes away what :func:`show` has put there, its keys included; whether there was anything."""
    data = camera.data
    ours = [index for index, back in enumerate(data.background_images) if _is_ours(back)]
    for index in reversed(ours):
        back = data.background_images[index]
        path = f"{back.path_from_id()}.image_user.frame_offset"
        with_keys = any(curve.data_path == path for curve in action_curves(data))
        if with_keys:
            for frame in _key_frames(data, path):
                data.keyframe_delete(path, frame=frame)
        image = back.image
        data.background_images.remove(back)
        if image is not None and image.users == 0:
            bpy.data.images.remove(image)
    animation = data.animation_data
    if ours and animation is not None and animation.action is not None and not action_curves(data):
        action = animation.action
        data.animation_data_clear()
        if action.users == 0:
            bpy.data.actions.remove(action)
    return bool(ours)


def _key_frames(data: bpy.types.Camera, path: str) -> list[float]:
    return [point.co[0] for curve in action_curves(data) if curve.data_path == path for point in curve.keyframe_points]


def _is_ours(back) -> bool:
    return back.image is not None and back.image.name.startswith(_NAME) and back.image.source == "MOVIE"
