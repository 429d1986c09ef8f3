# SPDX-License-Identifier: Apache-2.0
"""Metrics of change over time: equal to their formulas composed from the packages, and they see what they are for."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from hvg3d_core.evaluation import video_metrics as metrics

from .references import piece
from .test_frame_metrics import random_clips

GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}


def gray(video):
    return (video.astype(np.float64) * [0.299, 0.587, 0.114]).sum(-1) / 255


@pytest.mark.parametrize("seed", [0, 1])
def test_st_ssim_and_gmsd_t_are_those_of_the_differences(seed):
    generated, truth = random_clips(seed, frames=5)
    pairs = [np.abs(gray(v)[1:] - gray(v)[:-1]) for v in (generated, truth)]
    each = [structural_similarity(a, b, **GAUSSIAN) for a, b in zip(*pairs, strict=True)]
    assert metrics.st_ssim(generated, truth) == pytest.approx(np.mean(each), abs=1e-9)
    theirs = piece("piq", "gmsd").gmsd(*(torch.from_numpy(p)[:, None] for p in pairs))
    assert metrics.gmsd_t(generated, truth) == pytest.approx(float(theirs), abs=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_sts_gmsd_is_gmsd_of_all_slices(seed):
    generated, truth = random_clips(seed, frames=12)
    gmsd, (a, b) = piece("piq", "gmsd").gmsd, (torch.from_numpy(gray(v)) for v in (generated, truth))
    across = np.mean([float(gmsd(a[None, None, :, y], b[None, None, :, y])) for y in range(a.shape[1])])
    down = np.mean([float(gmsd(a[None, None, :, :, x], b[None, None, :, :, x])) for x in range(a.shape[2])])
    assert metrics.sts_gmsd(generated, truth) == pytest.approx((across + down) / 2, abs=1e-9)


def test_ssim_3d_is_scikit_images():
    generated, truth = random_clips(3, frames=12)
    theirs = structural_similarity(gray(generated), gray(truth), **GAUSSIAN)
    assert metrics.ssim_3d(generated, truth) == pytest.approx(theirs, abs=1e-9)
    assert np.isnan(metrics.ssim_3d(generated[:9], truth[:9]))


def moving_texture(shift=2, frames=6):
    """A smooth random texture that moves ``shift`` pixels to the right in each frame."""
    from scipy.ndimage import gaussian_filter

    wide = gaussian_filter(np.random.default_rng(5).normal(0, 1, (64, 180, 3)), (2, 2, 0))
    wide = np.clip(128 + 400 * wide, 0, 255).astype(np.uint8)
    return np.stack([wide[:, 40 - shift * t : 136 - shift * t] for t in range(frames)])


def own_error(video):
    return metrics.warping_error(video, metrics.optical_flow(video), metrics.optical_flow(video[::-1])[::-1])


def test_wrong_motion_is_seen():
    truth, still = moving_texture(), moving_texture(shift=0)
    assert metrics.st_ssim(truth, truth) == pytest.approx(1)
    assert metrics.st_ssim(still, truth) < 0.5
    assert metrics.gmsd_t(still, truth) > 0.1


def test_flow_is_the_texture_s_motion():
    flow = metrics.optical_flow(moving_texture(shift=2))
    inner = flow[:, 10:-10, 10:-10]
    np.testing.assert_allclose(np.median(inner, axis=(0, 1, 2)), [2, 0], atol=0.1)


def test_warping_error_along_a_known_flow_is_exact():
    """Along the true motion a moving texture differs by nothing; a frame made brighter differs by just that."""
    video = moving_texture(shift=2)
    flow = np.zeros((len(video) - 1, *video.shape[1:3], 2), np.float32)
    flow[..., 0] = 2
    errors, known = metrics.warping_error(video, flow)
    assert metrics.flicker(errors, known) == pytest.approx(0, abs=1e-7)
    assert not known[..., -2:].any(), "what leaves the picture cannot be followed"
    video = (video // 2).astype(np.uint8)
    video[1::2] += 20
    errors, known = metrics.warping_error(video, flow)
    assert metrics.flicker(errors, known) == pytest.approx(20 / 255, abs=1e-6)


def test_flicker_is_not_motion():
    """Its own flow is followed: smooth motion counts little, light that changes counts."""
    video = moving_texture(shift=2)
    lit = np.clip(video * np.where(np.arange(len(video)) % 2, 1.0, 0.9)[:, None, None, None], 0, 255).astype(np.uint8)
    smooth, flickering = (metrics.flicker(*own_error(v)) for v in (video, lit))
    assert smooth < 0.004
    assert flickering > 4 * smooth
    mask = np.zeros(video.shape[:3], bool)
    assert np.isnan(metrics.flicker(*own_error(video), mask))
