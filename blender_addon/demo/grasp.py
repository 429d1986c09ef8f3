# SPDX-License-Identifier: GPL-3.0-or-later
"""Closes a hand round an object: no finger enters it, as many as possible touch it.

The wrist comes in along the palm's normal until something touches, then every finger closes on its own. Links that
touch stop, the links beyond them go on (the "auto-grasp" of grasp planners). A closing finger stops at its *first*
contact on the way, so every pose before it is free of contact as well: the same path, played slowly, is the animation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .hand import FINGERS, JOINTS, HandModel, finger_chain
from .objects import Distance

CONTACT = 0.003  # metres: a surface closer than this is touched
REST_DEPTH = 0.0006  # how far skin is pressed in at a contact; skin gives way, and it hides the facets of both meshes
STEPS = 28


@dataclass(frozen=True)
class Grasp:
    """wrist 4×4 (hand space -> object space), path S×J×3 joint angles from open to closed, and how good it is.

    touching: finger names within CONTACT of the surface; penetration: deepest vertex in metres (0 or more); opposition:
    1 when the thumb presses exactly against the fingers, -1 when all press from one side.
    """

    wrist: np.ndarray
    path: np.ndarray
    touching: tuple[str, ...]
    penetration: float
    opposition: float

    def angles(self, closing: float) -> np.ndarray:
        """Joint angles J×3 at closing 0 (open) .. 1 (closed)."""
        place = float(np.clip(closing, 0, 1)) * (len(self.path) - 1)
        low = min(int(place), len(self.path) - 2)
        return self.path[low] + (place - low) * (self.path[low + 1] - self.path[low])

    def in_world(self, object_pose: np.ndarray) -> Grasp:
        """The same grasp with the wrist in the space that object_pose 4×4 leads to."""
        return replace(self, wrist=object_pose @ self.wrist)


def open_hand(
    side: str, spread: float = 0.06, curl: float = 0.02, thumb: tuple[float, float, float] = (0.2, -0.8, 1.1)
) -> np.ndarray:
    """Joint angles J×3 of a hand ready to grasp: fingers a little curled and spread, the thumb turned to face them.

    thumb: extension, twist, and swing in front of the palm (positive) of its metacarpal; mirrored for the left hand.
    """
    angles = np.zeros((len(JOINTS), 3))
    mirror = 1.0 if side == "right" else -1.0
    for finger, sideways in zip(FINGERS[1:], (1.0, 0.25, -0.5, -1.3), strict=True):
        proximal, intermediate, distal = (JOINTS.index(name) for name in finger_chain(finger)[1:4])
        angles[proximal] = (-curl, 0, mirror * spread * sideways)
        angles[intermediate, 0], angles[distal, 0] = -1.3 * curl, -0.7 * curl
    metacarpal = JOINTS.index("thumb-metacarpal")
    angles[metacarpal] = (thumb[0], mirror * thumb[1], mirror * thumb[2])
    return angles


@dataclass(frozen=True)
class _Finger:
    joints: tuple[int, ...]  # flexing joints, from the palm outwards
    rates: np.ndarray  # how fast each flexes relative to the first
    limits: np.ndarray  # most flexion, radians
    vertices: np.ndarray  # indices of every vertex this finger moves
    link: np.ndarray  # per vertex: which of the joints carries it (0 the innermost)


def fingers_of(model: HandModel) -> tuple[_Finger, ...]:
    """The five fingers of a model in the order of FINGERS."""
    return model.once("fingers", lambda: _find_fingers(model))


def _find_fingers(model: HandModel) -> tuple[_Finger, ...]:
    fingers = []
    for name in FINGERS:
        chain = [JOINTS.index(n) for n in finger_chain(name)]
        if name == "thumb":
            joints, rates, limits = chain[0:3], np.array([0.55, 0.8, 1.0]), np.array([0.55, 0.9, 1.2])
        else:
            joints, rates, limits = chain[1:4], np.array([1.0, 1.0, 0.65]), np.array([1.6, 1.85, 1.25])
        carried = model.weights[:, joints + [chain[-1]]]
        moved = np.flatnonzero(carried.sum(axis=1) > 0.02)
        # A vertex belongs to the outermost joint that moves it noticeably, so that its contact stops everything that
        # moves it.
        link = np.full(len(moved), 0)
        for order, joint in enumerate([*joints, chain[-1]]):
            link[model.weights[moved, joint] > 0.3] = min(order, len(joints) - 1)
        fingers.append(_Finger(tuple(joints), rates, limits, moved, link))
    return tuple(fingers)


def close_hand(
    model: HandModel, wrist: np.ndarray, start: np.ndarray, distance: Distance, samples: int = 13
) -> np.ndarray:
    """Flex every finger from `start` J×3 until it touches; returns the path samples×J×3."""
    paths = [start]
    per_finger = [(finger, _close_finger(model, finger, wrist, start, distance)) for finger in fingers_of(model)]
    for step in range(1, samples):
        angles = start.copy()
        for finger, stages in per_finger:
            # Every stage takes a share of the time equal to its share of the finger's movement.
            lengths = np.abs(np.diff(stages, axis=0)).sum(axis=1)
            clock = np.concatenate([[0.0], np.cumsum(lengths)])
            now = clock[-1] * step / (samples - 1)
            for column, joint in enumerate(finger.joints):
                angles[joint, 0] = np.interp(now, clock, stages[:, column]) if clock[-1] > 0 else stages[0, column]
        paths.append(angles)
    return np.stack(paths)


def _close_finger(
    model: HandModel, finger: _Finger, wrist: np.ndarray, start: np.ndarray, distance: Distance
) -> np.ndarray:
    """Flexion of the finger's joints at the end of every stage: stages×3, the first row is the start."""
    joints = list(finger.joints)
    now = start[joints, 0].copy()
    stages = [now.copy()]
    free = np.ones(len(joints), bool)

    def clearance(flexions: np.ndarray) -> np.ndarray:
        """K×3 flexions -> K×(vertices of the finger) distances."""
        angles = np.repeat(start[None], len(flexions), axis=0)
        angles[:, joints, 0] = flexions
        return distance(model.pose(angles, wrist, finger.vertices))

    for _ in range(len(joints)):
        room = np.where(free, finger.limits + now, 0.0)
        rate = np.where(free, finger.rates, 0.0)
        if not (room > 1e-4).any():
            break
        span = float((room[free] / rate[free]).max())

        def at(
            steps: np.ndarray, now: np.ndarray = now, rate: np.ndarray = rate, room: np.ndarray = room
        ) -> np.ndarray:
            return now - np.minimum(steps[:, None] * rate, np.maximum(room, 0))

        grid = np.linspace(0, span, STEPS)
        depth = clearance(at(grid))
        already = depth[0]
        # Vertices that were in contact when this stage began (the links that stopped) do not stop the others again.
        limit = np.minimum(-REST_DEPTH, already - 0.0004)
        hit = (depth < limit).any(axis=1)
        if not hit.any():
            now = at(grid[-1:])[0]
            stages.append(now.copy())
            break
        first = int(hit.argmax())
        low, high = (grid[first - 1], grid[first]) if first else (0.0, 0.0)
        for _ in range(2):
            fine = np.linspace(low, high, 7)
            inside = (clearance(at(fine)) < limit).any(axis=1)
            inside[-1] = True
            index = int(inside.argmax())
            low, high = fine[max(index - 1, 0)], fine[index]
        touching = (clearance(at(np.array([high])))[0] < limit) if high > 0 else (depth[0] < limit)
        now = at(np.array([low]))[0]
        stages.append(now.copy())
        outermost = int(finger.link[touching].max()) if touching.any() else len(joints) - 1
        free &= np.arange(len(joints)) > outermost
        if not free.any():
            break
    return np.stack(stages)


def approach(
    model: HandModel, wrist: np.ndarray, angles: np.ndarray, distance: Distance, reach: float = 0.14
) -> np.ndarray | None:
    """Move the wrist along the palm's normal, from `reach` away, until the open hand touches; None if it never does."""
    points = model.pose(angles, wrist)
    normal = wrist[:3, 2]
    steps = np.linspace(reach, -0.05, 64)
    hand = np.flatnonzero(~model.forearm)[::2]
    clear = np.array([distance(points[hand] + normal * s).min() for s in steps])
    hit = clear < 0.0
    if hit[0] or not hit.any():
        return None
    first = int(hit.argmax())
    low, high = steps[first - 1], steps[first]
    for _ in range(6):
        middle = (low + high) / 2
        low, high = (low, middle) if distance(points + normal * middle).min() < -REST_DEPTH else (middle, high)
    placed = wrist.copy()
    placed[:3, 3] += normal * low
    return placed


def grasp(
    model: HandModel, wrist: np.ndarray, start: np.ndarray, distance: Distance, reach: float = 0.14
) -> Grasp | None:
    """Approach from `reach` and close. `wrist` 4×4 is in object space; it is moved along the palm's normal only."""
    placed = approach(model, wrist, start, distance, reach)
    return None if placed is None else close_round(model, placed, start, distance)


def close_round(model: HandModel, placed: np.ndarray, start: np.ndarray, distance: Distance) -> Grasp:
    """Close the fingers of a hand whose wrist 4×4 stays where it is."""
    path = close_hand(model, placed, start, distance)
    points = model.pose(path[-1], placed)
    depth = distance(points)
    touching, normals = [], {}
    for name, finger in zip(FINGERS, fingers_of(model), strict=True):
        outer = finger.vertices[finger.link >= 1]
        near = outer[depth[outer] < CONTACT]
        if len(near):
            touching.append(name)
            normals[name] = _gradient(distance, points[near].mean(axis=0))
    opposition = 0.0
    if "thumb" in normals and len(normals) > 1:
        others = np.mean([n for k, n in normals.items() if k != "thumb"], axis=0)
        opposition = float(-normals["thumb"] @ others / max(np.linalg.norm(others), 1e-9))
    return Grasp(placed, path, tuple(touching), float(max(0.0, -depth.min())), opposition)


def _gradient(distance: Distance, point: np.ndarray) -> np.ndarray:
    step = 1e-4 * np.eye(3)
    slope = distance(point + step) - distance(point - step)
    return slope / max(float(np.linalg.norm(slope)), 1e-9)


def side_wrist(
    side: str, azimuth: float, height: float, ahead: float, elevation: float = 0.0, lean: float = 0.0
) -> np.ndarray:
    """Wrist 4×4 for a hand, thumb up, whose palm faces the z axis from the direction `azimuth` (radians).

    height: of the hand's centre line; ahead: how far the axis lies in front of the wrist along the fingers;
    elevation: raises the elbow, a turn about the palm's normal; lean: a turn about the fingers.
    """
    out = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
    up = np.array([0.0, 0.0, 1.0])
    thumb = 1.0 if side == "left" else -1.0
    x_axis = thumb * up
    y_axis = np.cross(out, x_axis)
    return _turned(
        np.stack([x_axis, y_axis, out], axis=1),
        thumb * elevation,
        thumb * lean,
        np.array([0.0, 0.0, height]),
        out,
        ahead,
    )


def top_wrist(side: str, azimuth: float, height: float, ahead: float, lean: float = 0.0) -> np.ndarray:
    """Wrist 4×4 for a palm that faces down over the z axis, fingers towards `azimuth`; lean: a turn about them."""
    y_axis = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
    out = np.array([0.0, 0.0, 1.0])
    return _turned(
        np.stack([np.cross(y_axis, out), y_axis, out], axis=1), 0.0, lean, np.array([0.0, 0.0, height]), out, ahead
    )


def _turned(
    axes: np.ndarray, about_normal: float, about_fingers: float, target: np.ndarray, out: np.ndarray, ahead: float
) -> np.ndarray:
    """Turn the axes locally, then place the wrist: `target` is `ahead` along the fingers and 5 cm before the palm."""
    cz, sz, cy, sy = np.cos(about_normal), np.sin(about_normal), np.cos(about_fingers), np.sin(about_fingers)
    turn = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]) @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    wrist = np.eye(4)
    wrist[:3, :3] = axes @ turn
    wrist[:3, 3] = target - wrist[:3, 1] * ahead + wrist[:3, 2] * 0.05
    return wrist
