# SPDX-License-Identifier: Apache-2.0
"""The hand-object region, and what a metric is given of a video in it.

The region is where the *true* clip's masks show a hand or an object. PSNR and L1 count its pixels alone. What needs
whole images (SSIM, GMSD, networks) is given in two ways: ``region``, with everything outside the region, widened by a
margin, painted black in both videos, and ``crop``, the box around the widened region of all frames. Black borders are
alike in both videos and flatter the first; the second shows background, and no other way is without a fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

FRAME, REGION, CROP = "frame", "region", "crop"
SCOPES = (FRAME, REGION, CROP)
MARGIN = 1 / 64  # of the height


def widen(mask: np.ndarray, pixels: int) -> np.ndarray:
    """T x H x W bool, each frame dilated by a square of ``pixels`` to each side."""
    wide = mask.copy()
    for axis in (1, 2):
        grown = wide.copy()
        for step in range(1, min(pixels, mask.shape[axis] - 1) + 1):
            ahead = tuple(slice(step, None) if a == axis else slice(None) for a in range(3))
            behind = tuple(slice(None, -step) if a == axis else slice(None) for a in range(3))
            grown[ahead] |= wide[behind]
            grown[behind] |= wide[ahead]
        wide = grown
    return wide


@dataclass
class Region:
    """``mask`` is T x H x W bool; it may be empty, and then there is no region to compare."""

    mask: np.ndarray

    @property
    def empty(self) -> bool:
        return not self.mask.any()

    @cached_property
    def wide(self) -> np.ndarray:
        return widen(self.mask, max(1, round(self.mask.shape[1] * MARGIN)))

    def blacken(self, video: np.ndarray) -> np.ndarray:
        return np.where(self.wide[..., None], video, np.zeros((), video.dtype))

    @cached_property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns around the wide region of all frames; at least 16 pixels a side, if there are so many."""
        anywhere: np.ndarray = np.any(self.wide, axis=0)
        found = []
        for axis, size in ((1, anywhere.shape[0]), (0, anywhere.shape[1])):
            hit = np.flatnonzero(np.any(anywhere, axis=axis))
            low, high = int(hit[0]), int(hit[-1]) + 1
            missing = max(0, min(16, size) - (high - low))
            low = min(max(0, low - missing // 2), size - (high - low) - missing)
            found.append(slice(low, max(high, low + min(16, size))))
        return found[0], found[1]

    def crop(self, video: np.ndarray) -> np.ndarray:
        rows, columns = self.box
        return video[:, rows, columns]

    def view(self, video: np.ndarray, scope: str) -> np.ndarray:
        """What a metric on whole images sees of ``video`` in one of :data:`SCOPES`."""
        return {FRAME: lambda v: v, REGION: self.blacken, CROP: self.crop}[scope](video)
