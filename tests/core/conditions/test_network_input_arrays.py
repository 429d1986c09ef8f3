# SPDX-License-Identifier: Apache-2.0
"""The network's inputs describe the same geometry as the clip: normalised once, resized, resampled, balanced."""

import dataclasses

import numpy as np
import pytest

from hvg3d_core.conditions import ROLES, ClipError, fit_size, network_inputs, project


def pixels(clip, view=0):
    camera = clip.views[view]
    return project(clip.points, camera.K, camera.world_to_camera)


def test_shapes_types_and_roles(shared_clip):
    inputs = network_inputs(shared_clip)
    assert inputs.points.shape == (9, 600, 3)
    assert {name: value.dtype.name for name, value in vars(inputs).items()} == {
        "points": "float32",
        "point_entity": "uint8",
        "point_valid": "bool",
        "intrinsics": "float32",
        "world_to_camera": "float32",
        "tracking_video": "uint8",
        "masks": "uint8",
    }
    assert inputs.tracking_video.shape == (9, 120, 160, 3)
    assert np.array_equal(inputs.masks, shared_clip.views[0].masks)
    hand, thing = ROLES.index("right_hand") + 1, ROLES.index("object") + 1
    assert inputs.point_entity.tolist() == [hand] * 300 + [thing] * 300
    assert inputs.point_valid.all()


def test_normalised_points_project_to_where_the_clip_has_them(shared_clip):
    """In a moving camera, and the scaled depth is the true depth over one scale for the whole clip."""
    inputs = network_inputs(shared_clip)
    uv, z = project(inputs.points, inputs.intrinsics, inputs.world_to_camera)
    true_uv, true_z = pixels(shared_clip)
    assert np.abs(uv * (160, 120) - true_uv).max() < 1e-2
    ratio = true_z / z
    assert ratio.std() / ratio.mean() < 1e-5


def test_one_centre_and_scale_from_the_first_frame(shared_clip):
    points = network_inputs(shared_clip).points
    assert np.abs(points[0].mean(0)).max() < 1e-5
    assert np.linalg.norm(points[0], axis=1).max() == pytest.approx(1, abs=1e-5)
    moved = np.linalg.norm(shared_clip.points[8] - shared_clip.points[0], axis=1)
    scaled = np.linalg.norm(points[8] - points[0], axis=1)
    assert np.allclose(scaled / moved, (scaled / moved)[0], rtol=1e-4), "motion keeps its proportion"


def test_the_world_the_clip_was_made_in_does_not_matter(shared_clip):
    """Turn and shift the world, with its camera: the network must see the same."""
    turn, shift = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0], np.array([1.0, -2, 0.5])
    turn *= np.sign(np.linalg.det(turn))
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, shift
    view = shared_clip.views[0]
    moved = dataclasses.replace(
        shared_clip,
        points=(shared_clip.points @ turn.T + shift).astype(np.float32),
        tracks=(shared_clip.tracks @ turn.T + shift).astype(np.float32),
        views=[
            dataclasses.replace(view, world_to_camera=(view.world_to_camera @ np.linalg.inv(pose)).astype(np.float32))
        ],
    )
    one, two = network_inputs(shared_clip), network_inputs(moved)
    for name in ("points", "intrinsics", "world_to_camera"):
        assert np.abs(getattr(one, name) - getattr(two, name)).max() < 1e-4, name
    assert (one.tracking_video != two.tracking_video).mean() < 1e-2


@pytest.mark.parametrize(("width", "height"), [(80, 60), (320, 240), (120, 120), (160, 64), (64, None)])
def test_resizing_covers_and_crops_the_centre(shared_clip, width, height):
    inputs = network_inputs(shared_clip, width=width, height=height)
    height = height or 48
    assert inputs.tracking_video.shape == (9, height, width, 3)
    assert inputs.masks.shape == (9, height, width)
    fit = fit_size(160, 120, width, height)
    left, top, right, bottom = fit.box()
    assert min(left, top) == pytest.approx(0)
    assert (left + right, top + bottom) == pytest.approx((160, 120)), "the crop is centred"
    uv, _ = project(inputs.points, inputs.intrinsics, inputs.world_to_camera)
    expected = (pixels(shared_clip)[0] - (left, top)) / (right - left, bottom - top)
    assert np.abs(uv - expected).max() < 1e-4
    # Masks move as the points do: visible points still fall on their entity's mask or next to it.
    frame, point = np.nonzero(network_inputs(shared_clip, width=width, height=height, visible_only=True).point_valid)
    column, row = np.floor(uv[frame, point] * (width, height)).astype(int).T
    near = [
        inputs.masks[frame, np.clip(row + dy, 0, height - 1), np.clip(column + dx, 0, width - 1)]
        == shared_clip.point_entity[point] + 1
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    ]
    assert np.any(near, 0).mean() > 0.97


def test_frames_are_resampled_for_everything_alike(shared_clip):
    inputs = network_inputs(shared_clip, num_frames=17)
    same = network_inputs(shared_clip)
    source = [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8]
    for name in ("points", "point_valid", "intrinsics", "world_to_camera", "tracking_video", "masks"):
        assert np.array_equal(getattr(inputs, name), getattr(same, name)[source]), name


def test_a_count_the_vae_cannot_take_is_refused(grasp, shared_clip):
    with pytest.raises(ClipError, match=r"50 .*49 or 57"):
        network_inputs(shared_clip, num_frames=50)
    two = grasp.clip(num_frames=2)
    with pytest.raises(ClipError, match=r"2 .*1 or 9"):
        network_inputs(two)
    assert network_inputs(two, num_frames=9).points.shape[0] == 9


def test_fewer_points_are_drawn_evenly_and_repeat_with_the_seed(shared_clip):
    one, two, other = (network_inputs(shared_clip, num_points=101, seed=s) for s in (0, 0, 1))
    assert one.points.shape == (9, 101, 3)
    assert sorted(np.unique(one.point_entity, return_counts=True)[1]) == [50, 51]
    assert np.array_equal(one.points, two.points)
    assert not np.array_equal(one.points, other.points)


def test_more_points_are_padding_that_says_so(shared_clip):
    inputs = network_inputs(shared_clip, num_points=650)
    assert inputs.points.shape == (9, 650, 3)
    assert not inputs.point_valid[:, 600:].any()
    assert not inputs.point_entity[600:].any()
    assert not inputs.points[:, 600:].any()
    assert inputs.point_valid[:, :600].all()
    assert np.allclose(inputs.points[:, :600], network_inputs(shared_clip).points)


def test_a_depth_camera_sees_only_the_visible(shared_clip):
    inputs = network_inputs(shared_clip, visible_only=True)
    assert np.array_equal(inputs.point_valid, shared_clip.views[0].point_visible)
    assert np.array_equal(inputs.points, network_inputs(shared_clip).points)


def test_a_depth_camera_spends_no_place_on_what_it_never_sees(shared_clip):
    visible = shared_clip.views[0].point_visible
    ever = visible.any(axis=0)
    assert 100 < ever.sum() < 600
    inputs = network_inputs(shared_clip, visible_only=True, num_points=700)
    count = int(ever.sum())
    assert np.array_equal(inputs.point_valid[:, :count], visible[:, ever])
    assert not inputs.point_valid[:, count:].any()
    assert not inputs.point_entity[count:].any()
    few = network_inputs(shared_clip, visible_only=True, num_points=60)
    assert few.point_valid.any(axis=0).all()


def untracked(clip):
    """Each frame's points in an order of its own, as a depth camera gives them."""
    rng = np.random.default_rng(0)
    order = np.stack([rng.permutation(clip.num_points) for _ in range(clip.num_frames)])
    rows = np.arange(clip.num_frames)[:, None]
    view = dataclasses.replace(clip.views[0], point_visible=clip.views[0].point_visible[rows, order])
    owner = clip.point_entity[order].copy()
    owner[3, owner[3] == 0] = 1  # a frame without the hand
    return dataclasses.replace(
        clip, points=clip.points[rows, order], point_entity=owner, views=[view], tracked=False, track_points=None
    )


@pytest.mark.parametrize("num_points", [None, 200, 2000])
def test_untracked_points_keep_their_entity_in_every_frame(shared_clip, num_points):
    clip = untracked(shared_clip)
    inputs = network_inputs(clip, num_points=num_points)
    hand = inputs.point_entity == ROLES.index("right_hand") + 1
    assert hand.sum() == (100 if num_points == 200 else 300)
    assert not inputs.point_valid[3, hand].any()
    assert inputs.point_valid[2, hand].all()
    uv, _ = project(inputs.points, inputs.intrinsics, inputs.world_to_camera)
    true_uv = pixels(clip)[0]
    for frame in (0, 5):
        own = true_uv[frame, clip.point_entity[frame] == 0]
        found = uv[frame, hand & inputs.point_valid[frame]] * (160, 120)
        assert np.abs(found[:, None] - own[None]).max(-1).min(1).max() < 1e-2


def test_other_views_have_their_own_camera_and_visibility(clip):
    first = clip.views[0]
    hidden = np.zeros_like(first.point_visible)
    other = dataclasses.replace(
        first, name="b", K=first.K * np.array([[0.5], [0.5], [1]], np.float32), point_visible=hidden
    )
    clip.views.append(other)
    inputs = network_inputs(clip, view=1)
    assert not inputs.tracking_video.any(), "its tracks are points that this camera does not see"
    assert np.allclose(
        inputs.intrinsics * 2, network_inputs(clip).intrinsics * (1, 1, 1) + np.diag([0, 0, 1]), atol=1e-6
    )
    with pytest.raises(ClipError, match="view: 2; the clip has views 0 to 1"):
        network_inputs(clip, view=2)


def test_bad_numbers_are_named(shared_clip):
    with pytest.raises(ClipError, match="num_points: 0"):
        network_inputs(shared_clip, num_points=0)
    with pytest.raises(ClipError, match="width: 0"):
        network_inputs(shared_clip, width=0, height=10)
