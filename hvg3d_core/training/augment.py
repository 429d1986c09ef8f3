# SPDX-License-Identifier: Apache-2.0
"""Augmentations of a clip together with its frames: mirrored in x, reversed in time, seen closer, recoloured."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
from PIL import Image

from ..conditions import Clip, Entity

_OTHER_HAND = {"left_hand": "right_hand", "right_hand": "left_hand"}
_OTHER_SIDE = {"left": "right", "right": "left"}


def mirror(clip: Clip, frames: np.ndarray) -> tuple[Clip, np.ndarray]:
    """Mirror left and right: world and cameras by S = diag(-1, 1, 1), so that R' = S R S stays a rotation.

    The reference PNG stays as it is: the caller has the frames.
    """
    flip4 = np.diag([-1.0, 1.0, 1.0, 1.0]).astype(np.float32)
    flip = np.array([-1.0, 1.0, 1.0], np.float32)
    views = []
    for view in clip.views:
        K = view.K.copy()
        K[:, 0, 2] = clip.width - K[:, 0, 2]
        views.append(
            replace(
                view, K=K, world_to_camera=flip4 @ view.world_to_camera @ flip4, masks=view.masks[:, :, ::-1].copy()
            )
        )
    entities = tuple(Entity(e.name, _OTHER_HAND.get(e.role, e.role)) for e in clip.entities)
    prompt = re.sub(r"\b(left|right)\b", lambda m: _OTHER_SIDE[m.group()], clip.prompt)
    mirrored = replace(
        clip, points=clip.points * flip, tracks=clip.tracks * flip, views=views, entities=entities, prompt=prompt
    )
    return mirrored, frames[:, :, ::-1].copy()


def reverse(clip: Clip, frames: np.ndarray) -> tuple[Clip, np.ndarray]:
    """Play backwards. The prompt is dropped, since "lifts" would be wrong now."""
    views = [
        replace(
            view,
            K=view.K[::-1].copy(),
            world_to_camera=view.world_to_camera[::-1].copy(),
            point_visible=view.point_visible[::-1].copy(),
            masks=view.masks[::-1].copy(),
        )
        for view in clip.views
    ]
    backwards = replace(
        clip,
        points=clip.points[::-1].copy(),
        tracks=clip.tracks[::-1].copy(),
        track_visible=clip.track_visible[::-1].copy(),
        point_entity=clip.point_entity if clip.tracked else clip.point_entity[::-1].copy(),
        views=views,
        prompt="",
    )
    return backwards, frames[::-1].copy()


def zoom(clip: Clip, frames: np.ndarray, rng: np.random.Generator) -> tuple[Clip, np.ndarray]:
    """See a part of the image, 70 to 95 % of its sides, at full size. Principal point, focal length and masks follow.

    The part holds at least four fifths of what hand and object cover in the whole clip; where ten draws find none, all
    is left as it is. The clip's width and height become the part's, in pixels of the source.
    """
    height, width = clip.height, clip.width
    unit = math.gcd(height, width)
    covered = np.sum([view.masks > 0 for view in clip.views[:1]], axis=(0, 1))  # H x W, how often
    for _ in range(10):
        steps = round(unit * rng.uniform(0.7, 0.95))
        h, w = height // unit * steps, width // unit * steps  # exactly the same aspect
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        window = slice(top, top + h), slice(left, left + w)
        if covered[window].sum() >= 0.8 * covered.sum():
            break
    else:
        return clip, frames
    views = []
    for view in clip.views:
        K = view.K.copy()
        K[:, 0, 2] -= left
        K[:, 1, 2] -= top
        views.append(replace(view, K=K, masks=view.masks[:, *window].copy()))
    size = frames.shape[2], frames.shape[1]
    box = (left * size[0] / width, top * size[1] / height, (left + w) * size[0] / width, (top + h) * size[1] / height)
    closer = [np.array(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC, box=box)) for f in frames]
    return replace(clip, views=views, width=w, height=h), np.stack(closer)


def recolour(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another light: gamma 0.8 to 1.25 for all, and each channel times 0.85 to 1.15, the same for every frame."""
    gamma, gains = rng.uniform(0.8, 1.25), rng.uniform(0.85, 1.15, 3)
    table = np.clip(255 * gains[:, None] * (np.arange(256) / 255) ** gamma, 0, 255).round().astype(np.uint8)
    return np.stack([table[c][frames[..., c]] for c in range(3)], axis=-1)
