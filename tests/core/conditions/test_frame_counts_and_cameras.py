# SPDX-License-Identifier: Apache-2.0
"""Frame counts are refused with the nearest valid ones; the pinhole conventions are OpenCV's with corner pixels."""

import numpy as np
import pytest

from hvg3d_core.conditions import (
    ClipError,
    check_frame_count,
    in_view,
    intrinsics_from_fov,
    invert_rigid,
    look_at,
    nearest_valid_frame_counts,
    project,
    resample_indices,
    scale_intrinsics,
    valid_frame_count,
)
from hvg3d_core.conditions.cameras import points_in_view


def test_valid_counts_are_one_and_eight_k_plus_one():
    assert [n for n in range(-3, 60) if valid_frame_count(n)] == [1, 9, 17, 25, 33, 41, 49, 57]
    for n in (1, 9, 49):
        check_frame_count(n)


@pytest.mark.parametrize(("n", "named"), [(50, ("50", "49", "57")), (2, ("2", "1", "9")), (56, ("49", "57"))])
def test_other_counts_are_refused_with_the_two_nearest(n, named):
    with pytest.raises(ClipError) as error:
        check_frame_count(n)
    for part in named:
        assert part in str(error.value).replace("8k+1", "")


def test_counts_below_one_point_to_one():
    assert nearest_valid_frame_counts(0) == (1, 1)
    with pytest.raises(ClipError, match="use 1 frames"):
        check_frame_count(-4)


def test_resampling_keeps_both_ends_and_is_even():
    assert resample_indices(50, 49)[[0, -1]].tolist() == [0, 49]
    assert resample_indices(9, 17).tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8]
    assert resample_indices(49, 49).tolist() == list(range(49))
    assert resample_indices(100, 1).tolist() == [0]
    with pytest.raises(ClipError, match="source"):
        resample_indices(0, 9)


def test_projection_by_hand():
    """1 m ahead, focal 100: 0.1 m to the right and 0.2 m down are 10 and 20 pixels from the centre."""
    K = np.array([[100, 0, 50], [0, 100, 40], [0, 0, 1]], np.float32)
    uv, z = project(np.array([[0.1, 0.2, 1.0], [0, 0, -1.0]]), K, np.eye(4))
    assert np.allclose(uv[0], (60, 60))
    assert np.allclose(z, (1, -1))
    assert in_view(uv, z, 100, 80).tolist() == [True, False]


def test_projection_broadcasts_over_frames():
    rng = np.random.default_rng(0)
    points, K = rng.normal(size=(4, 7, 3)), np.stack([intrinsics_from_fov(0.5 + 0.1 * t, 64, 48) for t in range(4)])
    w2c = np.stack([look_at((3, t, 1), (0, 0, 0)) for t in range(4)])
    uv, z = project(points, K, w2c)
    for t in range(4):
        one_uv, one_z = project(points[t], K[t], w2c[t])
        assert np.allclose(uv[t], one_uv)
        assert np.allclose(z[t], one_z)


def test_look_at_puts_the_target_in_the_middle_and_up_upwards():
    K, w2c = intrinsics_from_fov(0.8, 200, 100), look_at((1, -2, 1.5), (0.2, 0.1, 0.3))
    (centre, above), z = project(np.array([[0.2, 0.1, 0.3], [0.2, 0.1, 0.4]]), K, w2c)
    assert np.allclose(centre, (100, 50), atol=1e-3)
    assert abs(above[0] - 100) < 1e-3
    assert above[1] < 50
    assert z.min() > 0
    assert np.allclose(invert_rigid(w2c) @ w2c, np.eye(4), atol=1e-6)
    assert np.allclose(invert_rigid(w2c)[:3, 3], (1, -2, 1.5), atol=1e-6)
    assert np.isfinite(look_at((0, 0, 2), (0, 0, 0))).all(), "straight down, along up"


def test_field_of_view_spans_the_width_and_scaling_keeps_it():
    K = intrinsics_from_fov(0.6, 720, 480)
    edge = np.array([[np.tan(0.3), 0, 1.0]])
    assert np.allclose(project(edge, K, np.eye(4))[0], (720, 240), atol=1e-3)
    assert np.allclose(project(edge, scale_intrinsics(K, 0.5, 0.25), np.eye(4))[0], (360, 60), atol=1e-3)
    with pytest.raises(ClipError, match="fov_x"):
        intrinsics_from_fov(4.0, 10, 10)


def test_in_view_without_dividing_is_in_view():
    """For points all about the camera, behind it and in its plane too."""
    rng = np.random.default_rng(5)
    points = np.concatenate([rng.normal(size=(4000, 3)), np.zeros((1, 3))]).astype(np.float32)
    K, w2c = intrinsics_from_fov(1.0, 160, 120), look_at((0.3, -0.2, 0.1), (1, 0.5, 0))
    expected = in_view(*project(points, K, w2c), 160, 120)
    assert 0.02 < expected.mean() < 0.5
    assert np.array_equal(points_in_view(points, K, w2c, 160, 120), expected)
