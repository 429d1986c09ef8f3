# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed distances to meshes against shapes whose distance is known in closed form. Needs no Blender."""

from __future__ import annotations

import numpy as np
import pytest

from blender_addon.overlay.distance import CachedDistance, SurfaceDistance, rigid_motion, try_all

trimesh = pytest.importorskip("trimesh", reason="makes the shapes")

RNG = np.random.default_rng(5)


def box_distance(points, half):
    """Exact signed distance to an axis-aligned box round the origin (the usual formula)."""
    q = np.abs(points) - half
    return np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(axis=-1), 0)


def finders():
    yield pytest.param(None, id="numpy")
    yield pytest.param("bvh", id="blender")


@pytest.fixture(params=finders())
def finder(request):
    if request.param is None:
        return try_all
    pytest.importorskip("bpy", reason="needs the bpy wheel (pip install 'hvg3d[blender]')")
    from blender_addon.overlay.bvh import bvh_finder

    return bvh_finder


def test_box_inside_outside_edges_and_corners(finder):
    """12 large triangles, where most nearest points are on edges and corners: exact to a micrometre, sign and all."""
    half = np.array([0.03, 0.05, 0.02])
    mesh = trimesh.creation.box(2 * half)
    points = RNG.uniform(-0.09, 0.09, (3000, 3))
    distance = SurfaceDistance(mesh.vertices, mesh.faces, finder)(points)
    np.testing.assert_allclose(distance, box_distance(points, half), atol=1e-6)


def test_sphere_to_the_accuracy_of_its_facets(finder):
    mesh = trimesh.creation.icosphere(4, 0.04)
    sag = 0.04 - np.linalg.norm(mesh.triangles_center, axis=1).min()
    points = RNG.normal(size=(2000, 3)) * 0.04
    distance = SurfaceDistance(mesh.vertices, mesh.faces, finder)(points)
    true = np.linalg.norm(points, axis=1) - 0.04
    assert ((distance - true) >= -1e-7).all() and (distance - true).max() <= sag + 1e-7
    clear = np.abs(true) > sag
    np.testing.assert_array_equal(distance[clear] < 0, true[clear] < 0)


def test_inside_out_doubled_vertices_and_slivers_change_nothing(finder):
    """Faces turned inwards, every triangle with vertices of its own, triangles without area: as the clean box."""
    half = np.array([0.03, 0.05, 0.02])
    mesh = trimesh.creation.box(2 * half)
    soup = mesh.triangles[:, ::-1].reshape(-1, 3)
    faces = np.concatenate([np.arange(len(soup)).reshape(-1, 3), [[0, 0, 1], [2, 3, 2]]])
    points = RNG.uniform(-0.08, 0.08, (1000, 3))
    distance = SurfaceDistance(soup, faces, finder)(points)
    np.testing.assert_allclose(distance, box_distance(points, half), atol=1e-6)


def test_parts_that_overlap_are_one_solid(finder):
    """Two boxes in one mesh: inside either is inside, also near the walls of the other one."""
    half = np.array([0.03, 0.03, 0.03])
    a, b = trimesh.creation.box(2 * half), trimesh.creation.box(2 * half)
    b.apply_translation((0.04, 0, 0))
    both = trimesh.util.concatenate([a, b])
    points = RNG.uniform(-0.05, 0.09, (2000, 3))
    distance = SurfaceDistance(both.vertices, both.faces, finder)(points)
    expected = np.minimum(box_distance(points, half), box_distance(points - [0.04, 0, 0], half))
    np.testing.assert_allclose(distance, expected, atol=1e-6)


def test_a_sheet_has_no_inside(finder):
    vertices = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], float) * 0.1
    distance = SurfaceDistance(vertices, np.array([[0, 1, 2], [0, 2, 3]]), finder)
    points = np.array([[0, 0, 0.02], [0, 0, -0.02], [0.13, 0, 0.04]])
    np.testing.assert_allclose(distance(points), [0.02, 0.02, 0.05], atol=1e-7)


def test_a_mesh_without_faces_is_refused():
    with pytest.raises(ValueError, match="no faces with an area"):
        SurfaceDistance(np.zeros((3, 3)), np.array([[0, 1, 2]]))


def test_cached_answers_are_exact_in_the_band_and_near_elsewhere():
    """Within the band as exact as asked directly; elsewhere within 0.4 of the spacing; far away not above it."""
    half = np.array([0.03, 0.05, 0.02])
    mesh = trimesh.creation.box(2 * half)
    cached = CachedDistance(SurfaceDistance(mesh.vertices, mesh.faces), spacing=0.004, band=0.005, margin=0.025)
    for _ in range(2):  # the second time from what is remembered
        points = RNG.uniform(-0.1, 0.1, (4000, 3))
        found, true = cached(points), box_distance(points, half)
        band = np.abs(true) < 0.0035
        np.testing.assert_allclose(found[band], true[band], atol=1e-6)
        close = true < 0.02
        assert np.abs(found - true)[close].max() < 0.4 * 0.004
        assert (found <= true + 0.0016).all() and (found[~close] > 0.018).all()
    assert cached(np.zeros((2, 5, 3))).shape == (2, 5)


def test_a_rigid_motion_is_found_and_a_bend_is_not():
    mesh = trimesh.creation.icosphere(3, 0.05)
    turn = trimesh.transformations.random_rotation_matrix(np.array([0.3, 0.7, 0.1]))
    turn[:3, 3] = (0.4, -0.2, 1.3)
    moved = (mesh.vertices @ turn[:3, :3].T + turn[:3, 3]).astype(np.float32)
    np.testing.assert_allclose(rigid_motion(mesh.vertices.astype(np.float32), moved), turn, atol=2e-6)
    bent = moved.copy()
    bent[100] += 0.001
    assert rigid_motion(mesh.vertices, bent) is None
    assert rigid_motion(mesh.vertices, mesh.vertices * 1.01) is None
    mirrored = mesh.vertices * [1, 1, -1]
    mirrored[:5] += 0.01
    assert rigid_motion(mesh.vertices, mirrored) is None
