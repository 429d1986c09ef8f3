# SPDX-License-Identifier: Apache-2.0
"""Do the surfaces move where the clip says? Points are tracked anew in a video and compared with the clip's tracks.

The tracker needs no weights: points start at the clip's tracks in frame 0 and are led from frame to frame by DIS
optical flow (:func:`.video_metrics.optical_flow`), whose patches are matched as Lucas and Kanade do; on our own true
clips it errs a third less than OpenCV's pyramidal Lucas-Kanade. It cannot bridge an occlusion, so a point is scored
from frame 1 until the clip first hides it. All points count, however blurred the video is where they are: what cannot
be followed must not be better off than what goes wrong.
"""

from __future__ import annotations

import numpy as np

THRESHOLDS = (1.0, 2.0, 4.0, 8.0, 16.0)  # pixels of an image 256 pixels wide, as in TAP-Vid (Doersch et al. 2022)


def track_points(flow: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Lead points ``start`` (M x 2 pixels; (0, 0) is the *corner* of the first pixel) along ``flow``, (T - 1) x H x W x
    2 pixels at pixel centres: T x M x 2 float64. Outside the image the flow is that of its nearest pixel."""
    import cv2

    now = np.asarray(start, np.float32) - 0.5
    path = [now]
    for motion in flow:
        # A map of more than 32767 rows is not taken; one column, in pieces, is.
        step = [
            cv2.remap(motion, p[:, :1], p[:, 1:], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).reshape(-1, 2)
            for p in np.array_split(now, len(now) // 30_000 + 1)
        ]
        now = now + np.concatenate(step)
        path.append(now)
    return np.stack(path).astype(np.float64) + 0.5


def track_scores(flow: np.ndarray, tracks: np.ndarray, seen: np.ndarray) -> tuple[float, float]:
    """(mean end point error in pixels, share of points within a distance) of a video with this ``flow``.

    ``tracks`` is T x M x 2 pixels, ``seen`` T x M bool. The share is the mean over :data:`THRESHOLDS`. NaN, NaN where
    no point is seen in frames 0 and 1.
    """
    unbroken = np.logical_and.accumulate(seen, axis=0)
    unbroken[0] = False  # the seeds themselves
    used = unbroken.any(axis=0)
    if not used.any():
        return float("nan"), float("nan")
    found = track_points(flow, tracks[0, used])
    error = np.linalg.norm(found - tracks[:, used], axis=-1)[unbroken[:, used]]
    scale = flow.shape[2] / 256.0
    within = float(np.mean([(error < threshold * scale).mean() for threshold in THRESHOLDS]))
    return float(error.mean()), within
