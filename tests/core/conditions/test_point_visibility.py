# SPDX-License-Identifier: Apache-2.0
"""Visibility agrees with trimesh's ray caster, an independent implementation, also where triangles are awkward."""

import numpy as np
import pytest
import trimesh

from hvg3d_core.conditions import in_view, intrinsics_from_fov, look_at, point_visibility, project
from hvg3d_core.conditions.cameras import NEAR
from hvg3d_core.conditions.visibility import RELATIVE_EPS

W, H = 160, 120


def expected(first_hits, mesh, points, K, w2c, near=NEAR):
    """Seen from a ray that starts where it passes the near plane."""
    uv, z = project(points, K, w2c)
    eye = -w2c[:3, :3].T.astype(np.float64) @ w2c[:3, 3]
    ray = points.astype(np.float64) - eye
    distance = np.linalg.norm(ray, axis=1)
    direction = ray / distance[:, None]
    skip = near * distance / z  # along the ray, to the near plane
    inside = in_view(uv, z, W, H, near)
    hit = np.full(len(points), np.inf)
    start = eye + direction * skip[:, None]
    hit[inside] = first_hits(mesh, start[inside], direction[inside]) + skip[inside]
    return inside & (hit > distance * (1 - RELATIVE_EPS))


def test_a_grasp_with_table_and_post(grasp, shared_clip, first_hits):
    agreed = []
    for frame in (0, 4, 8):
        mesh = trimesh.util.concatenate(
            [trimesh.Trimesh(m.vertices, m.triangles, process=False) for m in grasp.meshes(frame)]
        )
        K, w2c = grasp.camera(frame)
        truth = expected(first_hits, mesh, shared_clip.points[frame], K, w2c)
        assert 0.15 < truth.mean() < 0.7, "the scene must have both kinds"
        agreed.append(truth == shared_clip.views[0].point_visible[frame])
    assert np.mean(agreed) >= 0.998


@pytest.mark.parametrize("seed", range(4))
def test_triangle_soup_around_the_camera(first_hits, seed):
    """Triangles of all sizes, many through the near plane or behind the camera, with the camera among them."""
    rng = np.random.default_rng(seed)
    size = 10 ** rng.uniform(-2, 0.7, (150, 1, 1))
    corners = (rng.normal(size=(150, 1, 3)) * 2 + rng.normal(size=(150, 3, 3)) * size).astype(np.float32)
    mesh = trimesh.Trimesh(corners.reshape(-1, 3), np.arange(450).reshape(-1, 3), process=False)
    K, w2c = intrinsics_from_fov(1.2, W, H), look_at(rng.normal(size=3) * 0.3, rng.normal(size=3))
    weights = rng.dirichlet((1, 1, 1), (150, 10))
    on_surface = np.einsum("fpk,fkd->fpd", weights, corners).reshape(-1, 3)
    depth = 10 ** rng.uniform(-1.8, 0.7, (1500, 1))
    camera = depth * np.stack([rng.uniform(-0.8, 0.8, 1500), rng.uniform(-0.6, 0.6, 1500), np.ones(1500)], 1)
    in_front = camera @ w2c[:3, :3] - w2c[:3, :3].T @ w2c[:3, 3]
    points = np.concatenate([on_surface, in_front]).astype(np.float32)
    truth = expected(first_hits, mesh, points, K, w2c)
    found = point_visibility(points, mesh.vertices.astype(np.float32), mesh.faces, K, w2c, W, H)
    assert 0.03 < truth.mean() < 0.7
    assert (truth == found).mean() >= 0.995


def test_a_wall_through_the_near_plane_hides_what_is_behind_it():
    """One huge triangle that reaches behind the camera: without clipping its projection would be nonsense."""
    vertices = np.array([[-50, 1, -50], [50, 1, -50], [0, 1, 500]], np.float32)  # a floor 1 m below (y down)
    points = np.array([[0, 1.5, 4], [0, 0.5, 4], [0, 1.0, 4]], np.float32)
    seen = point_visibility(points, vertices, np.array([[0, 1, 2]]), intrinsics_from_fov(1.2, W, H), np.eye(4), W, H)
    assert seen.tolist() == [False, True, True]


def test_a_closed_surface_hides_its_far_side():
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.1)
    vertices = ball.vertices.astype(np.float32)
    K, w2c = intrinsics_from_fov(0.5, W, H), look_at((0, -1, 0), (0, 0, 0))
    seen = point_visibility(vertices, vertices, ball.faces, K, w2c, W, H)
    # Seen is what is nearer than the horizon's plane, r^2 / d from the centre; vertices next to it may go either way.
    facing = -vertices[:, 1] - 0.01
    clear = np.abs(facing) > 0.01
    assert np.array_equal(seen[clear], facing[clear] > 0)


def test_points_outside_the_image_or_behind_the_camera_are_not_visible():
    points = np.array([[0, 0, 1], [5, 0, 1], [0, -5, 1], [0, 0, -1], [0, 0, 0.001], [0, 0, 0]], np.float32)
    nothing = np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64)
    seen = point_visibility(points, *nothing, intrinsics_from_fov(0.8, W, H), np.eye(4), W, H)
    assert seen.tolist() == [True, False, False, False, False, False]


def test_far_from_the_origin_float32_rounding_does_not_speckle():
    """The same ball 2 km away from the origin: its front stays visible although its coordinates are rounded."""
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.1)
    vertices = (ball.vertices + np.array([2000.0, 0, 0])).astype(np.float32)
    K, w2c = intrinsics_from_fov(0.5, W, H), np.eye(4)
    w2c[:3, :3] = look_at((0, -1, 0), (0, 0, 0))[:3, :3]
    w2c[:3, 3] = -w2c[:3, :3] @ (2000.0, -1, 0)
    seen = point_visibility(vertices, vertices, ball.faces, K, w2c, W, H)
    assert seen[ball.vertices[:, 1] < -0.03].all()
    assert not seen[ball.vertices[:, 1] > 0.02].any()
