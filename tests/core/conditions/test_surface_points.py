# SPDX-License-Identifier: Apache-2.0
"""Points sit on the surface evenly, follow it exactly, and repeat with the seed."""

import numpy as np
import pytest
import trimesh

from hvg3d_core.conditions import ClipError, balanced_quota, bind_surface


def test_points_and_tracks_of_a_rigid_object_move_as_it_does(grasp, shared_clip):
    rotation0, translation0 = grasp.pose(0)
    for owner, moving in ((shared_clip.point_entity, shared_clip.points), (None, shared_clip.tracks)):
        rest = (moving[0].astype(np.float64) - translation0) @ rotation0
        for frame in range(grasp.num_frames):
            rotation, translation = grasp.pose(frame)
            assert np.abs(rest @ rotation.T + translation - moving[frame]).max() < 1e-6, (frame, owner is None)


def test_points_lie_on_their_own_meshes(grasp, shared_clip):
    meshes = grasp.meshes(3)
    for entity, names in ((0, {"finger.l", "finger.r"}), (1, {"can"})):
        surface = trimesh.util.concatenate(
            [trimesh.Trimesh(m.vertices, m.triangles) for m in meshes if m.name in names]
        )
        points = shared_clip.points[3, shared_clip.point_entity == entity]
        _, distance, _ = trimesh.proximity.closest_point(surface, points[::10])
        assert distance.max() < 1e-6
        # a hand of two fingers: the area-weighted share of each is one half
        if entity == 0:
            local = (points - grasp.pose(3)[1]) @ grasp.pose(3)[0]
            assert 0.45 < (local[:, 0] < 0).mean() < 0.55


def test_sampling_is_uniform_over_the_area_whatever_the_triangles():
    """A unit square, half of it one triangle and half cut finely: each quarter must hold a quarter of the points."""
    fine = trimesh.Trimesh([[0, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2]])
    for _ in range(4):
        fine = fine.subdivide()
    mesh = trimesh.util.concatenate([trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0]], [[0, 1, 2]]), fine])
    vertices, triangles = mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32)
    points = bind_surface(vertices, triangles, 8000, np.random.default_rng(0)).evaluate(vertices)
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=4, range=[[0, 1], [0, 1]])
    assert np.abs(counts / 500 - 1).max() < 0.15  # 15 % is over three standard deviations of independent draws


def test_a_seed_repeats_and_another_differs():
    box = trimesh.creation.box([1, 2, 3])
    vertices, triangles = box.vertices.astype(np.float32), box.faces.astype(np.int32)
    one, two, other = (
        bind_surface(vertices, triangles, 50, np.random.default_rng(s)).evaluate(vertices) for s in (3, 3, 4)
    )
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_triangles_without_area_get_no_points():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 5, 5]], np.float32)
    triangles = np.array([[3, 3, 3], [0, 1, 2], [0, 0, 1], [3, 3, 3]], np.int32)
    assert (bind_surface(vertices, triangles, 100, np.random.default_rng(0)).triangle == 1).all()


@pytest.mark.parametrize(
    "vertices", [np.zeros((3, 3)), np.outer([0, 1, 2], [1.0, 2, 3]), 1e3 + np.outer([0.1, 0.2, 0.7], [1.0, 1, 1])]
)
def test_meshes_without_area_are_refused(vertices):
    with pytest.raises(ClipError, match="no area"):
        bind_surface(vertices.astype(np.float32), np.array([[0, 1, 2]], np.int32), 10, np.random.default_rng(0))


def test_meshes_without_triangles_are_refused():
    with pytest.raises(ClipError, match="no triangle"):
        bind_surface(np.zeros((3, 3), np.float32), np.zeros((0, 3), np.int32), 10, np.random.default_rng(0))


def test_a_small_hand_is_not_starved_by_a_large_object(shared_clip):
    assert np.bincount(shared_clip.point_entity).tolist() == [300, 300]
    assert np.bincount(shared_clip.point_entity[shared_clip.track_points]).tolist() == [100, 100]


def test_quotas_are_even_and_spill_over():
    assert balanced_quota([100, 100, 100], 50) == [17, 17, 16]
    assert balanced_quota([5, 100, 100], 65) == [5, 30, 30]
    assert balanced_quota([5, 6], 100) == [5, 6]
    assert balanced_quota([0, 6], 3) == [0, 3]


def test_parts_of_a_joined_mesh_keep_their_points():
    """Two sheets joined into one mesh: evaluated one by one, or carried by a matrix, every point stays where it was."""
    rng = np.random.default_rng(2)
    first, second = rng.random((40, 3)), rng.random((25, 3)) + 2
    triangles = np.concatenate([rng.integers(0, 40, (30, 3)), 40 + rng.integers(0, 25, (20, 3))])
    vertices = np.concatenate([first, second]).astype(np.float32)
    whole = bind_surface(vertices, triangles, 300, rng)
    expected = whole.evaluate(vertices)
    found = np.full_like(expected, np.nan)
    for start, count in ((0, 40), (40, 25)):
        chosen, part = whole.within(start, count)
        found[chosen] = part.evaluate(vertices[start : start + count])
    assert np.array_equal(found, expected)
    matrix = np.array([[0, -2, 0, 1], [1, 0, 0, 2], [0, 0, 3, -1], [0, 0, 0, 1.0]])
    moved = whole.evaluate(vertices @ matrix[:3, :3].T.astype(np.float32) + matrix[:3, 3].astype(np.float32))
    assert np.abs(whole.evaluate(vertices, matrix) - moved).max() < 2e-6
