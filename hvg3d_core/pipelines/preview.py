# SPDX-License-Identifier: Apache-2.0
"""A small picture of what a generation is going to look like, after every step, for next to nothing.

To decode even one latent frame takes the nano half of a step. But latents of CogVideoX's VAE are, to a first
approximation, linear in the picture they stand for, and every generation has one picture together with its latents: the
reference. A linear map from the latents around a place to the block of pixels at that place is fitted to it by least
squares (a few hundred to some thousand equations, once), then applied to the clean latents that the network predicts.
So there is nothing to train, to ship or to choose for each VAE, and the colours are those of the shot.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BLOCK = 4  # pixels of the preview along a side of one latent
_RIDGE = 0.05  # of the features' mean square: latents of moving frames are not quite those of a still one


class LatentPreview:
    """Latents (C, h, w) to a picture (BLOCK h) x (BLOCK w) x 3 uint8. :meth:`fit` first, else :attr:`fitted` is False.

    Computed on the CPU in float32: there are 5,400 latents in a frame of 720 x 480.
    """

    def __init__(self, reference: np.ndarray) -> None:
        """``reference``: H x W x 3 uint8, the picture whose latents will be given to :meth:`fit`."""
        self._reference = reference
        self._weights: np.ndarray | None = None

    @property
    def fitted(self) -> bool:
        return self._weights is not None

    def fit(self, latents: Tensor) -> None:
        """``latents`` (C, h, w) of the reference, in the scale of the latents that will be drawn."""
        values = _to_cpu(latents)
        rows, columns = values.shape[1:]
        features = _features(values)
        target = _blocks(_shrink(self._reference, BLOCK * rows, BLOCK * columns), rows, columns)
        gram = features.T @ features
        ridge = _RIDGE * float(np.trace(gram)) / len(gram)
        self._weights = np.linalg.solve(gram + ridge * np.eye(len(gram), dtype=gram.dtype), features.T @ target)

    def draw(self, latents: Tensor) -> np.ndarray:
        """``latents`` (C, h, w), as predicted for one latent frame."""
        if self._weights is None:
            raise RuntimeError("fit() comes before draw()")
        values = _to_cpu(latents)
        rows, columns = values.shape[1:]
        blocks = (_features(values) @ self._weights).reshape(rows, columns, BLOCK, BLOCK, 3)
        picture = blocks.transpose(0, 2, 1, 3, 4).reshape(BLOCK * rows, BLOCK * columns, 3)
        return (255 * np.clip(np.nan_to_num(picture), 0.0, 1.0)).round().astype(np.uint8)


def reference_scale(scaling_factor: float, invert_scale_latents: bool) -> float:
    """What image latents are multiplied with to have the scale of the video's: CogVideoX 1.5 divides where it should
    multiply."""
    return scaling_factor**2 if invert_scale_latents else 1.0


def _to_cpu(latents: Tensor) -> np.ndarray:
    return latents.detach().to("cpu", torch.float32).numpy()


def _features(latents: np.ndarray) -> np.ndarray:
    """(h w, 5 C + 1): each latent with its four neighbours (at the border itself again), and a constant."""
    padded = np.pad(latents, ((0, 0), (1, 1), (1, 1)), mode="edge")
    inside = slice(1, -1)
    around = (
        (inside, inside),
        (slice(None, -2), inside),
        (slice(2, None), inside),
        (inside, slice(None, -2)),
        (inside, slice(2, None)),
    )
    stacked = np.concatenate([padded[(slice(None), *place)] for place in around])
    flat = stacked.reshape(len(stacked), -1).T
    return np.concatenate([flat, np.ones((len(flat), 1), np.float32)], axis=1)


def _shrink(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Means over blocks of an H x W x 3 uint8 picture, as rows x columns x 3 in 0 to 1. H and W are multiples."""
    height, width = picture.shape[:2]
    blocks = picture.reshape(rows, height // rows, columns, width // columns, 3)
    return blocks.mean(axis=(1, 3), dtype=np.float32) / 255


def _blocks(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(BLOCK rows) x (BLOCK columns) x 3 as (rows columns, BLOCK BLOCK 3)."""
    split = picture.reshape(rows, BLOCK, columns, BLOCK, 3).transpose(0, 2, 1, 3, 4)
    return split.reshape(rows * columns, BLOCK * BLOCK * 3)
