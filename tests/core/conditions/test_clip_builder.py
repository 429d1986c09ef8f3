# SPDX-License-Identifier: Apache-2.0
"""The builder makes valid clips and says which mesh, entity or frame it cannot use, and what to do."""

import dataclasses

import numpy as np
import pytest
import trimesh

from hvg3d_core.conditions import ClipBuilder, ClipError, Entity, in_view, project, validate


def fill(builder, grasp, change=lambda frame, meshes: meshes):
    for frame in range(builder.num_frames):
        builder.add_frame(frame, change(frame, grasp.meshes(frame)), *grasp.camera(frame))
    return builder


def swap(meshes, name, **changes):
    return [dataclasses.replace(m, **changes) if m.name == name else m for m in meshes]


def test_a_grasp_becomes_a_valid_clip(grasp, shared_clip):
    validate(shared_clip)
    assert shared_clip.frame_range == (10, 18)
    assert shared_clip.points.shape == (9, 600, 3)
    assert shared_clip.joints.shape == (9, 21, 3)
    assert shared_clip.object_poses.shape == (9, 1, 4, 4)
    assert np.array_equal(shared_clip.tracks, shared_clip.points[:, shared_clip.track_points])
    seen = shared_clip.views[0].point_visible[:, shared_clip.track_points]
    assert np.array_equal(shared_clip.track_visible, seen)
    assert len(np.unique(shared_clip.track_points)) == 200


def test_the_seed_decides_and_nothing_else(grasp, shared_clip):
    again, other = grasp.clip(), grasp.clip(seed=1)
    assert np.array_equal(again.points, shared_clip.points)
    assert np.array_equal(again.track_points, shared_clip.track_points)
    assert not np.array_equal(other.points, shared_clip.points)


def test_time_is_booked_where_it_is_spent(grasp):
    builder = fill(grasp.builder(num_frames=1), grasp)
    assert all(builder.timings[part] > 0 for part in ("points", "visibility", "masks"))
    bare = fill(grasp.builder(num_frames=1, compute_visibility=False, compute_masks=False), grasp)
    clip = bare.finish(grasp.reference())
    assert not clip.views[0].masks.any()
    assert clip.views[0].point_visible.mean() > 0.9, "without occlusion all that is in the image counts as visible"


def test_vertices_that_are_not_finite_name_mesh_frame_and_count(grasp):
    def damage(frame, meshes):
        vertices = meshes[0].vertices.copy()
        if frame == 2:
            vertices[[5, 9]] = np.nan
        return swap(meshes, "can", vertices=vertices)

    with pytest.raises(ClipError, match=r"'can' at frame 2: 2 of \d+ vertices are not finite, the first is number 5"):
        fill(grasp.builder(), grasp, damage)


@pytest.mark.parametrize("part", ["vertices", "triangles"])
def test_topology_that_changes_names_mesh_and_frame(grasp, part):
    def damage(frame, meshes):
        finger = next(m for m in meshes if m.name == "finger.r")
        if part == "vertices":
            return swap(meshes, "finger.r", vertices=np.tile(finger.vertices, (1 + (frame == 3), 1)))
        return swap(meshes, "finger.r", triangles=finger.triangles[: len(finger.triangles) - (frame == 3)])

    with pytest.raises(ClipError, match=r"mesh 'finger\.r' at frame 3 has .*topology"):
        fill(grasp.builder(), grasp, damage)


def test_a_mesh_that_disappears_is_named(grasp):
    with pytest.raises(ClipError, match=r"meshes at frame 4: .*the same meshes must be there"):
        fill(grasp.builder(), grasp, lambda frame, meshes: meshes[: 5 - (frame == 4)])


def test_triangles_of_other_vertices_are_refused(grasp):
    with pytest.raises(ClipError, match="mesh 'post': its triangles use vertices 0 to 99999"):
        fill(
            grasp.builder(),
            grasp,
            lambda _, meshes: swap(meshes, "post", triangles=np.array([[0, 1, 99999]], np.int32)),
        )


def test_a_refused_frame_can_be_added_again(grasp, shared_clip):
    """An error leaves the builder as it was: the frame's arrays must not be kept in part."""
    builder = grasp.builder()
    for frame in range(9):
        with pytest.raises(ClipError, match=f"joints at frame {frame}: shape"):
            builder.add_frame(frame, grasp.meshes(frame), *grasp.camera(frame), joints=np.zeros((21, 2)))
        with pytest.raises(ClipError, match="triangles of dtype float64"):
            wrong = swap(grasp.meshes(frame), "post", triangles=np.zeros((12, 3)))
            builder.add_frame(frame, wrong, *grasp.camera(frame))
        builder.add_frame(frame, grasp.meshes(frame), *grasp.camera(frame))
    clip = builder.finish(grasp.reference())
    assert np.array_equal(clip.points, shared_clip.points)
    assert np.array_equal(clip.views[0].masks, shared_clip.views[0].masks)


def test_a_quad_cut_along_its_other_diagonal_is_no_change(grasp):
    """Blender's triangulation of a deforming quad flips: points must keep the triangles they were bound to."""
    quad = np.array([[0, 1, 2], [0, 2, 3]], np.int32), np.array([[0, 1, 3], [1, 2, 3]], np.int32)
    square = (np.array([[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]]) * 0.05).astype(np.float32)

    def flip(frame, meshes):
        return swap(meshes, "can", vertices=square + np.float32(0.01 * frame), triangles=quad[frame % 2])

    clip = fill(grasp.builder(), grasp, flip).finish(grasp.reference())
    can = clip.points[:, clip.point_entity == 1]
    assert np.allclose(can - can[:1], 0.01 * np.arange(9)[:, None, None], atol=1e-6)


def test_an_entity_out_of_view_in_every_frame_is_named_with_the_camera(grasp):
    away = lambda _, meshes: swap(meshes, "can", vertices=meshes[0].vertices + np.float32(10))  # noqa: E731
    builder = fill(grasp.builder(), grasp, away)
    with pytest.raises(ClipError, match=r"entity 'can' is outside the view of camera 'Cam\.2' in every frame"):
        builder.finish(grasp.reference(), view_name="Cam.2")


def test_an_entity_in_view_in_one_frame_only_is_fine(grasp):
    def leave(frame, meshes):
        return swap(meshes, "can", vertices=meshes[0].vertices + np.float32(10 * (frame > 0)))

    fill(grasp.builder(), grasp, leave).finish(grasp.reference())


def test_entities_need_a_mesh_with_an_area(grasp):
    with pytest.raises(ClipError, match="entity 'can': it has no mesh"):
        fill(grasp.builder(), grasp, lambda _, meshes: [m for m in meshes if m.name != "can"])
    with pytest.raises(ClipError, match=r"entity 'can' \(can\): .*no area"):
        fill(grasp.builder(), grasp, lambda _, meshes: swap(meshes, "can", vertices=meshes[0].vertices * 0))


def test_frames_are_counted(grasp):
    builder = grasp.builder(num_frames=1)
    with pytest.raises(ClipError, match="0 of 1 frames"):
        builder.finish(grasp.reference())
    fill(builder, grasp)
    with pytest.raises(ClipError, match=r"frame 7: .* 1 frames already"):
        builder.add_frame(7, grasp.meshes(0), *grasp.camera(0))


def test_cameras_with_scale_or_no_focal_length_name_the_frame(grasp):
    K, w2c = grasp.camera(0)
    with pytest.raises(ClipError, match=r"camera at frame 3.*world_to_camera.*remove scale"):
        grasp.builder().add_frame(3, grasp.meshes(0), K, w2c * np.array([2, 2, 2, 1], np.float32))
    with pytest.raises(ClipError, match=r"camera at frame 3.*focal length"):
        grasp.builder().add_frame(3, grasp.meshes(0), K * np.array([0, 1, 1], np.float32), w2c)


def test_joints_come_in_every_frame_or_none(grasp):
    builder = grasp.builder(num_frames=2)
    builder.add_frame(0, grasp.meshes(0), *grasp.camera(0), joints=np.zeros((21, 3), np.float32))
    builder.add_frame(1, grasp.meshes(1), *grasp.camera(1))
    with pytest.raises(ClipError, match="joints: missing at frame 1"):
        builder.finish(grasp.reference())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"width": 0}, "width: 0"),
        ({"fps": float("nan")}, "fps: nan"),
        ({"num_frames": 0}, "num_frames: 0"),
        ({"num_tracks": 601}, "num_tracks: 601, but tracks are taken from 600 points"),
    ],
)
def test_settings_that_cannot_be_are_named(grasp, settings, named):
    with pytest.raises(ClipError) as error:
        grasp.builder(**settings)
    assert named in str(error.value)


def test_entities_need_names_and_roles():
    size = {"width": 8, "height": 8, "fps": 24, "num_frames": 1}
    with pytest.raises(ClipError, match="'paw' is not one of left_hand"):
        Entity("hand", "paw")
    with pytest.raises(ClipError, match="used twice"):
        ClipBuilder([Entity("a", "object"), Entity("a", "object")], **size)
    with pytest.raises(ClipError, match="0 given"):
        ClipBuilder([], **size)


def test_points_are_the_same_whatever_else_is_made(grasp):
    """Without visibility points are placed many frames at a time: not one of them may end up elsewhere."""
    frames = 37
    clips = [
        fill(grasp.builder(num_frames=frames, compute_visibility=v, compute_masks=m), grasp).finish(grasp.reference())
        for v, m in ((True, True), (False, False), (False, True))
    ]
    for other in clips[1:]:
        assert np.array_equal(other.points, clips[0].points)
        assert np.array_equal(other.tracks, clips[0].tracks)
    assert np.array_equal(clips[2].views[0].masks, clips[0].views[0].masks)
    view = clips[1].views[0]
    uv, z = project(clips[1].points, view.K, view.world_to_camera)
    assert np.array_equal(view.point_visible, in_view(uv, z, grasp.width, grasp.height))


def own_space(meshes):
    """The same meshes, each stored turned, stretched and moved, with the matrix that undoes it."""
    moved = []
    for number, mesh in enumerate(meshes):
        matrix = np.eye(4)
        matrix[:3, :3] = np.diag([2.0, 0.5, 1.5]) @ np.roll(np.eye(3), number, axis=0)
        matrix[:3, 3] = (0.3, -0.2, 0.1 * number)
        back = np.linalg.inv(matrix)
        vertices = (mesh.vertices @ back[:3, :3].T + back[:3, 3]).astype(np.float32)
        moved.append(dataclasses.replace(mesh, vertices=vertices, matrix=matrix))
    return moved


def test_meshes_in_their_own_space_give_the_clip_of_world_space(grasp, shared_clip):
    clip = fill(grasp.builder(), grasp, lambda _, meshes: own_space(meshes)).finish(grasp.reference())
    assert np.abs(clip.points - shared_clip.points).max() < 1e-6
    assert (clip.views[0].masks == shared_clip.views[0].masks).mean() > 0.9999
    assert (clip.views[0].point_visible == shared_clip.views[0].point_visible).mean() > 0.999


def test_a_matrix_that_is_not_finite_names_mesh_frame_and_count(grasp):
    def damage(frame, meshes):
        meshes = own_space(meshes)
        if frame == 1:
            meshes[0].matrix[0, 3] = np.inf
        return meshes

    with pytest.raises(ClipError, match=r"'can' at frame 1: (\d+) of \1 vertices are not finite"):
        fill(grasp.builder(), grasp, damage)


def test_an_entity_of_several_meshes_spreads_its_points_over_all(grasp, shared_clip):
    """Both fingers carry points, and every point lies on the finger that its place says."""
    points = shared_clip.points[0, shared_clip.point_entity == 0]
    right = points[:, 0] > 0
    assert 100 < right.sum() < 200
    for name, own in (("finger.l", ~right), ("finger.r", right)):
        mesh = next(m for m in grasp.meshes(0) if m.name == name)
        surface = trimesh.Trimesh(mesh.vertices, mesh.triangles, process=False)
        assert trimesh.proximity.closest_point_naive(surface, points[own])[1].max() < 1e-5
