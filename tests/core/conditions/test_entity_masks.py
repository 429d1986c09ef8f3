# SPDX-License-Identifier: Apache-2.0
"""Masks show the nearest entity at each pixel's centre, as an independent ray caster does."""

import numpy as np
import trimesh

from hvg3d_core.conditions import intrinsics_from_fov, project, rasterise_ids


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
