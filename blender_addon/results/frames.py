# SPDX-License-Identifier: GPL-3.0-or-later
"""Which frame of a video belongs to which frame of its scene. numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np

from .files import shot_of


def scene_times(metadata: dict[str, Any], count: int) -> np.ndarray:
    """The scene frames (float64, ascending) that each of the ``count`` frames of the video was made from.

    The clip's frames are spread evenly over the shot; which of them the model took is in the server's metadata, else
    they are taken to be spread evenly too.
    """
    shot = shot_of(metadata)
    times = np.linspace(float(shot["frame_start"]), float(shot["frame_end"]), max(int(shot["frame_count"]), 1))
    told = metadata.get("scene_frames")
    clip = metadata.get("clip")
    if isinstance(told, list) and len(told) == count and isinstance(clip, dict):
        index = np.asarray(told, np.int64) - int(clip["frame_range"][0])
    else:
        index = np.round(np.linspace(0, len(times) - 1, max(count, 1))).astype(np.int64)
    return times[np.clip(index, 0, len(times) - 1)]


def shown_frames(times: np.ndarray, first: int, last: int) -> np.ndarray:
    """For each scene frame ``first`` .. ``last`` the number (from 0) of the video's frame that is shown there: the last
    one that was made from this frame or an earlier one."""
    frames = np.arange(first, last + 1)
    return np.clip(np.searchsorted(times, frames + 1e-6, side="right") - 1, 0, len(times) - 1)


def is_one_to_one(shown: np.ndarray) -> bool:
    return bool((shown == np.arange(len(shown))).all())


def changes(shown: np.ndarray) -> list[tuple[int, int]]:
    """(place, value) wherever a new value begins."""
    begins = np.flatnonzero(np.diff(shown, prepend=shown[0] - 1))
    return [(int(place), int(shown[place])) for place in begins]
