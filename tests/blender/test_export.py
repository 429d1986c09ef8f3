# SPDX-License-Identifier: GPL-3.0-or-later
"""What is exported is what Blender shows: motion, masks, instances, times."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs the bpy wheel (pip install 'hvg3d[blender]')")

from blender_addon.core import encode_png, load_clip, save_clip  # noqa: E402
from blender_addon.scene.export import EntityObjects, clip_fps, export_clip, frame_times  # noqa: E402
from blender_addon.scene.meshes import MeshReader  # noqa: E402

from .scenes import BOX, FRAMES, HAND, add_rig, empty_scene, grasp_scene, object_matrix, settings  # noqa: E402


@pytest.fixture(scope="module")
def clip():
    return export_clip(grasp_scene(), settings(points_per_entity=512))


def of_entity(clip, index: int) -> np.ndarray:
    return clip.points[:, clip.point_entity == index]


def test_points_of_a_rigid_object_follow_its_motion_exactly(clip):
    """Every point of the box, carried back by the box's matrix written down in closed form: never moves by 1e-5 m."""
    points = of_entity(clip, 1)
    at_rest = None
    for frame in range(FRAMES):
        back = np.linalg.inv(object_matrix(frame + 1))
        local = points[frame] @ back[:3, :3].T + back[:3, 3]
        at_rest = local if at_rest is None else at_rest
        assert np.abs(local - at_rest).max() < 1e-5
    assert np.abs(np.abs(at_rest).max(axis=1) - 0.15).max() < 1e-5  # and they are on the surface of the 0.3 m box
    assert np.linalg.norm(points[-1] - points[0], axis=1).min() > 0.1
    np.testing.assert_allclose(clip.object_poses[:, 0], [object_matrix(f + 1) for f in range(FRAMES)], atol=1e-5)


def test_points_of_the_hand_bend_with_the_armature(clip):
    """Points on the root bone stay, those on the bent bone turn about its head by the keyed angle."""
    points = of_entity(clip, 0) - (0, 0, 0.45)
    root = points[0][:, 0] < -0.04  # clear of the strip of faces between the bones
    tip = points[0][:, 0] > 0.04
    assert root.sum() > 50
    assert tip.sum() > 50
    np.testing.assert_allclose(points[-1][root], points[0][root], atol=1e-5)
    # The bone lies along x, so that its own x is the world's -y or y: distances to the hinge are kept, heights are not.
    hinge = lambda p: np.linalg.norm(p[:, [0, 2]], axis=1)  # noqa: E731
    np.testing.assert_allclose(hinge(points[-1][tip]), hinge(points[0][tip]), atol=1e-5)
    angle = np.abs(np.arctan2(points[-1][tip][:, 2], points[-1][tip][:, 0]))
    np.testing.assert_allclose(angle, 0.9, atol=1e-4)
    assert clip.joints.shape == (FRAMES, 2, 3)
    assert clip.provenance["joints"] == ["Rig/root", "Rig/tip"]


def object_index_masks(scene, frames, width: int, height: int) -> np.ndarray:
    """Cycles' object-index pass without anti-aliasing, T x H x W: an independent rasteriser with Blender's camera."""
    scene.render.resolution_x, scene.render.resolution_y = width, height
    scene.render.resolution_percentage = 100
    scene.view_layers[0].use_pass_object_index = True
    for index, name in ((1, "Hand"), (2, "Box")):
        bpy.data.objects[name].pass_index = index
    scene.cycles.filter_width = 0.01
    scene.cycles.samples = 1
    scene.use_nodes = True
    tree = scene.node_tree
    tree.nodes.clear()
    layers, out = tree.nodes.new("CompositorNodeRLayers"), tree.nodes.new("CompositorNodeOutputFile")
    out.format.file_format, out.format.color_depth = "OPEN_EXR", "32"
    tree.links.new(layers.outputs["IndexOB"], out.inputs[0])
    masks = []
    with tempfile.TemporaryDirectory() as folder:
        out.base_path = folder
        for frame in frames:
            scene.frame_set(frame)
            bpy.ops.render.render()
            image = bpy.data.images.load(str(next(Path(folder).glob(f"*{frame:04d}.exr"))))
            pixels = np.array(image.pixels[:]).reshape(height, width, -1)[::-1, :, 0]
            masks.append(np.rint(pixels).astype(int))
    return np.stack(masks)


@pytest.mark.skipif(bpy.app.version >= (5, 0, 0), reason="reads the pass through the compositor of Blender 4")
def test_visible_points_fall_on_their_own_mask():
    """At least 99 % of visible points hit the pixel that Cycles gives their object, and our masks agree with it."""
    frames = [0, 8]
    picture = encode_png(np.zeros((320, 480, 3), np.uint8))
    clip = export_clip(grasp_scene(), settings(width=480, height=320, points_per_entity=1024, reference=picture))
    masks = object_index_masks(grasp_scene(), [frame + 1 for frame in frames], 480, 320)
    view = clip.views[0]
    hits = total = 0
    for frame, mask in zip(frames, masks, strict=True):
        points = clip.points[frame]
        seen = points @ view.world_to_camera[frame][:3, :3].T + view.world_to_camera[frame][:3, 3]
        uv = seen @ view.K[frame].T
        uv = np.floor(uv[:, :2] / uv[:, 2:]).astype(int)
        visible = view.point_visible[frame]
        for index in (0, 1):
            mine = visible & (clip.point_entity == index)
            assert mine.sum() > 200
            hits += (mask[uv[mine, 1], uv[mine, 0]] == index + 1).sum()
            total += mine.sum()
        assert (mask == view.masks[frame]).mean() > 0.998
    assert hits / total >= 0.99, f"{hits} of {total}"


def test_frames_are_spread_over_the_range_with_subframes():
    """17 frames over 9: the odd ones lie half-way, and the motion keeps its speed."""
    chosen = settings(num_frames=17)
    clip = export_clip(grasp_scene(), chosen)
    np.testing.assert_allclose(frame_times(chosen), np.arange(17) / 2 + 1)
    assert clip.fps == clip_fps(24.0, chosen) == 48.0
    expected = np.stack([object_matrix(time) for time in frame_times(chosen)])
    np.testing.assert_allclose(clip.object_poses[:, 0], expected, atol=1e-5)


def test_an_armature_stands_for_its_meshes():
    by_rig = export_clip(grasp_scene(), settings(entities=(EntityObjects("hand", "right_hand", ("Rig",)), BOX)))
    by_mesh = export_clip(grasp_scene(), settings())
    np.testing.assert_array_equal(by_rig.points, by_mesh.points)


def test_an_empty_stands_for_what_it_instances_and_curves_count_once():
    """A collection instance and a bevelled curve: points where Blender shows them, each surface once."""
    scene = empty_scene()
    bpy.ops.mesh.primitive_uv_sphere_add(radius=0.2)
    sphere = bpy.context.object
    hidden = bpy.data.collections.new("hidden")
    hidden.objects.link(sphere)
    scene.collection.objects.unlink(sphere)
    empty = bpy.data.objects.new("Ball", None)
    empty.instance_type, empty.instance_collection = "COLLECTION", hidden
    empty.location = (0.7, 0, 0)
    scene.collection.objects.link(empty)
    bpy.ops.curve.primitive_bezier_circle_add(radius=0.3)
    bpy.context.object.name = "Ring"
    bpy.context.object.data.bevel_depth = 0.05
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    camera.location = (0, 0, 3)
    scene.collection.objects.link(camera)
    marked = (EntityObjects("ball", "object", ("Ball",)), EntityObjects("ring", "other", ("Ring",)))
    clip = export_clip(scene, settings(entities=marked, num_frames=1, frame_end=1))
    radius = np.linalg.norm(of_entity(clip, 0)[0] - (0.7, 0, 0), axis=1)
    assert 0.19 < radius.min() <= radius.max() < 0.2001
    ring = of_entity(clip, 1)[0]
    assert np.abs(np.linalg.norm(ring[:, :2], axis=1) - 0.3).max() < 0.051
    front = ring[:, 2] > 0.02
    assert clip.views[0].point_visible[0][clip.point_entity == 1][front].all()  # not hidden by a copy of itself


def test_centimetre_scenes_become_metres():
    scene = grasp_scene()
    scene.unit_settings.scale_length = 0.01
    clip, plain = export_clip(scene, settings()), export_clip(grasp_scene(), settings())
    np.testing.assert_allclose(clip.points, plain.points * 0.01, atol=1e-7)
    np.testing.assert_array_equal(clip.views[0].masks, plain.views[0].masks)


def test_what_is_hidden_from_renders_hides_nothing():
    """A screen before the camera takes all visibility away, and gives it back once renders leave it out."""
    scene = grasp_scene()
    bpy.ops.mesh.primitive_cube_add(size=0.2, location=bpy.data.objects["Camera"].location)
    screen = bpy.context.object
    one = settings(num_frames=1, frame_end=1)
    assert not export_clip(scene, one).views[0].point_visible.any()
    screen.hide_render = True
    assert export_clip(scene, one).views[0].point_visible.any()


def test_the_same_scene_gives_the_same_file(tmp_path):
    """Byte for byte, and the file reads back."""
    for name in ("a", "b"):
        save_clip(export_clip(grasp_scene(), settings()), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert load_clip(tmp_path / "a").entities[0].role == HAND.role


def test_two_hands_bring_both_rigs():
    scene = grasp_scene()
    bpy.ops.mesh.primitive_grid_add(x_subdivisions=6, y_subdivisions=2, size=0.3, location=(-0.4, 0, 0.3))
    left = bpy.context.object
    left.name = "Left"
    add_rig(left)
    clip = export_clip(scene, settings(entities=(HAND, EntityObjects("left hand", "left_hand", ("Left",)), BOX)))
    assert clip.joints.shape == (FRAMES, 4, 3)
    assert [entity.role for entity in clip.entities] == ["right_hand", "left_hand", "object"]


def test_without_visibility_and_masks_only_marked_meshes_are_read(monkeypatch):
    """Same points and tracks; every point in the picture counts as visible; table and wall are passed over."""
    read = []
    monkeypatch.setattr(MeshReader, "_vertices", watch(MeshReader._vertices, read))
    bare = export_clip(grasp_scene(), settings(visibility=False, masks=False))
    assert {key[1] for key in read} == {"Hand", "Box"}
    whole = export_clip(grasp_scene(), settings())
    assert {key[1] for key in read} > {"Hand", "Box"}
    np.testing.assert_array_equal(bare.points, whole.points)
    np.testing.assert_array_equal(bare.tracks, whole.tracks)
    assert not bare.views[0].masks.any() and whole.views[0].masks.any()
    assert bare.views[0].point_visible.sum() > whole.views[0].point_visible.sum()
    assert bare.views[0].point_visible[whole.views[0].point_visible].all()


def watch(method, calls: list):
    def watched(self, key, *rest):
        calls.append(key)
        return method(self, key, *rest)

    return watched


@pytest.mark.parametrize("local", [False, True])
def test_meshes_are_what_blender_evaluates_in_either_space(local):
    """Vertices and matrix against ``obj.matrix_world @ vertex.co`` of the evaluated object, frame after frame."""
    scene = grasp_scene()
    scene.objects["Box"].scale = (1.0, 2.0, 0.5)
    reader = MeshReader({"Hand": 0, "Box": 1}, 0.1, local=local)
    for frame in (1, 5, 9):
        scene.frame_set(frame)
        depsgraph = bpy.context.view_layer.depsgraph
        meshes = {mesh.name: mesh for mesh in reader.read(depsgraph)}
        for name in ("Hand", "Box"):
            obj = bpy.data.objects[name].evaluated_get(depsgraph)
            expected = 0.1 * np.array([obj.matrix_world @ vertex.co for vertex in obj.data.vertices])
            assert (meshes[name].matrix is not None) == local
            np.testing.assert_allclose(meshes[name].world_vertices(), expected, atol=1e-6)


def test_quads_cut_along_their_other_diagonal_half_way_do_not_stop_the_export():
    """As a Triangulate modifier does while a quad bends: points stay on the triangles they began on."""
    scene = grasp_scene()
    hand = bpy.data.objects["Hand"]
    cut = hand.modifiers.new("Triangulate", "TRIANGULATE")
    for frame, method in ((1, "FIXED"), (5, "FIXED_ALTERNATE")):
        cut.quad_method = method
        cut.keyframe_insert("quad_method", frame=frame)
    corners = []
    for frame in (1, 9):
        scene.frame_set(frame)
        data = hand.evaluated_get(bpy.context.view_layer.depsgraph).data
        corners.append([loop.vertex_index for loop in data.loops])
    assert corners[0] != corners[1] and len(corners[0]) == len(corners[1])
    points = of_entity(export_clip(scene, settings()), 0) - (0, 0, 0.45)
    root = points[0][:, 0] < -0.04
    assert root.sum() > 10
    np.testing.assert_allclose(points[-1][root], points[0][root], atol=1e-5)
