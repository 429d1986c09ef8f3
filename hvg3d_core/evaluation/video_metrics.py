# SPDX-License-Identifier: Apache-2.0
"""Numbers that compare how two videos change over time, and need no weights. T x H x W x 3 uint8.

ST-SSIM and GMSD-T are in the paper's tables without a definition, and no published one fits both; what is computed
here under these names is defined here, and not comparable with the paper's numbers.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from .frame_metrics import check_same_shape, gmsd_of_images, luma, ssim_of_channels


def changes(video: np.ndarray) -> np.ndarray:
    """|frame t + 1 - frame t| of the luma: (T - 1) x H x W in [0, 1]."""
    return np.abs(np.diff(luma(video), axis=0))


def st_ssim(generated: np.ndarray, truth: np.ndarray) -> float:
    """SSIM of the frame differences' magnitudes, mean over time. NaN for a single frame."""
    check_same_shape(generated, truth)
    return ssim_of_channels(changes(generated), changes(truth), 1.0) if len(truth) > 1 else float("nan")


def gmsd_t(generated: np.ndarray, truth: np.ndarray) -> float:
    """GMSD of the frame differences' magnitudes, mean over time. NaN for a single frame."""
    check_same_shape(generated, truth)
    return float(gmsd_of_images(changes(generated), changes(truth)).mean()) if len(truth) > 1 else float("nan")


def sts_gmsd(generated: np.ndarray, truth: np.ndarray) -> float:
    """GMSD of spatio-temporal slices (after Yan, Mou and Xue 2015): mean over all x-t images and all y-t images."""
    check_same_shape(generated, truth)
    a, b = luma(generated), luma(truth)
    across = gmsd_of_images(a.transpose(1, 0, 2), b.transpose(1, 0, 2))
    down = gmsd_of_images(a.transpose(2, 0, 1), b.transpose(2, 0, 1))
    return float((across.mean() + down.mean()) / 2)


def ssim_3d(generated: np.ndarray, truth: np.ndarray) -> float:
    """SSIM of the luma with a window that is Gaussian in time too. NaN for fewer than 11 frames or pixels a side."""
    from skimage.metrics import structural_similarity

    check_same_shape(generated, truth)
    a, b = luma(generated), luma(truth)
    if min(a.shape) < 11:
        return float("nan")
    return float(
        structural_similarity(a, b, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    )


def optical_flow(video: np.ndarray) -> np.ndarray:
    """Where each pixel of frame t goes in frame t + 1: (T - 1) x H x W x 2 float32 pixels (x, y), by DIS optical flow
    (Kroeger et al. 2016, OpenCV), which needs no weights."""
    import cv2

    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    estimator.setFinestScale(0)  # the preset stops at half the size, for speed
    gray = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in video]
    return np.stack([estimator.calc(a, b, np.zeros((*a.shape, 2), np.float32)) for a, b in pairwise(gray)])


def warp(image: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``image`` (H x W x C) read, bilinearly, where ``flow`` (H x W x 2) points; and where that is inside: H x W."""
    import cv2

    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + flow[..., 0], y + flow[..., 1]
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), inside


def warping_error(
    video: np.ndarray, forth: np.ndarray, back: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """|frame t - frame t + 1 brought back along the video's own motion|, mean over colours, (T - 1) x H x W in [0, 1];
    and where the motion can be followed, (T - 1) x H x W bool: inside the image, and flow forth and back cancel,
    |f + b|^2 < 0.01 (|f|^2 + |b|^2) + 0.5 (Sundaram et al. 2010).

    The measure of Lai et al. 2018, with the flow of the video itself: whether it goes where the truth goes is for
    the tracks to say. ``forth[t]`` leads from frame t to t + 1, ``back[t]`` from t + 1 to t; without ``back`` all of
    ``forth`` is trusted.
    """
    errors, known = [], []
    for t, motion in enumerate(forth):
        returned, inside = warp(video[t + 1].astype(np.float32), motion)
        errors.append(np.abs(returned - video[t].astype(np.float32)).mean(axis=-1) / 255.0)
        if back is not None:
            other, _ = warp(back[t], motion)
            loop = ((motion + other) ** 2).sum(-1)
            inside &= loop < 0.01 * ((motion**2).sum(-1) + (other**2).sum(-1)) + 0.5
        known.append(inside)
    return np.stack(errors), np.stack(known)


def flicker(errors: np.ndarray, known: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean of :func:`warping_error` where the motion is known and, if given, ``mask`` (T x H x W) holds in frame t.

    NaN where nothing can be followed. A frozen video has none, so the true video's own value is what to aim at.
    """
    where = known if mask is None else known & mask[:-1]
    return float(errors[where].mean()) if where.any() else float("nan")
