# SPDX-License-Identifier: Apache-2.0
"""Exact augmentations of a clip together with its frames: mirrored in x, and reversed in time."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

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
