# SPDX-License-Identifier: Apache-2.0
"""Metrics of frames equal the packages that define them, on random clips; in a region they see the region alone."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from hvg3d_core.evaluation import frame_metrics as metrics

from .references import piece


def random_clips(seed, frames=4, height=38, width=51):
    """A smooth random truth, and it with noise: T x H x W x 3 uint8 each, of odd sizes too."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (frames, height // 6 + 2, width // 6 + 2, 3))
    truth = coarse.repeat(6, 1).repeat(6, 2)[:, :height, :width].astype(np.uint8)
    return np.clip(truth + rng.normal(0, 14, truth.shape), 0, 255).astype(np.uint8), truth


SIZES = [(0, 38, 51), (1, 40, 48), (2, 33, 64)]


@pytest.fixture
def videos():
    return random_clips(0)


@pytest.mark.parametrize(("seed", "height", "width"), SIZES)
def test_psnr_and_l1_of_the_whole_frame(seed, height, width):
    generated, truth = random_clips(seed, height=height, width=width)
    assert metrics.masked_psnr(generated, truth) == pytest.approx(peak_signal_noise_ratio(truth, generated), abs=1e-9)
    each = [peak_signal_noise_ratio(t, g) for g, t in zip(generated, truth, strict=True)]
    assert metrics.framewise_psnr(generated, truth) == pytest.approx(np.mean(each), abs=1e-9)
    assert metrics.l1(generated, truth) == pytest.approx(np.abs(generated / 255 - truth / 255).mean(), abs=1e-12)
    psnr = piece("piq", "psnr").psnr
    tensors = [torch.from_numpy(v).movedim(-1, 1).double() / 255 for v in (generated, truth)]
    assert metrics.framewise_psnr(generated, truth) == pytest.approx(float(psnr(*tensors)), abs=1e-4)


@pytest.mark.parametrize(("seed", "height", "width"), SIZES)
def test_ssim_is_scikit_images_and_piqs(seed, height, width):
    generated, truth = random_clips(seed, height=height, width=width)
    mine = metrics.ssim(generated, truth)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    each = [structural_similarity(t, g, channel_axis=-1, **settings) for g, t in zip(generated, truth, strict=True)]
    assert mine == pytest.approx(np.mean(each), abs=1e-6)
    ssim = piece("piq", "ssim").ssim
    tensors = [torch.from_numpy(v).movedim(-1, 1).double() / 255 for v in (generated, truth)]
    assert mine == pytest.approx(float(ssim(*tensors, downsample=False)), abs=1e-5)


@pytest.mark.parametrize(("seed", "height", "width"), SIZES)
def test_gmsd_is_piqs(seed, height, width):
    generated, truth = (metrics.luma(v) for v in random_clips(seed, height=height, width=width))
    gmsd = piece("piq", "gmsd").gmsd
    theirs = gmsd(*(torch.from_numpy(v)[:, None] for v in (generated, truth)), reduction="none")
    np.testing.assert_allclose(metrics.gmsd_of_images(generated, truth), theirs.numpy(), atol=1e-9)
    assert metrics.gmsd_of_images(truth, truth) == pytest.approx(0, abs=1e-12)


def test_only_the_mask_counts(videos):
    generated, truth = videos
    mask = np.zeros(truth.shape[:3], bool)
    mask[:, 2:15, 3:27] = True
    mask[0] = False
    expected = peak_signal_noise_ratio(truth[mask], generated[mask])
    spoiled = generated.copy()
    spoiled[~mask] = 0
    for video in (generated, spoiled):
        assert metrics.masked_psnr(video, truth, mask) == pytest.approx(expected, abs=1e-9)
        assert metrics.l1(video, truth, mask) == pytest.approx(np.abs(generated / 255 - truth / 255)[mask].mean())
        each = [peak_signal_noise_ratio(truth[t][mask[t]], generated[t][mask[t]]) for t in (1, 2, 3)]
        assert metrics.framewise_psnr(video, truth, mask) == pytest.approx(np.mean(each))
    assert metrics.masked_psnr(truth, truth, mask) == float("inf")
    assert metrics.framewise_psnr(truth, truth, mask) == metrics.PSNR_CAP


def test_nothing_to_compare_is_refused(videos):
    generated, truth = videos
    with pytest.raises(ValueError, match="0 pixels"):
        metrics.masked_psnr(generated, truth, np.zeros(truth.shape[:3], bool))
    with pytest.raises(ValueError, match="cannot be compared"):
        metrics.ssim(generated[:2], truth)


def test_images_smaller_than_the_window_have_no_ssim(videos):
    generated, truth = videos
    assert np.isnan(metrics.ssim(generated[:, :10], truth[:, :10]))
