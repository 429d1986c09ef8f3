# SPDX-License-Identifier: Apache-2.0
"""Numbers that compare a generated clip with the true one frame by frame, and need no weights.

Videos are T x H x W x 3 uint8, masks T x H x W bool. :mod:`.regions` says what is given to these functions for the
hand-object region.
"""

from __future__ import annotations

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, the Y of YIQ
PSNR_CAP = 100.0  # dB: what identical frames count in a mean


def check_same_shape(generated: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> None:
    """Raise ValueError for videos that cannot be compared, or a mask that fits neither or is empty."""
    if generated.shape != truth.shape:
        raise ValueError(f"videos of shapes {generated.shape} and {truth.shape} cannot be compared")
    if mask is not None and (mask.shape != truth.shape[:-1] or not mask.any()):
        raise ValueError(f"mask of shape {mask.shape} with {int(mask.sum())} pixels: nothing to compare")


def luma(video: np.ndarray) -> np.ndarray:
    """T x H x W float64 in [0, 1] of a uint8 video."""
    return np.asarray(video @ LUMA / 255.0)


def masked_psnr(generated: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """PSNR in dB, over the pixels of all frames where ``mask`` holds.

    The mean squared error is taken over the whole masked volume of the clip, so that a frame counts by the size of
    its region. Identical input gives infinity. Raises ValueError for an empty mask or shapes that differ.
    """
    check_same_shape(generated, truth, mask)
    squared = (generated.astype(np.float64) - truth.astype(np.float64)) ** 2
    if mask is not None:
        squared = squared[mask]
    mse = float(squared.mean())
    return float("inf") if mse == 0 else float(10 * np.log10(255.0**2 / mse))


def framewise_psnr(generated: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean over frames of each frame's PSNR, capped at :data:`PSNR_CAP`; frames in which the mask is empty are left
    out. What the literature usually reports; :func:`masked_psnr` is steadier where a region is small at times."""
    check_same_shape(generated, truth, mask)
    values = []
    for t in range(len(truth)):
        here = None if mask is None else mask[t : t + 1]
        if here is None or here.any():
            values.append(min(PSNR_CAP, masked_psnr(generated[t : t + 1], truth[t : t + 1], here)))
    return float(np.mean(values))


def l1(generated: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean absolute error in [0, 1] over all pixels and channels, of the masked volume where there is a mask."""
    check_same_shape(generated, truth, mask)
    difference = np.abs(generated.astype(np.int16) - truth.astype(np.int16))
    if mask is not None:
        difference = difference[mask]
    return float(difference.mean() / 255.0)


def ssim_of_channels(first: np.ndarray, second: np.ndarray, data_range: float) -> float:
    """Mean SSIM of N x H x W images: Gaussian window of 11 pixels and sigma 1.5, population covariance, borders cut
    (Wang et al. 2004, as scikit-image computes it). NaN where an image is smaller than the window."""
    from skimage.metrics import structural_similarity

    if min(first.shape[1:]) < 11:
        return float("nan")
    one, other = np.moveaxis(first, 0, -1), np.moveaxis(second, 0, -1)
    return float(
        structural_similarity(
            one,
            other,
            channel_axis=-1,
            data_range=data_range,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def ssim(generated: np.ndarray, truth: np.ndarray) -> float:
    """Mean over frames and colour channels."""
    check_same_shape(generated, truth)
    height, width = truth.shape[1:3]
    planes = [np.moveaxis(v, -1, 1).reshape(-1, height, width) for v in (generated, truth)]
    return ssim_of_channels(planes[0], planes[1], 255.0)


def gmsd_of_images(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Gradient magnitude similarity deviation of N x H x W images in [0, 1]: N values, 0 for equal images.

    Xue et al. 2014: images halved by 2 x 2 means, Prewitt gradients with zero borders, similarity with the constant
    170 / 255^2, and the population standard deviation of its map. An odd side is padded with zeros.
    """
    magnitudes = [_gradient(_halve(np.asarray(images, np.float64))) for images in (first, second)]
    constant = 170 / 255.0**2
    a, b = magnitudes
    similarity = (2 * a * b + constant) / (a * a + b * b + constant)
    return np.asarray(similarity.std(axis=(1, 2)))


def _halve(images: np.ndarray) -> np.ndarray:
    n, height, width = images.shape
    # One row and one column together, where either side is odd: as the published implementations do it.
    odd = max(height % 2, width % 2)
    images = np.pad(images, ((0, 0), (0, odd), (0, odd)))[:, : (height + odd) // 2 * 2, : (width + odd) // 2 * 2]
    return images.reshape(n, images.shape[1] // 2, 2, images.shape[2] // 2, 2).mean(axis=(2, 4))


def _gradient(images: np.ndarray) -> np.ndarray:
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    columns = padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]
    across, down = (rows[:, :, 2:] - rows[:, :, :-2]) / 3, (columns[:, 2:] - columns[:, :-2]) / 3
    return np.sqrt(across**2 + down**2)
