# SPDX-License-Identifier: Apache-2.0
"""Means over clips with bootstrap intervals, of one method or of the difference of two on the same clips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DRAWS, CONFIDENCE = 10_000, 0.95


@dataclass(frozen=True)
class Interval:
    """A number and how far it may be off; ``count`` clips (or frames, where that is said) went into it."""

    mean: float
    low: float
    high: float
    count: int

    def text(self, digits: int = 2, signed: bool = False) -> str:
        sign = "+" if signed else ""
        return f"{self.mean:{sign}.{digits}f} [{self.low:{sign}.{digits}f}, {self.high:{sign}.{digits}f}]"

    def __str__(self) -> str:
        return self.text()

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def bootstrap_mean(
    values: np.ndarray, *, draws: int = DRAWS, confidence: float = CONFIDENCE, seed: int = 0
) -> Interval:
    """Mean with a percentile bootstrap interval over clips (Efron 1979). Raises ValueError where there is nothing."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"values of shape {values.shape}: a non-empty list of numbers is needed")
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(draws, len(values)))].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def mean_where_known(values: np.ndarray) -> Interval | None:
    """:func:`bootstrap_mean` of those values that are not NaN; None where there are none."""
    values = np.asarray(values, dtype=np.float64)
    known = values[~np.isnan(values)]
    return bootstrap_mean(known) if len(known) else None


def paired_difference(values: np.ndarray, baseline: np.ndarray) -> Interval | None:
    """Mean of ``values - baseline`` clip by clip, over the clips where both are known: clips are drawn in pairs, so
    that what makes a clip hard for both does not widen the interval."""
    return mean_where_known(np.asarray(values, np.float64) - np.asarray(baseline, np.float64))
