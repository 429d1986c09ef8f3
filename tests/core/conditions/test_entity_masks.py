# SPDX-License-Identifier: Apache-2.0
"""Masks show the nearest entity at each pixel's centre, as an independent ray caster does."""

import numpy as np
import pytest
import trimesh

from hvg3d_core.conditions import intrinsics_from_fov, look_at, point_visibility, project, rasterise_ids


def test_masks_equal_ray_casting_through_pixel_centres(grasp, shared_clip, first_hits):
    frame = 5
    K, w2c = grasp.camera(frame)
    y, x = np.mgrid[0 : grasp.height : 2, 0 : grasp.width : 2]
    pixels = np.stack([x.ravel() + 0.5, y.ravel() + 0.5, np.ones(x.size)], 1)
    directions = pixels @ np.linalg.inv(K.astype(np.float64)).T @ w2c[:3, :3].astype(np.float64)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    eye = np.broadcast_to(-w2c[:3, :3].T.astype(np.float64) @ w2c[:3, 3], directions.shape)
    hits, labels = [], []
    for mesh in grasp.meshes(frame):
        hits.append(first_hits(trimesh.Trimesh(mesh.vertices, mesh.triangles, process=False), eye, directions))
        labels.append(0 if mesh.entity is None else mesh.entity + 1)
    nearest = np.argmin(hits, axis=0)
    truth = np.where(np.isfinite(np.min(hits, axis=0)), np.array(labels)[nearest], 0).reshape(x.shape)
    found = shared_clip.views[0].masks[frame][::2, ::2]
    assert set(np.unique(truth)) == {0, 1, 2}
    assert (truth == found).mean() >= 0.999


def test_visible_points_fall_on_their_own_mask(grasp):
    """Rendered at 640 x 480, where the pixels that an outline only half covers are few."""
    import dataclasses

    fine = dataclasses.replace(grasp, width=640, height=480, num_frames=3)
    clip = fine.clip(num_tracks=0)
    view = clip.views[0]
    uv, _ = project(clip.points, view.K, view.world_to_camera)
    frame, point = np.nonzero(view.point_visible)
    column, row = np.floor(uv[frame, point]).astype(int).T
    assert len(frame) > 300
    own = clip.point_entity[point] + 1
    assert (view.masks[frame, row, column] == own).mean() >= 0.95
    near = np.stack(
        [
            view.masks[frame, np.clip(row + dy, 0, 479), np.clip(column + dx, 0, 639)] == own
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        ]
    )
    assert near.any(0).mean() >= 0.999, "within a pixel of it practically all of them"


def test_a_square_covers_exactly_the_pixels_whose_centres_it_holds():
    """Two triangles with a shared diagonal, 1 m away: no gap on the diagonal, half-open pixels at the outline."""
    K = np.array([[100, 0, 0], [0, 100, 0], [0, 0, 1]], np.float32)
    vertices = np.array([[0.021, 0.031, 1], [0.059, 0.031, 1], [0.059, 0.071, 1], [0.021, 0.071, 1]], np.float32)
    ids = rasterise_ids(vertices, np.array([[0, 1, 2], [0, 2, 3]]), np.array([1, 1]), K, np.eye(4), 10, 10)
    expected = np.zeros((10, 10), np.uint8)
    expected[3:7, 2:6] = 1
    assert np.array_equal(ids, expected)


def test_intersecting_planes_split_where_depths_cross():
    """A fronto-parallel wall at 2 m and one that comes nearer to the right: the border is where both are at 2 m."""
    vertices = np.array(
        [[-9, -9, 2], [9, -9, 2], [9, 9, 2], [-9, 9, 2], [-1, -9, 3], [1, -9, 1], [1, 9, 1], [-1, 9, 3]], np.float32
    )
    triangles = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    ids = rasterise_ids(
        vertices, triangles, np.array([1, 1, 2, 2]), intrinsics_from_fov(0.7, 100, 60), np.eye(4), 100, 60
    )
    assert (ids[:, :50] == 1).all()
    assert (ids[:, 50:] == 2).all()


def test_a_floor_that_passes_under_the_camera_fills_the_lower_half():
    vertices = np.array([[-900, 1, -900], [900, 1, -900], [900, 1, 900], [-900, 1, 900]], np.float32)
    triangles = np.array([[0, 1, 2], [0, 2, 3]])
    ids = rasterise_ids(vertices, triangles, np.array([1, 1]), intrinsics_from_fov(1.0, 80, 60), np.eye(4), 80, 60)
    assert (ids[:30] == 0).all()
    assert (ids[31:] == 1).all()


def test_occluders_show_as_background():
    wall = np.array([[-9, -9, 1], [9, -9, 1], [0, 18, 1]], np.float32)
    vertices = np.concatenate([wall, wall * (1, 1, 2)]).astype(np.float32)
    triangles = np.arange(6).reshape(2, 3)
    K = intrinsics_from_fov(0.5, 16, 16)
    assert (rasterise_ids(vertices, triangles, np.array([0, 1]), K, np.eye(4), 16, 16) == 0).all()
    assert (rasterise_ids(vertices, triangles, np.array([1, 0]), K, np.eye(4), 16, 16) == 1).all()


@pytest.mark.parametrize("seed", range(3))
def test_triangles_of_all_sizes_equal_ray_casting(first_hits, seed):
    """From below a pixel to beyond the image, thin and fat, through the near plane: each is drawn in its own way."""
    rng = np.random.default_rng(seed)
    size = 10 ** rng.uniform(-2.5, 0.5, (260, 1, 1))
    offsets = rng.normal(size=(260, 3, 3)) * size
    offsets[::3, 1] = offsets[::3, 0] + 0.03 * offsets[::3, 1]  # every third one thin
    middle = rng.uniform(-1, 1, (260, 1, 3)) * (1.5, 1.2, 1.0) + (0, 0, 2.0) + size * (0, 0, 0.9)
    corners = (middle + offsets).astype(np.float32)
    assert (corners[..., 2].min(1) < 0).any()
    vertices, triangles = corners.reshape(-1, 3), np.arange(780).reshape(-1, 3)
    ids = rng.integers(0, 4, 260).astype(np.uint8)
    width, height = 200, 150
    K = intrinsics_from_fov(1.1, width, height)
    found = rasterise_ids(vertices, triangles, ids, K, np.eye(4), width, height, near=1e-3)
    y, x = np.mgrid[0:height:3, 0:width:3]
    rays = np.stack([x.ravel() + 0.5, y.ravel() + 0.5, np.ones(x.size)], 1) @ np.linalg.inv(K.astype(np.float64)).T
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    hits = np.stack(
        [
            first_hits(trimesh.Trimesh(vertices, triangles[ids == i], process=False), np.zeros_like(rays), rays)
            for i in range(4)
        ]
    )
    truth = np.where(np.isfinite(hits.min(0)), hits.argmin(0), 0).reshape(x.shape)
    assert len(np.unique(truth)) == 4
    assert (truth == found[::3, ::3]).mean() >= 0.998


@pytest.mark.parametrize("cells", [4, 40, 400])
def test_a_surface_has_no_holes_where_corners_and_edges_meet_pixel_centres(cells):
    """A grid over the whole image whose lines run exactly through pixel centres, from 1/8 pixel to 12 pixels wide."""
    line = np.linspace(-0.5, 0.5, cells + 1)
    x, y = np.meshgrid(line, line)
    vertices = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], 1).astype(np.float32)
    corner = (np.arange(cells)[:, None] * (cells + 1) + np.arange(cells)).ravel()
    one = np.stack([corner, corner + 1, corner + cells + 2], 1)
    other = np.stack([corner, corner + cells + 2, corner + cells + 1], 1)
    triangles = np.concatenate([one, other])
    K = np.array([[50, 0, 24.5], [0, 50, 24.5], [0, 0, 1]], np.float32)  # the middle of the grid on a pixel's centre
    ids = rasterise_ids(vertices, triangles, np.ones(len(triangles)), K, np.eye(4), 49, 49)
    assert ids.all()


def test_a_ball_of_triangles_smaller_than_a_pixel():
    """80k triangles on few pixels: the outline is the ball's own, and its near half is what is seen of its vertices."""
    ball = trimesh.creation.icosphere(subdivisions=6, radius=0.1)
    vertices = ball.vertices.astype(np.float32)
    width, height = 64, 48
    K, w2c = intrinsics_from_fov(0.5, width, height), look_at((0, -0.75, 0), (0, 0, 0))
    mask = rasterise_ids(vertices, ball.faces, np.ones(len(ball.faces)), K, w2c, width, height)
    y, x = np.mgrid[0:height, 0:width]
    rays = np.stack([x + 0.5, y + 0.5, np.ones(x.shape)], -1) @ np.linalg.inv(K.astype(np.float64)).T
    # Distance of each pixel's ray from the ball's centre, 0.75 m ahead.
    apart = 0.75 * np.linalg.norm(rays[..., :2], axis=-1) / np.linalg.norm(rays, axis=-1)
    clear = np.abs(apart - 0.1) > 2e-4
    assert np.array_equal(mask[clear] == 1, apart[clear] < 0.1)
    seen = point_visibility(vertices, vertices, ball.faces, K, w2c, width, height)
    facing = -vertices[:, 1] - 0.1 * 0.1 / 0.75
    clear = np.abs(facing) > 0.005
    assert np.array_equal(seen[clear], facing[clear] > 0)
