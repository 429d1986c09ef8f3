# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo scene is a believable grasp, and the random scenes are repeatable, visible and of the same kind.

Penetration is measured on the meshes that Blender evaluates, with trimesh's signed distance: neither the add-on's numpy
hand nor its distance functions take part in that check.
"""

from __future__ import annotations

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs the bpy wheel (pip install 'hvg3d[blender]')")
trimesh = pytest.importorskip("trimesh", reason="the independent check of penetration needs trimesh and rtree")

from blender_addon.demo import families, hand  # noqa: E402
from blender_addon.demo.build import DemoScene, key_frames  # noqa: E402
from blender_addon.demo.randomise import MAX_PROMPT, SceneError, random_plan, random_scene  # noqa: E402
from blender_addon.demo.render import render_frames  # noqa: E402
from blender_addon.demo.scene import build_demo_scene  # noqa: E402

LIMIT = 0.003  # metres: deepest penetration, and farthest that still counts as touching


@pytest.fixture
def empty_scene():
    bpy.ops.wm.read_homefile(use_empty=True)
    return bpy.context.scene


@pytest.fixture
def demo(empty_scene) -> DemoScene:
    return build_demo_scene()


def evaluated(name: str) -> tuple[np.ndarray, np.ndarray]:
    """World vertices and triangles of an object in the current frame, as Blender deforms it."""
    thing = bpy.data.objects[name].evaluated_get(bpy.context.evaluated_depsgraph_get())
    mesh = thing.to_mesh()
    vertices = np.empty(len(mesh.vertices) * 3, np.float32)
    mesh.vertices.foreach_get("co", vertices)
    triangles = np.empty(len(mesh.polygons) * 3, np.int32)
    mesh.polygons.foreach_get("vertices", triangles)
    matrix = np.array(thing.matrix_world)
    thing.to_mesh_clear()
    return vertices.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3], triangles.reshape(-1, 3)


def depth_in(points: np.ndarray, vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Signed distance of points to a mesh, positive inside any of its closed parts, exact within 1 cm of them."""
    depth = np.full(len(points), -np.inf)
    for part in trimesh.Trimesh(vertices, triangles, process=False).split(only_watertight=False):
        low, high = part.bounds
        near = ((points > low - 0.01) & (points < high + 0.01)).all(axis=1)
        if near.any():
            depth[near] = np.maximum(depth[near], trimesh.proximity.signed_distance(part, points[near]))
    return depth


def test_fingers_meet_the_mug_and_nothing_goes_deeper_than_3_mm(demo, empty_scene):
    """Over the whole animation, between keys too, skin stays out of the mug and the mug out of the skin."""
    deepest = {}
    frames = [*range(1, 17, 5), *range(17, 32, 2), 36, 42, 49]
    for frame in frames:
        # A quarter after an odd frame is where interpolated keys are farthest from the planned poses.
        empty_scene.frame_set(frame, subframe=0.25 if frame < 49 else 0.0)
        skin, skin_faces = evaluated(demo.hand_meshes[0])
        mug, mug_faces = evaluated(demo.object_meshes[0])
        points = np.concatenate([skin, skin[skin_faces].mean(axis=1)])
        deepest[frame] = float(depth_in(points, mug, mug_faces).max())
        if frame == 49:
            deepest["mug in skin"] = float(depth_in(mug, skin, skin_faces).max())
    assert max(deepest.values()) <= LIMIT, deepest
    # The fingers really hold it at the end, and really were away from it at the start.
    empty_scene.frame_set(1)
    skin, _ = evaluated(demo.hand_meshes[0])
    mug, mug_faces = evaluated(demo.object_meshes[0])
    assert depth_in(skin, mug, mug_faces).max() < -0.01
    empty_scene.frame_set(49)
    skin, _ = evaluated(demo.hand_meshes[0])
    mug, mug_faces = evaluated(demo.object_meshes[0])
    depth = depth_in(skin, mug, mug_faces)
    names = np.array(hand.JOINTS)[demo.plan.hand.weights.argmax(axis=1)]
    touching = {name.split("-")[0] for name in names[depth > -LIMIT] if "phalanx" in name or "tip" in name}
    assert "thumb" in touching and len(touching) >= 3, touching


def test_mug_moves_with_the_hand_once_held_and_not_before(demo, empty_scene):
    attach = demo.plan.motion.attach + 1
    hand_object, thing = bpy.data.objects[demo.armatures[0]], bpy.data.objects[demo.object_meshes[0]]
    rest, relative = None, []
    for frame in range(1, 50, 4):
        empty_scene.frame_set(frame)
        mug = np.array(thing.matrix_world)
        if frame < attach:
            rest = mug if rest is None else rest
            np.testing.assert_allclose(mug, rest, atol=1e-6)
        elif frame > attach:
            relative.append(np.linalg.inv(np.array(hand_object.matrix_world)) @ mug)
    for pose in relative[1:]:
        np.testing.assert_allclose(pose, relative[0], atol=1e-5)
    assert mug[2, 3] > 0.06, "the mug is lifted"


def test_blender_deforms_the_hand_as_the_numpy_model_does(demo, empty_scene):
    """The grasp solver's hand and the one on screen are the same to a hundredth of a millimetre, at keyed frames."""
    motion = demo.plan.motion
    for index in (0, 20, 24, 48):
        assert index in key_frames(motion)
        empty_scene.frame_set(index + 1)
        skin, _ = evaluated(demo.hand_meshes[0])
        model = demo.plan.hand.pose(demo.plan.grasp.angles(float(motion.closing[index])), motion.wrist[index])
        assert np.abs(skin - model).max() < 1e-5


def test_demo_is_described_for_the_export(demo, empty_scene):
    assert (demo.frame_start, demo.frame_end, demo.fps) == (1, 49, 24)
    assert demo.hand_roles == ("right_hand",) and len(demo.prompt) <= MAX_PROMPT
    assert {bpy.data.objects[n].type for n in (*demo.hand_meshes, *demo.object_meshes)} == {"MESH"}
    assert empty_scene.camera.name == demo.camera
    assert empty_scene.view_settings.view_transform == "Standard"
    # An animator can edit it: the keys are ordinary, on the armature and its bones.
    assert bpy.data.objects[demo.armatures[0]].animation_data.action is not None


@pytest.mark.parametrize("family", families.FAMILIES)
def test_an_objects_distance_belongs_to_its_mesh(family):
    """Closed, outward mesh; the distance changes sign across it and agrees with trimesh's within 0.3 mm (facets)."""
    shape = families.make_object(family, np.random.default_rng(5))
    mesh = trimesh.Trimesh(shape.vertices, shape.triangles, process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0
    assert abs(shape.vertices[:, 2].min()) < 1e-9 and shape.vertices[:, 2].max() == pytest.approx(
        shape.height, abs=1e-6
    )
    points = np.random.default_rng(6).uniform(*(mesh.bounds + [[-0.01], [0.01]]), size=(150, 3))
    expected = np.full(len(points), -np.inf)
    for part in mesh.split(only_watertight=False):
        expected = np.maximum(expected, trimesh.proximity.signed_distance(part, points))
    near = np.abs(expected) < 0.02
    np.testing.assert_allclose(-shape.distance(points)[near], expected[near], atol=3e-4)


def test_hands_are_closed_mirrored_and_keep_their_joints_inside():
    left, right = hand.load_hand("left"), hand.load_hand("right")
    for model in (left, right):
        mesh = trimesh.Trimesh(model.vertices, model.triangles, process=False)
        assert mesh.is_watertight and mesh.volume > 0
        np.testing.assert_allclose(model.weights.sum(axis=1), 1.0, atol=1e-9)
        np.testing.assert_allclose(model.pose(np.zeros((25, 3))), model.vertices, atol=1e-9)
    tip = hand.JOINTS.index("thumb-tip")
    assert right.rest[tip, 0, 3] < 0 < left.rest[tip, 0, 3]
    # Negative rotation about x closes a finger towards the palm, on either hand.
    bent = np.zeros((25, 3))
    bent[hand.JOINTS.index("index-finger-phalanx-proximal"), 0] = -1.0
    index_tip = hand.JOINTS.index("index-finger-tip")
    for model in (left, right):
        assert model.joint_frames(bent)[index_tip, 2, 3] < model.rest[index_tip, 2, 3] - 0.04


def test_same_seed_same_scene():
    one, again, other = random_plan(5), random_plan(5), random_plan(6)
    np.testing.assert_array_equal(one.motion.wrist, again.motion.wrist)
    np.testing.assert_array_equal(one.grasp.path, again.grasp.path)
    np.testing.assert_array_equal(one.shape.vertices, again.shape.vertices)
    assert (one.look, one.camera, one.prompt) == (again.look, again.camera, again.prompt)
    assert (one.look, one.camera) != (other.look, other.camera)


def test_random_grasps_hold_and_prompts_are_short():
    made = 0
    for seed in range(40, 48):
        try:
            plan = random_plan(seed)
        except SceneError:
            continue
        made += 1
        assert len(plan.prompt) <= MAX_PROMPT and plan.shape.family in plan.prompt
        assert plan.grasp.penetration <= LIMIT
        if plan.motion_name not in ("push", "hand_passes_in_front"):
            assert "thumb" in plan.grasp.touching and len(plan.grasp.touching) >= 3
    assert made >= 6, "most seeds give a scene"


def test_rendered_frames_show_a_lit_moving_scene(empty_scene):
    demo = random_scene(0, frames=9)
    pictures = render_frames(empty_scene, [1, 9, 1], 96, 64, samples=2)
    assert pictures.shape == (3, 64, 96, 3) and pictures.dtype == np.uint8
    assert 40 < pictures.mean() < 215 and pictures.std() > 15
    np.testing.assert_array_equal(pictures[0], pictures[2])
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() > 4, demo.plan.motion_name


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: hand.load_hand("middle"), "'middle'.*left, right"),
        (lambda: families.make_object("anvil", np.random.default_rng(0)), "'anvil'.*mug"),
        (lambda: random_plan(0, split="test"), "'test'.*train, heldout"),
    ],
)
def test_wrong_names_are_answered_with_the_right_ones(call, words):
    with pytest.raises(ValueError, match=words):
        call()
