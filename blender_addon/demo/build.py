# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds a tabletop scene in Blender from a plan in which everything is already decided.

The demo scene and the random scenes of the training set take the same way through this file.
"""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np

from ..compat import with_nodes
from . import rig
from .grasp import Grasp
from .hand import HandModel
from .materials import Surface, make_material
from .motion import Motion
from .objects import ObjectShape


@dataclass(frozen=True)
class CameraPlan:
    """A camera on an orbit round `target`: radians and metres in the first and last frame; fov is horizontal."""

    target: tuple[float, float, float]
    azimuth: tuple[float, float]
    elevation: tuple[float, float]
    distance: tuple[float, float]
    fov: float

    def eye(self, progress: float) -> np.ndarray:
        azimuth, elevation, distance = (
            a + (b - a) * progress for a, b in (self.azimuth, self.elevation, self.distance)
        )
        flat = np.cos(elevation)
        return np.array(self.target) + distance * np.array(
            [np.cos(azimuth) * flat, np.sin(azimuth) * flat, np.sin(elevation)]
        )


@dataclass(frozen=True)
class Look:
    """Everything about colours and light. sun_azimuth, sun_elevation and sun_size in radians; sun_strength in W/m²."""

    skin: Surface
    sleeve: Surface
    thing: Surface
    table: Surface
    wall: Surface
    wall_distance: float
    sun_azimuth: float
    sun_elevation: float
    sun_size: float
    sun_strength: float
    sun_color: tuple[float, float, float]


@dataclass(frozen=True)
class Clutter:
    """A thing that stands about and is not followed; pose 4×4."""

    shape: ObjectShape
    pose: np.ndarray
    surface: Surface


@dataclass(frozen=True)
class ScenePlan:
    """A scene before it is in Blender. object_pose 4×4: where the object stands before it is moved.

    view: "front", or "first_person" for a camera above the arm.
    """

    side: str
    hand: HandModel
    shape: ObjectShape
    object_pose: np.ndarray
    grasp: Grasp
    motion: Motion
    motion_name: str
    camera: CameraPlan
    look: Look
    prompt: str
    fps: int = 24
    clutter: tuple[Clutter, ...] = ()
    view: str = "front"


@dataclass(frozen=True)
class DemoScene:
    """Names in the Blender file, and what was built. Frames run from frame_start to frame_end, both included."""

    hand_meshes: tuple[str, ...]
    hand_roles: tuple[str, ...]
    armatures: tuple[str, ...]
    object_meshes: tuple[str, ...]
    camera: str
    frame_start: int
    frame_end: int
    fps: int
    prompt: str
    plan: ScenePlan


def build_scene(plan: ScenePlan) -> DemoScene:
    """Fill the current scene, which should be empty: meshes, materials, keys, light, camera, render settings."""
    scene = bpy.context.scene
    frames = len(plan.motion.wrist)
    scene.frame_start, scene.frame_end = 1, frames
    scene.render.fps, scene.render.fps_base = plan.fps, 1.0
    scene.unit_settings.system, scene.unit_settings.scale_length = "METRIC", 1.0

    look = plan.look
    name = f"{plan.side.capitalize()} hand"
    armature, hand = rig.add_hand(
        plan.hand, name, make_material("Skin", look.skin), make_material("Sleeve", look.sleeve)
    )
    thing = rig.add_object(
        plan.shape, plan.shape.family.capitalize(), make_material(plan.shape.family.capitalize(), look.thing)
    )
    for number, other in enumerate(plan.clutter, 1):
        title = f"Clutter {number}"
        standing = rig.add_object(other.shape, title, make_material(title, other.surface))
        standing.location = other.pose[:3, 3].tolist()
        standing.rotation_quaternion = rig.to_matrix(other.pose).to_quaternion()
    _animate(plan, armature, thing)
    _add_room(look, plan.camera)
    _add_sun(look)
    camera = _add_camera(plan.camera, frames)
    prepare_render(scene)
    scene.frame_set(1)
    return DemoScene(
        (hand.name,),
        (f"{plan.side}_hand",),
        (armature.name,),
        (thing.name,),
        camera.name,
        1,
        frames,
        plan.fps,
        plan.prompt,
        plan,
    )


def key_frames(motion: Motion) -> list[int]:
    """Frame indices (from 0) with keys: all of a short clip, else every second and where the grasp is complete."""
    frames = len(motion.wrist)
    step = 1 if frames <= 25 else 2
    wanted = {*range(0, frames, step), frames - 1}
    if motion.attach is not None:
        wanted |= {motion.attach, max(motion.attach - 1, 0)}
    return sorted(wanted)


def _animate(plan: ScenePlan, armature: bpy.types.Object, thing: bpy.types.Object) -> None:
    motion = plan.motion
    for index in key_frames(motion):
        rig.key_transform(armature, index + 1, motion.wrist[index])
        rig.key_fingers(armature, index + 1, plan.grasp.angles(float(motion.closing[index])))
    thing.matrix_world = rig.to_matrix(plan.object_pose)
    thing.location = plan.object_pose[:3, 3].tolist()
    thing.rotation_quaternion = rig.to_matrix(plan.object_pose).to_quaternion()
    if motion.attach is not None:
        # The hand's matrix at the grasp, also when the clip begins with the object already in the air.
        rig.attach(thing, armature, motion.attach + 1, plan.grasp.wrist, 1)


def _add_room(look: Look, camera: CameraPlan) -> None:
    def plane(name: str, corners: list[tuple[float, float, float]], surface: Surface) -> bpy.types.Object:
        thing = rig.add_mesh(name, np.array(corners), np.array([[0, 1, 2], [0, 2, 3]]), flat=True)
        thing.data.materials.append(make_material(name, surface))
        return thing

    # The wall stands across from the first camera.
    azimuth = camera.azimuth[0]
    size, far = 1.6, look.wall_distance
    table = plane("Table", [(-size, -size, 0), (size, -size, 0), (size, far, 0), (-size, far, 0)], look.table)
    wall = plane("Wall", [(-size, 0, -0.3), (size, 0, -0.3), (size, 0, 1.6), (-size, 0, 1.6)], look.wall)
    table.rotation_euler[2] = wall.rotation_euler[2] = azimuth + np.pi / 2
    wall.location = (-far * np.cos(azimuth), -far * np.sin(azimuth), 0.0)


def _add_sun(look: Look) -> None:
    data = bpy.data.lights.new("Window", "SUN")
    data.energy, data.angle, data.color = look.sun_strength, look.sun_size, look.sun_color
    lamp = bpy.data.objects.new("Window", data)
    bpy.context.scene.collection.objects.link(lamp)
    lamp.location = (0.5 * np.cos(look.sun_azimuth), 0.5 * np.sin(look.sun_azimuth), 0.8)
    # A lamp shines along its -z.
    lamp.rotation_euler = (0.0, np.pi / 2 - look.sun_elevation, look.sun_azimuth)


def _add_camera(plan: CameraPlan, frames: int) -> bpy.types.Object:
    data = bpy.data.cameras.new("Camera")
    data.sensor_fit, data.angle = "HORIZONTAL", plan.fov
    data.clip_start, data.clip_end = 0.01, 20.0
    camera = bpy.data.objects.new("Camera", data)
    camera.rotation_mode = "QUATERNION"
    scene = bpy.context.scene
    scene.collection.objects.link(camera)
    scene.camera = camera
    moving = len({plan.eye(0.0).tobytes(), plan.eye(1.0).tobytes()}) > 1
    for progress in np.linspace(0, 1, 5) if moving else (0.0,):
        rig.key_transform(camera, 1 + progress * (frames - 1), camera_matrix(plan, float(progress)))
    return camera


def camera_matrix(plan: CameraPlan, progress: float) -> np.ndarray:
    """Camera to world 4×4 with Blender's axes: x right, y up, looking along -z."""
    eye = plan.eye(progress)
    back = eye - np.array(plan.target)
    back /= np.linalg.norm(back)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, np.cross(back, right), back], axis=1)
    matrix[:3, 3] = eye
    return matrix


def prepare_render(scene: bpy.types.Scene) -> None:
    """Cycles with one bounce-free lamp and plain sRGB: see materials.py for where the rest of the light comes from."""
    scene.render.engine = "CYCLES"
    cycles = scene.cycles
    cycles.device = "CPU"
    cycles.use_denoising = False
    cycles.use_adaptive_sampling = False
    cycles.samples = 6
    for bounces in (
        "max_bounces",
        "diffuse_bounces",
        "glossy_bounces",
        "transmission_bounces",
        "volume_bounces",
        "transparent_max_bounces",
    ):
        setattr(cycles, bounces, 0)
    cycles.caustics_reflective = cycles.caustics_refractive = False
    cycles.use_light_tree = False
    cycles.filter_width = 1.3
    scene.view_settings.view_transform = "Standard"
    scene.view_settings.look = "None"
    scene.render.film_transparent = False
    world = bpy.data.worlds.new("World") if scene.world is None else scene.world
    scene.world = world
    for node in with_nodes(world).nodes:
        if node.type == "BACKGROUND":
            node.inputs[0].default_value = (0.05, 0.05, 0.06, 1.0)
    scene.render.use_persistent_data = True
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = 192, 128, 100
