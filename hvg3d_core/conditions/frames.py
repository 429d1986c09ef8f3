# SPDX-License-Identifier: Apache-2.0
"""How many frames the video network takes, and how to get there from any number.

CogVideoX's VAE codes the first frame alone and then groups of frames; with its patching in time the counts that
come back as they went in are 1 and 8k + 1.
"""

from __future__ import annotations

import numpy as np

from .clip import ClipError

FRAME_GROUP = 8


def valid_frame_count(n: int) -> bool:
    """True for 1, 9, 17, ... 49, 57, ..."""
    return n >= 1 and (n - 1) % FRAME_GROUP == 0


def nearest_valid_frame_counts(n: int) -> tuple[int, int]:
    """The valid counts just below and just above ``n``; twice ``n`` itself where it is valid, (1, 1) below 1."""
    if n < 1:
        return 1, 1
    low = n - (n - 1) % FRAME_GROUP
    return (low, low) if low == n else (low, low + FRAME_GROUP)


def check_frame_count(n: int) -> None:
    """Raise :class:`ClipError` with the two nearest valid counts unless the video VAE takes ``n`` frames."""
    if valid_frame_count(n):
        return
    low, high = nearest_valid_frame_counts(n)
    choice = f"{low}" if low == high else f"{low} or {high}"
    raise ClipError(f"number of frames: {n} is not 1 or 8k+1, which is what the video VAE takes; use {choice} frames")


def resample_indices(num_source: int, num_target: int) -> np.ndarray:
    """``num_target`` int64 indices, spread evenly over ``num_source`` frames; first and last are kept."""
    if num_source < 1:
        raise ClipError(f"number of source frames: {num_source}; at least 1 is needed")
    if num_target < 1:
        raise ClipError(f"number of target frames: {num_target}; at least 1 is needed")
    steps = np.linspace(0.0, num_source - 1, num_target)
    return np.floor(steps + 0.5).astype(np.int64)
