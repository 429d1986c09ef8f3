# SPDX-License-Identifier: Apache-2.0
"""The tracking video: 3D tracks drawn so that a video network can read them.

The colour rule is that of Diffusion as Shader (arXiv 2501.03847, section 3 and its released code): a track keeps the
colour of where it was in the first frame, red for x, green for y, blue for nearness, on black.
"""

from __future__ import annotations

import numpy as np

from .cameras import NEAR, in_view, project
from .clip import ClipError


def default_square(width: int) -> int:
    """Side of the squares: 4, as in DaS, at 720 pixels of width, and in proportion elsewhere.

    Never below 2, which draws 3 x 3 pixels: single pixels are lost in a VAE that reduces by 8.
    """
    return max(2, round(width / 180))


def track_colors(tracks0: np.ndarray, K0: np.ndarray, w2c0: np.ndarray, width: int, height: int) -> np.ndarray:
    """M x 3 uint8 colours from the tracks' world positions in the first frame (M x 3) and its camera.

    R = x / W, G = y / H, B = (1/z - p2) / (p98 - p2), each clipped to 0..1 and times 255, with the percentiles over
    all tracks in front of the camera. Tracks outside the image take its border's colour, tracks behind the camera are
    treated as if at its near plane. Where all depths are equal B is one half.
    """
    if len(tracks0) == 0:
        return np.zeros((0, 3), np.uint8)
    uv, z = project(tracks0, K0, w2c0)
    front = z > NEAR
    inverse = 1.0 / np.where(front, z, NEAR)
    low, high = np.percentile(inverse[front], (2, 98)) if front.any() else (0.0, 0.0)
    spread = high - low
    blue = (inverse - low) / spread if spread > 1e-9 * max(high, 1e-9) else np.full(len(z), 0.5)
    # Behind the camera the division by z flips the image; z = near keeps the side the track is on.
    homogeneous = uv * np.where(np.abs(z) < 1e-12, 1e-12, z)[:, None]
    uv = np.where(front[:, None], uv, homogeneous / NEAR)
    color = np.stack([uv[:, 0] / width, uv[:, 1] / height, blue], axis=1)
    return (np.clip(color, 0.0, 1.0) * 255.0).astype(np.uint8)


def tracking_video(
    tracks: np.ndarray,
    track_visible: np.ndarray,
    K: np.ndarray,
    w2c: np.ndarray,
    width: int,
    height: int,
    *,
    square: int | None = None,
) -> np.ndarray:
    """T x H x W x 3 uint8 from tracks T x M x 3 (world), visibility T x M and cameras K T x 3 x 3, w2c T x 4 x 4.

    Each visible track is a filled square around the pixel it falls in, ``square // 2`` pixels to every side (so 4
    draws 5 x 5), the farthest first. What is behind the camera or outside the image is not drawn. ``square`` is
    :func:`default_square` of the width unless given.
    """
    if tracks.shape[:2] != track_visible.shape:
        raise ClipError(f"track_visible: shape {track_visible.shape}; {tracks.shape[:2]} is needed, as tracks have")
    if square is not None and square < 1:
        raise ClipError(f"square: {square} pixels; at least 1 is needed")
    frames = len(tracks)
    video = np.zeros((frames, height * width, 3), np.uint8)
    if tracks.shape[1] == 0:
        return video.reshape(frames, height, width, 3)
    colors = track_colors(tracks[0], K[0], w2c[0], width, height)
    half = (default_square(width) if square is None else square) // 2
    steps = np.arange(-half, half + 1)
    step_y, step_x = (grid.ravel() for grid in np.meshgrid(steps, steps, indexing="ij"))
    uv, z = project(tracks, K, w2c)
    drawn = track_visible & in_view(uv, z, width, height)
    for frame in range(frames):
        index = np.flatnonzero(drawn[frame])
        index = index[np.argsort(-z[frame, index], kind="stable")]
        corner = np.floor(uv[frame, index]).astype(np.int64)
        x, y = corner[:, :1] + step_x, corner[:, 1:] + step_y
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        # Pixels appear far to near; where one appears twice numpy keeps the last, the nearest.
        video[frame, (y * width + x)[inside]] = np.repeat(colors[index], inside.sum(1), axis=0)
    return video.reshape(frames, height, width, 3)
