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


def true_flow(truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of frame t goes in frame t + 1: flow (T - 1) x H x W x 2 in pixels (x, y), and whether it can
    be followed, (T - 1) x H x W bool.

    DIS optical flow (Kroeger et al. 2016). A pixel counts where flow forth and back cancel: the test of
    Sundaram et al. 2010, |f + b|^2 < 0.01 (|f|^2 + |b|^2) + 0.5.
    """
    import cv2

    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    gray = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in truth]
    forth = [estimator.calc(a, b, None) for a, b in pairwise(gray)]
    back = [estimator.calc(b, a, None) for a, b in pairwise(gray)]
    flows, known = [], []
    for f, b in zip(forth, back, strict=True):
        returned, inside = warp(b, f)
        loop = ((f + returned) ** 2).sum(-1)
        size = (f**2).sum(-1) + (returned**2).sum(-1)
        flows.append(f)
        known.append(inside & (loop < 0.01 * size + 0.5))
    return np.stack(flows), np.stack(known)


def warp(image: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``image`` (H x W x C) read, bilinearly, where ``flow`` (H x W x 2) points; and where that is inside: H x W."""
    import cv2

    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + flow[..., 0], y + flow[..., 1]
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), inside


def flicker(video: np.ndarray, flow: np.ndarray, known: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Warping error (Lai et al. 2018): mean absolute difference, in [0, 1], between a frame and the next one brought
    back along the *true* video's motion (:func:`true_flow`), where that is known and, if given, ``mask`` holds.

    NaN where nothing can be followed. The true video's own value is the floor: noise, shading and the flow's errors.
    """
    total, count = 0.0, 0
    for t in range(len(video) - 1):
        back, _ = warp(video[t + 1].astype(np.float32), flow[t])
        where = known[t] if mask is None else known[t] & mask[t]
        total += float(np.abs(back - video[t].astype(np.float32))[where].sum())
        count += 3 * int(where.sum())
    return total / count / 255.0 if count else float("nan")
