# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures for panels: thumbnails of results, which Blender reads in a thread of its own, and the live preview."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import bpy
import bpy.utils.previews
import numpy as np

from .files import thumbnail_path

_collection: bpy.utils.previews.ImagePreviewCollection | None = None
_live_number = -1
_absent: set[str] = set()  # results without a thumbnail, not to ask a slow disk at every redraw
_LIVE = "live preview"
_IMAGE = ".hvg3d_live_preview"  # the dot hides it from lists
_LARGEST = 256  # pixels along the longer side


def register() -> None:
    global _collection
    _collection = bpy.utils.previews.new()


def unregister() -> None:
    global _collection, _live_number
    if _collection is not None:
        bpy.utils.previews.remove(_collection)
    _collection, _live_number = None, -1


def icon_of(movie: Path) -> int:
    """An icon's number for a result; 0 where it has no thumbnail. Cheap: asks the disk only the first time."""
    if _collection is None:
        return 0
    name = str(movie)
    if name not in _collection:
        path = thumbnail_path(movie)
        if name in _absent or not path.is_file():
            _absent.add(name)
            return 0
        _collection.load(name, str(path), "IMAGE")
    return _collection[name].icon_id


def look_again() -> None:
    """Ask anew for thumbnails that were not there."""
    _absent.clear()


def forget(movie: Path) -> None:
    if _collection is not None and str(movie) in _collection:
        del _collection[str(movie)]


def take_live(jpeg: bytes, number: int) -> None:
    """Make ``jpeg`` the live preview, unless picture ``number`` is it already. What is no picture is passed over."""
    global _live_number
    if _collection is None or number == _live_number or not jpeg:
        return
    pixels = _decode(jpeg)
    if pixels is None:
        return
    _live_number = number
    preview = _collection[_LIVE] if _LIVE in _collection else _collection.new(_LIVE)
    rows, columns = pixels.shape[:2]
    preview.image_size = (columns, rows)
    preview.image_pixels_float.foreach_set(pixels.ravel())


def drop_live() -> None:
    global _live_number
    _live_number = -1
    if _collection is not None and _LIVE in _collection:
        del _collection[_LIVE]
    image = bpy.data.images.get(_IMAGE)
    if image is not None:
        bpy.data.images.remove(image)


def live_icon() -> int:
    """0 while there is none."""
    if _collection is None or _live_number < 0 or _LIVE not in _collection:
        return 0
    return _collection[_LIVE].icon_id


def _decode(jpeg: bytes) -> np.ndarray | None:
    """H x W x 4 floats, from the bottom up, small enough for a panel.

    Through one image that stays until the last picture, and that nothing uses, so that it is never saved: each image
    that comes or goes makes Blender set up the scene anew and redraw every viewport. (Images of ``temp_data``, which no
    scene sees, crash Blender 5.2 in a window.)
    """
    handle, name = tempfile.mkstemp(suffix=".jpg", prefix="hvg3d_")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(jpeg)
        image = bpy.data.images.get(_IMAGE)
        if image is None:
            image = bpy.data.images.load(name, check_existing=False)
            image.name = _IMAGE
        else:
            image.filepath_raw = name
            image.reload()
        columns, rows = image.size
        if not (0 < columns <= 4096 and 0 < rows <= 4096) or image.channels != 4:
            return None
        pixels = np.empty(columns * rows * 4, np.float32)
        image.pixels.foreach_get(pixels)
        step = -(-max(rows, columns) // _LARGEST)
        return np.ascontiguousarray(pixels.reshape(rows, columns, 4)[::step, ::step])
    except (OSError, RuntimeError):
        return None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(name)
