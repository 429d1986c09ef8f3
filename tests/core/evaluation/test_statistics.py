# SPDX-License-Identifier: Apache-2.0
"""The bootstrap covers what it should, and pairs clips."""

import numpy as np
import pytest
from scipy import stats

from hvg3d_core.evaluation.statistics import bootstrap_mean, mean_where_known, paired_difference


def test_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        interval = bootstrap_mean(rng.normal(3.0, 2.0, 40), draws=500, seed=seed)
        hits += interval.low <= 3.0 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_interval_is_scipys():
    values = np.random.default_rng(2).gamma(2.0, 1.0, 50)
    mine = bootstrap_mean(values)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=1).confidence_interval
    assert mine.low == pytest.approx(theirs.low, abs=0.02)
    assert mine.high == pytest.approx(theirs.high, abs=0.02)


def test_unknown_values_are_left_out_and_counted():
    interval = mean_where_known(np.array([1.0, np.nan, 3.0]))
    assert interval is not None
    assert (interval.mean, interval.count) == (2.0, 2)
    assert mean_where_known(np.array([np.nan])) is None
    with pytest.raises(ValueError, match="non-empty"):
        bootstrap_mean(np.array([]))


def test_a_paired_difference_is_narrower_than_what_clips_differ_by():
    """Clips differ by 10, methods by 1: only pairs show it."""
    rng = np.random.default_rng(3)
    base = rng.normal(0, 10, 30)
    gain = paired_difference(base + 1 + rng.normal(0, 0.1, 30), base)
    assert gain is not None
    assert gain.excludes_zero
    assert gain.low > 0.9
    assert gain.high < 1.1
    assert not bootstrap_mean(base).excludes_zero
