# SPDX-License-Identifier: GPL-3.0-or-later
"""Random scenes around the demo: other hands, objects, looks, cameras and motions, all from one seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .build import CameraPlan, DemoScene, ScenePlan, build_scene
from .clutter import random_clutter
from .families import HELDOUT_FAMILIES, TRAIN_FAMILIES, make_object
from .framing import fit_camera, hand_points, object_matrices, object_points, seen_at, share_in_sight
from .grasp import CONTACT, Grasp, grasp, open_hand, side_wrist, top_wrist
from .hand import FINGERS, JOINTS, HandModel, HandShape, load_hand
from .looks import random_look
from .motion import HELDOUT_MOTIONS, TRAIN_MOTIONS, Motion, MotionPlan, plan_motion
from .objects import ObjectShape

FAMILY_WEIGHTS = {
    "mug": 0.35,
    "cup": 0.11,
    "can": 0.09,
    "jar": 0.08,
    "bottle": 0.11,
    "bowl": 0.05,
    "ball": 0.08,
    "box": 0.08,
    "book": 0.05,
}
MOTION_WEIGHTS = {
    "lift": 0.38,
    "tilt": 0.15,
    "turn": 0.12,
    "push": 0.11,
    "towards_camera": 0.12,
    "hand_passes_in_front": 0.12,
}
SPLITS = ("train", "heldout")
# What of a held-out clip was never trained on: the object's family, the motion, or both.
_HELDOUT_KINDS = {"family": 0.45, "motion": 0.35, "both": 0.2}
VIEWS = ("front", "first_person")
FIRST_PERSON_SHARE = 0.3
PUSHES = ("push", "push_in_depth")
_VERBS = {
    "lift": "lifts",
    "tilt": "tilts",
    "turn": "turns",
    "push": "pushes",
    "towards_camera": "brings closer",
    "hand_passes_in_front": "passes in front of",
    "pour": "pours from",
    "turn_over": "turns over",
    "push_in_depth": "pushes",
}
MAX_PENETRATION = 0.003
MAX_PROMPT = 60


class SceneError(RuntimeError):
    """This seed gives no usable scene; the text says what failed."""


@dataclass(frozen=True)
class _Setting:
    rng: np.random.Generator
    side: str
    hand: HandModel
    shape: ObjectShape
    camera_azimuth: float
    motion: str
    view: str


def random_plan(seed: int, frames: int = 17, attempts: int = 10, split: str = "train") -> ScenePlan:
    """The scene of a seed; SceneError when none of the attempts passes its checks.

    ``split`` is one of SPLITS: scenes of ``heldout`` have a family, a motion or both that ``train`` never has.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown; use one of {', '.join(SPLITS)}")
    problem = ""
    for attempt in range(attempts):
        try:
            return _attempt(np.random.default_rng(seed), np.random.default_rng([seed, attempt]), frames, split)
        except SceneError as error:
            problem = str(error)
    raise SceneError(f"seed {seed}: {problem} (last of {attempts} attempts)")


def random_scene(seed: int, frames: int = 17, split: str = "train") -> DemoScene:
    """Build the scene of a seed in the current Blender scene, which should be empty."""
    return build_scene(random_plan(seed, frames, split=split))


def family_and_motion(kinds: np.random.Generator, split: str) -> tuple[str, str]:
    motion = str(kinds.choice(TRAIN_MOTIONS, p=[MOTION_WEIGHTS[m] for m in TRAIN_MOTIONS]))
    family = str(kinds.choice(TRAIN_FAMILIES, p=[FAMILY_WEIGHTS[f] for f in TRAIN_FAMILIES]))
    if split == "heldout":
        new = str(kinds.choice(list(_HELDOUT_KINDS), p=list(_HELDOUT_KINDS.values())))
        other = str(kinds.choice(HELDOUT_FAMILIES)), str(kinds.choice(HELDOUT_MOTIONS))
        even = str(kinds.choice(TRAIN_FAMILIES)), str(kinds.choice(TRAIN_MOTIONS))
        family = other[0] if new in ("family", "both") else even[0]
        motion = other[1] if new in ("motion", "both") else even[1]
    if family == "bowl" and motion not in (*PUSHES, "hand_passes_in_front"):
        motion = "push" if split == "train" else "push_in_depth"  # no hand reaches round a bowl
    return family, motion


def _attempt(kinds: np.random.Generator, rng: np.random.Generator, frames: int, split: str) -> ScenePlan:
    """One try. `kinds` is the same in every try of a seed, so that hard motions are not crowded out by easy ones."""
    side = str(kinds.choice(("left", "right"), p=(0.4, 0.6)))
    family, motion_name = family_and_motion(kinds, split)
    view = "first_person" if kinds.random() < FIRST_PERSON_SHARE else "front"
    if motion_name in ("push_in_depth", "hand_passes_in_front"):
        view = "front"  # from above the arm the one is not in depth and the other hides nothing
    hand = load_hand(side, HandShape(rng.uniform(0.92, 1.06), rng.uniform(0.95, 1.06), rng.uniform(0.94, 1.08)))
    shape = make_object(family, rng)
    camera_azimuth = np.radians(-90 + rng.uniform(-22, 22))
    setting = _Setting(rng, side, hand, shape, camera_azimuth, motion_name, view)
    if motion_name == "hand_passes_in_front":
        held, pose = _beside(setting)
    else:
        held, pose = _held(setting)
    plan = _motion_plan(setting, held)
    pivot = pose[:3, 3] + [0, 0, held.wrist[2, 3]]
    motion = plan_motion(plan, held.wrist, pivot, frames)
    # A tilted forearm swings down: lift higher rather than give up.
    lowest = float(hand_points(hand, held, motion, np.array([frames - 1]))[..., 2].min())
    if lowest < 0.006 and motion_name not in (*PUSHES, "hand_passes_in_front"):
        plan = replace(plan, travel=(plan.travel[0], plan.travel[1], plan.travel[2] + min(0.012 - lowest, 0.09)))
        motion = plan_motion(plan, held.wrist, pivot, frames)
    _check_motion(setting, held, motion, pose)
    camera = _camera(setting, held, motion, pose)
    look, color, table = random_look(rng, camera_azimuth)
    article = "an" if color[0] in "aeiou" else "a"
    prompt = f"a {side} hand {_VERBS[motion_name]} {article} {color} {family}"
    place = f" {'from' if motion_name == 'lift' else 'on'} a {table} table"
    prompt += place if len(prompt + place) <= MAX_PROMPT else ""
    clutter = random_clutter(rng, camera_azimuth, look, _swept(setting, held, motion, pose))
    return ScenePlan(
        side, hand, shape, pose, held, motion, motion_name, camera, look, prompt, clutter=clutter, view=view
    )


def _swept(setting: _Setting, held: Grasp, motion: Motion, pose: np.ndarray) -> np.ndarray:
    """N x 3: where hand and object are in some frames."""
    frames = np.linspace(0, len(motion.wrist) - 1, 9).round().astype(int)
    hand = hand_points(setting.hand, held, motion, frames)
    thing = object_points(setting.shape, object_matrices(held, motion, pose, frames))
    return np.concatenate([hand.reshape(-1, 3), thing.reshape(-1, 3)])


def _held(setting: _Setting) -> tuple[Grasp, np.ndarray]:
    """A grasp (its wrist in world space) and the object's pose on the table."""
    rng, side, shape = setting.rng, setting.side, setting.shape
    mirror = 1.0 if side == "right" else -1.0
    from_top = shape.family in ("ball", "book", "box") and rng.random() < (0.5 if setting.motion not in PUSHES else 0.0)
    # The palm's place round the object as seen from the camera: 90 degrees is behind it, 0 beside it, the forearm
    # towards us.
    if setting.view == "first_person":
        place = rng.uniform(-25, 25)
    elif setting.motion == "push_in_depth":
        place = rng.uniform(70, 105) if rng.random() < 0.65 else rng.uniform(-60, -40)
    else:
        place = rng.uniform(-30, 95)
    azimuth = setting.camera_azimuth + np.pi / 2 + (np.radians(place) if side == "right" else np.pi - np.radians(place))
    pose = np.eye(4)
    turn = rng.uniform(-np.pi, np.pi)
    if shape.front is not None:
        # The gap between the thumb and the fingertips is across from the palm.
        turn = azimuth + np.pi + rng.normal(0, 0.25) - shape.front
    elif shape.flat and not from_top:
        # A flat face towards the palm.
        turn = azimuth + rng.normal(0, 0.08)
    elif from_top:
        turn = azimuth + np.pi / 2 + rng.normal(0, 0.12)
    pose[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    scale = np.linalg.norm(setting.hand.rest[JOINTS.index("middle-finger-phalanx-intermediate"), :3, 3]) / 0.138
    low, high = shape.grip
    low = max(low, 0.050 * scale)
    ahead = (0.095 + rng.uniform(-0.008, 0.006)) * scale
    if from_top:
        wrist = top_wrist(side, azimuth + np.pi / 2 * mirror, shape.height, ahead, rng.normal(0, 0.15))
    else:
        height = rng.uniform(low, max(high, low + 0.004))
        wrist = side_wrist(side, azimuth, height, ahead, rng.uniform(0.0, 0.3), rng.normal(0.04, 0.08))
    thumb = (0.2 + rng.normal(0, 0.1), -0.8 + rng.normal(0, 0.2), 1.1 + rng.normal(0, 0.12))
    start = open_hand(side, spread=rng.uniform(0.02, 0.1), curl=rng.uniform(-0.03, 0.1), thumb=thumb)
    # Keep hand and forearm clear of the table, with room for fingers that close downwards.
    lowest = float(setting.hand.pose(start, wrist)[:, 2].min())
    wrist[2, 3] += max(0.0, 0.005 - lowest) if not from_top else 0.0
    held = grasp(setting.hand, np.linalg.inv(pose) @ wrist, start, shape.distance)
    if held is None:
        raise SceneError("the hand does not reach the object")
    if held.penetration > MAX_PENETRATION:
        raise SceneError(f"the grasp penetrates by {held.penetration * 1e3:.1f} mm")
    if setting.motion not in PUSHES and (len(held.touching) < 3 or "thumb" not in held.touching):
        raise SceneError(f"only {len(held.touching)} of {len(FINGERS)} fingers touch")
    return held.in_world(pose), pose


def _beside(setting: _Setting) -> tuple[Grasp, np.ndarray]:
    """A hand that hovers between the camera and the object; "held" only in the sense that it has a pose."""
    rng, side = setting.rng, setting.side
    azimuth = setting.camera_azimuth
    away = rng.uniform(0.10, 0.15)
    pose = np.eye(4)
    turn = rng.uniform(-np.pi, np.pi)
    pose[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    # Palm down or palm to the viewer, fingers across the picture.
    pointing = azimuth + (np.pi / 2 if side == "left" else -np.pi / 2) + rng.uniform(-0.5, 0.5)
    forward = np.array([np.cos(pointing), np.sin(pointing), rng.uniform(-0.15, 0.1)])
    forward /= np.linalg.norm(forward)
    roll = rng.uniform(-0.3, 1.6)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    dorsal = np.cross(right, forward)
    wrist = np.eye(4)
    x_axis = np.cos(roll) * right + np.sin(roll) * dorsal * (1 if side == "left" else -1)
    wrist[:3, :3] = np.stack([x_axis, forward, np.cross(x_axis, forward)], axis=1)
    centre = away * np.array([np.cos(azimuth), np.sin(azimuth), 0]) + [0, 0, rng.uniform(0.06, 0.10)]
    wrist[:3, 3] = centre - forward * 0.09
    start = open_hand(
        side, spread=rng.uniform(0.02, 0.14), curl=rng.uniform(0.0, 0.4), thumb=(0.1, 0.0, rng.uniform(-0.2, 0.8))
    )
    curled = start.copy()
    bending = [joint for joint, name in enumerate(JOINTS) if "finger-phalanx" in name]
    curled[bending, 0] -= rng.uniform(0.0, 0.7)
    return Grasp(wrist, np.stack([start, curled]), (), 0.0, 0.0), pose


def _motion_plan(setting: _Setting, held: Grasp) -> MotionPlan:
    rng, kind = setting.rng, setting.motion
    normal, forward = held.wrist[:3, 2], held.wrist[:3, 1]
    right = np.array([-np.sin(setting.camera_azimuth), np.cos(setting.camera_azimuth), 0.0])
    towards = np.array([np.cos(setting.camera_azimuth), np.sin(setting.camera_azimuth), 0.0])
    if kind == "hand_passes_in_front":
        travel = (0.0, 0.0, float(rng.uniform(-0.03, 0.05))) + forward * rng.uniform(0.13, 0.22) * rng.choice(
            (1, 1, -1)
        )
        return MotionPlan(
            kind,
            0,
            0,
            0,
            (0, 0, 0),
            float(rng.normal(0, 0.35)),
            tuple(travel),
            begin=float(rng.uniform(0.35, 0.65)),
            closing=1.0,
        )
    start = rng.random()
    if kind in PUSHES:
        approach = rng.uniform(0.2, 0.4) if start < 0.75 else 0.0
        close = approach
        closing = float(rng.uniform(0.0, 0.35))
        flat = -normal * [1, 1, 0]
        travel = flat / np.linalg.norm(flat) * rng.uniform(0.07, 0.13) * (1.3 if kind == "push_in_depth" else 1.0)
        angle, axis = float(rng.normal(0, 0.15)), (0.0, 0.0, 1.0)
    else:
        full = start < 0.62
        approach = rng.uniform(0.28, 0.42) if full else 0.0
        close = approach + rng.uniform(0.14, 0.22) if full else 0.0
        closing, axis, angle = 1.0, tuple(rng.normal(size=3)), float(rng.normal(0, 0.15))
        up, side_step, near = rng.uniform(0.05, 0.11), rng.normal(0, 0.035), rng.normal(0, 0.02)
        if kind == "tilt":
            axis, angle = (
                tuple(towards * 1.0 + right * rng.normal(0, 0.35)),
                float(rng.choice((-1, 1)) * rng.uniform(0.55, 1.15)),
            )
            up = rng.uniform(0.05, 0.09)
        elif kind in ("pour", "turn_over"):
            # About the forearm, thumb inwards, as a wrist turns.
            inwards = 1.0 if setting.side == "left" else -1.0
            axis = tuple(forward * [1.0, 1.0, 0.15])
            angle = inwards * float(rng.uniform(1.2, 1.9) if kind == "pour" else rng.uniform(2.3, 3.0))
            up = rng.uniform(0.07, 0.12)
        elif kind == "turn":
            axis, angle, up = (
                (0.0, 0.0, 1.0),
                float(rng.choice((-1, 1)) * rng.uniform(0.6, 1.2)),
                rng.uniform(0.0, 0.05),
            )
        elif kind == "towards_camera":
            near, up = rng.uniform(0.08, 0.15), rng.uniform(0.03, 0.08)
        travel = right * side_step + towards * near + np.array([0, 0, up])
    begin = 0.0 if approach > 0 else float(rng.choice((0.0, rng.uniform(0.1, 0.5))))
    if begin == 0.0 and approach == 0.0:
        begin = 0.02
    return MotionPlan(
        kind,
        float(approach),
        float(close),
        float(close + (0.04 if approach > 0 else 0.0)),
        (float(rng.uniform(0.06, 0.11)), float(rng.uniform(0.0, 0.06)), float(rng.uniform(0.0, 0.05))),
        float(rng.normal(0, 0.25)),
        tuple(float(x) for x in travel),
        angle,
        tuple(float(x) for x in np.array(axis) / np.linalg.norm(axis)),
        begin,
        closing,
    )


def _check_motion(setting: _Setting, held: Grasp, motion: Motion, pose: np.ndarray) -> None:
    """No frame may put the hand into the object or into the table."""
    frames = np.arange(0, len(motion.wrist), max(1, len(motion.wrist) // 17))
    points = hand_points(setting.hand, held, motion, frames)
    if points[..., 2].min() < 0.0005:
        raise SceneError("the hand or its forearm goes into the table")
    poses = object_matrices(held, motion, pose, frames)
    lowest = object_points(setting.shape, poses)[..., 2].min()
    if lowest < -0.002:
        raise SceneError("the object goes into the table")
    local = np.einsum("tba,tvb->tva", poses[:, :3, :3], points - poses[:, None, :3, 3])
    near = (np.abs(local[..., :2]) < 0.13).all(axis=-1) & (local[..., 2] < setting.shape.height + 0.01)
    depth = setting.shape.distance(local[near]) if near.any() else np.zeros(1)
    if depth.min() < -MAX_PENETRATION:
        raise SceneError(f"the moving hand penetrates the object by {-depth.min() * 1e3:.1f} mm")
    if setting.motion in PUSHES and depth.min() > CONTACT:
        raise SceneError("the pushing hand does not touch the object")


def _camera(setting: _Setting, held: Grasp, motion: Motion, pose: np.ndarray) -> CameraPlan:
    rng = setting.rng
    moments = np.linspace(0, len(motion.wrist) - 1, 7).round().astype(int)
    hand = hand_points(setting.hand, held, motion, moments)[:, ~setting.hand.forearm]
    thing = object_points(setting.shape, object_matrices(held, motion, pose, moments))
    moves = rng.random() < 0.35
    first_person = setting.view == "first_person"
    elevation = np.radians(rng.uniform(34, 58) if first_person else rng.uniform(14, 42))
    orbit, rise, dolly = (rng.normal(0, s) if moves else 0.0 for s in (0.10, 0.05, 0.07))
    azimuth = setting.camera_azimuth
    camera = CameraPlan(
        (0.0, 0.0, 0.05),
        (azimuth - orbit / 2, azimuth + orbit / 2),
        (max(elevation - rise / 2, 0.18), max(elevation + rise / 2, 0.18)),
        (0.5, 0.5 * (1 + float(np.clip(dolly, -0.2, 0.2)))),
        float(np.radians(rng.uniform(48, 62) if first_person else rng.uniform(34, 48))),
    )
    camera = fit_camera(camera, np.concatenate([hand, thing], axis=1), rng.uniform(0.84, 1.0))
    for name, points, least in (("hand", hand, 0.35), ("object", thing, 0.8)):
        seen = seen_at(points[0], camera, 0.0, 1.5)
        if (np.abs(seen) < 1).all(axis=-1).mean() < least:
            raise SceneError(f"the {name} is hardly in the first picture")
    eye = camera.eye(0.0)
    if np.linalg.norm(hand - eye, axis=-1).min() < 0.12:
        raise SceneError("the hand comes too close to the camera")
    for moment, least in ((0, 0.4), (len(moments) - 1, 0.15)):
        whole = hand_points(setting.hand, held, motion, moments[[moment]])[0]
        progress = moment / (len(moments) - 1)
        if share_in_sight(camera.eye(progress), thing[moment, ::5], whole, setting.hand.triangles) < least:
            raise SceneError("the hand hides the object")
    return camera
