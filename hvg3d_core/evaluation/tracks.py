# SPDX-License-Identifier: Apache-2.0
"""Do the surfaces move where the clip says? Points are tracked anew in a video and compared with the clip's tracks.

The tracker is pyramidal Lucas-Kanade (Bouguet 2001, OpenCV), which needs no weights: seeded at the clip's tracks in
frame 0 and led from frame to frame. It cannot bridge an occlusion, so a point is scored from frame 1 until the clip
first hides it. A point that the tracker loses stays where it was last seen and counts on: a video too blurred to be
tracked must not gain by it.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

THRESHOLDS = (1.0, 2.0, 4.0, 8.0, 16.0)  # pixels of an image 256 pixels wide, as in TAP-Vid (Doersch et al. 2022)
WINDOW, LEVELS = 15, 3


def track_points(video: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Follow points ``start`` (M x 2 pixels; (0, 0) is the *corner* of the first pixel) through T x H x W x 3 uint8:
    T x M x 2 float64."""
    import cv2

    gray = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in video]
    # OpenCV's pixel (0, 0) is the centre of the first pixel.
    now = (np.asarray(start, np.float32) - 0.5).reshape(-1, 1, 2)
    path = [now.reshape(-1, 2)]
    height, width = gray[0].shape
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.01)
    for before, after in pairwise(gray):
        moved, status, _ = cv2.calcOpticalFlowPyrLK(
            before, after, now, now.copy(), winSize=(WINDOW, WINDOW), maxLevel=LEVELS, criteria=stop
        )
        inside = (moved >= -0.5).all(-1) & (moved[..., 0] < width - 0.5) & (moved[..., 1] < height - 0.5)
        found = (status.reshape(-1, 1) == 1) & inside & np.isfinite(moved).all(-1)
        now = np.where(found[..., None], moved, now).astype(np.float32)
        path.append(now.reshape(-1, 2))
    return np.stack(path).astype(np.float64) + 0.5


def track_scores(video: np.ndarray, tracks: np.ndarray, seen: np.ndarray) -> tuple[float, float]:
    """(mean end point error in pixels, share of points within a distance) of T x H x W x 3 ``video``.

    ``tracks`` is T x M x 2 pixels, ``seen`` T x M bool. The share is the mean over :data:`THRESHOLDS`. NaN, NaN where
    no point is seen in frames 0 and 1.
    """
    unbroken = np.logical_and.accumulate(seen, axis=0)
    unbroken[0] = False  # the seeds themselves
    used = unbroken.any(axis=0)
    if not used.any():
        return float("nan"), float("nan")
    found = track_points(video, tracks[0, used])
    error = np.linalg.norm(found - tracks[:, used], axis=-1)[unbroken[:, used]]
    scale = video.shape[2] / 256.0
    within = float(np.mean([(error < threshold * scale).mean() for threshold in THRESHOLDS]))
    return float(error.mean()), within
