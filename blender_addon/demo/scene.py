# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo: a right hand comes in, closes round a mug and lifts it from a wooden table. 49 frames at 24 a second."""

from __future__ import annotations

import numpy as np

from .build import CameraPlan, DemoScene, Look, ScenePlan, build_scene
from .families import mug
from .framing import fit_camera, hand_points, object_matrices, object_points
from .grasp import grasp, open_hand, side_wrist
from .hand import load_hand
from .materials import Surface
from .motion import MotionPlan, plan_motion

DEMO_FRAMES = 49


def demo_plan(frames: int = DEMO_FRAMES) -> ScenePlan:
    """Everything about the demo scene; the same on every machine."""
    hand = load_hand("right")
    shape = mug(0.0355, 0.037, 0.104)
    azimuth = np.radians(75.0)
    object_pose = np.eye(4)
    # The handle points to the gap between thumb and fingertips, away from the palm.
    turn = azimuth - np.radians(172.0)
    object_pose[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    wrist = np.linalg.inv(object_pose) @ side_wrist("right", azimuth, 0.054, 0.095, elevation=0.12)
    held = grasp(hand, wrist, open_hand("right"), shape.distance)
    if held is None:
        raise RuntimeError("the demo's hand does not reach its mug; the hand asset or the mug's shape has changed")
    held = held.in_world(object_pose)
    plan = MotionPlan(
        "lift",
        0.30,
        0.50,
        0.52,
        back=(0.075, 0.04, 0.025),
        turn=-0.2,
        travel=(-0.025, -0.01, 0.06),
        angle=0.12,
        axis=(0.3, -0.9, 0.2),
    )
    motion = plan_motion(plan, held.wrist, np.array([0.0, 0.0, 0.05]), frames)
    moments = np.linspace(0, frames - 1, 7).round().astype(int)
    seen = hand_points(hand, held, motion, moments)[:, ~hand.forearm]
    things = object_points(shape, object_matrices(held, motion, object_pose, moments))
    camera = CameraPlan((0, 0, 0), (np.radians(-84.0),) * 2, (np.radians(30.0),) * 2, (0.5, 0.5), np.radians(40.0))
    camera = fit_camera(camera, np.concatenate([seen, things], axis=1), 0.9)
    look = Look(
        skin=Surface((0.62, 0.32, 0.21), (0.70, 0.37, 0.26), "speckle", 90.0, 0.05, 0.45, texture_space="Generated"),
        sleeve=Surface((0.05, 0.09, 0.22), (0.09, 0.14, 0.30), "speckle", 60.0, 0.0),
        thing=Surface((0.60, 0.05, 0.04), (0.85, 0.80, 0.70), "rings", 22.0, 0.10, 0.2),
        table=Surface((0.045, 0.03, 0.022), (0.10, 0.065, 0.045), "wood", 22.0, 0.04, 0.4),
        wall=Surface((0.42, 0.47, 0.48), (0.45, 0.50, 0.51), "speckle", 6.0, 0.0),
        wall_distance=0.55,
        sun_azimuth=np.radians(-140.0),
        sun_elevation=np.radians(50.0),
        sun_size=np.radians(5.0),
        sun_strength=3.0,
        sun_color=(1.0, 0.96, 0.90),
    )
    return ScenePlan(
        "right",
        hand,
        shape,
        object_pose,
        held,
        motion,
        "lift",
        camera,
        look,
        "a right hand lifts a red mug from a wooden table",
    )


def build_demo_scene() -> DemoScene:
    """Build the demo in the current Blender scene, which should be empty."""
    return build_scene(demo_plan())
