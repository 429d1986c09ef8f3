# SPDX-License-Identifier: Apache-2.0
"""What a clip must hold before anything is made from it. Every message names the field, the value and the remedy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .clip import Clip, ClipError, Entity, View
from .png import png_size

MAX_SIDE = 16384  # pixels
MAX_ENTITIES = 254  # masks are uint8 and 0 is the background
_ORTHONORMAL = 1e-3
_UNIT = 1e-2


def validate(clip: Clip) -> None:
    """Raise :class:`ClipError` for the first thing in ``clip`` that breaks the schema."""
    _check_header(clip)
    frames, count = _check_points(clip)
    _check_tracks(clip, frames, count)
    if not clip.views:
        raise ClipError("views: there is none; a clip needs at least one camera")
    for index, view in enumerate(clip.views):
        check_view(view, f"views[{index}]", clip, frames, count)
    _check_optional(clip, frames, count)


def check_array(name: str, value: Any, dtype: type, shape: Sequence[int | None]) -> np.ndarray:
    """``value`` as the array it must be; None in ``shape`` is any length. Floats must be finite."""
    if not isinstance(value, np.ndarray):
        raise ClipError(f"{name}: {type(value).__name__} given; a numpy array is needed")
    wanted = " x ".join("any" if side is None else str(side) for side in shape)
    if value.ndim != len(shape) or any(w is not None and w != s for s, w in zip(value.shape, shape, strict=True)):
        raise ClipError(f"{name}: shape {value.shape}; {wanted} is needed")
    if value.dtype != np.dtype(dtype):
        raise ClipError(f"{name}: dtype {value.dtype}; convert it to {np.dtype(dtype)}")
    if value.dtype.kind == "f":
        check_finite(name, value)
    return value


def check_finite(name: str, value: np.ndarray) -> None:
    finite = np.isfinite(value)
    if not finite.all():
        where = first_index(~finite)
        raise ClipError(
            f"{name}: {int((~finite).sum())} values are not finite, the first is {value[where]} at index {where};"
            " repair the source that made them"
        )


def first_index(bad: np.ndarray) -> tuple[int, ...]:
    """Index of the first True, as plain ints."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))


def check_entities(entities: Any) -> None:
    if not isinstance(entities, tuple | list) or not all(isinstance(e, Entity) for e in entities):
        raise ClipError(f"entities: {entities!r}; a sequence of Entity is needed")
    if not 1 <= len(entities) <= MAX_ENTITIES:
        raise ClipError(f"entities: {len(entities)} given; name 1 to {MAX_ENTITIES}, such as a hand and an object")
    names = [e.name for e in entities]
    for name in names:
        if not isinstance(name, str) or not name:
            raise ClipError(f"entities: the name {name!r} is empty or no text; give each entity a name")
        if names.count(name) > 1:
            raise ClipError(f"entities: the name {name!r} is used twice; make the names differ")


def check_size(width: Any, height: Any) -> None:
    for name, value in (("width", width), ("height", height)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value <= MAX_SIDE:
            raise ClipError(f"{name}: {value!r}; a whole number of pixels from 1 to {MAX_SIDE} is needed")


def check_fps(fps: Any) -> None:
    if isinstance(fps, bool) or not isinstance(fps, int | float | np.number) or not math.isfinite(fps) or fps <= 0:
        raise ClipError(f"fps: {fps!r}; a finite number above 0 is needed")


def _check_header(clip: Clip) -> None:
    check_entities(clip.entities)
    check_size(clip.width, clip.height)
    check_fps(clip.fps)
    frames = clip.frame_range
    if not isinstance(frames, tuple | list) or len(frames) != 2 or frames[1] < frames[0]:
        raise ClipError(f"frame_range: {frames!r}; (first, last) with first <= last is needed")
    if not isinstance(clip.prompt, str):
        raise ClipError(f"prompt: {type(clip.prompt).__name__} given; text is needed")
    if not isinstance(clip.provenance, dict):
        raise ClipError(f"provenance: {type(clip.provenance).__name__} given; a dictionary is needed")


def _check_points(clip: Clip) -> tuple[int, int]:
    points = check_array("points", clip.points, np.float32, (None, None, 3))
    frames, count = points.shape[:2]
    if frames < 1 or count < 1:
        raise ClipError(f"points: shape {points.shape}; at least one frame and one point are needed")
    shape = (count,) if clip.tracked else (frames, count)
    if not isinstance(clip.tracked, bool | np.bool_):
        raise ClipError(f"tracked: {clip.tracked!r}; True or False is needed")
    owner = check_array("point_entity", clip.point_entity, np.uint8, shape)
    if int(owner.max()) >= len(clip.entities):
        where = first_index(owner >= len(clip.entities))
        raise ClipError(
            f"point_entity: {owner[where]} at index {where}, but there are {len(clip.entities)} entities;"
            f" use 0 to {len(clip.entities) - 1}"
        )
    return frames, count


def _check_tracks(clip: Clip, frames: int, count: int) -> None:
    tracks = check_array("tracks", clip.tracks, np.float32, (frames, None, 3))
    check_array("track_visible", clip.track_visible, np.bool_, tracks.shape[:2])
    if clip.track_points is not None:
        index = check_array("track_points", clip.track_points, np.int32, (tracks.shape[1],))
        bad = (index < 0) | (index >= count)
        if bad.any():
            where = first_index(bad)
            raise ClipError(f"track_points: {index[where]} at index {where}; use 0 to {count - 1}, the clip's points")


def check_camera(name: str, K: np.ndarray, world_to_camera: np.ndarray) -> None:
    """Check one camera's K (T x 3 x 3) and world_to_camera (T x 4 x 4), finite already."""
    focal = K[:, [0, 1], [0, 1]]
    if (focal <= 0).any():
        frame, axis = first_index(focal <= 0)
        raise ClipError(f"{name}.K: focal length {focal[frame, axis]} at frame index {frame}; use more than 0 pixels")
    if (np.abs(K[:, 2] - (0, 0, 1)) > 1e-6).any() or (K[:, 1, 0] != 0).any():
        frame = first_index((np.abs(K[:, 2] - (0, 0, 1)) > 1e-6).any(1) | (K[:, 1, 0] != 0))[0]
        raise ClipError(
            f"{name}.K: {K[frame].tolist()} at frame index {frame} is no pinhole matrix;"
            " use [[fx, s, cx], [0, fy, cy], [0, 0, 1]]"
        )
    rotation = world_to_camera[:, :3, :3].astype(np.float64)
    error = np.abs(rotation @ np.swapaxes(rotation, 1, 2) - np.eye(3)).max((1, 2))
    if (error > _ORTHONORMAL).any():
        frame = first_index(error > _ORTHONORMAL)[0]
        raise ClipError(
            f"{name}.world_to_camera: the rotation at frame index {frame} is off orthonormal by {error[frame]:.3g};"
            " remove scale and shear from the camera"
        )
    if (np.linalg.det(rotation) < 0).any():
        frame = first_index(np.linalg.det(rotation) < 0)[0]
        raise ClipError(f"{name}.world_to_camera: the rotation at frame index {frame} mirrors; use right-handed axes")
    last = np.abs(world_to_camera[:, 3] - (0, 0, 0, 1)).max(1)
    if (last > 1e-6).any():
        frame = first_index(last > 1e-6)[0]
        row = world_to_camera[frame, 3].tolist()
        raise ClipError(f"{name}.world_to_camera: last row {row} at frame index {frame}; it must be [0, 0, 0, 1]")


def check_view(view: View, name: str, clip: Clip, frames: int, count: int) -> None:
    if not isinstance(view, View):
        raise ClipError(f"{name}: {type(view).__name__} given; a View is needed")
    if not isinstance(view.name, str):
        raise ClipError(f"{name}.name: {view.name!r}; text is needed")
    K = check_array(f"{name}.K", view.K, np.float32, (frames, 3, 3))
    check_camera(name, K, check_array(f"{name}.world_to_camera", view.world_to_camera, np.float32, (frames, 4, 4)))
    check_array(f"{name}.point_visible", view.point_visible, np.bool_, (frames, count))
    masks = check_array(f"{name}.masks", view.masks, np.uint8, (frames, clip.height, clip.width))
    if int(masks.max()) > len(clip.entities):
        where = first_index(masks > len(clip.entities))
        raise ClipError(
            f"{name}.masks: {masks[where]} at (frame, row, column) {where}, but there are {len(clip.entities)}"
            f" entities; use 0 for the background and 1 to {len(clip.entities)}"
        )
    check_reference(view.reference, f"{name}.reference", clip.width, clip.height)


def check_reference(reference: Any, name: str, width: int, height: int) -> None:
    """Check that ``reference`` is a whole PNG of this size."""
    if not isinstance(reference, bytes):
        raise ClipError(f"{name}: {type(reference).__name__} given; the bytes of a PNG are needed")
    try:
        size = png_size(reference)
    except ClipError as error:
        raise ClipError(f"{name}: {error}; give the PNG bytes of the first frame") from None
    if size != (width, height):
        raise ClipError(f"{name}: the PNG is {size[0]} x {size[1]}, the clip {width} x {height}; resize the image")


def _check_optional(clip: Clip, frames: int, count: int) -> None:
    if clip.joints is not None:
        check_array("joints", clip.joints, np.float32, (frames, None, 3))
    if clip.object_poses is not None:
        check_array("object_poses", clip.object_poses, np.float32, (frames, None, 4, 4))
    if clip.contacts is not None:
        check_array("contacts", clip.contacts, np.bool_, (frames, count))
    if clip.normals is not None:
        normals = check_array("normals", clip.normals, np.float32, (frames, count, 3))
        length = np.linalg.norm(normals, axis=2)
        bad = np.abs(length - 1.0) > _UNIT
        if bad.any():
            where = first_index(bad)
            raise ClipError(f"normals: length {length[where]:.4g} at (frame, point) {where}; make each a unit vector")
