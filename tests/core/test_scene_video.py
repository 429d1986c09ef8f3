# SPDX-License-Identifier: Apache-2.0
"""The scene drawn again from a clip, against the frames that the clip was made from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from hvg3d_core.conditions import Clip
from hvg3d_core.scene_video import scene_video

from .synthetic import make_clip, png


@pytest.fixture(scope="module")
def scene() -> tuple[Clip, np.ndarray]:
    return make_clip(num_frames=9, width=96, height=64)


def test_flat_colours_come_back_exactly(scene: tuple[Clip, np.ndarray]) -> None:
    """In a scene without light or texture nothing is lost: entities where their masks are, background behind them."""
    clip, frames = scene
    drawn = scene_video(clip, clip.num_frames, clip.width, clip.height)
    assert drawn.shape == frames.shape and drawn.dtype == np.uint8
    masks = clip.views[0].masks
    assert (masks[0] != masks[-1]).mean() > 0.05, "the scene must move for this to prove anything"
    assert np.abs(drawn.astype(int) - frames).max() <= 1


def test_texture_moves_with_its_points(scene: tuple[Clip, np.ndarray]) -> None:
    """A colour ramp over the image: what an entity shows later is what was there, in the first frame, under its points.

    The reference is the exact motion of the ball, which is moved 0.4 m to the right without turning, so that in the
    image each of its pixels is one of the first frame, shifted.
    """
    clip, _ = scene
    ramp = np.zeros((clip.height, clip.width, 3), np.uint8)
    ramp[..., 0] = np.linspace(20, 235, clip.width)[None]
    view = dataclasses.replace(clip.views[0], reference=png(ramp))
    clip = dataclasses.replace(clip, views=[view])
    drawn = scene_video(clip, clip.num_frames, clip.width, clip.height)
    assert np.array_equal(drawn[0], ramp)
    last = clip.num_frames - 1
    ball = view.masks == 1
    # Centres of the ball's mask: its motion in pixels.
    shift = np.nonzero(ball[last])[1].mean() - np.nonzero(ball[0])[1].mean()
    assert shift > 15
    rows, columns = np.nonzero(ball[last])
    expected = np.interp(columns - shift, np.arange(clip.width), ramp[0, :, 0])
    error = drawn[last][rows, columns, 0].astype(float) - expected
    assert np.abs(error).mean() < 8, np.abs(error).mean()
    unmoved = np.abs(drawn[last][rows, columns, 0].astype(float) - ramp[0, columns, 0]).mean()
    assert np.abs(error).mean() < unmoved / 4


def test_it_lies_on_the_result(scene: tuple[Clip, np.ndarray]) -> None:
    """Another size, aspect and frame count: cropped about the centre and resampled over the whole duration."""
    clip, frames = scene
    drawn = scene_video(clip, 17, 128, 64)  # twice as wide as high: a strip of the picture, scaled by 4/3
    assert drawn.shape == (17, 64, 128, 3)
    height = 64 * 96 / 128
    top = (64 - height) / 2
    for index, source in ((0, 0), (16, 8)):
        expected = Image.fromarray(frames[source]).resize(
            (128, 64), Image.Resampling.NEAREST, (0, top, 96, top + height)
        )
        wrong = np.abs(drawn[index].astype(int) - np.asarray(expected)).max(-1) > 60
        assert wrong.mean() < 0.03, wrong.mean()  # edges only


def test_a_moving_camera_dims_what_it_cannot_know(scene: tuple[Clip, np.ndarray]) -> None:
    clip, frames = scene
    view = dataclasses.replace(clip.views[0], world_to_camera=clip.views[0].world_to_camera.copy())
    view.world_to_camera[1:, 0, 3] += 0.01
    drawn = scene_video(dataclasses.replace(clip, views=[view]), clip.num_frames, clip.width, clip.height)
    background = view.masks[4] == 0
    assert drawn[4][background].mean() < 0.5 * frames[4][background].mean()
    entity = view.masks[4] == 2
    assert np.abs(drawn[4][entity].astype(int) - frames[4][entity]).mean() < 10


@pytest.mark.parametrize("what", ["untracked", "no masks", "never seen"])
def test_less_than_everything_still_gives_a_picture(scene: tuple[Clip, np.ndarray], what: str) -> None:
    clip, _ = scene
    view = dataclasses.replace(clip.views[0])
    changed = dataclasses.replace(clip, views=[view])
    if what == "untracked":
        changed.tracked = False
        changed.point_entity = np.broadcast_to(clip.point_entity, clip.points.shape[:2]).copy()
    elif what == "no masks":
        view.masks = np.zeros_like(view.masks)
    else:
        view.point_visible = np.zeros_like(view.point_visible)
    drawn = scene_video(changed, 9, clip.width, clip.height)
    still = scene_video(changed, 1, clip.width, clip.height)[0]
    assert (drawn[8] != still).any(-1).mean() > 0.005, "what moves must be seen to move"
