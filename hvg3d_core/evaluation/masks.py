# SPDX-License-Identifier: Apache-2.0
"""Are hand and object where the clip's masks say? A video is segmented by colour, without weights, and compared.

For each of background, hand and object a colour model (a smoothed histogram in CIELAB) is fitted on the true frame 0
and its masks. In every later frame a pixel goes to the class of the highest posterior, summed over its neighbourhood.
Nothing of the later true frames or masks is used, so the number says: with the colours of frame 0, are hand- and
object-coloured areas where the hand and the object must be? It does not see shape inside an area of one colour, it
confuses a table with a hand of the same colour, and shading that changes costs even the true video: that one's own
score is the ceiling.
"""

from __future__ import annotations

import numpy as np

CLASSES = 3  # background, hand, object, as in Truth.labels
BINS = (12, 20, 20)  # of L, a, b
SMOOTHING = 0.5  # bins
FLOOR = 1e-4  # of a colour that a class never showed in frame 0
NEIGHBOURHOOD = 1 / 25  # of the height


def _bins(video: np.ndarray) -> np.ndarray:
    """T x H x W int64: the histogram cell of each pixel."""
    import cv2

    lab = np.stack([cv2.cvtColor(np.ascontiguousarray(f), cv2.COLOR_RGB2LAB) for f in video]).astype(np.int64)
    cells = [np.minimum(lab[..., i] * n // 256, n - 1) for i, n in enumerate(BINS)]
    return (cells[0] * BINS[1] + cells[1]) * BINS[2] + cells[2]


def colour_model(frame: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Log posterior of each class in each cell, CLASSES x cells, from H x W x 3 ``frame`` and H x W ``labels``.

    A class without a pixel gets minus infinity.
    """
    from scipy.ndimage import gaussian_filter

    cells, size = _bins(frame[None])[0], int(np.prod(BINS))
    likelihood = np.zeros((CLASSES, size))
    prior = np.zeros(CLASSES)
    for label in range(CLASSES):
        counts = np.bincount(cells[labels == label], minlength=size).astype(np.float64)
        prior[label] = counts.sum() / labels.size
        if counts.sum():
            smooth = gaussian_filter(counts.reshape(BINS), SMOOTHING, mode="nearest").ravel()
            likelihood[label] = smooth / smooth.sum() + FLOOR / size
    joint = likelihood * prior[:, None]
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(joint) - np.log(joint.sum(axis=0)))


def segment(video: np.ndarray, model: np.ndarray) -> np.ndarray:
    """T x H x W uint8 labels of T x H x W x 3 uint8 ``video``."""
    import cv2

    size = max(3, round(video.shape[1] * NEIGHBOURHOOD) | 1)
    cells = _bins(video)
    scores = np.maximum(model, -20.0).astype(np.float32)[:, cells]  # CLASSES x T x H x W
    present = np.isfinite(model).any(axis=1)
    summed = np.stack([[cv2.GaussianBlur(frame, (size, size), 0) for frame in maps] for maps in scores])
    summed[~present] = -np.inf
    return summed.argmax(axis=0).astype(np.uint8)


def mask_ious(video: np.ndarray, truth: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Intersection over union of hand and of object over frames 1 to T - 1 of ``video``, taken over the clip's whole
    volume. NaN for a class that frame 0 or the later frames do not show."""
    found = segment(video[1:], colour_model(truth[0], labels[0]))
    values = []
    for label in (1, 2):
        wanted, got = labels[1:] == label, found == label
        known = bool((labels[0] == label).any() and wanted.any())
        values.append(float((wanted & got).sum() / (wanted | got).sum()) if known else float("nan"))
    return values[0], values[1]
