# SPDX-License-Identifier: Apache-2.0
"""The tracking video follows the rule of Diffusion as Shader: colours of the first frame, painted far to near."""

import numpy as np
import pytest

from hvg3d_core.conditions import ClipError, default_square, project, track_colors, tracking_video

W, H = 100, 80
K = np.array([[100, 0, 50], [0, 100, 40], [0, 0, 1]], np.float32)


def at(u, v, z):
    """World point (camera axes) that projects to pixel (u, v) at depth z."""
    return [(u - 50) / 100 * z, (v - 40) / 100 * z, z]


def draw(points, visible=None, square=1):
    tracks = np.asarray(points, np.float32)
    visible = np.ones(tracks.shape[:2], bool) if visible is None else np.asarray(visible)
    T = len(tracks)
    return tracking_video(tracks, visible, np.tile(K, (T, 1, 1)), np.tile(np.eye(4), (T, 1, 1)), W, H, square=square)


def test_colours_by_hand():
    """x and y over the size; 1/z between its 2nd and 98th percentile, computed here one by one."""
    rng = np.random.default_rng(0)
    u, v, z = rng.uniform(0, W, 50), rng.uniform(0, H, 50), rng.uniform(0.5, 2, 50)
    colors = track_colors(np.array([at(*p) for p in zip(u, v, z, strict=True)]), K, np.eye(4), W, H)
    low, high = np.percentile(1 / z, [2, 98])
    for i in range(50):
        blue = min(max((1 / z[i] - low) / (high - low), 0), 1)
        assert np.abs(colors[i] - np.array([u[i] / W, v[i] / H, blue]) * 255).max() <= 1, i
    assert colors[np.argmin(z), 2] == 255
    assert colors[np.argmax(z), 2] == 0


def test_colours_at_the_edges_of_the_rule():
    flat = track_colors(np.array([at(10, 10, 1), at(90, 70, 1)]), K, np.eye(4), W, H)
    assert flat[:, 2].tolist() == [127, 127], "equal depths"
    outside = track_colors(np.array([at(-40, 200, 1), at(500, -3, 2)]), K, np.eye(4), W, H)
    assert outside[:, :2].tolist() == [[0, 255], [255, 0]]
    behind = track_colors(np.array([[3, -3, -2], [0, 0, 1], [0, 0, 3], [0, 0, 0]], np.float32), K, np.eye(4), W, H)
    assert behind[0].tolist() == [255, 0, 255], "to the right and above, as near as can be"
    assert track_colors(np.zeros((0, 3)), K, np.eye(4), W, H).shape == (0, 3)


def test_colours_stay_while_tracks_move():
    start, end = [at(20.5, 30.5, 1), at(70.5, 60.5, 2)], [at(60.5, 10.5, 2), at(10.5, 75.5, 1)]
    video = draw([start, end])
    colors = track_colors(np.array(start), K, np.eye(4), W, H)
    for frame, pixels in ((0, [(20, 30), (70, 60)]), (1, [(60, 10), (10, 75)])):
        for color, (x, y) in zip(colors, pixels, strict=True):
            assert np.array_equal(video[frame, y, x], color)
        assert video[frame].any(-1).sum() == 2, "and nothing else is drawn"


@pytest.mark.parametrize(("square", "side"), [(1, 1), (2, 3), (3, 3), (4, 5)])
def test_squares_reach_half_their_side_to_every_side(square, side):
    video = draw([[at(50.5, 40.5, 1)]], square=square)
    rows, columns = np.nonzero(video[0].any(-1))
    assert len(rows) == side * side
    assert (rows.min(), columns.min()) == (40 - side // 2, 50 - side // 2)


def test_squares_are_cut_at_the_border():
    video = draw([[at(0.5, 0.5, 1), at(99.5, 79.5, 2)]], square=4)
    assert video[0].any(-1).sum() == 2 * 9


def test_the_nearer_of_two_covers_the_farther():
    near, far = at(50.5, 40.5, 1), at(51.5, 40.5, 2)
    for points in ([near, far], [far, near]):
        video = draw([points], square=4)
        colors = track_colors(np.array(points), K, np.eye(4), W, H)
        assert np.array_equal(video[0, 40, 51], colors[points.index(near)])
        assert np.array_equal(video[0, 40, 53], colors[points.index(far)])
        assert video[0].any(-1).sum() == 30


def test_what_is_hidden_behind_or_outside_is_not_drawn():
    points = [[at(20, 20, 1), at(40, 40, 1), [0, 0, -1], at(101, 20, 1), at(-2, 20, 1)]]
    video = draw(points, [[True, False, True, True, True]], square=4)
    assert video[0].any(-1).sum() == 25


def test_the_video_of_a_clip_shows_its_visible_tracks_and_only_those(shared_clip):
    view, clip = shared_clip.views[0], shared_clip
    before = clip.tracks.copy()
    video = tracking_video(
        clip.tracks, clip.track_visible, view.K, view.world_to_camera, clip.width, clip.height, square=1
    )
    uv, _ = project(clip.tracks, view.K, view.world_to_camera)
    for frame in range(clip.num_frames):
        cells = {tuple(cell) for cell in np.floor(uv[frame, clip.track_visible[frame]]).astype(int)}
        drawn = {(int(x), int(y)) for y, x in zip(*np.nonzero(video[frame].any(-1)), strict=True)}
        assert drawn == cells
    assert np.array_equal(before, clip.tracks), "a pure function"


def test_default_squares_follow_the_width():
    assert [default_square(w) for w in (96, 192, 360, 720, 1440)] == [2, 2, 2, 4, 8]


def test_bad_arguments_are_named():
    with pytest.raises(ClipError, match="track_visible: shape"):
        draw([[at(1, 1, 1)]], np.ones((1, 2), bool))
    with pytest.raises(ClipError, match="square: 0"):
        draw([[at(1, 1, 1)]], square=0)
    assert not draw(np.zeros((2, 0, 3))).any()
