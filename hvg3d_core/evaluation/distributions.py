# SPDX-License-Identifier: Apache-2.0
"""Distances between two sets of feature vectors: FID, C-FID and FVD are the Fréchet distance of different features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .statistics import CONFIDENCE, Interval

DRAWS, FEW_DRAWS, LARGE = 200, 50, 256  # fewer draws where each takes long


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Between Gaussians with the means and (n - 1) covariances of N x D and M x D features.

    |m1 - m2|^2 + Tr(S1) + Tr(S2) - 2 Tr((S1^1/2 S2 S1^1/2)^1/2) (Dowson and Landau 1982). With S = X'X of centred,
    scaled rows, the last trace is the sum of the singular values of X1 X2': no root of a D x D matrix, and exact where
    there are fewer vectors than dimensions. Raises ValueError for fewer than two vectors in a set.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"features of shapes {first.shape} and {second.shape} cannot be compared")
    if min(len(first), len(second)) < 2:
        raise ValueError("at least two vectors are needed on each side")
    mean = first.mean(axis=0, dtype=np.float64) - second.mean(axis=0, dtype=np.float64)
    roots = [_root(np.asarray(f, np.float64)) for f in (first, second)]
    spread = sum(float((root**2).sum()) for root in roots)
    common = float(np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum())
    return float(mean @ mean) + spread - 2 * common


def _root(features: np.ndarray) -> np.ndarray:
    """R with R'R the covariance and at most D rows."""
    centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(centred) > centred.shape[1] else centred


def _in_common_basis(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The same vectors in an orthonormal basis of all of them where they are fewer than their dimensions: no distance
    changes, and every draw is cheaper."""
    rows = np.concatenate([*first, *second]).astype(np.float64)
    if len(rows) < rows.shape[1]:
        rows = rows @ np.linalg.qr(rows.T)[0]
    ends = np.cumsum([len(part) for part in (*first, *second)])[:-1]
    parts = np.split(rows, ends)
    return parts[: len(first)], parts[len(first) :]


def frechet_of_clips(generated: Sequence[np.ndarray], truth: Sequence[np.ndarray], seed: int = 0) -> Interval | None:
    """Distance between the pooled vectors of clips, one N x D array for each clip and side; None where there are fewer
    than two vectors.

    The interval is the spread over clips drawn anew, pairs kept, moved to lie about the value: a drawn set repeats
    clips, which raises every Fréchet distance, and that must not be taken for uncertainty. ``count`` is the number of
    vectors on each side. For few vectors the distance is far above zero even between equal distributions; compare
    values of the same count only.
    """
    count = sum(len(features) for features in truth)
    if count < 2:
        return None
    generated, truth = _in_common_basis(generated, truth)
    value = frechet_distance(np.concatenate(generated), np.concatenate(truth))
    if len(truth) < 2:
        return Interval(value, float("-inf"), float("inf"), count)
    rng = np.random.default_rng(seed)
    draws = FEW_DRAWS if min(count, truth[0].shape[1]) > LARGE else DRAWS
    found = []
    for _ in range(draws):
        drawn = rng.integers(len(truth), size=len(truth))
        found.append(
            frechet_distance(np.concatenate([generated[i] for i in drawn]), np.concatenate([truth[i] for i in drawn]))
        )
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(found, [tail, 1 - tail]) - np.mean(found)
    return Interval(value, float(value + low), float(value + high), count)
