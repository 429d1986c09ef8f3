# SPDX-License-Identifier: Apache-2.0
"""Masked PSNR equals scikit-image's on the same pixels; the bootstrap covers what it should."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from hvg3d_core.evaluation.metrics import bootstrap_mean, masked_psnr


@pytest.fixture
def videos():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (3, 8, 9, 3), dtype=np.uint8)
    return np.clip(truth + rng.normal(0, 12, truth.shape), 0, 255).astype(np.uint8), truth


def test_whole_frame_psnr_is_skimages(videos):
    generated, truth = videos
    assert masked_psnr(generated, truth) == pytest.approx(peak_signal_noise_ratio(truth, generated), abs=1e-9)


def test_masked_psnr_sees_only_the_mask(videos):
    generated, truth = videos
    mask = np.zeros(truth.shape[:3], bool)
    mask[:, 2:5, 3:7] = True
    expected = peak_signal_noise_ratio(truth[mask], generated[mask])
    assert masked_psnr(generated, truth, mask) == pytest.approx(expected, abs=1e-9)
    spoiled = generated.copy()
    spoiled[~mask] = 0
    assert masked_psnr(spoiled, truth, mask) == masked_psnr(generated, truth, mask)
    assert masked_psnr(truth, truth, mask) == float("inf")


def test_nothing_to_compare_is_refused(videos):
    generated, truth = videos
    with pytest.raises(ValueError, match="0 pixels"):
        masked_psnr(generated, truth, np.zeros(truth.shape[:3], bool))
    with pytest.raises(ValueError, match="cannot be compared"):
        masked_psnr(generated[:2], truth)


def test_bootstrap_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        interval = bootstrap_mean(rng.normal(3.0, 2.0, 40), draws=500, seed=seed)
        hits += interval.low <= 3.0 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99
