# SPDX-License-Identifier: Apache-2.0
"""Numbers that compare a generated clip with the true one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def masked_psnr(generated: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """PSNR in dB of T x H x W x 3 uint8 videos, over the pixels of all frames where ``mask`` (T x H x W bool) holds.

    The mean squared error is taken over the whole masked volume of the clip, so that a frame counts by the size of
    its region. Identical input gives infinity. Raises ValueError for an empty mask or shapes that differ.
    """
    if generated.shape != truth.shape:
        raise ValueError(f"videos of shapes {generated.shape} and {truth.shape} cannot be compared")
    squared = (generated.astype(np.float64) - truth.astype(np.float64)) ** 2
    if mask is not None:
        if mask.shape != truth.shape[:-1] or not mask.any():
            raise ValueError(f"mask of shape {mask.shape} with {int(mask.sum())} pixels: nothing to compare")
        squared = squared[mask]
    mse = float(squared.mean())
    return float("inf") if mse == 0 else float(10 * np.log10(255.0**2 / mse))


@dataclass(frozen=True)
class Interval:
    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def bootstrap_mean(values: np.ndarray, *, draws: int = 10_000, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Mean with a percentile bootstrap interval over clips (Efron 1979)."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"values of shape {values.shape}: a non-empty list of numbers is needed")
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(draws, len(values)))].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high), len(values))
