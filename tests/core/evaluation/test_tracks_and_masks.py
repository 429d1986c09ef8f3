# SPDX-License-Identifier: Apache-2.0
"""Re-tracked points and re-found masks: right on motion and areas that are known, worse where a video is wrong."""

import numpy as np
import pytest

from hvg3d_core.evaluation import masks, tracks
from hvg3d_core.evaluation.video_metrics import optical_flow

from .test_video_metrics import moving_texture


def lattice(frames, shift):
    """Points 12 pixels apart that move with :func:`moving_texture`, and whether they are inside."""
    x, y = np.meshgrid(np.arange(20.5, 70, 12), np.arange(12.5, 52, 12))
    start = np.stack([x.ravel(), y.ravel()], -1)
    path = start + np.arange(frames)[:, None, None] * [shift, 0]
    return path, np.ones(path.shape[:2], bool)


def test_points_follow_a_texture():
    video = moving_texture(shift=3, frames=7)
    path, seen = lattice(7, 3)
    error, within = tracks.track_scores(optical_flow(video), path, seen)
    assert error < 0.25
    assert within > 0.97


def test_a_still_or_opposite_video_is_as_wrong_as_it_is():
    path, seen = lattice(7, 3)
    still = optical_flow(np.repeat(moving_texture(shift=3)[:1], 7, axis=0))
    error, _ = tracks.track_scores(still, path, seen)
    assert error == pytest.approx(3 * np.mean(range(1, 7)), abs=0.1)
    opposite, within = tracks.track_scores(optical_flow(moving_texture(shift=-3, frames=7)), path, seen)
    assert opposite == pytest.approx(6 * np.mean(range(1, 7)), rel=0.1)
    assert within < 0.3


def test_points_are_led_by_exactly_the_flow():
    """Half a pixel from the centre the flow is halfway between two pixels: corners and centres are told apart."""
    flow = np.zeros((1, 4, 6, 2), np.float32)
    flow[0, :, :, 0] = np.arange(6)
    found = tracks.track_points(flow, np.array([[2.5, 1.5], [3.0, 2.0]]))
    np.testing.assert_allclose(found[1], [[4.5, 1.5], [5.5, 2.0]], atol=1e-5)
    many = np.tile([[2.5, 1.5]], (70_000, 1))
    np.testing.assert_allclose(tracks.track_points(flow, many)[1], np.tile([[4.5, 1.5]], (70_000, 1)), atol=1e-5)


def test_what_is_hidden_once_is_not_scored_after():
    video = moving_texture(shift=0, frames=5)
    path, seen = lattice(5, 0)
    path[3:] += 50  # wrong from frame 3 on
    seen[2] = False
    assert tracks.track_scores(optical_flow(video), path, seen)[0] < 0.05
    seen[2] = True
    assert tracks.track_scores(optical_flow(video), path, seen)[0] > 20
    seen[1] = False
    assert np.isnan(tracks.track_scores(optical_flow(video), path, seen)).all()


def scene(hand_at, object_at, frames=4):
    """A table with noise, a hand and an object of other colours: frames and labels."""
    rng = np.random.default_rng(0)
    labels = np.zeros((frames, 60, 90), np.uint8)
    for t in range(frames):
        labels[t, 10:30, hand_at + 2 * t : hand_at + 2 * t + 20] = 1
        labels[t, 35:55, object_at + t : object_at + t + 18] = 2
    colours = np.array([[110, 90, 70], [220, 170, 140], [40, 90, 180]])
    video = np.clip(colours[labels] + rng.normal(0, 8, (*labels.shape, 3)), 0, 255).astype(np.uint8)
    return video, labels


def test_masks_of_the_true_video_are_found():
    video, labels = scene(5, 40)
    hand, thing = masks.mask_ious(video, video, labels)
    assert hand > 0.93
    assert thing > 0.93


def test_a_hand_elsewhere_is_not_the_hand():
    truth, labels = scene(5, 40)
    wrong, elsewhere = scene(55, 40)
    hand, thing = masks.mask_ious(wrong, truth, labels)
    right, there = labels[1:] == 1, elsewhere[1:] == 1
    exact = (right & there).sum() / (right | there).sum()
    assert hand == pytest.approx(exact, abs=0.03)
    assert thing > 0.9


def test_iou_is_taken_over_the_volume():
    """A video whose later half shows no hand: the IoU is the share of hand pixels that are there."""
    truth, labels = scene(5, 40, frames=5)
    video = truth.copy()
    video[3:][labels[3:] == 1] = [110, 90, 70]
    hand, _ = masks.mask_ious(video, truth, labels)
    assert hand == pytest.approx(0.5, abs=0.05)


def test_what_frame_0_does_not_show_has_no_number():
    truth, labels = scene(5, 40)
    labels[0][labels[0] == 2] = 0
    hand, thing = masks.mask_ious(truth, truth, labels)
    assert hand > 0.9
    assert np.isnan(thing)
